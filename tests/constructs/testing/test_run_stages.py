"""Stages that run in this process: what users' unit tests see."""

from __future__ import annotations

import importlib
import math
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cdk_inference import (
    Column,
    Postprocess,
    Preprocess,
    PropError,
)
from cdk_inference.testing import InProcessPipeline, StageFailedError, run_postprocess, run_preprocess
from inference_runtime import RejectItem
from inference_runtime.tensors.tensor import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.model import BuiltModel

    Write = Callable[[str, str], Path]

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "model_assets" / "digits_cnn" / "recipe.py"
PHOTOGRAPH = ROOT / "model_assets" / "photographs" / "chelsea.png"


def ones(data: bytes, item: Any) -> Any:
    return np.ones((8, 8), np.uint8)


@given(
    st.one_of([st.just(np.dtype(name)) for name in sorted(DTYPES)]).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    )
)
def test_any_array_that_can_travel_comes_back_unless_it_has_nan_or_infinity(array: np.ndarray[Any, Any]) -> None:
    found = run_preprocess(lambda data, item: {"x": array, "note": item.key}, b"x", keep=["note"], key="a/b.c")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        assert found.reason is not None
        assert found.reason.endswith("values that are NaN or infinite")
        assert found.inputs == found.kept == {}
        return
    assert found.reason is None
    assert found.inputs["x"].dtype == array.dtype
    np.testing.assert_array_equal(found.inputs["x"], array)
    assert found.kept == {"note": "a/b.c"}
    assert found.item.bucket == "inbox"


def refuse(data: bytes, item: Any) -> Any:
    raise RejectItem("not today")


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        (b"", {}, "object is empty"),
        (b"four", {"max_object_bytes": 3}, "object has 4 bytes, at most 3 are read"),
        (b"four", {"stage": refuse}, "not today"),
        (b"four", {"stage": lambda data, item: np.ones(3, np.uint8)}, "input 'images' is uint8 [3], expected uint8"),
    ],
)
def test_an_object_is_rejected_with_the_reason_of_its_row(
    digits: BuiltModel, data: bytes, options: dict[str, Any], reason: str
) -> None:
    found = run_preprocess(options.pop("stage", ones), data, model=digits, **options)
    assert (found.reason or "").startswith(reason)
    assert found.inputs == {}


@pytest.mark.parametrize(
    ("stage", "options", "error", "says"),
    [
        (lambda data, item: np.ones((8, 8)), {"model": DIGITS}, "StageError", "'images' is float64"),
        (lambda data, item: {"y": 1}, {"model": DIGITS}, "StageError", "returned inputs ['y'], expected ['images']"),
        (lambda data, item: [None], {}, "StageError", "input 'input' is object [1], expected string or one of"),
        (lambda data, item: [[1], [1, 2]], {}, "ValueError", "inhomogeneous"),
        (ones, {"keep": ["size"]}, "StageError", "expected a dict with the inputs and size"),
        (lambda data, item: time.sleep(600), {"timeout": 1}, "TookTooLongError", "took longer than 0."),
        (ones, {"key": ""}, "MalformedMessageError", "object.key is ''"),
    ],
)
def test_what_the_runtime_refuses_fails_with_its_message(
    stage: Any, options: dict[str, Any], error: str, says: str
) -> None:
    with pytest.raises(StageFailedError) as raised:
        run_preprocess(stage, b"x", **options)
    assert raised.value.error == error
    assert says in str(raised.value)


def test_an_error_of_the_function_is_raised_as_it_is() -> None:
    def fails(data: object, item: object) -> Any:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match=r"^a bug$"):
        run_preprocess(fails, b"x")
    with pytest.raises(ValueError, match=r"^a bug$"):
        run_postprocess(fails, {"y": np.ones(1)})


