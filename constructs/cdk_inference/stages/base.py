"""The Lambda function of a stage, and what workflows have to know of its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import jsii
from aws_cdk import Duration, Size, Stack, Token
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_inference.capacity.network import allow_interfaces, check_placement, closed_security_group
from cdk_inference.capacity.strategy import ON_DEMAND, Surroundings
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata, metrics_name, model_facts
from cdk_inference.common.props.descriptions import FUNCTION, described
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.service_errors import Kind, state_errors
from cdk_inference.errors import PropError
from cdk_inference.stages.interfaces import SLOW
from cdk_inference.storage.defaults import log_group
from cdk_inference.storage.work_bucket import TENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_kms as kms

    from cdk_inference.bundling.packages import StagePackage
    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.stages.interfaces import IStage
    from cdk_inference.storage.work_bucket import IWorkBucket

NOT_READY_ERRORS = state_errors("lambda:Invoke", Kind.NOT_READY)
"""Errors of an invocation that pass once something has started or was restored, perhaps after minutes."""

TRANSIENT_ERRORS = (*state_errors("lambda:Invoke", Kind.BUSY), *NOT_READY_ERRORS, "RetryableError")
"""Errors that say nothing about the items: the same batch may well succeed later.

The last is raised by the runtime when an AWS service fails it; the others are Lambda's own, see `service_errors`.
"""

CONFIGURATION_ERRORS = state_errors("lambda:Invoke", Kind.CONFIGURATION)
"""Errors of an invocation that somebody has to repair; the items are not to blame.

A version is not found when an execution that began before a deployment comes to it after.
"""

NO_MODEL = "none"
"""Stands for the model's version in rows of a workflow whose inference stage does not say which model it runs."""

_MAX_ENVIRONMENT_BYTES = 4096

_DEFAULT_STORAGE = 512


class FunctionOptions(TypedDict, total=False):
    """Props that every stage's function takes; see `StageFunction`."""

    reserved_concurrent_executions: int | None
    platform: LambdaPlatform | None
    encryption_key: kms.IKey | None
    log_retention: logs.RetentionDays
    log_removal_policy: RemovalPolicy | None
    vpc: ec2.IVpc | None
    vpc_subnets: ec2.SubnetSelection | None
    security_groups: Sequence[ec2.ISecurityGroup] | None


