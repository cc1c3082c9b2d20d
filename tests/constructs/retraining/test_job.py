"""The jobs of a retraining: what a training leaves, and weights that are not those that were trained."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from cdk_inference.model import (
    Evaluation,
    Float32,
    HubFile,
    ModelRecipe,
    OnnxFile,
    Provenance,
    TensorSpec,
    TorchModule,
)
from cdk_inference.retraining import job as jobs
from cdk_inference.retraining.cli import app
from cdk_inference.retraining.deployed import RetrainingRun, RetrainingStatus
from cdk_inference.retraining.job import Job, JobError, Run, Trained

RUN = Run("0123456789abcdef", "execution", "bucket")
TRAIN = """
import json, os
lines = [json.loads(line) for line in open(os.environ["LABELS"])]
text = "".join(open(line["path"]).read() + line["label"] for line in lines)
open(os.environ["WEIGHTS"], "w").write(text)
"""


class Objects:
    """Objects of buckets in memory, as a client of boto3 reads and writes them."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.versions: list[str | None] = []

    def download_file(self, *, Bucket: str, Key: str, Filename: str, ExtraArgs: Any = None) -> None:  # noqa: N803
        if (Bucket, Key) not in self.objects:
            raise ClientError({"Error": {"Code": "404"}}, "HeadObject")
        self.versions.append((ExtraArgs or {}).get("VersionId"))
        Path(Filename).write_bytes(self.objects[Bucket, Key])

    def upload_file(self, *, Filename: str, Bucket: str, Key: str, ExtraArgs: Any) -> None:  # noqa: N803
        assert ExtraArgs == {"ChecksumAlgorithm": "SHA256"}
        self.objects[Bucket, Key] = Path(Filename).read_bytes()

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        return {"Body": type("Body", (), {"read": lambda _: self.objects[Bucket, Key]})()}

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, **_: Any) -> None:  # noqa: N803
        self.objects[Bucket, Key] = Body


@pytest.fixture
def s3() -> Objects:
    """A bucket with the labels of a run; one object is held out, and one key leads out of any folder, to no path."""
    found = Objects()
    labels = [("a.txt", "v1", False), ("../../b.\0", "null", False), ("c.txt", "v3", True)]
    lines = [
        {
            "bucket": "inbox",
            "key": key,
            "version_id": version,
            "label": "cat",
            "by": "Jane",
            "at": "now",
            "held_out": out,
        }
        for key, version, out in labels
    ]
    found.objects["bucket", f"label-sets/{RUN.id}.jsonl"] = "\n".join(map(json.dumps, lines)).encode()
    for key, _, _ in labels:
        found.objects["inbox", key] = f"<{key}>".encode()
    return found


def report(s3: Objects, folder: str) -> dict[str, Any]:
    return dict(json.loads(s3.objects["bucket", f"{folder}/{RUN.id}/report.json"]))


def test_a_training_gets_what_is_not_held_out_and_leaves_weights_with_their_hash(s3: Objects) -> None:
    trained = Job(RUN, s3).train([sys.executable, "-c", TRAIN], weights="w.bin")
    weights = b"<a.txt>cat<../../b.\0>cat"
    assert s3.objects["bucket", f"weights/{RUN.id}/w.bin"] == weights
    sha256 = hashlib.sha256(weights).hexdigest()
    assert trained == Trained("w.bin", sha256, len(weights), 2)
    assert report(s3, "weights") == {
        "run": RUN.id,
        "execution": "execution",
        "weights": "w.bin",
        "sha256": sha256,
        "size": len(weights),
    }
    assert s3.versions == ["v1", None]


