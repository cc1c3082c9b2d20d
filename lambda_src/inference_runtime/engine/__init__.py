"""Runs a model on ONNX Runtime, through its C API or its Python package."""
