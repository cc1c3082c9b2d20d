"""Sizes as environment variables hold them: in bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Tokenization

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from aws_cdk import Size


def bytes_text(prop: str, size: Size) -> str:
    """Return the bytes of a size as a string, which is resolved at deployment if the size is a token.

    Raises
    ------
    PropError
        The size is below 1 byte; the message names the prop.
    """
    if size.is_unresolved():
        return Tokenization.stringify_number(size.to_bytes())
    value = int(size.to_bytes())
    if value < 1:
        raise PropError(f"{prop} must be at least 1 byte, got {value}")
    return str(value)
