"""Reads a cloud assembly: its templates, its models, and what is known of its costs."""

from __future__ import annotations

import contextlib
import json
import zipfile
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import mapping
from cdk_inference.costs.recorded import METADATA_KEY as COSTS_KEY
from cdk_inference.review.errors import ReviewError
from cdk_inference.review.template import Resource, Template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MODEL_KEY = "cdk-inference:model"
"""As `cdk_inference.model.records.manifest` has it, which is another room's."""

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
                _read_labels(folder, each, into)
            _read_metadata(folder, artifact, into)


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
    for path, found in entries.items():
        for entry in found:
            if entry.get("type") == MODEL_KEY:
                manifest = mapping(json.loads(entry["data"]).get("manifest"))
                into.manifests[str(manifest.get("model_version"))] = manifest
            elif entry.get("type") == COSTS_KEY and isinstance(entry["data"], str):
                into.costs[path.removeprefix("/")] = entry["data"]


def _read_labels(folder: Path, template: Template, into: Assembly) -> None:
    for function in template.of_type("AWS::Lambda::Function"):
        asset = folder / str(function.metadata.get("aws:asset:path"))
        options = _stage_options(function, asset)
        if isinstance(options.get("labels"), list):
            into.labels[template.path, function.path] = tuple(map(str, options["labels"]))
        elif isinstance(options.get("labels_file"), str):
            text = _text_of_asset(asset, options["labels_file"])
            if text is not None:
                into.labels[template.path, function.path] = tuple(text.splitlines())


def _stage_options(function: Resource, asset: Path) -> Mapping[str, Any]:
    """Return the options of the stages in a function: its environment holds them, or the name of their file."""
    variables = mapping(mapping(function.properties.get("Environment")).get("Variables"))
    found: dict[str, Any] = {}
    for name, value in variables.items():
        text = value if isinstance(value, str) and name.endswith("STAGE_OPTIONS") else None
        if isinstance(value, str) and name.endswith("STAGE_OPTIONS_FILE"):
            text = _text_of_asset(asset, value)
        if text is not None:
            with contextlib.suppress(ValueError):
                found |= mapping(json.loads(text))
    return found


def _text_of_asset(asset: Path, name: str) -> str | None:
    try:
        if asset.is_dir():
            return (asset / name).read_text("utf-8")
        with zipfile.ZipFile(asset) as package:
            if package.getinfo(name).file_size > _MOST_LABEL_BYTES:
                return None
            return package.read(name).decode("utf-8")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # an asset that is not in the assembly: a review does without it


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReviewError(f"{file} cannot be read: {error}; run cdk synth again") from error
    if not isinstance(data, dict):
        raise ReviewError(f"{file} must hold a JSON object, got {type(data).__name__}; run cdk synth again")
    return data
