"""How a workflow asks an asynchronous endpoint: by a function that submits, and one that is called back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import jsii
from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk.aws_lambda_destinations import SqsDestination
from constructs import Construct

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata
from cdk_inference.errors import PropError
from cdk_inference.gpu.sagemaker_endpoint import ANSWERS, REQUESTS, VARIANT
from cdk_inference.gpu.sagemaker_scaling import NAMESPACE
from cdk_inference.stages.base import TRANSIENT_ERRORS, StageFunction
from cdk_inference.storage import encryption
from cdk_inference.storage.queues import last_resort
from cdk_inference.storage.tables import private_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import CfnResource
    from aws_cdk import aws_dynamodb as dynamodb
    from aws_cdk import aws_kms as kms

    from cdk_inference.gpu.sagemaker_endpoint import AsyncEndpoint
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.storage.work_bucket import IWorkBucket

SUBMIT_ERRORS = ("Lambda.Unknown", "Sandbox.Timedout")
"""How a function ends that dies or hangs. The one that submits does nothing with the items."""

ANSWER_ERRORS = ("SageMakerServiceError", "SageMakerOutputLost", "States.Timeout")
"""SageMaker did not run the request, or its answer was lost.

A request that expires or hangs SageMaker itself ends, and says so. When nothing comes at all, the answer was lost on
the way, or the instance with it. No object is to blame then.
"""

_SHORTEST_WAIT = 60
_ANSWER_SECONDS = 5 * 60  # Lambda tries the callback function three times, within three minutes
_MEMORY = 256


@jsii.implements(iam.IGrantable)
class AsyncStage(Construct):
    """The requests to an endpoint and their answers.

    The workflow's task invokes the submit function and waits. That function keeps the task's token in a table, writes
    the request to the work bucket and puts it into SageMaker's queue. SageMaker announces the end to a topic; the
    callback function finds the token, reads the answer and sends it to the task. An announcement that cannot be
    delivered, or that the callback function fails for, goes to a queue.

    Parameters
    ----------
    endpoint
        Whom to ask.
    work
        Where requests and answers go.
    timeout
        The time limit of one run of a batch.
    max_wait
        How long a batch may wait for the GPU. A request is in the queue for half of it at most, so that one that gets
        lost is made again.
    options
        As those of `StageFunction`.

    Attributes
    ----------
    endpoint
        As given.
    submit, callback
        The functions.
    tokens
        The table.
    unanswered_queue
        Announcements that did not reach a task.
    transient_errors
        Errors that say nothing about the items.
    """

    transient_errors = (*TRANSIENT_ERRORS, *SUBMIT_ERRORS, *ANSWER_ERRORS)

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        endpoint: AsyncEndpoint,
        work: IWorkBucket,
        timeout: Duration,
        max_wait: Duration,
        options: FunctionOptions,
    ) -> None:
        super().__init__(scope, id)
        self.endpoint = endpoint
        self.timeout = timeout
        self._max_wait = int(max_wait.to_seconds())
        self._wait = max(self._max_wait // 2, _SHORTEST_WAIT)  # SageMaker allows six hours, and so does max_wait
        self.tokens = _tokens(self, options.get("encryption_key"))
        # SNS sends here when, for example, it may not use the pipeline's key. So SQS encrypts with its own.
        self.unanswered_queue = last_resort(self, "UnansweredQueue", "unanswered-queue")
        self.submit = self._submit(work, options)
        self.callback = self._callback(work, options)

    def _submit(self, work: IWorkBucket, options: FunctionOptions) -> StageFunction:
        submit = StageFunction(
            self,
            "Submit",
            package=ZipPackage(handler="inference_runtime.handlers.submit.handler", runtime_requirements="sagemaker"),
            description=f"hands batches to {self.endpoint.node.path}",
            environment={
                "TOKENS_TABLE": self.tokens.table_name,
                "WORK_BUCKET": work.bucket.bucket_name,
                # The attribute, not the name: it comes after the endpoint, and goes before it.
                "ENDPOINT": self.endpoint.endpoint.attr_endpoint_name,
                "INVOCATION_TIMEOUT": str(int(self.timeout.to_seconds())),
            },
            memory_size=_MEMORY,
            timeout=Duration.seconds(90),
            **options,
        )
        self._grant_key(submit, work, options, encryption.ENCRYPT)
        self.tokens.grant(submit, "dynamodb:PutItem")
        for action, resource in (
            ("s3:PutObject", work.bucket.arn_for_objects(f"{REQUESTS}/*")),
            ("sagemaker:InvokeEndpointAsync", self.endpoint.arn),
        ):
            iam.Grant.add_to_principal(grantee=submit, actions=[action], resource_arns=[resource])
        acknowledgments.objects_under(submit.role, work.bucket, f"{REQUESTS}/*")
        return submit

    def _callback(self, work: IWorkBucket, options: FunctionOptions) -> StageFunction:
        callback = StageFunction(
            self,
            "Callback",
            package=ZipPackage(handler="inference_runtime.handlers.callback.handler", runtime_requirements="sagemaker"),
            description=f"hands the answers of {self.endpoint.node.path} to the workflow",
            environment={"TOKENS_TABLE": self.tokens.table_name},
            memory_size=_MEMORY,
            timeout=Duration.seconds(90),
            **options,
        )
        self._grant_key(callback, work, options, encryption.DECRYPT)
        self.tokens.grant(callback, "dynamodb:GetItem")
        iam.Grant.add_to_principal(
            grantee=callback,
            actions=["s3:GetObject"],
            resource_arns=[work.bucket.arn_for_objects(f"{ANSWERS}/*")],
        )
        acknowledgments.objects_under(callback.role, work.bucket, f"{ANSWERS}/*")
        # Two ways to fail: SNS cannot invoke the function, or the function fails three times.
        callback.target.configure_async_invoke(on_failure=SqsDestination(self.unanswered_queue))
        for topic in (self.endpoint.succeeded, self.endpoint.failed):
            subscribed = topic.add_subscription(
                subscriptions.LambdaSubscription(callback.target, dead_letter_queue=self.unanswered_queue)
            )
            acknowledgments.alias_subscribed(cast("CfnResource", subscribed.node.default_child))
        return callback

    @staticmethod
    def _grant_key(stage: StageFunction, work: IWorkBucket, options: FunctionOptions, actions: tuple[str, ...]) -> None:
        key = options.get("encryption_key")
        encryption.grant(key, stage, encryption.TABLE)
        encryption.grant(work.bucket.encryption_key, stage, actions)

    @property
    def stage_functions(self) -> tuple[StageFunction, ...]:
        """None: the endpoint runs the model, and these functions work with any version of it."""
        return ()

    @property
    @jsii.member(jsii_name="grantPrincipal")
    def grant_principal(self) -> iam.IPrincipal:
        """The role that the model runs with."""
        return self.endpoint.role

    def grant_invoke(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let a state machine have batches run, and get the answers.

        Raises
        ------
        PropError
            The grantee is not a state machine: the callback function must know whom it may answer.
        """
        machine = getattr(grantee, "state_machine_arn", None)
        if machine is None:
            raise PropError(
                f"grantee of {self.node.path} must be a state machine, which alone can wait for SageMaker, got a "
                f"{type(grantee).__name__}; pass the state machine itself, not its role"
            )
        iam.Grant.add_to_principal(
            grantee=self.callback,
            actions=["states:SendTaskSuccess", "states:SendTaskFailure"],
            resource_arns=[machine],
        )
        return self.submit.grant_invoke(grantee)

    def task(
        self,
        scope: Construct,
        id: str,
        *,
        payload: Mapping[str, object] | str,
        assign: Mapping[str, object] | None = None,
        output: object = None,
    ) -> sfn.CustomState:
        """Make the state that submits a batch and waits for the answer, which is ``$states.result.Payload``.

        Parameters
        ----------
        payload, assign, output
            As those of `StageFunction.task`.
        """
        left = (
            f"{self._max_wait} - $floor(($toMillis($states.context.State.EnteredTime)"
            " - $toMillis($states.context.Execution.StartTime)) / 1000)"
        )
        state: dict[str, object] = {
            "Type": "Task",
            "Resource": f"arn:{Stack.of(self).partition}:states:::lambda:invoke.waitForTaskToken",
            "Arguments": {
                "FunctionName": self.submit.target.function_arn,
                "Payload": {
                    "token": "{% $states.context.Task.Token %}",
                    "request": payload,
                    "wait": f"{{% $max([{_SHORTEST_WAIT}, $min([{self._wait}, {left}])]) %}}",
                },
            },
            "TimeoutSeconds": self._wait + int(self.timeout.to_seconds()) + _ANSWER_SECONDS,
        }
        if assign is not None:
            state["Assign"] = assign
        if output is not None:
            state["Output"] = output
        task = sfn.CustomState(scope, id, state_json=state)
        # Only what Lambda itself refuses: SageMaker's queue, and the workflow's pauses, do the rest.
        task.add_retry(
            errors=[error for error in TRANSIENT_ERRORS if error.startswith("Lambda.")],
            interval=Duration.seconds(1),
            max_attempts=4,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
        return task

    def metric_errors(self, **options: Any) -> cloudwatch.Metric:
        """Count the requests that SageMaker took and that failed, as a sum over 5 minutes."""
        return self._metric("InvocationFailures", "Sum", options)

    def metric_throttles(self, **options: Any) -> cloudwatch.Metric:
        """Count the requests that expired in the queue, for want of a GPU, as a sum over 5 minutes."""
        return self._metric("ExpiredRequests", "Sum", options)

    def metric_duration(self, **options: Any) -> cloudwatch.Metric:
        """Measure the milliseconds of a request, waiting included, the average over 5 minutes."""
        return self._metric("TotalProcessingTime", "Average", options)

    def metric_invocations(self, **options: Any) -> cloudwatch.Metric:
        """Count the batches that were submitted, as a sum over 5 minutes."""
        return self.submit.metric_invocations(**options)

    def metric_unanswered(self, **options: Any) -> cloudwatch.Metric:
        """Count the announcements in the queue of those that did not reach a task, the maximum over 5 minutes."""
        return self.unanswered_queue.metric_approximate_number_of_messages_visible(**options)

    def _metric(self, name: str, statistic: str, options: Mapping[str, Any]) -> cloudwatch.Metric:
        dimensions = {"EndpointName": self.endpoint.endpoint.attr_endpoint_name, "VariantName": VARIANT}
        return cloudwatch.Metric(
            **{
                "namespace": NAMESPACE,
                "metric_name": name,
                "dimensions_map": dimensions,
                "statistic": statistic,
                "period": Duration.minutes(5),
                **options,
            }
        )


def _tokens(scope: Construct, key: kms.IKey | None) -> dynamodb.TableV2:
    """Create the table of the tasks that wait."""
    table = private_table(
        scope,
        "Tokens",
        key=key,
        partition_key="inference_id",
        time_to_live_attribute="expires_at",
        # No data: without the workflow's executions, which go with the stack too, tokens are of no use.
        removal_policy=RemovalPolicy.DESTROY,
    )
    add_metadata(table, "tokens")
    return table