@jsii.implements(iam.IGrantable)
@check_props
class StageFunction(Construct):
    """A function that runs one stage of a pipeline.

    Each has a log group with JSON logs, active tracing, and a role. The role may write its logs and trace segments, and
    nothing else until it is granted more.

    Parameters
    ----------
    package
        The code, and how it is packaged.
    environment
        Variables of the function.
    description
        Shown in the console.
    memory_size
        MiB; 1,769 MiB are one vCPU.
    timeout
        The time limit of one invocation.
    capacity
        Where environments come from. Default: Lambda makes them on demand.
    reserved_concurrent_executions
        Concurrency that is kept for the function, and its limit. Default: none.
    platform
        Python version and architecture. Default: the newest Python of Lambda, on arm64.
    encryption_key
        Customer managed key of the log group. Default: CloudWatch Logs encrypts with its own.
    log_retention
        Default: one month.
    log_removal_policy
        Default: RETAIN, see `data_removal_policy`.
    vpc
        The VPC that the function is in; the page on security lists the endpoints that it needs there. On managed
        instances: the VPC of instances that are made for it. Default: none.
    vpc_subnets
        Subnets of the VPC. Default: its private subnets, or its isolated ones if it has no others.
    security_groups
        Default: a new group, which lets nothing in and HTTPS out.

    Attributes
    ----------
    function
        The Lambda function, for everything this construct does not cover.
    version
        The version that is published when code or configuration change.
    target
        The target that workflows invoke: an alias that moves to each new version.
    role, log_group
        Its role and its log group.
    model_version
        Version of the model that it runs; None if it runs none.
    max_wait
        How long a batch may wait for it; None, since a function answers within an express workflow.
    transient_errors
        Errors of an invocation that say nothing about the items.
    memory_size, reserved_concurrent_executions
        As given.
    billed_by_duration
        Whether Lambda bills its duration at the price on demand.
    """

    model_version: str | None = None
    max_wait: Duration | None = None
    slow = SLOW
    transient_errors: ClassVar[tuple[str, ...]] = TRANSIENT_ERRORS

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        package: StagePackage,
        environment: Mapping[str, str],
        description: str,
        memory_size: int,
        timeout: Duration,
        capacity: CapacityStrategy = ON_DEMAND,
        reserved_concurrent_executions: int | None = None,
        platform: LambdaPlatform | None = None,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
        security_groups: Sequence[ec2.ISecurityGroup] | None = None,
    ) -> None:
        super().__init__(scope, id)
        check_placement(vpc, vpc_subnets, security_groups)
        capacity = capacity.within(
            Surroundings(
                encryption_key=encryption_key,
                log_retention=log_retention,
                log_removal_policy=log_removal_policy,
                vpc=vpc,
                vpc_subnets=vpc_subnets,
                security_groups=security_groups,
            )
        )
        capacity.check_memory("memory_size", memory_size, id)
        seconds("timeout", timeout, least=1, most=900)
        if reserved_concurrent_executions is not None and not (
            Token.is_unresolved(reserved_concurrent_executions) or reserved_concurrent_executions >= 1
        ):
            raise PropError(f"reserved_concurrent_executions must be at least 1, got {reserved_concurrent_executions}")
        self.timeout = timeout
        self.memory_size = memory_size
        self.billed_by_duration = capacity.billed_by_duration
        self.reserved_concurrent_executions = reserved_concurrent_executions
        self.log_group = log_group(self, key=encryption_key, retention=log_retention, removal_policy=log_removal_policy)
        description = described(description, FUNCTION)
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=description,
        )
        # Not the managed AWSLambdaBasicExecutionRole, which may write to every log group.
        self.log_group.grant_write(self.role)
        packaged = package.resolve(self, name=id, platform=platform)
        capacity.check(reserved=reserved_concurrent_executions, ephemeral_mib=packaged.ephemeral_mib)
        variables = {"PIPELINE": metrics_name(self), **environment, **packaged.environment}
        self._check_environment(variables)
        self._variables = variables
        placement: dict[str, Any] = {}
        if vpc is not None and not capacity.has_network:
            groups = security_groups if security_groups is not None else [closed_security_group(self, vpc)]
            placement = {"vpc": vpc, "vpc_subnets": vpc_subnets, "security_groups": list(groups)}
            allow_interfaces(self.role)
        self.function = lambda_.Function(
            self,
            "Function",
            description=description,
            code=packaged.code,
            handler=packaged.handler,
            runtime=packaged.runtime,
            architecture=packaged.architecture,
            environment=variables,
            memory_size=memory_size,
            timeout=timeout,
            layers=list(packaged.layers) or None,  # an image may not even have none
            ephemeral_storage_size=_storage(packaged.ephemeral_mib),
            reserved_concurrent_executions=reserved_concurrent_executions,
            role=self.role,
            tracing=lambda_.Tracing.ACTIVE,
            logging_format=lambda_.LoggingFormat.JSON,
            log_group=self.log_group,
            **placement,
        )
        self.target = capacity.publish(self, self.function)
        self.version = self.function.current_version
        add_metadata(self.function, "function", stage=id)
        acknowledgments.explain(
            self.function,
            "function-without-reserved-concurrency",
            "function-without-dead-letter-queue",
            "function-without-vpc",
        )
        acknowledgments.policy_of(self.role, "tracing")
        acknowledgments.python_of_the_host(self.function)

    def add_variables(self, variables: Mapping[str, str]) -> None:
        """Add variables to the function's environment.

        Raises
        ------
        PropError
            The environment would be larger than Lambda allows.
        """
        new = {name: value for name, value in variables.items() if self._variables.get(name) != value}
        self._variables = {**self._variables, **new}
        self._check_environment(self._variables)
        for name, value in new.items():
            self.function.add_environment(name, value)

    def _check_environment(self, variables: Mapping[str, str]) -> None:
        size = sum(len(name.encode()) + len(value.encode()) for name, value in variables.items())
        if size > _MAX_ENVIRONMENT_BYTES:
            largest = max(variables, key=lambda name: len(variables[name]))
            raise PropError(
                f"the environment of {self.node.path} must be at most {_MAX_ENVIRONMENT_BYTES} bytes, got {size}; "
                f"shorten what goes into {largest}, the largest variable"
            )

    @property
    @jsii.member(jsii_name="grantPrincipal")
    def grant_principal(self) -> iam.IPrincipal:
        """The function's role, so that a stage is what others grant to."""
        return self.role

    @property
    def stage_functions(self) -> tuple[StageFunction, ...]:
        """Itself, see `IStage`."""
        return (self,)

    def grant_invoke(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee invoke what workflows invoke of this function, and nothing else."""
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["lambda:InvokeFunction"], resource_arns=[self.target.function_arn]
        )

    def task(
        self,
        scope: Construct,
        id: str,
        *,
        payload: Mapping[str, object] | str,
        assign: Mapping[str, object] | None = None,
        output: object = None,
    ) -> sfn.CustomState:
        """Make the state that invokes the function, with retries of what Lambda says is transient.

        A call to something that is not ready is tried again for 65 seconds. A workflow of three stages has no more
        time.

        A custom state, because `LambdaInvoke` would grant the workflow every version of the function.

        Parameters
        ----------
        payload, assign, output
            The event, the variables to set and the state's output; strings may be JSONata, ``{% … %}``.
        """
        state: dict[str, object] = {
            "Type": "Task",
            "Resource": f"arn:{Stack.of(self).partition}:states:::lambda:invoke",
            "Arguments": {"FunctionName": self.target.function_arn, "Payload": payload},
        }
        if assign is not None:
            state["Assign"] = assign
        if output is not None:
            state["Output"] = output
        task = sfn.CustomState(scope, id, state_json=state)
        not_ready = [error for error in self.transient_errors if error in NOT_READY_ERRORS]
        task.add_retry(
            errors=not_ready,
            interval=Duration.seconds(5),
            max_attempts=4,
            backoff_rate=2,
            max_delay=Duration.seconds(30),
        )
        task.add_retry(
            errors=[error for error in self.transient_errors if error not in not_ready],
            interval=Duration.seconds(1),
            max_attempts=4,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
        return task

    def metric_errors(self, **options: Any) -> cloudwatch.Metric:
        """Count the invocations that failed as a whole, as a sum over 5 minutes."""
        return self.function.metric_errors(**options)

    def metric_throttles(self, **options: Any) -> cloudwatch.Metric:
        """Count the invocations that were throttled, as a sum over 5 minutes."""
        return self.function.metric_throttles(**options)

    def metric_duration(self, **options: Any) -> cloudwatch.Metric:
        """Measure the milliseconds of an invocation, the average over 5 minutes."""
        return self.function.metric_duration(**options)

    def metric_invocations(self, **options: Any) -> cloudwatch.Metric:
        """Count the invocations, as a sum over 5 minutes."""
        return self.function.metric_invocations(**options)


def _storage(mebibytes: int) -> Size | None:
    """Return the size of ``/tmp``, ``None`` for Lambda's default: a template says what is not the default."""
    return None if mebibytes == _DEFAULT_STORAGE else Size.mebibytes(mebibytes)


def move_together(*stages: IStage) -> None:
    """Have no alias of the stages move before all of their functions have their new code.

    The stages of a route depend on each other, such as labels and a model. Without this, the alias of a small function
    would move while a large one is still being updated. Meanwhile, batches would meet stages of two deployments. If a
    function cannot be updated, no alias moves at all.
    """
    functions = [function for stage in stages for function in stage.stage_functions]
    for stage in functions:
        for other in functions:
            resource = other.function.node.default_child
            if other is not stage and resource is not None:
                stage.target.node.add_dependency(resource)


def add_model_metadata(function: StageFunction, model: ModelArtifact, *, stage: str | None = None) -> None:
    """Write into the function's metadata which model it runs, in the stage of this name (default: its own id)."""
    add_metadata(function.function, "function", stage=stage or function.node.id, model=model_facts(model.manifest))


def grant_work(stage: StageFunction, work: IWorkBucket) -> None:
    """Let a function that runs a model read its inputs and write its outputs."""
    work.grant_read(stage)
    work.grant_write(stage)
    acknowledgments.objects_under(stage.role, work.bucket, TENSORS)
