"""The same answers on an emulated x86_64 CPU without VNNI: kernel by kernel, and the reference models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from tests.constructs.model.building.graph.test_saturation import CASES, quantized
from tests.constructs.model.graphs import (
    cosine,
    feed,
    image_transformer,
    prepared,
    run,
    text_recognition,
    voice_activity,
)
from tests.constructs.model.records.test_locks import RECIPES

from cdk_inference.model import (
    Auto,
    Evaluation,
    ModelRecipe,
    OnnxFile,
    Provenance,
    StaticInt8,
    TensorSpec,
    build_model,
    load_recipe,
)
from cdk_inference.model.building.evaluation.data import load_samples
from cdk_inference.model.building.evaluation.metrics import likeness
from cdk_inference.model.building.graph.graph import clean, serialize
from cdk_inference.model.building.graph.saturation import saturating, unsigned
from cdk_inference.model.building.quantization.calibrate import calibrate
from cdk_inference.model.building.quantization.precisions import convert
from cdk_inference.model.building.search.architecture import candidates
from cdk_inference.model.building.search.optimize import optimize
from cdk_inference.model.files import weights
from cdk_inference.model.files.weights import MODEL
from cdk_inference.model.recipe.precision import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Feed = dict[str, np.ndarray]
    Output = np.ndarray

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("other-cpus"),  # one process runs all models on the emulated CPU
]

RUN = """
import json, sys
import numpy as np
import onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = 1
for line in sys.stdin:
    for model, inputs, outputs in json.loads(line):
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feeds = np.load(inputs)
        names = [each.name for each in session.get_inputs()]
        count = len(feeds.files) // len(names)
        found = [session.run(None, {name: feeds[f"{name}_{i}"] for name in names})[0] for i in range(count)]
        np.savez(outputs, *found)
        del session
    print("done", flush=True)
