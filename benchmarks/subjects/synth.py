"""Warm `cdk synth`: of the reference app against a hand-written one, and of 50 pipelines against few."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import ROOT, Figure, Sample, alternate, node_environment, rounded, run
from benchmarks.prepare import MODELS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from benchmarks.harness import Settings

ROUNDS = 5
PIPELINE_ROUNDS = 3
PIPELINES = (1, 25, 50)
PER_STACK = 12
MOST_RESOURCES = 500
MOST_BYTES = 1_000_000
HANDWRITTEN = Path(__file__).parents[1] / "contenders" / "handwritten_app.py"
MANY = Path(__file__).parents[1] / "apps" / "pipelines.py"
REFERENCE = ROOT / "app.py"


def measure(settings: Settings) -> list[Figure]:
    """Return the figures."""
    return [*_against_handwritten(settings), _growth(settings)]


def _against_handwritten(settings: Settings) -> list[Figure]:
    reference, other, assets = compare_resources(settings)
    contenders = {
        "ours": timed(REFERENCE, reference),
        "handwritten": timed(HANDWRITTEN, other, ASSETS=str(assets)),
    }
    found = alternate(contenders, settings.rounds(ROUNDS))
    ours, theirs = (Sample.of(found[name]["seconds"]) for name in ("ours", "handwritten"))
    return [
        Figure(
            "synth/reference",
            "warm `cdk synth` of the reference app",
            "a hand-written CDK app with the same resources and plain assets",
            "s",
            ours,
            theirs,
            "growth",
            1.10,
        )
    ]


def compare_resources(settings: Settings) -> tuple[Path, Path, Path]:
    """Synthesize both apps once, and return their assemblies and the files of the hand-written one.

    Raises
    ------
    SystemExit
        If they differ in a resource, or in what properties it has.
    """
    ours = settings.work / "reference.out"
    _synth(REFERENCE, ours)
    return (ours, *handwritten(ours, settings.work))


def handwritten(ours: Path, work: Path) -> tuple[Path, Path]:
    """Synthesize the hand-written app once, and return its assembly and its files.

    Parameters
    ----------
    ours
        The assembly of the reference app.
    work
        Folder for the result.

    Raises
    ------
    SystemExit
        If it differs from the reference app in a resource, or in what properties it has.
    """
    theirs = work / "handwritten.out"
    assets = handwritten_assets(ours, work / "handwritten.assets")
    _synth(HANDWRITTEN, theirs, ASSETS=str(assets))
    one, other = described(ours), described(theirs)
    if one != other:
        raise SystemExit(f"the hand-written app is another: ours has {one - other}, it has {other - one}")
    return theirs, assets


def handwritten_assets(assembly: Path, target: Path) -> Path:
    """Copy what a hand-written app would have as files: the zips of the functions, and the workflow's definition.

    Parameters
    ----------
    assembly
        The assembly of the reference app.
    target
        Folder to fill.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for logical_id, resource in resources(assembly).items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Lambda::Function":
            name = properties["Handler"].split(".")[-2]
            shutil.copy(assembly / f"asset.{properties['Code']['S3Key']}", target / f"{name}.zip")
            settings = {
                "handler": properties["Handler"],
                "memory_size": properties["MemorySize"],
                "environment": {
                    name: value for name, value in properties["Environment"]["Variables"].items() if _is_text(value)
                },
            }
            (target / f"{name}.json").write_text(json.dumps(settings), "utf-8")
        elif resource["Type"] == "AWS::StepFunctions::StateMachine":
            (target / "workflow.asl.json").write_text(_definition(properties["DefinitionString"], logical_id), "utf-8")
    return target


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _definition(value: Any, machine: str) -> str:  # noqa: ANN401
    """Return a definition with ``${Name}`` where functions and the queue are, as a file for the console has it."""
    separator, parts = value["Fn::Join"]
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif part == {"Ref": "AWS::Partition"}:
            texts.append("aws")
        else:
            name = re.search(r"(Preprocess|Inference|Postprocess)Alias|(DeadLetterQueue)", part["Ref"])
            if name is None:
                raise SystemExit(f"the definition of {machine} has {part}, which the hand-written app does not know")
            texts.append(f"${{{name[1] or name[2]}}}")
    return separator.join(texts)


