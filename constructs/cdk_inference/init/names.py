"""The name of a project, and the names that follow from it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cdk_inference.init.errors import InitError

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_MAX_NAME = 50  # characters; CloudFormation takes 128, and the names of resources are made from it
_RULE = f"lower-case letters, digits and single dashes, from a letter on, at most {_MAX_NAME} characters"


def project_name(given: str | None, folder: Path) -> str:
    """Return the name of the project in a folder.

    Parameters
    ----------
    given
        The name that the user asks for. Default: it is made from the folder's.

    Raises
    ------
    InitError
        The name breaks the rule, or none can be made from the folder's.
    """
    if given is not None:
        if not _is_name(given):
            raise InitError(f"name must be {_RULE}, got {given!r}; pass another with --name")
        return given
    found = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    if not _is_name(found):
        raise InitError(f"name must be {_RULE}, got the folder {folder.resolve().name!r}; pass one with --name")
    return found


def stack_name(name: str) -> str:
    """Return the id of the stack of a project: ``cat-pictures`` has ``CatPictures``."""
    return "".join(part.capitalize() for part in name.split("-"))


def _is_name(text: str) -> bool:
    return len(text) <= _MAX_NAME and bool(_NAME.fullmatch(text))
