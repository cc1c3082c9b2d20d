"""Code that the other folders share. Nothing here imports from them."""
