"""The model is where its delivery put it, and what comes from S3 is what was built, whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from tests.runtime.storage_server import storage_server
from tests.waiting import PATIENCE, wait_until

from inference_runtime.errors import RetryableError, StageError
from inference_runtime.model import download as model_download
from inference_runtime.model.download import downloaded_model
from inference_runtime.model.files import model_path
from inference_runtime.s3 import client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.runtime.storage_server import StorageServer

MODEL, WEIGHTS = os.urandom(2500), os.urandom(100_000)
NAMES = {"model.onnx": ("a.onnx", MODEL), "model.weights": ("b.weights", WEIGHTS)}

ENTRY = {"name": "model.onnx", "key": "k", "size": 1, "sha256": "0" * 64}


@pytest.fixture
def server(environment: pytest.MonkeyPatch) -> Iterator[StorageServer]:
    """A bucket with a model of two files, of many ranges, and a function that gets it from there."""
    environment.setattr(client, "MAX_RETRY_DELAY", 0)
    environment.setattr(client, "READ_TIMEOUT", PATIENCE)
    environment.setattr(model_download, "RANGE_BYTES", 1000)
    entries = [
        {"name": name, "key": key, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, (key, data) in NAMES.items()
    ]
    environment.setenv("MODEL_DELIVERY", "s3")
    environment.setenv("MODEL_BUCKET", "assets")
    environment.setenv("MODEL_FILES", json.dumps(entries))
    with storage_server() as server:
        environment.setenv("AWS_ENDPOINT_URL_S3", server.url)
        server.objects = {f"/assets/{key}": data for key, data in NAMES.values()}
        yield server


def check(folder: str) -> None:
    """Fail unless the model is there, and nothing else."""
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == {
        name: data for name, (_, data) in NAMES.items()
    }


def test_it_is_in_the_package(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LAMBDA_TASK_ROOT", "/var/task")
    assert model_path() == "/var/task/model/model.onnx"
    environment.delenv("LAMBDA_TASK_ROOT")
    with pytest.raises(StageError, match="LAMBDA_TASK_ROOT"):
        model_path()


def test_it_is_in_a_layer(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("MODEL_DELIVERY", "layer")
    environment.setattr(sys, "path", ["/nowhere", str(tmp_path), *sys.path])
    (tmp_path / "inference_model").mkdir()
    with pytest.raises(StageError, match="no layer of the function"):
        model_path()
    (tmp_path / "inference_model" / "model.onnx").write_bytes(MODEL)
    assert Path(model_path()).read_bytes() == MODEL


def test_it_comes_from_s3(server: StorageServer, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("TMPDIR", str(tmp_path))
    path = Path(model_path())
    assert path.name == "model.onnx"
    check(str(path.parent))
    assert len(server.requests) == 103
    model_path()
    assert len(server.requests) == 103  # it is there already
    assert len(server.connections) <= model_download.MAX_CONNECTIONS


def test_the_download_leaves_no_connections(server: StorageServer, tmp_path: Path) -> None:
    downloaded_model(tmp_path)
    wait_until(lambda: not server.open)


def test_the_model_is_in_a_folder_of_this_user_alone(server: StorageServer, tmp_path: Path) -> None:
    folder = Path(downloaded_model(tmp_path)).parent
    assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)


def test_a_folder_that_was_there_before_and_is_somebody_elses_fails(server: StorageServer, tmp_path: Path) -> None:
    folder = tmp_path / f"cdk-inference-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(StageError, match="belongs to somebody else, or others may write there"):
        downloaded_model(tmp_path)
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StageError, match="belongs to somebody else, or others may write there"):
        downloaded_model(tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_unknown_delivery_fails(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MODEL_DELIVERY", "mail")
    with pytest.raises(StageError, match='MODEL_DELIVERY is "mail"'):
        model_path()


def test_ranges_that_fail_are_tried_again(
    server: StorageServer, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setattr(client, "READ_TIMEOUT", 2)
    for trouble in (503, "cut", "reset", "SlowDown", "hang"):  # none of them meets a range twice
        server.troubles += [*[None] * 15, trouble]
    check(downloaded_model(tmp_path))
    assert len(server.requests) == 108


def test_what_is_left_half_written_is_written_anew(server: StorageServer, tmp_path: Path) -> None:
    server.troubles = [None] * 20 + [503] * 100
    with pytest.raises(RetryableError, match=r"cannot read s3://assets/b\.weights: 503"):
        downloaded_model(tmp_path)
    (folder,) = (path for path in tmp_path.glob("cdk-inference-*/*") if path.is_dir())
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.weights.partial"]
    server.troubles.clear()
    (folder / "model.weights").write_bytes(WEIGHTS[:500])  # by whoever wrote it without a rename
    check(downloaded_model(tmp_path))


def test_a_process_that_dies_leaves_nothing_that_passes_for_the_model(server: StorageServer, tmp_path: Path) -> None:
    server.troubles = [None] * 30 + ["hang"] * 100
    program = f"""
