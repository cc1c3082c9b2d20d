"""An OCI image layout of built models: each is a manifest that names its files by SHA-256.

Specification: https://github.com/opencontainers/image-spec/blob/main/image-layout.md. Tools that know it, such as
skopeo or ORAS, copy models from here to a container registry and back.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.cache import cache_root, hash_file, make_cache
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.files import weights
from cdk_inference.model.project import BuiltModel, read_entry
from cdk_inference.model.records.manifest import SCHEMA_VERSION
from cdk_inference.model.registry.places import place

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE = "application/vnd.cdk-inference.model.v1"
"""The type of the artifact, by which a container registry tells it from an image."""

MANIFEST = "manifest.json"
"""The facts about an artifact, which lie next to the files that deploy."""

RECORDS = ("report.json", "card.html", "card.md", "lock.json")
"""The files that say how the model came about."""

_INDEX, _MARK = "index.json", "oci-layout"
_IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
_IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_TITLE, _REFERENCE = "org.opencontainers.image.title", "org.opencontainers.image.ref.name"
_CREATED, _VERSION = "org.opencontainers.image.created", "org.opencontainers.image.version"
_NAME, _SIZE, _ARTIFACT_HASH = "org.cdk-inference.model", "org.cdk-inference.size", "org.cdk-inference.artifact"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_INDEX_BYTES, _MANIFEST_BYTES = 64_000_000, 1_000_000
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RegisteredModel:
    """A model in a registry.

    Parameters
    ----------
    name
        The recipe's name.
    version
        The model version.
    pushed_at
        When it was pushed, in UTC, such as ``"2026-11-28T12:00:00+00:00"``.
    size
        Bytes of the files that deploy.
    digest
        SHA-256 of its OCI manifest, as ``"sha256:…"``: all files follow from it.
    """

    name: str
    version: str
    pushed_at: str
    size: int
    digest: str


class Registry:
    """Built models in a folder or in S3, as an OCI image layout.

    Parameters
    ----------
    address
        A folder, or ``s3://bucket/prefix``. S3 is called with the credentials and the Region that boto3 finds, and
        needs the extra ``registry``.

    Raises
    ------
    ModelBuildError
        If the address is another one, or boto3 is missing.
    """

    def __init__(self, address: str | Path) -> None:
        self._address = str(address)
        self._place = place(address)

    def models(self, name: str | None = None) -> list[RegisteredModel]:
        """Return the models in the order in which they were pushed, the newest last.

        Parameters
        ----------
        name
            Only the versions of this model.
        """
        manifests = self._index(self._place.read(_INDEX, _INDEX_BYTES))
        found = [_model(descriptor) for descriptor in manifests if _is_model(descriptor)]
        return sorted((one for one in found if name in (None, one.name)), key=lambda one: one.pushed_at)

    def push(self, built: BuiltModel, *, lock: Path | None = None, replace: bool = False) -> RegisteredModel:
        """Store a built model, unless the registry has it already.

        Parameters
        ----------
        built
            The model, with its report and card next to it.
        lock
            The lock that it was built by.
        replace
            Whether to replace another build of the same version: the same model with another ``manifest.json``.

        Raises
        ------
        ModelBuildError
            If the registry has another build of this version, or cannot be written.
        """
        artifact = [*(file.name for file in weights.files(built.path)), MANIFEST]
        files = {name: built.path / name for name in artifact} | {
            name: built.path.parent / name for name in RECORDS[:-1]
        }
        if lock is not None:
            files["lock.json"] = lock
        files = {name: path for name, path in files.items() if path.is_file()}
        made = _manifest(built, files)
        digest = _digest(made)
        size = sum(files[name].stat().st_size for name in artifact)
        annotations = {
            _NAME: built.manifest.name,
            _VERSION: built.version,
            _REFERENCE: f"{built.manifest.name}-{built.version}",
            _CREATED: datetime.now(UTC).isoformat(timespec="microseconds"),
            _SIZE: str(size),
            _ARTIFACT_HASH: built.asset_hash,
        }
        descriptor = {
            "mediaType": _IMAGE_MANIFEST,
            "digest": digest,
            "size": len(made),
            "artifactType": MEDIA_TYPE,
            "annotations": annotations,
        }
        with tempfile.TemporaryDirectory(prefix="cdk-inference-") as folder:
            for name, data in ((digest, made), (_digest(b"{}"), b"{}")):
                (Path(folder) / name).write_bytes(data)
                self._upload(Path(folder) / name, name)
            for path in files.values():
                self._upload(path, f"sha256:{hash_file(path)}")
            # Last: whoever finds a model in the index finds its files too.
            (Path(folder) / _MARK).write_text('{"imageLayoutVersion": "1.0.0"}', "utf-8")
            if not self._place.has(_MARK):
                self._place.upload(Path(folder) / _MARK, _MARK)
        self._place.change(_INDEX, lambda data: self._with(data, descriptor, replace=replace), _INDEX_BYTES)
        (kept,) = (one for one in self.models(built.manifest.name) if one.version == built.version)
        return kept

    def pull(self, name: str, version: str, *, cache: Path | None = None) -> BuiltModel:
        """Return a model from the cache, which is filled from the registry if needed.

        A model that is in the cache needs no registry: a version is a hash of the model.

        Parameters
        ----------
        name, version
            As `models` has them.
        cache
            Cache root, by default `cache_root()`.

        Raises
        ------
        ModelBuildError
            If the registry lacks the model, or a file is missing or damaged.
        """
        for what, value in (("name", name), ("version", version)):
            if not _PLAIN.fullmatch(value):
                raise ModelBuildError(f"{what} must be as `list` shows it, got {value!r}")
        root = (cache or cache_root()).absolute()
        entry = root / "models" / f"{name}-{version}.pulled"
        return read_entry(entry) or self._fetch(name, version, root, entry)

    def _fetch(self, name: str, version: str, root: Path, entry: Path) -> BuiltModel:
        versions = self.models(name)
        model = next((one for one in versions if one.version == version), None)
        if model is None:
            known = ", ".join(one.version for one in versions[-5:]) or "none"
            raise ModelBuildError(
                f"the registry {self._address} must have version {version!r} of model {name!r}, got {known}; "
                "push it, or choose one that is there"
            )
        make_cache(root)
        entry.parent.mkdir(exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=entry.parent))
        try:
            partial.chmod(0o755)  # mkdtemp makes it private, and the cache may be shared
            (partial / "artifact").mkdir()
            for title, digest in self._files(model).items():
                folder = partial / "artifact" if _is_of_artifact(title) else partial
                self._place.download(_blob(digest), folder / title)
                if f"sha256:{hash_file(folder / title)}" != digest:
                    raise self._damaged(title, digest)
            if read_entry(partial) is None:
                raise ModelBuildError(
                    f"version {version!r} of model {name!r} in the registry {self._address} must be an artifact of "
                    f"schema {SCHEMA_VERSION}, got another; push it again with this version of cdk-inference"
                )
            shutil.rmtree(entry, ignore_errors=True)
            partial.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        built = read_entry(entry)
        if built is None or (built.manifest.name, built.version) != (name, version):
            shutil.rmtree(entry, ignore_errors=True)
            raise ModelBuildError(
                f"the registry {self._address} must have {name} {version} where it says so, got another model; "
                "push it again"
            )
        return built

    def _files(self, model: RegisteredModel) -> dict[str, str]:
        """Return the digests of a model's files by name; what no model has is left out."""
        data = self._place.read(_blob(model.digest), _MANIFEST_BYTES)
        if data is None or _digest(data) != model.digest:
            raise self._damaged("the manifest", model.digest)
        try:
            layers = json.loads(data)["layers"]
            files = {layer["annotations"][_TITLE]: layer["digest"] for layer in layers}
        except (ValueError, KeyError, TypeError):
            raise self._damaged("the manifest", model.digest) from None
        return {title: digest for title, digest in files.items() if title in RECORDS or _is_of_artifact(title)}

    def _upload(self, file: Path, digest: str) -> None:
        if not self._place.has(_blob(digest)):
            self._place.upload(file, _blob(digest))

    def _with(self, data: bytes | None, descriptor: dict[str, Any], *, replace: bool) -> bytes:
        """Return the index with one model more."""
        manifests = self._index(data)
        annotations = descriptor["annotations"]
        for other in filter(_is_model, manifests):
            if other["annotations"][_REFERENCE] != annotations[_REFERENCE]:
                continue
            if data is not None and other["annotations"][_ARTIFACT_HASH] == annotations[_ARTIFACT_HASH]:
                return data
            if not replace:
                raise ModelBuildError(
                    f"the registry {self._address} must have one build of {annotations[_REFERENCE]}, got a second one "
                    "with another manifest.json; replace it if you mean it"
                )
            manifests.remove(other)
            break
        index = {"schemaVersion": 2, "mediaType": _IMAGE_INDEX, "manifests": [*manifests, descriptor]}
        return json.dumps(index, indent=2).encode()

    def _index(self, data: bytes | None) -> list[dict[str, Any]]:
        """Return the descriptors; a layout may hold images too."""
        if data is None:
            return []
        try:
            manifests: list[dict[str, Any]] = json.loads(data)["manifests"]
            for one in filter(_is_model, manifests):
                _model(one)
                one["annotations"][_REFERENCE], one["annotations"][_ARTIFACT_HASH]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelBuildError(
                f"{_INDEX} of the registry {self._address} must be an OCI index; it is damaged"
            ) from None
        return manifests

    def _damaged(self, what: str, digest: str) -> ModelBuildError:
        return ModelBuildError(f"{what} in the registry {self._address} must have the digest {digest}; push it again")


