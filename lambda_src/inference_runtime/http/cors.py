"""The header that lets a web page of another origin read an answer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def readable_by_pages(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response of a Lambda proxy integration as the pages of the API's origin may read it."""
    origin = os.environ.get("API_ALLOW_ORIGIN")
    added = {} if origin is None else {"access-control-allow-origin": origin}
    return {**response, "headers": {**response["headers"], **added}}
