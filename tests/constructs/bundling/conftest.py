"""A stack to bundle for, a cache of one's own, and small wheels in a folder that serves as package index."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest
from aws_cdk import App, Stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def _app() -> App:
    return App()


@pytest.fixture
def stack(_app: App, request: pytest.FixtureRequest) -> Stack:
    return Stack(_app, f"Stack{abs(hash(request.node.nodeid))}")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(folder))
    return folder


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a wheel that the requirements can name; there are no others."""
    index = tmp_path / "wheels"
    index.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(index))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))

    def make(
        name: str, version: str, files: dict[str, str], *, tag: str = "py3-none-any", requires: tuple[str, ...] = ()
    ) -> Path:
        info = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        contents = files | {
            f"{info}/METADATA": metadata,
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        }
        record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
        path = index / f"{name}-{version}-{tag}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for member, text in (contents | {f"{info}/RECORD": record}).items():
                archive.writestr(member, text)
        return path

    return make
