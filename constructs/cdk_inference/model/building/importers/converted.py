"""Mends graphs of classic models as their converters write them: maps of probabilities, and locales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph.graph import all_nodes

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCALE = "C.UTF-8"
"""The locale that functions have. onnxruntime's own default, en_US.UTF-8, they lack; both change case alike."""

_ALIKE = ("", "C", "C.UTF-8", "en_US", "en_US.UTF-8")


def mend(model: onnx.ModelProto, subject: str) -> None:
    """Mend a graph in place.

    Parameters
    ----------
    model
        The graph.
    subject
        Names the model in messages.

    Raises
    ------
    ModelBuildError
        If the graph changes the case of texts by the rules of a language.
    """
    _take_off_maps(model.graph)
    for node in all_nodes(model):
        if node.op_type == "StringNormalizer" and node.domain in ("", "ai.onnx"):
            _set_locale(node, subject)


def _take_off_maps(graph: onnx.GraphProto) -> None:
    """Return the probabilities of a classifier as the tensor that its ZipMap takes, by the name of the output.

    CatBoost writes a ZipMap always, and scikit-learn's converter by default.
    """
    outputs = {value.name: value for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "ZipMap"]:
        (tensor,), (name,) = node.input, node.output
        if name not in outputs or tensor in outputs or all(tensor not in other.output for other in graph.node):
            continue
        graph.node.remove(node)
        for other in graph.node:
            _rename(other, {tensor: name})
        labels = next((len(a.ints) or len(a.strings) for a in node.attribute if a.name.startswith("classlabels")), None)
        outputs[name].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, labels]))


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]


def _set_locale(node: onnx.NodeProto, subject: str) -> None:
    found = next((a for a in node.attribute if a.name == "locale"), None)
    locale = "" if found is None else found.s.decode()
    if locale not in _ALIKE:
        raise ModelBuildError(
            f"{subject} must change the case of texts without a locale, got '{locale}', which functions lack; export "
            "it again without a locale"
        )
    if found is not None:
        node.attribute.remove(found)
    node.attribute.append(helper.make_attribute("locale", LOCALE))
