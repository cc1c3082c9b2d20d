"""The reports of jobs: what was trained, and whether it passed its gate. A workflow believes none that does not fit."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

PASSED, REFUSED = "PASSED", "REFUSED"

MAX_BYTES = 100_000
"""A report is a few hundred bytes; a larger one is not ours."""

LONGEST_REASON = 1000

_SHA256 = re.compile(r"[0-9a-f]{64}")
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""Names of files with weights, of models and of versions."""


class ReportError(Exception):
    """A report is missing, or does not fit its run."""


def training_report(data: bytes, *, run: str, execution: str) -> dict[str, Any]:
    """Return what a training job says that it made.

    Parameters
    ----------
    data
        The report.
    run, execution
        Those that asked for it. The report of another execution may be of a job that died.

    Returns
    -------
    dict
        `{"weights", "sha256", "size"}`: the name of the file, the SHA-256 of its bytes, and how many these are.

    Raises
    ------
    ReportError
        It is not of this execution, or lacks something.
    """
    said = _parsed(data, "training", run, execution)
    name, sha256, size = (said.get(member) for member in ("weights", "sha256", "size"))
    _check(isinstance(name, str) and PLAIN.fullmatch(name), "weights", "the name of a file", name)
    _check(isinstance(sha256, str) and _SHA256.fullmatch(sha256), "sha256", "64 hexadecimal digits", sha256)
    _check(isinstance(size, int) and not isinstance(size, bool) and size > 0, "size", "above 0", size)
    return {"weights": name, "sha256": sha256, "size": size}


def build_report(data: bytes, *, run: str, execution: str, sha256: str) -> dict[str, Any]:
    """Return what a build says of the weights that a run has trained.

    Parameters
    ----------
    data
        The report.
    run, execution
        As those of `training_report`.
    sha256
        That of the weights.

    Returns
    -------
    dict
        `{"status", "reason", "model", "version"}`: ``PASSED`` with the model that is in the registry, or ``REFUSED``
        with the reason. The rest is empty.

    Raises
    ------
    ReportError
        It is not of this execution or of these weights, or lacks something.
    """
    said = _parsed(data, "build", run, execution)
    status = said.get("status")
    _check(status in (PASSED, REFUSED), "status", f"{PASSED} or {REFUSED}", status)
    _check(said.get("sha256") == sha256, "sha256", f"that of the weights, {sha256}", said.get("sha256"))
    if status == REFUSED:
        return {"status": status, "reason": str(said.get("reason", ""))[:LONGEST_REASON], "model": "", "version": ""}
    for member in ("model", "version"):
        value = said.get(member)
        _check(isinstance(value, str) and PLAIN.fullmatch(value), member, "as the registry has it", value)
    return {"status": status, "reason": "", "model": said["model"], "version": said["version"]}


def _parsed(data: bytes, kind: str, run: str, execution: str) -> Mapping[str, Any]:
    try:
        said = json.loads(data)
    except ValueError:
        raise ReportError(f"the report of the {kind} must be JSON, got {data[:100]!a}") from None
    if not isinstance(said, dict):
        raise ReportError(f"the report of the {kind} must be a JSON object, got {ascii(said)[:100]}")
    for member, wanted in (("run", run), ("execution", execution)):
        _check(said.get(member) == wanted, member, wanted, said.get(member))
    return said


def _check(fits: object, member: str, rule: str, value: object) -> None:
    if not fits:
        raise ReportError(f"{member} of the report must be {rule}, got {ascii(value)[:100]}")
