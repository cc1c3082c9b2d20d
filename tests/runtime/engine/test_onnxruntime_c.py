"""Sessions of the C API: they return what the Python package returns, and fail as it does, however often."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from tests.waiting import PATIENCE

from inference_runtime.engine import onnxruntime_c
from inference_runtime.engine.onnxruntime_c import CSession
from inference_runtime.engine.onnxruntime_errors import (
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    OnnxRuntimeError,
    error_of,
)
from inference_runtime.engine.onnxruntime_package import PackageSession
from inference_runtime.engine.open_session import open_session
from inference_runtime.engine.session import Threads
from inference_runtime.errors import StageError
from inference_runtime.tensors.tensor import DTYPES, Tensor, tensors_of, zeros

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = Path(__file__).parents[3] / "lambda_src"
LIBRARY = Path(ort.__file__).parent / "capi"

TYPES = {name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in sorted(DTYPES)} | {
    "bfloat16": TensorProto.BFLOAT16,
    "string": TensorProto.STRING,
}
CPU = ["CPUExecutionProvider"]
ONE = Threads(1, spin=False)

Value = tuple[str, str, list[int | str]]


def model(nodes: list[Any], inputs: list[Value], outputs: list[Value], initializers: list[Any] | None = None) -> bytes:
    def infos(values: list[Value]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TYPES[dtype], shape) for name, dtype, shape in values]

    graph = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs), initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return made.SerializeToString()


def identities(inputs: list[Value]) -> bytes:
    """A model that returns each of its inputs."""
    nodes = [helper.make_node("Identity", [name], [f"out {name}"]) for name, *_ in inputs]
    return model(nodes, inputs, [(f"out {name}", dtype, shape) for name, dtype, shape in inputs])


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], str]:
    path = tmp_path_factory.mktemp("models") / "model.onnx"

    def write(content: bytes) -> str:
        path.write_bytes(content)
        return str(path)

    return write


def both(path: str) -> tuple[CSession, PackageSession]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return CSession(path, ONE), PackageSession(ort.InferenceSession(path, options, providers=CPU))


def outcome(session: CSession | PackageSession, inputs: dict[str, Tensor]) -> Any:
    """Return the result of a run, or the name of its error and its message."""
    try:
        return [(tensor.dtype, tensor.array()) for tensor in session.run(inputs)]
    except Exception as error:
        return type(error).__name__, str(error)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) or isinstance(other, tuple):
        return bool(one == other)
    for (dtype, array), (expected_dtype, expected) in zip(one, other, strict=True):
        assert dtype == expected_dtype
        np.testing.assert_array_equal(array, expected, strict=True)
    return True


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@st.composite
def given_inputs(draw: st.DrawFn) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
        dtype = draw(st.sampled_from([*sorted(DTYPES), "string"]))
        if dtype == "string":
            arrays[name] = draw(hnp.arrays(object, shape, elements=strings))
        else:
            arrays[name] = draw(hnp.arrays(dtype, shape))
    return arrays


@settings(max_examples=60)
@given(arrays=given_inputs(), symbols=st.booleans(), order=st.randoms())
def test_whatever_goes_in_comes_out(
    save: Callable[[bytes], str], arrays: dict[str, np.ndarray], symbols: bool, order: Any
) -> None:
    tensors = tensors_of(arrays)
    described = [
        (name, tensor.dtype, [f"d{n}" if symbols else n for n in tensor.shape]) for name, tensor in tensors.items()
    ]
    session = CSession(save(identities(described)), ONE)
    assert [(value.name, value.dtype, list(value.shape)) for value in session.inputs] == described
    assert [value.name for value in session.outputs] == [f"out {name}" for name in tensors]
    shuffled = list(tensors)
    order.shuffle(shuffled)
    given_backs = session.run({name: tensors[name] for name in shuffled})
    for given_back, sent in zip(given_backs, tensors.values(), strict=True):
        assert (given_back.dtype, given_back.shape) == (sent.dtype, sent.shape)
        assert bytes(given_back.encoded()) == bytes(sent.encoded())


TWO = {"0": np.array(False), "1": np.array(False)}


@settings(max_examples=80)
@given(arrays=given_inputs(), declared=given_inputs())
@example(arrays={"0": TWO["0"]}, declared=TWO)
def test_it_agrees_with_the_package_on_whatever_is_given(
    save: Callable[[bytes], str], arrays: dict[str, np.ndarray], declared: dict[str, np.ndarray]
) -> None:
    """Among them inputs of another model: of other names, types and shapes, too many or too few."""
    described = [(name, tensor.dtype, list(tensor.shape)) for name, tensor in tensors_of(declared).items()]
    ours, theirs = both(save(identities(described)))
    inputs = tensors_of(dict(zip(declared, arrays.values(), strict=False)) if len(arrays) % 2 else arrays)
    right = tensors_of(declared)
    for _ in range(2):
        got, expected = outcome(ours, inputs), outcome(theirs, inputs)
        # The package checks the names in Python, before it calls the library.
        assert isinstance(got, tuple) == isinstance(expected, tuple)
        assert isinstance(got, tuple) or same(got, expected)
        assert not isinstance(got, tuple) or got[0] == "InvalidArgument"
        assert same(outcome(ours, right), outcome(theirs, right))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_every_type_and_count(save: Callable[[bytes], str], dtype: str, count: int) -> None:
    ours, theirs = both(save(identities([("x", dtype, ["batch", 3])])))
    if dtype == "string":
        array = np.array([["é", "", "a\0b"]] * count, object).reshape(count, 3)
    else:
        array = np.arange(3 * count).reshape(count, 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    [got] = ours.run({"x": Tensor.of(array)})
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.array(), array)
    if dtype not in {"bfloat16", "string"}:  # which numpy does not know, and in which the package ends strings at a NUL
        assert same(outcome(ours, {"x": Tensor.of(array)}), outcome(theirs, {"x": Tensor.of(array)}))


def test_shapes_that_the_data_decides(save: Callable[[bytes], str]) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["where"]), helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0)]
    content = model(nodes, [("x", "float32", ["a", "b"])], [("where", "int64", [2, "n"]), ("sum", "float32", [])])
    ours, theirs = both(save(content))
    for x in (np.zeros((2, 3)), np.eye(3), np.ones((0, 4)), np.zeros((3, 3)), np.eye(3)):
        inputs = {"x": Tensor.of(x.astype("float32"))}
        assert same(outcome(ours, inputs), outcome(theirs, inputs))


def test_bytes_that_do_not_begin_where_numbers_do(save: Callable[[bytes], str]) -> None:
    session = CSession(save(identities([("x", "float64", ["n"])])), ONE)
    numbers = np.arange(9.0)
    for data in (b"_" + numbers.tobytes(), bytearray(b"_" + numbers.tobytes())):
        [got] = session.run({"x": Tensor("float64", [9], memoryview(data)[1:])})
        assert list(got.values()) == numbers.tolist()
    [got] = session.run({"x": Tensor.of(numbers).rows(2, 5)})
    assert got.values() == (2, 3, 4)


def test_large_outputs_are_lent_and_small_ones_copied(save: Callable[[bytes], str]) -> None:
    session = CSession(save(identities([("x", "float32", ["n"])])), ONE)
    for size, kind in ((1000, bytes), (100_000, memoryview)):
        x = np.arange(size, dtype=np.float32)
        [first], [second] = (session.run({"x": Tensor.of(x + n)}) for n in (0, 1))
        assert type(first.data) is kind
        assert first == Tensor("float32", [size], x.tobytes())
        assert second.take([size - 1]).values() == (size,)
        # As drivers do with caches: a lent output is the next input.
        [third] = session.run({"x": second})
        del second
        gc.collect()
        assert third == Tensor("float32", [size], (x + 1).tobytes())


def test_an_output_that_is_an_input_is_not_the_memory_of_the_caller(save: Callable[[bytes], str]) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    weight = numpy_helper.from_array(np.arange(50_000, dtype=np.float32), "w")
    outputs = [value, helper.make_tensor_value_info("w", TensorProto.FLOAT, [50_000])]
    graph = helper.make_graph([], "passes", [value], outputs, [weight])
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    data = bytearray(np.ones(50_000, np.float32).tobytes())
    session = CSession(save(model.SerializeToString()), ONE)
    passed, constant = session.run({"x": Tensor("float32", [50_000], data)})
    session.close()
    del session
    gc.collect()
    data[:] = bytes(len(data))
    assert set(passed.values()) == {1}
    assert constant.values() == tuple(range(50_000))


FORKED = """
import os, sys
from inference_runtime.engine.onnxruntime_c import CSession
from inference_runtime.engine.session import Threads

