"""Reads and writes our dataclasses as JSON-compatible data, checked by type and without unknown members."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.strategies import configure_tagged_union

from cdk_inference.model.recipe.drivers import Beam, Greedy
from cdk_inference.model.recipe.evaluation import Evaluation
from cdk_inference.model.recipe.graphs import Driver, ModelSource
from cdk_inference.model.recipe.heads import Head, MaskHead
from cdk_inference.model.recipe.precision import GraphPrecision, Pinned, Precision
from cdk_inference.model.recipe.sampling import Sampling
from cdk_inference.model.recipe.sources import Download, File, HubFile, PackageFile, Source
from cdk_inference.model.recipe.tensors import TensorSpec

T = TypeVar("T")


def structure(data: object, kind: type[T]) -> T:
    """Return an object of a dataclass from the data that `unstructure` made of one.

    Raises
    ------
    ValueError
        Naming the members that are missing, unknown or of the wrong kind.
    """
    try:
        return _converter.structure(data, kind)
    except cattrs.BaseValidationError as error:
        raise ValueError("; ".join(cattrs.transform_error(error))) from error


def unstructure(value: object, kind: Any = None) -> Any:  # noqa: ANN401 - JSON-compatible data
    """Return a dataclass as JSON-compatible data; give the union if the value is a member of one."""
    return _converter.unstructure(value, unstructure_as=kind)


def _kind(cls: type) -> str:
    name: str = cls.__dataclass_fields__["kind"].default  # type: ignore[attr-defined]
    return name


def _number(value: object, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"expected a finite number, got {value!r}")
    return float(value)


def _integer(value: object, _: type) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value


def _truth(value: object, _: type) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {value!r}")
    return value


def _text(value: object, _: type) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")
    return value


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(bool, _truth)  # after int, of which it is one
    converter.register_structure_hook(str, _text)
    tokens = int | tuple[int, ...]
    converter.register_structure_hook(tokens, lambda value, _: converter.structure(value, tuple[int, ...]))
    converter.register_unstructure_hook(tokens, list)
    # Sizes are numbers and symbolic sizes are strings: both are what they are.
    converter.register_structure_hook(str | int, lambda value, _: value)
    converter.register_structure_hook(float | str, lambda value, _: value)  # as those that hide features
    placed = Download | HubFile | PackageFile
    configure_tagged_union(placed, converter, tag_generator=_kind, tag_name="kind")

    def structure_file(value: object, _: object) -> Any:  # noqa: ANN401 - a File
        return value if isinstance(value, str) else converter.structure(value, placed)  # type: ignore[arg-type]

    def unstructure_file(value: object) -> Any:  # noqa: ANN401 - a text, or a dict
        return value if isinstance(value, str) else converter.unstructure(value, unstructure_as=placed)

    for union in (File, File | None):
        converter.register_structure_hook(union, lambda v, t: None if v is None else structure_file(v, t))
        converter.register_unstructure_hook(union, lambda v: None if v is None else unstructure_file(v))
    # Locks of recipes from before there were these fields stay as they are, and so do manifests.
    new = override(omit_if_default=True)
    converter.register_unstructure_hook(TensorSpec, make_dict_unstructure_fn(TensorSpec, converter, nan=new))
    converter.register_unstructure_hook(MaskHead, make_dict_unstructure_fn(MaskHead, converter, threshold=new))
    end = override(
        unstruct_hook=lambda value: value if isinstance(value, int) else list(value),
        struct_hook=lambda value, _: value if isinstance(value, int) else converter.structure(value, tuple[int, ...]),
    )
    for driver in (Greedy, Beam, Sampling):
        converter.register_structure_hook(driver, make_dict_structure_fn(driver, converter, end=end))
        written = make_dict_unstructure_fn(driver, converter, end=end, prompt=new, mask=new, limit=new)
        converter.register_unstructure_hook(driver, written)
    # These contain files, so they come last.
    for members in (Source, Driver, ModelSource, GraphPrecision, Precision, Pinned, Head):
        configure_tagged_union(members, converter, tag_generator=_kind, tag_name="kind")
    converter.register_structure_hook(
        Head | None,
        lambda value, _: None if value is None else converter.structure(value, Head),  # type: ignore[arg-type]
    )
    converter.register_unstructure_hook(
        Head | None, lambda value: None if value is None else converter.unstructure(value, unstructure_as=Head)
    )
    evaluation = make_dict_unstructure_fn(Evaluation, converter, head=new, vocabulary=new, blank=new, sample_rate=new)
    converter.register_unstructure_hook(Evaluation, evaluation)
    return converter


_converter = _make_converter()
