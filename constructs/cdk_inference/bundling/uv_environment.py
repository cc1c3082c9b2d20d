"""The environment in which uv runs: it trusts what this machine trusts, and has a cache that it can write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.cache import cache_root, home, is_creatable

if TYPE_CHECKING:
    from collections.abc import Mapping

_CERTIFICATES = "UV_SYSTEM_CERTS"
_OLDER_CERTIFICATES = "UV_NATIVE_TLS"  # its older name; newer versions warn if it stands alone


def uv_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return variables with defaults for what uv decides differently from pip; the user's own choices stay.

    uv trusts only the certificates that it ships unless it is told to use the system's. A company's proxy signs
    with the company's certificate, which only the system has. ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` work either way.

    uv fails if it cannot create its cache, and without a home it leaves one in the current folder.

    Parameters
    ----------
    variables
        The environment to start from.
    """
    result = dict(variables)
    if _CERTIFICATES not in result and _OLDER_CERTIFICATES not in result:
        result |= {_CERTIFICATES: "1", _OLDER_CERTIFICATES: "1"}
    chosen = result.keys() & {"UV_CACHE_DIR", "UV_NO_CACHE"}
    caches = Path(result.get("XDG_CACHE_HOME") or home() / ".cache")
    if not chosen and not is_creatable(caches / "uv"):
        result["UV_CACHE_DIR"] = str(cache_root() / "uv")
    return result
