"""The files of a model, in the package or downloaded."""

MODEL_FILE = "model.onnx"
