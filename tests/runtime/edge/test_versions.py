"""Versions of a machine without Greengrass: whatever happens in between, `current` names a whole one."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from argparse import Namespace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from tests.runtime.edge.device import SOURCES, write_package
from tests.runtime.edge.power import ended_at
from tests.waiting import PATIENCE

from inference_runtime.edge.versions.update import update
from inference_runtime.edge.versions.versions import DamagedError, Versions, name_of
from inference_runtime.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from tests.runtime.edge.device import Device, Proxy

SYSTEMCTL = """#!/bin/sh
echo "$@" "$(readlink {root}/current)" >> {root}/calls
! grep -q broken {root}/current/edge.json
"""


def packed(folder: Path, target: Path, *, version: str, runtime: bool = False, **changes: Any) -> str:
    """Zip a version, with a check that passes, and return the SHA-256."""
    write_package(folder, version=version, **changes)
    with zipfile.ZipFile(target, "w") as archive:
        sources = [(folder, folder.rglob("*"))]
        if runtime:
            sources.append((SOURCES, (SOURCES / "inference_runtime").rglob("*.py")))
        for root, paths in sources:
            for path in paths:
                archive.write(path, path.relative_to(root))
        archive.writestr("padding", os.urandom(100_000))
    return hashlib.sha256(target.read_bytes()).hexdigest()


class Cloud:
    """The parameter and the bucket that name and hold versions."""

    def __init__(self, s3: S3Client, bucket: str, folder: Path) -> None:
        self._s3, self._bucket, self._folder = s3, bucket, folder
        self.names: dict[str, str] = {}

    def want(self, version: str, *, runtime: bool = False, **changes: Any) -> str:
        """Have devices run a version, and return its name."""
        if version not in self.names:
            path = self._folder / f"{version}.zip"
            digest = packed(self._folder / version, path, version=version, runtime=runtime, **changes)
            self._s3.upload_file(str(path), self._bucket, f"versions/{digest}.zip")
            self.names[version] = digest
        digest = self.names[version]
        value = {"bucket": self._bucket, "key": f"versions/{digest}.zip", "sha256": digest, "version": version}
        boto3.client("ssm").put_parameter(Name="/edge", Value=json.dumps(value), Type="String", Overwrite=True)
        return name_of(digest)


@pytest.fixture
def cloud(s3: S3Client, bucket: str, tmp_path: Path) -> Cloud:
    (tmp_path / "built").mkdir()
    return Cloud(s3, bucket, tmp_path / "built")


@pytest.fixture
def chosen(environment: pytest.MonkeyPatch, tmp_path: Path) -> Namespace:
    """The arguments of `update`, on a machine whose systemd starts a version unless it is called broken."""
    environment.setenv("AWS_REGION", "eu-central-1")
    root = tmp_path / "root"
    root.mkdir()
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(SYSTEMCTL.format(root=root))
    systemctl.chmod(0o755)
    return Namespace(
        root=root, parameter="/edge", unit="edge.service", systemctl=str(systemctl), ready_seconds=PATIENCE
    )


def is_whole(folder: Path) -> bool:
    return (folder / "edge.json").is_file() and (folder / "padding").stat().st_size == 100_000


def test_whenever_the_power_fails_current_names_a_whole_version(
    cloud: Cloud, chosen: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Versions, "check", lambda self, name: None)
    versions = Versions(chosen.root)
    for before, wanted, after in (("v1", "v2", "v2"), ("v2", "broken", "v2"), ("v2", "v3", "v3")):
        names = {version: cloud.want(version) for version in (before, wanted)}
        if versions.current() is None:
            cloud.want(before)
            assert update(chosen)
            cloud.want(wanted)
        step = 0
        while ended_at(step, lambda: update(chosen)):
            current = versions.current()
            assert current in names.values()
            assert is_whole(versions.path(str(current)))
            step += 3  # the next attempt goes on from what this one left
        assert step > 20
        update(chosen)
        assert versions.current() == name_of(cloud.names[after])
        assert not list(chosen.root.glob("versions/.*"))
        assert not (chosen.root / "pending.json").exists()
        assert len(list(chosen.root.glob("versions/*"))) <= 2


def test_a_version_that_does_not_get_ready_is_rolled_back_and_not_tried_again(
    cloud: Cloud, chosen: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Versions, "check", lambda self, name: None)
    first = cloud.want("v1")
    assert update(chosen)
    broken = cloud.want("broken")
    assert not update(chosen)
    calls = (chosen.root / "calls").read_text().splitlines()
    assert calls == [f"restart edge.service versions/{name}" for name in (first, broken, first)]
    assert not update(chosen)
    assert (chosen.root / "calls").read_text().splitlines() == calls
    third = cloud.want("v3")
    assert update(chosen)
    assert update(chosen)
    assert Versions(chosen.root).current() == third
    cloud.want("v1")
    assert update(chosen)
    assert {path.name for path in chosen.root.glob("versions/*")} == {first, third}


def test_the_commands_install_a_version_and_refuse_one_that_fails_its_check(
    device: Device, cloud: Cloud, network: Proxy, chosen: Namespace
) -> None:
    device.variables |= {"VERSIONS_ROOT": str(chosen.root), "VERSION_PARAMETER": "/edge"}
    name = cloud.want("1.0.0", runtime=True)
    digest = cloud.names["1.0.0"]
    done = device.command("install", str(device.root / "built" / "1.0.0.zip"), "--sha256", digest)
    assert (done.returncode, Versions(chosen.root).current()) == (0, name), done.stderr
    other = device.command("install", str(device.root / "built" / "1.0.0.zip"), "--sha256", "0" * 64)
    assert (other.returncode, "must have the SHA-256" in other.stderr) == (1, True)
    cloud.want("2.0.0", runtime=True, check={"item": {"key": "a", "data": "WzAsIDld", "prediction": {"label": "7"}}})
    done = device.command("update", "--systemctl", chosen.systemctl)
    assert (done.returncode, "2.0.0 is not used" in done.stderr) == (1, True), done.stderr
    assert Versions(chosen.root).current() == name
    network.cut()
    done = device.command("update", "--systemctl", chosen.systemctl)
    assert (done.returncode, "cannot read the parameter" in done.stderr) == (1, True)


def test_a_download_goes_on_where_it_broke_off(cloud: Cloud, chosen: Namespace, s3: S3Client) -> None:
    from inference_runtime.edge.versions import update as module

    cloud.want("v1")
    wanted = module._wanted(module.AwsRequests(), "/edge")
    folder = chosen.root / "downloads"
    folder.mkdir()
    whole = s3.get_object(Bucket=wanted.bucket, Key=wanted.key)["Body"].read()
    (folder / "other.zip.partial").write_bytes(b"of a version that is not wanted any more")
    for begun in (0, 50_000, len(whole)):
        (folder / f"{name_of(wanted.sha256)}.zip.partial").write_bytes(whole[:begun])
        assert module._downloaded(folder, wanted).read_bytes() == whole
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../edge.json", 0)], "must be a file below its folder"),
        ([("/absent/edge.json", 0)], "must be a file below its folder"),
        ([("a\\..\\edge.json", 0)], "must be a file below its folder"),
        ([("link", stat.S_IFLNK | 0o777)], "must be a file below its folder"),
        ([("edge.json", 0), ("edge.json", 0)], "cannot unpack"),
        ([("file", 0)], "must have edge.json"),
        ([], "must have edge.json"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_is_unsafe_or_none_of_ours_is_refused(
    tmp_path: Path, entries: list[tuple[str, int]], message: str
) -> None:
    path = tmp_path / "package.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, "{}")
    versions = Versions(tmp_path / "root")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(StageError, match=message):
        versions.unpack(path, digest)
    with pytest.raises(DamagedError):
        versions.unpack(path, digest[::-1])
    with pytest.raises(StageError, match="64 lower-case hex digits"):
        name_of(digest.upper())
    assert not list((tmp_path / "root" / "versions").iterdir())
    assert sorted(found.name for found in tmp_path.iterdir()) == ["package.zip", "root"]
