"""``python -m cdk_inference.bundling.sbom cdk.out`` lists what is inside each function and model of a synthesized app.

The lists are CycloneDX 1.6 documents, one for each function and each model. They are made from the files that are
deployed. The same assembly gives the same bytes: no clock and no random number enters them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from cdk_inference.errors import PropError
from cdk_inference.model.files.weights import belongs
from cdk_inference.model.records.manifest import ASSEMBLY_METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Json = dict[str, Any]

_METADATA = re.compile(r"(?:^|/)[^/]+\.dist-info/METADATA$")
_INNER = re.compile(r"(?:^|/)[^/]+\.dist-info/sboms/[^/]+\.cdx\.json$")  # PEP 770
_KEPT = ("type", "name", "version", "purl", "cpe", "licenses", "hashes")
_FROM = re.compile(r"^FROM (?:--platform=\S+ )?([^\s@]+?)(?:@sha256:([0-9a-f]{64}))?(?: AS \w+)?$", re.MULTILINE)
_ARG = re.compile(r"^ARG (\w+)=(\S+)$", re.MULTILINE)
_PIN = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)
_MODEL_FOLDERS = frozenset({"model", "inference_model"})  # of a package, and of a layer


@dataclass(frozen=True)
class _Asset:
    """The upload of a function: a zip, a folder that becomes one, or a folder that Docker builds."""

    path: Path
    arguments: Mapping[str, str] | None = None  # of Docker; None unless it builds an image

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the files of interest, by their path."""
        if self.path.is_dir():
            for path in sorted(self.path.rglob("*")):
                name = path.relative_to(self.path).as_posix()
                if path.is_file() and _is_read(name):
                    yield name, path.read_bytes()
        else:
            with zipfile.ZipFile(self.path) as archive:
                for name in sorted(archive.namelist()):
                    if _is_read(name):
                        yield name, archive.read(name)


@dataclass(frozen=True)
class _Stack:
    """A stack of the assembly: its template, and what the assets manifest says where files are."""

    name: str
    template: Json
    assets: Mapping[str, _Asset]

    def asset(self, code: Json) -> _Asset | None:
        """Return the asset that a function's code or a layer's content names."""
        if isinstance(key := code.get("S3Key"), str):
            return self.assets.get(key)
        image = code.get("ImageUri") or code.get("Image")
        text = image.get("Fn::Sub", "") if isinstance(image, dict) else image
        return self.assets.get(text.rpartition(":")[2]) if isinstance(text, str) else None


def documents(assembly: Path) -> tuple[dict[str, Json], list[str]]:
    """Return the documents by their file name, and the functions whose code is not in the assembly.

    Parameters
    ----------
    assembly
        Folder that ``cdk synth`` wrote, such as ``cdk.out``.

    Raises
    ------
    PropError
        If the folder is not a cloud assembly, or a function's stack was not bundled.
    """
    if not (assembly / "manifest.json").is_file():
        raise PropError(f"assembly must be a folder that cdk synth wrote, got {str(assembly)!r}; run cdk synth first")
    found: dict[str, Json] = {}
    unknown: list[str] = []
    stacks, models = _read(assembly)
    for model in models:
        component = _model(model)
        found[f"model.{component['name']}.{component['version']}.cdx.json"] = _document(component, [])
    for stack in stacks:
        for logical_id, resource in stack.template.get("Resources", {}).items():
            code = _code(resource)
            if code is None:
                continue
            asset = stack.asset(code)
            if asset is None:
                unknown.append(f"{stack.name}/{logical_id}")
                continue
            layers = [stack.asset(layer) for layer in _layers(stack.template, resource)]
            contents = [part for part in (asset, *layers) if part is not None]
            found[f"{stack.name}.{logical_id}.cdx.json"] = _document(
                _function(stack.name, logical_id, resource, asset), _components(resource, contents, models)
            )
    return found, unknown


