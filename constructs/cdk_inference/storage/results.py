"""The results table: one row for each object version and model version."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal, get_args

from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check, check_choice, check_either
from cdk_inference.errors import PropError
from cdk_inference.storage import encryption
from cdk_inference.storage.removal import data_removal_policy
from cdk_inference.storage.tables import enable_stream, private_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_s3 as s3

PARTITION_KEY = "object"
SORT_KEY = "version"
EXPIRY_ATTRIBUTE = "expires_at"

ResultIndex = Literal["prefix", "time", "status", "label"]
"""The ways to find rows besides by their object; `cdk_inference.client` has a method for each."""

_NEW_TABLE = {"read_units_per_second": 12_000, "write_units_per_second": 4_000}
"""The warm throughput of a new table on demand, and of an index of it.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/warm-throughput.html
"""

_INDEXED: dict[ResultIndex, tuple[str, str]] = {
    "prefix": ("bucket", "key"),
    "time": ("bucket", "recorded_at"),
    "status": ("status", "recorded_at"),
    "label": ("label", "recorded_at"),
}


@check_props
class IResultsTable(Construct):
    """A results table: a `ResultsTable`, or one of another stack.

    Attributes
    ----------
    table
        The table, for everything this construct does not cover. Its own grants do not know the encryption key: use
        those of this construct, or grant the key too.
    indexes
        As those of `ResultsTable`.
    """

    table: dynamodb.ITableV2
    indexes: Sequence[ResultIndex] = ()
    _key: kms.IKey | None

    @property
    def encryption_key(self) -> kms.IKey | None:
        """Customer managed key of the table, if it has one."""
        return self._key

    @abstractmethod
    def enable_stream(self) -> str:
        """Turn the stream of new rows on, and return its ARN.

        The stream keeps rows for 24 hours, under the key of the table.

        Raises
        ------
        PropError
            The table is imported, and its stream is not known.
        """

    def grant_read_data(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee read rows (get, query, scan)."""
        return self._grant_read(grantee, "dynamodb:Scan", "dynamodb:DescribeTable")

    def grant_query(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee find rows by the object that they are about and by the indexes, without scans."""
        return self._grant_read(grantee)

    def _grant_read(self, grantee: iam.IGrantable, *more: str) -> iam.Grant:
        encryption.grant(self._key, grantee, encryption.DECRYPT)
        actions = ["dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Query", *more]
        if not self.indexes:
            return self.table.grant(grantee, *actions)
        # That of CDK would name the indexes by a pattern.
        arn = self.table.table_arn
        names = [f"{arn}/index/{index_name(index)}" for index in self.indexes]
        return iam.Grant.add_to_principal(grantee=grantee, actions=actions, resource_arns=[arn, *names])

    def grant_look_up(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee look up the rows of an item, and nothing else."""
        return self._grant_table(grantee, encryption.DECRYPT, "dynamodb:Query")

    def grant_get(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee get rows by their keys, many at once, and nothing else."""
        return self._grant_table(grantee, encryption.DECRYPT, "dynamodb:BatchGetItem")

    def grant_write_rows(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put rows, and nothing else."""
        return self._grant_table(grantee, encryption.TABLE, "dynamodb:PutItem")

    def _grant_table(self, grantee: iam.IGrantable, key_actions: tuple[str, ...], action: str) -> iam.Grant:
        """Grant an action on the table and not on its indexes, all of which CDK's own grant would name by a pattern."""
        encryption.grant(self._key, grantee, key_actions)
        return iam.Grant.add_to_principal(grantee=grantee, actions=[action], resource_arns=[self.table.table_arn])

    def grant_export(self, grantee: iam.IGrantable, bucket: s3.IBucket) -> iam.Grant:
        """Let the grantee have DynamoDB export the table into a bucket, from its continuous backups.

        Parameters
        ----------
        grantee
            The principal that starts exports and asks what became of them.
        bucket
            Where the files go.
        """
        encryption.grant(bucket.encryption_key, grantee, encryption.ENCRYPT)
        arn = self.table.table_arn
        allowed = {
            arn: ["dynamodb:ExportTableToPointInTime"],
            f"{arn}/export/*": ["dynamodb:DescribeExport"],
            bucket.arn_for_objects("*"): ["s3:AbortMultipartUpload", "s3:PutObject", "s3:PutObjectAcl"],
        }
        first, *others = (
            iam.Grant.add_to_principal(grantee=grantee, actions=actions, resource_arns=[resource])
            for resource, actions in allowed.items()
        )
        for other in others:
            first = first.combine(other)
        return first

    def metric_throttled_writes(self, **options: Any) -> cloudwatch.Metric:
        """Count the writes that DynamoDB throttled, as a sum over 5 minutes."""
        return self.table.metric(
            "WriteThrottleEvents",
            **{"statistic": "Sum", "dimensions_map": {"TableName": self.table.table_name}, **options},
        )


@check_props
class ResultsTable(IResultsTable):
    """A DynamoDB table that keeps what the model said of each object.

    The partition key is ``bucket/key`` of the object; the sort key is its version id and the model version. A new
    object version or a new model adds a row, and a replay writes the same one.

    Parameters
    ----------
    indexes
        The ways to find rows besides by their object: ``"prefix"`` of the key, ``"time"`` of writing, ``"status"`` or
        ``"label"``, which a classifier's prediction has. Each costs one write unit more for a row, 0.63 USD for a
        million, and has the keys of the rows alone. CloudFormation adds or removes one at a time on a table that
        exists. Default: none.
    encryption_key
        Customer managed key of the table. Default: DynamoDB encrypts with a key that AWS owns.
    point_in_time_recovery
        Continuous backups of the last 35 days. Default: on.
    deletion_protection
        Refuse to delete the table. Default: off; the table is retained when it leaves the stack.
    warm_throughput
        Read and write units a second that the table and each of its indexes take from the start. A new table has 12,000
        and 4,000 anyway. A row of up to 2 KB takes two write units, and one of each index. AWS charges once for what is
        more, and the values cannot be lowered. Default: what a new table has.
    removal_policy
        Default: RETAIN. DESTROY is honoured only with the context flag ``cdk-inference:allow-destroy=true``.

    Attributes
    ----------
    table, indexes
        As those of `IResultsTable`.

    Raises
    ------
    PropError
        An index does not exist, or is given twice. Or the warm throughput is below that of a new table.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        indexes: Sequence[ResultIndex] = (),
        encryption_key: kms.IKey | None = None,
        point_in_time_recovery: bool = True,
        deletion_protection: bool = False,
        warm_throughput: dynamodb.WarmThroughput | None = None,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self.indexes = _checked(indexes)
        _check_warm_throughput(warm_throughput)
        encryption.check_key(self, encryption_key)
        self._key = encryption_key
        self.table = private_table(
            self,
            "Table",
            key=encryption_key,
            partition_key=PARTITION_KEY,
            sort_key=SORT_KEY,
            time_to_live_attribute=EXPIRY_ATTRIBUTE,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=point_in_time_recovery
            ),
            deletion_protection=deletion_protection,
            warm_throughput=warm_throughput,
            removal_policy=data_removal_policy(self, removal_policy),
        )
        for index in self.indexes:
            partition, sort = _INDEXED[index]
            self.table.add_global_secondary_index(
                index_name=index_name(index),
                partition_key=dynamodb.Attribute(name=partition, type=dynamodb.AttributeType.STRING),
                sort_key=dynamodb.Attribute(name=sort, type=dynamodb.AttributeType.STRING),
                projection_type=dynamodb.ProjectionType.KEYS_ONLY,
                warm_throughput=warm_throughput,  # an index that throttles holds up the writes of the table
            )
        add_metadata(self.table, "results")

    def enable_stream(self) -> str:
        """As that of `IResultsTable`."""
        return enable_stream(self.table)

    @classmethod
    def from_table_name(cls, scope: Construct, id: str, table_name: str) -> IResultsTable:
        """Use the results table of another stack by its name, in the account and Region of this stack."""
        return cls.from_table_attributes(scope, id, table_name=table_name)

    @classmethod
    def from_table_arn(cls, scope: Construct, id: str, table_arn: str) -> IResultsTable:
        """Use the results table of another stack by its ARN."""
        return cls.from_table_attributes(scope, id, table_arn=table_arn)

    @classmethod
    def from_table_attributes(
        cls,
        scope: Construct,
        id: str,
        *,
        table_arn: str | None = None,
        table_name: str | None = None,
        table_stream_arn: str | None = None,
        indexes: Sequence[ResultIndex] = (),
        encryption_key: kms.IKey | None = None,
    ) -> IResultsTable:
        """Use the results table of another stack, with its key.

        Parameters
        ----------
        table_arn, table_name
            One of the two.
        table_stream_arn
            ARN of the stream of new rows, which events need: see `enable_stream`. Default: none.
        indexes
            Those that the table has; grants include them. Default: none.
        encryption_key
            Customer managed key of the table; grants include it. Default: none.

        Raises
        ------
        PropError
            Both or none of ARN and name are given, or an index does not exist.
        """
        check_either(table_arn=table_arn, table_name=table_name)
        return _ImportedTable(
            scope,
            id,
            table_arn=table_arn,
            table_name=table_name,
            table_stream_arn=table_stream_arn,
            indexes=indexes,
            encryption_key=encryption_key,
        )


class _ImportedTable(IResultsTable):
    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        table_arn: str | None,
        table_name: str | None,
        table_stream_arn: str | None,
        indexes: Sequence[ResultIndex],
        encryption_key: kms.IKey | None,
    ) -> None:
        super().__init__(scope, id)
        self.indexes = _checked(indexes)
        self._key, self._stream_arn = encryption_key, table_stream_arn
        self.table = dynamodb.TableV2.from_table_attributes(
            self,
            "Table",
            table_arn=table_arn,
            table_name=table_name,
            table_stream_arn=table_stream_arn,
            encryption_key=encryption_key,
        )

    def enable_stream(self) -> str:
        if self._stream_arn is None:
            raise PropError(
                f"table_stream_arn of the imported table {self.node.path} must be set for events, got None; give it to "
                "ResultsTable.from_table_attributes, or make the events in the stack that owns the table"
            )
        return self._stream_arn


def index_name(index: ResultIndex) -> str:
    """Return the name that DynamoDB has for an index."""
    return f"by-{index}"


def _checked(indexes: Sequence[ResultIndex]) -> tuple[ResultIndex, ...]:
    for index in indexes:
        check_choice(get_args(ResultIndex), indexes=index)
        if indexes.count(index) > 1:
            raise PropError(f"indexes must be different, got '{index}' twice; remove one")
    return tuple(indexes)


def _check_warm_throughput(given: dynamodb.WarmThroughput | None) -> None:
    if given is None:
        return
    units = {name: value for name in _NEW_TABLE if (value := getattr(given, name)) is not None}
    check(bool(units), "warm_throughput", " or ".join(_NEW_TABLE), "neither")
    for name, value in units.items():
        rule = f"a whole number from {_NEW_TABLE[name]:,}, which a new table has anyway"
        check(value >= _NEW_TABLE[name] and float(value).is_integer(), f"{name} of warm_throughput", rule, value)