session = CSession(sys.argv[1], Threads(4, spin=False))
if (child := os.fork()) == 0:
    del session
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_drops_a_session_whose_threads_it_does_not_have(save: Callable[[bytes], str]) -> None:
    path = save(identities([("x", "float32", ["n"])]))
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "ORT_DISABLE_TELEMETRY": "1"}
    subprocess.run([sys.executable, "-c", FORKED, path], env=environment, check=True, timeout=PATIENCE)


def test_outputs_outlive_the_session(save: Callable[[bytes], str]) -> None:
    session = CSession(save(identities([("x", "float32", ["n"])])), ONE)
    x = np.arange(100_000, dtype=np.float32)
    [got] = session.run({"x": Tensor.of(x)})
    session.close()
    del session
    gc.collect()
    np.testing.assert_array_equal(got.array(), x)


def test_a_closed_session_fails(save: Callable[[bytes], str]) -> None:
    session = CSession(save(identities([("x", "float32", ["n"])])), ONE)
    session.close()
    session.close()
    with pytest.raises(StageError, match="the model is closed"):
        session.run({"x": zeros("float32", [1])})


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"no model", InvalidProtobuf),
        (b"", InvalidArgument),
        (
            model([helper.make_node("NoSuchOperator", ["x"], ["y"])], [("x", "int8", [1])], [("y", "int8", [1])]),
            InvalidGraph,
        ),
    ],
)
def test_a_model_that_is_none_fails_as_in_the_package(
    save: Callable[[bytes], str], content: bytes, kind: type[Exception]
) -> None:
    path = save(content)
    with pytest.raises(kind) as raised:
        CSession(path, ONE)
    with pytest.raises(Exception, match=r"^\[ONNXRuntimeError\]") as expected:
        open_in_package(path)
    assert type(raised.value).__name__ == expected.type.__name__
    assert str(raised.value) == str(expected.value)