from pathlib import Path
from inference_runtime.model import download as model_download
model_download.RANGE_BYTES = 1000
model_download.downloaded_model(Path({str(tmp_path)!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(client.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as process:
        wait_until(lambda: len(server.requests) > 30)
        process.kill()
    server.troubles.clear()
    check(downloaded_model(tmp_path))


def test_other_bytes_than_were_built_fail(server: StorageServer, tmp_path: Path) -> None:
    server.objects["/assets/b.weights"] = WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])
    with pytest.raises(RetryableError, match=r"s3://assets/b\.weights has the SHA-256"):
        downloaded_model(tmp_path)
    assert len(server.requests) == 203  # it was tried twice
    server.objects["/assets/b.weights"] = WEIGHTS
    check(downloaded_model(tmp_path))


def test_bytes_that_are_wrong_once_are_read_again(
    server: StorageServer, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read, done = client.S3Client.read_into, []

    def read_into(self: client.S3Client, bucket: str, key: str, start: int, buffer: memoryview, *, size: int) -> None:
        read(self, bucket, key, start, buffer, size=size)
        if key == "b.weights" and not done:
            done.append(start)
            buffer[0] ^= 1

    environment.setattr(client.S3Client, "read_into", read_into)
    check(downloaded_model(tmp_path))
    assert done


@pytest.mark.parametrize("data", [WEIGHTS[:-1], WEIGHTS + b"x", b""], ids=["shorter", "longer", "empty"])
def test_another_size_than_was_built_fails(server: StorageServer, tmp_path: Path, data: bytes) -> None:
    server.objects["/assets/b.weights"] = data
    with pytest.raises(RetryableError, match=r"s3://assets/b\.weights: (the object has|InvalidRange)"):
        downloaded_model(tmp_path)


def test_a_missing_model_fails(server: StorageServer, tmp_path: Path) -> None:
    server.objects.clear()
    with pytest.raises(RetryableError, match=r"s3://assets/a\.onnx: NoSuchKey"):
        downloaded_model(tmp_path)


def test_who_comes_at_the_same_time_downloads_once(server: StorageServer, tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(downloaded_model(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    check(found[0])
    assert len(server.requests) == 103


def test_a_model_that_does_not_fit_the_storage_fails(
    server: StorageServer, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=100, f_frsize=1000))
    with pytest.raises(StageError, match="has 0 MB left: give the function more ephemeral storage"):
        downloaded_model(tmp_path)
    assert server.requests == []


def test_storage_that_ends_meanwhile_fails(
    server: StorageServer, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), (descriptor, start, size))

    environment.setattr(os, "posix_fallocate", full)
    with pytest.raises(StageError, match="no room: give the function more ephemeral storage"):
        downloaded_model(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        "{}",
        "[1]",
        '[{"name": "a"}]',
        '[{"name": "../a", "key": "k", "size": 1, "sha256": ""}]',
        '[{"name": "..", "key": "k", "size": 1, "sha256": ""}]',
        '[{"name": "a", "key": "k", "size": "many", "sha256": ""}]',
        "[]",
        json.dumps([ENTRY | {"name": "other.onnx"}]),
        json.dumps([ENTRY, ENTRY]),
        *(json.dumps([ENTRY, ENTRY | {"name": name}]) for name in ("", "a\0", "a" * 300, "a.partial", "a/b", "\udcff")),
        json.dumps([ENTRY | {"size": -1}]),
        json.dumps([ENTRY | {"sha256": "A" * 64}]),
    ],
)
def test_a_list_of_files_that_is_none_fails(
    server: StorageServer, environment: pytest.MonkeyPatch, tmp_path: Path, files: str
) -> None:
    environment.setenv("MODEL_FILES", files)
    with pytest.raises(StageError, match="MODEL_FILES"):
        downloaded_model(tmp_path)


def test_an_empty_file_is_a_file(server: StorageServer, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = {"name": "model.onnx", "key": "c", "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    environment.setenv("MODEL_FILES", json.dumps([empty]))
    assert [path.stat().st_size for path in Path(downloaded_model(tmp_path)).iterdir()] == [0]