def _read(assembly: Path) -> tuple[list[_Stack], list[Json]]:
    """Return the stacks of an assembly, of its stages and of nested stacks, and the models that are in them."""
    artifacts: Json = json.loads((assembly / "manifest.json").read_text(encoding="utf-8")).get("artifacts", {})
    stacks: list[_Stack] = []
    models: dict[str, Json] = {}
    assets: dict[str, _Asset] = {}
    for artifact in artifacts.values():
        if artifact["type"] == "cdk:asset-manifest":
            assets |= _assets(assembly, artifact["properties"]["file"])
    for name, artifact in artifacts.items():
        properties = artifact.get("properties", {})
        if artifact["type"] == "cdk:cloud-assembly":
            inner, others = _read(assembly / properties["directoryName"])
            stacks += inner
            models |= {json.dumps(model, sort_keys=True): model for model in others}
        elif artifact["type"] == "aws:cloudformation:stack":
            stacks += _templates(assembly, name, properties["templateFile"], assets)
            metadata = artifact.get("metadata", {})
            if file := artifact.get("additionalMetadataFile"):
                metadata = {**metadata, **json.loads((assembly / file).read_text(encoding="utf-8"))}
            for entry in (entry for entries in metadata.values() for entry in entries):
                if entry["type"] == ASSEMBLY_METADATA:
                    models[entry["data"]] = json.loads(entry["data"])
    return stacks, [models[text] for text in sorted(models)]


def _assets(assembly: Path, file: str) -> dict[str, _Asset]:
    """Return the assets of an assets manifest, by key in the bucket or by tag of the image."""
    manifest: Json = json.loads((assembly / file).read_text(encoding="utf-8"))
    found: dict[str, _Asset] = {}
    for kind, path, key in (("files", "path", "objectKey"), ("dockerImages", "directory", "imageTag")):
        for entry in manifest.get(kind, {}).values():
            source = entry["source"]
            if path in source:
                arguments = source.get("dockerBuildArgs", {}) if kind == "dockerImages" else None
                asset = _Asset(assembly / source[path], arguments)
                found |= {destination[key]: asset for destination in entry["destinations"].values()}
    return found


def _templates(assembly: Path, name: str, file: str, assets: Mapping[str, _Asset]) -> Iterator[_Stack]:
    template: Json = json.loads((assembly / file).read_text(encoding="utf-8"))
    yield _Stack(name, template, assets)
    for logical_id, resource in template.get("Resources", {}).items():
        nested = resource.get("Metadata", {}).get("aws:asset:path")
        if resource["Type"] == "AWS::CloudFormation::Stack" and nested:
            yield from _templates(assembly, f"{name}.{logical_id}", nested, assets)


def _code(resource: Json) -> Json | None:
    """Return where a resource has its code; None if it has none or carries it in the template."""
    properties = resource.get("Properties", {})
    if resource["Type"] == "AWS::Lambda::Function":
        code: Json = properties["Code"]
        return None if "ZipFile" in code else code
    if resource["Type"] == "AWS::SageMaker::Model":
        container: Json | None = properties.get("PrimaryContainer")
        return container
    return None


def _layers(template: Json, resource: Json) -> Iterator[Json]:
    for layer in resource["Properties"].get("Layers", []):
        found = template["Resources"].get(layer.get("Ref")) if isinstance(layer, dict) else None
        if found is not None:
            yield found["Properties"]["Content"]


def _is_read(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        _METADATA.search(name) is not None
        or _INNER.search(name) is not None
        or _is_of_model(path)
        or name in ("Dockerfile", "not-bundled.txt")
        or path.match("inference_runtime/__init__.py")
        or (path.parts[0] == "requirements" and path.suffix == ".txt")
    )


def _is_of_model(path: PurePosixPath) -> bool:
    return path.parent.name in _MODEL_FOLDERS and belongs(path.name)


