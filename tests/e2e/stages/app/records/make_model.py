"""Writes model.onnx: run it in this folder."""

from onnx import TensorProto, helper, save

TREE = {
    "n_targets": 1,
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [0, 0, 0],
    "nodes_values": [30.0, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
    "nodes_missing_value_tracks_true": [1, 0, 0],
    "nodes_hitrates": [1.0, 1.0, 1.0],
    "target_ids": [0, 0],
    "target_nodeids": [1, 2],
    "target_treeids": [0, 0],
    "target_weights": [10.0, 20.0],
}
"""10 up to an age of 30, and if it is missing; otherwise 20."""

ML = "ai.onnx.ml"
nodes = [
    helper.make_node("TreeEnsembleRegressor", ["age"], ["tree"], domain=ML, **TREE),
    helper.make_node(
        "LabelEncoder",
        ["town"],
        ["place"],
        domain=ML,
        keys_strings=["Oslo", "Köln"],
        values_floats=[1.0, 2.0],
        default_float=-1.0,
    ),
    helper.make_node("Cast", ["size"], ["number"], to=TensorProto.FLOAT),
    helper.make_node("Sum", ["tree", "place", "number"], ["score"]),
]
inputs = {"age": TensorProto.FLOAT, "town": TensorProto.STRING, "size": TensorProto.INT64}
graph = helper.make_graph(
    nodes,
    "records",
    [helper.make_tensor_value_info(name, kind, ["batch", 1]) for name, kind in inputs.items()],
    [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
)
opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
save(helper.make_model(graph, opset_imports=opsets, ir_version=8), "model.onnx")