def test_a_row_has_what_a_program_reads_in_production(capfd: pytest.CaptureFixture[str]) -> None:
    def postprocess(outputs: Any, item: Any) -> Any:
        with pytest.raises(ValueError, match="read-only"):
            outputs["y"][0] = 7
        return {"label": item.key, "sum": outputs["y"].sum(), "raw": b"\0", **item.kept}

    for _ in range(120):  # more than the metrics that Powertools keeps before it writes them
        found = run_postprocess(
            postprocess, {"y": np.arange(3.0)}, key="a/b", bucket="b", kept={"width": np.int64(640)}
        )
    assert (found.status, found.bucket, found.key, found.reason) == ("SUCCEEDED", "b", "a/b", None)
    assert found.prediction == {"label": "a/b", "sum": 3, "raw": b"\0", "width": 640}
    assert found.kept == {"width": 640}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("stage", "output", "status", "reason"),
    [
        (refuse, 1.0, "REJECTED", "not today"),
        (lambda outputs, item: {}, np.nan, "FAILED", "model output 'y' has 1 values that are NaN or infinite"),
        (lambda outputs, item: [1], 1.0, "FAILED", "postprocess returned list, expected a dict"),
        (lambda outputs, item: {"a": object()}, 1.0, "FAILED", "prediction.a is object, which is neither text"),
    ],
)
def test_a_row_that_did_not_succeed_says_why(stage: Any, output: float, status: str, reason: str) -> None:
    found = run_postprocess(stage, {"y": np.array([output])})
    assert (found.status, found.prediction) == (status, None)
    assert (found.reason or "").startswith(reason)


