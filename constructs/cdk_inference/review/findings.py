"""Says what to look at first: at most seven lines, the most dangerous first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.review.changes.access import AccessChange
    from cdk_inference.review.changes.cdk_diff import Change
    from cdk_inference.review.changes.costs import CostChange
    from cdk_inference.review.changes.edge import EdgeChange
    from cdk_inference.review.changes.models import ModelChange
    from cdk_inference.review.changes.permissions import PermissionChange
    from cdk_inference.review.changes.workflows import WorkflowChange

MOST = 7
_SHOWN = 3  # names in one line
_NOTABLE = 0.1  # a share by which costs have to rise

STATEFUL = {
    "AWS::Cognito::UserPool": "users",
    "AWS::DynamoDB::GlobalTable": "table",
    "AWS::DynamoDB::Table": "table",
    "AWS::EC2::Volume": "volume",
    "AWS::ECR::Repository": "repository",
    "AWS::EFS::FileSystem": "file system",
    "AWS::KMS::Key": "key",
    "AWS::Kinesis::Stream": "stream",
    "AWS::Logs::LogGroup": "log group",
    "AWS::OpenSearchService::Domain": "domain",
    "AWS::RDS::DBCluster": "database",
    "AWS::RDS::DBInstance": "database",
    "AWS::S3::Bucket": "bucket",
    "AWS::S3Tables::Table": "table",
    "AWS::S3Vectors::Index": "index",
    "AWS::SecretsManager::Secret": "secret",
    "AWS::SQS::Queue": "queue",
}
"""The types of resources that hold data, and what people call them."""

_PRECIOUS = STATEFUL.keys() - {"AWS::Logs::LogGroup"}
_KEEPING = ("Retain", "RetainExceptOnCreate", "Snapshot")  # values of DeletionPolicy and UpdateReplacePolicy
_LOSSES = ("replace", "destroy")


class Level(IntEnum):
    """How much a finding matters."""

    NOTE = 0
    WARNING = 1
    DANGER = 2


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Parameters
    ----------
    level
        How much it matters.
    kind
        The part of the review that has the details: ``resources``, ``permissions``, ``model``, ``costs``, ``devices``
        or ``workflow``.
    text
        One sentence.
    """

    level: Level
    kind: str
    text: str


@dataclass(frozen=True)
class Changes:
    """All that changes."""

    resources: Sequence[Change] = ()
    permissions: Sequence[PermissionChange] = ()
    access: Sequence[AccessChange] = ()
    models: Sequence[ModelChange] = ()
    costs: Sequence[CostChange] = ()
    devices: Sequence[EdgeChange] = ()
    workflows: Sequence[WorkflowChange] = ()
    left: Sequence[str] = ()


def findings(changes: Changes) -> list[Finding]:
    """Return what to look at first: one line for each kind of danger, the most dangerous first."""
    lines = [
        *_data(changes.resources),
        *_cut_off(changes.access),
        *_permissions(changes.permissions, changes.access),
        *_models(changes.models),
        *_costs(changes.costs),
        *_devices(changes.devices),
        *_workflows(changes.workflows),
        *_resources(changes),
    ]
    return sorted(lines, key=lambda each: -each.level)[:MOST]  # stable: equal ones stay in the order of above


def at_risk(change: Change) -> bool:
    """Return whether a change may lose what a resource holds."""
    known = change.before is not None and change.resource.type in STATEFUL
    return known and (bool(change.impact) or _unprotected(change))


def _unprotected(change: Change) -> bool:
    """Return whether the data would be deleted with the resource, and would have been kept before."""
    kept = [
        each is not None and str(each.body.get("DeletionPolicy", "Delete")) in _KEEPING
        for each in (change.before, change.after)
    ]
    return change.after is not None and kept == [True, False]


def _data(changes: Sequence[Change]) -> list[Finding]:
    risky = [each for each in changes if at_risk(each)]
    sure = [each for each in risky if each.impact in _LOSSES and each.resource.type in _PRECIOUS]
    unsure = [each for each in risky if each not in sure]
    lines = []
    if sure:
        names = _names([f"{STATEFUL[each.resource.type]} {each.resource.path} ({_fate(each)})" for each in sure])
        lines.append(Finding(Level.DANGER, "resources", f"Data at risk: {names}."))
    if unsure:
        names = _names([f"{STATEFUL[each.resource.type]} {each.resource.path} ({_fate(each)})" for each in unsure])
        lines.append(Finding(Level.WARNING, "resources", f"Data to look after: {names}."))
    return lines


def _fate(change: Change) -> str:
    """Return what becomes of the data, in words that do not ask for knowledge of CloudFormation."""
    body = change.before.body if change.before is not None else {}
    kept = change.resource.body.get("UpdateReplacePolicy") in _KEEPING
    match change.impact:
        case "replace":
            return "replaced: a new one starts empty, the old one is " + ("left behind" if kept else "deleted")
        case "may be replaced":
            return "may be replaced by an empty one"
        case "destroy":
            return "a snapshot remains" if body.get("DeletionPolicy") == "Snapshot" else "deleted with all in it"
        case "orphan":
            return "leaves the stack, and stays as it is"
    return change.impact or "deleted with the stack from now on"


def _cut_off(changes: Sequence[AccessChange]) -> list[Finding]:
    lost = [each for each in changes if each.lost]
    lines = []
    for needed, level, words in ((True, Level.DANGER, "Cut off"), (False, Level.WARNING, "Lost permission")):
        found = [_loss(each) for each in lost if each.needed == needed]
        if found:
            lines.append(Finding(level, "permissions", f"{words}: {_names(found, '; ')}."))
    return lines


