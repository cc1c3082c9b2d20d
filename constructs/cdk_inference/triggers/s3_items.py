"""The trigger for objects that hold many items: lines, rows, or the files of an archive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar, cast

from aws_cdk import Duration, Size
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_between
from cdk_inference.stages.base import StageFunction
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import PIPE_LOGS, log_group, private_bucket
from cdk_inference.triggers.base import ITrigger, check_batches
from cdk_inference.triggers.queue import ENVELOPE, MAX_BATCH_SIZE, MOST_INPUT
from cdk_inference.triggers.s3 import S3Trigger
from cdk_inference.triggers.split_workflow import SPLITS, SplitWorkflow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_ec2 as ec2
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_lambda as lambda_
    from aws_cdk import aws_sqs as sqs
    from constructs import Construct

    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.storage.results import IResultsTable
    from cdk_inference.triggers.items_format import ItemsFormat

ITEMS, RESULTS = "items", "results"
"""Folders of the trigger's bucket, besides that of lists of chunks."""

KEPT_DAYS = 30
"""How long chunks and large items are kept: longer than both queues keep a message, one after the other."""


_SPLIT_HANDLER = "inference_runtime.handlers.split.handler"
_COLLECT_HANDLER = "inference_runtime.handlers.collect.handler"
_SPLIT_MINUTES, _CHUNK_MINUTES, _COLLECT_MINUTES = 15, 5, 5
_DAY = 86_400


