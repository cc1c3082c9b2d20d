"""List prices of AWS, read from ``prices.toml`` with their source and date. Replace the ones that differ for you."""

from __future__ import annotations

import tomllib
import warnings
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_above_zero, check_at_least, check_choice
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

_DATA: dict[str, Any] = tomllib.loads(Path(__file__).with_name("prices.toml").read_text("utf-8"))
_LISTED: dict[str, Any] = {}
for _source in _DATA["source"]:
    for _name, _value in _source["prices"].items():
        _LISTED[_name] = _LISTED.get(_name, {}) | _value if isinstance(_value, dict) else _value

AS_OF: str = max(source["date"] for source in _DATA["source"])
"""Date of the newest source; `SOURCES` has the date of each."""


@dataclass(frozen=True)
class Source:
    """Where a price is from.

    Parameters
    ----------
    page
        AWS's own page that lists it.
    url
        Where the figure was read: AWS's pages show most prices only to a browser. It is AWS's price list if a public
        copy of that was read.
    date
        Date of that source, or of the reading if the source has none; as ``YYYY-MM-DD``.
    """

    page: str
    url: str
    date: str

    @property
    def read(self) -> str:
        """Return the source and its date. Deprecated: use `url` and `date`."""
        warnings.warn("Source.read is deprecated; use url and date", DeprecationWarning, stacklevel=2)
        return f"{self.url}, {self.date}"