def test_a_model_that_is_missing_fails(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFile, match=r"^\[ONNXRuntimeError\] : 3 : NO_SUCHFILE : .*nothing\.onnx"):
        CSession(str(tmp_path / "nothing.onnx"), ONE)


def opening(open_model: Callable[[], object]) -> str:
    try:
        open_model()
    except Exception as error:
        return f"{type(error).__name__} {error}"
    return "opened"


def open_in_package(path: str) -> object:
    # Without the package's second attempt, which it prints.
    return ort.InferenceSession(path, providers=CPU, enable_fallback=0)


whole = identities([("x", "float32", ["n", 2]), ("y", "string", ["n"])])


@settings(max_examples=150)
@given(cut=st.integers(0, len(whole)), place=st.integers(0, len(whole) - 1), byte=st.integers(0, 255))
def test_any_damage_of_the_file_is_an_error_or_harmless(
    save: Callable[[bytes], str], cut: int, place: int, byte: int
) -> None:
    """As the package does: both open it, or neither."""
    damaged = bytearray(whole)
    damaged[place] = byte
    for content in (whole[:cut], bytes(damaged)):
        path = save(content)
        got, expected = opening(lambda: CSession(path, ONE)), opening(lambda: open_in_package(path))  # noqa: B023
        # Strings that stopped being UTF-8 must not make us fail. The package gives an error whose message has
        # such a text without its message, or another error, depending on the version of Python.
        kind, _, message = expected.partition(" ")
        without_message = not message and got.partition(" ")[0] == kind
        assert got == expected or without_message or kind == "UnicodeDecodeError", content


def test_a_run_that_fails_has_the_librarys_message(save: Callable[[bytes], str]) -> None:
    table = helper.make_tensor("table", TensorProto.INT64, [3], [1, 2, 3])
    content = model(
        [helper.make_node("Gather", ["table", "x"], ["y"])], [("x", "int64", ["n"])], [("y", "int64", ["n"])], [table]
    )
    ours, theirs = both(save(content))
    bad, good = {"x": Tensor.of(np.array([7]))}, {"x": Tensor.of(np.array([2, 0]))}
    assert outcome(ours, bad) == outcome(theirs, bad)
    with pytest.raises(InvalidArgument, match=r"indices element out of data bounds, idx=7"):
        ours.run(bad)
    assert ours.run(good)[0].values() == (3, 1)
    for _ in range(3):
        assert outcome(ours, good)[0][1].tolist() == [3, 1]
    same_shape = {"x": Tensor.of(np.array([-9, 9]))}
    assert outcome(ours, same_shape) == outcome(theirs, same_shape)
    assert ours.run(good)[0].values() == (3, 1)
    with pytest.raises(InvalidArgument, match=r"Invalid input name: z"):
        ours.run(good | {"z": zeros("int64", [1])})
    with pytest.raises(UnicodeEncodeError):
        CSession(save(identities([("x", "string", ["n"])])), ONE).run({"x": Tensor("string", [2], ["a", "\ud800"])})


