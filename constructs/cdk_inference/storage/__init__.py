"""Tables, buckets and keys, their encryption, and what happens to them when a stack is deleted."""
