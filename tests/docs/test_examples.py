"""Every example synthesizes, and the functions in them work."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import soundfile
from onnx import helper, numpy_helper

from cdk_inference import LambdaPlatform
from cdk_inference.bundling.bundle import bundle, lambda_source
from cdk_inference.model import build_model
from inference_runtime import Item
from inference_runtime.engine.engine import LocalEngine
from inference_runtime.stages.builtin.audio import audio_preprocessor
from inference_runtime.stages.builtin.segments import segments_postprocessor
from inference_runtime.tensors.tensor import arrays_of, tensors_of

from .pages import EXAMPLES, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Synth = Callable[..., dict[str, Any]]

MODEL = ROOT / "model_assets" / "efficientnet_lite"
PHOTOGRAPHS = ROOT / "model_assets" / "photographs"

# Runs in the bundle, like the function: what the example requires is not installed here.
PREPROCESS = """
import sys
from pathlib import Path

import numpy as np
import pillow_heif
from inference_runtime import Item, RejectItem
from PIL import Image
from photos import preprocess

photographs, results = Path(sys.argv[1]), Path(sys.argv[2])


def run(key, data):
    return preprocess(data, Item("id", "inbox", key, None, "etag", len(data), "0", "2026-01-01T00:00:00Z", "1"))


for name in ("chelsea", "coffee"):
    pillow_heif.from_pillow(Image.open(photographs / f"{name}.png").convert("RGB")).save(results / f"{name}.heic")
    heic = (results / f"{name}.heic").read_bytes()
    np.save(results / f"{name}.npy", run(f"album/{name}.heic", heic))
