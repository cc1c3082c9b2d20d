"""A model, and files of a stage."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference.model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.model import BuiltModel

    Write = Callable[[str, str], Path]

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "model_assets" / "digits_cnn" / "recipe.py"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.fixture(scope="module")
def digits() -> BuiltModel:
    return build_model(DIGITS)  # others build it, too