def _loss(change: AccessChange) -> str:
    no_longer = "may no longer" if change.before else "needs what it may not:"
    return f"{change.who} {no_longer} {_names(change.actions)} on {change.target}"


def _permissions(changes: Sequence[PermissionChange], access: Sequence[AccessChange]) -> list[Finding]:
    gained = [each for each in changes if each.gained]
    wild = [each for each in gained if each.wildcard or each.denied]
    named = [each for each in gained if each not in wild]
    lines = []
    # A permission with a wildcard reaches beyond many names, and needs to be said once.
    said = {each.who for each in wild}
    texts = [_gain(each) for each in wild] + [
        f"{each.who} may {_names(each.actions)} beyond {each.target}: {_names(each.beyond)}"
        for each in access
        if each.beyond and each.who not in said
    ]
    if texts:
        lines.append(Finding(Level.DANGER, "permissions", f"Wide permission: {_names(texts, '; ')}."))
    if named:
        who = list(dict.fromkeys(each.who for each in named))
        first = f"{_gain(named[0])}" if len(named) == 1 else f"{_names(who)} may do more than before"
        lines.append(Finding(Level.WARNING, "permissions", f"Permissions: {first}."))
    cut_off = {each.who for each in access if each.lost}
    lost = [each for each in changes if not each.gained and each.who not in cut_off]
    if lost and not gained:
        who = list(dict.fromkeys(each.who for each in lost))
        lines.append(Finding(Level.NOTE, "permissions", f"Permissions: {_names(who)} may do less than before."))
    return lines


def _gain(change: PermissionChange) -> str:
    actions = _names(change.actions)
    if change.denied:
        return f"{change.who} is no longer denied {actions} on {change.target}"
    return f"{change.who} may {actions} on {'everything' if change.target == '*' else change.target}"


def _models(changes: Sequence[ModelChange]) -> list[Finding]:
    worse = [each for each in changes if each.worse]
    poorer = [each for each in worse if any(figure.quality for figure in each.worse)]
    heavier = [each for each in worse if each not in poorer]
    lines = []
    for found, level, words in ((poorer, Level.DANGER, "Worse"), (heavier, Level.WARNING, "Heavier")):
        if found:
            texts = [
                f"{each.name}: "
                + ", ".join(f"{figure.name.lower()} {figure.before} → {figure.after}" for figure in each.worse)
                for each in found
            ]
            lines.append(Finding(level, "model", f"{words} model: {_names(texts, '; ')}."))
    other = [each for each in changes if each.replaced and each not in worse]
    if other:
        texts = [f"{each.name} ({each.replaced})" for each in other]
        lines.append(Finding(Level.WARNING, "model", f"Other model: {_names(texts, '; ')}."))
    return lines


def _costs(changes: Sequence[CostChange]) -> list[Finding]:
    dearer = [(each.more, each) for each in changes if each.more is not None and each.more >= _NOTABLE]
    texts = [
        f"{each.name}{',' if each.way else ''} costs {more:.0%} more "
        f"({each.before.usd_per_month:,.2f} → {each.after.usd_per_month:,.2f} USD a month)"
        for more, each in sorted(dearer, key=lambda pair: -pair[0])
        if each.before is not None and each.after is not None
    ]
    return [Finding(Level.WARNING, "costs", f"Costs: {_names(texts, '; ')}.")] if texts else []


def _devices(changes: Sequence[EdgeChange]) -> list[Finding]:
    texts = []
    for change in changes:
        risen = [each for each in change.figures if each.told and each.more is not None and each.more >= _NOTABLE]
        parts = [f"{each.name} {each.before} → {each.after}" for each in risen]
        texts += [f"{change.component}: {_names(parts)}"] if parts else []
    return [Finding(Level.WARNING, "devices", f"Devices: {_names(texts, '; ')}.")] if texts else []


def _workflows(changes: Sequence[WorkflowChange]) -> list[Finding]:
    texts = []
    for each in changes:
        parts = [f"loses {_names(each.removed)}"] if each.removed else []
        parts += [f"gains {_names(each.added)}"] if each.added else []
        texts += [f"{each.path} {' and '.join(parts)}"] if parts else []
    level = Level.WARNING if any(each.removed for each in changes) else Level.NOTE
    return [Finding(level, "workflow", f"Workflow: {_names(texts, '; ')}.")] if texts else []


def _resources(changes: Changes) -> list[Finding]:
    lines = []
    gone = [
        f"{each.resource.path} ({each.impact})"
        for each in changes.resources
        if each.before is not None
        and each.impact in _LOSSES
        and each.resource.type not in STATEFUL
        and each.resource.type != "AWS::Lambda::Version"  # each deployment of a function has a new one
    ]
    if gone:
        lines.append(Finding(Level.NOTE, "resources", f"Replaced or removed without data: {_names(gone)}."))
    if changes.left:
        lines.append(
            Finding(
                Level.WARNING,
                "resources",
                f"No longer in the app, and not deleted by cdk deploy: {_names(changes.left)}.",
            )
        )
    return lines


def _names(names: Sequence[str], by: str = ", ") -> str:
    more = len(names) - _SHOWN
    return by.join(names[:_SHOWN]) + (f"{by}and {more:,} more" if more > 0 else "")
