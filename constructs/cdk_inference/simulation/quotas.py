"""Quotas and rates of AWS, read from ``quotas.toml`` with their pages. Replace the ones that differ for you."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_above_zero

if TYPE_CHECKING:
    from collections.abc import Mapping

_DATA: dict[str, Any] = tomllib.loads(Path(__file__).with_name("quotas.toml").read_text("utf-8"))


@dataclass(frozen=True)
class Quota:
    """A quota as AWS documents it.

    Parameters
    ----------
    field
        The name of the field of `Quotas` that has its value.
    service, name
        The service, and what Service Quotas calls the quota; what the page calls it if it is not listed there.
    unit
        The unit of the value.
    default
        The documented default, for us-east-1.
    adjustable
        Whether more can be asked for.
    listed
        Whether Service Quotas lists it under this name.
    page
        AWS's page that documents it.
    date
        When it was read, as ``YYYY-MM-DD``.
    remedy
        The prop of this library that helps, and how; empty if there is none.
    """

    field: str
    service: str
    name: str
    unit: str
    default: float
    adjustable: bool
    listed: bool
    page: str
    date: str
    remedy: str = ""

    @property
    def advice(self) -> str:
        """Say what helps once it is used up."""
        if self.remedy:
            return self.remedy
        if not self.adjustable:
            return "it cannot be raised"
        return f"ask for more {'in Service Quotas' if self.listed else 'at AWS Support'}"

    @property
    def title(self) -> str:
        """The service and the name."""
        return f"{self.service}, {self.name}"


@dataclass(frozen=True)
class QuotaUse:
    """The use of a quota in a run.

    Parameters
    ----------
    quota
        The quota.
    limit
        Its value in this run.
    peak
        The most that was used, once warm: at a moment, or on average over 10 seconds.
    typical
        The use that grows as the rate does: the mean use if the rate is constant, and the peak otherwise.
    reached_at
        When it held something up for the first time, in seconds from the start; None if it never did.
    """

    quota: Quota
    limit: float
    peak: float
    typical: float
    reached_at: float | None

    @property
    def share(self) -> float:
        """The most that was used, as a share of the limit."""
        return self.peak / self.limit

    @property
    def typical_share(self) -> float:
        """The use that grows as the rate does, as a share of the limit."""
        return self.typical / self.limit


DOCUMENTED: Mapping[str, Quota] = {each["field"]: Quota(**each) for each in _DATA["quota"]}
"""All quotas that a simulation knows, by field."""


def _default(name: str) -> float:
    return DOCUMENTED[name].default


@check_props
@dataclass(frozen=True, kw_only=True)
class Quotas:
    """The quotas of an account. Their defaults are those that AWS documents, and were not verified on a live account.

    Parameters
    ----------
    eventbridge_invocations
        Events a second that rules deliver to their targets. More are delayed.
    sqs_in_flight
        Messages of the queue that were received and not yet deleted.
    pipe_batches_at_first, pipe_batches_per_minute, pipe_batches
        Batches that a pipe has at the same time: when messages come, how many more a minute while there are further
        messages, and at most.
    pipe_executions
        Batches that all pipes of the account have at the same time.
    mapping_batches_at_first, mapping_batches_per_minute, mapping_batches
        The same as for a pipe, for the event source mapping of a direct pipeline.
    concurrent_executions
        Invocations of all functions of the account at the same time.
    new_environments
        Environments that a function may start in 10 seconds.
    invocations_per_environment
        Synchronous invocations of a function a second, for each of the concurrent executions.
    standard_starts, standard_starts_bucket
        Starts of standard workflows: a second, and at once.
    standard_transitions
        State transitions of standard workflows a second.
    table_writes_at_first, table_writes
        Write units a second of a new table on demand, and of any table.
    kms_operations
        Cryptographic operations with symmetric keys a second.
    s3_gets, s3_puts
        Requests a second for one partitioned prefix of a bucket. S3 splits prefixes by itself, over minutes.
    gpus
        GPUs of a model at most: a prop of the inference, not a quota of AWS.
    """

    eventbridge_invocations: float = _default("eventbridge_invocations")
    sqs_in_flight: float = _default("sqs_in_flight")
    pipe_batches_at_first: float = _default("pipe_batches_at_first")
    pipe_batches_per_minute: float = _default("pipe_batches_per_minute")
    pipe_batches: float = _default("pipe_batches")
    pipe_executions: float = _default("pipe_executions")
    mapping_batches_at_first: float = _default("mapping_batches_at_first")
    mapping_batches_per_minute: float = _default("mapping_batches_per_minute")
    mapping_batches: float = _default("mapping_batches")
    concurrent_executions: float = _default("concurrent_executions")
    new_environments: float = _default("new_environments")
    invocations_per_environment: float = _default("invocations_per_environment")
    standard_starts: float = _default("standard_starts")
    standard_starts_bucket: float = _default("standard_starts_bucket")
    standard_transitions: float = _default("standard_transitions")
    table_writes_at_first: float = _default("table_writes_at_first")
    table_writes: float = _default("table_writes")
    kms_operations: float = _default("kms_operations")
    s3_gets: float = _default("s3_gets")
    s3_puts: float = _default("s3_puts")
    gpus: float = _default("gpus")

    def __post_init__(self) -> None:
        check_above_zero(**{each.name: getattr(self, each.name) for each in fields(self)})
