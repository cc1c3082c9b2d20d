"""Reads the base of an image, and writes images, as OCI layouts.

https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.anywhere.oci.layers import MEDIA_TYPE as LAYER
from cdk_inference.anywhere.oci.layers import Layer, write_layer
from cdk_inference.common.cache import hash_file
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"

TAG = "latest"
"""The name of the image in its layout."""

_MARKER = "oci-layout"
_NAME = "org.opencontainers.image.ref.name"
_EPOCH = "1970-01-01T00:00:00Z"
_PREFIX = "sha256:"


@dataclass(frozen=True)
class Base:
    """The image that another one is put on top of.

    Attributes
    ----------
    config
        Its configuration.
    layers
        The descriptors of its layers.
    folder
        The layout that has them; None of an image that is empty.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[Mapping[str, Any]] = ()
    folder: Path | None = None

    @property
    def variables(self) -> dict[str, str]:
        """Its environment."""
        return dict(entry.partition("=")[::2] for entry in self.config.get("config", {}).get("Env") or ())


def read_base(folder: Path, architecture: str) -> Base:
    """Return the image of a layout for Linux on an architecture, whose digests are checked.

    Parameters
    ----------
    folder
        The layout, such as ``skopeo copy`` writes one.
    architecture
        As Go names it, such as ``amd64``.

    Raises
    ------
    PropError
        The folder is not a layout, has no such image or several, or is damaged.
    """
    if not (folder / _MARKER).is_file():
        raise PropError(f"base must be a folder with an OCI layout, got '{folder}'; write one with skopeo copy")
    index = _json(folder / "index.json")
    found = list(_manifests(folder, index, architecture))
    if len(found) != 1:
        raise PropError(
            f"base must have one image for linux/{architecture}, got {len(found)} in '{folder}'; copy it with --all, "
            f"or with --override-arch {architecture}"
        )
    manifest, config = found[0]
    for descriptor in manifest["layers"]:
        blob(folder, descriptor)
    return Base(config, manifest["layers"], folder)


def _manifests(folder: Path, index: Mapping[str, Any], architecture: str) -> Any:  # noqa: ANN401 - pairs of JSON
    for descriptor in index.get("manifests", ()):
        if descriptor.get("mediaType") == INDEX:
            yield from _manifests(folder, _json(blob(folder, descriptor)), architecture)
        elif descriptor.get("mediaType") == MANIFEST:
            manifest = _json(blob(folder, descriptor))
            if manifest["config"].get("mediaType") != CONFIG:
                continue  # an attestation, or another artifact
            config = _json(blob(folder, manifest["config"]))
            if (config.get("os"), config.get("architecture")) == ("linux", architecture):
                yield manifest, config


def blob(folder: Path, descriptor: Mapping[str, Any]) -> Path:
    """Return the file of a descriptor.

    Raises
    ------
    PropError
        It is not there, or has other bytes.
    """
    digest = str(descriptor["digest"])
    path = folder / "blobs" / "sha256" / digest.removeprefix(_PREFIX)
    if not digest.startswith(_PREFIX) or not path.is_file() or hash_file(path) != path.name:
        raise PropError(f"base must have the blob {digest}, got none or a damaged one in '{folder}'; copy it again")
    return path


@dataclass(frozen=True)
class Image:
    """An image for one architecture.

    Attributes
    ----------
    architecture
        As Go names it.
    base
        The image under it.
    layers
        The files of each layer, with a word of what they are.
    settings
        The settings of its configuration, such as ``Entrypoint``. `Env` is added to that of the base.
    """

    architecture: str
    base: Base
    layers: Sequence[tuple[str, Mapping[str, Path | bytes]]]
    settings: Mapping[str, Any]


class Layout:
    """A layout that is being written, complete or not at all.

    Parameters
    ----------
    folder
        Where it appears. A layout that is there is replaced.

    Raises
    ------
    PropError
        Something else is there.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not (folder / _MARKER).is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise PropError(f"output must be a new folder or an OCI layout, got '{folder}'; choose another one")
        self._folder = folder
        self._partial = folder.with_name(f".{folder.name}.partial")
        self._blobs = self._partial / "blobs" / "sha256"

    def write(self, images: Sequence[Image]) -> str:
        """Write the images, and return the digest by which a registry names them together."""
        shutil.rmtree(self._partial, ignore_errors=True)
        self._blobs.mkdir(parents=True)
        try:
            found = [self._image(image) for image in images]
            whole = found[0] if len(found) == 1 else self._put({**_document(INDEX), "manifests": found}, INDEX)
            named = {**whole, "annotations": {_NAME: TAG}}
            self._save("index.json", {**_document(INDEX), "manifests": [named]})
            self._save(_MARKER, {"imageLayoutVersion": "1.0.0"})
            shutil.rmtree(self._folder, ignore_errors=True)
            self._partial.replace(self._folder)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
        return str(whole["digest"])

    def _image(self, image: Image) -> dict[str, Any]:
        """Write an image, and return its descriptor."""
        base = image.base
        for descriptor in base.layers if base.folder is not None else ():
            source = blob(base.folder, descriptor) if base.folder is not None else Path()
            if not (target := self._blobs / source.name).exists():
                shutil.copyfile(source, target)
        layers = [(self._layer(files), what) for what, files in image.layers]
        descriptors = [
            {"mediaType": LAYER, "digest": layer.digest, "size": layer.path.stat().st_size} for layer, _ in layers
        ]
        config = self._put(_config(image, layers), CONFIG)
        manifest = {**_document(MANIFEST), "config": config, "layers": [*base.layers, *descriptors]}
        platform = {"architecture": image.architecture, "os": "linux"}
        return {**self._put(manifest, MANIFEST), "platform": platform}

    def _layer(self, files: Mapping[str, Path | bytes]) -> Layer:
        layer = write_layer(self._partial / "layer", files)
        return Layer(layer.path.replace(self._blobs / layer.digest.removeprefix(_PREFIX)), layer.digest, layer.diff_id)

    def _put(self, value: Mapping[str, Any], media_type: str) -> dict[str, Any]:
        """Write JSON as a blob, and return its descriptor."""
        data = _dumped(value)
        digest = sha256(data).hexdigest()
        (self._blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"{_PREFIX}{digest}", "size": len(data)}

    def _save(self, name: str, value: Mapping[str, Any]) -> None:
        (self._partial / name).write_bytes(_dumped(value))


def _config(image: Image, layers: Sequence[tuple[Layer, str]]) -> dict[str, Any]:
    base = image.base.config
    before = base.get("config", {})
    environment = {**image.base.variables, **image.settings.get("Env", {})}
    settings = {
        **before,
        **image.settings,
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": {**(before.get("Labels") or {}), **image.settings.get("Labels", {})},
    }
    created = base.get("created", _EPOCH)
    history = [{"created": created, "created_by": f"cdk-inference: {what}"} for _, what in layers]
    diff_ids = [layer.diff_id for layer, _ in layers]
    return {
        **{name: value for name, value in base.items() if name in {"variant", "os.version"}},
        "created": created,
        "architecture": image.architecture,
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [*base.get("rootfs", {}).get("diff_ids", ()), *diff_ids]},
        "history": [*base.get("history", ()), *history],
    }


def _document(media_type: str) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": media_type}


def _dumped(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def _json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PropError(f"base must have JSON in '{path}', got none: {error}") from error
