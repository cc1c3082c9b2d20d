"""The messages about props of the wrong type."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from types import ModuleType, NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from cdk_inference.common.props.type_checks import find_wrong, is_union, plain

if TYPE_CHECKING:
    from cdk_inference.common.props.type_checks import Hint, Wrong

_LONGEST_VALUE = 60
_MADE_BY = {
    "Architecture": "Architecture.ARM_64 or Architecture.X86_64",
    "Branch": "a Route, or a strategy such as Routing.split",
    "CapacityStrategy": "Capacity.snap_start, Capacity.provisioned, Capacity.keep_warm or Capacity.managed_instances",
    "Construct": "self, or the stack",
    "CpuOption": "CpuOption(…) or CpuOption.of",
    "Duration": "Duration.seconds or Duration.minutes",
    "ExecutionStrategy": "Execution.staged or Execution.fused",
    "GpuBackend": "LambdaGpu() or SageMakerAsync()",
    "IBucket": "a Bucket, such as Bucket.from_bucket_name(self, 'Inbox', 'its-name')",
    "IGpuCapacity": "a GpuCapacity, or GpuCapacity.from_capacity_provider_arn",
    "IKey": "a Key, such as Key.from_key_arn(self, 'Key', 'its-arn')",
    "IResultsTable": "ResultsTable(…) or ResultsTable.from_table_arn",
    "IS3Trigger": "S3Trigger(…) or S3Trigger.from_trigger_attributes",
    "ITrigger": "S3Trigger(…), S3ItemsTrigger(…), QueueTrigger(…), KinesisTrigger(…), DynamoStreamTrigger(…) or "
    "ScheduleTrigger(…)",
    "ISecurityGroup": "a SecurityGroup, such as SecurityGroup.from_security_group_id(self, 'Group', 'its-id')",
    "IGrantable": "a role, a user or a function",
    "IVpc": "a Vpc, such as Vpc.from_lookup(self, 'Vpc', vpc_id='its-id')",
    "IWorkBucket": "WorkBucket(…) or WorkBucket.from_bucket_name",
    "ItemsFormat": "ItemsFormat.json_lines, ItemsFormat.csv, ItemsFormat.parquet, ItemsFormat.zip, ItemsFormat.tar, "
    "ItemsFormat.motion_jpeg or ItemsFormat.video",
    "LambdaPlatform": "LambdaPlatform(architecture='x86_64')",
    "SubnetSelection": "SubnetSelection(subnet_type=SubnetType.PRIVATE_WITH_EGRESS)",
}
"""Ways to make an instance where the class itself does not show one."""


def unknown_prop(function: str, name: str, known: Iterable[str]) -> str:
    """Say that a constructor or factory has no such prop, and which one may be meant."""
    names = [prop for prop in known if prop not in {"self", "cls"}]
    close = get_close_matches(name, names, 1)
    fix = f"did you mean '{close[0]}'?" if close else f"use one of {', '.join(names)}"
    return f"{function.removesuffix('.__init__')} has no prop '{name}'; {fix}"


def wrong_type(wrong: Wrong, default: object) -> str:
    """Say of which type a value must be, what it is, and how to make one that fits."""
    kinds = [kind for kind in _alternatives(wrong.hint) if kind not in {None, NoneType}]
    if wrong.value is None and default is not inspect.Parameter.empty:
        fix = f"leave it out for its default, {default if isinstance(default, Enum) else repr(default)}"
    else:
        chosen = kinds if len(kinds) == 1 else [kind for kind in kinds if kind is wrong.value]
        fix = _fix(wrong.value, chosen[0]) if chosen else ""  # the types that it may have say enough
    names = [_name(kind) for kind in kinds]
    article = "" if names[0][0] in "('" else "an " if names[0][0] in "aeioAEIO" else "a "
    return f"{wrong.name} must be {article}{_listed(names)}, got {_shown(wrong.value)}{fix and f'; {fix}'}"


def _alternatives(hint: Hint) -> tuple[Hint, ...]:
    return tuple(map(plain, get_args(hint))) if is_union(hint) else (plain(hint),)


def _listed(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _name(hint: Hint) -> str:
    origin: Any = get_origin(hint)
    args = get_args(hint)
    if origin is Literal:
        return _listed([repr(arg) for arg in args])
    if origin is None or is_union(hint):
        return _listed([kind.__name__ for kind in _alternatives(hint)])
    if origin is tuple and args[-1] is not Ellipsis:
        return f"({', '.join(map(_name, args))})"
    if origin is Callable:
        return "function"
    if issubclass(origin, Mapping):
        return f"dict of {_name(args[0])} to {_name(args[1])}"
    return f"{'tuple' if origin is tuple else 'list'} of {_name(args[0])}"


def _shown(value: object) -> str:
    if isinstance(value, type | ModuleType) or inspect.isroutine(value):
        what = "class" if isinstance(value, type) else "module" if isinstance(value, ModuleType) else "function"
        return f"the {what} {value.__name__}"
    if isinstance(value, tuple):
        return f"({', '.join(type(element).__name__ for element in value)})"
    kind, text = type(value).__name__, repr(value)
    if text.startswith("<") or "\n" in text:  # says where it is in memory, or is an array
        return f"an instance of {kind}"
    if len(text) > _LONGEST_VALUE:
        text = f"{text[: _LONGEST_VALUE - 1]}…"
    return text if value is None or text.startswith(f"{kind}(") else f"{kind} {text}"


def _fix(value: object, hint: Hint) -> str:
    origin: Any = get_origin(hint)
    args = get_args(hint)
    if inspect.ismethod(value):
        return f"call it: {value.__qualname__}(…)"
    if origin is not None:
        return _fix_collection(value, hint, origin, args)
    if hint in {int, float, str, bool}:
        return _fix_plain(value, hint)
    if hint.__name__ == "Duration" and isinstance(value, int | float) and not isinstance(value, bool):
        return f"use Duration.seconds({value})"
    name = value.upper().replace("-", "_") if isinstance(value, str) else ""
    if issubclass(hint, Enum) and name in hint.__members__:
        return f"use {hint[name]}"
    return _made(hint, called=value is hint)


def _fix_collection(value: object, hint: Hint, origin: type, args: Sequence[Hint]) -> str:
    if origin is tuple and isinstance(value, tuple) and find_wrong("", value[::-1], hint) is None:
        return "swap the two"
    if origin is not Sequence or isinstance(value, list | tuple):
        return ""
    if find_wrong("", value, args[0]) is None:
        return f"use [{value!r}]"
    return "use a list" if isinstance(value, Iterable) and not isinstance(value, str | Mapping) else ""


def _fix_plain(value: object, kind: type) -> str:
    if kind is bool:
        return "use True or False"
    if isinstance(value, float) and kind is int and value.is_integer():
        return f"use {int(value)}"
    if isinstance(value, str) and kind is not str:
        try:
            return f"use {kind(value)}"
        except ValueError:
            return ""
    return ""


def _made(kind: Any, *, called: bool) -> str:  # noqa: ANN401 - a class
    """Say how to make an instance of a class."""
    if kind.__name__ in _MADE_BY:
        return f"use {_MADE_BY[kind.__name__]}"
    if issubclass(kind, Enum):
        return f"use a member, such as {next(iter(kind))}"
    if not kind.__module__.startswith("cdk_inference"):
        return ""
    factories = [name for name, member in vars(kind).items() if isinstance(member, classmethod) and name[0] != "_"]
    if called or not factories:
        return f"use {kind.__name__}(…)"
    return f"use {_listed([f'{kind.__name__}.{name}' for name in factories])}"
