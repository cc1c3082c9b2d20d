"""The comparison of public models with float32: it finds a model that answers differently, whatever weight is wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from verify.models import judge, page
from verify.models.judge import CASES, Row, compare, onnx_run, sign_test, torch_run

from cdk_inference.model import TensorSpec
from tests.constructs.model import graphs

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

ROOT = Path(__file__).parents[2]


def helpers() -> ModuleType:
    """Import what the cases share, as they do: from their folder."""
    spec = importlib.util.spec_from_file_location("case", CASES / "case.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["case"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


HELPERS = helpers()


def classifies(run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> list[int]:
    """Return the class of each image that stands out of what the untrained network says of all."""
    scores = np.concatenate([run({"images": image[None]})["scores"] for image in graphs.images(60, seed=9)])
    return (scores - scores.mean(axis=0)).argmax(axis=1).tolist()


NET: Any = SimpleNamespace(
    CASE=HELPERS.Case(
        kind="a network",
        package="",
        file="",
        license="CC0-1.0",
        inputs=(TensorSpec("images", "uint8", ("batch", 32, 32, 3)),),
        outputs=(TensorSpec("scores", "float32", ("batch", 10)),),
        seen="classes",
        bound=0.95,
    ),
    use=classifies,
)


def damaged(model: onnx.ModelProto, index: int) -> onnx.ModelProto:
    """Return a copy in which one layer has each channel's weights on the next channel, as a wrong fold would do."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    weight = copy.graph.initializer[index]
    weight.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(weight), 1, axis=0), weight.name))
    return copy


def compared(folder: Path, module: Any = NET) -> dict[str, Any]:
    """Compare the two files of a folder."""
    return compare(module, *(onnx_run(folder / name, module) for name in ("float32.onnx", "shipped.onnx")))


def row(agreement: float) -> Row:
    return Row("net", "", "", "", agreement=agreement, bound=NET.CASE.bound)


def test_same_model_agrees_and_one_wrong_weight_fails(tmp_path: Path) -> None:
    model = graphs.cnn()
    onnx.save(model, tmp_path / "float32.onnx")
    onnx.save(model, tmp_path / "shipped.onnx")
    assert compared(tmp_path) == {"agreement": 1.0}
    matrices = [i for i, w in enumerate(model.graph.initializer) if len(w.dims) > 1]
    assert len(matrices) > 5
    for index in matrices:
        onnx.save(damaged(model, index), tmp_path / "shipped.onnx")
        assert not row(compared(tmp_path)["agreement"]).good, model.graph.initializer[index].name


def test_row_is_good_if_it_is_refused_as_expected_or_agrees() -> None:
    assert row(0.95).good
    assert not row(0.9499).good
    assert Row("net", "", "", "", refusal="time first").good
    assert not Row("net", "", "", "", failure="the gate failed", agreement=1.0).good


def test_row_is_not_good_if_it_is_slower_or_less_often_right() -> None:
    assert Row("net", "", "", "", speedup=0.9, chance=0.05).good
    assert not Row("net", "", "", "", speedup=0.89).good
    assert not Row("net", "", "", "", chance=0.049).good


def test_right_answers_of_both_are_counted(tmp_path: Path) -> None:
    """An answer is right here if it is the class that float32 gives; a damaged layer loses most of them."""
    model = graphs.cnn()
    onnx.save(model, tmp_path / "float32.onnx")
    truth = classifies(onnx_run(tmp_path / "float32.onnx", NET))
    known = SimpleNamespace(**vars(NET), right=lambda answers: np.equal(answers, truth).tolist())
    matrix = next(i for i, w in enumerate(model.graph.initializer) if len(w.dims) > 1)
    onnx.save(damaged(model, matrix), tmp_path / "shipped.onnx")
    found = compared(tmp_path, known)
    assert found["right"] == (1.0, found["agreement"])
    assert found["chance"] < judge.CHANCE


def test_sign_test_is_that_of_scipy() -> None:
    from scipy import stats

    for lost, won in ((0, 0), (2, 0), (5, 0), (3, 9), (40, 21)):
        expected = stats.binomtest(lost, lost + won, alternative="greater").pvalue if lost + won else 1.0
        assert sign_test(lost, won) == pytest.approx(expected)