"""


SAMPLES = 1


class Machine:
    """Runs models in one process, on this CPU or on an emulated one, where importing what it needs takes long."""

    def __init__(self, emulator: Sequence[str] = ()) -> None:
        command = [*emulator, sys.executable, "-c", RUN]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, folder: Path, jobs: dict[str, tuple[onnx.ModelProto | Path, list[Feed]]]) -> dict[str, list[Output]]:
        """Return the first output for each batch, of each model."""
        folder.mkdir()
        order = []
        for index, (model, feeds) in enumerate(jobs.values()):
            path = model if isinstance(model, Path) else folder / f"{index}.onnx"
            if not isinstance(model, Path):
                path.write_bytes(serialize(model))
            arrays = {f"{name}_{i}": array for i, feed in enumerate(feeds) for name, array in feed.items()}
            np.savez(folder / f"{index}-in.npz", **arrays)
            order.append([str(path), str(folder / f"{index}-in.npz"), str(folder / f"{index}-out.npz")])
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"
        return {name: list(np.load(files[2]).values()) for name, files in zip(jobs, order, strict=True)}

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def without_vnni(cpu_without_vnni: list[str]) -> Iterator[Machine]:
    """An emulated CPU."""
    machine = Machine(cpu_without_vnni)
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def host() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


def extreme(model: onnx.ModelProto) -> list[Feed]:
    """Return inputs whose activations are large: what saturates, if anything does."""
    shape = [d.dim_value or 4 for d in model.graph.input[0].type.tensor_type.shape.dim]
    random = np.random.default_rng(7)
    name = model.graph.input[0].name
    return [
        {name: np.full(shape, 10, np.float32)},
        {name: random.normal(2, 1, size=shape).astype(np.float32)},
        {name: random.normal(0, 3, size=shape).astype(np.float32)},
    ]


def test_kernels_give_the_same_sums_without_vnni(tmp_path: Path, host: Machine, without_vnni: Machine) -> None:
    jobs: dict[str, tuple[onnx.ModelProto | Path, list[Feed]]] = {}
    for case in CASES:
        build, dynamic = case.values
        for target in ("arm64", "x86_64"):
            model = quantized(build, target, tmp_path, dynamic=dynamic)
            jobs[f"{case.id} for {target}"] = (model, extreme(model))
            jobs[f"{case.id} for {target}, exactly"] = (unsigned(model), extreme(model))
    here = host.run(tmp_path / "here", jobs)
    there = without_vnni.run(tmp_path / "there", jobs)
    differing = {
        name
        for name in jobs
        if any(np.abs(a - b).max() > 1e-4 * np.abs(b).max() for a, b in zip(there[name], here[name], strict=True))
    }
    assert not [name for name in differing if "x86_64" in name]
    # Full-range weights do saturate there: otherwise nothing would be shown.
    assert len([name for name in differing if name.endswith("arm64")]) >= len(CASES) // 2


@pytest.mark.parametrize("build", [voice_activity, text_recognition, image_transformer])
def test_what_ships_for_x86_64_is_as_good_without_vnni_as_its_gate_said(
    build: Callable[[], onnx.ModelProto], tmp_path: Path, without_vnni: Machine
) -> None:
    """Every precision that a search would try, as it ships."""
    model = prepared(build(), tmp_path)
    feeds = [feed(model, batch=1, seed=seed) for seed in range(2)]
    float32 = [run(model, each) for each in feeds]
    jobs: dict[str, tuple[onnx.ModelProto | Path, list[Feed]]] = {}
    gates: dict[str, float] = {}
    for precision in candidates(model, Auto(), calibrated=True):
        ranges = calibrate(model, "minmax", 100.0, feeds) if isinstance(precision, StaticInt8) else None
        candidate = serialize(clean(convert(model, precision, ranges, "x86_64")))
        shipped = optimize(candidate, precision.kind, _recipe(model), feeds[0], tmp_path)
        name = describe(precision)
        folder = tmp_path / f"{len(jobs)}"
        folder.mkdir()
        weights.write(folder, shipped)
        jobs[name] = (folder / MODEL, feeds)
        gates[name] = likeness([run(onnx.load_from_string(shipped), each) for each in feeds], float32)
    there = without_vnni.run(tmp_path / "there", jobs)
    assert min(gates.values()) > 0.99
    assert {name: likeness([[each] for each in there[name]], float32) for name in jobs} == pytest.approx(
        gates, abs=5e-4
    )


def _recipe(model: onnx.ModelProto) -> ModelRecipe:
    return ModelRecipe(
        name="m",
        source=OnnxFile("m.onnx"),
        inputs=(TensorSpec("x", "float32", ("batch", 1)),),
        outputs=tuple(TensorSpec(each.name, "float32", ("batch", 1)) for each in model.graph.output),
        evaluation=Evaluation(data="data.py:evaluation", metric="cosine"),
        provenance=Provenance(license="CC0-1.0", origin="random numbers"),
    )


LEFT_OUT = ("efficientnet-lite2", "all-minilm-l6-v2", "number-words")
"""Two that take long, and one of several graphs, which a single session does not open."""


def reference(name: str) -> tuple[Path, list[Feed]]:
    """Return what ships for x86_64, and the first samples of the evaluation data."""
    recipe, folder = load_recipe(RECIPES[name])
    samples = load_samples(folder, recipe.evaluation.data, "evaluation.data", recipe.inputs)
    built = build_model(RECIPES[name], architecture="x86_64")
    assert not saturating(onnx.load(built.path / MODEL))
    return built.path / MODEL, [{key: value[:SAMPLES] for key, value in samples.inputs[0].items()}]


def test_reference_models_give_the_same_answers_without_vnni(
    tmp_path: Path, host: Machine, without_vnni: Machine
) -> None:
    jobs = {name: reference(name) for name in RECIPES if name not in LEFT_OUT}
    here = host.run(tmp_path / "here", jobs)
    there = without_vnni.run(tmp_path / "there", jobs)
    assert {name: cosine(there[name][0], here[name][0]) for name in jobs} == pytest.approx(
        dict.fromkeys(jobs, 1.0), abs=1e-4
    )


def test_reference_transformer_gives_without_vnni_what_exact_arithmetic_gives(
    tmp_path: Path, without_vnni: Machine
) -> None:
    """Against the exact form on the same CPU: other vector widths round floats otherwise, which spreads."""
    model, feeds = reference("all-minilm-l6-v2")
    exact = tmp_path / "exact.onnx"
    exact.write_bytes(unsigned(onnx.load_from_string(weights.join(model))).SerializeToString())
    there = without_vnni.run(tmp_path / "there", {"shipped": (model, feeds), "exact": (exact, feeds)})
    assert cosine(there["shipped"][0], there["exact"][0]) > 0.9999
