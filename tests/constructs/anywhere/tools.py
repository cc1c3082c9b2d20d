"""Debian's programs that read images."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

needs_skopeo = pytest.mark.skipif(
    shutil.which("skopeo") is None or shutil.which("umoci") is None,
    reason="skopeo and umoci are not installed: apt-get install skopeo umoci",
)


def skopeo(*arguments: object) -> str:
    """Run skopeo, which checks each digest that it reads."""
    command = ["skopeo", "--insecure-policy", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def config(layout: Path, architecture: str) -> dict[str, Any]:
    """The configuration of an image, as skopeo reads it."""
    found: dict[str, Any] = json.loads(
        skopeo(f"--override-arch={architecture}", "--override-os=linux", "inspect", "--config", f"oci:{layout}:latest")
    )
    return found


def unpacked(layout: Path, folder: Path) -> Path:
    """Unpack the only image of a layout, and return its root."""
    command = ["umoci", "unpack", "--rootless", "--image", f"{layout}:latest", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder / "rootfs"
