"""Builds one case as a user would, and compares it with float32 by what its users see."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
import time
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from cdk_inference import LambdaPlatform
from cdk_inference.errors import ModelBuildError
from cdk_inference.model import Evaluation, ModelRecipe, OnnxFile, Provenance, build_model
from cdk_inference.model.building.evaluation.opening import open_file
from cdk_inference.model.files.weights import entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from cdk_inference.model import BuiltModel

    Array = np.ndarray[Any, Any]

CASES = Path(__file__).parent / "cases"
ASSETS = Path(__file__).parents[2] / "model_assets"
# The files that cases read besides their code; see model_assets/SOURCES.md.
LINKS = {
    "calibration": ASSETS / "efficientnet_lite" / "calibration",
    "evaluation": ASSETS / "efficientnet_lite" / "evaluation",
    "photographs": ASSETS / "photographs",
    "sentences.txt": ASSETS / "minilm" / "sentences.txt",
}


@dataclass(frozen=True)
class Row:
    """The outcome of a case.

    Parameters
    ----------
    name, kind, seen
        The case's name, kind and comparison.
    model
        Package and version.
    precision
        The precision that was chosen.
    sizes
        Megabytes in float32 and as deployed.
    speedup
        How much faster than float32; None if it was not measured.
    agreement, bound
        How much of what users see is the same, and must be.
    failure
        The failure, if there was one.
    refusal
        Why the model was refused, as expected.
    seconds
        The time of the whole case.
    """

    name: str
    kind: str
    model: str
    seen: str
    precision: str = ""
    sizes: tuple[float, float] = (0.0, 0.0)
    speedup: float | None = None
    agreement: float = 0.0
    bound: float = 0.0
    failure: str = ""
    refusal: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether everything is as it should be."""
        return not self.failure and (bool(self.refusal) or self.agreement >= self.bound)


def names() -> list[str]:
    """Return the names of the cases."""
    return sorted(file.stem for file in CASES.glob("*.py") if "CASE = Case(" in file.read_text("utf-8"))


def prepared(name: str, root: Path) -> tuple[ModuleType, Path]:
    """Return a case and a folder for its recipe: with its code, the model, and what is linked."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in CASES.glob("*.py"):
        shutil.copyfile(file, folder / file.name)
    for link, target in LINKS.items():
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(target)
    for lock in folder.glob("*.lock.json"):  # decisions are for this code; what it measured is cached
        lock.unlink()
    module = _load(folder, name)
    case = module.CASE
    model = folder / "model.onnx"
    loaded = onnx.load(str(distribution(case.package).locate_file(case.file))) if case.file else module.make()
    data = getattr(module, "prepare", lambda each: each)(loaded).SerializeToString(deterministic=True)
    if not model.is_file() or model.read_bytes() != data:
        model.write_bytes(data)
    return module, folder


def judge(name: str, root: Path) -> Row:
    """Build a case for this machine, and compare."""
    began = time.perf_counter()
    module, folder = prepared(name, root)
    case = module.CASE
    row = {"name": name, "kind": case.kind, "seen": case.seen, "bound": case.bound}
    row["model"] = f"{case.package} {distribution(case.package).version}"
    try:
        built = _build(name, module, folder)
    except ModelBuildError as error:
        expected = case.refused and re.search(case.refused, str(error))
        row |= {"refusal" if expected else "failure": str(error)}
    else:
        manifest = built.manifest
        row |= {
            "precision": manifest.precision,
            "sizes": (manifest.baseline_size_bytes / 1e6, manifest.size_bytes / 1e6),
            "speedup": manifest.measured.speedup if manifest.measured else None,
        }
        if case.refused:
            row["failure"] = f"must be refused with {case.refused!r}"
        else:
            row["agreement"] = compare(module, folder / "model.onnx", entry(built.path))
    return Row(**row, seconds=time.perf_counter() - began)


def _build(name: str, module: ModuleType, folder: Path) -> BuiltModel:
    case = module.CASE
    recipe = ModelRecipe(
        name=name,
        source=case.source or OnnxFile("model.onnx"),
        inputs=case.inputs,
        outputs=case.outputs,
        calibration=f"{name}.py:calibration",
        evaluation=Evaluation(
            f"{name}.py:evaluation",
            metric=case.metric,
            max_drop=case.max_drop,
            head=case.head,
            sample_rate=case.sample_rate,
        ),
        provenance=Provenance(license=case.license, origin=f"{case.package} on PyPI"),
        packages=(case.package,),
    )
    return build_model(recipe, folder=folder, architecture=LambdaPlatform.host().architecture)


def compare(module: ModuleType, original: Path, shipped: Path) -> float:
    """Return how much of what users see of two models is the same, on data that neither build nor gate has seen."""
    reference = getattr(module, "reference", None)  # what the package itself computes, if it runs its graph in a loop
    expected = module.use(_run(original, module)) if reference is None else reference()
    found = module.use(_run(shipped, module))
    own = getattr(module, "agreement", None)
    if own is not None:
        return float(own(expected, found))
    if len(expected) != len(found) or not expected:
        return 0.0
    return float(np.mean([one == other for one, other in zip(expected, found, strict=True)]))


def _run(model: Path, module: ModuleType) -> Callable[[dict[str, Array]], dict[str, Array]]:
    session = open_file(model, threads=1)
    outputs = [spec.name for spec in module.CASE.outputs]

    def run(feed: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(outputs, session.run(outputs, feed), strict=True))

    return run


def _load(folder: Path, name: str) -> ModuleType:
    """Import a case as the build does: from its folder, with what lies next to it."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    if spec is None or spec.loader is None:
        raise AssertionError("a Python file has a loader")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def to_json(row: Row) -> str:
    """Return a row as JSON."""
    return json.dumps({**row.__dict__, "good": row.good})
