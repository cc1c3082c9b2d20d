"""Objects of S3, Google Cloud Storage, Azure Blob Storage or a folder, by one library: obstore."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, InvalidPathError, PreconditionError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from inference_runtime.errors import RejectItem, StageError
from inference_runtime.stages.sources import EXPLAIN, Content, SupersededError, UnreadableError
from inference_runtime.timeouts import ATTEMPTS, CONNECT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from obstore import GetOptions
    from obstore.store import ObjectStore

    from inference_runtime.stages.item import Item

FILES = "file"

_READ_SECONDS = 60
"""Most seconds of one request, with the whole of its answer."""

_RETRY: Any = {"max_retries": ATTEMPTS - 1, "retry_timeout": timedelta(seconds=2 * _READ_SECONDS)}
_GONE = "object no longer exists"
_ODD_KEY = "object has a key with an empty part, or one that its store cannot have"
_CLOUDS: dict[str, tuple[Any, str]] = {
    "s3": (S3Store, "AWS"),
    "gs": (GCSStore, "GOOGLE"),
    "az": (AzureStore, "AZURE"),
}
"""The stores, and how the names of their variables begin."""


class ObstoreSource:
    """Buckets of one cloud, or folders.

    Parameters
    ----------
    kind
        ``s3``, ``gs``, ``az`` or ``file``.
    stores
        The stores by the name of their bucket. No other bucket is read.
    """

    def __init__(self, kind: str, stores: Mapping[str, ObjectStore]) -> None:
        self._kind = kind
        self._stores = stores

    def read(self, item: Item) -> Content:
        """Read an object; see `sources.ObjectSource`."""
        store = self._stores.get(item.bucket)
        if store is None:
            raise RejectItem(f"bucket {item.bucket} is not one of those that are read")
        try:
            found = obstore.get(store, item.key, options=self._options(item))
            if found.meta["path"] != item.key:  # obstore drops a slash in front
                raise RejectItem(_ODD_KEY)
            if (size := found.meta["size"]) != item.size:
                # The size was checked against the limit, and the store has the last word.
                raise RejectItem(f"object has {size:,} bytes, its event says {item.size:,}")
            asked = found.attributes.get(EXPLAIN) == "true"
            return Content(bytes(found.bytes()), asked)
        except (FileNotFoundError, PreconditionError) as error:
            if self._is_superseded(store, item.key, error):
                raise SupersededError from error
            raise RejectItem(_GONE) from error
        except (InvalidPathError, ValueError) as error:
            raise RejectItem(_ODD_KEY) from error
        except (BaseError, OSError) as error:
            raise UnreadableError(_short(error)) from error

    def _options(self, item: Item) -> GetOptions:
        """Name the version that the event is about, and no later one."""
        if item.version_id is not None and self._kind != FILES:
            return {"version": item.version_id}
        return {"if_match": f'"{item.etag}"'}

    def _is_superseded(self, store: ObjectStore, key: str, error: Exception) -> bool:
        """Tell whether there is another version of an object that cannot be read in the version of its event.

        Google says that the generation of an overwritten object is gone, and Azure may say of a deleted blob that it
        does not match.
        """
        if self._kind not in {"gs", "az"}:
            return isinstance(error, PreconditionError)
        try:
            store.head(key)
        except FileNotFoundError:
            return False
        except BaseError as other:
            raise UnreadableError(_short(other)) from other
        return True


def open_objects(name: str, buckets: Sequence[str]) -> ObstoreSource:
    """Open the buckets of a store.

    The clouds' own variables and services say who asks, such as ``AWS_ROLE_ARN`` or Google's metadata server.

    Parameters
    ----------
    name
        ``s3``, ``gs``, ``az``, or the URL of the folder that has a folder for each bucket.
    buckets
        The names of the buckets; on Azure, of the containers.

    Raises
    ------
    StageError
        If there is no such store, or the names are not those of buckets.
    """
    kind = urlsplit(name).scheme or name
    for bucket in buckets:
        if "/" in bucket or bucket in {".", ".."}:
            raise StageError(f"OBJECT_BUCKETS must be names of buckets, got {bucket!r:.200}")
    try:
        if kind == FILES:
            root = unquote(urlsplit(name).path)
            return ObstoreSource(kind, {bucket: LocalStore(f"{root}/{bucket}") for bucket in buckets})
        if kind in _CLOUDS and kind == name:
            open_store, prefix = _CLOUDS[kind]
            options = _client_options(prefix)
            return ObstoreSource(
                kind,
                {bucket: open_store(bucket, client_options=options, retry_config=_RETRY) for bucket in buckets},
            )
    except (BaseError, ValueError, OSError) as error:
        raise StageError(f"cannot open the object store {name}: {error}") from error
    raise StageError(f'OBJECT_STORE must be "s3", "gs", "az" or the URL of a folder, got "{name}"')


def _client_options(prefix: str) -> dict[str, Any]:
    """Return time limits; options hide the variable that allows a store without TLS, such as one in a cluster."""
    return {
        "allow_http": os.environ.get(f"{prefix}_ALLOW_HTTP") == "true",
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT),
        "timeout": timedelta(seconds=_READ_SECONDS),
    }


def _short(error: Exception) -> str:
    """Return the first line of an error, which tells all that the others repeat."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
