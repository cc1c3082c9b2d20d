"""Stage code that is edited goes live without a deployment, and a deployment brings back what the template says."""

from __future__ import annotations

import json
import queue
import shutil
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local.live_code import LIVE
from cdk_inference.local.watch import Change, Watch
from tests.e2e.stages.conftest import APP
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cdk_inference.local import LocalCloud

pytestmark = pytest.mark.e2e

PREPROCESS, POSTPROCESS, SCORE = "Stages/Obedient/Preprocess", "Stages/Obedient/Postprocess", "Stages/Fused/Score"


@dataclass
class Project:
    """A watched project, whose app is a cloud assembly."""

    folder: Path
    cloud: LocalCloud
    changes: queue.Queue[Change]

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def next(self) -> Change:
        return self.changes.get(timeout=PATIENCE)

    def deployments(self, files: set[str]) -> list[Change]:
        """Return what is told until all of some files are deployed: in one burst, unless the machine is busy."""
        changes: list[Change] = []
        while {file for change in changes if change.kind == "deployed" for file in change.files} != files:
            changes.append(self.next())
            assert changes[-1].kind in ("deploying", "deployed"), changes[-1]
        return changes

    def answers(self) -> tuple[str, str]:
        """Return what the functions of both pipelines say of an object that asks to be refused."""
        s3, lambda_ = self.cloud.client("s3"), self.cloud.client("lambda")
        found = []
        for pipeline, stage in (("Obedient", "Preprocess"), ("Fused", "Score")):
            parts = self.cloud.resources(pipeline=f"Stages/{pipeline}")
            (bucket,) = (part.physical_id for part in parts if part.metadata["role"] == "inbox")
            (function,) = (part.physical_id for part in parts if part.metadata.get("stage") == stage)
            put = s3.put_object(Bucket=bucket, Key="watched", Body=b"refuse")
            named = {"key": "watched", "size": 6, "etag": put["ETag"].strip('"'), "sequencer": "1"}
            body = {"time": "2026-01-01T00:00:00Z", "detail": {"bucket": {"name": bucket}, "object": named}}
            message = {"message_id": "1", "receive_count": "1", "body": json.dumps(body)}
            event = json.dumps({"messages": [message], "answers": "only"})
            answer = lambda_.invoke(FunctionName=f"{function}:live", Payload=event)
            assert "FunctionError" not in answer
            found.append(answer["Payload"].read().decode())
        return found[0], found[1]

    def say(self, text: str) -> bool:
        return all(text in answer for answer in self.answers())

    def live_versions(self) -> list[str]:
        """Return the names of the functions with code that no template has."""
        lambda_ = self.cloud.client("lambda")
        names = [each.physical_id for each in self.cloud.resources(type="AWS::Lambda::Function")]
        versions = [lambda_.list_versions_by_function(FunctionName=name)["Versions"] for name in names]
        return [each["FunctionName"] for found in versions for each in found if each["Description"] == LIVE]


@pytest.fixture
def project(app: Path, cloud: LocalCloud, tmp_path: Path) -> Iterator[Project]:
    folder = tmp_path / "project"
    shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "cdk.json").write_text(json.dumps({"app": str(app.with_name("assembly"))}))
    watched = Project(folder, cloud, queue.Queue())
    stopping = threading.Event()
    watching = threading.Thread(target=Watch(folder, cloud).run, args=(stopping, watched.changes.put))
    watching.start()
    yield watched
    stopping.set()
    watching.join(PATIENCE)
    assert not watching.is_alive()
    cloud.deploy(app)
    assert watched.live_versions() == []


def test_edited_code_goes_live_and_a_deployment_brings_the_template_s(project: Project) -> None:
    deploying, deployed, watching = (project.next() for _ in range(3))
    assert (deploying.kind, deploying.message) == ("deploying", "the app is not deployed yet")
    assert deployed.kind == "deployed"
    assert (watching.kind, watching.files) == ("watching", ("obey.py", "tell.py", "words.py"))
    assert watching.functions == (SCORE, POSTPROCESS, PREPROCESS)
    assert project.say("as it was told to refuse")

    # A file that two pipelines have, while their functions are warm.
    project.write("words.py", 'REFUSAL = "first edit"\n')
    live = project.next()
    assert (live.kind, live.files, live.functions) == ("live", ("words.py",), (SCORE, PREPROCESS))
    assert project.say("first edit")

    # Code that does not start, or cannot be read, is told, and the last good code stays live.
    project.write("words.py", 'REFUSAL = "unclosed\n')
    refused = project.next()
    assert (refused.kind, refused.files) == ("failed", ("words.py",))
    assert refused.message.startswith("words.py:1: SyntaxError: unterminated string literal")
    project.write("words.py", "from nowhere import REFUSAL\n")
    refused = project.next()
    assert refused.kind == "failed"
    assert "cannot start with the new code:\n" in refused.message
    assert "ModuleNotFoundError: No module named 'nowhere'" in refused.message
    project.write("words.py", "")
    assert project.next().message == "words.py is empty"
    assert project.say("first edit")
    project.cloud.check()

    # As editors do: another file takes the place of this one. Two files go live together.
    (project.folder / "words.py.new").write_text('REFUSAL = "second edit"\n')
    (project.folder / "words.py").unlink()
    (project.folder / "words.py.new").rename(project.folder / "words.py")
    project.write("tell.py", (project.folder / "tell.py").read_text() + "# edited\n")
    files: set[str] = set()
    while files != {"words.py", "tell.py"}:  # in one burst, unless the machine is busy
        live = project.next()
        assert live.kind == "live"
        files |= set(live.files)
    assert project.say("second edit")
    assert len(project.live_versions()) == 3  # one for each function: what was live before is gone

    # A time says nothing; a new file may be anything. The app is an assembly here, which has none of the edits.
    (project.folder / "words.py").touch()
    project.write("new.py", "")
    project.write("labels.txt", "a")
    deploying = project.deployments({"labels.txt", "new.py"})[0]
    assert deploying.message == f"{', '.join(deploying.files)} changed, which is not only code of deployed stages"
    assert project.live_versions() == []
    assert project.say("as it was told to refuse")

    for name in ("labels.txt", "new.py", "tell.py"):
        (project.folder / name).unlink()
    project.deployments({"labels.txt", "new.py", "tell.py"})
    assert project.changes.empty()
