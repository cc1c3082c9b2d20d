"""Files that a project gets as they are in the repository, where the tests use them too."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).with_name("assets")
_REPOSITORY = Path(__file__).parents[3]


def starter() -> Path:
    """Return the folder of the small model that a project has by default."""
    return _find("shapes", "examples/shapes")


def review_action() -> Path:
    """Return the action that comments on a pull request."""
    return _find("review.yml", ".github/actions/review/action.yml")


def _find(installed: str, repository: str) -> Path:
    """Return a file of the package if it was installed from a wheel, otherwise of the repository."""
    path = _INSTALLED / installed
    return path if path.exists() else _REPOSITORY / repository
