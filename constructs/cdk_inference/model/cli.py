"""The command line: ``python -m cdk_inference.model``.

Exit codes: 0 all is well, 1 something failed or did not pass its gate, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import webbrowser
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from cdk_inference.common.cache import cache_root, make_cache
from cdk_inference.common.store import entries, limit_bytes, prune
from cdk_inference.common.terminal import say
from cdk_inference.costs.memory import choices, least_memory, recommend
from cdk_inference.errors import InferenceError, ModelBuildError
from cdk_inference.model.files import weights
from cdk_inference.model.process import run_build
from cdk_inference.model.project import BuiltModel, Project, build_model, open_project, request
from cdk_inference.model.recipe.precision import DynamicInt8, Float16, Float32, StaticInt8, WeightOnly
from cdk_inference.model.recipe.structure import structure
from cdk_inference.model.recipe.targets import DEFAULT_ARCHITECTURE, Architecture
from cdk_inference.model.records.lock import read_lock
from cdk_inference.model.records.manifest import Measured, Observation
from cdk_inference.model.registry.commands import list_models, pull, push

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cdk_inference.model.recipe.precision import Pinned

app = typer.Typer(
    help="Build models and judge them, without CDK.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="The cache of models, passes, files and bundles.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
app.command()(push)
app.command()(pull)
app.command("list")(list_models)

_WIDE = 200  # without a terminal, nothing is folded
_INTERRUPTED = 130
_PRECISIONS: dict[str, Callable[[], Pinned]] = {
    "float32": Float32,
    "float16": Float16,
    "static_int8": StaticInt8,
    "dynamic_int8": DynamicInt8,
    "weight_only": WeightOnly,
}

_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)

Recipe = Annotated[Path, typer.Argument(help="File that defines RECIPE.")]
PrecisionKind = Literal["float32", "float16", "static_int8", "dynamic_int8", "weight_only"]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]
Cpu = Annotated[Architecture, typer.Option("--architecture", help="CPUs of the functions that run the model.")]
Folder = Annotated[Path | None, typer.Option("--cache", help="Cache root, by default the user's.", file_okay=False)]


@app.command()
def build(
    recipe: Recipe,
    search: Annotated[bool, typer.Option("--search", help="Search again, whatever the lock says.")] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="Fail if no lock fits.")] = False,
    precision: Annotated[PrecisionKind | None, typer.Option(help="Instead of the recipe's.")] = None,
    architecture: Cpu = DEFAULT_ARCHITECTURE,
    as_json: Json = False,
    cache: Folder = None,
) -> None:
    """Build a recipe, or take it from the cache, and show what was tried."""
    pinned = None if precision is None else _PRECISIONS[precision]()
    built = build_model(
        recipe, cache=cache, precision=pinned, architecture=architecture, search=search, frozen_lock=frozen
    )
    report = json.loads(built.report.read_text("utf-8"))
    if as_json:
        _out.print_json(json.dumps({"path": str(built.path), "version": built.version, **report}))
        return
    _show(report["name"], report["gate"]["metric"], report["candidates"])
    _out.print(f"quality holds on {' and '.join(built.manifest.exact_on)}")
    _out.print(f"artifact {built.path}\ncard     {built.card}")


@app.command()
def evaluate(
    recipe: Recipe,
    model: Annotated[
        Path | None, typer.Option(help="ONNX file to judge, by default what the recipe builds.", dir_okay=False)
    ] = None,
    architecture: Cpu = DEFAULT_ARCHITECTURE,
    as_json: Json = False,
    cache: Folder = None,
) -> None:
    """Judge a model by the recipe's gate on this machine: the data are read, and the model runs, again."""
    if model is None:
        model = weights.entry(build_model(recipe, cache=cache, architecture=architecture).path)
    elif not model.is_file():
        raise ModelBuildError(f"model must be an existing file, got {model}")
    project = open_project(recipe, cache=cache, architecture=architecture)
    result = _run(project, "evaluate", "judgement.json", model=str(model.absolute()))
    if as_json:
        _out.print_json(json.dumps(result))
    else:
        metric = result["metric"]
        _out.print(
            f"{metric['name']} {metric['quantized']:.4g} over {metric['samples']} samples "
            f"(float32 {metric['baseline']:.4g}, gate {metric['gate']:.4g}), cosine {result['cosine']:.4f}, "
            f"{result['size_bytes'] / 1e6:.2f} MB, {result['latency_ms']:.3g} ms "
            f"({result['speedup']:.2f} times as fast as float32); quality holds on {' and '.join(result['exact_on'])}"
        )
    if result["failure"]:
        raise ModelBuildError(result["failure"])


@app.command()
def compare(
    recipe: Recipe, architecture: Cpu = DEFAULT_ARCHITECTURE, as_json: Json = False, cache: Folder = None
) -> None:
    """Measure the model in every precision, on this machine. Nothing is shipped or recorded."""
    project = open_project(recipe, cache=cache, architecture=architecture)
    candidates = _run(project, "compare", "candidates.json")
    if as_json:
        _out.print_json(json.dumps(candidates))
    else:
        _show(project.recipe.name, project.recipe.evaluation.metric, candidates)


