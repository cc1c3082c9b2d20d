"""Files that decode to far more than their size are refused before they take the function's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest
from tests.runtime.stages.builtin.test_image import png

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1024**2

# An own process: the peak is that of its whole life.
SCRIPT = """
import importlib
import json
import sys
from pathlib import Path

from inference_runtime.errors import RejectItem

module, factory, options, path = sys.argv[1:]
builtin = importlib.import_module(f"inference_runtime.stages.builtin.{module}")
function = getattr(builtin, factory)(**json.loads(options))
try:
    print(function(Path(path).read_bytes(), None).shape)
except RejectItem as error:
    print(error)
# Not getrusage, which counts what the process was before it became this program.
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(int(peak.split()[1]) * 1024)
"""


def numbers(start: bytes, each: bytes, end: bytes) -> bytes:
    return start + each * (60_000_000 // len(each)) + end


CASES: dict[str, tuple[Callable[[], bytes], str, str, dict[str, object], str]] = {
    "JSON of lists": (
        lambda: numbers(b'{"a": 1, "x": [', b"[],", b"0]}"),
        *(
            "tabular",
            "json_preprocessor",
            {"fields": ["a"]},
            "JSON has more than 1,000,000 values, expected one record",
        ),
    ),
    "JSON of objects": (
        lambda: numbers(b'{"a": 1, "x": [', b'{"":0},', b"0]}"),
        *(
            "tabular",
            "json_preprocessor",
            {"fields": ["a"]},
            "JSON has more than 1,000,000 values, expected one record",
        ),
    ),
    "JSON of escapes": (
        lambda: numbers(b'{"a": 1, "x": "', rb"\",", b'"}'),
        *("tabular", "json_preprocessor", {"fields": ["a"]}, "(1,)"),
    ),
    "CSV of columns": (
        lambda: numbers(b"", b"10,", b"\n"),
        *("tabular", "csv_preprocessor", {"columns": ["10"]}, "CSV is 60,000,001 bytes, at most 8,388,608 are read"),
    ),
    "CSV of rows": (
        lambda: b"a\n" + 2_000_000 * b"1\n",
        *("tabular", "csv_preprocessor", {"columns": ["a"]}, "CSV has more than 1 record, expected 1"),
    ),
    "CSV of quoted lines": (
        lambda: 1_600_000 * b'"\n1",' + b"\n",
        *("tabular", "csv_preprocessor", {"columns": ["a"]}, "CSV has 0 records, expected 1"),
    ),
    "the largest CSV": (
        lambda: 1_300_000 * b"10," + b"a\n" + 1_300_000 * b"11," + b"7\n",
        *("tabular", "csv_preprocessor", {"columns": ["a"]}, "(1,)"),
    ),
    "an image of one line": (
        lambda: png(64_000_000, 1, colour=0, idat=zlib.compress(bytes(64_000_001))),
        *("image", "image_preprocessor", {"resize": "pad"}, "image has 64000000 x 1 pixels, at most 2,000,000 a side"),
    ),
    "an image of the longest lines": (
        lambda: png(2_000_000, 32, colour=0, idat=zlib.compress(bytes(32 * 2_000_001))),
        *("image", "image_preprocessor", {"resize": "pad", "interpolation": "lanczos"}, "(224, 224, 3)"),
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("name", CASES)
def test_the_peak_is_bounded(name: str, tmp_path: Path) -> None:
    make, module, factory, options, says = CASES[name]
    (tmp_path / "data").write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, module, factory, json.dumps(options), str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    said, peak = done.stdout.splitlines()
    assert said.startswith(says)
    assert int(peak) < 700 * MIB, f"{name}: {int(peak) / MIB:.0f} MiB"