@pytest.mark.xdist_group("torch")
def test_network_of_pytorch_answers_with_the_weights_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    torch.manual_seed(0)
    network = torch.nn.Linear(4, 2)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(judge, "distribution", lambda _: SimpleNamespace(locate_file=lambda file: tmp_path / file))
    case = HELPERS.Case(
        kind="",
        package="p",
        file="weights.pth",
        license="",
        inputs=(TensorSpec("x", "float32", ("batch", 4)),),
        outputs=(TensorSpec("y", "float32", ("batch", 2)),),
        seen="",
        bound=1.0,
        factory="build",
    )
    run = torch_run(cast("Any", SimpleNamespace(CASE=case, build=lambda: torch.nn.Linear(4, 2))))
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(run({"x": x})["y"], network(torch.from_numpy(x)).detach().numpy())


def test_state_is_moved_behind_the_batch() -> None:
    """A recurrent network that has its batch on the second axis answers the same when it comes first."""
    g = graphs.Graph()
    x = g.input("x", ("time", "batch", 16))
    model = g.model(y=g.add("Add", g.add("Relu", x), g.add("Identity", x)))
    feed = np.random.default_rng(0).normal(size=(5, 3, 16)).astype(np.float32)
    expected = ort.InferenceSession(model.SerializeToString()).run(None, {"x": feed})[0]
    moved = HELPERS.batch_first(model, {"x": (1, 0, 2), "y": (1, 0, 2)})
    onnx.checker.check_model(moved)
    found = ort.InferenceSession(moved.SerializeToString()).run(None, {"x": feed.transpose(1, 0, 2)})[0]
    np.testing.assert_array_equal(found, expected.transpose(1, 0, 2))


def test_boxes_and_texts_are_compared() -> None:
    assert HELPERS.overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert HELPERS.overlap((0, 0, 1, 1), (1, 1, 2, 2)) == 0.0
    assert HELPERS.f1([[1, 2], []], [[2], [3]], lambda a, b: a == b) == 0.5
    assert HELPERS.f1([[1, 1]], [[1]], lambda a, b: a == b) == pytest.approx(2 / 3)
    assert HELPERS.collapse([0, 1, 1, 0, 1, 2], ["", "a", "b"], 0) == "aab"


def test_each_case_is_complete() -> None:
    names = judge.names()
    assert len(names) >= 30
    for name in names:
        text = (CASES / f"{name}.py").read_text("utf-8")
        for function in ("evaluation", "use"):
            assert f"def {function}(" in text, name


def test_page_has_each_case() -> None:
    text = page.PAGE.read_text("utf-8")
    assert re.findall(r"^\| \[(\w+)\]", text, re.MULTILINE)
    assert sorted(re.findall(r"^\| \[(\w+)\]", text, re.MULTILINE)) == judge.names()


def test_page_is_written_from_rows(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    target.write_text("# Title\n\n<!-- measured -->\nold\n\n<!-- built -->\n| old |\n\nText\n\n<!-- refused -->\n")
    built = Row("net", "pictures", "package 1", "labels", "static_int8", (2.0, 0.5), 1.5, "A CPU", 0.99, 0.9)
    refused = Row("other", "sounds", "package 2", "", refusal="the first axis must be a | b")
    page.write([json.loads(judge.to_json(each)) for each in (built, refused)], target)
    text = target.read_text("utf-8")
    assert "old" not in text
    assert "A CPU" in text
    assert "| [net](../../verify/models/cases/net.py) | pictures | package 1 | static_int8 | 2 to 0.5 | 1.50 |" in text
    assert "the first axis must be a \\| b |" in text
    assert text.index("| [net]") < text.index("Text") < text.index("| [other]")


def test_command_fails_with_69_without_an_index(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9/simple"
    variables = {"UV_DEFAULT_INDEX": nowhere, "UV_INDEX": "", "UV_FIND_LINKS": "", "UV_CACHE_DIR": str(tmp_path / "uv")}
    done = subprocess.run(
        [sys.executable, "-m", "verify.models"],
        cwd=ROOT,
        env={**os.environ, **variables, "UV_NO_CONFIG": "1", "CDK_INFERENCE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("the public models were not verified: the packages cannot be downloaded")
    assert done.returncode == 69


def test_row_survives_its_process() -> None:
    assert json.loads(judge.to_json(row(0.97)))["agreement"] == 0.97
