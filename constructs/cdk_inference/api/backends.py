"""What stands behind a REST API: the function of a fused pipeline, or a workflow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, cast

from aws_cdk import Duration
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam

from cdk_inference.api.answer_workflow import AnswerWorkflow
from cdk_inference.api.templates import RESPONSES, is_text, request_template
from cdk_inference.common import acknowledgments
from cdk_inference.common.props.descriptions import ROLE, described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_logs as logs
    from constructs import Construct

    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.fused import FusedFunction
    from cdk_inference.stages.interfaces import IStage

TIMEOUT = Duration.seconds(29)

JSON = "application/json"


class ApiBackend(ABC):
    """What answers the requests of a REST API."""

    @abstractmethod
    def binary_types(self, content_types: Sequence[str]) -> list[str]:
        """Return the media types that API Gateway must hand on as bytes."""

    @abstractmethod
    def bind(
        self,
        scope: Construct,
        *,
        content_types: Sequence[str],
        encryption_key: kms.IKey | None,
        log_retention: logs.RetentionDays,
        log_removal_policy: RemovalPolicy | None,
    ) -> apigateway.Integration:
        """Create what is missing, and return the integration of ``POST /predict``."""

    def method_options(self, api: apigateway.RestApi, content_types: Sequence[str]) -> dict[str, Any]:  # noqa: ARG002
        """Return what the method says about requests and responses."""
        return {}


class FunctionBackend(ApiBackend):
    """The function of a fused pipeline, which reads requests itself."""

    def __init__(self, function: FusedFunction) -> None:
        self._function = function

    def binary_types(self, content_types: Sequence[str]) -> list[str]:  # noqa: ARG002 - see `ApiBackend`
        """Return all: the function gets bytes in base64, whatever they are."""
        return ["*/*"]

    def bind(
        self,
        scope: Construct,  # noqa: ARG002 - there is nothing to create
        *,
        content_types: Sequence[str],
        **options: object,  # noqa: ARG002
    ) -> apigateway.Integration:
        """Return the integration of the function."""
        self._function.take_requests(content_types)
        return apigateway.LambdaIntegration(
            cast("Any", self._function.target), timeout=TIMEOUT, allow_test_invoke=False
        )


class WorkflowBackend(ApiBackend):
    """A workflow of separate stages.

    Parameters
    ----------
    preprocess, inference, postprocess, route
        As those of `AnswerWorkflow`.
    """

    def __init__(
        self, *, preprocess: StageFunction, inference: IStage, postprocess: StageFunction, route: str | None
    ) -> None:
        self._stages: dict[str, Any] = {"preprocess": preprocess, "inference": inference, "postprocess": postprocess}
        self._route = route
        self.workflow: AnswerWorkflow | None = None

    def binary_types(self, content_types: Sequence[str]) -> list[str]:
        """Return those that are not text, which the request's template encodes."""
        return [one for one in content_types if not is_text(one)]

    def bind(self, scope: Construct, *, content_types: Sequence[str], **options: Any) -> apigateway.Integration:
        """Create the workflow and the role that may start it, and return the integration."""
        self.workflow = workflow = AnswerWorkflow(scope, "Workflow", route=self._route, **self._stages, **options)
        role = iam.Role(
            scope,
            "Role",
            assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"),
            description=described(f"starts the workflow of {scope.node.path}", ROLE),
        )
        workflow.grant_start_sync_execution(role)
        acknowledgments.policy_of(role)
        arn = workflow.state_machine.state_machine_arn
        text = apigateway.ContentHandling.CONVERT_TO_TEXT
        return apigateway.AwsIntegration(
            service="states",
            action="StartSyncExecution",
            options=apigateway.IntegrationOptions(
                credentials_role=role,
                content_handling=text,
                passthrough_behavior=apigateway.PassthroughBehavior.NEVER,
                request_templates={one: request_template(arn, text=is_text(one)) for one in content_types},
                integration_responses=[
                    apigateway.IntegrationResponse(
                        status_code=status,
                        selection_pattern=pattern,
                        content_handling=text,
                        response_templates={JSON: template},
                    )
                    for status, pattern, template in RESPONSES
                ],
                timeout=TIMEOUT,
            ),
        )

    def method_options(self, api: apigateway.RestApi, content_types: Sequence[str]) -> dict[str, Any]:
        """Have API Gateway refuse what is not the JSON that its type says."""
        responses = [apigateway.MethodResponse(status_code=status) for status, _, _ in RESPONSES]
        if list(content_types) != [JSON]:  # a validator may take all types for JSON
            return {"method_responses": responses}
        anything = api.add_model("Json", schema=apigateway.JsonSchema(schema=apigateway.JsonSchemaVersion.DRAFT4))
        return {
            "method_responses": responses,
            "request_models": {JSON: anything},
            "request_validator": api.add_request_validator("Body", validate_request_body=True),
        }
