"""Digits and texts that look different: labels, training, gate and canary, and labels that teach nothing.

The whole way of texts runs with ``-m soak``; otherwise digits go it, and texts go through their jobs alone.
"""

from __future__ import annotations

import io
import random
import runpy
import sys
import unicodedata
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cdk_inference.audit.deployed import DeployedLog
from cdk_inference.common.platform import LambdaPlatform
from cdk_inference.local import aws
from cdk_inference.model.registry.registry import Registry
from cdk_inference.releases.deployed import ABORTED, PROMOTED, DeployedRelease
from cdk_inference.retraining.deployed import DeployedRetraining, RetrainingRun
from cdk_inference.retraining.job import Job, Run, Verdict
from cdk_inference.testing import LocalModel
from inference_runtime.retraining import layout
from inference_runtime.retraining.label_set import LabelSet
from tests.assemblies import synthesized
from tests.e2e.quick import quick_cloud
from tests.e2e.retraining.conftest import Session
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "retraining"


class Subject(ABC):
    """The objects of an example, which look different from those that its first model has learned.

    Attributes
    ----------
    name, suffix
        Its name, and the ending of its keys.
    labelled, looked_at
        Places of objects that people label, and of others.
    """

    name: str
    suffix: str
    labelled: range
    looked_at: range

    @abstractmethod
    def item(self, place: int) -> tuple[str, bytes]:
        """Return the class of an object, and its content."""


class Digits(Subject):
    """Digits whose ink is the paper."""

    name, suffix, labelled, looked_at = "digits", ".npy", range(100), range(1500, 1560)

    def __init__(self) -> None:
        table = np.loadtxt(ROOT / "model_assets" / "digits_cnn" / "digits.csv.gz", delimiter=",", dtype=np.int64)
        self._images, self._digits = table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1]

    def item(self, place: int) -> tuple[str, bytes]:
        file = io.BytesIO()
        np.save(file, 16 - self._images[place])
        return str(self._digits[place]), file.getvalue()


class Texts(Subject):
    """Texts in capitals without accents, as some devices write them."""

    name, suffix, labelled, looked_at = "texts", ".txt", range(180), range(1314, 1374)

    def __init__(self) -> None:
        data = runpy.run_path(str(EXAMPLE / "texts" / "data.py"))
        self._languages: list[str] = data["LANGUAGES"]
        self._texts: list[str] = data["texts"](data["sentences"]())[0]

    def item(self, place: int) -> tuple[str, bytes]:
        letters = unicodedata.normalize("NFD", self._texts[place].upper().replace("Ł", "L"))
        text = "".join(letter for letter in letters if not unicodedata.combining(letter))
        return self._languages[place % len(self._languages)], text.encode()


class Reader:
    """A pipeline that reads such objects, and its retraining."""

    def __init__(self, cloud: LocalCloud, pipeline: Watched, subject: Subject) -> None:
        self.cloud, self.pipeline, self.subject = cloud, pipeline, subject
        self.stack = subject.name.capitalize()
        self.retraining = DeployedRetraining.find(Session(cloud), self.stack)

    def read(self, folder: str, places: Sequence[int]) -> dict[str, str]:
        """Put objects, and return what was read, by key; the key ends in the truth."""
        items = [self.subject.item(place) for place in places]
        keys = [
            f"{folder}/{place}-is-{truth}{self.subject.suffix}" for place, (truth, _) in zip(places, items, strict=True)
        ]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.pipeline.put, keys, [content for _, content in items]))
        assert set(self.pipeline.ends(keys).values()) == {"SUCCEEDED"}
        return {row["key"]: str(row["prediction"]["label"]) for row in self.pipeline.rows(*keys)}

    def variants(self, folder: str) -> set[tuple[str | None, str]]:
        rows = [row for row in self.pipeline.rows() if row["key"].startswith(f"{folder}/")]
        return {(row.get("variant"), row["model_version"]) for row in rows}

    def label(self, labels: dict[str, str]) -> RetrainingRun:
        """Label objects, and return the run that this starts, once it is over."""
        before = len(self.retraining.status().runs)
        said = [{"key": key, "label": label, "by": "a test"} for key, label in labels.items()]
        taken = self.retraining.label(said)
        assert taken.rejected == []

        def over() -> bool:
            runs = self.retraining.status().runs
            return len(runs) > before and runs[-1].status != "RUNNING"

        wait_until(over, self.retraining.status, timeout=900, every=1)
        run = self.retraining.status().runs[-1]
        if run.status == "FAILED":
            pytest.fail(f"{run.reason}\n{self.log()}")
        return run

    def log(self) -> str:
        """Return the end of what the jobs have logged."""
        logs = self.cloud.client("logs")
        groups = logs.describe_log_groups(logGroupNamePrefix="/aws/codebuild/")["logGroups"]
        found = [logs.filter_log_events(logGroupName=group["logGroupName"])["events"] for group in groups]
        events = sorted((event for each in found for event in each), key=lambda event: event["timestamp"])
        return "\n".join(event["message"] for event in events)[-5000:]


def truth(key: str) -> str:
    """Return the class of an object."""
    return Path(key.partition("-is-")[2]).stem


def right(read: dict[str, str]) -> float:
    """Return the share of objects that were read right."""
    return sum(truth(key) == label for key, label in read.items()) / len(read)


