"""A device of the pipeline: it answers what it is sure of, and the pipeline what it is not, also after an outage.

The agent runs from the package of the deployed stack, with this test's Python and nothing else of this environment. It
has the rights that the stack grants to its role. A program stands in for systemd.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.runtime.edge.device import NAMES, Proxy
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

VERSIONS = "edge-test"
PYTHON = Path(sys.base_prefix) / "bin" / "python3"
SURE = 1.4
"""From a sum of ln 4 on, the confidence is 0.8."""

SYSTEMCTL = """
import json, os, signal, socket, subprocess, sys, time
from pathlib import Path

verb, here = sys.argv[1], Path(__file__).parent
process = here / "pid"
pid = int(process.read_text()) if process.exists() else None
if verb == "is-active":
    sys.exit(0 if pid and Path(f"/proc/{pid}").exists() else 3)
if pid:
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.02)
told = here / "notify"
told.unlink(missing_ok=True)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(str(told))
listener.settimeout(0.1)
variables = json.loads((here / "variables.json").read_text())
variables |= {"NOTIFY_SOCKET": str(told)}
variables["PYTHONPATH"] = f"{(here / 'opt' / 'current').resolve()}:{here / 'names'}"
with (here / "log").open("a") as log:
    agent = subprocess.Popen(
        [sys.executable, "-s", "-m", "inference_runtime.edge", "run"],
        env=variables, stdout=log, stderr=log, start_new_session=True,
    )
process.write_text(str(agent.pid))
while agent.poll() is None:
    try:
        if b"READY=1" in listener.recv(4096):
            sys.exit(0)
    except TimeoutError:
        pass
