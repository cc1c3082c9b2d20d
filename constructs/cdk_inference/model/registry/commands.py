"""The commands of ``python -m cdk_inference.model`` that push, pull and list built models."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cdk_inference.model.project import build_project, open_project
from cdk_inference.model.recipe.precision import Auto
from cdk_inference.model.recipe.targets import DEFAULT_ARCHITECTURE, Architecture
from cdk_inference.model.registry.registry import Registry

_WIDE = 200  # where nobody looks, nothing is folded
_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)

Address = Annotated[
    str, typer.Option("--registry", envvar="CDK_INFERENCE_REGISTRY", help="A folder, or s3://BUCKET/PREFIX.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Folder = Annotated[Path | None, typer.Option("--cache", help="Cache root, by default the user's.", file_okay=False)]


def push(
    recipe: Annotated[Path, typer.Argument(help="File that defines RECIPE.")],
    registry: Address,
    architecture: Annotated[
        Architecture, typer.Option("--architecture", help="CPUs of the functions that run the model.")
    ] = DEFAULT_ARCHITECTURE,
    frozen: Annotated[bool, typer.Option("--frozen", help="Fail if no lock fits.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another build of the same version.")] = False,
    as_json: Json = False,
    cache: Folder = None,
) -> None:
    """Build a recipe, or take it from the cache, and store the model, its card and its lock in a registry."""
    project = open_project(recipe, cache=cache, architecture=architecture)
    built = build_project(project, frozen_lock=frozen)
    locked = isinstance(project.recipe.precision, Auto) and project.lock_file.is_file()
    model = Registry(registry).push(built, lock=project.lock_file if locked else None, replace=replace)
    if as_json:
        _out.print_json(json.dumps(asdict(model)))
    else:
        _out.print(f"{model.name} {model.version}, {model.size / 1e6:.2f} MB, is in {registry}")


def pull(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[str, typer.Argument(help="Its version.")],
    registry: Address,
    output: Annotated[Path | None, typer.Option(help="Folder to copy the model and its records to.")] = None,
    cache: Folder = None,
) -> None:
    """Fetch a model into the cache, so that the next synth needs no registry."""
    built = Registry(registry).pull(name, version, cache=cache)
    if output is not None:
        shutil.copytree(built.path.parent, output, dirs_exist_ok=True)
    _out.print(str(output or built.path))


def list_models(
    registry: Address,
    name: Annotated[str | None, typer.Argument(help="Only the versions of this model.")] = None,
    as_json: Json = False,
) -> None:
    """Show the models of a registry, the newest last."""
    models = Registry(registry).models(name)
    if as_json:
        _out.print_json(json.dumps([asdict(model) for model in models]))
        return
    table = Table("model", "version", "MB", "pushed")
    for model in models:
        table.add_row(model.name, model.version, f"{model.size / 1e6:.2f}", model.pushed_at[:19])
    _out.print(table)
