"""Files with which systemd runs the agent on a device without Greengrass: units, settings, and a script to install."""

from __future__ import annotations

import posixpath
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.contents import hash_once
from cdk_inference.common.whole_files import write_whole
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = "/opt/cdk-inference-edge"
"""The folder of the versions, which root owns."""

SETTINGS_FOLDER = "/etc/cdk-inference-edge"

HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - it names what is refused
"""Folders that the unit hides from the agent; see ProtectHome= and PrivateTmp= in systemd.exec(5)."""

_PATHS = ("WATCH_FOLDER", "RESULTS_FOLDER", "MQTT_CA_FILE", "MQTT_CERT_FILE", "MQTT_KEY_FILE")
_FOLDER = Path(__file__).with_name("systemd")
_SCRIPT = "install.sh"
_MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
_MIB = 1024**2
_LEAST_MEMORY, _STEP = 512, 128  # MiB: Python, the engine and an item
_TIMES = 3  # of the model's bytes, which are in memory while it is opened


def parameter_name(component: str, architecture: str) -> str:
    """Return the name of the parameter that says which package of a component is wanted."""
    return f"/cdk-inference/{component}/{architecture}"


@dataclass(frozen=True)
class Installation:
    """Everything that is to be installed.

    Parameters
    ----------
    name, version
        Those of the component.
    architecture, python
        Those of the device.
    package
        The zip.
    model_bytes
        The size of the model, by which memory is limited.
    settings
        The agent's, as in a recipe.
    prefix
        The begin of the keys that the trigger of the pipeline takes.
    results
        Whether the device writes rows.
    """

    name: str
    version: str
    architecture: str
    python: str
    package: Path
    model_bytes: int
    settings: Mapping[str, str]
    prefix: str
    results: bool


def write_installation(folder: Path, installation: Installation) -> list[Path]:
    """Write package, units, settings and script, and return their paths.

    Parameters
    ----------
    folder
        Where they go; made if missing.
    installation
        The component, for one architecture.

    Raises
    ------
    PropError
        A folder or file of its settings is one that the unit hides from the agent.
    """
    _check_folders(installation.settings)
    folder.mkdir(parents=True, exist_ok=True)
    package = f"{installation.name}-{installation.version}-{installation.architecture}.zip"
    shutil.copyfile(installation.package, folder / package)
    values = {
        "NAME": installation.name,
        "ROOT": ROOT,
        "ETC": SETTINGS_FOLDER,
        "PYTHON": f"python{installation.python}",
        "MACHINE": _MACHINES[installation.architecture],
        "PACKAGE": package,
        "PARAMETER": parameter_name(installation.name, installation.architecture),
        "SHA256": hash_once(installation.package),
        "MEMORY": f"{_memory(installation.model_bytes)}M",
        "RESULTS_TABLE": "RESULTS_TABLE=" if installation.results else "# No RESULTS_TABLE: what is sure has no row.",
        "SETTINGS": _assignments(installation.settings),
        "PREFIX": shlex.quote(installation.prefix),
    }
    written = [folder / package]
    for template in sorted(_FOLDER.glob("*.in")):
        text = re.sub(r"@([A-Z0-9_]+)@", lambda found: values[found[1]], template.read_text(encoding="utf-8"))
        path = folder / template.name.removesuffix(".in")
        write_whole(path, text)
        path.chmod(0o755 if path.name == _SCRIPT else 0o644)
        written.append(path)
    return written


def _memory(model_bytes: int) -> int:
    needed = _LEAST_MEMORY + _TIMES * model_bytes / _MIB
    return -(-int(needed) // _STEP) * _STEP


def _check_folders(settings: Mapping[str, str]) -> None:
    for name, path in settings.items():
        plain = f"/{posixpath.normpath(path).lstrip('/')}/"
        if name in _PATHS and any(plain.startswith(f"{hidden}/") for hidden in HIDDEN):
            raise PropError(
                f"{name} must be outside of {', '.join(HIDDEN)}, which systemd hides from the agent, got '{path}'"
            )


def _assignments(settings: Mapping[str, str]) -> str:
    """Return lines for a file of settings; see EnvironmentFile= in systemd.exec(5)."""
    return "\n".join(f"{name}={_quoted(value)}" for name, value in sorted(settings.items()) if value)


def _quoted(value: str) -> str:
    escaped = re.sub(r'([\\"`$])', r"\\\1", value)
    return f'"{escaped}"'
