"""Opens a language model of half a billion parameters, and decides once or writes.

`python -m benchmarks.language decide [FOLDER]`, or `write` in place of `decide`. Ours is the artifact in blocks of 4
bits, opened by the engine of the functions. The rival is transformers, with weights of float32 and of bfloat16, and to
write also onnxruntime-genai with blocks of 4 bits. Each round is a fresh process; the files are in the page cache for
all. The build takes some minutes and 5 GB of memory. The folder keeps the result. `decide-larger` opens one
and a half billion parameters, without a rival.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from platformdirs import user_cache_path
from uv import find_uv_bin

from benchmarks.harness import ROOT, alternate, machine, run
from cdk_inference import LambdaPlatform
from cdk_inference.model.files import weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE = Path(__file__).parent
ROUNDS = 7
PROMPT = [number * 37 % 150_000 for number in range(64)]
PACKAGES = ("transformers==5.24.0", "onnxruntime-genai==0.18.0")
RIVALS = ("float32", "bfloat16")

_GOAL = 1 / 3
_MOST_MEMORY = 1.3


class Task(NamedTuple):
    """A task that both sides do.

    Attributes
    ----------
    recipe
        The file of the recipe.
    name
        The name of its model.
    ours, theirs
        The scripts of the two sides; the other may not take part.
    """

    recipe: str
    name: str
    ours: str
    theirs: str | None


TASKS = {
    "decide": Task("recipe.py", "half-a-billion", "ours.py", "theirs.py"),
    "decide-larger": Task("larger.py", "one-and-a-half-billion", "ours.py", None),
    "write": Task("writer_recipe.py", "half-a-billion-writes", "ours_writes.py", "theirs_writes.py"),
}


def main() -> None:
    """Build, measure and print."""
    asked, *folder = sys.argv[1:] or ["decide"]
    task = TASKS[asked]
    work = Path(folder[0]) if folder else user_cache_path("cdk-inference") / "benchmarks" / "language"
    packages = work / "packages"
    if not packages.is_dir():
        made = packages.with_suffix(".partial")
        constraints = ROOT / "requirements" / "constraints.txt"
        run([find_uv_bin(), "pip", "install", "--target", made, "--constraint", constraints, *PACKAGES])
        made.rename(packages)
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (packages, ROOT / "lambda_src")))}
    artifact = built(work, variables, task)
    threads = os.cpu_count() or 1
    contenders = {"ours": process(task.ours, weights.entry(artifact), threads, variables)}
    for kind in RIVALS if task.theirs else ():
        if not (work / kind).is_dir():
            saved = work / f"{kind}.partial"
            run([sys.executable, HERE / "save.py", saved, kind], env=variables)
            saved.rename(work / kind)
        contenders[kind] = process(task.theirs, work / kind, threads, variables)
    if asked == "write":
        if not (work / "genai").is_dir():
            saved = work / "genai.partial"
            run([sys.executable, HERE / "genai_save.py", work / "bfloat16", saved], env=variables)
            saved.rename(work / "genai")
        contenders["genai"] = process("genai_writes.py", work / "genai", threads, variables)
    found = alternate(contenders, ROUNDS)
    show({name: {what: statistics.median(each) for what, each in one.items()} for name, one in found.items()}, artifact)


def built(work: Path, variables: Mapping[str, str], task: Task) -> Path:
    """Return the folder of the artifact for this machine's architecture; print what it takes to make it."""
    artifact = work / task.name
    if not artifact.is_dir():
        command = [sys.executable, "-m", "cdk_inference.model", "build", HERE / task.recipe]
        options = ["--architecture", LambdaPlatform.host().architecture, "--cache", work / "cache"]
        began = time.perf_counter()
        run([*command, *options], env=variables)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        print(f"built in {time.perf_counter() - began:.0f} s, with a peak of {peak / 1e9:.1f} GB")  # noqa: T201
        (entry,) = (work / "cache" / "models").glob(f"{task.name}-[0-9a-f]*/artifact")
        shutil.copytree(entry, artifact)
    return artifact


def process(script: str, model: Path, threads: int, variables: Mapping[str, str]) -> Callable[[], dict[str, float]]:
    """Return what runs a script once on a model, and reads its measurements."""
    command = [sys.executable, HERE / script, model, str(threads), json.dumps(PROMPT)]

    def measure() -> dict[str, float]:
        measured: dict[str, float] = json.loads(run(command, env=variables).stdout.splitlines()[-1])
        return measured

    return measure


def show(medians: Mapping[str, Mapping[str, float]], artifact: Path) -> None:
    """Print the medians, and what the goals are about."""
    size = weights.size(artifact)
    facts = machine()
    print(f"{facts['cpu']}, {facts['cpus']} cores, medians of {ROUNDS} fresh processes each")  # noqa: T201
    for name, one in medians.items():
        rate = f", writes {one['rate']:.1f} tokens a second" if "rate" in one else ""
        print(  # noqa: T201
            f"{name:9} opens in {one['open']:.2f} s, has its first answer after {one['first']:.2f} s{rate}, "
            f"peaks at {one['peak'] / 1e6:,.0f} MB"
        )
    ours = medians["ours"]
    if rivals := [one["open"] for name, one in medians.items() if name != "ours"]:
        share = ours["open"] / min(rivals)
        print(f"opens in {share:.2f} of the time of the faster rival (goal: {_GOAL:.2f})")  # noqa: T201
    print(  # noqa: T201
        f"peaks at {ours['peak'] / size:.2f} times its {size / 1e6:,.0f} MB of weights (goal: {_MOST_MEMORY})"
    )


if __name__ == "__main__":
    main()
