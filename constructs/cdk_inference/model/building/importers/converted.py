"""Mends graphs of classic models as their converters write them: maps of probabilities, and locales."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto, helper

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph.graph import all_nodes

if TYPE_CHECKING:
    import onnx

LOCALE = "C.UTF-8"
"""The locale that functions have. onnxruntime's own default, en_US.UTF-8, they lack; both change case alike."""

OPSET = 17
"""The operator set that graphs get: quantization and the runtimes handle graphs from here on alike."""

_ZIP_MAP = ("ai.onnx.ml", "ZipMap")
_TREES = ("ai.onnx.ml", "TreeEnsembleClassifier")
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
        If the graph changes the case of texts by the rules of a language, or was converted from trees that its
        converter does not know.
    """
    _take_off_maps(model)
    for node in all_nodes(model):
        if (node.domain, node.op_type) == _TREES:
            _check_trees(node, subject)
        if node.op_type == "StringNormalizer" and node.domain in ("", "ai.onnx"):
            _set_locale(node, subject)


def _take_off_maps(model: onnx.ModelProto) -> None:
    """Return the probabilities of a classifier as the tensor that its ZipMap takes, by the name of the output.

    CatBoost writes a ZipMap always, and scikit-learn's converter by default.
    """
    outputs = {value.name: value for value in model.graph.output}
    for node in [node for node in model.graph.node if (node.domain, node.op_type) == _ZIP_MAP]:
        if len(node.input) != 1 or len(node.output) != 1 or node.output[0] not in outputs:
            continue
        model.graph.node.remove(node)
        model.graph.node.append(helper.make_node("Identity", node.input, node.output))
        if all(opset.domain not in ("", "ai.onnx") for opset in model.opset_import):
            model.opset_import.append(helper.make_opsetid("", OPSET))
        (name,) = node.output
        outputs[name].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, _labels(node) or None]))


def _check_trees(node: onnx.NodeProto, subject: str) -> None:
    """Refuse trees with numbers that belong to no class, of which onnxruntime gives no reason that helps.

    CatBoost writes regressors of several numbers so, and onnxmltools XGBoost's classifiers of several labels.
    """
    labels = _labels(node)
    values = max((len(a.floats) for a in node.attribute if a.name == "base_values"), default=0)
    if not labels or labels < values:
        raise ModelBuildError(
            f"{subject} must name the classes of its trees, {max(values, 1)} or more, got {labels}; its converter does "
            "not know models of several labels or numbers, so convert one estimator for each"
        )


def _labels(node: onnx.NodeProto) -> int:
    """Return how many classes an operator names."""
    return max((len(a.ints) or len(a.strings) for a in node.attribute if a.name.startswith("classlabels")), default=0)


def _set_locale(node: onnx.NodeProto, subject: str) -> None:
    found = next((a for a in node.attribute if a.name == "locale"), None)
    locale = "" if found is None else found.s.decode(errors="replace")
    if locale not in _ALIKE:
        raise ModelBuildError(
            f"{subject} must change the case of texts without a locale, got '{locale}', which functions lack; export "
            "it again without a locale"
        )
    if found is not None:
        node.attribute.remove(found)
    node.attribute.append(helper.make_attribute("locale", LOCALE))
