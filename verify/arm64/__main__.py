"""Run the packaged functions for arm64 and Python 3.14 under emulation, and compare them with this machine's.

``make verify-arm64``. Every kind of function is bundled as a synth bundles it, once for AWS and once for this machine.
Each runs in a separate process on the same objects, and must answer the same. It is QEMU that runs them, not Graviton.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cdk_inference.bundling.bytecode import COMPILERS
from cdk_inference.common.cache import cache_root
from cdk_inference.common.platform import CONTEXT_KEY, LambdaPlatform
from cdk_inference.local.emulator.emulator import Emulator
from verify import emulators
from verify.arm64.cases import CASES, MODEL_CACHE, ROOT, STACK
from verify.arm64.comparison import EXACT, Comparison, Limits, compare, decoded, plain_row
from verify.arm64.functions import Assembly
from verify.arm64.objects import objects_for
from verify.arm64.runner import Answer, FunctionError, Services, host_python
from verify.debian import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from verify.arm64.functions import Function

TARGET = LambdaPlatform()
"""The platform to verify: the default of every function."""

_MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
_OTHER, _UNAVAILABLE = 1, 69  # exit codes; the second is EX_UNAVAILABLE of sysexits.h, which no tool here uses
_WIDTH = 140  # columns of the table where there is no terminal to ask


@dataclass(frozen=True)
class Row:
    """A function, and what came of it.

    Parameters
    ----------
    function
        Pipeline and stage.
    package
        The contents of the package.
    machine, python
        The machine and Python that it reports.
    comparison
        With what this machine answered.
    seconds
        The time of its process under emulation.
    """

    function: str
    package: str
    machine: str
    python: str
    comparison: Comparison
    seconds: float


def main() -> int:
    """Verify, print a table, and return the exit code: 0 if all functions answer the same, 69 without an emulator."""
    parser = argparse.ArgumentParser(prog="python -m verify.arm64", description=__doc__)
    parser.add_argument("--cpu", default=emulators.GRAVITON2, help="CPU to emulate (default: %(default)s, Graviton2's)")
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    try:
        rows = verify(arguments.cpu)
    except UnavailableError as error:
        console.print(f"arm64 was not verified: {error}", soft_wrap=True, markup=False)
        return _UNAVAILABLE
    except FunctionError as error:
        console.print(f"error: on this machine, {error}", soft_wrap=True, markup=False)
        return _OTHER
    show(rows, arguments.cpu, console)
    return 0 if all(row.comparison.same for row in rows) else _OTHER


def verify(cpu: str = emulators.GRAVITON2) -> list[Row]:
    """Run every function on the emulated CPU and on this machine.

    Parameters
    ----------
    cpu
        Name of the CPU, as QEMU calls it.

    Raises
    ------
    UnavailableError
        If there is no emulator or no Python for arm64.
    FunctionError
        If a function does not answer on this machine, with which all are compared.
    """
    python = emulators.python(cpu)
    with (
        tempfile.TemporaryDirectory(prefix="cdk-inference-verify-") as folder,
        Emulator() as emulator,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        target, host = pool.map(lambda each: synthesized(Path(folder) / each[0], each[1]), _platforms().items())
        services = {name: Services(emulator.endpoint, name) for name in ("arm64", "host")}
        services["arm64"].publish(target)
        services["host"].publish(host)
        verifier = _Verifier(services["arm64"], services["host"], target, host, python)
        events = dict(pool.map(verifier.events, CASES))
        runs = [
            pool.submit(verifier.row, pipeline, stage, events[pipeline][stage])
            for pipeline, stages in CASES.items()
            for stage in stages
        ]
        return [run.result() for run in runs]


def show(rows: Iterable[Row], cpu: str, console: Console) -> None:
    """Print the table."""
    table = Table(title=f"functions for {TARGET.architecture}, emulated ({cpu}), compared with this machine")
    for heading in ("function", "package", "architecture", "Python", "result", "difference", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", overflow="fold")
    for row in rows:
        result = "[green]same" if row.comparison.same else "[red]differs"
        seconds = f"{row.seconds:.1f}"
        difference = str(row.comparison).replace("[", r"\[")
        table.add_row(row.function, row.package, row.machine, row.python, result, difference, seconds)
    console.print(table)
    console.print("Not run: images (delivery by image, GPU functions) need Docker.", highlight=False)


def synthesized(folder: Path, target: LambdaPlatform) -> Assembly:
    """Synthesize the app for a platform, in a separate process, and return what was written.

    Its bundles have a separate cache: with bytecode where other synths on this machine have none, they would change
    the hashes that those write. Models are the same for all, and shared.
    """
    context = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "CDK_OUTDIR": str(folder),
        "CDK_CONTEXT_JSON": json.dumps({**context, CONTEXT_KEY: str(target)}),
        "CDK_INFERENCE_CACHE": str(cache_root() / "verify"),
        MODEL_CACHE: str(cache_root()),
        COMPILERS: os.pathsep.join(filter(None, [os.environ.get(COMPILERS), str(emulators.compiler())])),
    }
    if (node := binaries / "node").exists():
        environment["JSII_NODE"] = str(node)
    subprocess.run([sys.executable, "-m", "verify.arm64.app"], cwd=ROOT, env=environment, stdout=sys.stderr, check=True)
    return Assembly(folder, STACK)


def _platforms() -> dict[str, LambdaPlatform]:
    """Return the platform that is verified, and the one whose answers are right."""
    host = LambdaPlatform.host()
    # Wheels and Python of this machine, and the model that is built for arm64: packages differ in what is compared.
    # A machine that would saturate its sums takes its own model instead.
    architecture = host.architecture if emulators.saturates() else TARGET.architecture
    return {"arm64": TARGET, "host": LambdaPlatform(host.python, architecture, wheels=host.wheels)}


class _Verifier:
    """Runs functions here and under emulation."""

    def __init__(
        self, target: Services, host: Services, target_assembly: Assembly, host_assembly: Assembly, python: list[str]
    ) -> None:
        self._target, self._host = target, host
        self._functions, self._host_functions = target_assembly.functions(), host_assembly.functions()
        self._python = python
        self._answers: dict[tuple[str, str], Answer] = {}

    def events(self, pipeline: str) -> tuple[str, dict[str, Any]]:
        """Take objects through a pipeline on this machine, and return the event of each of its stages."""
        first = next(iter(CASES[pipeline]))
        bucket = self._host.create_bucket(f"inbox-{pipeline.lower()}")
        objects = objects_for(pipeline, self._host_functions[pipeline, first])
        event: dict[str, Any] = {"messages": self._host.put(bucket, objects)}
        events = {}
        for stage in CASES[pipeline]:
            events[stage] = event
            answer = self._here(pipeline, stage, event)
            if stage == "Preprocess":
                read, event = answer, {"groups": answer["groups"]}
            elif stage == "Inference":
                event = {"items": read["items"], "rejected": read["rejected"], **answer}
        return pipeline, events

    def row(self, pipeline: str, stage: str, event: dict[str, Any]) -> Row:
        """Run a function under emulation, and compare its answer."""
        function = self._functions[pipeline, stage]
        package = CASES[pipeline][stage] + (f", {function.precision}" if function.precision else "")
        name = f"{pipeline} {stage.lower()}"
        try:
            answer = self._target.run(function, [event], self._python)
        except FunctionError as error:
            return Row(name, package, "", "", Comparison(problems=[str(error)]), 0.0)
        comparison = compare(
            self._seen(self._host, self._host_functions[pipeline, stage], self._answers[pipeline, stage]),
            self._seen(self._target, function, answer),
            limits_for(function),
        )
        comparison.problems += unfit(function, answer)
        return Row(name, package, answer.machine, answer.python, comparison, answer.seconds)

    def _here(self, pipeline: str, stage: str, event: dict[str, Any]) -> dict[str, Any]:
        function = self._host_functions[pipeline, stage]
        answer = self._host.run(function, [event], host_python())
        self._answers[pipeline, stage] = answer
        found: dict[str, Any] = answer.answers[0]
        return found

    @staticmethod
    def _seen(services: Services, function: Function, answer: Answer) -> object:
        """Return all that a function did: what it answered, and the rows that it wrote."""
        seen = {"answers": decoded(answer.answers, services.read)}
        if "RESULTS_TABLE" in function.variables:
            exact = function.precision is None
            seen["rows"] = [plain_row(row, ranks=exact) for row in services.rows(function)]
        return seen


def limits_for(function: Function) -> Limits:
    """Return how far the answers of a function may be apart.

    Reading and tokenizing is exact everywhere. exp and sums of floats may come out differently in their last bits. By
    such a bit an int8 model rounds a float to another whole number, and then its outputs change by percents.
    """
    if function.precision is None:
        return EXACT if function.stage == "Preprocess" else Limits(relative=1e-6)
    if function.precision == "float32":
        return Limits(relative=1e-5, cosine=0.999999)
    return Limits(relative=0.1, absolute=0.02, cosine=0.99)


def unfit(function: Function, answer: Answer) -> list[str]:
    """Return in what a run was not one of the package as it ships: on what it ran, and what it had to compile."""
    problems = []
    if answer.machine != _MACHINES[TARGET.architecture]:
        problems.append(f"ran on {answer.machine}")
    if not answer.python.startswith(f"{TARGET.python}."):
        problems.append(f"ran on Python {answer.python}")
    tag = f"cpython-{TARGET.python.replace('.', '')}"
    if set(function.bytecode()) != {tag}:
        problems.append(
            f"the package has bytecode for {', '.join(function.bytecode()) or 'no Python'}, not {tag} alone"
        )
    if answer.compiled:
        problems.append(f"Python compiled {len(answer.compiled)} modules, such as {Path(answer.compiled[0]).name}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
