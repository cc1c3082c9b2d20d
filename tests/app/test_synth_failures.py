"""Messages at the terminal when `cdk synth` cannot work."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx.parser import parse_model

from cdk_inference.model import build_model

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

APP = """
import aws_cdk as cdk

from cdk_inference import InferencePipeline, ModelArtifact, Preprocess, hide_tracebacks

hide_tracebacks()
app = cdk.App()
stack = cdk.Stack(app, "Failing")
model = ModelArtifact(stack, "Model", recipe="model/recipe.py")
InferencePipeline(stack, "Rows", model=model, preprocess=Preprocess.json(fields=["a", "b", "c", "d"]))
app.synth()
"""
BLANK_CALIBRATION = """
def calibration():
    yield {"numbers": np.zeros((8, 4), np.float32)}
"""


# A process that builds it need not import torch.
SUMS = """
<ir_version: 10, opset_import: ["": 18]>
sums (float[batch, 4] numbers) => (float[batch, 2] sums) <float[4, 2] weight = {1, 0, 1, 0, 0, 1, 0, 1}> {
  sums = MatMul(numbers, weight)
}
"""


@pytest.fixture
def app(tmp_path: Path, repository: Path) -> Path:
    """An app over the small model of the end-to-end tests."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "cdk.json").write_text(json.dumps({"app": "python3 app.py"}))
    shutil.copytree(repository / "tests" / "e2e" / "stages" / "app" / "model", tmp_path / "model")
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def wrong_prop(app: Path) -> None:
    change(app / "app.py", '"d"]))', '"d"]), batch_size=0)')


def raising_recipe(app: Path) -> None:
    change(app / "model" / "recipe.py", 'name="sums",', "name=nmae,")


def raising_factory(app: Path) -> None:
    change(app / "model" / "factory.py", "torch.nn.Linear(4,", "torch.nn.Linaer(4,")


def below_the_gate(app: Path) -> None:
    recipe = app / "model" / "recipe.py"
    change(recipe, "import Evaluation, Float32", "import Evaluation, OnnxFile, StaticInt8")
    change(recipe, 'TorchModule("factory.py:build")', 'OnnxFile("sums.onnx")')
    onnx.save(parse_model(SUMS), recipe.with_name("sums.onnx"))
    change(recipe, 'metric="cosine"', "max_drop=0.01")
    change(recipe, "precision=Float32(),", 'precision=StaticInt8(),\n    calibration="data.py:calibration",')
    data = app / "model" / "data.py"
    data.write_text(data.read_text() + BLANK_CALIBRATION)


@pytest.mark.parametrize(
    ("spoil", "subject", "value", "fix"),
    [
        (wrong_prop, "batch_size", "got 0", "must be 1 to 32"),
        (raising_recipe, "recipe.py", "'nmae' is not defined", "on line"),
        (raising_factory, "factory.py:build", "'Linaer'", "factory.py line 6"),
        (below_the_gate, "top1_agreement", "is below the gate 0.99", "or set precision=Auto()"),
    ],
)
def test_synth_fails_with_one_message(
    cdk: Callable[..., subprocess.CompletedProcess[str]],
    app: Path,
    spoil: Callable[[Path], None],
    subject: str,
    value: str,
    fix: str,
) -> None:
    if spoil is wrong_prop:  # the CLI would start a build, which is of no interest here
        build_model(app / "model" / "recipe.py")
    spoil(app)
    synth = cdk(app, "synth")
    assert synth.returncode == 1
    assert synth.stdout == ""
    errors = [line for line in synth.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, synth.stderr
    for part in (subject, value, fix):
        assert part in errors[0]
    for noise in ("Traceback", "jsii", "RuntimeError", "site-packages"):
        assert noise not in synth.stderr
    progress = [line for line in synth.stderr.splitlines() if line.startswith("model sums: ")]
    assert len(synth.stderr.splitlines()) - len(progress) <= 4  # the rest is the CLI's own