def _function(stack: str, logical_id: str, resource: Json, asset: _Asset) -> Json:
    path = resource.get("Metadata", {}).get("aws:cdk:path", f"{stack}/{logical_id}").removesuffix("/Resource")
    properties = resource["Properties"]
    facts = {"stack": stack, "logicalId": logical_id, "type": resource["Type"]}
    facts |= {"runtime": properties.get("Runtime"), "architecture": "".join(properties.get("Architectures", []))}
    component: Json = {"type": "application", "bom-ref": "function", "name": path, "properties": _properties(facts)}
    if asset.path.is_file():
        component["hashes"] = [_sha256(sha256(asset.path.read_bytes()).hexdigest())]
    return component


def _components(resource: Json, contents: Sequence[_Asset], models: Sequence[Json]) -> list[Json]:
    """Return what is in a function: distributions, the runtime, models, and the image that it is built on."""
    found: list[Json] = []
    hashes = {file["sha256"] for file in _downloaded(resource)}
    for asset in contents:
        inner: dict[str, list[Json]] = {}
        for name, content in asset.files():
            path = PurePosixPath(name)
            if name == "not-bundled.txt" or (name == "Dockerfile" and content.startswith(b"FROM scratch")):
                raise PropError("assembly must contain the code of all functions; select all stacks in cdk synth")
            if _is_of_model(path):
                hashes.add(sha256(content).hexdigest())
            elif path.name == "Dockerfile" or path.parts[0] == "requirements":
                if asset.arguments is not None:
                    found += _built(content.decode(), asset.arguments)
            elif path.name == "__init__.py":
                found.append(_package("cdk-inference", version("cdk-inference")))
            elif _INNER.search(name):
                inner.setdefault(str(path.parents[1]), []).extend(json.loads(content).get("components", []))
            else:
                found.append(_distribution(content.decode(), inner.setdefault(str(path.parent), [])))
        for component in found:
            component.get("components", []).sort(key=_order)
    for model in models:
        if hashes & {file["sha256"] for file in model["files"]}:
            found.append(_model(model))
            hashes -= {file["sha256"] for file in model["files"]}
    found += [
        {"type": "machine-learning-model", "name": "unknown model", "hashes": [_sha256(digest)]}
        for digest in sorted(hashes)
    ]
    return found


def _downloaded(resource: Json) -> list[Json]:
    """Return the files of the model that a function downloads when it starts."""
    variables = resource["Properties"].get("Environment", {}).get("Variables", {})
    files: list[Json] = json.loads(variables["MODEL_FILES"]) if variables.get("MODEL_DELIVERY") == "s3" else []
    return files


def _built(dockerfile: str, arguments: Mapping[str, str]) -> list[Json]:
    """Return what an image is built on, by its Dockerfile, or what pip installs into it, by a list of pins."""
    values = {**dict(_ARG.findall(dockerfile)), **arguments}
    stages = set(re.findall(r" AS (\w+)$", dockerfile, re.MULTILINE))
    found: dict[tuple[str, str], Json] = {}
    for image, digest in _FROM.findall(dockerfile):
        if image not in stages:
            name, _, tag = re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], image).partition(":")
            found[name, tag] = {"type": "container", "name": name, "version": tag}
            if digest:
                found[name, tag]["hashes"] = [_sha256(digest)]
    return [*found.values(), *(_package(*pin) for pin in _PIN.findall(dockerfile))]


def _distribution(metadata: str, inner: list[Json]) -> Json:
    """Return an installed distribution. `inner` is filled with what its own documents list, if it has any."""
    headers = HeaderParser().parsestr(metadata)
    component = _package(headers["Name"], headers["Version"])
    if expression := headers["License-Expression"]:
        component["licenses"] = [{"expression": expression}]
    elif names := [
        text.rpartition(" :: ")[2] for text in headers.get_all("Classifier", []) if text.startswith("License :: ")
    ]:
        component["licenses"] = [{"license": {"name": name}} for name in sorted(set(names))]
    component["components"] = inner
    return component