@pytest.fixture(scope="module", params=[Digits, pytest.param(Texts, marks=pytest.mark.soak)], ids=["digits", "texts"])
def reader(
    request: pytest.FixtureRequest, watch: type[Watched], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reader]:
    subject = request.param()
    folder = tmp_path_factory.mktemp(subject.name)
    app = synthesized(EXAMPLE / "app.py", folder, {"subject": subject.name}, settings=ROOT / "cdk.json")
    with quick_cloud(app) as cloud:
        yield Reader(cloud, watch(cloud, f"{subject.name.capitalize()}/Reader"), subject)


def test_shuffled_labels_are_refused_and_good_ones_make_a_better_model(reader: Reader) -> None:
    labelled = reader.read("labelled", reader.subject.labelled)
    looked_at = reader.subject.looked_at
    before = right(reader.read("before", looked_at))
    assert before < 0.5
    ((_, old),) = reader.variants("before")

    # Labels that say nothing of the objects: the gate has some that training has not seen, and the model fails it.
    good = {key: truth(key) for key in labelled}
    shuffled = list(good.values())
    random.Random(1).shuffle(shuffled)  # noqa: S311 - the same in each run
    refused = reader.label(dict(zip(good, shuffled, strict=True)))
    assert (refused.status, refused.version) == ("REFUSED", "")
    assert "must be one that passes the gate" in refused.reason
    assert len(refused.sha256) == 64
    assert audited(reader, refused)["status"] == "REFUSED"
    reader.read("after refusal", looked_at[:8])
    assert reader.variants("after refusal") == {(None, old)}

    # The right ones, of the same objects.
    deployed = reader.label(good)
    assert deployed.status == "DEPLOYED"
    release = DeployedRelease.find(Session(reader.cloud), reader.stack)
    assert release.status().candidate["version"] == deployed.version
    bursts = 0
    while release.status().status not in (PROMOTED, ABORTED) and bursts < 30:
        reader.read(f"during {bursts}", looked_at[:40])
        bursts += 1
    assert release.status().status == PROMOTED
    after = right(reader.read("after", looked_at))
    assert reader.variants("after") == {("candidate", deployed.version)}
    assert after > 0.6
    assert audited(reader, deployed)["version"] == deployed.version


def audited(reader: Reader, run: RetrainingRun) -> dict[str, Any]:
    """Return what the audit log says of a run."""
    log, today = DeployedLog.find(Session(reader.cloud), reader.stack), datetime.now(UTC).date()

    def entries() -> list[dict[str, Any]]:
        records = log.records(today - timedelta(days=1), today + timedelta(days=1), pipeline=reader.pipeline.name)
        details = [one["detail"] for one in records if one["type"] == "Retraining Outcome"]
        return [detail for detail in details if detail["run"] == run.run]

    wait_until(entries, every=0.5)
    return entries()[0]


def test_texts_teach_their_jobs_and_shuffled_labels_fail_the_gate(
    cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws.environment(cloud.endpoint, base={}).items():
        monkeypatch.setenv(name, value)
    s3, bucket, texts, example = cloud.client("s3"), "texts-of-people", Texts(), EXAMPLE / "texts"
    s3.create_bucket(Bucket=bucket)
    items = {f"in/{place}.txt": texts.item(place) for place in texts.labelled}
    # They were rejected, and are labelled all the same. The mean of no tokens must not spoil the weights.
    items |= {f"in/empty {number}.txt": (texts.item(number)[0], b"") for number in range(3)}
    for key, (_, content) in items.items():
        s3.put_object(Bucket=bucket, Key=key, Body=content)

    def verdict(answers: Sequence[str]) -> Verdict:
        said = {"bucket": bucket, "version_id": "null", "by": "a test", "at": "2026-01-01T00:00:00+00:00"}
        labels = LabelSet.of(
            ({**said, "key": key, "label": answer} for key, answer in zip(items, answers, strict=True)), held_out=0.2
        )
        s3.put_object(Bucket=bucket, Key=layout.label_set(labels.run), Body=labels.lines)
        job = Job(Run(labels.run, "execution", bucket), s3)
        job.train([sys.executable, str(example / "retrain.py")])
        return job.build(example / "recipe.py", architecture=LambdaPlatform.host().architecture, cache=tmp_path)

    good = [answer for answer, _ in items.values()]
    shuffled = random.Random(1).sample(good, len(good))  # noqa: S311 - the same in each run
    refused = verdict(shuffled)
    assert (refused.status, refused.version) == ("REFUSED", "")
    assert "must be one that passes the gate" in refused.reason
    passed = verdict(good)
    assert passed.status == "PASSED"

    data, factory = (runpy.run_path(str(example / f"{name}.py")) for name in ("data", "factory"))
    looked_at = [texts.item(place) for place in texts.looked_at]
    inputs = data["encoded"]([content.decode() for _, content in looked_at])
    truths = np.array([data["LANGUAGES"].index(answer) for answer, _ in looked_at])
    import torch
    from safetensors.torch import load_file

    old = factory["build"]()
    old.load_state_dict(load_file(example / "weights.safetensors"))
    with torch.inference_mode():
        before = old(**{name: torch.from_numpy(array) for name, array in inputs.items()}).argmax(1).numpy()
    built = Registry(f"s3://{bucket}/models").pull(passed.model, passed.version, cache=tmp_path / "pulled")
    new = LocalModel.of(built)
    after = [
        int(new.run({name: array[row] for name, array in inputs.items()})["logits"].argmax())
        for row in range(len(truths))
    ]
    assert float(np.mean(before == truths)) < 0.3
    assert float(np.mean(np.array(after) == truths)) > 0.6
