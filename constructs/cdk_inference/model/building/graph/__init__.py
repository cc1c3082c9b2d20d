"""Reads, changes and simplifies ONNX graphs."""