@pytest.mark.parametrize("optional", [False, True])
def test_a_missing_input_fails_before_anything_runs(save: Callable[[bytes], str], optional: bool) -> None:
    """The C API checks only what is given: an operator would fail in some way, or run without an optional input."""
    nodes = [helper.make_node("Clip", ["x", "low"], ["y"])] if optional else [helper.make_node("Neg", ["x"], ["y"])]
    inputs: list[Value] = [("x", "float32", ["n"]), ("low", "float32", [])]
    ours, theirs = both(save(model(nodes, inputs, [("y", "float32", ["n"])])))
    given = {"x": zeros("float32", [3])}
    with pytest.raises(ValueError, match=r"Required inputs \(\['low'\]\) are missing from input feed \(\['x'\]\)"):
        theirs.run(given)
    with pytest.raises(InvalidArgument, match=r"Required inputs \(\['low'\]\) are missing from input feed \(\['x'\]\)"):
        ours.run(given)
    assert len(ours.run({"low": zeros("float32", []), **given})) == 1


def test_what_is_no_tensor_fails_by_its_name(save: Callable[[bytes], str]) -> None:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_value_info("y", helper.make_sequence_type_proto(kind))],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    for session in both(save(made.SerializeToString())):
        with pytest.raises(StageError, match="model output 'y' is "):
            session.run({"x": zeros("float32", [1])})
    eighths = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT8E4M3FN, ["n"])],
    )
    made = helper.make_model(eighths, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(StageError, match="model output 'y' is ONNX type 17, which cannot travel"):
        CSession(save(made.SerializeToString()), ONE).run({"x": zeros("float32", [1])})


@pytest.mark.parametrize("code", range(20))
def test_errors_have_the_packages_names(code: int) -> None:
    error = error_of(code, "text")
    assert str(error).startswith(f"[ONNXRuntimeError] : {code} : ")
    from onnxruntime.capi import onnxruntime_pybind11_state as theirs

    assert 1 <= code <= 14 or type(error) is OnnxRuntimeError
    assert type(error) is OnnxRuntimeError or hasattr(theirs, type(error).__name__)


def negated(**more: Any) -> bytes:
    """A model that returns -x, of which more can be said."""
    values = {"inputs": [("x", "float32", ["n", "m"])], "outputs": [("y", "float32", ["n", "m"])], **more}
    return model([helper.make_node("Neg", ["x"], ["y"])], **values)


class TestRepeatedRuns:
    """A session runs again and again, and each run agrees with the package's."""

    @settings(max_examples=40)
    @given(
        runs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.sampled_from([2, 3])), min_size=2, max_size=25)
    )
    def test_any_order_of_shapes_and_values(self, save: Callable[[bytes], str], runs: list[tuple[int, ...]]) -> None:
        """Some shapes are wrong."""
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Cast", ["x"], ["z"], to=7)]
        weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 3], range(6))
        outputs: list[Value] = [("y", "float32", ["n", "m", 3]), ("z", "int64", ["n", "m", 2])]
        ours, theirs = both(save(model(nodes, [("x", "float32", ["n", "m", 2])], outputs, [weights])))
        for number, shape in enumerate(runs):
            inputs = {"x": Tensor.of(np.arange(number, number + np.prod(shape), dtype=np.float32).reshape(shape))}
            assert same(outcome(ours, inputs), outcome(theirs, inputs))

    @pytest.mark.parametrize(
        "content",
        [
            negated(),
            negated(outputs=[("y", "float32", ["k", "m"])]),
            negated(outputs=[("y", "float32", ["n", "m"]), ("x", "float32", ["n", "m"])]),
            negated(inputs=[("x", "float32", ["n", "m"]), ("unused", "int8", ["n"])]),
            negated(
                outputs=[("y", "float32", ["n", "m"]), ("constant", "int8", [2])],
                initializers=[helper.make_tensor("constant", TensorProto.INT8, [2], [3, 4])],
            ),
        ],
        ids=["plain", "another's size", "input is output", "unused input", "constant"],
    )
    def test_outputs_that_are_not_computed(self, save: Callable[[bytes], str], content: bytes) -> None:
        ours, theirs = both(save(content))
        for x in (np.eye(3), np.zeros((3, 3)), np.ones((3, 3))):
            inputs = tensors_of({"x": x.astype("float32"), "unused": np.zeros(3, "int8")})
            inputs = {value.name: inputs[value.name] for value in ours.inputs}
            assert same(outcome(ours, inputs), outcome(theirs, inputs))

    def test_a_model_that_lies_about_its_outputs(self, save: Callable[[bytes], str]) -> None:
        nodes = [helper.make_node("Cast", ["x"], ["c"], to=9), helper.make_node("Compress", ["x", "c"], ["y"])]
        ours, theirs = both(save(model(nodes, [("x", "int64", ["n"])], [("y", "int64", ["n"])])))
        for values in ([1, 2], [3, 4], [5, 0], [0, 0], [6, 7]):
            inputs = {"x": Tensor.of(np.array(values))}
            assert same(outcome(ours, inputs), outcome(theirs, inputs))

    def test_either_branch_writes_the_output(self, save: Callable[[bytes], str]) -> None:
        """A constant in one, and a computation in the other."""
        value = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n"])
        constant = helper.make_node("Constant", [], ["b"], value_floats=[7.0, 8.0, 9.0])
        branches = [
            helper.make_graph([node], "b", [], [value]) for node in (constant, helper.make_node("Neg", ["x"], ["b"]))
        ]
        choice = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
        inputs: list[Value] = [("x", "float32", ["n"]), ("c", "bool", [])]
        ours, theirs = both(save(model([choice], inputs, [("y", "float32", ["n"])])))
        for number, chosen in enumerate([0, 1, 1, 0, 1, 0, 0]):
            given = tensors_of({"x": np.full(3, number, np.float32), "c": np.array(bool(chosen))})
            assert same(outcome(ours, given), outcome(theirs, given))

    def test_any_number_of_turns_writes_the_output(self, save: Callable[[bytes], str]) -> None:
        """Without any, a loop returns what it began with."""

        def info(name: str, kind: int, shape: list[int | str]) -> Any:
            return helper.make_tensor_value_info(name, kind, shape)

        nodes = [helper.make_node("Add", ["v", "v"], ["w"]), helper.make_node("Identity", ["go"], ["on"])]
        begins = [info("turn", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("v", 1, ["n"])]
        body = helper.make_graph(nodes, "b", begins, [info("on", TensorProto.BOOL, []), info("w", 1, ["n"])])
        loop = helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)
        inputs: list[Value] = [("x", "float32", ["n"]), ("turns", "int64", [])]
        ours, theirs = both(save(model([loop], inputs, [("y", "float32", ["n"])])))
        for number, turns in enumerate([2, 1, 0, 0, 3, 0, 1]):
            given = tensors_of({"x": np.full(3, number, np.float32), "turns": np.array(turns)})
            assert same(outcome(ours, given), outcome(theirs, given))

    def test_constants_can_be_given(self, save: Callable[[bytes], str]) -> None:
        values: list[Value] = [("x", "float32", ["n", "m"]), ("c", "int8", [2])]
        constant = helper.make_tensor("c", TensorProto.INT8, [2], [3, 4])
        outputs: list[Value] = [("y", "float32", ["n", "m"]), ("c", "int8", [2])]
        ours, theirs = both(save(negated(inputs=values, outputs=outputs, initializers=[constant])))
        x = np.eye(2, dtype="float32")
        for number in range(4):
            for arrays in ({"x": x}, {"x": x, "c": np.full(2, number, "int8")}):
                inputs = tensors_of(arrays)
                assert same([(t.dtype, t.array()) for t in ours.run(inputs)], outcome(theirs, inputs))

    def test_bytes_of_any_kind(self, save: Callable[[bytes], str]) -> None:
        session = CSession(save(identities([("x", "int8", ["n"])])), ONE)
        for data in (b"ab", bytearray(b"cd"), memoryview(b"_ef")[1:], memoryview(b"gh").cast("b"), b"ij"):
            assert session.run({"x": Tensor("int8", [2], data)})[0].data == bytes(data)


