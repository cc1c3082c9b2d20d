"""An HTTP API in front of a function that runs all stages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from aws_cdk import Duration, Names
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_inference.api.content_types import check_content_types
from cdk_inference.api.openapi import BEARER, SIGV4, UNKNOWN, document
from cdk_inference.common.metadata import add_metadata, metrics_name
from cdk_inference.common.props.descriptions import described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_at_least
from cdk_inference.errors import PropError
from cdk_inference.storage.defaults import API_LOGS, log_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_kms as kms

    from cdk_inference.stages.fused import FusedFunction

PATH = "/predict"

TIMEOUT = Duration.seconds(29)
"""How long API Gateway waits for the function, which answers within 28 seconds."""

_STAGE = "$default"
_LONGEST = 1024  # characters of a description
_LOGGED = {
    "requestId": "$context.requestId",
    "time": "$context.requestTime",
    "ip": "$context.identity.sourceIp",
    "route": "$context.routeKey",
    "status": "$context.status",
    "responseLength": "$context.responseLength",
    "responseLatency": "$context.responseLatency",
    "integrationLatency": "$context.integrationLatency",
    "integrationError": "$context.integrationErrorMessage",
    "error": "$context.error.message",
    "authorizerError": "$context.authorizer.error",
}


@check_props
class InferenceHttpApi(Construct):
    """An HTTP API whose callers wait for the prediction: ``POST /predict`` with the bytes of one item.

    API Gateway invokes the function that scores the batches of a pipeline, without another function in between. The
    answer is ``{"prediction", "model_version", "inference"}``, or ``{"message"}`` with a status that says whose fault
    it is. A request has no row, unless it has the header ``Idempotency-Key``, which is the row's key.

    Parameters
    ----------
    function
        The function of a pipeline with `Execution.fused`.
    authorizer
        The authorizer that lets callers in, such as ``HttpJwtAuthorizer`` of ``aws_apigatewayv2_authorizers``.
        Default: callers are principals of IAM that may, see `grant_invoke`.
    authorization_scopes
        The scopes of which a token of a JWT authorizer must have one. Default: none.
    content_types
        The media types that requests may have, such as ``["application/json"]``. Default: any.
    request_schema
        The JSON Schema of bodies of JSON, for `openapi`; an HTTP API does not validate. Default: none.
    cors_preflight
        The web pages that may call. Default: none.
    throttle_rate
        Requests a second that the API takes, on average. Default: 100.
    throttle_burst
        Requests that it takes at once. Default: 200.
    encryption_key
        Customer managed key of the access log. Default: CloudWatch Logs encrypts with its own.
    log_retention
        Default: one month.
    log_removal_policy
        Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    api, stage, log_group
        The parts: the API, its one stage, and the access log.
    url
        Where to send requests.
    openapi
        The API as a document of OpenAPI 3.1.

    Raises
    ------
    PropError
        A content type is none, or a number is out of range. Or scopes are given without an authorizer.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        function: FusedFunction,
        authorizer: apigatewayv2.IHttpRouteAuthorizer | None = None,
        authorization_scopes: Sequence[str] = (),
        content_types: Sequence[str] = (),
        request_schema: Mapping[str, object] | None = None,
        cors_preflight: apigatewayv2.CorsPreflightOptions | None = None,
        throttle_rate: int = 100,
        throttle_burst: int = 200,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        check_at_least(1, throttle_rate=throttle_rate, throttle_burst=throttle_burst)
        if authorization_scopes and authorizer is None:
            raise PropError(
                f"authorization_scopes must go with an authorizer, got {list(authorization_scopes)} alone; pass "
                "authorizer=HttpJwtAuthorizer(…)"
            )
        check_content_types(content_types)
        function.take_requests(content_types)
        self.api = apigatewayv2.HttpApi(
            self,
            "Api",
            api_name=Names.unique_resource_name(self, max_length=128),
            description=described(f"answers with predictions of {function.node.path}", _LONGEST),
            create_default_stage=False,
            cors_preflight=cors_preflight,
        )
        self.api.add_routes(
            path=PATH,
            methods=[apigatewayv2.HttpMethod.POST],
            authorizer=authorizer if authorizer is not None else authorizers.HttpIamAuthorizer(),
            authorization_scopes=list(authorization_scopes) or None,
            integration=integrations.HttpLambdaIntegration("Predict", cast("Any", function.target), timeout=TIMEOUT),
        )
        self.log_group = log_group(
            self, key=encryption_key, retention=log_retention, removal_policy=log_removal_policy, folder=API_LOGS
        )
        self.stage = apigatewayv2.HttpStage(
            self,
            "Stage",
            http_api=self.api,
            stage_name=_STAGE,
            auto_deploy=True,
            detailed_metrics_enabled=True,
            throttle=apigatewayv2.ThrottleSettings(rate_limit=throttle_rate, burst_limit=throttle_burst),
        )
        stage = cast("apigatewayv2.CfnStage", self.stage.node.default_child)
        stage.access_log_settings = apigatewayv2.CfnStage.AccessLogSettingsProperty(
            destination_arn=self.log_group.log_group_arn, format=json.dumps(_LOGGED)
        )
        add_metadata(
            self.api,
            "http-api",
            path=PATH,
            api_stage=_STAGE,
            content_types=list(content_types),
            signed=authorizer is None,
        )
        self.url = f"{self.api.api_endpoint}{PATH}"
        self.openapi = document(
            metrics_name(function),
            content_types=content_types,
            schema=request_schema,
            security={"caller": _security(authorizer)},
            stage="",
        )

    def grant_invoke(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee ask for predictions, if the API's callers are principals of IAM."""
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["execute-api:Invoke"],
            resource_arns=[self.api.arn_for_execute_api("POST", PATH, _STAGE)],
        )

    def metric_requests(self, **options: Any) -> cloudwatch.Metric:
        """Count the requests, as a sum over 5 minutes."""
        return self.api.metric_count(**options)

    def metric_client_errors(self, **options: Any) -> cloudwatch.Metric:
        """Count the responses with a status of 400 to 499, as a sum over 5 minutes."""
        return self.api.metric_client_error(**options)

    def metric_server_errors(self, **options: Any) -> cloudwatch.Metric:
        """Count the responses with a status of 500 and above, as a sum over 5 minutes."""
        return self.api.metric_server_error(**options)

    def metric_latency(self, **options: Any) -> cloudwatch.Metric:
        """Measure the milliseconds from a request to its response, the average over 5 minutes."""
        return self.api.metric_latency(**options)


def _security(authorizer: apigatewayv2.IHttpRouteAuthorizer | None) -> dict[str, Any]:
    if authorizer is None or isinstance(authorizer, authorizers.HttpIamAuthorizer):
        return SIGV4
    tokens = (authorizers.HttpJwtAuthorizer, authorizers.HttpUserPoolAuthorizer)
    return BEARER if isinstance(authorizer, tokens) else UNKNOWN
