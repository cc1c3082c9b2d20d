"""Builds one case as a user would, and compares it with float32 by what its users see."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import resource
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from cdk_inference import LambdaPlatform
from cdk_inference.errors import ModelBuildError
from cdk_inference.model import (
    Evaluation,
    ModelRecipe,
    OnnxFile,
    PackageFile,
    Provenance,
    TorchModule,
    build_model,
)
from cdk_inference.model.building.evaluation.opening import open_file
from cdk_inference.model.files.weights import entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from cdk_inference.model import BuiltModel, Graphs
    from cdk_inference.model.recipe.sources import Source

    Array = np.ndarray[Any, Any]
    Run = Callable[[dict[str, Array]], dict[str, Array]]

CASES = Path(__file__).parent / "cases"
ASSETS = Path(__file__).parents[2] / "model_assets"
EXAMPLES = Path(__file__).parents[2] / "examples"
# The files that cases read besides their code; see model_assets/SOURCES.md.
LINKS = {
    "calibration": ASSETS / "efficientnet_lite" / "calibration",
    "evaluation": ASSETS / "efficientnet_lite" / "evaluation",
    "photographs": ASSETS / "photographs",
    "sentences.txt": ASSETS / "minilm" / "sentences.txt",
    "crops.py": ASSETS / "efficientnet_lite" / "data.py",
    "efficientnet.py": ASSETS / "efficientnet_lite" / "factory.py",
    "minilm.py": ASSETS / "minilm" / "factory.py",
    "accepted.json": ASSETS / "photographs" / "accepted.json",
    "labels.txt": ASSETS / "efficientnet_lite" / "labels.txt",
    "spoken": ASSETS / "spoken_sentences",
    "factory.py": EXAMPLES / "dictation" / "factory.py",
    "prepare.py": EXAMPLES / "dictation" / "prepare.py",
    "dictation_recipe.py": EXAMPLES / "dictation" / "recipe.py",
}
SLOWEST = 0.9
"""The search ships nothing that is measurably slower than float32; the noise of a busy machine may hide this much."""
CHANCE = 0.05
"""Fewer right answers than those of float32 are chance if they are at least this likely (sign test)."""


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
    cpu
        Model name of the processor that measured.
    agreement, bound
        How much of what users see is the same, and must be.
    right
        The share of right answers of float32 and of what ships; None if nobody knows the right ones.
    chance
        How likely it is that what ships has so few right answers, if it is as good as float32.
    build_seconds, build_peak_mb
        CPU time of the build, and the peak memory of its largest process in millions of bytes.
    failure
        The failure, if there was one.
    refusal
        Why the model was refused, as expected.
    """

    name: str
    kind: str
    model: str
    seen: str
    precision: str = ""
    sizes: tuple[float, float] = (0.0, 0.0)
    speedup: float | None = None
    cpu: str = ""
    agreement: float = 0.0
    bound: float = 0.0
    right: tuple[float, float] | None = None
    chance: float = 1.0
    build_seconds: float = 0.0
    build_peak_mb: float = 0.0
    failure: str = ""
    refusal: str = ""

    @property
    def good(self) -> bool:
        """Whether everything is as it should be: refused as expected, or alike, not slower and not worse."""
        if self.failure or self.refusal:
            return not self.failure
        slower = self.speedup is not None and self.speedup < SLOWEST
        return self.agreement >= self.bound and self.chance >= CHANCE and not slower


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
    if hasattr(module, "write"):
        module.write(folder)
    elif not case.factory:
        loaded = onnx.load(str(distribution(case.package).locate_file(case.file))) if case.file else module.make()
        data = getattr(module, "prepare", lambda each: each)(loaded).SerializeToString(deterministic=True)
        if not model.is_file() or model.read_bytes() != data:
            model.write_bytes(data)
    return module, folder


def judge(name: str, root: Path) -> Row:
    """Build a case for this machine, and compare."""
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
        used = resource.getrusage(resource.RUSAGE_CHILDREN)  # the build is the only process that was started
        row |= {
            "precision": manifest.precision,
            "sizes": (manifest.baseline_size_bytes / 1e6, manifest.size_bytes / 1e6),
            "build_seconds": used.ru_utime + used.ru_stime,
            "build_peak_mb": used.ru_maxrss * 1024 / 1e6,
        }
        if manifest.measured:
            row |= {"speedup": manifest.measured.speedup, "cpu": manifest.measured.cpu}
        if case.refused:
            row["failure"] = f"must be refused with {case.refused!r}"
        else:
            shipped = onnx_run(entry(built.path), module)
            row |= compare(module, _original(module, folder), shipped)
    return Row(**row)


