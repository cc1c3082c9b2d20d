from __future__ import annotations

import os
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.constructs.model.loading import load
from tests.warm_builds import keep_functions

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule
from cdk_inference.model.building.importers.independence import check_independence

pytestmark = [
    pytest.mark.slow,  # tracing takes a second each time
    pytest.mark.xdist_group("torch"),  # one process imports it
]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cdk_inference.model.building.importers.sources import Loaded

HEAD = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

def build():
    return Net()
"""
FORWARD = "return self.second(torch.relu(self.first(x)))"
X = TensorSpec("x", "float32", ("batch", 4))
Y = TensorSpec("y", "float32", ("batch", 3))
EXAMPLE = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}


def recipe(
    source: TorchModule, inputs: Sequence[TensorSpec] = (X,), outputs: Sequence[TensorSpec] = (Y,)
) -> ModelRecipe:
    return ModelRecipe(
        name="net",
        source=source,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        evaluation=Evaluation(data="data.py:evaluation"),
        provenance=Provenance(license="CC0-1.0", origin="random numbers"),
    )


@pytest.fixture(scope="module", autouse=True)
def functions() -> None:
    keep_functions()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading sets it for the process, which here goes on with other tests."""
    for name in ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        monkeypatch.setenv(name, "0")


@pytest.fixture
def open_net(tmp_path: Path) -> Callable[..., Loaded]:
    def open_it(code: str = HEAD, weights: str | None = None, **tensors: Any) -> Loaded:
        (tmp_path / "factory.py").write_text(code)
        source = TorchModule("factory.py:build", weights=weights)
        return load(recipe(source, **tensors), tmp_path, tmp_path / "cache")

    return open_it