for key, data in {"half.heic": heic[: len(heic) // 2], "text.jpg": b"no photograph", "folder/": b"x"}.items():
    try:
        run(key, data)
    except RejectItem as error:
        print(key, "is", str(error).strip())
"""


@pytest.fixture
def synth(synthesized: Synth) -> Synth:
    """Return the resources of an example."""
    return lambda example, **context: synthesized(f"examples/{example}/app.py", **context)["Resources"]


def properties(resources: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [resource["Properties"] for resource in resources.values() if resource["Type"] == kind]


def stage_functions(resources: dict[str, Any]) -> list[str]:
    functions = properties(resources, "AWS::Lambda::Function")
    variables = [function["Environment"]["Variables"] for function in functions]
    return [each["STAGE_FUNCTION"] for each in variables if "STAGE_FUNCTION" in each]


def test_every_example_has_a_test() -> None:
    examples = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    # test_tutorial.py runs the shapes. test_continuous_delivery.py, test_gallery.py and test_dictation.py do what
    # they are about.
    assert examples == {
        "minimal",
        "own_functions",
        "sentences",
        "alarms",
        "cascade",
        "shapes",
        "continuous_delivery",
        "edge",
        "gallery",
        "release",
        "retraining",
        "monitoring_facade",
        "speech",
        "dictation",
    }


def test_release(synth: Synth) -> None:
    resources = synth("release")
    (table,) = (
        table["Metadata"]["cdk-inference"]
        for table in resources.values()
        if table.get("Metadata", {}).get("cdk-inference", {}).get("role") == "releases"
    )
    assert (table["steps"], table["compared"]) == ([20, 100], 25)
    assert "transposed:preprocess" in stage_functions(resources)


@pytest.mark.parametrize("subject", ["digits", "texts"])
def test_retraining(synth: Synth, subject: str) -> None:
    resources = synth("retraining", subject=subject)
    projects = properties(resources, "AWS::CodeBuild::Project")
    commands = "".join(project["Source"]["BuildSpec"] for project in projects)
    for command in (f"train -- python3 {subject}/retrain.py", f"build {subject}/recipe.py", "deploy.py"):
        assert command in commands
    asked = {"digits": "tensor", "texts": "text"}[subject]
    assert stage_functions(resources)[0].startswith(f"inference_runtime.stages.builtin.{asked}:")
    assert not [each for each in resources.values() if _role(each) == "releases"]  # the first deployment has one model


def test_edge(synth: Synth) -> None:
    resources = synth("edge")
    (component,) = properties(resources, "AWS::GreengrassV2::ComponentVersion")
    assert "Cameras.Photos.Edge" in json.dumps(component)
    assert not properties(resources, "AWS::GreengrassV2::Deployment")  # without a group of things
    assert len(properties(resources, "AWS::SSM::Parameter")) == 2


def _role(resource: dict[str, Any]) -> str | None:
    return resource.get("Metadata", {}).get("cdk-inference", {}).get("role")


def test_minimal(synth: Synth) -> None:
    resources = synth("minimal")
    assert stage_functions(resources) == [
        "inference_runtime.stages.builtin.image:image_preprocessor",
        "inference_runtime.stages.builtin.classification:classification_postprocessor",
    ]
    assert len(properties(resources, "AWS::DynamoDB::GlobalTable")) == 1


def test_sentences(synth: Synth) -> None:
    resources = synth("sentences")
    read, store = stage_functions(resources)
    assert read == "inference_runtime.stages.builtin.text:text_preprocessor"
    assert store == "inference_runtime.stages.builtin.embedding:embedding_postprocessor"
    (variables,) = (
        function["Environment"]["Variables"]
        for function in properties(resources, "AWS::Lambda::Function")
        if function["Environment"]["Variables"].get("STAGE_FUNCTION") == read
    )
    options = json.loads(variables["STAGE_OPTIONS"])
    assert options["inputs"] == {spec["name"]: spec["dtype"] for spec in json.loads(variables["MODEL_INPUTS"])}
    assert options["tokenizer_file"] == "tokenizer.json"


def test_speech(synth: Synth) -> None:
    (variables,) = (
        function["Environment"]["Variables"]
        for function in properties(synth("speech"), "AWS::Lambda::Function")
        if "PREPROCESS_FUNCTION" in function["Environment"]["Variables"]
    )
    assert json.loads(variables["PREPROCESS_OPTIONS"])["measure"] == "input"
    assert json.loads(variables["POSTPROCESS_OPTIONS"])["window_seconds"] == 0.032


@pytest.mark.slow
def test_speech_is_found_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of the example, with a network in place of silero-vad's that hears how loud it is."""
    folder = shutil.copytree(EXAMPLES / "speech", tmp_path / "speech")
    prepare = runpy.run_path(str(folder / "prepare.py"))
    onnx.save(prepare["batch_first"](loudness()), folder / "model.onnx")
    said, rate = soundfile.read(ROOT / "model_assets" / "spoken_digits" / "evaluation" / "27-9929.flac")
    (folder / "recordings").mkdir()
    for seconds in (1, 2):
        recording = np.concatenate([np.zeros(seconds * rate), said / np.abs(said).max(), np.zeros(rate)])
        soundfile.write(folder / "recordings" / f"{seconds}.flac", recording, rate)
    built = build_model(folder / "recipe.py", architecture=LambdaPlatform.host().architecture)
    (tmp_path / "model").symlink_to(built.path)
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    read = audio_preprocessor(16_000, 60, formats=("flac",), measure="input")
    kept = read((folder / "recordings" / "2.flac").read_bytes(), None)
    outputs = arrays_of(LocalEngine().infer(tensors_of({"input": kept.pop("input")[None]})))
    item = Item("id", "bucket", "key", None, "etag", 1, "0", "2026-01-01T00:00:00Z", "message", kept)
    answer = segments_postprocessor(512 / 16_000, min_gap=1.0)({"output": outputs["output"][0]}, item)
    assert answer["count"] == 1
    assert answer["segments"][0]["start"] == pytest.approx(2, abs=0.6)  # there is noise before the first word
    assert answer["segments"][0]["end"] == pytest.approx(2 + len(said) / rate, abs=0.6)


def loudness() -> onnx.ModelProto:
    """Return a network with the inputs and outputs of silero-vad's, which says how loud a window is."""
    nodes = [
        helper.make_node("Abs", ["input"], ["size"]),
        helper.make_node("ReduceMean", ["size"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["mean", "limit"], ["above"]),
        helper.make_node("Mul", ["above", "steep"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["output"]),
        helper.make_node("Identity", ["state"], ["stateN"]),
    ]
    values = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("input", [1, 576]), ("state", [2, 1, 128]), ("output", [1, 1]), ("stateN", [2, 1, 128]))
    }
    constants = [
        numpy_helper.from_array(np.float32([number]), name) for name, number in (("limit", 0.02), ("steep", 300))
    ]
    graph = helper.make_graph(
        nodes, "loudness", [values["input"], values["state"]], [values["output"], values["stateN"]], constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_cascade(synth: Synth) -> None:
    resources = synth("cascade")
    assert stage_functions(resources) == 2 * [
        "inference_runtime.stages.builtin.image:image_preprocessor",
        "inference_runtime.stages.builtin.classification:classification_postprocessor",
    ]
    kinds = [each["StateMachineType"] for each in properties(resources, "AWS::StepFunctions::StateMachine")]
    assert sorted(kinds) == ["EXPRESS", "STANDARD"]
    (gpu,) = (each for each in properties(resources, "AWS::Lambda::Function") if each.get("PackageType") == "Image")
    assert gpu["AcceleratorConfig"]["AcceleratorMemorySize"] == 24


def test_alarms_all_notify_the_topic(synth: Synth) -> None:
    resources = synth("alarms")
    (topic,) = (name for name, resource in resources.items() if resource["Type"] == "AWS::SNS::Topic")
    alarms = properties(resources, "AWS::CloudWatch::Alarm")
    assert {alarm["MetricName"] for alarm in alarms} == {
        "ApproximateNumberOfMessagesVisible",
        "ApproximateAgeOfOldestMessage",
        "Failed",
        "ExecutionsFailed",
        "ExecutionsTimedOut",
        "Throttles",
        "Latency",
    }
    assert all(alarm["AlarmActions"] == [{"Ref": topic}] for alarm in alarms)


def test_the_monitoring_facade_takes_the_metrics(synth: Synth) -> None:
    resources = synth("monitoring_facade")
    (alarm,) = properties(resources, "AWS::CloudWatch::Alarm")
    (topic,) = (name for name, resource in resources.items() if resource["Type"] == "AWS::SNS::Topic")
    assert (alarm["MetricName"], alarm["Namespace"], alarm["Threshold"]) == ("Latency", "cdk-inference", 300_000)
    assert alarm["AlarmActions"] == [{"Ref": topic}]
    (dashboard,) = properties(resources, "AWS::CloudWatch::Dashboard")
    body = json.dumps(dashboard["DashboardBody"])
    assert all(name in body for name in ("Succeeded", "Rejected", "Failed", "Latency", "MonitoredPhotos/Photos"))
    assert "ApproximateAgeOfOldestMessage" in body


def test_own_functions(synth: Synth) -> None:
    resources = synth("own_functions")
    assert stage_functions(resources) == ["photos:preprocess", "animals:postprocess"]


@pytest.mark.slow
def test_own_functions_find_the_animal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example, bundled = EXAMPLES / "own_functions", tmp_path / "bundled"
    code = bundle(
        cdk.Stack(cdk.App(), "Stack"),
        name="photos",
        requirements=[lambda_source() / "requirements" / "preprocess-base.txt", example / "requirements.txt"],
        sources={"inference_runtime": lambda_source() / "inference_runtime", "photos.py": example / "photos.py"},
        platform=LambdaPlatform.host(),
    )
    zipfile.ZipFile(code.zip_path).extractall(bundled)
    done = subprocess.run(
        [sys.executable, "-S", "-c", PREPROCESS, PHOTOGRAPHS, tmp_path],
        env=os.environ | {"PYTHONPATH": str(bundled)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rejected = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in rejected] == [
        "half.heic is not a photograph",
        "text.jpg is not a photograph",
        "folder/ is a folder, not a photograph",
    ]

    # The example's own tests, with the package that is not installed here.
    for path in (found for pattern in ("pillow_heif*", "_pillow_heif*") for found in bundled.glob(pattern)):
        (tmp_path / "heif").mkdir(exist_ok=True)
        (tmp_path / "heif" / path.name).symlink_to(path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, example],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "heif")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1].startswith("7 passed"), done.stdout

    monkeypatch.syspath_prepend(str(example))
    from animals import postprocess

    from inference_runtime import Item

    session = ort.InferenceSession(
        build_model(MODEL / "lite0.py", architecture=LambdaPlatform.host().architecture).path / "model.onnx"
    )
    predictions = {}
    for name in ("chelsea", "coffee"):
        item = Item("id", "inbox", f"album/{name}.heic", None, "etag", 1, "0", "2026-01-01T00:00:00Z", "1")
        (logits,) = session.run(["logits"], {"images": np.load(tmp_path / f"{name}.npy")[None]})
        predictions[name] = postprocess({"logits": logits[0]}, item)
    assert predictions["chelsea"]["animal"] is True  # a cat
    assert predictions["coffee"]["animal"] is False
    assert predictions["coffee"]["album"] == "album"
