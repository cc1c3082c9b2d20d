"""Where a registry is: a folder, or a prefix of an S3 bucket."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Callable

CHANGES = 10
"""How often a change of the index is tried, while others change it too."""


class Place(Protocol):
    """A flat store of files, named by POSIX paths."""

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file, or None if there is none.

        Raises
        ------
        ModelBuildError
            If it is larger than the limit, in bytes.
        """

    def has(self, name: str) -> bool:
        """Tell whether there is a file."""

    def upload(self, file: Path, name: str) -> None:
        """Store a file that nobody changes afterwards; it appears whole."""

    def download(self, name: str, file: Path) -> None:
        """Fetch a file.

        Raises
        ------
        ModelBuildError
            If there is none.
        """

    def change(self, name: str, update: Callable[[bytes | None], bytes], limit: int) -> None:
        """Replace a file by what follows from its content, however many do so at the same time."""


def place(registry: str | Path) -> Place:
    """Return the place that a path or an address names.

    Parameters
    ----------
    registry
        A folder, or ``s3://bucket/prefix``.

    Raises
    ------
    ModelBuildError
        If it is another address, or boto3 is not installed.
    """
    text = str(registry)
    if "://" not in text:
        return Folder(Path(text).absolute())
    scheme, bucket, prefix, *_ = urlsplit(text)
    if scheme != "s3" or not bucket:
        raise ModelBuildError(f"registry must be a folder or s3://BUCKET/PREFIX, got {text}")
    return Bucket(bucket, prefix.strip("/"))


class Folder:
    """A registry in a folder, which may be a network's."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str, limit: int) -> bytes | None:
        """See `Place`."""
        try:
            with (self._root / name).open("rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            return None
        return _within(data, limit, name)

    def has(self, name: str) -> bool:
        """See `Place`."""
        return (self._root / name).is_file()

    def upload(self, file: Path, name: str) -> None:
        """See `Place`."""
        with file.open("rb") as source:
            self._write(name, lambda target: shutil.copyfileobj(source, target))

    def download(self, name: str, file: Path) -> None:
        """See `Place`."""
        try:
            shutil.copyfile(self._root / name, file)
        except FileNotFoundError:
            raise _missing(self._root / name) from None

    def change(self, name: str, update: Callable[[bytes | None], bytes], limit: int) -> None:
        """See `Place`."""
        from filelock import FileLock  # noqa: PLC0415 - an app that only pulls needs none

        self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(self._root / f".{name}.lock"):
            data = update(self.read(name, limit))
            self._write(name, lambda target: target.write(data))

    def _write(self, name: str, fill: Callable[[Any], object]) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        number, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
        try:
            with os.fdopen(number, "wb") as target:
                fill(target)
                os.fchmod(target.fileno(), 0o644)  # mkstemp makes it private, and a registry is shared
            Path(partial).replace(path)
        finally:
            with suppress(FileNotFoundError):
                Path(partial).unlink()


class Bucket:
    """A registry below a prefix of a bucket, with the credentials that boto3 finds."""

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            import boto3  # noqa: PLC0415 - the `registry` extra
            from boto3.exceptions import S3UploadFailedError  # noqa: PLC0415
            from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        except ModuleNotFoundError:
            raise ModelBuildError(
                "a registry in S3 needs boto3, which is not installed: pip install 'cdk-inference[registry]'"
            ) from None
        self._errors = (BotoCoreError, ClientError, S3UploadFailedError)
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._s3: Any = boto3.Session().client("s3")  # the default session would keep these credentials for others

    def read(self, name: str, limit: int) -> bytes | None:
        """See `Place`."""
        return self._read(name, limit)[0]

    def has(self, name: str) -> bool:
        """See `Place`."""
        return self._ask(lambda: self._s3.head_object(**self._where(name))) is not None

    def upload(self, file: Path, name: str) -> None:
        """See `Place`."""
        self._ask(lambda: self._s3.upload_file(Filename=str(file), **self._where(name)))

    def download(self, name: str, file: Path) -> None:
        """See `Place`."""
        if self._ask(lambda: self._s3.download_file(Filename=str(file), **self._where(name)) or file) is None:
            raise _missing(f"{self}{name}")

    def change(self, name: str, update: Callable[[bytes | None], bytes], limit: int) -> None:
        """See `Place`. S3 refuses to replace an object that is not the one that was read."""
        for _ in range(CHANGES):
            data, tag = self._read(name, limit)
            changed = update(data)
            condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
            if changed == data or self._ask(lambda: self._put(name, changed, condition)):  # noqa: B023 - called at once
                return
        raise ModelBuildError(f"{self}{name} cannot be changed: others did {CHANGES} times in a row; try again")

    def _read(self, name: str, limit: int) -> tuple[bytes | None, str | None]:
        answer = self._ask(lambda: self._s3.get_object(**self._where(name)))
        if answer is None:
            return None, None
        return _within(answer["Body"].read(limit + 1), limit, name), answer["ETag"]

    def _put(self, name: str, data: bytes, condition: dict[str, str]) -> bool:
        """Return whether the condition held."""
        try:
            self._s3.put_object(Body=data, **self._where(name), **condition)
        except self._errors as error:
            if _code(error) in ("PreconditionFailed", "ConditionalRequestConflict"):
                return False
            raise
        return True

    def _where(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    def _ask(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - boto3's answers
        """Call S3, and return None if the object does not exist."""
        try:
            return call()
        except self._errors as error:
            if _code(error) in ("NoSuchKey", "404"):
                return None
            raise ModelBuildError(f"the registry {self} cannot be used: {error}") from None

    def __str__(self) -> str:
        """Return its address."""
        return f"s3://{self._bucket}/{self._prefix}"


def _code(error: Exception) -> str:
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _within(data: bytes, limit: int, name: str) -> bytes:
    if len(data) > limit:
        raise ModelBuildError(f"{name} of the registry must have at most {limit:,} bytes, got more; is it damaged?")
    return data


def _missing(path: object) -> ModelBuildError:
    return ModelBuildError(f"the registry lacks {path}, which its index names; push the model again")
