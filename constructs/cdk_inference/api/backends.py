"""The parts behind a REST API: the function of a fused pipeline, workflows, or a queue."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, cast

from aws_cdk import Duration, Stack
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam

from cdk_inference.api.answer_workflow import AnswerWorkflow
from cdk_inference.api.cors import ORIGIN_VARIABLE, declared_headers, response_headers
from cdk_inference.api.templates import RESPONSES, SEND_MESSAGE, SENT, is_text, request_template
from cdk_inference.common import acknowledgments
from cdk_inference.common.props.descriptions import ROLE, described

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_logs as logs
    from constructs import Construct

    from cdk_inference.api.results_workflow import ResultsWorkflow
    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.fused import FusedFunction
    from cdk_inference.stages.interfaces import IStage
    from cdk_inference.triggers.queue import QueueTrigger

TIMEOUT = Duration.seconds(29)

JSON = "application/json"


class ApiBackend(ABC):
    """A part that answers the requests of a REST API."""

    @abstractmethod
    def binary_types(self, content_types: Sequence[str]) -> list[str]:
        """Return the media types that API Gateway must hand on as bytes."""

    @abstractmethod
    def bind(
        self,
        scope: Construct,
        *,
        content_types: Sequence[str],
        origin: str | None,
        encryption_key: kms.IKey | None,
        log_retention: logs.RetentionDays,
        log_removal_policy: RemovalPolicy | None,
    ) -> apigateway.Integration:
        """Create what is missing, and return the integration of ``POST /predict``.

        Web pages of `origin` may read the answers.
        """

    def method_options(
        self,
        api: apigateway.RestApi,  # noqa: ARG002
        content_types: Sequence[str],  # noqa: ARG002
        schema: Mapping[str, Any] | None,  # noqa: ARG002
        origin: str | None,  # noqa: ARG002
    ) -> dict[str, Any]:
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
        origin: str | None,
        **options: object,  # noqa: ARG002
    ) -> apigateway.Integration:
        """Return the integration of the function."""
        self._function.take_requests(content_types)
        if origin is not None:
            self._function.add_variables({ORIGIN_VARIABLE: origin})
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

    def bind(
        self, scope: Construct, *, content_types: Sequence[str], origin: str | None, **options: Any
    ) -> apigateway.Integration:
        """Create the workflow, and return the integration that starts it."""
        self.workflow = workflow = AnswerWorkflow(scope, "Workflow", route=self._route, **self._stages, **options)
        arn = workflow.state_machine.state_machine_arn
        templates = {one: request_template(arn, text=is_text(one)) for one in content_types}
        return start_workflow(scope, workflow, templates, origin=origin)

    def method_options(
        self,
        api: apigateway.RestApi,
        content_types: Sequence[str],
        schema: Mapping[str, Any] | None,
        origin: str | None,
    ) -> dict[str, Any]:
        """Have API Gateway refuse what is not the JSON that its type says."""
        responses = method_responses(RESPONSES, origin)
        if list(content_types) != [JSON]:  # a validator may take all types for JSON
            return {"method_responses": responses}
        model = api.add_model("Json", schema=apigateway.JsonSchema(schema=apigateway.JsonSchemaVersion.DRAFT4))
        if schema is not None:  # as it is: CDK's own class does not have all that a schema may
            cast("apigateway.CfnModel", model.node.default_child).schema = dict(schema)
            cast("apigateway.Deployment", api.latest_deployment).add_to_logical_id({"schema": dict(schema)})
        return {
            "method_responses": responses,
            "request_models": {JSON: model},
            "request_validator": api.add_request_validator(
                "Body", validate_request_body=True, validate_request_parameters=True
            ),
        }


def start_workflow(
    scope: Construct, workflow: AnswerWorkflow | ResultsWorkflow, templates: Mapping[str, str], *, origin: str | None
) -> apigateway.Integration:
    """Return the integration that starts a workflow and has its output for the response.

    Parameters
    ----------
    scope
        The scope of the role that may start it.
    workflow
        The workflow.
    templates
        Those of requests, by media type.
    origin
        The origin of the web pages that may read the answers; None for none.
    """
    role = api_role(scope, f"starts {workflow.node.path}")
    workflow.grant_start_sync_execution(role)
    acknowledgments.policy_of(role)
    text = apigateway.ContentHandling.CONVERT_TO_TEXT
    return apigateway.AwsIntegration(
        service="states",
        action="StartSyncExecution",
        options=apigateway.IntegrationOptions(
            credentials_role=role,
            content_handling=text,
            passthrough_behavior=apigateway.PassthroughBehavior.NEVER,
            request_templates=templates,
            integration_responses=integration_responses(RESPONSES, origin),
            timeout=TIMEOUT,
        ),
    )


def send_messages(
    scope: Construct, trigger: QueueTrigger, content_types: Sequence[str], *, origin: str | None
) -> apigateway.Integration:
    """Return the integration that sends a request to the queue of a trigger."""
    role = api_role(scope, f"sends messages to {trigger.queue.node.path}")
    trigger.grant_put(role)
    acknowledgments.policy_of(role)
    return apigateway.AwsIntegration(
        service="sqs",
        path=f"{Stack.of(scope).account}/{trigger.queue.queue_name}",
        options=apigateway.IntegrationOptions(
            credentials_role=role,
            passthrough_behavior=apigateway.PassthroughBehavior.NEVER,
            request_parameters={"integration.request.header.Content-Type": "'application/x-www-form-urlencoded'"},
            request_templates=dict.fromkeys(content_types, SEND_MESSAGE),
            integration_responses=integration_responses(SENT, origin),
            timeout=TIMEOUT,
        ),
    )


def api_role(scope: Construct, does: str) -> iam.Role:
    """Create a role for API Gateway that may do nothing yet."""
    return iam.Role(
        scope,
        "Role",
        assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"),
        description=described(does, ROLE),
    )


def integration_responses(
    responses: Sequence[tuple[str, str | None, str]], origin: str | None
) -> list[apigateway.IntegrationResponse]:
    """Return what becomes of the answers of a service, and that pages of an origin may read it."""
    return [
        apigateway.IntegrationResponse(
            status_code=status,
            selection_pattern=pattern,
            content_handling=apigateway.ContentHandling.CONVERT_TO_TEXT,
            response_templates={JSON: template},
            response_parameters=response_headers(origin),
        )
        for status, pattern, template in responses
    ]


def method_responses(
    responses: Sequence[tuple[str, str | None, str]], origin: str | None
) -> list[apigateway.MethodResponse]:
    """Return the statuses that a method may have."""
    return [
        apigateway.MethodResponse(status_code=status, response_parameters=declared_headers(origin))
        for status, _, _ in responses
    ]