def test_an_object_that_was_deleted_since_is_left_out(s3: Objects, capfd: pytest.CaptureFixture[str]) -> None:
    del s3.objects["inbox", "a.txt"]
    assert Job(RUN, s3).train([sys.executable, "-c", TRAIN], weights="w.bin").labels == 1
    assert s3.objects["bucket", f"weights/{RUN.id}/w.bin"] == b"<../../b.\0>cat"
    assert "left out, since it was deleted: s3://inbox/a.txt" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise SystemExit(3)", "the training must end with code 0, got 3 from"),
        ("", "the training must write weights to the path in WEIGHTS, got none"),
        ("import os; open(os.environ['WEIGHTS'], 'w')", "the training must write weights to the path in WEIGHTS"),
        ("import os; os.kill(os.getpid(), 9)", "the training must end with code 0, got -9 from"),
    ],
)
def test_a_training_that_makes_nothing_fails_without_a_report(s3: Objects, program: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        Job(RUN, s3).train([sys.executable, "-c", program])
    assert not [key for _, key in s3.objects if key.startswith("weights/")]


def recipe(folder: Path) -> Path:
    (folder / "model").mkdir()
    file = folder / "model" / "recipe.py"
    file.write_text(
        """
from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="tiny",
    source=TorchModule("model.py:build", weights="weights.bin"),
    precision=Float32(),
    inputs=(TensorSpec("x", "float32", ("batch", 2)),),
    outputs=(TensorSpec("y", "float32", ("batch", 2)),),
    evaluation=Evaluation(data="model.py:data"),
    provenance=Provenance(license="Apache-2.0", origin="made for these tests"),
)
"""
    )
    (folder / "model" / "model.py").write_text("def build(): ...\n\n\ndef data(): ...\n")
    (folder / "model" / "weights.bin").write_bytes(b"the old ones")
    return file


@pytest.mark.parametrize("weights", [b"others of the same length", b"too short", b""], ids=["other", "short", "empty"])
def test_weights_that_were_not_trained_fail_and_build_nothing(
    s3: Objects, tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "build_project", lambda _: pytest.fail("something was built"))
    trained = b"those of the training run"
    said = {"weights": "w.bin", "sha256": hashlib.sha256(trained).hexdigest(), "size": len(trained)}
    body = json.dumps({"run": RUN.id, "execution": RUN.execution, **said}).encode()
    s3.objects["bucket", f"weights/{RUN.id}/report.json"] = body
    s3.objects["bucket", f"weights/{RUN.id}/w.bin"] = weights
    with pytest.raises(
        JobError, match=rf"must be the 25 bytes with the SHA-256 .* got {len(weights)} with .*train again"
    ):
        Job(RUN, s3).build(recipe(tmp_path), cache=tmp_path / "cache")
    assert not [key for _, key in s3.objects if key.startswith("builds/")]
    assert (tmp_path / "model" / "weights.bin").read_bytes() == b"the old ones"


@pytest.mark.parametrize("name", ["out/w.bin", "../w.bin", "report.json", ""])
def test_weights_with_a_name_that_no_report_takes_fail_before_the_training(s3: Objects, name: str) -> None:
    with pytest.raises(JobError, match=r"weights must be the name of a file, such as weights\.safetensors, got"):
        Job(RUN, s3).train(["a program that is not there"], weights=name)


def test_a_reason_that_a_job_gave_does_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RetrainingRun("0a", "REFUSED", "worse\x1b[2J", "labels", 1, "now", "now", "", "", "")
    status = RetrainingStatus(1, new=0, holder=None, runs_this_month=1, deferred="2026-10", runs=[run])
    found = type("Deployed", (), {"status": lambda _: status})()
    monkeypatch.setattr("cdk_inference.retraining.cli._deployed", lambda *_: found)
    shown = CliRunner().invoke(app, ["status", "Stack"])
    assert (shown.exit_code, "worse" in shown.output, "\x1b[2J" in shown.output) == (0, True, False)
    assert "a run waits for the month after 2026-10, whose budget is used" in shown.output


def test_a_job_that_no_workflow_started_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAINING_RUN", "r")
    monkeypatch.delenv("RETRAINING_EXECUTION", raising=False)
    with pytest.raises(JobError, match="RETRAINING_EXECUTION must be set, got none"):
        Run.from_environment()


def test_a_recipe_without_a_place_for_weights_fails() -> None:
    def of(source: Any) -> ModelRecipe:
        return ModelRecipe(
            name="tiny",
            source=source,
            precision=Float32(),
            inputs=(TensorSpec("x", "float32", ("batch", 2)),),
            outputs=(TensorSpec("y", "float32", ("batch", 2)),),
            evaluation=Evaluation(data="model.py:data"),
            provenance=Provenance(license="Apache-2.0", origin="made for these tests"),
        )

    assert jobs._weights_of(of(OnnxFile("m.onnx"))) == "m.onnx"
    assert jobs._weights_of(of(TorchModule("model.py:build", weights="w.bin"))) == "w.bin"
    hub = HubFile("a/b", "w.bin", "main", "0" * 64)
    for source in (TorchModule("model.py:build"), TorchModule("model.py:build", weights=hub)):
        with pytest.raises(
            JobError, match="source of recipe 'tiny' must name one file of weights in its folder, got Torch"
        ):
            jobs._weights_of(of(source))
