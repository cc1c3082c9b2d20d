"""Files that change while a watched project is deployed: edits of people, and what the app writes itself."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, NoReturn
from zipfile import BadZipFile

import pytest
from tests.waiting import PATIENCE

from cdk_inference.errors import PropError
from cdk_inference.local import watch
from cdk_inference.local.watch import Change, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cdk_inference.local import LocalCloud

    Start = Callable[[Callable[[int], None]], queue.Queue[Change]]


@pytest.fixture
def watched(tmp_path: Path, local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that watches a project, and calls another one with the number of each deployment."""
    stopping = threading.Event()
    threads: list[threading.Thread] = []

    def start(meanwhile: Callable[[int], None]) -> queue.Queue[Change]:
        changes: queue.Queue[Change] = queue.Queue()
        numbers = iter(range(1, 100))
        monkeypatch.setattr(local_cloud, "deploy", lambda *_, **__: meanwhile(next(numbers)))
        monkeypatch.setattr(local_cloud, "deployed_files", lambda _: None)
        threads.append(threading.Thread(target=Watch(tmp_path, local_cloud).run, args=(stopping, changes.put)))
        threads[0].start()
        return changes

    yield start
    stopping.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def next_of(changes: queue.Queue[Change], kind: str) -> Change:
    while (change := changes.get(timeout=PATIENCE)).kind != kind:
        pass
    return change


def test_edits_during_deployments_in_a_row_are_deployed(tmp_path: Path, watched: Start) -> None:
    app = tmp_path / "app.py"
    app.write_text("v")
    deployed = []

    def save_again(number: int) -> None:
        deployed.append(app.read_text())  # the synth reads it
        if number < 3:
            app.write_text("v" * (number + 1))

    changes = watched(save_again)
    files = [next_of(changes, "deployed").files for _ in range(3)]
    assert (files, deployed) == ([(), ("app.py",), ("app.py",)], ["v", "vv", "vvv"])


def test_files_that_the_app_writes_at_each_synth_do_not_deploy_it_forever(tmp_path: Path, watched: Start) -> None:
    def synthesize(number: int) -> None:
        for name, text in (("same.json", "{}"), ("stamp.json", "x" * number)):
            (tmp_path / name).unlink(missing_ok=True)
            (tmp_path / name).write_text(text)

    changes = watched(synthesize)
    files = [next_of(changes, "deploying").files for _ in range(3)]
    assert files == [(), ("same.json", "stamp.json"), ("stamp.json",)]
    said = next_of(changes, "failed")
    assert said.files == ("stamp.json",)
    assert said.message.startswith(
        "stamp.json changed during 3 deployments in a row, so the last change is not deployed"
    )
    # A file that a person saves is deployed as before, that one included.
    (tmp_path / "stamp.json").write_text("by hand")
    assert next_of(changes, "deploying").files == ("stamp.json",)
    assert next_of(changes, "failed").files == ("stamp.json",)
    (tmp_path / "app.py").write_text("v")
    assert next_of(changes, "deploying").files == ("app.py",)


@pytest.mark.parametrize("error", [OSError(28, "OS file watch limit reached."), RuntimeError("Too many open files")])
def test_edits_are_noticed_where_no_more_folders_may_be_watched(
    tmp_path: Path, watched: Start, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(watch, "watch", refuse)
    changes = watched(lambda _: None)
    next_of(changes, "deployed")
    (tmp_path / "app.py").write_text("v")
    assert next_of(changes, "deployed").files == ("app.py",)


def test_a_deployment_that_fails_for_whatever_reason_is_told_and_the_next_edit_deployed(
    tmp_path: Path, watched: Start
) -> None:
    errors = [PropError("a prop"), BadZipFile("a package"), OSError("a disk")]

    def fail_at_first(number: int) -> None:
        if number <= len(errors):
            raise errors[number - 1]

    changes = watched(fail_at_first)
    for number, error in enumerate(errors, 1):
        assert next_of(changes, "failed").message == str(error)
        (tmp_path / "app.py").write_text("v" * number)
    assert next_of(changes, "deployed").files == ("app.py",)