def resources(assembly: Path) -> dict[str, dict[str, Any]]:
    """Return the resources of an assembly's stacks."""
    found: dict[str, dict[str, Any]] = {}
    for template in sorted(assembly.glob("*.template.json")):
        stack = json.loads(template.read_text("utf-8"))["Resources"]
        found |= {f"{template.name}/{name}": resource for name, resource in stack.items()}
    return found


def described(assembly: Path) -> Counter[tuple[str, tuple[str, ...]]]:
    """Count resources by type and the names of their properties."""
    return Counter(
        (resource["Type"], tuple(sorted(resource.get("Properties", {}))))
        for resource in resources(assembly).values()
        if resource["Type"] != "AWS::CDK::Metadata"
    )


def _growth(settings: Settings) -> Figure:
    counts = (1, 3, 6) if settings.quick else PIPELINES
    built = _built_once(settings)
    contenders = {
        str(count): timed(
            MANY, settings.work / f"pipelines-{count}.out", PIPELINES=str(count), PER_STACK=str(PER_STACK)
        )
        for count in counts
    }
    found = alternate(contenders, settings.rounds(PIPELINE_ROUNDS), warm_up=0)
    medians = {int(count): Sample.of(values["seconds"]) for count, values in found.items()}
    most = counts[-1]
    largest = [_template_sizes(settings.work / f"pipelines-{count}.out") for count in counts][-1]
    if largest["resources"] > MOST_RESOURCES or largest["bytes"] > MOST_BYTES:
        raise SystemExit(f"a template has {largest}: CloudFormation takes no such stack")
    first, middle = counts[0], counts[-2]
    early = (medians[middle].median - medians[first].median) / (middle - first)
    late = (medians[most].median - medians[middle].median) / (most - middle)
    return Figure(
        "synth/pipelines",
        f"warm `cdk synth`, seconds for each further pipeline, from {middle} to {most} in one app that share a model",
        f"the same from {first} to {middle}",
        "s",
        Sample(rounded(late), medians[most].spread, medians[most].rounds),
        Sample(rounded(early), medians[middle].spread, medians[middle].rounds),
        "growth",
        1.15,
        {
            "seconds": {str(count): sample.median for count, sample in medians.items()},
            "largest_template": largest,
            "models_built": built,
        },
    )


def _built_once(settings: Settings) -> int:
    """Return how often the model is built, and fail unless it is once, when several pipelines find an empty cache."""
    cache = settings.work / "empty-cache"
    shutil.rmtree(cache, ignore_errors=True)
    output = settings.work / "empty-cache.out"
    done = _synth(MANY, output, PIPELINES="4", PER_STACK="2", CDK_INFERENCE_CACHE=str(cache))
    shutil.rmtree(cache, ignore_errors=True)
    built = (done.stdout + done.stderr).count("not in the cache, building")
    if built != 1:
        raise SystemExit(f"four pipelines built their model {built} times")
    return built


def _template_sizes(assembly: Path) -> dict[str, int]:
    templates = [path.read_bytes() for path in assembly.glob("*.template.json")]
    return {
        "resources": max(len(json.loads(template)["Resources"]) for template in templates),
        "bytes": max(map(len, templates)),
        "templates": len(templates),
    }


def timed(app: Path, output: Path, *, python: str = sys.executable, **variables: str) -> Callable[[], dict[str, float]]:
    """Return what synthesizes an app once, and says how many seconds that took."""

    def once() -> dict[str, float]:
        began = time.perf_counter()
        _synth(app, output, python=python, **variables)
        return {"seconds": time.perf_counter() - began}

    return once


def _synth(
    app: Path, output: Path, *, python: str = sys.executable, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = node_environment(RECIPE=str(MODELS["digits"][1]), **variables)
    command = [str(Path(sys.executable).with_name("cdk")), "synth", "--quiet", "--no-notices"]
    return run([*command, "--app", f"{python} {app}", "--output", str(output)], env=environment, cwd=ROOT)