@app.command()
def baseline(recipe: Recipe, architecture: Cpu = DEFAULT_ARCHITECTURE, cache: Folder = None) -> None:
    """Add to a lock what a drift monitor compares with, without a new search. The decision stays as it is."""
    project = open_project(recipe, cache=cache, architecture=architecture)
    lock = read_lock(project.lock_file)
    if lock is None:
        raise ModelBuildError(f"{project.lock_file} must exist, got none; build the recipe, which writes it")
    built = build_model(recipe, cache=cache, architecture=architecture, frozen_lock=True)
    found = _run(project, "baseline", "baseline.json", model=str(weights.entry(built.path).absolute()))
    text = replace(lock, baseline=structure(found, tuple[Observation, ...])).to_json()
    project.lock_file.write_text(text, "utf-8")
    _out.print(f"{project.lock_file} compares {len(found)} statistics; commit it")


@app.command()
def card(
    recipe: Recipe,
    output: Annotated[Path | None, typer.Option(help="Folder to copy card.html and card.md to.")] = None,
    architecture: Cpu = DEFAULT_ARCHITECTURE,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    cache: Folder = None,
) -> None:
    """Write the model card of what a recipe builds, as HTML and as Markdown."""
    built = build_model(recipe, cache=cache, architecture=architecture)
    files = _write_card(built, output)
    for file in files:
        _out.print(str(file))
    if show:
        webbrowser.open(files[0].as_uri())


@app.command()
def memory(
    recipe: Recipe,
    max_latency_ms: Annotated[float | None, typer.Option(help="The cheapest size that is as fast as this.")] = None,
    architecture: Cpu = DEFAULT_ARCHITECTURE,
    as_json: Json = False,
    cache: Folder = None,
) -> None:
    """Show how much memory a function needs for the model, and which size is worth its price."""
    built = build_model(recipe, cache=cache, architecture=architecture)
    # The manifest has no measurements of a pinned precision, since it must be the same everywhere; this build's count.
    measured = structure(json.loads(built.report.read_text("utf-8"))["measured"], Measured)
    found = choices(measured, architecture=architecture)
    best = recommend(found, max_latency_ms=max_latency_ms)
    least = least_memory(measured)
    if as_json:
        data = {"least_mib": least, "recommended_mib": best.memory_size, "cpu": measured.cpu}
        _out.print_json(json.dumps(data | {"choices": [asdict(each) for each in found]}))
        return
    table = Table(title=f"{built.manifest.name} on {measured.cpu}, one item", title_justify="left")
    for column in ("MiB", "vCPUs", "threads", "ms", "USD per million"):
        table.add_column(column, justify="right")
    table.add_column("")
    for each in found:
        notes = ["recommended"] * (each == best) + ["estimated"] * (not each.measured)
        table.add_row(
            f"{each.memory_size:,}",
            f"{each.vcpus:.2f}",
            str(each.threads),
            f"{each.milliseconds:.3g}",
            f"{each.usd_per_million:.3g}",
            ", ".join(notes),
        )
    _out.print(table)
    _out.print(f"needs {least} MiB; times are of this processor, not of Lambda")


@cache_app.command("info")
def cache_info(cache: Folder = None) -> None:
    """Show what the cache holds."""
    root = cache or cache_root()
    table = Table("kind", "entries", "MB")
    sizes: dict[str, list[int]] = {}
    for entry, _, size in entries(root):
        sizes.setdefault(entry.parent.name, []).append(size)
    for kind, members in sorted(sizes.items()):
        table.add_row(kind, str(len(members)), f"{sum(members) / 1e6:.1f}")
    _out.print(table)
    _out.print(f"{root}, at most {limit_bytes() / 1e9:g} GB")


@cache_app.command("clear")
def cache_clear(cache: Folder = None) -> None:
    """Remove everything but what a build is making."""
    freed = prune(cache or cache_root(), 0, grace=0)
    _out.print(f"freed {freed / 1e6:.1f} MB")


def _write_card(built: BuiltModel, output: Path | None) -> list[Path]:
    files = [built.card, built.card.with_suffix(".md")]
    if not all(file.is_file() for file in files):
        from cdk_inference.model.card import render  # noqa: PLC0415 - needs Jinja and NumPy

        render(built.path.parent)
    if output is None:
        return files
    output.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(file, output)).absolute() for file in files]


def _run(project: Project, mode: str, result: str, **more: str) -> Any:  # noqa: ANN401 - JSON-compatible data
    """Run the build process for something that is not kept."""
    with tempfile.TemporaryDirectory(prefix="cdk-inference-") as folder:
        work = Path(folder) / mode
        work.mkdir()
        make_cache(project.cache)
        say(f"model {project.recipe.name}: measuring")
        run_build(project.recipe.name, {**request(project, mode, fresh=True), **more}, work)
        return json.loads((work / result).read_text("utf-8"))


def _show(name: str, metric: str, candidates: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"{name}, one thread", title_justify="left")
    table.add_column("precision")
    table.add_column("status")
    for column in (metric, "MB", "ms", "speedup"):
        table.add_column(column, justify="right")
    table.add_column("reason")
    for row in candidates:
        table.add_row(
            row["name"],
            row["status"],
            _figure(row["quality"], "{:.4g}"),
            _figure(row["size_bytes"] and row["size_bytes"] / 1e6, "{:.2f}"),
            _figure(row["latency_ms"], "{:.3g}"),
            _figure(row["speedup"], "{:.2f}"),
            row["reason"],
        )
    _out.print(table)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def main() -> None:
    """Run the command line: one line for our own errors, and none for an interruption."""
    try:
        app()
    except InferenceError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # what typer makes of an interruption
            sys.stderr.write("interrupted; what is finished stays in the cache\n")
        raise
