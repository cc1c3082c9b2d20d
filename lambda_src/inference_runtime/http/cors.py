"""The headers that let a web page of another origin read an answer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPOSED = "Retry-After,x-amzn-ErrorType,x-amzn-RequestId"
"""The headers of answers that pages read besides those that browsers always let them read."""


def readable_by_pages(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response of a Lambda proxy integration as the pages of the API's origin may read it."""
    origin = os.environ.get("API_ALLOW_ORIGIN")
    if origin is None:
        return dict(response)
    added = {"access-control-allow-origin": origin, "access-control-expose-headers": EXPOSED}
    return {**response, "headers": {**response["headers"], **added}}
