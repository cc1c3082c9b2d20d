"""The lock of a cascade: what was measured and decided once, so that every machine takes the same threshold."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cdk_inference.common.cache import hash_data, make_cache
from cdk_inference.common.terminal import say
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.recipe.precision import Precision
from cdk_inference.model.recipe.structure import unstructure
from cdk_inference.model.recipe.targets import Target
from cdk_inference.model.records.fingerprint import LOCK_SUFFIX
from cdk_inference.model.records.lock import changes, read_checked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA_VERSION = 1
SUFFIX = f".cascade{LOCK_SUFFIX}"

Row = tuple[float, int, int, int | None]
"""The effect of one threshold: itself, how many samples it escalates, and how many get the second model's answer. The
last number counts the answers that equal their label (None without labels)."""

_ROW = re.compile(r"\[\s+([^][{}\"]*[^][{}\"\s])\s+\]")


@dataclass(frozen=True)
class Side:
    """One of the two models, as it was calibrated.

    Parameters
    ----------
    version
        The version of the model that ran; see `cdk_inference.model.Manifest`.
    precision
        The precision that its recipe asks for, or the app instead.
    target
        Architecture of the CPUs that the model is built for; ``"any"`` if it is the same for all.
    data
        Hash of its evaluation data: the function, the files in the recipe's folder, and the declared tensors.
    """

    version: str
    precision: Precision
    target: Target
    data: str


@dataclass(frozen=True)
class Basis:
    """The basis of a calibration. It holds for the same versions, data and tools.

    Parameters
    ----------
    first, then
        The two models.
    tools
        Versions of the packages that decide what the models answer.
    """

    first: Side
    then: Side
    tools: dict[str, str]

    def is_of_now(self, now: Basis) -> bool:
        """Tell whether data and tools are still the same, so that it may hold for models of another architecture."""
        mine = (self.first.data, self.then.data, self.tools)
        return mine == (now.first.data, now.then.data, now.tools)

    def replaces(self, other: Basis) -> bool:
        """Tell whether an app that has these models has the others no more."""
        return all(
            (one.target, one.precision) == (two.target, two.precision)
            for one, two in ((self.first, other.first), (self.then, other.then))
        )

    def stale(self, now: Basis, names: tuple[str, str]) -> str | None:
        """Return why the calibration does not hold now; None if it does."""
        sides = tuple(zip(names, (self.first, self.then), (now.first, now.then), strict=True))
        for name, old, new in sides:
            if old.data != new.data:
                return f"the evaluation of '{name}' or a file in its folder changed"
        changed = changes(self.tools, now.tools)
        changed += [
            f"'{name}' {old.version} -> {new.version}" for name, old, new in sides if old.version != new.version
        ]
        return ", ".join(changed) or None


@dataclass(frozen=True)
class Decision:
    """The threshold for one target, and what it did to the evaluation data; see `cdk_inference.model.Calibration`.

    Parameters
    ----------
    target_agreement
        The agreement that was asked for.
    threshold, escalation_rate, agreement, agreement_bound
        As in a calibration.
    accuracy
        The accuracy of the cascade; None without labels.
    """

    target_agreement: float
    threshold: float
    escalation_rate: float
    agreement: float
    agreement_bound: float
    accuracy: float | None


@dataclass(frozen=True)
class Table:
    """The measurements.

    Parameters
    ----------
    samples
        How many were evaluated.
    descriptions
        How many of their descriptions differ; None if they have none.
    rows
        By threshold, the lowest first.
    """

    samples: int
    descriptions: int | None
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Entry:
    """The measurements of two models, and the decisions based on them.

    Parameters
    ----------
    basis
        The models and the data that it holds for.
    table
        The measured counts.
    decisions
        By target agreement, the lowest first.
    """

    basis: Basis
    table: Table
    decisions: tuple[Decision, ...]

    def decision(self, agreement: float) -> Decision | None:
        """Return what was decided for a target agreement, if it was."""
        return next((each for each in self.decisions if each.target_agreement == agreement), None)

    def decided(self, decision: Decision) -> Entry:
        """Return the entry with one decision more."""
        others = (each for each in self.decisions if each.target_agreement != decision.target_agreement)
        return replace(self, decisions=tuple(sorted((*others, decision), key=lambda each: each.target_agreement)))


@dataclass(frozen=True)
class CascadeLock:
    """The calibrations of two recipes.

    Parameters
    ----------
    first, then
        Their names.
    entries
        One for each pair of precisions, and of architectures that the models are made for.
    """

    first: str
    then: str
    entries: tuple[Entry, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """Hash of everything in it."""
        return hash_data(self.to_data())

    def to_data(self) -> dict[str, Any]:
        """Return the lock as JSON-compatible data."""
        data: dict[str, Any] = unstructure(self)
        return data

    def to_json(self) -> str:
        """Serialize for a review: sorted keys, one threshold a line, and a checksum against bad merges."""
        text = json.dumps(self.to_data() | {"checksum": self.digest}, indent=1, sort_keys=True)
        return _ROW.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"

    def find(self, basis: Basis) -> Entry | str:
        """Return the entry that holds, or why none does."""
        names = (self.first, self.then)
        judged = [(entry, entry.basis.stale(basis, names)) for entry in self.entries]
        if (found := next((entry for entry, reason in judged if reason is None), None)) is not None:
            return found
        told = (reason for entry, reason in judged if basis.replaces(entry.basis) and reason is not None)
        return next(told, None) or (
            f"it knows nothing of '{self.first}' {basis.first.version} with '{self.then}' {basis.then.version}"
        )

    def recorded(self, entry: Entry) -> CascadeLock:
        """Return the lock with an entry, without those that it replaces and those that no longer hold."""
        kept = (
            each for each in self.entries if each.basis.is_of_now(entry.basis) and not entry.basis.replaces(each.basis)
        )
        return replace(self, entries=tuple(sorted((*kept, entry), key=_order)))


@dataclass(frozen=True)
class LockFile:
    """Where the lock of two recipes is: next to the first, or in the cache if that folder cannot be written.

    Parameters
    ----------
    first, then
        Their names.
    folder
        The folder of the first recipe.
    cache
        Cache root.
    """

    first: str
    then: str
    folder: Path
    cache: Path

    @property
    def path(self) -> Path:
        """The file to review and to commit."""
        return self.folder / f"{self._name}{SUFFIX}"

    def find(self, basis: Basis, agreement: float, *, frozen: bool = False, quiet: bool = False) -> Entry | None:
        """Return what was measured for two models; the agreement may be decided in it or not.

        Parameters
        ----------
        basis
            The basis that is there now.
        agreement
            The one that is asked for.
        frozen
            Fail if the lock next to the recipe does not hold, or has no decision for the agreement.
        quiet
            Do not say why it does not hold.

        Raises
        ------
        ModelBuildError
            If the lock is damaged, or frozen and of no use.
        """
        lock = self._read(self.path)
        found = lock.find(basis) if lock else "there is none"
        if frozen:
            if isinstance(found, Entry) and found.decision(agreement) is None:
                known = ", ".join(f"{each.target_agreement:g}" for each in found.decisions)
                found = f"it has no threshold for an agreement of {agreement:g}, only for {known}"
            if isinstance(found, str):
                raise ModelBuildError(
                    f"the frozen lock {self.path} must fit '{self.first}' and '{self.then}', got one that does not: "
                    f"{found}; synthesize without a frozen lock, review the new lock and commit it"
                )
        if isinstance(found, Entry):
            return found
        kept = self._read(self._kept(basis))
        if kept is not None and isinstance(entry := kept.find(basis), Entry):
            return entry
        if lock is not None and not quiet:
            say(f"cascade of {self.first} and {self.then}: the lock does not fit, measuring again: {found}")
        return None

    def record(self, entry: Entry) -> None:
        """Put an entry into the lock, at once and whole. The caller holds the lock file."""
        lock = self._read(self.path) or CascadeLock(self.first, self.then, ())
        try:
            _write(self.path, lock.recorded(entry))
        except OSError as error:
            say(
                f"cascade of {self.first} and {self.then}: cannot write the lock {self.path} ({error.strerror}): "
                "other machines may find another threshold"
            )
            _write(self._kept(entry.basis), CascadeLock(self.first, self.then, (entry,)))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes with this cache from measuring the pair, or writing its lock, meanwhile."""
        from filelock import FileLock  # noqa: PLC0415 - a lock that fits needs none

        make_cache(self.cache)
        self._models.mkdir(exist_ok=True)
        with FileLock(self._models / f".{self._name}-{hash_data(str(self.path))[:16]}.lock"):
            yield

    @property
    def _name(self) -> str:
        return f"{self.first}+{self.then}"  # no name of a recipe has a plus

    @property
    def _models(self) -> Path:
        return self.cache / "models"

    def _kept(self, basis: Basis) -> Path:
        return self._models / f"{self._name}-{hash_data(unstructure(basis))[:16]}{SUFFIX}"

    def _read(self, path: Path) -> CascadeLock | None:
        lock = read_checked(path, CascadeLock, SCHEMA_VERSION, "measure again")
        if lock is not None and (lock.first, lock.then) != (self.first, self.then):
            raise ModelBuildError(
                f"the lock {path} must be of '{self.first}' and '{self.then}', got '{lock.first}' and '{lock.then}'; "
                "rename it, or delete it to measure again"
            )
        return lock


def _write(path: Path, lock: CascadeLock) -> None:
    partial = path.with_name(f".{os.getpid()}.{path.name}.partial")
    try:
        partial.write_text(lock.to_json(), "utf-8")
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _order(entry: Entry) -> tuple[str, ...]:
    sides = (entry.basis.first, entry.basis.then)
    return tuple(text for side in sides for text in (side.target, side.precision.kind, side.version))
