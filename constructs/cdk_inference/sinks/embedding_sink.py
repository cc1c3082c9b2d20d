"""The sink for embeddings: an index of S3 Vectors that follows a results table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

from aws_cdk import Duration, Stack, Token
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3vectors as s3vectors
from constructs import Construct

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_between, check_choice
from cdk_inference.errors import PropError
from cdk_inference.stages.base import FunctionOptions, StageFunction
from cdk_inference.storage import encryption
from cdk_inference.storage.queues import last_resort
from cdk_inference.storage.removal import data_removal_policy

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_kms as kms

    from cdk_inference.storage.results import IResultsTable

DistanceMetric = Literal["cosine", "euclidean"]

_MAX_DIMENSION = 4096
_BATCH_SIZE = 500  # vectors of one request
_DAY = 86_400
_NOT_FILTERABLE = ["object", "version"]
"""Metadata that may be long: that by which S3 Vectors filters has at most 2 KB a vector."""

_INDEXING = "indexing.s3vectors.amazonaws.com"


@check_props
class EmbeddingSink(Construct):
    """Keeps an index of S3 Vectors like a results table, so that similar objects are found.

    Table stream → function → index. The vector of a row is the member ``embedding`` of its prediction, as
    `Postprocess.embedding` stores it. Its key is the SHA-256 of the row's keys, so that a change that comes twice
    changes nothing. A row that is deleted, expires, or is replaced by one without a vector takes its vector along.

    The metadata has ``status``, ``label``, ``model_version``, ``bucket`` and ``recorded_at`` (seconds since 1970), by
    which queries filter, and ``object`` and ``version``, the keys of the row. The vectors of two models are in one
    index: filter by ``model_version``.

    A vector that the index never takes, such as one of another dimension, goes to the dead-letter queue with the keys
    of its row. While S3 Vectors does not answer, the stream waits, for up to 24 hours.

    Parameters
    ----------
    results
        The table. An imported one must have its `table_stream_arn`.
    dimension
        Numbers of a vector, 1 to 4,096.
    distance_metric
        ``cosine`` or ``euclidean``. Default: ``cosine``.
    attribute
        The member of predictions that is the vector. Default: ``embedding``.
    index_arn
        ARN of your own index, with ``object`` and ``version`` as its non-filterable metadata. Default: a new bucket
        with a new index, which are retained.
    max_batching_window
        The longest time to wait for a batch to fill up, 0 to 300 seconds. Default: 5 seconds.
    memory_size
        MiB. Default: 512.
    removal_policy
        The policy of the new bucket and index. Default: RETAIN, see `data_removal_policy`.
    **options
        As those of `StageFunction`. The `encryption_key` is that of the new bucket too.

    Attributes
    ----------
    vector_bucket, index
        The new ones; None if the index is yours.
    index_arn
        ARN of the index.
    function, dead_letter_queue
        The parts.

    Raises
    ------
    PropError
        A prop is out of range, or the stream of an imported table is not known.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        results: IResultsTable,
        dimension: int,
        distance_metric: DistanceMetric = "cosine",
        attribute: str = "embedding",
        index_arn: str | None = None,
        max_batching_window: Duration | None = None,
        memory_size: int = 512,
        removal_policy: RemovalPolicy | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        super().__init__(scope, id)
        check_between(1, _MAX_DIMENSION, dimension=dimension)
        check_choice(get_args(DistanceMetric), distance_metric=distance_metric)
        if not attribute:
            raise PropError("attribute must name the member of predictions that is the vector, got ''; name it")
        window = max_batching_window if max_batching_window is not None else Duration.seconds(5)
        seconds("max_batching_window", window, least=0, most=300)
        self._key = options.get("encryption_key")
        encryption.check_key(self, self._key)
        if self._key is not None:
            encryption.allow_logs(self._key, self)
        self.vector_bucket: s3vectors.CfnVectorBucket | None = None
        self.index: s3vectors.CfnIndex | None = None
        if index_arn is None:
            index_arn = self._create_index(dimension, distance_metric, data_removal_policy(self, removal_policy))
        elif not Token.is_unresolved(index_arn) and ":s3vectors:" not in index_arn:
            raise PropError(f"index_arn must be the ARN of an index of S3 Vectors, got '{index_arn}'")
        self.index_arn = index_arn
        self.dead_letter_queue = last_resort(self, "DeadLetterQueue", "refused-embeddings")
        self.function = StageFunction(
            self,
            "Function",
            package=ZipPackage(
                handler="inference_runtime.handlers.index_embeddings.handler",
                runtime_requirements="sagemaker",  # nothing but botocore either
            ),
            environment={
                "VECTOR_INDEX": index_arn,
                "DIMENSION": str(dimension),
                "DISTANCE_METRIC": distance_metric,
                "EMBEDDING_ATTRIBUTE": attribute,
                "DEAD_LETTER_QUEUE": self.dead_letter_queue.queue_url,
            },
            description=f"indexes the embeddings of {results.node.path}",
            memory_size=memory_size,
            timeout=Duration.minutes(2),
            **options,
        )
        self._follow(results, window)

    def _create_index(self, dimension: int, metric: DistanceMetric, removal: RemovalPolicy) -> str:
        self.vector_bucket = s3vectors.CfnVectorBucket(
            self,
            "Bucket",
            encryption_configuration=None
            if self._key is None
            else s3vectors.CfnVectorBucket.EncryptionConfigurationProperty(
                sse_type="aws:kms", kms_key_arn=self._key.key_arn
            ),
        )
        self.index = s3vectors.CfnIndex(
            self,
            "Index",
            vector_bucket_arn=self.vector_bucket.attr_vector_bucket_arn,
            data_type="float32",
            dimension=dimension,
            distance_metric=metric,
            metadata_configuration=s3vectors.CfnIndex.MetadataConfigurationProperty(
                non_filterable_metadata_keys=_NOT_FILTERABLE
            ),
        )
        for made in (self.vector_bucket, self.index):
            made.apply_removal_policy(removal)
            add_metadata(made, "embeddings")
        if self._key is not None:
            self._allow_indexing(self._key)
        return self.index.attr_index_arn

    def _allow_indexing(self, key: kms.IKey) -> None:
        """Let S3 Vectors read what it indexes in the background."""
        result = key.add_to_resource_policy(
            iam.PolicyStatement(
                actions=list(encryption.DECRYPT),
                principals=[iam.ServicePrincipal(_INDEXING)],
                resources=["*"],  # in a key policy: this key
                conditions={"StringEquals": {"aws:SourceAccount": Stack.of(self).account}},
            )
        )
        if not result.statement_added:
            encryption.warn_of_imported_key(self, _INDEXING, encryption.DECRYPT)

    def _follow(self, results: IResultsTable, window: Duration) -> None:
        """Invoke the function with the changes of the table."""
        stream = results.enable_stream()
        allowed = {
            stream: ["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"],
            "*": ["dynamodb:ListStreams"],  # which does not take resources
            self.index_arn: ["s3vectors:DeleteVectors", "s3vectors:PutVectors"],
            self.dead_letter_queue.queue_arn: ["sqs:SendMessage"],
        }
        for arn, actions in allowed.items():
            iam.Grant.add_to_principal(grantee=self.function, actions=actions, resource_arns=[arn])
        encryption.grant(results.encryption_key, self.function, encryption.DECRYPT)
        encryption.grant(self._key, self.function, encryption.ENCRYPT)
        mapping = lambda_.CfnEventSourceMapping(
            self,
            "Mapping",
            function_name=self.function.target.function_arn,
            event_source_arn=stream,
            starting_position="TRIM_HORIZON",  # rows that are written while the function is created count too
            batch_size=_BATCH_SIZE,
            maximum_batching_window_in_seconds=window.to_seconds(),
            maximum_record_age_in_seconds=_DAY,
            maximum_retry_attempts=-1,  # as long as the stream has the change
            bisect_batch_on_function_error=True,
            function_response_types=["ReportBatchItemFailures"],
            destination_config=lambda_.CfnEventSourceMapping.DestinationConfigProperty(
                on_failure=lambda_.CfnEventSourceMapping.OnFailureProperty(destination=self.dead_letter_queue.queue_arn)
            ),
        )
        mapping.node.add_dependency(self.function.role)  # Lambda checks the permissions when the mapping is created

    def grant_query(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee find vectors that are similar, and read their metadata."""
        encryption.grant(self._key, grantee, encryption.DECRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["s3vectors:GetVectors", "s3vectors:QueryVectors"],
            resource_arns=[self.index_arn],
        )

    def metric_failed(self, **options: Any) -> cloudwatch.Metric:
        """Count the vectors that the index did not take, and lost batches, the maximum over 5 minutes."""
        return self.dead_letter_queue.metric_approximate_number_of_messages_visible(**options)
