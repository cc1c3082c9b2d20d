"""The backfill: a state machine that scores objects which are in the bucket already."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aws_cdk import ArnFormat, Aws, Duration, Fn, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.backfill.batch import BatchStates
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.stages.base import StageFunction
from cdk_inference.stages.state_machine import LoggedStateMachine
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import private_bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constructs import Construct

    from cdk_inference.costs.backfills import BackfillPrices
    from cdk_inference.pipeline.execution_strategy import WorkflowLogs
    from cdk_inference.pipeline.workflow import InferenceWorkflow
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.storage.results import IResultsTable
    from cdk_inference.triggers.base import IS3Trigger

KEPT_DAYS = 30
"""How long lists of objects and the results of backfills are kept."""

TOLERATED_FAILURES = 5
"""The percentage of the objects whose batches may fail before a backfill ends: more failures have one cause."""

LISTS, RUNS = "lists", "runs"
"""Folders of the bucket."""


@check_props
class Backfill(LoggedStateMachine):
    """A standard state machine that scores objects which are in the bucket; made by `pipeline.add_backfill`.

    It maps over the objects under a prefix, those of a list, or those of an S3 Inventory. Each batch is a child
    execution. A function leaves out what the pipeline's models have scored, and makes messages of the rest. The
    pipeline's own workflow scores these. The messages that it gives back go into the queue of the trigger: retries and
    dead letters are those of new objects. So each object ends as one row, or as one dead letter.

    A backfill may be stopped, and started again: what has a row costs only reads then. `cdk_inference.backfill` is its
    command line.

    Parameters
    ----------
    trigger, results, workflow
        The parts of the pipeline.
    models
        The versions of the models whose rows count as scored, as the sort key of the table has them.
    inventory_bucket
        The bucket where S3 Inventory puts its lists, as CSV. Default: backfills take no inventory.
    prices
        The prices by which the command line says what a backfill costs.
    functions, workflows
        Common props of functions and workflows.

    Attributes
    ----------
    bucket
        Where lists of objects and results of backfills are, for 30 days.
    planner
        The function that leaves out what is scored.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        trigger: IS3Trigger,
        results: IResultsTable,
        workflow: InferenceWorkflow,
        models: Sequence[str],
        inventory_bucket: s3.IBucket | None = None,
        prices: BackfillPrices,
        functions: FunctionOptions,
        workflows: WorkflowLogs,
    ) -> None:
        super().__init__(scope, id)
        # Without it, CDK takes a deprecated prop in the place of that which is not. It counts in this construct only.
        self.node.set_context("@aws-cdk/aws-stepfunctions:useDistributedMapResultWriterV2", True)
        key = workflows["encryption_key"]
        self.bucket = private_bucket(
            self,
            "Bucket",
            key=key,
            removal_policy=workflows["log_removal_policy"],
            unversioned="bucket-of-lists",
            lifecycle_rules=[
                s3.LifecycleRule(
                    expiration=Duration.days(KEPT_DAYS), abort_incomplete_multipart_upload_after=Duration.days(1)
                )
            ],
        )
        add_metadata(self.bucket, "backfill-bucket")
        self.planner = self._planner(trigger, results, models, functions)
        readers: dict[str, sfn.IItemReader] = {
            "prefix": sfn.S3ObjectsItemReader(bucket=trigger.bucket, prefix="{% $states.input.prefix %}"),
            "list": sfn.S3JsonLItemReader(bucket=self.bucket, key="{% $states.input.key %}"),
        }
        if inventory_bucket is not None:
            readers["inventory"] = sfn.S3ManifestItemReader(bucket=inventory_bucket, key="{% $states.input.key %}")
        batches = BatchStates(self, planner=self.planner, workflow=workflow, queue_url=trigger.queue.queue_url)
        self._create(
            first_state=self._definition(readers, batches, trigger.batch_size),
            comment=f"scores objects that are in the bucket of {trigger.node.path}",
            state_machine_type=sfn.StateMachineType.STANDARD,
            timeout=Duration.days(365),
            **workflows,
        )
        self._grant(trigger, workflow, inventory_bucket)
        self._complete("backfill")
        facts = {
            "prefix": trigger.prefix,
            "suffixes": list(trigger.suffixes),
            "batch_size": trigger.batch_size,
            "prices": prices.to_json(),
        }
        add_metadata(self.state_machine, "backfill", **facts)

    def _planner(
        self, trigger: IS3Trigger, results: IResultsTable, models: Sequence[str], functions: FunctionOptions
    ) -> StageFunction:
        wanted = {
            "prefix": trigger.prefix,
            "suffixes": [suffix.lower() for suffix in trigger.suffixes],
            "models": sorted(set(models)),
        }
        unreserved: FunctionOptions = {**functions, "reserved_concurrent_executions": None}
        planner = StageFunction(
            self,
            "Plan",
            package=ZipPackage(
                handler="inference_runtime.handlers.plan_backfill.handler",
                runtime_requirements="sagemaker",  # nothing but botocore either
            ),
            description=f"says what a backfill of {trigger.node.path} has to score",
            environment={
                "BUCKET": trigger.bucket.bucket_name,
                "RESULTS_TABLE": results.table.table_name,
                "BACKFILL": json.dumps(wanted),
            },
            memory_size=512,
            timeout=Duration.seconds(30),
            **unreserved,
        )
        trigger.grant_read(planner)  # S3 asks for it even where only the headers of objects are read
        trigger.acknowledge_read(planner.role)
        results.grant_look_up(planner)
        return planner

    def _definition(self, readers: dict[str, sfn.IItemReader], batches: BatchStates, batch_size: int) -> sfn.IChainable:
        """Return the first state: which objects the input asks for."""
        which = sfn.Choice.jsonata(self, "Which objects?")
        for source, reader in readers.items():
            each = sfn.DistributedMap.jsonata(
                self,
                f"Score {source}",
                item_reader=reader,
                item_batcher=sfn.ItemBatcher(
                    max_items_per_batch=batch_size, batch_input={"wanted": "{% $states.input %}"}
                ),
                map_execution_type=sfn.StateMachineType.EXPRESS,
                jsonata_max_concurrency="{% $states.input.max_concurrency %}",
                tolerated_failure_percentage=TOLERATED_FAILURES,
                # Only what the children return, one in a line: their inputs have all keys.
                result_writer_v2=sfn.ResultWriterV2(
                    bucket=self.bucket,
                    prefix=RUNS,
                    writer_config=sfn.WriterConfig(
                        output_type=sfn.OutputType.JSONL, transformation=sfn.Transformation.COMPACT
                    ),
                ),
            )
            each.item_processor(batches.first(source))
            which.when(sfn.Condition.jsonata(f"{{% $states.input.source = '{source}' %}}"), each)
        return which.otherwise(
            sfn.Fail.jsonata(
                self,
                "Unknown source",
                error="UnknownSource",
                cause=f"source must be {' or '.join(readers)}; start backfills by their command line",
            )
        )

    def _grant(self, trigger: IS3Trigger, workflow: InferenceWorkflow, inventory_bucket: s3.IBucket | None) -> None:
        """Let the state machine do what its states do; CDK grants it the reading of lists."""
        machine = self.state_machine
        self.planner.grant_invoke(machine)
        workflow.grant_start_sync_execution(machine)
        trigger.grant_send(machine)
        encryption.grant(self._key, machine, encryption.ENCRYPT)
        if inventory_bucket is not None:
            encryption.grant(inventory_bucket.encryption_key, machine, encryption.DECRYPT)
        iam.Grant.add_to_principal(
            grantee=machine,
            actions=["s3:PutObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"],
            resource_arns=[self.bucket.arn_for_objects(f"{RUNS}/*")],
        )
        acknowledgments.objects_under(machine.role, self.bucket, f"{RUNS}/*")
        # The rights that CDK's readers need.
        read = [self.bucket, *([] if inventory_bucket is None else [inventory_bucket])]
        acknowledgments.by_pattern(
            machine.role.node.find_child("DefaultPolicy"),
            "objects-by-pattern",
            *(f"arn:{Aws.PARTITION}:s3:::{bucket.bucket_name}/*" for bucket in read),
        )
        execution = f"arn:{Aws.PARTITION}:states:{Aws.REGION}:{Aws.ACCOUNT_ID}:execution"
        name = Fn.select(6, Fn.split(":", machine.state_machine_arn))
        policy = machine.node.find_child("DistributedMapPolicy")
        acknowledgments.by_pattern(policy, "executions-of-a-map", f"{execution}:{name}:*", f"{execution}:{name}/*:*")
        acknowledgments.explain(policy, "inline-policy")

    def grant_start(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee start backfills, give them lists, and see and stop them, as the command line does.

        The command line reads the template of the stack too, and lists the bucket of the objects.
        """
        encryption.grant_executions(self.state_machine, self._key, grantee)
        encryption.grant(self._key, grantee, encryption.ENCRYPT)
        machine, name = self.state_machine.state_machine_arn, self.state_machine.state_machine_name
        executions, runs = (
            Stack.of(self).format_arn(
                service="states", resource=kind, resource_name=which, arn_format=ArnFormat.COLON_RESOURCE_NAME
            )
            for kind, which in (("execution", f"{name}:*"), ("mapRun", f"{name}/*:*"))
        )
        allowed = {
            machine: ["states:DescribeStateMachine", "states:ListExecutions", "states:StartExecution"],
            executions: ["states:DescribeExecution", "states:ListMapRuns", "states:StopExecution"],
            runs: ["states:DescribeMapRun"],
            self.bucket.arn_for_objects(f"{LISTS}/*"): ["s3:PutObject"],
            self.bucket.arn_for_objects(f"{RUNS}/*"): ["s3:GetObject"],
        }
        first, *others = (
            iam.Grant.add_to_principal(grantee=grantee, actions=actions, resource_arns=[arn])
            for arn, actions in allowed.items()
        )
        for other in others:
            first = first.combine(other)
        return first