@check_props
class S3ItemsTrigger(ITrigger):
    """Start a workflow with the items of objects that hold many: each line, row or file of an archive is an item.

    `S3Trigger` for the objects → function, which takes an object apart → queue of items with a dead-letter queue →
    EventBridge pipe. A large object is taken apart in chunks by a Step Functions Distributed Map. Memory is bounded,
    however large an object is.

    Each item ends as one row, or as one dead letter. A row says in its attribute ``bucket`` where its item comes from,
    ``s3:`` and the name of the bucket, and in ``key`` the object's key, ``#`` and the id of the item, such as
    ``orders.jsonl#7``. When the object is overwritten, the rows of the new one replace those of the same ids. An object
    that is not what it claims to be goes to the dead-letter queue of ``objects``.

    Parameters
    ----------
    items
        How an object holds its items, such as ``ItemsFormat.json_lines()``.
    bucket
        Where objects land. An imported bucket must have EventBridge notifications enabled. Default: a new bucket, as
        that of `S3Trigger`.
    prefix
        Only keys that start with it. Default: all keys.
    suffixes
        Only keys that end with one of them, in lower or upper case. Default: all keys.
    write_results
        Whether to write a file of JSON lines for each object, with the results of its items in their order. That
        happens when the last item has its row. Default: no.
    max_wait
        How long that file waits for rows, 1 minute to 7 days: what has no row then is in it as missing. Default: one
        day.
    encryption_key
        Customer managed key of the buckets, the queues, the logs and the executions. Default: AWS encrypts with its
        own.
    batch_size
        Most items the workflow gets at once, 1 to 32. Default: 10.
    max_batching_window
        Longest time to wait for a batch to fill up, 0 to 300 seconds; at least 1 for batches of more than 10.
        Default: 1 second.
    max_receive_count
        Times an item that fails by itself is delivered before it goes to the dead-letter queue, 1 to 1,000. It also
        holds for an object that cannot be taken apart. Default: 10.
    max_concurrency
        Most objects that are taken apart at the same time, and most chunks of one of them, 2 to 1,000. Default: 10.
    chunk_size
        Size of a chunk, 1 KiB to 1 GiB. Objects up to it are taken apart at once, without a state machine. Default: 16
        MiB.
    memory_size
        MiB of the functions that take objects apart. Default: 1,769, one vCPU.
    processing_timeout
        Longest time the workflow takes; the queue hides an item for this and 30 seconds more, plus the window.
        Default: 5 minutes, the limit of an express workflow.
    platform
        Architecture and Python version of the functions. Default: `LambdaPlatform`'s.
    vpc, vpc_subnets, security_groups
        As those of `InferencePipeline`, for the functions that take objects apart.
    log_retention
        The retention of the log groups. Default: one month.
    removal_policy
        The policy of the buckets and the log groups. Default: RETAIN. DESTROY is honoured only with the context flag
        ``cdk-inference:allow-destroy=true``.

    Attributes
    ----------
    objects
        The `S3Trigger` for the objects, with their ``bucket``, ``queue`` and ``dead_letter_queue``.
    queue, dead_letter_queue, log_group
        The parts for the items.
    items_bucket
        The bucket with lists of chunks, large items and files of results.
    functions
        The functions that take objects apart: ``"split"``, ``"chunk"`` and, with `write_results`, ``"collect"``.
    workflow
        The state machine for large objects.

    Raises
    ------
    PropError
        A prop is out of range.
    """

    queue: sqs.IQueue
    objects: S3Trigger
    workflow: SplitWorkflow

    _own: ClassVar[tuple[str, ...]] = (f"{SPLITS}/*", f"{ITEMS}/*")

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        items: ItemsFormat,
        bucket: s3.IBucket | None = None,
        prefix: str = "",
        suffixes: Sequence[str] = (),
        write_results: bool = False,
        max_wait: Duration | None = None,
        encryption_key: kms.IKey | None = None,
        batch_size: int = 10,
        max_batching_window: Duration | None = None,
        max_receive_count: int = 10,
        max_concurrency: int = 10,
        chunk_size: Size | None = None,
        memory_size: int = 1769,
        processing_timeout: Duration | None = None,
        platform: LambdaPlatform | None = None,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
        security_groups: Sequence[ec2.ISecurityGroup] | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._window = max_batching_window if max_batching_window is not None else Duration.seconds(1)
        wait = max_wait if max_wait is not None else Duration.days(1)
        chunk_bytes = int((chunk_size if chunk_size is not None else Size.mebibytes(16)).to_bytes())
        check_batches(
            batch_size=batch_size, window=self._window, max_receive_count=max_receive_count, most=MAX_BATCH_SIZE
        )
        check_between(2, 1000, max_concurrency=max_concurrency)
        check_between(1024, 1024**3, "bytes", chunk_size=chunk_bytes)
        seconds("max_wait", wait, least=60, most=7 * _DAY)
        encryption.check_key(self, encryption_key)
        if encryption_key is not None:
            encryption.allow_logs(encryption_key, self)
        self._key = encryption_key
        self.batch_size, self.max_receive_count = batch_size, max_receive_count
        self.objects = S3Trigger(
            self,
            "Objects",
            bucket=bucket,
            prefix=prefix,
            suffixes=suffixes,
            encryption_key=encryption_key,
            batch_size=1,
            max_batching_window=Duration.seconds(0),
            max_receive_count=max_receive_count,
            processing_timeout=Duration.minutes(_SPLIT_MINUTES),
            log_retention=log_retention,
            removal_policy=removal_policy,
        )
        self.prefix, self.undelivered_queue = prefix, self.objects.undelivered_queue
        self.dead_letter_queue = self._create_dead_letter_queue()
        self.queue = self._create_queue(processing_timeout or Duration.minutes(5))
        self.log_group = log_group(
            self, key=encryption_key, retention=log_retention, removal_policy=removal_policy, folder=PIPE_LOGS
        )
        self.items_bucket = self._create_bucket(removal_policy)
        options: FunctionOptions = {
            "platform": platform,
            "encryption_key": encryption_key,
            "log_retention": log_retention,
            "log_removal_policy": removal_policy,
            "vpc": vpc,
            "vpc_subnets": vpc_subnets,
            "security_groups": security_groups,
        }
        # Two functions with the same code: one starts the state machine, which invokes the other.
        chunk = self._splitter("SplitChunk", items, memory_size, Duration.minutes(_CHUNK_MINUTES), options)
        self._collect = self._collector(options) if write_results else None
        self.workflow = SplitWorkflow(
            self,
            "Workflow",
            objects=self.objects,
            bucket=self.items_bucket,
            chunk=chunk,
            collect=self._collect,
            max_concurrency=max_concurrency,
            max_wait=wait,
            encryption_key=encryption_key,
            log_retention=log_retention,
            log_removal_policy=removal_policy,
        )
        split = self._splitter("Split", items, memory_size, Duration.minutes(_SPLIT_MINUTES), options)
        split.add_variables(
            {
                "OBJECTS_QUEUE_URL": self.objects.queue.queue_url,
                "STATE_MACHINE_ARN": self.workflow.state_machine.state_machine_arn,
                "CHUNK_BYTES": str(chunk_bytes),
                **({"ALWAYS_WORKFLOW": "1"} if write_results else {}),
            }
        )
        # It sends what is left of an object to its own queue: Lambda would end that after 16 times.
        cast("lambda_.CfnFunction", split.function.node.default_child).recursive_loop = "Allow"
        self.objects.grant_send(split)
        self.workflow.grant_start(split)
        mapping = self.objects.add_function(split, max_concurrency=max_concurrency)
        acknowledgments.explain(mapping, "mapping-of-a-queue")
        self.functions = {
            "split": split,
            "chunk": chunk,
            **({} if self._collect is None else {"collect": self._collect}),
        }

    @property
    def source(self) -> str:
        """``s3:`` and the name of the bucket."""
        return f"s3:{self.objects.bucket.bucket_name}"

    def _create_bucket(self, removal_policy: RemovalPolicy | None) -> s3.Bucket:
        bucket = private_bucket(
            self,
            "Items",
            key=self._key,
            removal_policy=removal_policy,
            unversioned="bucket-of-items",
            lifecycle_rules=[
                s3.LifecycleRule(abort_incomplete_multipart_upload_after=Duration.days(KEPT_DAYS)),
                *(
                    s3.LifecycleRule(prefix=f"{folder}/", expiration=Duration.days(KEPT_DAYS))
                    for folder in (SPLITS, ITEMS)
                ),
            ],
        )
        add_metadata(bucket, "items-bucket")
        return bucket

    def _splitter(
        self, id: str, items: ItemsFormat, memory_size: int, timeout: Duration, options: FunctionOptions
    ) -> StageFunction:
        """Create a function that takes objects or chunks apart, and sends their items."""
        code = items.bind(_SPLIT_HANDLER)
        function = StageFunction(
            self,
            id,
            package=code.package,
            environment={
                **code.environment,
                "ITEMS_QUEUE_URL": self.queue.queue_url,
                "BUCKET": self.items_bucket.bucket_name,
                "INLINE_BYTES": str(MOST_INPUT // self.batch_size - ENVELOPE),
            },
            description=f"takes objects of {self.node.path} apart",
            memory_size=memory_size,
            timeout=timeout,
            **options,
        )
        self.objects.grant_read(function)
        self.objects.acknowledge_read(function.role)
        self.grant_send(function)
        written = ["s3:PutObject", "s3:AbortMultipartUpload"]
        self._grant_own(function, written, *self._own, key=encryption.ENCRYPT)
        acknowledgments.objects_under(function.role, self.items_bucket, *self._own)
        return function

    def _collector(self, options: FunctionOptions) -> StageFunction:
        """Create the function that writes files of results."""
        function = StageFunction(
            self,
            "Collect",
            package=ZipPackage(
                handler=_COLLECT_HANDLER,
                runtime_requirements="sagemaker",  # nothing but botocore either
            ),
            environment={"BUCKET": self.items_bucket.bucket_name},
            description=f"writes files with the results of {self.node.path}",
            memory_size=1024,
            timeout=Duration.minutes(_COLLECT_MINUTES),
            **options,
        )
        splits, results = f"{SPLITS}/*", f"{RESULTS}/*"
        self._grant_own(function, ["s3:GetObject"], splits, key=encryption.ENCRYPT)
        self._grant_list(function)
        written = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
        self._grant_own(function, written, results)
        acknowledgments.objects_under(function.role, self.items_bucket, splits, results)
        return function

    def _grant_own(
        self, grantee: iam.IGrantable, actions: list[str], *patterns: str, key: tuple[str, ...] = ()
    ) -> iam.Grant:
        """Grant actions on objects of the trigger's own bucket, and on its key."""
        if key:
            encryption.grant(self._key, grantee, key)
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=actions,
            resource_arns=[self.items_bucket.arn_for_objects(pattern) for pattern in patterns],
        )

    def _grant_list(self, grantee: iam.IGrantable) -> iam.Grant:
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:ListBucket"], resource_arns=[self.items_bucket.bucket_arn]
        )

    def follow(self, results: IResultsTable, models: Sequence[str]) -> None:
        """Have files of results written from the rows of a table."""
        if self._collect is not None:
            versions = json.dumps(sorted(set(models)))
            self._collect.add_variables({"RESULTS_TABLE": results.table.table_name, "ROW_VERSIONS": versions})
            # It tells the execution of an object, which may collect after another model was deployed.
            self.functions["split"].add_variables({"ROW_VERSIONS": versions})
            results.grant_get(self._collect)

    def grant_put(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put objects under the prefix."""
        return self.objects.grant_put(grantee)

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee read what items refer to: the objects under the prefix, and copies of large items."""
        return (
            self.objects.grant_read(grantee)
            .combine(self._grant_own(grantee, ["s3:GetObject"], f"{ITEMS}/*", key=encryption.DECRYPT))
            .combine(self._grant_list(grantee))
        )

    def acknowledge_read(self, role: iam.IRole) -> None:
        """Acknowledge that objects can only be granted by a pattern."""
        self.objects.acknowledge_read(role)
        acknowledgments.objects_under(role, self.items_bucket, f"{ITEMS}/*")

    def grant_read_results(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee read files of results."""
        return self._grant_own(grantee, ["s3:GetObject"], f"{RESULTS}/*", key=encryption.DECRYPT).combine(
            self._grant_list(grantee)
        )