def _is_of_artifact(title: str) -> bool:
    return title == MANIFEST or weights.belongs(title)


def _is_model(descriptor: Mapping[str, Any]) -> bool:
    return descriptor.get("artifactType") == MEDIA_TYPE


def _model(descriptor: Mapping[str, Any]) -> RegisteredModel:
    annotations = descriptor["annotations"]
    return RegisteredModel(
        name=annotations[_NAME],
        version=annotations[_VERSION],
        pushed_at=annotations[_CREATED],
        size=int(annotations[_SIZE]),
        digest=descriptor["digest"],
    )


def _manifest(built: BuiltModel, files: Mapping[str, Path]) -> bytes:
    """Return the OCI manifest: the same for the same files."""
    layers = [
        {
            "mediaType": f"{MEDIA_TYPE}.file",
            "digest": f"sha256:{hash_file(path)}",
            "size": path.stat().st_size,
            "annotations": {_TITLE: name},
        }
        for name, path in sorted(files.items())
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": _IMAGE_MANIFEST,
        "artifactType": MEDIA_TYPE,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": _digest(b"{}"), "size": 2},
        "layers": layers,
        "annotations": {_NAME: built.manifest.name, _VERSION: built.version},
    }
    return json.dumps(manifest, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(digest: object) -> str:
    """Return the path of a file; a digest from a registry leads nowhere else."""
    found = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if found is None:
        raise ModelBuildError(f"a digest in the registry must be 'sha256:' and 64 hexadecimal digits, got {digest!r}")
    return f"blobs/sha256/{found[1]}"