def predict(loaded: Loaded, batch: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    model = loaded.export({k: v[:1] for k, v in batch.items()})
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == list(batch)
    return session.run(None, batch)


def test_module_runs_and_exports_for_each_batch(open_net) -> None:
    loaded = open_net()
    np.testing.assert_allclose(predict(loaded, EXAMPLE)[0], loaded.run(EXAMPLE)[0], atol=1e-6)
    again = open_net()
    assert again.run(EXAMPLE)[0].tobytes() == loaded.run(EXAMPLE)[0].tobytes()


def test_declared_names_and_sizes_are_in_the_graph(open_net) -> None:
    graph = open_net().export(EXAMPLE).graph
    values = [
        (v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    ]
    assert values == [("x", ["batch", 4]), ("y", ["batch", 3])]


def test_names_need_be_no_identifiers(open_net) -> None:
    loaded = open_net(
        inputs=[TensorSpec("input.1", "float32", ("n", 4))], outputs=[TensorSpec("y:0", "float32", ("n", 3))]
    )
    (found,) = predict(loaded, {"input.1": EXAMPLE["x"]})
    np.testing.assert_allclose(found, loaded.run({"input.1": EXAMPLE["x"]})[0], atol=1e-6)


def test_names_may_be_those_of_values_inside(open_net) -> None:
    graph = open_net().export(EXAMPLE).graph
    for name in (graph.node[0].output[0], graph.initializer[0].name):
        loaded = open_net(outputs=[TensorSpec(name, "float32", ("batch", 3))])
        np.testing.assert_allclose(predict(loaded, EXAMPLE)[0], loaded.run(EXAMPLE)[0], atol=1e-6)


RESULTS = {
    "a dict": "return {'other': x, 'y': y}",
    "a dataclass": "return Result(other=x, y=y)",
    "a named tuple": "return Named(x, y)",
    "a tuple": "return (y,)",
    "a nested list": "return [(y,)]",
}
KINDS = """
from collections import namedtuple
from dataclasses import dataclass
Named = namedtuple("Named", "other y")

@dataclass
class Result:
    other: object
    y: object
"""


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_outputs_are_taken_from(open_net, result: str) -> None:
    code = KINDS + HEAD.replace(FORWARD, "y = self.second(torch.relu(self.first(x)))\n        " + result)
    loaded = open_net(code)
    assert loaded.run(EXAMPLE)[0].tobytes() == open_net().run(EXAMPLE)[0].tobytes()
    np.testing.assert_allclose(predict(loaded, EXAMPLE)[0], loaded.run(EXAMPLE)[0], atol=1e-6)


def test_several_symbolic_sizes(open_net) -> None:
    code = HEAD.replace("self, x", "self, x, mask").replace("x)))", "x))) * mask[:, :, None] + x.shape[1]")
    inputs = [TensorSpec("x", "float32", ("batch", "length", 4)), TensorSpec("mask", "float32", ("batch", "length"))]
    loaded = open_net(code, inputs=inputs, outputs=[TensorSpec("y", "float32", ("batch", "length", 3))])
    batch = {"x": np.ones((5, 7, 4), np.float32), "mask": np.ones((5, 7), np.float32)}
    short = {"x": np.ones((1, 1, 4), np.float32), "mask": np.ones((1, 1), np.float32)}
    session = ort.InferenceSession(loaded.export(short).SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, batch)[0], loaded.run(batch)[0], atol=1e-6)


def test_symbolic_size_may_be_bounded_by_the_module(open_net) -> None:
    code = HEAD.replace("nn.Linear(8, 3)", "nn.Linear(8, 3)\n        self.places = nn.Embedding(16, 4)").replace(
        "self.first(x)", "self.first(x + self.places.weight[: x.shape[1]])"
    )
    text = [TensorSpec("x", "float32", ("batch", "length", 4))]
    loaded = open_net(code, inputs=text, outputs=[TensorSpec("y", "float32", ("batch", "length", 3))])
    batch = {"x": np.ones((3, 16, 4), np.float32)}
    session = ort.InferenceSession(loaded.export(batch).SerializeToString(), providers=["CPUExecutionProvider"])
    for length in (1, 7, 16):
        short = {"x": batch["x"][:, :length]}
        np.testing.assert_allclose(session.run(None, short)[0], loaded.run(short)[0], atol=1e-6)


FACTORIES = {
    "raises": (
        "return Net()",
        "raise ValueError('no such size')",
        r"got ValueError: no such size \(factory\.py line 14: `raise",
    ),
    "exits": ("return Net()", "raise SystemExit(3)", r"got SystemExit: 3 \(factory\.py line 14"),
    "returns no module": ("return Net()", "return Net", r"must return a torch\.nn\.Module, got type"),
    "needs an argument": (
        "def build():",
        "def build(size, *, depth, width=3):",
        r"must take no arguments .*, got size, depth; .*default",
    ),
    "lacks a file": (
        "return Net()",
        "return open('weights.bin')",
        r"got FileNotFoundError: .*weights\.bin' \(factory\.py line 14.*Path\(__file__\)\.parent",
    ),
    "lacks a package": (
        "import torch\n",
        "import torch\nimport no_such\n",
        r"ModuleNotFoundError: .*line 2: `import no_such.*packages=",
    ),
    "is no Python": ("def build():", "def build(:", r"got SyntaxError: .*\(factory\.py line 13: `def build\(:`"),
    "is missing": ("def build():", "def other():", r"must name a function that .*factory\.py defines, got"),
    "has no values": ("return Net()", "return Net().to('meta')", r"'meta' for first\.weight, first\.bias, second\."),
}


@pytest.mark.parametrize(("old", "new", "why"), FACTORIES.values(), ids=FACTORIES)
def test_factory_fails_that(open_net, old: str, new: str, why: str) -> None:
    with pytest.raises(ModelBuildError, match=why) as caught:
        open_net(HEAD.replace(old, new))
    assert "\n" not in str(caught.value)


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("call", ["torch.load('{}', weights_only=False)", "torch.load('{}')"])
def test_factory_that_unpickles_is_refused(open_net, tmp_path: Path, monkeypatch, call: str) -> None:
    import torch

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file, trace = tmp_path / "model.pt", tmp_path / "trace"
    torch.save({"w": Evil(trace)}, file)
    with pytest.raises(
        ModelBuildError, match=r"must not unpickle a file \(factory\.py line 14.*save the tensors alone, safetensors"
    ):
        open_net(HEAD.replace("return Net()", f"return {call.format(file)}"))
    assert not trace.exists()


def state() -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(7)
    sizes = {"first.weight": (8, 4), "first.bias": (8,), "second.weight": (3, 8), "second.bias": (3,)}
    return {name: torch.rand(size, generator=generator) for name, size in sizes.items()}


def save_safetensors(tensors: dict[str, Any], path: Path) -> None:
    import safetensors.torch as safetensors

    safetensors.save_file(tensors, path)


def save_torch(tensors: dict[str, Any], path: Path) -> None:
    import torch

    torch.save(tensors, path)


def save_legacy(tensors: dict[str, Any], path: Path) -> None:
    import torch

    torch.save(tensors, path, _use_new_zipfile_serialization=False)


SAVERS: dict[str, tuple[str, Callable[[dict[str, Any], Path], None]]] = {
    "safetensors": ("w.safetensors", save_safetensors),
    "safetensors of another name": ("w.bin", save_safetensors),
    "torch": ("w.pt", save_torch),
    "torch before 1.6": ("w.pth", save_legacy),
}


@pytest.mark.parametrize(("name", "save"), SAVERS.values(), ids=SAVERS)
def test_weights_are_loaded_from(open_net, tmp_path: Path, name: str, save: Callable[..., None]) -> None:
    import torch

    weights = state()
    save(weights, tmp_path / name)
    x = torch.from_numpy(EXAMPLE["x"])
    hidden = torch.relu(x @ weights["first.weight"].T + weights["first.bias"])
    expected = (hidden @ weights["second.weight"].T + weights["second.bias"]).numpy()
    np.testing.assert_allclose(open_net(weights=name).run(EXAMPLE)[0], expected, rtol=1e-5)


def test_shared_weights_may_be_stored_once(open_net, tmp_path: Path) -> None:
    import safetensors.torch as safetensors

    code = HEAD.replace("nn.Linear(8, 3)", "nn.Linear(8, 3)\n        self.head = self.second")
    safetensors.save_file(state(), tmp_path / "w.safetensors")
    assert open_net(code, weights="w.safetensors").run(EXAMPLE)[0].shape == (3, 3)


def test_weights_of_another_module_fail(open_net, tmp_path: Path) -> None:
    import safetensors.torch as safetensors
    import torch

    weights = state()
    weights["head.weight"] = weights.pop("second.weight")
    weights["first.bias"] = torch.zeros(5)
    weights |= {f"extra.{i}": torch.zeros(1) for i in range(9)}
    safetensors.save_file(weights, tmp_path / "w.safetensors")
    why = (
        r"w\.safetensors must be those of the module; missing: second\.weight; "
        r"unexpected: extra\.0, .* and 5 more; other shape: first\.bias must be \[8\], got \[5\]"
    )
    with pytest.raises(ModelBuildError, match=why):
        open_net(weights="w.safetensors")


def compress(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def test_compressed_weights_are_refused(open_net, tmp_path: Path) -> None:
    import torch

    torch.save(state(), tmp_path / "w.pt")
    compress(tmp_path / "w.pt")
    with pytest.raises(ModelBuildError, match=r"w\.pt must not be compressed"):
        open_net(weights="w.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_weights_are_refused(open_net, tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "trace"
    (save_legacy if legacy else save_torch)(state() | {"w": Evil(trace)}, tmp_path / "w.pt")
    with pytest.raises(ModelBuildError, match=r"w\.pt must not need unpickling.*safetensors\.torch\.save_file"):
        open_net(weights="w.pt")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(ModelBuildError, match=r"w\.pkl"):
        open_net(weights="w.pkl")
    assert not trace.exists()


def tensor() -> object:
    import torch

    return torch.zeros(3)


CONTENTS = {
    "a checkpoint": (
        lambda: {"epoch": 3, "state_dict": state()},
        r"got a dict of epoch \(int\), state_dict \(dict\); save the state",
    ),
    "a tensor": (tensor, r"got Tensor; save the state_dict"),
}


@pytest.mark.parametrize(("make", "why"), CONTENTS.values(), ids=CONTENTS)
def test_weights_are_refused_that_hold(open_net, tmp_path: Path, make: Callable[[], object], why: str) -> None:
    import torch

    torch.save(make(), tmp_path / "w.pt")
    with pytest.raises(ModelBuildError, match=why):
        open_net(weights="w.pt")


def test_torchscript_weights_are_refused(open_net, tmp_path: Path) -> None:
    import torch

    torch.jit.script(torch.nn.Linear(4, 3)).save(tmp_path / "w.pt")
    with pytest.raises(ModelBuildError, match=r"w\.pt must not be a TorchScript archive; save the state_dict"):
        open_net(weights="w.pt")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", r"must be safetensors .*, got an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"got a git-lfs pointer"),
        (b"<!DOCTYPE html>", r"got an HTML page"),
        (b"\x1f\x8b\x08", r"got a file compressed with gzip"),
        (b"something", r"got a file of an unknown format"),
    ],
)
def test_weights_of_another_kind_are_refused(open_net, tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "w.bin").write_bytes(content)
    with pytest.raises(ModelBuildError, match=why):
        open_net(weights="w.bin")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    for name, save in SAVERS.values():
        save(state(), folder / name)
    return {name: (folder / name).read_bytes() for name, _ in SAVERS.values()}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_damaged_weights_fail_wherever_they_end(whole: dict[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    from cdk_inference.model.building.importers.torch_module import read_weights

    name = data.draw(st.sampled_from(sorted(whole)))
    end = data.draw(st.integers(0, len(whole[name]) - 1))
    (tmp_path / name).write_bytes(whole[name][:end])
    with pytest.raises(ModelBuildError, match=name):
        read_weights(tmp_path / name)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_altered_weights_are_read_or_refused(whole: dict[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    from cdk_inference.model.building.importers.torch_module import read_weights

    name = data.draw(st.sampled_from(["w.safetensors", "w.bin"]))
    content = bytearray(whole[name])
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(content)
    try:
        assert isinstance(read_weights(tmp_path / name), dict)
    except ModelBuildError as error:
        assert name in str(error)  # noqa: PT017 - either is right


DIFFICULT = {
    "cuts by values": "return self.second(self.first(x))[: int(x.abs().sum())]",
    "demands even batches": "return self.second(self.first(x)).reshape(x.shape[0] // 2, 2, 3).reshape(x.shape[0], 3)",
    "leaves torch": "return self.second(torch.from_numpy(self.first(x).numpy()))",
    "decides by a batch of one": "return self.second(self.first(x if x.shape[0] == 1 else x - x.mean(0)))",
}


@pytest.mark.parametrize("code", DIFFICULT.values(), ids=DIFFICULT)
def test_module_is_exported_right_or_not_at_all_that(open_net, code: str) -> None:
    loaded = open_net(HEAD.replace(FORWARD, code))
    example = {"x": EXAMPLE["x"][:2]}
    try:
        model = loaded.export(example)
    except ModelBuildError as error:
        assert "cannot be exported" in str(error)  # noqa: PT017 - either is right
        return
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (example, {"x": np.concatenate([EXAMPLE["x"]] * 2) * 3}):
        np.testing.assert_allclose(session.run(None, batch)[0], loaded.run(batch)[0], atol=1e-5)


MODULES = {
    "decides by values": (
        FORWARD,
        "if x.sum() > 0:\n            return self.second(self.first(x))\n        return self.second(self.first(-x))",
        r"cannot be exported: its control flow depends on the values of tensors \(factory\.py line 11: `if x\.sum",
    ),
    "repeats by values": (
        FORWARD,
        "for _ in range(int(x.abs().max())):\n            x = x + 1\n        return self.second(self.first(x))",
        r"depends on the values of tensors \(factory\.py line 11: `for .*torch\.where",
    ),
    "fixes the batch": (
        FORWARD,
        "return self.second(self.first(x).reshape(2, 8))",
        r"it works for batch = 2 alone; declare 2 in place of 'batch'",
    ),
    "decides by the batch": (
        FORWARD,
        "return self.second(self.first(x)) if x.shape[0] < 9 else self.second(-self.first(x))",
        r"cannot be exported: it does something else if batch is 9; declare a fixed size in place of 'batch'",
    ),
    "decides by a smaller batch": (
        FORWARD,
        "return self.second(self.first(x)) if x.shape[0] > 3 else self.second(-self.first(x))",
        r"cannot be exported: it does something else if batch is [34]; declare a fixed size in place of 'batch'",
    ),
    "uses what ONNX lacks": (
        FORWARD,
        "return self.second(torch.special.bessel_j0(self.first(x)))",
        r"cannot use \w+\.\w*bessel_j0\w*, which ONNX export lacks",
    ),
}


@pytest.mark.parametrize(("old", "new", "why"), MODULES.values(), ids=MODULES)
def test_export_fails_of_a_module_that(open_net, old: str, new: str, why: str) -> None:
    loaded = open_net(HEAD.replace(old, new))
    example = {"x": EXAMPLE["x"][:2]}
    loaded.run(example)
    with pytest.raises(ModelBuildError, match=why) as caught:
        loaded.export(example)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_sizes_that_must_be_multiples_fail_with_the_number(open_net) -> None:
    code = HEAD.replace("nn.Linear(4, 8)", "nn.Conv2d(1, 2, 3)").replace("nn.Linear(8, 3)", "nn.Conv2d(2, 2, 3)")
    loaded = open_net(
        code.replace("torch.relu(self.first(x))", "nn.functional.max_pool2d(self.first(x), 2, 2, ceil_mode=True)"),
        inputs=[TensorSpec("x", "float32", ("batch", 1, "height", "width"))],
        outputs=[TensorSpec("y", "float32", ("batch", 2, "rows", "columns"))],
    )
    with pytest.raises(ModelBuildError, match=r"each size of height: height must be a multiple of 2; declare a fixed"):
        loaded.export({"x": np.ones((2, 1, 20, 30), np.float32)})


RUNS = {
    "of other sizes": (
        "nn.Linear(4, 8)",
        "nn.Linear(5, 8)",
        r"cannot run on \(x float32 \[3, 4\]\): RuntimeError: .*factory\.py line 11",
    ),
    "with more arguments": (
        "self, x",
        "self, x, y",
        r"cannot run on .*: TypeError: .*missing 1 required positional argument: 'y'",
    ),
    "that returns a dict of others": (
        FORWARD,
        "return {'logits': x}",
        r"must return \(y\), as declared, got a dict of \(logits\)",
    ),
    "that returns more": (FORWARD, "return x, x", r"must return \(y\), as declared, got \(Tensor, Tensor\)"),
    "that returns a number": (FORWARD, "return 3", r"must return \(y\), as declared, got \(int\)"),
    "of another type": (
        FORWARD,
        "return self.second(self.first(x)).double()",
        r'must return TensorSpec\("y", "float32", .*, got TensorSpec\("y", "float64", \("batch", 3\)\)',
    ),
    "of another shape": (
        FORWARD,
        "return x",
        r'as the recipe declares, got TensorSpec\("y", "float32", \("batch", 4\)\)',
    ),
    "of a type that numpy lacks": (
        FORWARD,
        "return self.second(self.first(x)).bfloat16()",
        r"must return a type that numpy has, got torch\.bfloat16",
    ),
}


@pytest.mark.parametrize(("old", "new", "why"), RUNS.values(), ids=RUNS)
def test_run_fails_of_a_module(open_net, old: str, new: str, why: str) -> None:
    loaded = open_net(HEAD.replace(old, new))
    with pytest.raises(ModelBuildError, match=why):
        loaded.run(EXAMPLE)


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        ({"x": EXAMPLE["x"].astype(np.float64)}, r"'x' must be float32 .*, got float64"),
        ({"x": EXAMPLE["x"][:, :3]}, r"got float32 \(3, 3\)"),
        ({"z": EXAMPLE["x"]}, r"must have \['x'\], got \['z'\]"),
    ],
)
def test_example_that_is_not_as_declared_fails(open_net, batch: dict[str, Any], why: str) -> None:
    loaded = open_net()
    for use in (loaded.run, loaded.export):
        with pytest.raises(ModelBuildError, match=why):
            use(batch)


ENCODER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, x, padded):
        return self.encoder(x, src_key_padding_mask=padded)

def build():
    return Net()
"""


def test_encoder_with_a_padding_mask_is_exported_as_it_answers(open_net) -> None:
    specs = {
        "inputs": [TensorSpec("x", "float32", ("batch", "n", 8)), TensorSpec("padded", "bool", ("batch", "n"))],
        "outputs": [TensorSpec("y", "float32", ("batch", "n", 8))],
    }
    loaded = open_net(ENCODER, **specs)
    padded = np.zeros((3, 5), bool)
    padded[:, 3:] = True
    batch = {"x": np.random.default_rng(1).normal(size=(3, 5, 8)).astype(np.float32), "padded": padded}
    (expected,) = loaded.run(batch)
    model = loaded.export(batch)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, batch)[0], expected, atol=1e-5)


BATCH = {
    "BatchNorm in training mode": (
        "self.second(nn.functional.batch_norm(self.first(x), None, None, training=True))",
        "",
    ),
    "BatchNorm without running statistics": ("self.second(self.norm(self.first(x)))", ""),
    "a mean over the batch": ("self.second(self.first(x) - self.first(x).mean(0))", ""),
    "dropout": ("self.second(nn.functional.dropout(self.first(x), training=True))", "compute without randomness"),
}


@pytest.mark.parametrize(("forward", "fix"), BATCH.values(), ids=BATCH)
@pytest.mark.parametrize("count", [1, 3])
def test_module_fails_whose_answers_depend_on_the_batch(open_net, forward: str, fix: str, count: int) -> None:
    norm = "self.norm = nn.BatchNorm1d(8, track_running_stats=False)"
    code = HEAD.replace(FORWARD, f"return {forward}").replace("self.second = nn", f"{norm}\n        self.second = nn")
    loaded = open_net(code)
    spec = recipe(TorchModule("factory.py:build"))
    batch = {"x": EXAMPLE["x"][:count] ** 2}
    with pytest.raises(ModelBuildError, match=fix or "make BatchNorm use its running statistics"):
        check_independence(loaded, spec, batch, loaded.run(batch) if count > 1 or "norm" not in forward else [])


def test_module_passes_whose_answers_do_not_depend_on_the_batch(open_net) -> None:
    loaded = open_net(HEAD.replace("nn.Linear(4, 8)", "nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))"))
    check_independence(loaded, recipe(TorchModule("factory.py:build")), EXAMPLE, loaded.run(EXAMPLE))


KINDS_OF_MODULES = {
    "bfloat16": ("Net().bfloat16()", r"must be of a type .*, got bfloat16 for 'first\.weight'; return module\.float"),
    "TorchScript": (
        "torch.jit.script(Net())",
        r"got a TorchScript module; return the module that was scripted",
    ),
    "TorchScript inside": ("nn.Sequential(torch.jit.script(Net()))", r"got a TorchScript module \(layer '0'\)"),
    "dynamic int8": (
        "torch.ao.quantization.quantize_dynamic(Net())",
        r"float module, got one that torch has quantized \(layer 'first'\); return the original",
    ),
    "too large": (
        "nn.Embedding(2**40, 600, _weight=torch.zeros(1).expand(2**40, 600))",
        r"the weights must fit into the [\d.]+ GB of memory that the build has, got 2638827\.9 GB; build on a machine",
    ),
}


@pytest.mark.parametrize(("module", "why"), KINDS_OF_MODULES.values(), ids=KINDS_OF_MODULES)
def test_module_fails_with_the_fix_that_is(open_net, module: str, why: str) -> None:
    with pytest.raises(ModelBuildError, match=f"^factory 'factory.py:build'.*{why}"):
        open_net(HEAD.replace("return Net()", f"return {module}"))
