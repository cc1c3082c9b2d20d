"""The jobs of a retraining: what trains, what builds and judges, and what takes the model out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check, check_at_least
from cdk_inference.errors import PropError
from inference_runtime.retraining import layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import Duration
    from aws_cdk import aws_codebuild as codebuild
    from aws_cdk import aws_codepipeline as codepipeline
    from constructs import Construct

_STEPS = "arn:{}:states:::"
_ENTERED = "$states.context.State.EnteredTime"


@dataclass(frozen=True)
class BoundJob:
    """A job as a state of a workflow.

    Parameters
    ----------
    state
        The state, which ends with the job.
    allowed
        The permissions that the workflow needs.
    jobs
        ARNs with a pattern for the jobs that it starts, whose ids are not known before.
    """

    state: sfn.CustomState
    allowed: tuple[iam.PolicyStatement, ...]
    jobs: tuple[str, ...] = ()


@check_props
class RetrainingJob(ABC):
    """Something that runs for minutes or hours. `TrainingJob` and `DeploymentJob` have a factory for each kind."""

    waits: ClassVar[bool] = True
    """Whether a workflow knows what became of it."""

    @property
    @abstractmethod
    def grantee(self) -> iam.IGrantable | None:
        """The principal that the job acts as; None if it starts something that has another one."""

    @abstractmethod
    def bind(self, scope: Construct, id: str, *, variables: Mapping[str, str], timeout: Duration) -> BoundJob:
        """Make the state that runs the job.

        Parameters
        ----------
        scope, id
            The workflow, and the name of the state.
        variables
            Environment variables of the job; values may be JSONata, ``{% … %}``.
        timeout
            When the workflow stops to wait for it.
        """


@check_props
class TrainingJob:
    """Jobs that train a model, or build and judge one.

    A job gets variables, and runs ``python -m cdk_inference.retraining train`` or ``… build``; see the guide.
    """

    @classmethod
    def code_build(cls, project: codebuild.IProject) -> RetrainingJob:
        """Run a build of CodeBuild.

        Parameters
        ----------
        project
            The project. Its role gets the rights that the job needs.

        Raises
        ------
        PropError
            The project is imported, so that its role is not known.
        """
        return CodeBuildJob(project)

    @classmethod
    def batch(cls, *, job_definition_arn: str, job_queue_arn: str, job_role: iam.IRole) -> RetrainingJob:
        """Run a job of AWS Batch.

        Parameters
        ----------
        job_definition_arn
            ARN of a definition for containers, with its revision.
        job_queue_arn
            ARN of the queue.
        job_role
            The role of the definition's containers, which gets the rights that the job needs.
        """
        return _BatchJob(job_definition_arn, job_queue_arn, job_role)

    @classmethod
    def sage_maker(
        cls, *, image: str, role: iam.IRole, instance_type: str, instance_count: int = 1, volume_gb: int = 30
    ) -> RetrainingJob:
        """Run a training job of SageMaker.

        Parameters
        ----------
        image
            URI of the image, whose entry point runs the training.
        role
            Its execution role, which gets the rights that the job needs.
        instance_type
            Such as ``"ml.g5.xlarge"``.
        instance_count
            How many of them. Default: 1.
        volume_gb
            GB of storage of each. Default: 30.

        Raises
        ------
        PropError
            The type is not one of SageMaker, or a number is below 1.
        """
        return _SageMakerJob(image, role, instance_type, instance_count, volume_gb)


@check_props
class DeploymentJob:
    """Jobs that take out a model which has passed its gate, such as by ``cdk deploy`` with a canary."""

    @classmethod
    def code_build(cls, project: codebuild.IProject) -> RetrainingJob:
        """Run a build of CodeBuild, and wait for its end.

        Parameters
        ----------
        project
            The project. Its role may read the registry. Grant it what ``cdk deploy`` needs.

        Raises
        ------
        PropError
            The project is imported, so that its role is not known.
        """
        return CodeBuildJob(project)

    @classmethod
    def code_pipeline(cls, pipeline: codepipeline.IPipeline) -> RetrainingJob:
        """Start a pipeline of CodePipeline, without waiting: it may ask persons for their approval.

        Parameters
        ----------
        pipeline
            A pipeline of the type V2, which declares the variables ``MODEL_NAME`` and ``MODEL_VERSION``.
        """
        return _CodePipelineJob(pipeline)


@dataclass(frozen=True)
class CodeBuildJob(RetrainingJob):
    """See `TrainingJob.code_build`."""

    project: codebuild.IProject

    def __post_init__(self) -> None:
        if self.project.role is None:
            raise PropError(
                f"project must have a role that gets the rights of the job, got the imported {self.project.node.path}; "
                "make the project in your app"
            )

    @property
    def grantee(self) -> iam.IGrantable:
        """The project, for its role."""
        return self.project

    def bind(self, scope: Construct, id: str, *, variables: Mapping[str, str], timeout: Duration) -> BoundJob:
        """Start the build, and wait for its end; if the execution is stopped, the build is too."""
        given = [{"Name": name, "Type": "PLAINTEXT", "Value": value} for name, value in variables.items()]
        arguments = {"ProjectName": self.project.project_name, "EnvironmentVariablesOverride": given}
        actions = ["codebuild:StartBuild", "codebuild:StopBuild", "codebuild:BatchGetBuilds"]
        allowed = iam.PolicyStatement(actions=actions, resources=[self.project.project_arn])
        return BoundJob(
            _task(scope, id, "codebuild:startBuild.sync", arguments, timeout),
            (allowed, _told(scope, "StepFunctionsGetEventForCodeBuildStartBuildRule")),
        )


@dataclass(frozen=True)
class _BatchJob(RetrainingJob):
    job_definition_arn: str
    job_queue_arn: str
    job_role: iam.IRole

    @property
    def grantee(self) -> iam.IGrantable:
        return self.job_role

    def bind(self, scope: Construct, id: str, *, variables: Mapping[str, str], timeout: Duration) -> BoundJob:
        arguments = {
            "JobName": "{% $run %}",
            "JobDefinition": self.job_definition_arn,
            "JobQueue": self.job_queue_arn,
            "ContainerOverrides": {"Environment": [{"Name": name, "Value": one} for name, one in variables.items()]},
        }
        jobs = Stack.of(scope).format_arn(service="batch", resource="job", resource_name="*")
        return BoundJob(
            _task(scope, id, "batch:submitJob.sync", arguments, timeout),
            (
                iam.PolicyStatement(
                    actions=["batch:SubmitJob"], resources=[self.job_definition_arn, self.job_queue_arn]
                ),
                iam.PolicyStatement(actions=["batch:TerminateJob"], resources=[jobs]),
                # The ids of jobs are not known before, and the action has no resources:
                # https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsbatch.html
                iam.PolicyStatement(actions=["batch:DescribeJobs"], resources=["*"]),
                _told(scope, "StepFunctionsGetEventsForBatchJobsRule"),
            ),
            (jobs,),
        )


@dataclass(frozen=True)
class _SageMakerJob(RetrainingJob):
    image: str
    role: iam.IRole
    instance_type: str
    instance_count: int
    volume_gb: int

    def __post_init__(self) -> None:
        check(
            self.instance_type.startswith("ml."), "instance_type", "a type such as 'ml.g5.xlarge'", self.instance_type
        )
        check_at_least(1, instance_count=self.instance_count, volume_gb=self.volume_gb)

    @property
    def grantee(self) -> iam.IGrantable:
        return self.role

    def bind(self, scope: Construct, id: str, *, variables: Mapping[str, str], timeout: Duration) -> BoundJob:
        # SageMaker uploads what is in /opt/ml/model with the rights of the job, which writes to its own folder alone.
        folder = layout.BUILDS if id == "Build" else layout.WEIGHTS
        arguments = {
            # The name is one for all time, and a run may be tried again.
            "TrainingJobName": f"{{% $run & '-{id.lower()}-' & $string($toMillis({_ENTERED})) %}}",
            "AlgorithmSpecification": {"TrainingImage": self.image, "TrainingInputMode": "File"},
            "RoleArn": self.role.role_arn,
            "OutputDataConfig": {
                "S3OutputPath": f"{{% 's3://{variables['RETRAINING_BUCKET']}/{folder}' & $run & '/output' %}}"
            },
            "ResourceConfig": {
                "InstanceType": self.instance_type,
                "InstanceCount": self.instance_count,
                "VolumeSizeInGB": self.volume_gb,
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": timeout.to_seconds()},
            "Environment": dict(variables),
        }
        jobs = Stack.of(scope).format_arn(service="sagemaker", resource="training-job", resource_name="*")
        actions = ["CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "ListTags", "AddTags"]
        return BoundJob(
            _task(scope, id, "sagemaker:createTrainingJob.sync", arguments, timeout),
            (
                iam.PolicyStatement(actions=[f"sagemaker:{action}" for action in actions], resources=[jobs]),
                iam.PolicyStatement(
                    actions=["iam:PassRole"],
                    resources=[self.role.role_arn],
                    conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
                ),
                _told(scope, "StepFunctionsGetEventsForSageMakerTrainingJobsRule"),
            ),
            (jobs,),
        )


@dataclass(frozen=True)
class _CodePipelineJob(RetrainingJob):
    waits: ClassVar[bool] = False

    pipeline: codepipeline.IPipeline

    @property
    def grantee(self) -> None:
        return None

    def bind(self, scope: Construct, id: str, *, variables: Mapping[str, str], timeout: Duration) -> BoundJob:  # noqa: ARG002 - it does not wait
        given = [{"Name": name, "Value": variables[name]} for name in ("MODEL_NAME", "MODEL_VERSION")]
        state = _state(
            scope,
            id,
            {
                "Resource": f"{_STEPS.format(Stack.of(scope).partition)}aws-sdk:codepipeline:startPipelineExecution",
                # One that is started again for the same run is the same one.
                "Arguments": {
                    "Name": self.pipeline.pipeline_name,
                    "Variables": given,
                    "ClientRequestToken": "{% $run %}",
                },
            },
        )
        allowed = iam.PolicyStatement(
            actions=["codepipeline:StartPipelineExecution"], resources=[self.pipeline.pipeline_arn]
        )
        return BoundJob(state, (allowed,))


def _task(
    scope: Construct, id: str, integration: str, arguments: Mapping[str, object], timeout: Duration
) -> sfn.CustomState:
    """Make a state that runs a job; CDK's own tasks would let the workflow use all jobs of the account."""
    resource = f"{_STEPS.format(Stack.of(scope).partition)}{integration}"
    return _state(
        scope, id, {"Resource": resource, "Arguments": arguments, "TimeoutSeconds": int(timeout.to_seconds())}
    )


def _state(scope: Construct, id: str, state: Mapping[str, object]) -> sfn.CustomState:
    return sfn.CustomState(scope, id, state_json={"Type": "Task", **state, "Output": {}})


def _told(scope: Construct, rule: str) -> iam.PolicyStatement:
    """Let Step Functions hear of a job's end, by a rule of EventBridge that it makes and manages itself.

    https://docs.aws.amazon.com/step-functions/latest/dg/service-integration-iam-templates.html
    """
    arn = Stack.of(scope).format_arn(
        service="events", resource="rule", resource_name=rule, arn_format=ArnFormat.SLASH_RESOURCE_NAME
    )
    return iam.PolicyStatement(actions=["events:PutTargets", "events:PutRule", "events:DescribeRule"], resources=[arn])
