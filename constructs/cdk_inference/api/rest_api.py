"""A REST API in front of a pipeline, with API keys, usage plans and a web ACL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_inference.api.backends import JSON, ApiBackend
from cdk_inference.api.content_types import check_content_types
from cdk_inference.api.cors import ORIGIN_VARIABLE, checked_cors, let_pages_read_errors
from cdk_inference.api.openapi import API_KEY, SIGV4, UNKNOWN, add_items, add_results, add_uploads, document
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata, metrics_name
from cdk_inference.common.props.descriptions import described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_at_least
from cdk_inference.errors import PropError
from cdk_inference.storage.defaults import API_LOGS, log_group
from cdk_inference.triggers.base import IS3Trigger
from cdk_inference.triggers.queue import QueueTrigger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import RemovalPolicy, Size
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_kms as kms

    from cdk_inference.stages.base import FunctionOptions, StageFunction
    from cdk_inference.storage.results import IResultsTable
    from cdk_inference.triggers.base import ITrigger

PATH = "/predict"
ITEMS = "/items"
RESULTS = "/results/{id}"
UPLOADS = "/uploads"
_STAGE = "prod"
_LONGEST = 1024  # characters of a description
_LOGGED = {
    "requestId": "$context.requestId",
    "time": "$context.requestTime",
    "ip": "$context.identity.sourceIp",
    "apiKeyId": "$context.identity.apiKeyId",
    "route": "$context.httpMethod $context.resourcePath",
    "status": "$context.status",
    "responseLength": "$context.responseLength",
    "responseLatency": "$context.responseLatency",
    "integrationLatency": "$context.integrationLatency",
    "integrationStatus": "$context.integration.status",
    "wafStatus": "$context.waf.status",
}


@check_props
class InferenceRestApi(Construct):
    """A REST API whose callers wait for the prediction: ``POST /predict`` with the bytes of one item.

    API Gateway starts an express workflow with the stages of a pipeline. With `Execution.fused`, it invokes the
    function of the pipeline. The answers are those of `InferenceHttpApi`.

    Parameters
    ----------
    backend
        The part that answers: that of a pipeline, see `OperatedPipeline.add_rest_api`.
    trigger
        The trigger whose queue gets what callers do not wait for, see `add_items`. Default: none.
    results
        The table where results are, see `add_results`. Default: none.
    content_types
        The media types that requests may have. Default: ``application/json``.
    request_schema
        The JSON Schema of bodies of JSON, for `openapi`. API Gateway validates with it if JSON is all that requests
        may have and a workflow answers. Default: none.
    authorizer
        The authorizer that lets callers in, such as a ``RequestAuthorizer`` of ``aws_apigateway``. Default: callers are
        principals of IAM that may, see `grant_invoke`.
    authorization_scopes
        The scopes of which a token of a Cognito authorizer must have one. Default: none.
    api_key_required
        Whether requests must have an API key too, see `add_client`. Default: False.
    anonymous
        Whether callers need no other proof than an API key. AWS advises against keys as the only one. Default: False.
    cors_preflight
        The web pages that may call, of one origin or of any. Default: none. By default, they may send the headers that
        AWS needs and ``Idempotency-Key``. They may read ``Retry-After``, ``x-amzn-ErrorType`` and ``x-amzn-RequestId``.
    throttle_rate
        Requests a second that the API takes, on average. Default: 100.
    throttle_burst
        Requests that it takes at once. Default: 200.
    web_acl_arn
        The web ACL of AWS WAF that looks at requests first. Default: none.
    cloud_watch_role
        Whether to create the role with which API Gateway writes access logs, which an account has once in a Region.
        Default: False: the account has it.
    functions
        Common props of functions, for that of `add_uploads`. Default: none.
    encryption_key
        Customer managed key of the logs and of the workflow. Default: AWS encrypts with its own.
    log_retention
        Default: one month.
    log_removal_policy
        Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    api, log_group
        The parts: the API with its stage, and the access log.
    url
        Where to send requests.
    openapi
        The API as a document of OpenAPI 3.1.

    Raises
    ------
    PropError
        A content type is not a media type, or a number is out of range. Or callers would need no proof at all, or two.
        Or several origins may call, or `cors_preflight` names headers that pages may read.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        backend: ApiBackend,
        trigger: ITrigger | None = None,
        results: IResultsTable | None = None,
        content_types: Sequence[str] = (JSON,),
        request_schema: Mapping[str, object] | None = None,
        authorizer: apigateway.IAuthorizer | None = None,
        authorization_scopes: Sequence[str] = (),
        api_key_required: bool = False,
        anonymous: bool = False,
        cors_preflight: apigateway.CorsOptions | None = None,
        throttle_rate: int = 100,
        throttle_burst: int = 200,
        web_acl_arn: str | None = None,
        cloud_watch_role: bool = False,
        functions: FunctionOptions | None = None,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        check_at_least(1, throttle_rate=throttle_rate, throttle_burst=throttle_burst)
        check_content_types(content_types)
        if not content_types:
            raise PropError("content_types must name a media type, got none; leave it out for 'application/json'")
        _check_proof(authorizer, authorization_scopes, api_key_required=api_key_required, anonymous=anonymous)
        cors = None if cors_preflight is None else checked_cors(cors_preflight)
        self._origin = None if cors is None else cors.allow_origins[0]
        self.log_group = log_group(
            self, key=encryption_key, retention=log_retention, removal_policy=log_removal_policy, folder=API_LOGS
        )
        self.api = apigateway.RestApi(
            self,
            "Api",
            description=described(f"answers with predictions of {scope.node.path}", _LONGEST),
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            binary_media_types=backend.binary_types(content_types) or None,
            cloud_watch_role=cloud_watch_role,
            default_cors_preflight_options=cors,
            deploy_options=apigateway.StageOptions(
                stage_name=_STAGE,
                throttling_rate_limit=throttle_rate,
                throttling_burst_limit=throttle_burst,
                metrics_enabled=True,
                tracing_enabled=True,
                access_log_destination=apigateway.LogGroupLogDestination(self.log_group),
                access_log_format=apigateway.AccessLogFormat.custom(json.dumps(_LOGGED)),
            ),
        )
        if self._origin is not None:
            let_pages_read_errors(self.api, self._origin)
        iam_or_none = apigateway.AuthorizationType.NONE if anonymous else apigateway.AuthorizationType.IAM
        self._trigger, self._results, self._content_types = trigger, results, content_types
        self._proof: dict[str, Any] = {
            "authorizer": authorizer,
            "authorization_type": iam_or_none if authorizer is None else None,
            "authorization_scopes": list(authorization_scopes) or None,
            "api_key_required": api_key_required,
        }
        self._functions: FunctionOptions = {
            **(functions or {}),
            "reserved_concurrent_executions": None,
            "encryption_key": encryption_key,
            "log_retention": log_retention,
            "log_removal_policy": log_removal_policy,
        }
        self._workflows: dict[str, Any] = {
            "encryption_key": encryption_key,
            "log_retention": log_retention,
            "log_removal_policy": log_removal_policy,
        }
        self._add_method(
            "POST",
            PATH,
            backend.bind(self, content_types=content_types, origin=self._origin, **self._workflows),
            **backend.method_options(self.api, content_types, request_schema, self._origin),
        )
        acknowledgments.explain(
            self.api.deployment_stage,
            "api-without-execution-logs",
            "api-without-cache",
            "api-without-client-certificate",
            *(["api-without-web-acl"] if web_acl_arn is None else []),
        )
        if web_acl_arn is not None:
            from aws_cdk import aws_wafv2 as wafv2  # noqa: PLC0415 - only for those who ask

            wafv2.CfnWebACLAssociation(
                self, "Firewall", resource_arn=self.api.deployment_stage.stage_arn, web_acl_arn=web_acl_arn
            )
        add_metadata(
            self.api,
            "rest-api",
            path=PATH,
            api_stage=_STAGE,
            content_types=list(content_types),
            signed=authorizer is None and not anonymous,
            api_key=api_key_required,
        )
        self.url = self.api.url_for_path(PATH)
        self.openapi = document(
            metrics_name(self),
            content_types=content_types,
            schema=request_schema,
            security={"key": API_KEY} if anonymous else {"caller": SIGV4 if authorizer is None else UNKNOWN},
            stage=f"/{_STAGE}",
        )

    def grant_invoke(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee ask for predictions, if the API's callers are principals of IAM."""
        return self._grant(grantee, "POST", PATH)

    def add_items(self) -> None:
        """Add ``POST /items``: the body becomes a message of the pipeline's queue, whose id is the answer.

        No function and no workflow stands in between. The status is 202: the item is scored with the next batch.

        Raises
        ------
        PropError
            The trigger is not a `QueueTrigger`, or a media type is not text, which a queue does not take.
        """
        from cdk_inference.api.backends import method_responses, send_messages  # noqa: PLC0415 - see `add_results`
        from cdk_inference.api.templates import SENT, is_text  # noqa: PLC0415

        if not isinstance(self._trigger, QueueTrigger):
            raise PropError(
                f"trigger of {self.node.path} must be a QueueTrigger for POST {ITEMS}, got "
                f"{type(self._trigger).__name__}; put objects into its bucket"
            )
        binary = [one for one in self._content_types if not is_text(one)]
        if binary:
            raise PropError(
                f"content_types must be texts for POST {ITEMS}, got '{binary[0]}'; put such items into a bucket"
            )
        self._add_method(
            "POST",
            ITEMS,
            send_messages(Construct(self, "Items"), self._trigger, self._content_types, origin=self._origin),
            method_responses=method_responses(SENT, self._origin),
        )
        add_items(self.openapi)

    def add_uploads(self, content_types: Mapping[str, str], *, max_object_size: Size | None = None) -> StageFunction:
        """Add ``POST /uploads``: whoever says a size and a type gets a URL of S3, to which to send such an object.

        A small function signs the URL, which is valid for 15 minutes, for one object of this size and type. The object
        lands in the bucket of the pipeline's trigger, and starts it as any other.

        Parameters
        ----------
        content_types
            The ends of keys by the media types that objects may have, such as ``{"image/jpeg": ".jpg"}``.
        max_object_size
            The largest object. Default: 64 MiB.

        Raises
        ------
        PropError
            The trigger has no bucket, or a media type or an end of keys is none.
        """
        from cdk_inference.api.uploads import upload_function  # noqa: PLC0415 - only for those who ask

        inbox = self._trigger if self._trigger is None or self._trigger.objects is None else self._trigger.objects
        if not isinstance(inbox, IS3Trigger):
            raise PropError(
                f"trigger of {self.node.path} must have a bucket for POST {UPLOADS}, got "
                f"{type(self._trigger).__name__}; use add_items()"
            )
        check_content_types(list(content_types))
        origin = {} if self._origin is None else {ORIGIN_VARIABLE: self._origin}
        function = upload_function(
            Construct(self, "Uploads"),
            trigger=inbox,
            content_types=content_types,
            max_object_size=max_object_size,
            variables=origin,
            functions=self._functions,
        )
        self._add_method(
            "POST", UPLOADS, apigateway.LambdaIntegration(cast("Any", function.target), allow_test_invoke=False)
        )
        add_uploads(self.openapi, list(content_types))
        return function

    def grant_upload(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee ask for URLs, see `add_uploads`."""
        return self._grant(grantee, "POST", UPLOADS)

    def add_results(self) -> None:
        """Add ``GET /results/{id}``: the newest row of a message, an upload, or a request with this idempotency key.

        A workflow asks the table, without a function.

        Raises
        ------
        PropError
            The API has neither a trigger nor a table of results.
        """
        from cdk_inference.api.backends import method_responses, start_workflow  # noqa: PLC0415 - only for who asks
        from cdk_inference.api.results_workflow import ResultsWorkflow  # noqa: PLC0415
        from cdk_inference.api.templates import RESPONSES, look_up_template  # noqa: PLC0415

        if self._trigger is None or self._results is None:
            raise PropError(
                f"{self.node.path} must have a trigger and results for GET {RESULTS}, got none; use add_rest_api() of "
                "a pipeline"
            )
        scope = Construct(self, "Results")
        workflow = ResultsWorkflow(
            scope,
            "Workflow",
            results=self._results,
            beginning=f"{self._trigger.source}/{self._trigger.prefix}",
            **self._workflows,
        )
        template = look_up_template(workflow.state_machine.state_machine_arn)
        self._add_method(
            "GET",
            RESULTS,
            start_workflow(scope, workflow, {JSON: template}, origin=self._origin),
            method_responses=method_responses(RESPONSES, self._origin),
        )
        add_results(self.openapi)

    def grant_send_items(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee send items, see `add_items`."""
        return self._grant(grantee, "POST", ITEMS)

    def grant_read_results(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee read the result of each item whose id it knows, see `add_results`."""
        return self._grant(grantee, "GET", "/results/*")

    def _add_method(self, method: str, path: str, integration: apigateway.Integration, **options: Any) -> None:
        made = self.api.root.resource_for_path(path).add_method(method, integration, **self._proof, **options)
        if self._proof["authorizer"] is None:
            acknowledgments.explain(made, "api-without-user-pool")

    def _grant(self, grantee: iam.IGrantable, method: str, path: str) -> iam.Grant:
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["execute-api:Invoke"],
            resource_arns=[self.api.arn_for_execute_api(method, path, _STAGE)],
        )

    def add_client(
        self, id: str, *, throttle_rate: int, throttle_burst: int, requests_per_day: int | None = None
    ) -> apigateway.IApiKey:
        """Create an API key with a usage plan, which bounds what its holder may ask for.

        Parameters
        ----------
        id
            The id of the key.
        throttle_rate
            Requests a second, on average.
        throttle_burst
            Requests at once.
        requests_per_day
            Requests in a day. Default: no limit.
        """
        check_at_least(1, throttle_rate=throttle_rate, throttle_burst=throttle_burst)
        if requests_per_day is not None:
            check_at_least(1, requests_per_day=requests_per_day)
        key = apigateway.ApiKey(self, id)
        plan = apigateway.UsagePlan(
            self,
            f"{id}Plan",
            throttle=apigateway.ThrottleSettings(rate_limit=throttle_rate, burst_limit=throttle_burst),
            quota=None
            if requests_per_day is None
            else apigateway.QuotaSettings(limit=requests_per_day, period=apigateway.Period.DAY),
            api_stages=[apigateway.UsagePlanPerApiStage(api=self.api, stage=self.api.deployment_stage)],
        )
        plan.add_api_key(key)
        return key

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


def _check_proof(
    authorizer: apigateway.IAuthorizer | None, scopes: Sequence[str], *, api_key_required: bool, anonymous: bool
) -> None:
    if scopes and authorizer is None:
        raise PropError(
            f"authorization_scopes must go with an authorizer, got {list(scopes)} alone; pass "
            "authorizer=CognitoUserPoolsAuthorizer(…)"
        )
    if anonymous and authorizer is not None:
        raise PropError("anonymous must be left out with an authorizer, got True; remove one of them")
    if anonymous and not api_key_required:
        raise PropError(
            "api_key_required must be True for anonymous callers, got False; anyone could call as often as they like"
        )