class TestThreads:
    def test_any_number_run_one_session(self, save: Callable[[bytes], str]) -> None:
        nodes = [helper.make_node("MatMul", ["x", "x"], ["y"]), helper.make_node("Identity", ["s"], ["t"])]
        content = model(
            nodes,
            [("x", "float32", ["n", "n"]), ("s", "string", ["m"])],
            [("y", "float32", ["n", "n"]), ("t", "string", ["m"])],
        )
        session = CSession(save(content), Threads(2, spin=True))

        def work(n: int) -> bool:
            size = 1 + n % 40
            x = np.full((size, size), n % 7, np.float32)
            y, t = session.run(tensors_of({"x": x, "s": np.array([str(n)] * size, object)}))
            return bool((y.array() == x @ x).all()) and t.values() == (str(n),) * size

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(600)))

    def test_other_threads_go_on_while_the_model_runs(self, save: Callable[[bytes], str]) -> None:
        nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
        session = CSession(save(model(nodes, [("x", "float32", ["n", "n"])], [("y", "float32", ["n", "n"])])), ONE)
        done = threading.Event()

        def run() -> None:
            session.run({"x": zeros("float32", [1500, 1500])})
            done.set()

        thread = threading.Thread(target=run)
        turns = 0
        thread.start()
        while not done.is_set():
            turns += 1
        thread.join()
        assert turns > 100

    def test_closing_waits_for_nobody_and_harms_nobody(self, save: Callable[[bytes], str]) -> None:
        content = identities([("x", "float32", ["n"])])
        x = Tensor.of(np.arange(50_000, dtype=np.float32))
        for _ in range(20):
            session = CSession(save(content), ONE)

            def work(_: int, session: CSession = session) -> bool:
                try:
                    return session.run({"x": x})[0] == x
                except StageError:
                    return True

            with ThreadPoolExecutor(4) as pool:
                found = pool.map(work, range(40))
                session.close()
                assert all(found)


