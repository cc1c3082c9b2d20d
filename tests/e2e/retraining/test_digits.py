"""Digits that look different: labels, training, gate and canary, and labels of which no good model follows."""

from __future__ import annotations

import io
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cdk_inference.audit.deployed import DeployedLog
from cdk_inference.releases.deployed import ABORTED, PROMOTED, DeployedRelease
from cdk_inference.retraining.deployed import DeployedRetraining, RetrainingRun
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
LABELLED, LOOKED_AT = range(100), range(1500, 1560)
"""Places of digits that people label, and of others."""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    app = ROOT / "examples" / "retraining" / "app.py"
    with quick_cloud(synthesized(app, tmp_path_factory.mktemp("digits"), settings=ROOT / "cdk.json")) as cloud:
        yield cloud


class Reader:
    """A pipeline that reads digits, and its retraining."""

    def __init__(self, cloud: LocalCloud, pipeline: Watched) -> None:
        self.cloud, self.pipeline = cloud, pipeline
        self.retraining = DeployedRetraining.find(Session(cloud), "Digits")
        table = np.loadtxt(ROOT / "model_assets" / "digits_cnn" / "digits.csv.gz", delimiter=",", dtype=np.int64)
        self._images, self.digits = table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1]

    def read(self, folder: str, places: Sequence[int]) -> dict[str, str]:
        """Put digits whose ink is the paper, and return what was read, by key; the key ends in the digit."""
        keys = [f"{folder}/{place}-is-{self.digits[place]}.npy" for place in places]

        def put(number: int) -> None:
            file = io.BytesIO()
            np.save(file, 16 - self._images[places[number]])
            self.pipeline.put(keys[number], file.getvalue())

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(len(keys))))
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


def right(read: dict[str, str]) -> float:
    """Return the share of digits that were read right."""
    return sum(key.partition("-is-")[2] == f"{label}.npy" for key, label in read.items()) / len(read)


@pytest.fixture(scope="module")
def reader(watch: type[Watched], cloud: LocalCloud) -> Reader:
    return Reader(cloud, watch(cloud, "Digits/Reader"))


def test_shuffled_labels_are_refused_and_good_ones_make_a_better_model(reader: Reader) -> None:
    labelled = reader.read("labelled", LABELLED)
    before = right(reader.read("before", LOOKED_AT))
    assert before < 0.5
    ((_, old),) = reader.variants("before")

    # Labels that say nothing of the objects: the gate has some that training has not seen, and the model fails it.
    truth = {key: key.partition("-is-")[2].removesuffix(".npy") for key in labelled}
    shuffled = list(truth.values())
    random.Random(1).shuffle(shuffled)  # noqa: S311 - the same in each run
    refused = reader.label(dict(zip(truth, shuffled, strict=True)))
    assert (refused.status, refused.version) == ("REFUSED", "")
    assert "must be one that passes the gate" in refused.reason
    assert len(refused.sha256) == 64
    assert audited(reader, refused)["status"] == "REFUSED"
    reader.read("after refusal", LOOKED_AT[:8])
    assert reader.variants("after refusal") == {(None, old)}

    # The right ones, of the same objects.
    deployed = reader.label(truth)
    assert deployed.status == "DEPLOYED"
    release = DeployedRelease.find(Session(reader.cloud), "Digits")
    assert release.status().candidate["version"] == deployed.version
    bursts = 0
    while release.status().status not in (PROMOTED, ABORTED) and bursts < 30:
        reader.read(f"during {bursts}", LOOKED_AT[:40])
        bursts += 1
    assert release.status().status == PROMOTED
    after = right(reader.read("after", LOOKED_AT))
    assert reader.variants("after") == {("candidate", deployed.version)}
    assert after > 0.8 > before
    assert audited(reader, deployed)["version"] == deployed.version


def audited(reader: Reader, run: RetrainingRun) -> dict[str, Any]:
    """Return what the audit log says of a run."""
    log, today = DeployedLog.find(Session(reader.cloud), "Digits"), datetime.now(UTC).date()

    def entries() -> list[dict[str, Any]]:
        records = log.records(today, today + timedelta(days=1), pipeline="Digits/Reader")
        details = [one["detail"] for one in records if one["type"] == "Retraining Outcome"]
        return [detail for detail in details if detail["run"] == run.run]

    wait_until(entries, every=0.5)
    return entries()[0]
