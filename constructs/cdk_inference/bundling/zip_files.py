"""The files of a function's zip: where they come from, how large they are, and how they are written."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections import Counter
from hashlib import sha256
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cdk_inference.common.cache import is_clutter
from cdk_inference.common.contents import mode_of
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cdk_inference.common.store import Store

UNPACKED_LIMIT = 262_144_000  # bytes of a zip and its layers, AWS's "250 MB"

_LEVEL = 5  # onnxruntime and numpy take 60 % of the default's time and come out 1 % larger
_LARGE = 32_768  # bytes of a file from which it is kept deflated: nine tenths of a package are in such files
_DEFLATED = "deflated"


def source_files(sources: Mapping[str, Path | bytes]) -> dict[str, Path | bytes]:
    """Return the user's and our own files by their path in the zip; symbolic links are followed."""
    files: dict[str, Path | bytes] = {}
    for prefix, source in sources.items():
        path = PurePosixPath(prefix)
        if path.is_absolute() or ".." in path.parts:
            raise PropError(f"a path in the zip must be relative and without '..', got {prefix!r}")
        for name, file in [(str(path), source)] if isinstance(source, bytes) else _walk(path, source, ()):
            if name in files:
                raise PropError(
                    f"{name!r} in the zip must have one source, got {origin(files[name])} and {origin(file)}; rename "
                    "one"
                )
            files[name] = file
    return files


def origin(content: Path | bytes) -> str:
    """Say where a file of the zip comes from, for messages."""
    return "a generated file" if isinstance(content, bytes) else str(content)


def modules(sources: Mapping[str, Path | bytes]) -> set[str]:
    """Return the modules that sources define at the root, where Python looks before anywhere else.

    A folder without ``__init__.py`` is not among them: modules that are elsewhere go before it.
    """
    paths = [PurePosixPath(name) for name in sources]
    files = {path.stem for path in paths if len(path.parts) == 1 and path.suffix == ".py"}
    return files | {path.parts[0] for path in paths if len(path.parts) == 2 and path.name == "__init__.py"}  # noqa: PLR2004


def _walk(name: PurePosixPath, path: Path, parents: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield str(name), path
    elif not path.is_dir():
        raise PropError(f"source must exist, got {str(path)!r}; correct the path, or remove the broken link")
    elif (real := path.resolve()) in parents:
        raise PropError(f"source must not be a link to a folder around it, got {str(path)!r}; remove the link")
    else:
        for child in path.iterdir():
            if not is_clutter(child) and child.suffix != ".pyc" and child.name != "py.typed":  # of type checkers
                yield from _walk(name / child.name, child, (*parents, real))


def size_of(content: Path | bytes) -> int:
    """Return the bytes of a file of the zip."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def check_size(files: Mapping[str, Path | bytes], name: str) -> None:
    """Refuse what Lambda would refuse, while the largest parts can still be named."""
    sizes: Counter[str] = Counter()
    for path, content in files.items():
        sizes[PurePosixPath(path).parts[0]] += size_of(content)
    if (total := sizes.total()) > UNPACKED_LIMIT:
        largest = ", ".join(f"{part} {size / 1e6:.0f} MB" for part, size in sizes.most_common(5))
        raise PropError(
            f"the code of {name} must be at most {UNPACKED_LIMIT / 1e6:.0f} MB unpacked, got {total / 1e6:.0f} MB; "
            f"remove requirements (the largest parts are {largest})"
        )


def write_zip(target: Path, files: Mapping[str, Path | bytes], deflated: Store) -> None:
    """Write a zip whose bytes depend on nothing but its files.

    Parameters
    ----------
    target
        The zip.
    files
        Its files by their path in it.
    deflated
        Keeps large files as they are in a zip. Functions share libraries, and deflating takes most of a bundle's time.
    """
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in sorted(files.items(), key=itemgetter(0)):
            entry = zipfile.ZipInfo(name)  # dated 1980-01-01
            entry.create_system = 3  # Unix, so that the mode counts
            entry.external_attr = (stat.S_IFREG | mode_of(content)) << 16
            data = content if isinstance(content, bytes) else content.read_bytes()
            if len(data) < _LARGE:
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)
                continue
            entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, len(data)
            with archive.open(entry, "w") as file:
                setattr(file, "_compressor", _Deflated(_deflate(data, deflated)))  # noqa: B010 - it is private
                file.write(data)


class _Deflated:
    """Stands for the compressor of a file whose deflated bytes are known."""

    def __init__(self, deflated: bytes) -> None:
        self._deflated = deflated

    def compress(self, _: bytes) -> bytes:
        return self._deflated

    @staticmethod
    def flush() -> bytes:
        return b""


def _deflate(data: bytes, store: Store) -> bytes:
    """Return the deflated bytes of a file, from the store if they are there."""

    def fill(folder: Path) -> None:
        (folder / _DEFLATED).write_bytes(zlib.compress(data, _LEVEL, -zlib.MAX_WBITS))

    key = f"{sha256(data).hexdigest()}-{_LEVEL}-{zlib.ZLIB_RUNTIME_VERSION}"
    return (store.make(key, fill) / _DEFLATED).read_bytes()
