"""Tensors without numpy: in memory, in objects and on a connection."""
