"""Reads a cloud assembly: its templates, its models, and what is known of its costs."""

from __future__ import annotations

import contextlib
import json
import zipfile
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from cdk_inference.common.json_values import mapping
from cdk_inference.costs.recorded import METADATA_KEY as COSTS_KEY
from cdk_inference.review.errors import ReviewError
from cdk_inference.review.template import Resource, Template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MODEL_KEY = "cdk-inference:model"
"""As `cdk_inference.model.records.manifest` has it, which is another room's."""

_OPTIONS = ("STAGE_OPTIONS", "POSTPROCESS_OPTIONS")  # of a function for each stage, and of one for all
_OPTIONS_FILES = tuple(f"{name}_FILE" for name in _OPTIONS)
_MOST_LABEL_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Assembly:
    """An app, as reviews compare it: its templates, and the facts next to them.

    Parameters
    ----------
    name
        For people, such as the folder or the git ref.
    templates
        By the path of the stack's construct, in the order of the assembly.
    manifests
        The manifests of models, with what was measured, by version.
    costs
        By the path of the pipeline: its shape and options, as `cdk_inference.costs.recorded` wrote them.
    labels
        By the paths of stack and function: the names of the classes, as far as they are known.
    """

    name: str
    templates: dict[str, Template]
    manifests: dict[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    costs: dict[str, str] = field(default_factory=dict, repr=False)
    labels: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict, repr=False)


def read_assembly(folder: Path, name: str | None = None) -> Assembly:
    """Read a cloud assembly.

    Parameters
    ----------
    folder
        The folder, with its ``manifest.json``.
    name
        The name for people, by default the folder.

    Raises
    ------
    ReviewError
        If the folder is not a cloud assembly, or a file of it is missing or damaged.
    """
    if not (folder / "manifest.json").is_file():
        raise ReviewError(f"{folder} must be a cloud assembly, got no manifest.json in it; run cdk synth first")
    assembly = Assembly(name or str(folder), {})
    try:
        _read(folder, assembly)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReviewError(f"{folder} cannot be read: {error!r}; run cdk synth again") from error
    return assembly


def _read(folder: Path, into: Assembly) -> None:
    for artifact_id, artifact in mapping(_json(folder / "manifest.json").get("artifacts")).items():
        properties = mapping(artifact.get("properties"))
        if artifact.get("type") == "cdk:cloud-assembly":
            _read(folder / str(properties["directoryName"]), into)
        elif artifact.get("type") == "aws:cloudformation:stack":
            account, _, region = str(artifact.get("environment", "")).removeprefix("aws://").partition("/")
            template = Template(
                str(properties.get("stackName", artifact_id)),
                str(artifact.get("displayName", artifact_id)),
                _json(folder / str(properties["templateFile"])),
                None if region in ("", "unknown-region") else region,
                account=None if account in ("", "unknown-account") else account,
            )
            for each in _with_nested(folder, template):
                into.templates[each.path] = each
                into.costs.update(recorded_costs(each))
                into.labels.update(_labels(folder, each))
            _read_metadata(folder, artifact, into)


def recorded_costs(template: Template) -> dict[str, str]:
    """Return what a template has on the costs of its pipelines, by their paths."""
    found = mapping(mapping(template.body.get("Metadata")).get(COSTS_KEY))
    return {path: text for path, text in found.items() if isinstance(text, str)}


def _with_nested(folder: Path, template: Template) -> Iterator[Template]:
    yield template
    for resource in template.of_type("AWS::CloudFormation::Stack"):
        file = resource.metadata.get("aws:asset:path")
        if isinstance(file, str) and (folder / file).is_file():
            body = _json(folder / file)
            inner = replace(template, path=nested_path(resource), body=body, nested=True)
            yield from _with_nested(folder, inner)


def nested_path(resource: Resource) -> str:
    """Return the path of the construct of a nested stack, from that of its resource in the outer stack."""
    return resource.full_path.rpartition("/")[0].removesuffix(".NestedStack")


def _read_metadata(folder: Path, artifact: Mapping[str, Any], into: Assembly) -> None:
    entries = dict(mapping(artifact.get("metadata")))
    if "additionalMetadataFile" in artifact:
        entries |= _json(folder / str(artifact["additionalMetadataFile"]))
    for found in entries.values():
        for entry in found:
            if entry.get("type") == MODEL_KEY:
                manifest = mapping(json.loads(entry["data"]).get("manifest"))
                into.manifests[str(manifest.get("model_version"))] = manifest


def _labels(folder: Path, template: Template) -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    for function in template.of_type("AWS::Lambda::Function"):
        asset = folder / str(function.metadata.get("aws:asset:path"))
        found = labels_of(function, partial(_text_of_asset, asset))
        if found is not None:
            yield (template.path, function.path), found


def labels_of(function: Resource, text_of: Callable[[str], str | None]) -> tuple[str, ...] | None:
    """Return the names of the classes that a function has; None if it has none, or if nobody knows them.

    Parameters
    ----------
    function
        The function.
    text_of
        Returns the text of a file in its package by name; None if it cannot be read.
    """
    options = _stage_options(function, text_of)
    if isinstance(options.get("labels"), list):
        return tuple(map(str, options["labels"]))
    file = options.get("labels_file")
    text = text_of(file) if isinstance(file, str) else None
    return None if text is None else tuple(text.splitlines())


def _stage_options(function: Resource, text_of: Callable[[str], str | None]) -> Mapping[str, Any]:
    """Return the options of the stages in a function: its environment holds them, or the name of their file."""
    variables = mapping(mapping(function.properties.get("Environment")).get("Variables"))
    found: dict[str, Any] = {}
    for name, value in variables.items():
        text = value if isinstance(value, str) and name in _OPTIONS else None
        if isinstance(value, str) and name in _OPTIONS_FILES:
            text = text_of(value)
        if text is not None:
            with contextlib.suppress(ValueError):
                found |= mapping(json.loads(text))
    return found


def _text_of_asset(asset: Path, name: str) -> str | None:
    try:
        if asset.is_dir():
            return (asset / name).read_text("utf-8")
        with asset.open("rb") as file:
            return text_in_package(file, name)
    except (OSError, ValueError):
        return None  # an asset that is not in the assembly: a review does without it


def text_in_package(file: IO[bytes], name: str) -> str | None:
    """Return the text of a file in a zip archive; None if there is no such text, or if it is very large."""
    try:
        with zipfile.ZipFile(file) as package:
            if package.getinfo(name).file_size > _MOST_LABEL_BYTES:
                return None
            return package.read(name).decode("utf-8")
    except (KeyError, ValueError, zipfile.BadZipFile):
        return None


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReviewError(f"{file} cannot be read: {error}; run cdk synth again") from error
    if not isinstance(data, dict):
        raise ReviewError(f"{file} must hold a JSON object, got {type(data).__name__}; run cdk synth again")
    return data
