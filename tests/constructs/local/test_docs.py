"""The Python in the documentation runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT = Path(__file__).parents[3] / "docs/start/local.md"


@pytest.mark.e2e
def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready: Callable[..., Path]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(b"x")
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    given = ', context={"stage": "test"}'  # which a cloud assembly does not take
    assert example.count(given) == 2
    example = example.replace(given, "").replace("path/to/app", str(ready())).replace("MyStack", "LocalProbe")
    exec(example, {})  # noqa: S102
