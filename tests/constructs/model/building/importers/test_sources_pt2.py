from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
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
from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchProgram

pytestmark = [
    pytest.mark.slow,  # tracing takes a second each time
    pytest.mark.xdist_group("torch"),  # one process imports it
]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cdk_inference.model.building.importers.sources import Loaded

X = TensorSpec("x", "float32", ("batch", 4))
Y = TensorSpec("y", "float32", ("batch", 3))
Z = TensorSpec("z", "float32", ("count",))
EXAMPLE = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}


def net_module() -> Any:
    import torch

    class Net(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)
            self.register_buffer("shift", torch.ones(3))
            self.scale = torch.tensor([1.0, 2.0, 3.0])

        def forward(self, x: Any) -> Any:
            y = torch.nn.functional.gelu(self.linear(x) + self.shift * self.scale, approximate="tanh")
            return y, y.reshape(x.shape[0] * 3)

    return Net().eval()


def recipe(inputs: Sequence[TensorSpec] = (X,), outputs: Sequence[TensorSpec] = (Y, Z)) -> ModelRecipe:
    return ModelRecipe(
        name="net",
        source=TorchProgram("net.pt2"),
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
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    path: Path = tmp_path_factory.mktemp("saved") / "net.pt2"
    shapes = {"x": {0: torch.export.Dim("batch", max=64)}}
    torch.export.save(torch.export.export(net_module(), (torch.ones(2, 4),), dynamic_shapes=shapes), path)
    return path


@pytest.fixture
def net(saved: Path, tmp_path: Path) -> Path:
    shutil.copy(saved, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def open_net(path: Path, **tensors: Any) -> Loaded:
    return load(recipe(**tensors), path.parent, path.parent / "cache")


def edit(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change the records of an archive."""
    with zipfile.ZipFile(path) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        root = archive.namelist()[0].partition("/")[0]
    change(records)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"{root}/{name}", content)


def edit_model(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    def rewrite(records: dict[str, bytes]) -> None:
        data = json.loads(records["models/model.json"])
        change(data)
        records["models/model.json"] = json.dumps(data).encode()

    edit(path, rewrite)


def test_program_runs_and_exports_for_each_batch(net: Path) -> None:
    loaded = open_net(net)
    model = loaded.export({"x": EXAMPLE["x"][:1]})
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [(v.name, v.shape) for v in session.get_inputs()] == [("x", ["batch", 4])]
    for found, expected in zip(session.run(["y", "z"], EXAMPLE), loaded.run(EXAMPLE), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_arguments_and_results_may_be_nested(tmp_path: Path) -> None:
    import torch

    class Nested(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, pair: Any, *, more: Any) -> Any:
            return {"sum": [pair[0] + pair[1]], "product": pair[0] * more["third"]}

    tensors = [torch.full((2, 4), float(i)) for i in (2, 3, 5)]
    dynamic = {0: torch.export.Dim("batch")}
    program = torch.export.export(
        Nested(),
        ((tensors[0], tensors[1]),),
        {"more": {"third": tensors[2]}},
        dynamic_shapes={"pair": (dynamic, dynamic), "more": {"third": dynamic}},
    )
    torch.export.save(program, tmp_path / "net.pt2")
    inputs = [TensorSpec(name, "float32", ("batch", 4)) for name in "abc"]
    outputs = [TensorSpec(name, "float32", ("batch", 4)) for name in ("sum", "product")]
    loaded = open_net(tmp_path / "net.pt2", inputs=inputs, outputs=outputs)
    batch = {name: np.full((3, 4), i, np.float32) for name, i in zip("abc", (2, 3, 5), strict=True)}
    assert [a.flat[0] for a in loaded.run(batch)] == [5, 10]
    model = loaded.export(batch)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [a.flat[0] for a in session.run(None, batch)] == [5, 10]


def test_program_with_branches_is_loaded(tmp_path: Path) -> None:
    import torch

    class Branches(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x: Any) -> Any:
            return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    torch.export.save(torch.export.export(Branches(), (torch.ones(2, 4),)), tmp_path / "net.pt2")
    fixed = {"inputs": [TensorSpec("x", "float32", (2, 4))], "outputs": [TensorSpec("y", "float32", (2, 4))]}
    (found,) = open_net(tmp_path / "net.pt2", **fixed).run({"x": np.ones((2, 4), np.float32)})
    assert found.tolist() == [[2.0] * 4] * 2


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (
            (TensorSpec("x", "float32", ("batch", 5)),),
            r'as the recipe declares, got TensorSpec\("x", "float32", \("size_0", 4\)\); ',
        ),
        (
            (TensorSpec("x", "float64", ("batch", 4)),),
            r'must have TensorSpec\("x", "float64", \("batch", 4\)\), as the',
        ),
        ((TensorSpec("x", "float32", ("batch", "size")),), r"or export it again with dynamic_shapes"),
        ((X, TensorSpec("mask", "float32", ("batch", 4))), r"as the recipe declares, got "),
    ],
)
def test_program_with_other_inputs_fails(net: Path, inputs: tuple[TensorSpec, ...], why: str) -> None:
    with pytest.raises(ModelBuildError, match=why):
        open_net(net, inputs=inputs)


def test_program_with_other_outputs_fails(net: Path) -> None:
    with pytest.raises(ModelBuildError, match=r"must return \(y\), as declared, got \(Tensor, Tensor\)"):
        open_net(net, outputs=[Y]).run(EXAMPLE)


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


def evil_tensor(trace: Path) -> bytes:
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(Evil(trace), buffer)
    return buffer.getvalue()


def _config(records: dict[str, bytes], kind: str, **changes: Any) -> None:
    name = f"data/{kind}/model_{kind}_config.json"
    config = json.loads(records[name])
    next(iter(config["config"].values())).update(changes)
    records[name] = json.dumps(config).encode()


def _pickled_weights(records: dict[str, bytes], trace: Path) -> None:
    records["data/weights/weight_0"] = evil_tensor(trace)
    _config(records, "weights", use_pickle=True)


def _opaque_constant(records: dict[str, bytes], trace: Path) -> None:
    records["data/constants/opaque_obj_0"] = pickle.dumps(Evil(trace))
    _config(records, "constants", path_name="opaque_obj_0")


def _example_inputs(records: dict[str, bytes], trace: Path) -> None:
    records["data/sample_inputs/model.pt"] = evil_tensor(trace)


def _operator(records: dict[str, bytes], trace: Path) -> None:
    data = json.loads(records["models/model.json"])
    node = data["graph_module"]["graph"]["nodes"][-1]
    node["target"] = "torch.os.mkdir"
    node["inputs"] = [{"name": "", "arg": {"as_string": str(trace)}, "kind": 1}]
    records["models/model.json"] = json.dumps(data).encode()


def _expression(records: dict[str, bytes], trace: Path) -> None:
    text = records["models/model.json"].decode()
    code = f"__import__('os').mkdir('{trace}')"
    records["models/model.json"] = text.replace("Symbol('s77', positive=True, integer=True)", code).encode()
    assert code in records["models/model.json"].decode()


def _guard(records: dict[str, bytes], trace: Path) -> None:
    data = json.loads(records["models/model.json"])
    data["guards_code"] = [f"__import__('os').mkdir('{trace}')"]
    records["models/model.json"] = json.dumps(data).encode()


def _name(records: dict[str, bytes], trace: Path) -> None:
    text = records["models/model.json"].decode()
    code = f"a\\n    __import__('os').mkdir('{trace}')\\n    b"
    records["models/model.json"] = (
        text.replace('"name": "gelu"', f'"name": "{code}"').replace('"gelu": {', f'"{code}": {{').encode()
    )


def _tree(records: dict[str, bytes], trace: Path) -> None:
    module = trace.parent / "evil_module.py"
    module.write_text(f"import os\nos.mkdir('{trace}')\n")
    data = json.loads(records["models/model.json"])
    signature = data["graph_module"]["module_call_graph"][0]["signature"]
    context = {"default_factory_module": "evil_module", "default_factory_name": "x", "dict_context": []}
    tree = [1, {"type": "collections.defaultdict", "context": context, "children_spec": []}]
    signature["out_spec"] = json.dumps(tree)
    records["models/model.json"] = json.dumps(data).encode()


def _compiled(records: dict[str, bytes], trace: Path) -> None:
    records["data/aotinductor/model/model.so"] = b"\x7fELF"


# One process, since importing torch takes seconds.
ATTACKED = """
import contextlib, sys, torch
for program in sys.argv[1:]:
    with contextlib.suppress(Exception):
        torch.export.load(program).module()(torch.ones(3, 4))
"""

ATTACKS = {
    "pickled weights": (_pickled_weights, r"cannot be trusted: it has pickled weights"),
    "an opaque constant": (_opaque_constant, r"cannot be trusted: it has a constant in 'opaque_obj_0'"),
    "example inputs": (_example_inputs, r"cannot be read by torch"),
    "an operator": (_operator, r"cannot be trusted: it calls 'torch\.os\.mkdir'"),
    "an expression": (_expression, r"cannot be trusted: it has the size .*__import__"),
    "a guard": (_guard, r"cannot be trusted: it has the guard"),
    "a name": (_name, r"cannot be trusted: it has the name .a\\n"),
    "a tree of arguments": (_tree, r"cannot be trusted: it has arguments or results that are no tuples"),
    "compiled code": (_compiled, r"cannot be trusted: it has compiled code"),
}


@pytest.mark.parametrize(("attack", "why"), ATTACKS.values(), ids=ATTACKS)
def test_program_is_refused_that_runs_code_by(
    net: Path, attack: Callable[[dict[str, bytes], Path], None], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = net.parent / "trace"
    monkeypatch.syspath_prepend(str(net.parent))
    edit(net, lambda records: attack(records, trace))
    with pytest.raises(ModelBuildError, match=why):
        open_net(net).run(EXAMPLE)
    assert not trace.exists()


def test_attacks_work_on_torch_itself(saved: Path, tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    programs = []
    for attack in (_pickled_weights, _expression, _tree):
        programs.append(tmp_path / attack.__name__ / "net.pt2")
        programs[-1].parent.mkdir()
        shutil.copy(saved, programs[-1])
        trace = programs[-1].with_name("trace")
        edit(programs[-1], lambda records, attack=attack, trace=trace: attack(records, trace))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORCH_FORCE")} | {
        "PYTHONPATH": str(tmp_path / _tree.__name__)
    }
    subprocess.run([sys.executable, "-c", ATTACKED, *programs], check=False, capture_output=True, env=environment)
    assert [path for path in programs if not path.with_name("trace").exists()] == []


def test_guards_of_a_program_are_not_run(net: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["guards_code"] = ["L['x'].size()[0] == 999"]

    edit_model(net, change)
    loaded = open_net(net)
    loaded.run(EXAMPLE)
    loaded.export(EXAMPLE)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("L['x'].size()[0] <= 64", True),
        ("Eq(Mod(L['x'].size()[0], 2), 0) and math.trunc(L['y'].stride()[1] / 2) != 3", True),
        ("L['x'].numpy().tofile('x')", False),
        ("math.__loader__.load_module('os')", False),
        ("open('x')", False),
        ("L['a\"); evil()']", False),
        ("(lambda: 1)()", False),
        ("1 +", False),
        ("[1 for x in y]", False),
    ],
)
def test_guards_are_checked(text: str, safe: bool) -> None:
    from cdk_inference.model.building.importers.torch_program import _is_guard

    assert _is_guard(text) is safe


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Symbol('s77', positive=True, integer=True)", True),
        ("Add(Mul(Integer(3), Symbol('s0', positive=True, integer=True)), Integer(-1))", True),
        ("FloorDiv(Pow(Symbol('u0', integer=True), Integer(2)), Integer(2))", True),
        ("2*s0 + 1", True),
        ("Pow(Integer(9), Pow(Integer(9), Integer(9999)))", False),
        ("Pow(Add(Pow(Symbol('u0', integer=True), Integer(2)), Integer(1)), Integer(2))", True),
        ("Pow(Symbol('u0', integer=True), Rational(1, 2))", True),
        ("Pow(Pow(Pow(Integer(9), Integer(16)), Integer(16)), Integer(16))", False),
        ("Pow(Integer(2), Mul(Integer(16), Integer(16), Integer(16)))", False),
        ("LShift(Integer(1), Integer(999999999999))", False),
        ("9**9**9", False),
        ("().__class__", False),
        ("open('x')", False),
        ("Symbol('x').__class__", False),
        ("(lambda: 0)()", False),
        ("[x for x in y]", False),
        ("Symbol(__builtins__)", False),
        ("Symbol('a b')", False),
        ("s0\n.a", False),
        ("x" * 5000, False),
        (3, False),
    ],
)
def test_sizes_are_checked(text: object, safe: bool) -> None:
    from cdk_inference.model.building.importers.torch_program import _is_expression

    assert _is_expression(text) is safe


@pytest.mark.parametrize(
    ("target", "safe"),
    [
        ("torch.ops.aten.conv2d.default", True),
        ("torch.ops.higher_order.cond", True),
        ("_operator.mul", True),
        ("math.trunc", True),
        ("torch.sym_max", True),
        ("torch._sym_sqrt", True),
        ("torch.ops.aten.from_file.default", False),
        ("torch.ops.aten.save.default", False),
        ("torch.ops.load_library", False),
        ("torch.os.system", False),
        ("torch.load", False),
        ("_operator.methodcaller", False),
        ("_operator.attrgetter", False),
        ("torch.sym_max.__globals__", False),
        ("torch.ops.aten.add.Tensor.__class__", False),
        ("#extension:operator", False),
        ("print", False),
    ],
)
def test_operators_are_checked(target: str, safe: bool) -> None:
    from cdk_inference.model.building.importers.torch_program import _is_operator

    assert _is_operator(target) is safe


def test_zip_bomb_is_refused(net: Path) -> None:
    with zipfile.ZipFile(net, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/weights/weight_9", bytes(10**7))
    with pytest.raises(ModelBuildError, match=r"net\.pt2 must not be compressed, since torch\.save does not do so"):
        open_net(net)


def test_archive_that_claims_more_than_it_has_is_refused(net: Path) -> None:
    content = net.read_bytes()
    with zipfile.ZipFile(net) as archive:
        entry = archive.start_dir
    for position in (entry + 20, entry + 24):  # both sizes of the first record
        content = content[:position] + (10**9).to_bytes(4, "little") + content[position + 4 :]
    net.write_bytes(content)
    with pytest.raises(ModelBuildError, match=r"cannot hold 10\d+ bytes, as its records claim, in \d+ bytes"):
        open_net(net)


@pytest.mark.parametrize("name", ["net/../../evil", "/net/evil", "net\\evil"])
def test_record_that_leads_out_of_the_archive_is_refused(net: Path, name: str) -> None:
    with zipfile.ZipFile(net, "a") as archive:
        archive.writestr(name, b"1")
    with pytest.raises(ModelBuildError, match=r"net\.pt2 must not have records that lead out of it, got '"):
        open_net(net)


def test_record_that_occurs_twice_is_refused(net: Path) -> None:
    with zipfile.ZipFile(net, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"1")
    with pytest.raises(ModelBuildError, match=r"two records of the same name"):
        open_net(net)


def test_program_of_an_old_torch_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("version", "8.8")
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(ModelBuildError, match=r"save it again with torch 2\.9 or later"):
        open_net(tmp_path / "net.pt2")


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", r"net\.pt2 .* got an empty file"), (b"<html>", "got an HTML page"), (b"\x80\x02K\x01.", "got pickle")],
)
def test_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(ModelBuildError, match=why):
        open_net(tmp_path / "net.pt2")


def test_weights_alone_are_no_program(tmp_path: Path) -> None:
    import torch

    torch.save({"w": torch.ones(3)}, tmp_path / "net.pt2")
    with pytest.raises(ModelBuildError, match=r"net\.pt2"):
        open_net(tmp_path / "net.pt2")


def test_operator_that_does_not_exist_fails(net: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["graph_module"]["graph"]["nodes"][1]["target"] = "torch.ops.aten.no_such.default"

    edit_model(net, change)
    with pytest.raises(ModelBuildError, match=r"cannot be read by torch .*save it again"):
        open_net(net)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_truncated_program_fails_wherever_it_ends(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = saved.read_bytes()
    (tmp_path / "net.pt2").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ModelBuildError, match=r"net\.pt2"):
        open_net(tmp_path / "net.pt2")
