"""Fetches a file whose SHA-256 is known, once: what is in the cache is right, or is fetched again."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import truststore
import urllib3
from filelock import FileLock
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from cdk_inference.common.cache import hash_file
from cdk_inference.common.store import touch
from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIMIT = 10 * 2**30  # bytes: more than the largest function image holds
TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces
RETRIES = urllib3.Retry(
    total=4,
    redirect=False,  # requests follows them
    backoff_factor=0.5,
    backoff_jitter=0.5,
    backoff_max=30,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=("GET",),
    raise_on_status=False,
    retry_after_max=60,
)

_PIECE = 2**16
_REPORTED = 2**20  # bytes between two reports
_OTHER_RANGE = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


def download(
    url: str,
    sha256: str,
    target: Path,
    *,
    token: str | None = None,
    token_variable: str = "",
    on_bytes: Callable[[int, int], None] | None = None,
) -> Path:
    """Fetch a file unless it is at the target already, and return the target.

    Several processes may do so at once: one fetches, the others wait. A download that a broken connection or the
    end of the process interrupts is continued.

    Parameters
    ----------
    url
        Over https, also after redirects: the hash would notice other bytes, but a token must not be readable on the
        way. Plain http works on this machine, for tests and local mirrors.
    sha256
        The SHA-256 of the whole file, in lower case.
    target
        In the cache; its folder belongs to this file alone.
    token
        Sent to the host of `url`, not to those it redirects to.
    token_variable
        The environment variable that a token comes from, for messages.
    on_bytes
        Called with each further MiB: how many bytes are there, and of how many, 0 if the server does not say.

    Raises
    ------
    ModelBuildError
        Naming the address and what it answered.
    """
    if _is_whole(target, sha256):  # before the lock: the cache may be readable only
        touch(target.parent)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / ".lock"):
            if not _is_whole(target, sha256):  # no other process fetched it while we waited
                _download(_Asked(url, token, token_variable, on_bytes), sha256, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            _part(target).unlink()  # it may be what fills the disk
        raise ModelBuildError(
            f"cannot store {url} in {target.parent}: {error.strerror or error}; "
            "make room or choose another cache with CDK_INFERENCE_CACHE"
        ) from error
    return target


def open_session(retries: urllib3.Retry | int) -> requests.Session:
    """Return a session that trusts what the system trusts, and refuses addresses that are not secure."""
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Transport(max_retries=retries))
    return session


@dataclass(frozen=True)
class _Asked:
    """A file that is asked for, and who is told of its bytes."""

    url: str
    token: str | None
    token_variable: str
    on_bytes: Callable[[int, int], None] | None


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        return hash_file(path) == sha256
    except OSError:
        return False


def _download(asked: _Asked, sha256: str, target: Path) -> None:
    part = _part(target)
    resumed = part.is_file() and part.stat().st_size > 0
    with open_session(RETRIES) as session:
        _receive(session, asked, part)
        if resumed and hash_file(part) != sha256:  # what was continued may have been something else
            part.unlink()
            _receive(session, asked, part)
    if (found := hash_file(part)) != sha256:
        kind, size = _kind(part), part.stat().st_size
        part.unlink()
        raise ModelBuildError(f"{asked.url} must have sha256 {sha256}, got {found} ({size} bytes{kind})")
    part.replace(target)


def _receive(session: requests.Session, asked: _Asked, part: Path) -> None:
    """Write what the address holds to a file, continuing it if the server can, and again if the connection breaks."""
    url, token, retries = asked.url, asked.token, RETRIES
    while True:
        have = part.stat().st_size if part.is_file() else 0
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        try:
            with session.get(
                url, headers=headers, stream=True, timeout=TIMEOUT, auth=Token(token) if token else None
            ) as response:
                if have and response.status_code in _OTHER_RANGE and not _continues(response, have):
                    part.unlink()
                    continue  # from the start
                _check_status(response, url, token, asked.token_variable)
                have = have if _continues(response, have) else 0  # servers may ignore that we want the rest
                _write(response, asked, part, have)
                return
        except requests.RequestException as error:
            raise ModelBuildError(f"cannot fetch {url}: {_reason(error)}") from error
        except urllib3.exceptions.HTTPError as error:  # the connection broke on the way
            try:
                retries = retries.increment("GET", url, error=error)
            except urllib3.exceptions.HTTPError:
                raise ModelBuildError(f"cannot fetch {url}: {_reason(error)}") from error
            retries.sleep()


def _continues(response: requests.Response, have: int) -> bool:
    answer: str = response.headers.get("Content-Range", "")
    return response.status_code == HTTPStatus.PARTIAL_CONTENT and answer.startswith(f"bytes {have}-")


def _check_status(response: requests.Response, url: str, token: str | None, token_variable: str) -> None:
    status = response.status_code
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    fix = ""
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and token_variable:
        given = "does not allow it" if token else "is not set"
        fix = f"; the file needs permission, {token_variable} {given}"
    elif status == HTTPStatus.NOT_FOUND:
        fix = "; check the address"
    raise ModelBuildError(f"cannot fetch {url}: the server answered {status} {response.reason or ''}".rstrip() + fix)


def _write(response: requests.Response, asked: _Asked, part: Path, have: int) -> None:
    url = asked.url
    length = response.headers.get("Content-Length", "")
    size = have + (int(length) if length.isdecimal() else 0)
    if size > LIMIT:
        raise ModelBuildError(f"{url} must be at most {LIMIT / 1e9:.1f} GB, got {size / 1e9:.1f} GB")
    if size - have > (free := shutil.disk_usage(part.parent).free):
        raise ModelBuildError(
            f"{url} needs {(size - have) / 1e9:.2f} GB in {part.parent}, got {free / 1e9:.2f} GB that are free; "
            "make room or choose another cache with CDK_INFERENCE_CACHE"
        )
    with part.open("ab" if have else "wb") as file:
        for piece in response.raw.stream(_PIECE, decode_content=True):
            have += len(piece)
            if have > LIMIT:
                part.unlink()
                raise ModelBuildError(f"{url} must be at most {LIMIT / 1e9:.1f} GB, got more")
            file.write(piece)
            if asked.on_bytes is not None and have // _REPORTED != (have - len(piece)) // _REPORTED:
                asked.on_bytes(have, size if length.isdecimal() else 0)


def _kind(path: Path) -> str:
    """Say what a file is that was sent in place of another."""
    with path.open("rb") as file:
        start = file.read(200).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return ", an HTML page"
    if start.startswith(b"version https://git-lfs"):
        return ", a git-lfs pointer"
    return ""


def _reason(error: BaseException) -> str:
    """Return the innermost reason: the libraries wrap it in their retries."""
    while True:
        inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message or error}); add the authority that signed it, such"
            " as a company proxy's, to the system's certificates, or name a file with it in REQUESTS_CA_BUNDLE"
        )
    text = str(error.args[0] if error.args else error)
    # Connections print themselves in front of what happened.
    with contextlib.suppress(IndexError):
        text = text.split(">: ", 1)[1]
    return text or type(error).__name__


class _Transport(HTTPAdapter):
    """Trusts what the system trusts, and refuses addresses that are not secure, in each hop of a redirect.

    requests alone trusts only the certificates that it ships. A company's proxy signs with the company's certificate.
    """

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **options, **_certificates())

    def proxy_manager_for(self, proxy: str, **options: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **options, **_certificates())
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        parts = urlsplit(request.url or "")
        if parts.scheme != "https" and str(parts.hostname) not in _LOOPBACK:
            raise requests.exceptions.InvalidURL(f"it leads to {request.url}, which is not https")
        return super().send(request, *args, **options)


def _certificates() -> dict[str, Any]:
    """Return the option with which urllib3 trusts the system, unless the user chose a bundle for requests."""
    if any(os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")):
        return {}
    return {"ssl_context": truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}


class Token(AuthBase):
    """A token that a .netrc does not replace, and that requests removes when it is redirected to another host."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the token to a request."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request