def test_the_alarm_of_a_test_runner_stays_set() -> None:
    before = signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        run_preprocess(ones, b"x")
        run_postprocess(lambda outputs, item: {}, {"y": np.ones(1)})
        left, _ = signal.getitimer(signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
    assert 0 < left <= 1000


def test_a_postprocessing_that_takes_too_long_fails() -> None:
    with pytest.raises(StageFailedError, match=r"postprocess took longer than 0.1 s"):
        run_postprocess(lambda outputs, item: time.sleep(600), {"y": np.ones(1)}, timeout=0.1)


@pytest.mark.parametrize(
    "outputs", [{"y": np.ones(10, np.float32)}, {"logits": np.ones(10)}, {"logits": np.ones((1, 10), np.float32)}]
)
def test_outputs_that_the_model_does_not_give_fail(digits: BuiltModel, outputs: Any) -> None:
    with pytest.raises(PropError, match=r"outputs must be those of the model .*'logits': 'float32 \[10\]'"):
        run_postprocess(lambda outputs, item: {}, outputs, model=digits)


def test_a_stage_finds_its_sources_alone(write: Write, tmp_path: Path) -> None:
    write("one/helper.py", "NUMBER = 1")
    write("one/deep/part.py", "LETTER = 'a'")  # without __init__.py
    write("one/words.txt", "hello")
    entry = write(
        "one/read.py",
        """
        import os
        from pathlib import Path

        import numpy as np

        def preprocess(data, item):
            from helper import NUMBER  # when it is called
            from deep.part import LETTER
            word = Path(os.environ["LAMBDA_TASK_ROOT"], "words.txt").read_text()
            return {"x": np.array([NUMBER]), "letter": LETTER, "word": word}
        """,
    )
    write("two/helper.py", "NUMBER = 2")
    write("two/read.py", "import helper\ndef preprocess(data, item): return [helper.NUMBER]")
    before = list(sys.meta_path)

    sources = [entry.parent / name for name in ("helper.py", "deep", "words.txt")]
    described = Preprocess.function(f"{entry}:preprocess", sources=sources, keep=["letter", "word"])
    found = run_preprocess(described, b"x")
    assert (found.inputs["x"].tolist(), found.kept) == ([1], {"letter": "a", "word": "hello"})
    assert run_preprocess(f"{tmp_path}/two/read.py:preprocess", b"x").inputs["input"].tolist() == [2]
    assert run_preprocess(f"{entry}:preprocess", b"x", keep=["letter", "word"]).inputs["x"].tolist() == [1]
    assert Path(str(sys.modules["read"].__file__)) == entry  # where debuggers and coverage look for it
    assert sys.meta_path == before

    # In AWS it would not be there either.
    with pytest.raises(ModuleNotFoundError, match="'helper'"):
        run_preprocess(Preprocess.function(f"{entry}:preprocess", sources=sources[1:]), b"x")


def test_a_test_may_replace_what_a_stage_uses(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = write("uses_clock.py", "def now(): return 1\ndef preprocess(data, item): return [now()]")
    monkeypatch.syspath_prepend(entry.parent)
    module = importlib.import_module("uses_clock")
    monkeypatch.setattr(module, "now", lambda: 7)
    assert run_preprocess(f"{entry}:preprocess", b"x").inputs["input"].tolist() == [7]


@pytest.mark.parametrize(
    ("stage", "error", "says"),
    [
        ("read.py:preprocess", PropError, "stage must be in an existing file, got 'read.py'"),
        ("read:preprocess", PropError, "stage must be of the form 'path/to/file.py:function', got 'read:preprocess'"),
        ("{here}/empty.py:preprocess", StageFailedError, '"empty" has no function "preprocess"'),
        ("{here}/needs.py:preprocess", StageFailedError, "add what is missing to the stage's code or requirements"),
        (7, PropError, "stage must be 'path/to/file.py:function', a function, or a Preprocess or Postprocess, got 7"),
    ],
)
def test_a_stage_that_is_not_there_fails(
    write: Write, tmp_path: Path, stage: Any, error: type[Exception], says: str
) -> None:
    write("empty.py", "")
    write("needs.py", "import not_installed")
    with pytest.raises(error) as raised:
        run_preprocess(stage.format(here=tmp_path) if isinstance(stage, str) else stage, b"x")
    assert says in str(raised.value)


def test_a_model_or_stage_that_does_not_fit_fails(digits: BuiltModel, tmp_path: Path) -> None:
    with pytest.raises(PropError, match="preprocess must make what the model takes, images: uint8"):
        run_preprocess(Preprocess.image(size=224), PHOTOGRAPH, model=digits)
    with pytest.raises(PropError, match="labels must have one name for each of the 10 classes"):
        InProcessPipeline(model=digits, preprocess=ones, postprocess=Postprocess.classification(labels=["a"]))
    with pytest.raises(PropError, match=r"model must be a recipe or a folder with manifest.json and model.onnx or"):
        run_preprocess(ones, b"x", model=tmp_path)
    (tmp_path / "model.onnx").touch()
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(PropError, match=r"model must have a readable manifest.json"):
        run_preprocess(ones, b"x", model=tmp_path)
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text('{"model": {}}')
    with pytest.raises(PropError, match=r"model must be given for Preprocess.text"):
        run_preprocess(Preprocess.text(tokenizer=tokenizer), b"x")
    for column in (Column.text("a"), Column.number("a", missing=math.nan)):
        with pytest.raises(PropError, match=r"model must be given for columns of texts or with NaN"):
            run_preprocess(Preprocess.json(fields=[column]), b"{}")
    with pytest.raises(PropError, match=r"model must be given for Postprocess.detection"):
        run_postprocess(Postprocess.detection(labels=["a"]), {"y": np.ones(1)})
    kept = Preprocess.function(f"{Path(__file__)}:ones", keep=["a"])
    with pytest.raises(PropError, match="keep must be left out with a Preprocess"):
        run_preprocess(kept, b"x", keep=["b"])
    with pytest.raises(PropError, match="keep must be left out with a Preprocess"):
        InProcessPipeline(model=digits, preprocess=kept, keep=["b"])
    wrong: Any = "photo.jpg"
    with pytest.raises(PropError, match=r"data must be bytes or a pathlib.Path, got 'photo.jpg'"):
        run_preprocess(ones, wrong)
    with pytest.raises(PropError, match=r"data must be an existing file, got 'photo.jpg'; looked in"):
        run_preprocess(ones, Path(wrong))
    with pytest.raises(PropError, match=r"outputs must be arrays that a model gives, got {'y': None}"):
        run_postprocess(ones, {"y": None})
    for large in ({"note": "a" * 2_000}, {"pixels": np.zeros(2_000)}):
        with pytest.raises(PropError, match=r"kept must be values that preprocess can keep, .* expected at most 2,000"):
            run_postprocess(ones, {"y": np.ones(1)}, kept=large)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(PropError, match="timeout must be above 0"):
            run_preprocess(ones, b"x", timeout=wrong)


def test_built_in_stages_run_as_an_app_describes_them() -> None:
    found = run_preprocess(Preprocess.image(size=32).keeping(["picture"]), PHOTOGRAPH)
    assert found.inputs["input"].shape == (32, 32, 3)
    assert set(found.kept) == {"picture"}
    assert found.item.key == "chelsea.png"
    assert run_preprocess(Preprocess.image(size=32), DIGITS).reason is not None
    assert run_preprocess(Preprocess.json(fields=["b", "a"]), b'{"a": 1, "b": 2}').inputs["input"].tolist() == [2, 1]
    texts = run_preprocess(lambda data, item: {"a": ["x"], "b": np.array(data.decode())}, b"y").inputs
    assert (texts["a"].tolist(), texts["b"].tolist()) == (["x"], "y")
    row = run_postprocess(Postprocess.classification(labels=["a", "b"], top=1), {"y": np.array([0.0, 9.0])})
    assert row.prediction is not None
    assert row.prediction["label"] == "b"
