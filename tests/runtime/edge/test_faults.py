"""Faults of a real disk that is full, next to a network that comes back."""

from __future__ import annotations

import random
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.runtime.edge.device import Device, Proxy


@pytest.fixture
def small_disk(device: Device) -> Iterator[Path]:
    """A small disk for the state, on which 3 MB fit besides the reserve."""
    device.state.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=200", "none", str(device.state)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system cannot be mounted: run this as root")
    yield device.state
    if device.process is not None and device.process.poll() is None:
        device.kill()
    subprocess.run(["umount", str(device.state)], check=True)


@pytest.mark.parametrize("clean", [False, True], ids=["killed", "stopped"])
def test_a_disk_that_others_fill_keeps_nothing_from_being_sent(
    device: Device,
    small_disk: Path,
    network: Proxy,
    rows: Callable[[], dict[str, Any]],
    uploaded: Callable[[], dict[str, Any]],
    clean: bool,
) -> None:
    """A device whose network comes back must make room by itself: nobody may visit it for months."""
    chance = random.Random(18)  # noqa: S311 - no secret
    device.variables |= {"MAX_MESSAGES": "3", "RESULTS_FOLDER": str(small_disk / "results")}
    network.cut()
    names = [f"{number:03}.json" for number in range(40)]
    for number, name in enumerate(names):
        answer = b"[0, %d]" % (number + 9) if number % 2 else b"[0.1, 0.%d]" % number
        device.put(name, answer + b" " * chance.randrange(400_000))
    device.start()
    device.wait(lambda: device.status().get("full"))
    assert "the disk is full (" in device.log
    assert len(device.files()) > 10
    with suppress(OSError), (small_disk / "of another program").open("wb") as filler:
        while True:
            filler.write(bytes(10_000))
            filler.flush()
    if clean:
        assert device.stop() == 0
    else:
        device.kill()
    device.start()
    network.restore()
    device.wait(lambda: len(rows()) + len(uploaded()) == len(names))
    device.wait(lambda: not device.files())
    assert sorted(rows()) == names[1::2]
    assert sorted(key.rpartition("/")[2] for key in uploaded()) == names[::2]
    assert device.stop() == 0
    assert device.status()["counts"]["failed"] == 0
    assert "space that was set aside is used" in device.log
    assert not list((small_disk / "spool").iterdir())
