"""Take the picture of the console: ``python docs/scripts/console.py`` writes it, from the reference app as it runs.

It needs Chromium. The photographs are those of the repository; a second batch is on its way when the picture is taken.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright

from cdk_inference.local import LocalCloud
from cdk_inference.local.console.server import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "console.png"
PHOTOGRAPHS = ROOT / "model_assets" / "photographs"

_SIZE = {"width": 1200, "height": 780}
_COLOURS = 256
_READY = """
document.querySelector(".place.stage.busy .chip") &&
  [...document.querySelectorAll("#rows tr:nth-child(-n+6) .thumbnail")]
    .every((one) => one.querySelector("img")?.complete)
"""
_AGAIN = 4  # copies of each photograph, so that the second batch takes longer than to notice it


def screenshot(cloud: LocalCloud, photographs: Sequence[Path]) -> bytes:
    """Return a picture of the console while photographs are being labelled."""
    browser = next(path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name)))
    with Console(lambda: cloud) as console, sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = running.new_page(viewport=_SIZE, color_scheme="light", reduced_motion="reduce", device_scale_factor=1.5)
        page.goto(console.url)
        page.wait_for_selector("#rows tbody tr .thumbnail img")
        page.wait_for_load_state("load")
        for number in range(_AGAIN):
            for photograph in photographs:
                cloud.put(photograph, key=f"{photograph.stem}-{number + 2}{photograph.suffix}")
        page.wait_for_function(_READY)
        found = page.screenshot()
        running.close()
    return found


def main() -> int:
    """Write the picture, and return the exit code."""
    with LocalCloud() as cloud:
        cloud.deploy(ROOT)
        photographs = sorted(path for path in PHOTOGRAPHS.iterdir() if path.suffix in (".jpg", ".png"))
        cloud.wait_for(cloud.put(*photographs))
        picture = Image.open(io.BytesIO(screenshot(cloud, photographs))).convert("RGB")
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
