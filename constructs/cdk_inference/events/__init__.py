"""Events on a bus for what a pipeline does, and the patterns that pick them."""
