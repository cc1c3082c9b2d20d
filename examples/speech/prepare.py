"""Writes model.onnx: the network of silero-vad, with the batch first in its state too."""

from importlib.metadata import distribution

import onnx

PACKAGE, FILE = "silero-vad", "silero_vad/data/silero_vad_openvino_16k.onnx"


def batch_first(model):
    """Return the graph for batches of any size, whose state is (batch, 2, 128) and not (2, 1, 128)."""
    graph = model.graph
    for value in (*graph.input, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        if value.name.startswith("state"):
            sizes[0].dim_value, sizes[1].dim_value = sizes[1].dim_value, sizes[0].dim_value
        sizes[0].dim_param = "batch"  # the file says 1, but nothing in it depends on that
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}_inner" if name in ("state", "stateN") else name for name in names]
    graph.node.insert(0, onnx.helper.make_node("Transpose", ["state"], ["state_inner"], perm=[1, 0, 2]))
    graph.node.append(onnx.helper.make_node("Transpose", ["stateN_inner"], ["stateN"], perm=[1, 0, 2]))
    return model


if __name__ == "__main__":
    onnx.save(batch_first(onnx.load(distribution(PACKAGE).locate_file(FILE))), "model.onnx")
