"""The files of a model, in the package or downloaded."""

MODEL_FILE = "model.onnx"
"""The graph of a model that has one."""

DRIVER_FILE = "driver.json"
"""The file that a model of several graphs has instead. It names them, and says how they run together."""
