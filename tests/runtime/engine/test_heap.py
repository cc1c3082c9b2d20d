"""Large pages where a model is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "lambda_src"
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Blocks of the size of packed weights: without the mark, glibc maps each of them on its own.
_USE = """
import ctypes, re
from inference_runtime.engine.heap import prefer_huge_pages
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
before = resident()
{mark}
reserved = resident()
blocks = [library.malloc(590_000) for _ in range(24)]
# Whether the system has large pages to give depends on what else runs; that it is asked for them does not.
mappings = re.findall(r"(?ms)^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags:(.*?)$", open("/proc/self/smaps").read())
marked = [range(int(start, 16), int(end, 16)) for start, end, flags in mappings if "hg" in flags.split()]
print(round(reserved - before), sum(any(block in mapping for mapping in marked) for block in blocks))
"""


def _used(mark: str) -> tuple[int, int]:
    """Return the MiB that the mark took, and how many of 24 blocks lie where large pages are asked for."""
    done = subprocess.run(
        [sys.executable, "-c", _USE.format(mark=mark)],
        env={"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=True,
    )
    taken, marked = done.stdout.split()
    return int(taken), int(marked)


@pytest.mark.skipif(
    not THP.is_file() or "[madvise]" not in THP.read_text(), reason="the system does not leave the choice to processes"
)
def test_what_a_model_packs_lies_where_large_pages_are_asked_for() -> None:
    assert _used("")[1] == 0
    taken, marked = _used("prefer_huge_pages()")
    assert taken <= 2  # what is reserved is address space alone
    assert marked >= 20


def test_a_c_library_without_these_functions_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from inference_runtime.engine import heap

    monkeypatch.setattr(heap, "CDLL", lambda _: object())
    heap.prefer_huge_pages()
