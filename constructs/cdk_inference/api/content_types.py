"""Checks of the media types that an API takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")


def check_content_types(content_types: Sequence[str]) -> None:
    """Refuse what is not a media type.

    Raises
    ------
    PropError
        The message names it.
    """
    for given in content_types:
        if not _TYPE.fullmatch(given):
            raise PropError(
                f"content_types must be media types in lower case without parameters, such as 'application/json', got "
                f"'{given}'"
            )