def _package(name: str, version: str) -> Json:
    normalized = re.sub(r"[-_.]+", "-", name).lower()
    return {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{normalized}@{version}"}


def _model(model: Json) -> Json:
    """Return a model as a component, with how it was built and how it was judged."""
    manifest = model["manifest"]
    metric, provenance = manifest["metric"], dict(manifest["provenance"])
    component: Json = {
        "type": "machine-learning-model",
        "name": manifest["name"],
        "version": manifest["model_version"],
        "licenses": [{"license": {"name": provenance.pop("license")}}],
        "components": [
            {"type": "file", "name": file["name"], "hashes": [_sha256(file["sha256"])]} for file in model["files"]
        ],
        "modelCard": {
            "modelParameters": {
                "architectureFamily": manifest["architecture"],
                "inputs": [{"format": _format(tensor)} for tensor in manifest["inputs"]],
                "outputs": [{"format": _format(tensor)} for tensor in manifest["outputs"]],
            },
        },
        "properties": _properties(
            {name: manifest[name] for name in ("precision", "target", "opset", "size_bytes")}
            | {f"parity:{name}": value for name, value in manifest["parity"].items()}
            | ({"gate": metric["gate"], "samples": metric["samples"]} if metric else {})
            | {f"provenance:{name}": value for name, value in provenance.items()}
        ),
    }
    if metric:
        component["modelCard"]["quantitativeAnalysis"] = {
            "performanceMetrics": [
                {"type": metric["name"], "value": f"{metric[key]:g}", "slice": name}
                for key, name in (("quantized", "deployed model"), ("baseline", "float32 model"))
            ]
        }
    return component


def _format(tensor: Json) -> str:
    return f"{tensor['name']}: {tensor['dtype']}[{', '.join(map(str, tensor['shape']))}]"


def _properties(facts: Mapping[str, object]) -> list[Json]:
    return [{"name": f"cdk-inference:{name}", "value": f"{value}"} for name, value in sorted(facts.items()) if value]


def _sha256(digest: str) -> Json:
    return {"alg": "SHA-256", "content": digest}


def _order(component: Json) -> tuple[str, str, str]:
    return component["type"], component["name"], component.get("version", "")


def _unique(components: Sequence[Json], prefix: str) -> list[Json]:
    """Return components in order, each once, with a unique reference and the fields that all documents share."""
    found: dict[str, Json] = {}
    for component in sorted(components, key=_order):
        reference = "/".join((prefix, *filter(None, _order(component)))).strip("/")
        kept = {"bom-ref": reference} | {
            key: value for key, value in component.items() if key in (*_KEPT, "modelCard", "properties") and value
        }
        if inner := component.get("components"):
            kept["components"] = _unique(inner, reference)
        found[reference] = kept
    return list(found.values())


def _document(subject: Json, components: Sequence[Json]) -> Json:
    """Return a document about one function or model."""
    (root,) = _unique([subject], "")
    parts = _unique(components, "")
    body: Json = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "tools": {
                "components": [{"type": "application", "name": "cdk-inference", "version": version("cdk-inference")}]
            },
            "component": root,
        },
        "components": parts,
        "dependencies": [{"ref": root["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]}],
    }
    return {**body, "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, json.dumps(body, sort_keys=True))}"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the documents of the assembly that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m cdk_inference.bundling.sbom", description=__doc__)
    parser.add_argument("assembly", type=Path, help="folder that cdk synth wrote, such as cdk.out")
    parser.add_argument("--output", type=Path, help="folder for the documents (default: sbom in the assembly)")
    options = parser.parse_args(arguments)
    folder: Path = options.output or options.assembly / "sbom"
    try:
        found, unknown = documents(options.assembly)
    except PropError as error:
        sys.exit(f"error: {error}")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.cdx.json"):
        stale.unlink()
    for name, document in sorted(found.items()):
        (folder / name).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        sys.stdout.write(f"{folder / name}: {len(document['components'])} components\n")
    for name in unknown:
        sys.stderr.write(f"no document for {name}: its code is not in the assembly\n")


if __name__ == "__main__":
    main()
