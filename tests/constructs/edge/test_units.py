"""Files for systemd: what systemd itself says of the units, and that no text of a user changes what they do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from cdk_inference import EdgeInput, PropError
from cdk_inference.edge.units import Installation, write_installation

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = """/in put/100%n $(id) `id` "quoted" \\ 'x'"""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt-get install systemd"
)


def installed(folder: Path, **props: Any) -> Path:
    package = folder / "package.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("edge.json", "{}")
    given: dict[str, Any] = {
        "name": "Stack.Photos.Edge",
        "version": "1.0.7",
        "architecture": "arm64",
        "python": "3.13",
        "package": package,
        "model_bytes": 200 * 1024**2,
        "settings": dict(EdgeInput.folder("/in").settings()),
        "prefix": "",
        "results": True,
    }
    write_installation(folder / "dist", Installation(**{**given, **props}))
    return folder / "dist"


def analyzed(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False)


@needs_systemd
@pytest.mark.parametrize("path", ["/in", HOSTILE])
def test_systemd_accepts_the_units(tmp_path: Path, path: str) -> None:
    folder = installed(tmp_path, settings=dict(EdgeInput.folder(path).settings()))
    units = sorted(folder.glob("*.service")) + sorted(folder.glob("*.timer"))
    assert len(units) == 3
    for unit in units:
        done = analyzed("verify", "--man=no", unit)
        assert (done.returncode, done.stderr) == (0, ""), unit.name


@needs_systemd
@pytest.mark.parametrize(("unit", "most"), [("cdk-inference-edge", 1.6), ("cdk-inference-edge-update", 2.3)])
def test_systemd_calls_the_units_hardly_exposed(tmp_path: Path, unit: str, most: float) -> None:
    """From 0, locked up, to 10; a service without any such setting has 9.6."""
    done = analyzed("security", "--offline=true", "--no-pager", installed(tmp_path) / f"{unit}.service")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+) OK", done.stdout)
    assert found, done.stdout[-500:] + done.stderr
    assert float(found[1]) <= most


@pytest.mark.parametrize("path", ["/in put/100%", HOSTILE])
def test_the_agent_may_write_the_folders_of_its_settings(tmp_path: Path, path: str) -> None:
    """The script reads them from the settings of the device, which a person may have changed."""
    settings = {**EdgeInput.folder(path).settings(), "RESULTS_FOLDER": "/out"}
    folder = installed(tmp_path, settings=settings)
    code = (folder / "install.sh").read_text().split("<<'END'\n")[1].split("END\n")[0]
    lines = subprocess.run(
        [sys.executable, "-", str(folder / "edge.env"), ""], input=code, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert 'ReadWritePaths="-/out"' in lines
    assert len(lines) == 2
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    assert f'ReadWritePaths="-{escaped}"' in lines
    if shutil.which("systemd-analyze"):
        unit = folder / "cdk-inference-edge.service"
        (folder / f"{unit.name}.d").mkdir()
        (folder / f"{unit.name}.d" / "folders.conf").write_text("\n".join(["[Service]", *lines, ""]))
        done = analyzed("verify", "--man=no", unit)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", ["/tmp", "//tmp/./in", "/home/pi/in", "/root/in", "/run/user/1000/in"])  # noqa: S108
def test_a_folder_that_the_unit_hides_fails(tmp_path: Path, path: str) -> None:
    with pytest.raises(PropError, match="WATCH_FOLDER must be outside of /home, /root"):
        installed(tmp_path, settings=dict(EdgeInput.folder(path).settings()))
    folder = installed(tmp_path)
    code = (folder / "install.sh").read_text().split("<<'END'\n")[1].split("END\n")[0]
    settings = folder / "edge.env"
    settings.write_text(settings.read_text().replace('"/in"', f'"{path}"'))
    done = subprocess.run(
        [sys.executable, "-", str(settings), ""], input=code, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"which the agent does not see, got {path}" in done.stderr


def test_the_prefix_of_the_inbox_has_the_name_of_the_device(tmp_path: Path) -> None:
    folder = installed(tmp_path, prefix="in 100%/")
    script = (folder / "install.sh").read_text()
    assert """ - "$etc/edge.env" 'in 100%/' <<""" in script
    settings = folder / "edge.env"
    settings.write_text(settings.read_text().replace("DEVICE=", "DEVICE=camera-1", 1))
    code = script.split("<<'END'\n")[1].split("END\n")[0]
    done = subprocess.run(
        [sys.executable, "-", str(settings), "in 100%/"], input=code, capture_output=True, text=True, check=True
    )
    assert 'Environment="INBOX_PREFIX=in 100%%/edge/camera-1/"' in done.stdout.splitlines()


def test_the_agent_is_restarted_and_limited(tmp_path: Path) -> None:
    unit = (installed(tmp_path) / "cdk-inference-edge.service").read_text().splitlines()
    for line in (
        "Type=notify",
        "Restart=on-failure",
        "WatchdogSec=300",
        "ProtectSystem=strict",
        "StateDirectory=cdk-inference-edge",
        "MemoryMax=1152M",
    ):
        assert line in unit


def test_settings_are_those_of_the_component(tmp_path: Path) -> None:
    settings = {**EdgeInput.folder(HOSTILE).settings(), "MAX_SPOOL_BYTES": "", "MQTT_TOPIC": "a/#"}
    file = installed(tmp_path, settings=settings, prefix="in/", results=False) / "edge.env"
    # The quotes of such a file are those of a shell, but nothing is replaced in it: no setting may be, here either.
    shown = subprocess.run(
        ["sh", "-c", '. "$0"; printf "%s\\n" "$WATCH_FOLDER" "$MQTT_TOPIC"', str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines() == [HOSTILE, "a/#"]
    lines = file.read_text().splitlines()
    assert "RESULTS_TABLE=" not in lines
    assert not [line for line in lines if line.startswith("MAX_SPOOL_BYTES")]
    assert "VERSION_PARAMETER=/cdk-inference/Stack.Photos.Edge/arm64" in lines
    assert "DEVICE=" in lines, "each device has a name of its own"


def test_the_script_checks_the_package_that_is_next_to_it(tmp_path: Path) -> None:
    folder = installed(tmp_path)
    (package,) = folder.glob("*.zip")
    assert package.name == "Stack.Photos.Edge-1.0.7-arm64.zip"
    script = folder / "install.sh"
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert f"package={package.name}\nsha256={sha256(package.read_bytes()).hexdigest()}" in text
    assert '[ "$(uname -m)" = "aarch64" ]' in text
    assert "@" not in text.replace("@system-service", "")
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
