"""Functions of a synthesized app: their packages unpacked as Lambda unpacks them, and their settings."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_METADATA = "cdk-inference"  # cdk_inference.common.metadata has it, and imports the CDK, which takes seconds


@dataclass(frozen=True)
class Function:
    """A function of a template.

    Parameters
    ----------
    pipeline, stage
        Where it belongs: the last part of the pipeline's path, and the stage's name.
    handler
        ``module.function``.
    runtime
        Lambda's name of its Python, such as ``"python3.14"``.
    memory_size
        MiB.
    archive
        Its zip.
    layers
        The zips of its layers.
    variables
        Its environment; values are texts, or as the template has them.
    precision
        That of the model in it, if it runs one.
    """

    pipeline: str
    stage: str
    handler: str
    runtime: str
    memory_size: int
    archive: Path
    layers: tuple[Path, ...]
    variables: Mapping[str, Any]
    precision: str | None

    def unpack(self, folder: Path) -> list[Path]:
        """Unpack the code and its layers, and return what Lambda puts onto Python's path for them, in order."""
        code = folder / "task"
        with zipfile.ZipFile(self.archive) as archive:
            archive.extractall(code)
        layered = folder / "opt"
        for layer in self.layers:
            with zipfile.ZipFile(layer) as archive:
                archive.extractall(layered)
        return [code, *([layered / "python"] if self.layers else [])]

    def bytecode(self) -> dict[str, int]:
        """Return how many files of bytecode the package has, by the tag of the Python that reads them."""
        tags: dict[str, int] = {}
        with zipfile.ZipFile(self.archive) as archive:
            for name in archive.namelist():
                if name.endswith(".pyc"):
                    tag = name.split(".")[-2]
                    tags[tag] = tags.get(tag, 0) + 1
        return tags


@dataclass(frozen=True)
class Assembly:
    """The output of a synth.

    Parameters
    ----------
    folder
        The cloud assembly.
    stack
        Name of its stack.
    """

    folder: Path
    stack: str

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """The resources of the template, by logical id."""
        found: dict[str, dict[str, Any]] = self._read("template")["Resources"]
        return found

    def functions(self) -> dict[tuple[str, str], Function]:
        """Return the functions of pipelines by pipeline and stage."""
        resources = self.resources
        found = {}
        for resource in resources.values():
            facts = resource.get("Metadata", {}).get(_METADATA, {})
            if resource["Type"] != "AWS::Lambda::Function" or facts.get("role") != "function":
                continue
            properties = resource["Properties"]
            layers = [resources[layer["Ref"]]["Properties"]["Content"] for layer in properties.get("Layers", ())]
            function = Function(
                pipeline=facts["pipeline"].rpartition("/")[2],
                stage=facts["stage"],
                handler=properties["Handler"],
                runtime=properties["Runtime"],
                memory_size=properties["MemorySize"],
                archive=self._asset(properties["Code"]["S3Key"]),
                layers=tuple(self._asset(content["S3Key"]) for content in layers),
                variables=properties["Environment"]["Variables"],
                precision=(facts.get("model") or {}).get("precision"),
            )
            found[function.pipeline, function.stage] = function
        return found

    def files(self) -> dict[tuple[str, str], Path]:
        """Return the files that a deployment would upload, by bucket and key."""
        entries = self._read("assets")["files"].values()
        return {
            (target["bucketName"], target["objectKey"]): self.folder / entry["source"]["path"]
            for entry in entries
            for target in entry["destinations"].values()
        }

    def _asset(self, key: str) -> Path:
        return self.folder / f"asset.{key}"

    def _read(self, kind: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / f"{self.stack}.{kind}.json").read_text(encoding="utf-8"))
        return content