LEAKS = """
import gc, os, sys
from inference_runtime.errors import StageError
from inference_runtime.engine.onnxruntime_c import CSession
from inference_runtime.engine.session import Threads
from inference_runtime.tensors.tensor import Tensor, zeros

def memory():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def work(path, broken, runs):
    session = CSession(path, Threads(1, spin=False))
    x, s = zeros("float32", [100, 2]), Tensor("string", [100], ["text" * 500] * 100)
    for _ in range(runs):
        assert len(session.run({"x": x, "y": s})) == 2
        for wrong in ({"x": x}, {"x": s, "y": x}, {"x": x, "y": s, "z": x}, {"x": zeros("float32", [100, 3]), "y": s}):
            try:
                session.run(wrong)
            except Exception:
                continue
            raise SystemExit("that must fail")
    session.close()
    session = CSession(plain, Threads(1, spin=False))
    for number in range(2 * runs):
        for rows in range(10):
            session.run({"x": zeros("float32", [rows, 100])})
        try:
            session.run({"x": zeros("float32", [rows, 99])})
        except Exception:
            continue
        raise SystemExit("that must fail")
    try:
        CSession(broken, Threads(1, spin=False))
    except Exception:
        return
    raise SystemExit("that must fail")

path, plain, broken, rounds, runs = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
for _ in range(rounds // 4):
    work(path, broken, runs)
# What leaks grows in each part; what the allocator takes at some time does not.
grown = []
for _ in range(4):
    gc.collect()
    before = memory()
    for _ in range(rounds // 4):
        work(path, broken, runs)
    gc.collect()
    grown.append(memory() - before)
print(min(grown))
"""


