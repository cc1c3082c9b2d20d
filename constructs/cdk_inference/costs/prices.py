"""List prices of AWS with their date and source page. Replace the ones that differ for you."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from cdk_inference.common.prop_types import check_props
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

AS_OF = "2026-09-29"
"""Date of the newest source; the older ones are named in `SOURCES`."""

FROM_MEMORY = "from memory, check"
"""Value of `Source.read` for a price that no stored page or price list confirmed."""


@dataclass(frozen=True)
class Source:
    """Where a price is from.

    Parameters
    ----------
    page
        The owner's page that lists it.
    read
        Where the figure was read, and when: the owner's pages show most prices only to a browser.
    """

    page: str
    read: str


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
    endpoint_hours, nat_gateway_hours
        An hour of a VPC's interface endpoint in one zone, and of a NAT gateway; what passes through comes on top.
    """

    region: str = "us-east-1"
    as_of: str = AS_OF
    lambda_arm64: float = 13.3334
    lambda_x86_64: float = 16.6667
    lambda_requests: float = 0.20
    provisioned_arm64: float = 3.3334
    provisioned_x86_64: float = 4.1667
    provisioned_duration_arm64: float = 7.7778
    provisioned_duration_x86_64: float = 9.7222
    snapshot_cache: float = 1.5046
    snapshot_restores: float = 139.7998
    managed_fee: float = 0.15
    ec2_hours: Mapping[str, float] = field(
        default_factory=lambda: {
            "c8g.xlarge": 0.1595,
            "g4dn.xlarge": 0.526,
            "g5.xlarge": 1.006,
            "g6.xlarge": 0.8048,
            "g6e.xlarge": 1.861,
            "g6f.large": 0.202,
        }
    )
    sagemaker_hours: Mapping[str, float] = field(
        default_factory=lambda: {
            "ml.g4dn.xlarge": 0.736,
            "ml.g5.xlarge": 1.408,
            "ml.g6.xlarge": 1.1267,
            "ml.g6e.xlarge": 2.61,
        }
    )
    express_requests: float = 1.00
    express_gb_seconds: float = 16.67
    standard_transitions: float = 25.00
    sqs_requests: float = 0.40
    eventbridge_events: float = 1.00
    pipe_requests: float = 0.40
    dynamodb_writes: float = 0.625
    dynamodb_reads: float = 0.125
    s3_puts: float = 5.00
    s3_gets: float = 0.40
    endpoint_hours: float = 0.01
    nat_gateway_hours: float = 0.045

    def __post_init__(self) -> None:
        for name, price in self.by_name().items():
            if not price >= 0:
                raise PropError(f"{name} is {price}; a price is 0 or more")

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
        if not factor > 0:
            raise PropError(f"factor is {factor}; it must be more than 0")
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

    def _by_architecture(self, kind: str, architecture: str) -> float:
        if architecture not in ("arm64", "x86_64"):
            raise PropError(f"architecture is '{architecture}'; it must be arm64 or x86_64")
        return float(getattr(self, f"{kind}_{architecture}"))

    def _hour(self, table: str, instance: str) -> float:
        hours: Mapping[str, float] = getattr(self, table)
        if instance not in hours:
            raise PropError(
                f"no price is known of instance type '{instance}' (known: {', '.join(sorted(hours))}); "
                f"pass prices=replace(prices, {table}={{**prices.{table}, '{instance}': …}})"
            )
        return hours[instance]


_LAMBDA = "https://aws.amazon.com/lambda/pricing/"
_EC2 = "https://aws.amazon.com/ec2/pricing/on-demand/"
_SAGEMAKER = "https://aws.amazon.com/sagemaker/ai/pricing/"
_STEP_FUNCTIONS = "https://aws.amazon.com/step-functions/pricing/"
_EVENTBRIDGE = "https://aws.amazon.com/eventbridge/pricing/"

_LIST_2025 = "a copy of AWS's price list, 2025-10-28"
_OWNER_2026 = "a transcript of the page, 2026-09-20"
_LIST_AUGUST = "a copy of AWS's price list, 2026-08-17"
_LIST_SEPTEMBER = "a copy of AWS's price list, 2026-09-29"
_TABLES = "several public tables that agree, undated"
_ARTICLE_2025 = "an article, 2025-07"
_ARTICLE_2026 = "an article, 2026-03"
_ARTICLES_2026 = "two articles that quote the page, 2026-04 and 2026-05"

SOURCES: Mapping[str, Source] = {
    "lambda_arm64": Source(_LAMBDA, _LIST_2025),
    "lambda_x86_64": Source(_LAMBDA, _LIST_2025),
    "lambda_requests": Source(_LAMBDA, _LIST_2025),
    "provisioned_arm64": Source(_LAMBDA, _LIST_2025),
    "provisioned_x86_64": Source(_LAMBDA, _LIST_2025),
    "provisioned_duration_arm64": Source(_LAMBDA, _LIST_2025),
    "provisioned_duration_x86_64": Source(_LAMBDA, _LIST_2025),
    "snapshot_cache": Source(_LAMBDA, _ARTICLES_2026),
    "snapshot_restores": Source(_LAMBDA, _ARTICLES_2026),
    "managed_fee": Source(_LAMBDA, _OWNER_2026),
    "ec2_hours.c8g.xlarge": Source(_EC2, _LIST_SEPTEMBER),
    "ec2_hours.g4dn.xlarge": Source(_EC2, _TABLES),
    "ec2_hours.g5.xlarge": Source(_EC2, _LIST_AUGUST),
    "ec2_hours.g6.xlarge": Source(_EC2, _LIST_AUGUST),
    "ec2_hours.g6e.xlarge": Source(_EC2, _LIST_AUGUST),
    "ec2_hours.g6f.large": Source(_EC2, FROM_MEMORY),
    "sagemaker_hours.ml.g4dn.xlarge": Source(_SAGEMAKER, _TABLES),
    "sagemaker_hours.ml.g5.xlarge": Source(_SAGEMAKER, _LIST_AUGUST),
    "sagemaker_hours.ml.g6.xlarge": Source(_SAGEMAKER, _TABLES),
    "sagemaker_hours.ml.g6e.xlarge": Source(_SAGEMAKER, _LIST_AUGUST),
    "express_requests": Source(_STEP_FUNCTIONS, _ARTICLE_2026),
    "express_gb_seconds": Source(_STEP_FUNCTIONS, _ARTICLE_2026),
    "standard_transitions": Source(_STEP_FUNCTIONS, "a stored copy of the page, undated"),
    "sqs_requests": Source("https://aws.amazon.com/sqs/pricing/", FROM_MEMORY),
    "eventbridge_events": Source(_EVENTBRIDGE, _ARTICLE_2026),
    "pipe_requests": Source(_EVENTBRIDGE, _ARTICLE_2026),
    "dynamodb_writes": Source("https://aws.amazon.com/dynamodb/pricing/on-demand/", _ARTICLE_2025),
    "dynamodb_reads": Source("https://aws.amazon.com/dynamodb/pricing/on-demand/", FROM_MEMORY),
    "s3_puts": Source("https://aws.amazon.com/s3/pricing/", _TABLES),
    "s3_gets": Source("https://aws.amazon.com/s3/pricing/", _TABLES),
    "endpoint_hours": Source("https://aws.amazon.com/privatelink/pricing/", FROM_MEMORY),
    "nat_gateway_hours": Source("https://aws.amazon.com/vpc/pricing/", "an article, 2026-04"),
}
"""Where each price of `Prices` is from."""