@check_props
@dataclass(frozen=True, kw_only=True)
class Prices:
    """List prices in USD, without free tiers, volume discounts and taxes.

    `dataclasses.replace` puts own numbers in the place of single ones, `scaled` multiplies all for another region.

    Parameters
    ----------
    region
        Region that they are of; for people.
    as_of
        Date of the newest source; for people.
    lambda_arm64, lambda_x86_64
        A million GB-seconds of a Lambda function on demand.
    lambda_requests
        A million invocations.
    provisioned_arm64, provisioned_x86_64
        A million GB-seconds of provisioned concurrency, used or not.
    provisioned_duration_arm64, provisioned_duration_x86_64
        A million GB-seconds of functions that run on it.
    snapshot_cache, snapshot_restores
        SnapStart: a million GB-seconds of a version's snapshot, used or not, and a million GB restored; the GB are
        those of the function's memory.
    managed_fee
        Lambda Managed Instances: share of the EC2 price on demand that comes on top of it.
    ec2_hours
        An hour of an EC2 instance on demand, by type.
    sagemaker_hours
        An hour of an instance behind a SageMaker endpoint, by type.
    express_requests, express_gb_seconds
        A million executions of an express workflow, and a million GB-seconds of them.
    standard_transitions
        A million state transitions of a standard workflow.
    sqs_requests, eventbridge_events, pipe_requests
        A million of them; each 64 KB count as one.
    dynamodb_writes, dynamodb_reads
        A million write request units, of 1 KB each, and read request units, of 4 KB each, on demand.
    s3_puts, s3_gets
        A million requests.
    cloudwatch_metrics, cloudwatch_alarms, cloudwatch_dashboards
        A month of a custom metric, of a standard alarm and of a dashboard.
    codebuild_minutes
        A minute of a build on Linux, by compute type.
    greengrass_devices
        A month of a device that runs AWS IoT Greengrass; the price of up to 10,000 of them.
    endpoint_hours, nat_gateway_hours
        An hour of a VPC's interface endpoint in one zone, and of a NAT gateway; what passes through comes on top.
    """

    region: str = _DATA["region"]
    as_of: str = AS_OF
    lambda_arm64: float = _LISTED["lambda_arm64"]
    lambda_x86_64: float = _LISTED["lambda_x86_64"]
    lambda_requests: float = _LISTED["lambda_requests"]
    provisioned_arm64: float = _LISTED["provisioned_arm64"]
    provisioned_x86_64: float = _LISTED["provisioned_x86_64"]
    provisioned_duration_arm64: float = _LISTED["provisioned_duration_arm64"]
    provisioned_duration_x86_64: float = _LISTED["provisioned_duration_x86_64"]
    snapshot_cache: float = _LISTED["snapshot_cache"]
    snapshot_restores: float = _LISTED["snapshot_restores"]
    managed_fee: float = _LISTED["managed_fee"]
    ec2_hours: Mapping[str, float] = field(default_factory=_LISTED["ec2_hours"].copy)
    sagemaker_hours: Mapping[str, float] = field(default_factory=_LISTED["sagemaker_hours"].copy)
    express_requests: float = _LISTED["express_requests"]
    express_gb_seconds: float = _LISTED["express_gb_seconds"]
    standard_transitions: float = _LISTED["standard_transitions"]
    sqs_requests: float = _LISTED["sqs_requests"]
    eventbridge_events: float = _LISTED["eventbridge_events"]
    pipe_requests: float = _LISTED["pipe_requests"]
    dynamodb_writes: float = _LISTED["dynamodb_writes"]
    dynamodb_reads: float = _LISTED["dynamodb_reads"]
    s3_puts: float = _LISTED["s3_puts"]
    s3_gets: float = _LISTED["s3_gets"]
    cloudwatch_metrics: float = _LISTED["cloudwatch_metrics"]
    cloudwatch_alarms: float = _LISTED["cloudwatch_alarms"]
    cloudwatch_dashboards: float = _LISTED["cloudwatch_dashboards"]
    codebuild_minutes: Mapping[str, float] = field(default_factory=_LISTED["codebuild_minutes"].copy)
    greengrass_devices: float = _LISTED["greengrass_devices"]
    endpoint_hours: float = _LISTED["endpoint_hours"]
    nat_gateway_hours: float = _LISTED["nat_gateway_hours"]

    def __post_init__(self) -> None:
        check_at_least(0, **self.by_name())

    def by_name(self) -> dict[str, float]:
        """Return the prices by name; those of instances are called ``ec2_hours.g6.xlarge`` and the like."""
        prices: dict[str, float] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, str):
                continue
            if isinstance(value, (int, float)):
                prices[each.name] = value
            else:
                prices |= {f"{each.name}.{instance}": hour for instance, hour in value.items()}
        return prices

    def scaled(self, factor: float, *, region: str) -> Prices:
        """Return all prices multiplied, as a first guess for another region; the fee, a share, stays."""
        check_above_zero(factor=factor)
        changed: dict[str, object] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "managed_fee" or isinstance(value, str):
                continue
            if isinstance(value, (int, float)):
                changed[each.name] = value * factor
            else:
                changed[each.name] = {instance: hour * factor for instance, hour in value.items()}
        return replace(self, region=region, **changed)  # type: ignore[arg-type]  # the fields' own types

    def lambda_gb_second(self, architecture: str) -> float:
        """Return the price of one GB-second on demand."""
        return self._by_architecture("lambda", architecture) / 1e6

    def provisioned_gb_second(self, architecture: str) -> float:
        """Return the price of one GB-second that is provisioned."""
        return self._by_architecture("provisioned", architecture) / 1e6

    def provisioned_duration_gb_second(self, architecture: str) -> float:
        """Return the price of one GB-second that runs on provisioned concurrency."""
        return self._by_architecture("provisioned_duration", architecture) / 1e6

    def managed_hour(self, instance: str) -> float:
        """Return the price of an hour of a Lambda Managed Instance: EC2's and the fee."""
        return self._hour("ec2_hours", instance) * (1 + self.managed_fee)

    def sagemaker_hour(self, instance: str) -> float:
        """Return the price of an hour of an instance behind a SageMaker endpoint."""
        return self._hour("sagemaker_hours", instance)

    def codebuild_minute(self, compute_type: str) -> float:
        """Return the price of a minute of a build."""
        return self._of_type("codebuild_minutes", "compute_type", compute_type)

    def _by_architecture(self, kind: str, architecture: str) -> float:
        check_choice(("arm64", "x86_64"), architecture=architecture)
        return float(getattr(self, f"{kind}_{architecture}"))

    def _hour(self, table: str, instance: str) -> float:
        return self._of_type(table, "instance", instance)

    def _of_type(self, table: str, name: str, kind: str) -> float:
        by_type: Mapping[str, float] = getattr(self, table)
        if kind not in by_type:
            raise PropError(
                f"{name} must be a type with a known price ({', '.join(sorted(by_type))}), got '{kind}'; pass "
                f"prices=replace(prices, {table}={{**prices.{table}, '{kind}': …}})"
            )
        return by_type[kind]


SOURCES: Mapping[str, Source] = {
    f"{name}.{instance}" if instance else name: Source(source["page"], source["url"], source["date"])
    for source in _DATA["source"]
    for name, value in source["prices"].items()
    for instance in (value if isinstance(value, dict) else [""])
}
"""Where each price of `Prices` is from."""
