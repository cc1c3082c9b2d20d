"""Fuses norms by the root of the mean square, which onnxruntime does for other spellings than that of PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from cdk_inference.model.building.graph.lookups import attribute

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cdk_inference.model.building.graph.lookups import Lookups


def fused_norms(found: Lookups) -> dict[str, Iterable[onnx.NodeProto]]:
    """Return one operator for each division by the root of the mean square, by the name of its last node."""
    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for node in found.graph.node:
        square = found.maker(node.input[0], "Pow") if node.op_type == "ReduceMean" else None
        if square is None or found.number(square.input[1]) != 2:  # noqa: PLR2004 - a square
            continue
        add = found.user(node, "Add")
        root = found.user(add, "Sqrt")
        division = found.user(root, "Reciprocal")
        normed = found.user(division, "Mul")
        scaled = found.user(normed, "Mul")
        if add is None or normed is None or scaled is None or square.input[0] not in normed.input:
            continue
        epsilon = found.number(add.input[1])
        scale = next((n for n in scaled.input if n in found.known and len(found.known[n].dims) == 1), None)
        last_axis = attribute(node, "axes", None) == [-1] or found.numbers(*node.input[1:2]) == [-1]
        if epsilon is None or scale is None or not last_axis or not attribute(node, "keepdims", 1):
            continue
        replaced[scaled.name] = [
            onnx.helper.make_node(
                "SimplifiedLayerNormalization",
                [square.input[0], scale],
                [scaled.output[0]],
                name=f"{scaled.name}_norm",
                axis=-1,
                epsilon=epsilon,
                stash_type=1,
            )
        ]
    return replaced