def _build(name: str, module: ModuleType, folder: Path) -> BuiltModel:
    case = module.CASE
    recipe = ModelRecipe(
        name=name,
        source=_source(name, case),
        inputs=case.inputs,
        outputs=case.outputs,
        calibration=f"{name}.py:calibration" if hasattr(module, "calibration") else None,
        evaluation=Evaluation(
            f"{name}.py:evaluation",
            metric=case.metric,
            max_drop=case.max_drop,
            head=case.head,
            sample_rate=case.sample_rate,
            vocabulary=case.vocabulary,
        ),
        provenance=Provenance(license=case.license, origin=f"{case.package} on PyPI"),
        packages=(case.package,),
    )
    return build_model(recipe, folder=folder, architecture=LambdaPlatform.host().architecture)


def _source(name: str, case: Any) -> Source | Graphs:
    if not case.factory:
        return case.source or OnnxFile("model.onnx")
    return TorchModule(f"{name}.py:{case.factory}", weights=PackageFile(case.package, case.file) if case.file else None)


def _original(module: ModuleType, folder: Path) -> Run:
    """Return what runs the model as it came: with the library that made it, where the case knows how."""
    if hasattr(module, "original"):
        run: Run = module.original()
        return run
    return torch_run(module) if module.CASE.factory else onnx_run(folder / "model.onnx", module)


def compare(module: ModuleType, original: Run, shipped: Run) -> dict[str, Any]:
    """Compare what users see of two models, on data that neither build nor gate has seen.

    Returns
    -------
    dict
        The row's agreement and, if the case knows the right answers, what it says about them.
    """
    reference = getattr(module, "reference", None)  # what the package itself computes, if it runs its graph in a loop
    expected = module.use(original) if reference is None else reference()
    found = module.use(shipped)
    row: dict[str, Any] = {}
    if hasattr(module, "right"):
        before, after = (np.asarray(module.right(answers), bool) for answers in (expected, found))
        lost, won = int(np.sum(before & ~after)), int(np.sum(after & ~before))
        row = {"right": (float(before.mean()), float(after.mean())), "chance": sign_test(lost, won)}
    own = getattr(module, "agreement", None)
    if own is not None:
        return row | {"agreement": float(own(expected, found))}
    if len(expected) != len(found) or not expected:
        return row | {"agreement": 0.0}
    return row | {"agreement": float(np.mean([one == other for one, other in zip(expected, found, strict=True)]))}


def sign_test(lost: int, won: int) -> float:
    """Return the probability that so many answers or more are lost if each change is as likely to be for the better.

    Parameters
    ----------
    lost, won
        Answers that were right and are not any more, and those that have become right.
    """
    changes = lost + won
    return sum(math.comb(changes, k) for k in range(lost, changes + 1)) * 0.5**changes


def onnx_run(model: Path, module: ModuleType) -> Run:
    """Return what runs an ONNX file."""
    session = open_file(model, threads=1)
    outputs = [spec.name for spec in module.CASE.outputs]

    def run(feed: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(outputs, session.run(outputs, feed), strict=True))

    return run


def torch_run(module: ModuleType) -> Run:
    """Return what runs the PyTorch network itself, which no part of a build has touched."""
    import torch  # noqa: PLC0415 - few cases
    from safetensors.torch import load_file  # noqa: PLC0415

    case = module.CASE
    network = getattr(module, case.factory)()
    if case.file:
        file = Path(str(distribution(case.package).locate_file(case.file)))
        read = load_file if file.suffix == ".safetensors" else torch.load
        network.load_state_dict(read(file), strict=False)
    network.eval()
    torch.set_num_threads(1)

    def run(feed: dict[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            found = network(*(torch.from_numpy(feed[spec.name]) for spec in case.inputs))
        arrays = found if isinstance(found, tuple) else (found,)
        return {spec.name: array.numpy() for spec, array in zip(case.outputs, arrays, strict=True)}

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
