"""The lock file: what it says, and when it holds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import DynamicInt8, Evaluation, Float32, Metric, StaticInt8
from cdk_inference.model.records.lock import Candidate, Lock, read_lock
from cdk_inference.model.records.manifest import Distribution, Measured

if TYPE_CHECKING:
    from pathlib import Path

LOCK = Lock(
    name="m",
    basis={"data.py": "abc", "recipe field source": "def"},
    tools={"onnx": "1.23.2", "torch": "2.13.0"},
    precision=StaticInt8(keep_float=("Conv_1",)),
    ranges={"v0_0": (-1.5, 2.25), "v1_0": (0.0, 1e-05)},
    sha256="0" * 64,
    architecture="convolutional",
    target="x86_64",
    exact_on=("arm64", "x86_64"),
    metric=Metric("cosine", 1.0, 0.99, 0.95, 100),
    parity={"exported": 1.0, "quantized": 0.99},
    measured=Measured("a cpu", 2.0, 1.0, 2.0, 100.0, 50.0, 60.0, {"1": 1.0, "2": 0.6}),
    distributions={"y": Distribution(0.5, 0.1, (0.0, 0.5, 1.0), {})},
    candidates=(
        Candidate("float32", "reference", "", Float32(), 1.0, 1.0, 4, 2.0, 1.0),
        Candidate("dynamic int8", "error", "no product", DynamicInt8()),
    ),
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def test_lock_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "m.lock.json").write_text(LOCK.to_json())
    assert read_lock(tmp_path / "m.lock.json") == LOCK
    assert read_lock(tmp_path / "other.lock.json") is None


@given(ranges=st.dictionaries(st.text(max_size=5), st.tuples(FLOATS, FLOATS)))
def test_ranges_survive_exactly_and_take_a_line_each(
    tmp_path_factory: pytest.TempPathFactory, ranges: dict[str, tuple[float, float]]
) -> None:
    lock = replace(LOCK, ranges=ranges)
    file = tmp_path_factory.mktemp("lock") / "m.lock.json"
    file.write_text(lock.to_json())
    assert read_lock(file) == lock
    assert len(lock.to_json().splitlines()) == len(replace(LOCK, ranges={}).to_json().splitlines()) + (
        len(ranges) + 1 if ranges else 0
    )


def test_lock_holds_for_its_recipe_and_tools() -> None:
    assert LOCK.stale(LOCK.basis, LOCK.tools) is None
    assert LOCK.stale(LOCK.basis, LOCK.tools | {"cdk-inference": "9.0"}) is None  # a release changes no decision


@pytest.mark.parametrize(
    ("basis", "tools", "reason"),
    [
        (LOCK.basis | {"data.py": "abd"}, LOCK.tools, "data.py changed"),
        (LOCK.basis | {"a.csv": "1", "data.py": "abd"}, LOCK.tools, "a.csv is new, data.py changed"),
        ({"data.py": "abc"}, LOCK.tools, "recipe field source is gone"),
        (LOCK.basis, {"onnx": "1.24.0", "torch": "2.13.0"}, "onnx 1.23.2 -> 1.24.0"),
        (LOCK.basis, {"onnx": "1.23.2"}, "torch 2.13.0 -> none"),
        (LOCK.basis, LOCK.tools | {"numpy": "2"}, "numpy none -> 2"),
    ],
)
def test_lock_is_stale_with_a_reason(basis: dict[str, str], tools: dict[str, str], reason: str) -> None:
    assert LOCK.stale(basis, tools) == reason


def test_lock_takes_over_a_gate_that_its_model_passes() -> None:
    evaluation = Evaluation("data.py:f", metric="cosine", max_drop=0.05)
    assert LOCK.judged_by(evaluation) == LOCK
    assert LOCK.judged_by(replace(evaluation, max_drop=0.5)).metric.gate == 0.5
    assert LOCK.judged_by(replace(evaluation, max_drop=0.5, floor=0.985)).metric.gate == 0.985


SHIPPED = replace(LOCK.candidates[1], status="shipped", size_bytes=2_000_000)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_drop": 0.001}, "its model has cosine 0.99, beyond the gate 0.999"),
        ({"floor": 0.995}, "its model has cosine 0.99, beyond the gate 0.995"),
        ({"max_size_mb": 1.5}, "its model has 2.00 MB, beyond max_size_mb 1.5"),
        ({"max_latency_ms": 0.5}, "its model has 1 ms, beyond max_latency_ms 0.5"),
    ],
)
def test_lock_fails_a_limit_that_its_model_misses(limits: dict[str, float], reason: str) -> None:
    lock = replace(LOCK, candidates=(LOCK.candidates[0], SHIPPED))
    with pytest.raises(ModelBuildError, match=f"^{reason}$"):
        lock.judged_by(Evaluation("data.py:f", metric="cosine", **limits))


DATA = json.loads(LOCK.to_json())
EDITED = LOCK.to_json().replace('"quantized": 0.99', '"quantized": 1.0')


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        (LOCK.to_json()[:200], r""),
        ("<<<<<<< HEAD\n" + LOCK.to_json(), "Expecting value"),
        ("[]", "it has schema version None, expected 4"),
        (json.dumps(DATA | {"schema_version": 1}), "it has schema version 1, expected 4"),
        (json.dumps(DATA | {"precision": {"kind": "int3"}}), r"precision"),
        (json.dumps(DATA | {"precision": {"kind": "weight_only", "bits": 3}}), r"bits"),
        (json.dumps(DATA | {"ranges": {"v0_0": [1]}}), r"ranges"),
        (json.dumps(DATA | {"sha": ""}), r"extra fields found \(sha\)"),
        ("[" * 100_000, ""),
        (EDITED, "its checksum is not that of its content, as after an edit or a merge"),
    ],
)
def test_damaged_lock_fails_with_the_way_out(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "m.lock.json"
    file.write_text(text)
    with pytest.raises(
        ModelBuildError, match=rf"the lock .*m\.lock\.json cannot be used: .*{reason}.*; restore it, or delete"
    ):
        read_lock(file)


def test_lock_that_is_no_text_fails(tmp_path: Path) -> None:
    file = tmp_path / "m.lock.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelBuildError, match="cannot read the lock"):
        read_lock(file)