@pytest.mark.parametrize(("rounds", "runs", "kilobytes"), [(500, 1, 64), (8, 200, 256)], ids=["sessions", "runs"])
def test_memory_stays_flat(tmp_path: Path, rounds: int, runs: int, kilobytes: int) -> None:
    """Hundreds of sessions, a third of which do not open, and of runs of 200 kB, most of which fail, or of little."""
    (tmp_path / "model.onnx").write_bytes(whole)
    (tmp_path / "plain.onnx").write_bytes(identities([("x", "float32", ["n", 100])]))
    (tmp_path / "broken.onnx").write_bytes(whole[:-20])
    paths = [tmp_path / f"{name}.onnx" for name in ("model", "plain", "broken")]
    done = subprocess.run(
        [sys.executable, "-c", LEAKS, *paths, str(rounds), str(runs)],
        env={**os.environ, "PYTHONPATH": str(SOURCES), "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert int(done.stdout) < kilobytes * 1024, f"{done.stdout} bytes more"


ENDING = """
import sys, threading
from inference_runtime.engine.onnxruntime_c import CSession
from inference_runtime.engine.session import Threads
from inference_runtime.tensors.tensor import zeros

session = CSession(sys.argv[1], Threads(2, spin=True))
begun = threading.Event()

def work():
    while True:
        session.run({"x": zeros("float32", [64, 64])})
        begun.set()

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
begun.wait()
if sys.argv[2] == "closed":
    session.close()
"""


@pytest.mark.parametrize("how", ["open", "closed"])
def test_a_process_may_end_while_its_threads_run_the_model(save: Callable[[bytes], str], how: str) -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    path = save(model(nodes, [("x", "float32", ["n", "n"])], [("y", "float32", ["n", "n"])]))
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "ORT_DISABLE_TELEMETRY": "1"}
    ending = [
        subprocess.Popen(
            [sys.executable, "-c", ENDING, path, how],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(5)
    ]
    assert [process.wait(PATIENCE) for process in ending] == [0] * 5


class TestTheLibrary:
    @pytest.fixture
    def paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder on `sys.path`, in which the library is looked for alone."""
        monkeypatch.setattr(sys, "path", [str(tmp_path / "not there"), str(tmp_path)])
        monkeypatch.setattr(onnxruntime_c, "_library", None)
        (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
        return tmp_path / "onnxruntime" / "capi"

    def test_it_is_found_by_its_name_alone(self, paths: Path) -> None:
        [library] = LIBRARY.glob("libonnxruntime.so.*")
        (paths / library.name).symlink_to(library)
        assert onnxruntime_c.load_library().version == ort.__version__
        assert onnxruntime_c.load_library() is onnxruntime_c.load_library()

    @pytest.mark.usefixtures("paths")
    def test_none_fails(self) -> None:
        with pytest.raises(StageError, match=r"there is no onnxruntime/capi/libonnxruntime\.so\.\* on sys\.path"):
            onnxruntime_c.load_library()

    def test_two_fail(self, paths: Path) -> None:
        for version in ("1.9.0", "1.31.1"):
            (paths / f"libonnxruntime.so.{version}").touch()
        with pytest.raises(
            StageError, match=r"has libonnxruntime\.so\.1\.31\.1, libonnxruntime\.so\.1\.9\.0, expected one"
        ):
            onnxruntime_c.load_library()

    def test_threads_load_it_once(self, paths: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        [library] = LIBRARY.glob("libonnxruntime.so.*")
        (paths / library.name).symlink_to(library)
        load, loaded = onnxruntime_c.Library, []
        monkeypatch.setattr(onnxruntime_c, "Library", lambda path: loaded.append(path) or load(path))
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(lambda _: onnxruntime_c.load_library(), range(8)))) == 1
        assert len(loaded) == 1

    @pytest.mark.parametrize("content", [b"", b"\x7fELF no library"])
    def test_a_damaged_one_fails(self, paths: Path, content: bytes) -> None:
        (paths / "libonnxruntime.so.1.31.1").write_bytes(content)
        with pytest.raises(StageError, match=r"cannot load ONNX Runtime's library: .*libonnxruntime\.so\.1\.31\.1"):
            onnxruntime_c.load_library()

    def test_another_library_fails(self, paths: Path) -> None:
        shutil.copy(next(LIBRARY.glob("libonnxruntime_providers_shared.so")), paths / "libonnxruntime.so.1.31.1")
        with pytest.raises(StageError, match=r"cannot load ONNX Runtime's library: .*OrtGetApiBase"):
            onnxruntime_c.load_library()

    def test_an_older_one_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It has no table of the version: as if we asked a new one for a version that is not there yet."""
        monkeypatch.setattr(onnxruntime_c, "_library", None)
        monkeypatch.setattr(onnxruntime_c, "API_VERSION", 4000)
        version = re.escape(ort.__version__)
        with pytest.raises(StageError, match=rf"libonnxruntime\.so\.\S+ is ONNX Runtime {version}, expected 1\.4000"):
            onnxruntime_c.load_library()


@pytest.mark.parametrize(
    ("memory", "count", "spin"),
    [
        (None, 6, True),
        ("128", 1, False),
        ("1769", 1, True),
        ("2500", 1, True),
        ("2700", 2, False),
        ("3538", 2, True),
        ("5000", 3, False),
        ("10240", 6, True),
    ],
)
def test_threads_spin_where_each_has_a_vcpu(
    monkeypatch: pytest.MonkeyPatch, memory: str | None, count: int, spin: bool
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", raising=False)
    if memory:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)
    threads = Threads.of_function()
    assert (threads.count, threads.spin) == (count, spin)


class TestWhichEngine:
    @pytest.fixture(autouse=True)
    def function(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "model.onnx").write_bytes(whole)
        monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
        for name in ("ACCELERATOR", "INFERENCE_ENGINE", "ORT_DISABLE_TELEMETRY"):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize(("engine", "kind"), [(None, CSession), ("c_api", CSession), ("python", PackageSession)])
    def test_the_one_that_is_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, engine: str | None, kind: type[object]
    ) -> None:
        if engine:
            monkeypatch.setenv("INFERENCE_ENGINE", engine)
        session, where = open_session()
        assert (type(session), where) == (kind, "cpu")
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
        session.close()

    def test_any_other_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("INFERENCE_ENGINE", "tensorflow")
        with pytest.raises(StageError, match='INFERENCE_ENGINE is "tensorflow", expected "c_api" or "python"'):
            open_session()

    @pytest.mark.parametrize("engine", ["c_api", "python"])
    def test_what_is_not_packaged_fails_and_the_other_does_not_step_in(self, tmp_path: Path, engine: str) -> None:
        script = "from inference_runtime.engine.open_session import open_session; open_session()"
        done = subprocess.run(
            [sys.executable, "-S", "-c", script],
            env={"PYTHONPATH": str(SOURCES), "LAMBDA_TASK_ROOT": str(tmp_path), "INFERENCE_ENGINE": engine},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 1
        says = {"c_api": "there is no onnxruntime/capi/libonnxruntime.so.*", "python": "cannot import the package"}
        assert f"StageError: {says[engine]}" in done.stderr


INLINE = """
import sys
from inference_runtime.handlers import infer
tensor = {"dtype": "float32", "shape": [1, 2], "data": "AACAPwAAAEA="}
text = {"dtype": "string", "shape": [1], "data": "WyJhIl0="}
event = {"groups": [{"indices": [0], "inputs": {"x": tensor, "y": text}}]}
assert infer.handler({"cdk-inference": "warm"}, None) == {"warm": True}
[group] = infer.handler(event, None)["groups"]
assert group["outputs"] == {"out x": tensor, "out y": text}, group
print(*sorted(sys.modules))
"""


def test_an_inline_event_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """docs/internals/engine.md says what each module costs: a cold start is made of imports."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(whole)
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    [library] = LIBRARY.glob("libonnxruntime.so.*")
    (tmp_path / "onnxruntime" / "capi" / library.name).symlink_to(library)
    environment = {
        "PYTHONPATH": f"{SOURCES}{os.pathsep}{tmp_path}",
        "LAMBDA_TASK_ROOT": str(tmp_path),
        "MODEL_VERSION": "m1",
        "WORK_BUCKET": "bucket",
        "CONFIDENCE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-S", "-c", INLINE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert not imported & {"numpy", "botocore", "boto3", "onnxruntime", "urllib.request", "http.client", "ssl"}
    assert not imported & {"typing", "dataclasses", "pathlib", "asyncio", "hashlib", "base64"}
    assert not imported & {"inspect", "concurrent", "socket", "subprocess", "importlib.metadata"}
    ours = {name.removeprefix("inference_runtime.") for name in imported if name.startswith("inference_runtime.")}
    assert ours == {
        *("engine", "environment", "errors", "handlers", "lifecycle", "logs", "model", "tensors"),
        *(f"engine.{name}" for name in ("batches", "confidence", "engine", "heap", "onnxruntime_c")),
        *("engine.open_session", "engine.session", "handlers.infer", "handlers.open_engine"),
        *("model.files", "tensors.store", "tensors.tensor"),
    }
