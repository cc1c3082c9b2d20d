"""Turns the source of a recipe into a float ONNX model."""