process.unlink()
sys.exit(1)
"""
"""It does what systemd does for a unit of the type ``notify``."""


class Machine:
    """A device with versions of the package, and a stand-in for systemd."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self.opt, self.watched = folder, folder / "opt", folder / "in"
        for name in ("in", "state", "names"):
            (folder / name).mkdir()
        (folder / "names" / "sitecustomize.py").write_text(NAMES)
        self.variables = {
            "PATH": "/usr/bin:/bin",
            "DEVICE": "camera-1",
            "STATE_FOLDER": str(folder / "state"),
            "WATCH_FOLDER": str(self.watched),
            "VERSIONS_ROOT": str(self.opt),
            "SETTLE_MS": "50",
            "POLL_MS": "20",
            "RETRY_MS": "50",
            "MAX_RETRY_MS": "300",
            "STATUS_MS": "500",
            **variables,
        }
        (folder / "variables.json").write_text(json.dumps(self.variables))
        (folder / "systemctl.py").write_text(SYSTEMCTL)
        self.systemctl = folder / "systemctl"
        self.systemctl.write_text(f'#!/bin/sh\nexec {PYTHON} -s {folder / "systemctl.py"} "$@"\n')
        self.systemctl.chmod(0o755)

    def call(self, code: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the agent, with the code of a package."""
        return subprocess.run(
            [str(PYTHON), "-s", "-m", "inference_runtime.edge", *arguments],
            env={**self.variables, **variables, "PYTHONPATH": f"{code}:{self.folder / 'names'}"},
            capture_output=True,
            text=True,
            check=False,
        )

    def control(self, verb: str) -> int:
        return subprocess.run([str(self.systemctl), verb, "unit"], check=False).returncode

    def end(self) -> None:
        process = self.folder / "pid"
        if process.exists():
            with suppress(ProcessLookupError):
                os.kill(int(process.read_text()), signal.SIGKILL)

    def put(self, name: str, data: bytes) -> None:
        partial = self.watched / f".{name}.tmp"
        partial.write_bytes(data)
        partial.replace(self.watched / name)

    def status(self) -> dict[str, Any]:
        path = self.folder / "state" / "status.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture(scope="module")
def wanted(cloud: LocalCloud, numbers: Watched) -> dict[str, str]:
    """The parameter of the stack, with its name."""
    (parameter,) = cloud.resources(pipeline=numbers.name, role="edge-package")
    value = cloud.client("ssm").get_parameter(Name=parameter.physical_id)["Parameter"]["Value"]
    return {"parameter": parameter.physical_id, **json.loads(value)}


@pytest.fixture(scope="module")
def package(cloud: LocalCloud, wanted: dict[str, str]) -> bytes:
    """The package of the stack."""
    found = cloud.client("s3").get_object(Bucket=wanted["bucket"], Key=wanted["key"])["Body"].read()
    assert sha256(found).hexdigest() == wanted["sha256"]
    return bytes(found)


@pytest.fixture(scope="module")
def network(cloud: LocalCloud) -> Iterator[Proxy]:
    proxy = Proxy(urlsplit(cloud.endpoint).port or 80)
    yield proxy
    proxy.cut()


@pytest.fixture(scope="module")
def role(cloud: LocalCloud, numbers: Watched, wanted: dict[str, str]) -> dict[str, str]:
    """Credentials of the role that the stack grants to the device.

    The embedded AWS does not tell policies which rows a request is about, so that the test allows all. It also allows
    the versions that the test makes, of which the stack does not know.
    """
    iam = cloud.client("iam")
    (role,) = (one for one in iam.list_roles()["Roles"] if "Devices" in one["RoleName"])
    more = {
        "dynamodb:PutItem": f"arn:aws:dynamodb:*:*:table/{numbers.table}",
        "s3:GetObject": f"arn:aws:s3:::{wanted['bucket']}/{VERSIONS}/*",
    }
    statements = [{"Effect": "Allow", "Action": action, "Resource": arn} for action, arn in more.items()]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_role_policy(RoleName=role["RoleName"], PolicyName="OfThisTest", PolicyDocument=policy)
    found = cloud.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="camera-1")["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
        "AWS_SESSION_TOKEN": found["SessionToken"],
    }


@pytest.fixture(scope="module")
def machine(
    cloud: LocalCloud,
    numbers: Watched,
    network: Proxy,
    role: dict[str, str],
    package: bytes,
    wanted: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("device")
    found = Machine(
        folder,
        {
            "AWS_ENDPOINT_URL": f"http://localhost:{network.port}",
            "AWS_REGION": cloud.client("s3").meta.region_name,
            "INBOX_BUCKET": numbers.bucket,
            "RESULTS_TABLE": numbers.table,
            **role,
        },
    )
    archive = folder / "package.zip"
    archive.write_bytes(package)
    installed = found.call(archive, "install", str(archive), "--sha256", wanted["sha256"])
    assert installed.returncode == 0, installed.stderr
    yield found
    found.end()


def body(a: float) -> bytes:
    return json.dumps({"a": a, "b": 0, "c": 0, "d": 0}).encode()


def answers(numbers: Watched) -> dict[str, tuple[str, float]]:
    """Return whose row it is and what it says, by the name of the file; it fails if a file has two."""
    found: dict[str, tuple[str, float]] = {}
    for row in numbers.all_rows():
        device = row["bucket"] == "edge:camera-1"
        if row["key"].endswith(".json") and (device or row["key"].startswith("edge/camera-1/")):
            name = row["key"].rpartition("/")[2]
            assert name not in found, row
            assert row["status"] == "SUCCEEDED", row
            found[name] = ("device" if device else "cloud", float(row["prediction"]["sums"][0]))
    return found


def test_every_item_has_one_row_also_after_an_outage(machine: Machine, numbers: Watched, network: Proxy) -> None:
    assert machine.control("restart") == 0, machine.log
    values = {f"{number:02}.json": 1.05 + number % 30 / 10 for number in range(60)}
    names = list(values)
    for name in names[:30]:
        machine.put(name, body(values[name]))
    wait_until(lambda: not list(machine.watched.iterdir()), lambda: machine.log[-3000:], every=0.1)
    network.cut()
    for name in names[30:]:
        machine.put(name, body(values[name]))
    # It goes on without a network, and nothing of it is lost.
    wait_until(lambda: not list(machine.watched.iterdir()), lambda: machine.log[-3000:], every=0.1)
    network.restore()
    expected = {
        name: ("device", pytest.approx(value)) if value >= SURE else ("cloud", pytest.approx(10 * value))
        for name, value in values.items()
    }
    wait_until(
        lambda: len(answers(numbers)) == len(expected),
        lambda: f"{sorted(set(expected) - set(answers(numbers)))} {machine.status()} {machine.log[-3000:]}",
        every=0.5,
    )
    assert answers(numbers) == expected
    assert {whose for whose, _ in expected.values()} == {"device", "cloud"}


def changed(package: bytes, version: str, change: Callable[[str, bytes], bytes] = lambda _, data: data) -> bytes:
    """Return another version of a package."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as old, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename == "edge.json":
                data = json.dumps({**json.loads(data), "version": version}).encode()
            new.writestr(entry, change(entry.filename, data), compresslevel=1)
    return written.getvalue()


def update(cloud: LocalCloud, machine: Machine, wanted: dict[str, str], data: bytes, version: str) -> int:
    """Have the machine look for the version, which is the one that is wanted from now on."""
    key = f"{VERSIONS}/{version}.zip"
    cloud.client("s3").put_object(Bucket=wanted["bucket"], Key=key, Body=data)
    told = {"bucket": wanted["bucket"], "key": key, "sha256": sha256(data).hexdigest(), "version": version}
    cloud.client("ssm").put_parameter(Name=wanted["parameter"], Value=json.dumps(told), Type="String", Overwrite=True)
    code = (machine.opt / "current").resolve()
    arguments = ["update", "--parameter", wanted["parameter"], "--systemctl", str(machine.systemctl)]
    return machine.call(code, *arguments).returncode


def test_a_version_is_rolled_out_and_a_broken_one_is_not(
    machine: Machine, cloud: LocalCloud, wanted: dict[str, str], package: bytes
) -> None:
    if machine.control("is-active") != 0:
        assert machine.control("restart") == 0, machine.log
    before = (machine.opt / "current").resolve()
    assert update(cloud, machine, wanted, changed(package, "2.0.0"), "2.0.0") == 0
    after = (machine.opt / "current").resolve()
    assert after != before
    wait_until(lambda: machine.status().get("version") == "2.0.0", machine.status, every=0.1)

    def worse(name: str, data: bytes) -> bytes:
        return data[: len(data) // 2] if name.endswith("model.onnx") else data

    assert update(cloud, machine, wanted, changed(package, "3.0.0", worse), "3.0.0") == 1
    assert (machine.opt / "current").resolve() == after

    # One that passes its check and does not start is given up again.
    def ends(name: str, data: bytes) -> bytes:
        return b"raise SystemExit('broken')\n" if name == "inference_runtime/edge/agent.py" else data

    assert update(cloud, machine, wanted, changed(package, "4.0.0", ends), "4.0.0") == 1
    assert (machine.opt / "current").resolve() == after
    assert machine.control("is-active") == 0
    wait_until(lambda: machine.status().get("version") == "2.0.0", machine.status, every=0.1)


def test_the_role_of_the_device_may_not_write_for_another(
    cloud: LocalCloud, machine: Machine, numbers: Watched, role: dict[str, str]
) -> None:
    code = """
import sys
from inference_runtime.edge.cloud.requests import AwsError, AwsRequests
requests = AwsRequests()
for key in sys.argv[2:]:
    try:
        requests.put_object(sys.argv[1], key, memoryview(b"x"), {})
        print("yes")
    except AwsError as error:
        print(error.code)
"""
    keys = ["edge/camera-1/allowed.txt", "edge/camera-2/denied.txt", "denied.txt"]
    paths = f"{(machine.opt / 'current').resolve()}:{machine.folder / 'names'}"
    done = subprocess.run(
        [str(PYTHON), "-s", "-c", code, numbers.bucket, *keys],
        env={**machine.variables, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["yes", "AccessDenied", "AccessDenied"], done.stderr
