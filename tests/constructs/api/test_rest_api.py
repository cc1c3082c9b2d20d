"""The REST API of a pipeline: what it creates, who may do what, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from tests.constructs.conftest import RECIPE, resources, states_of

from cdk_inference import (
    Execution,
    Inference,
    InferencePipeline,
    InferenceRestApi,
    ModelArtifact,
    Preprocess,
    PropError,
    QueueTrigger,
)
from cdk_inference.api.cors import EXPOSED
from cdk_inference.api.templates import is_text
from cdk_inference.model import Float16
from inference_runtime.http import cors


def only(stack: cdk.Stack, kind: str) -> dict[str, Any]:
    (found,) = resources(stack, f"AWS::ApiGateway::{kind}").values()
    return found["Properties"]


def named(stack: cdk.Stack, kind: str, part: str) -> dict[str, Any]:
    (found,) = [one for name, one in resources(stack, kind).items() if part in name]
    return found["Properties"]


def test_a_workflow_answers_and_no_function_stands_in_between(stack, pipeline):
    api = pipeline().add_rest_api()
    assert len(resources(stack, "AWS::Lambda::Function")) == 3
    method = only(stack, "Method")
    assert (method["HttpMethod"], method["AuthorizationType"]) == ("POST", "AWS_IAM")
    integration = method["Integration"]
    assert json.dumps(integration["Uri"]).endswith(':states:action/StartSyncExecution"]]}')
    assert (integration["PassthroughBehavior"], integration["TimeoutInMillis"]) == ("NEVER", 29_000)
    assert integration["RequestTemplates"].keys() == {"application/json"}
    assert api.openapi["servers"][0]["url"].endswith("/prod")


def test_the_states_are_those_of_one_request(stack, pipeline):
    pipeline().add_rest_api()
    machine = named(stack, "AWS::StepFunctions::StateMachine", "RestApi")
    definition = machine["DefinitionString"]["Fn::Join"][1]
    text = "".join(part if isinstance(part, str) else "arn" for part in definition)
    states = states_of(json.loads(text))
    assert json.loads(text)["TimeoutSeconds"] == 28
    assert [name for name, one in states.items() if one["Type"] == "Task"] == ["Preprocess", "Infer", "Postprocess"]
    for task in ("Preprocess", "Infer", "Postprocess"):
        busy, broken = states[task]["Catch"]
        assert (busy["Next"], broken["Next"], broken["ErrorEquals"]) == ("Busy", "Broken", ["States.ALL"])
    assert machine["StateMachineType"] == "EXPRESS"
    assert "EncryptionConfiguration" in machine


def test_the_api_may_start_this_workflow_and_nothing_else(stack, pipeline):
    pipeline().add_rest_api()
    role = named(stack, "AWS::IAM::Policy", "RestApiRoleDefaultPolicy")
    key, start = role["PolicyDocument"]["Statement"]
    assert key["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert list(key["Condition"]["StringEquals"]) == ["kms:EncryptionContext:aws:states:stateMachineArn"]
    assert start["Action"] == "states:StartSyncExecution"
    assert "RestApiWorkflow" in json.dumps(start["Resource"])


def test_bodies_that_are_no_text_are_handed_on_as_bytes(stack, pipeline):
    pipeline().add_rest_api(content_types=["application/json", "image/jpeg"])
    assert only(stack, "RestApi")["BinaryMediaTypes"] == ["image/jpeg"]
    templates = {
        name: json.dumps(one) for name, one in only(stack, "Method")["Integration"]["RequestTemplates"].items()
    }
    assert "$util.base64Encode($input.body)" in templates["application/json"]
    assert "$util.base64Encode($input.body)" not in templates["image/jpeg"]
    assert not resources(stack, "AWS::ApiGateway::RequestValidator")


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("application/json", True),
        ("application/geo+json", True),
        ("text/csv", True),
        ("application/octet-stream", False),
        ("image/svg+xml", True),
        ("image/png", False),
    ],
)
def test_which_media_types_are_text(content_type: str, *, text: bool):
    assert is_text(content_type) is text


def test_json_is_validated_where_nothing_else_is_taken(stack, pipeline):
    pipeline().add_rest_api()
    assert only(stack, "RequestValidator")["ValidateRequestBody"] is True
    assert only(stack, "Method")["RequestModels"].keys() == {"application/json"}


def test_a_schema_is_for_callers_and_for_validation(stack, pipeline):
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "number"}}}
    api = pipeline().add_rest_api(request_schema=schema)
    assert only(stack, "Model")["Schema"] == schema
    body = api.openapi["paths"]["/predict"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == schema


def test_a_fused_pipeline_answers_with_its_function(stack, pipeline):
    fused = pipeline(execution=Execution.fused())
    fused.add_rest_api(content_types=["image/jpeg"])
    integration = only(stack, "Method")["Integration"]
    assert integration["Type"] == "AWS_PROXY"
    assert only(stack, "RestApi")["BinaryMediaTypes"] == ["*/*"]
    assert len(resources(stack, "AWS::StepFunctions::StateMachine")) == 1
    variables = named(stack, "AWS::Lambda::Function", "Score")["Environment"]["Variables"]
    assert variables["API_CONTENT_TYPES"] == "image/jpeg"
    with pytest.raises(PropError, match=r"content_types must be the same for all APIs of .*Score, got \[\] after"):
        fused.add_http_api()


def test_an_api_is_throttled_and_logged_under_the_key_of_the_pipeline(stack, pipeline):
    pipeline().add_rest_api(throttle_rate=5, throttle_burst=7)
    stage = only(stack, "Stage")
    (settings,) = stage["MethodSettings"]
    assert (settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]) == (5, 7)
    assert settings["DataTraceEnabled"] is False
    group = named(stack, "AWS::Logs::LogGroup", "RestApiLogs")
    (key,) = resources(stack, "AWS::KMS::Key")
    assert group["KmsKeyId"] == {"Fn::GetAtt": [key, "Arn"]}
    assert json.loads(stage["AccessLogSetting"]["Format"])["status"] == "$context.status"
    assert not resources(stack, "AWS::ApiGateway::Account")


def test_an_account_without_a_role_for_logs_gets_one(stack, pipeline):
    pipeline().add_rest_api(cloud_watch_role=True)
    assert resources(stack, "AWS::ApiGateway::Account")


def test_each_client_has_a_key_and_limits(stack, pipeline):
    api = pipeline().add_rest_api(api_key_required=True)
    api.add_client("Shop", throttle_rate=5, throttle_burst=6, requests_per_day=100)
    assert only(stack, "Method")["ApiKeyRequired"] is True
    plan = only(stack, "UsagePlan")
    assert plan["Throttle"] == {"RateLimit": 5, "BurstLimit": 6}
    assert plan["Quota"] == {"Limit": 100, "Period": "DAY"}
    assert len(resources(stack, "AWS::ApiGateway::UsagePlanKey")) == 1
    with pytest.raises(PropError, match="requests_per_day must be at least 1, got 0"):
        api.add_client("Other", throttle_rate=5, throttle_burst=6, requests_per_day=0)


def test_a_key_may_be_the_only_proof(stack, pipeline):
    api = pipeline().add_rest_api(api_key_required=True, anonymous=True)
    assert only(stack, "Method")["AuthorizationType"] == "NONE"
    assert api.openapi["components"]["securitySchemes"]["key"]["name"] == "x-api-key"


def test_a_user_pool_may_decide(stack, pipeline):
    pool = cognito.UserPool(stack, "Pool")
    users = apigateway.CognitoUserPoolsAuthorizer(stack, "Users", cognito_user_pools=[pool])
    pipeline().add_rest_api(authorizer=users, authorization_scopes=["score/ask"])
    method = only(stack, "Method")
    assert (method["AuthorizationType"], method["AuthorizationScopes"]) == ("COGNITO_USER_POOLS", ["score/ask"])


def test_a_web_acl_looks_at_requests_first(stack, pipeline):
    acl = "arn:aws:wafv2:us-east-1:123456789012:regional/webacl/mine/12345678-1234-1234-1234-123456789012"
    pipeline().add_rest_api(web_acl_arn=acl)
    (association,) = resources(stack, "AWS::WAFv2::WebACLAssociation").values()
    assert association["Properties"]["WebACLArn"] == acl
    assert "/stages/" in json.dumps(association["Properties"]["ResourceArn"])


def test_a_grant_is_for_this_method_of_this_api(stack, pipeline):
    caller = iam.User(stack, "Caller")
    pipeline().add_rest_api().grant_invoke(caller)
    (statement,) = named(stack, "AWS::IAM::Policy", "CallerDefaultPolicy")["PolicyDocument"]["Statement"]
    assert statement["Action"] == "execute-api:Invoke"
    assert json.dumps(statement["Resource"]).endswith('"/prod/POST/predict"]]}')


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"anonymous": True}, "api_key_required must be True for anonymous callers, got False"),
        ({"authorization_scopes": ["a"]}, r"authorization_scopes must go with an authorizer, got \['a'\] alone"),
        ({"content_types": []}, "content_types must name a media type, got none"),
        ({"content_types": ["json"]}, "content_types must be media types in lower case"),
        ({"throttle_rate": 0}, "throttle_rate must be at least 1, got 0"),
        ({"route": "b"}, "route must be one of main, got 'b'"),
        (
            {"cors_preflight": apigateway.CorsOptions(allow_origins=["https://a.com", "https://b.com"])},
            "cors_preflight.allow_origins must have one origin for a REST API, got ",
        ),
        (
            {"cors_preflight": apigateway.CorsOptions(allow_origins=["https://a.com"], allow_credentials=True)},
            "cors_preflight.allow_credentials must be left out, got True",
        ),
        (
            {"cors_preflight": apigateway.CorsOptions(allow_origins=["https://a.com"], expose_headers=["x-own"])},
            r"cors_preflight.expose_headers must be left out, got \['x-own'\]; pages may read Retry-After,",
        ),
    ],
)
def test_props_that_cannot_work_fail(pipeline, props, message):
    with pytest.raises(PropError, match=message):
        pipeline().add_rest_api(**props)


def test_pages_of_one_origin_may_read_all_answers(stack, pipeline):
    fused = pipeline(trigger=QueueTrigger(stack, "Queue"), execution=Execution.fused())
    origin = "https://shop.example.com"
    api = fused.add_rest_api(cors_preflight=apigateway.CorsOptions(allow_origins=[origin]))
    api.add_items()
    header = "method.response.header.Access-Control-Allow-Origin"
    methods = [one["Properties"] for one in resources(stack, "AWS::ApiGateway::Method").values()]
    asked = [one for one in methods if one["HttpMethod"] == "OPTIONS"]
    for one in asked:
        (response,) = one["Integration"]["IntegrationResponses"]
        assert response["ResponseParameters"][header] == f"'{origin}'"
        assert "Idempotency-Key" in response["ResponseParameters"][header.replace("Origin", "Headers")]
        assert (one["AuthorizationType"], one["ApiKeyRequired"]) == ("NONE", False)
    assert len(asked) == 3  # the root, /predict and /items
    (items,) = [one for one in methods if one["HttpMethod"] == "POST" and "IntegrationResponses" in one["Integration"]]
    exposing = header.replace("Allow-Origin", "Expose-Headers")
    said = {header: f"'{origin}'", exposing: f"'{EXPOSED}'"}
    assert all(one["ResponseParameters"] == said for one in items["Integration"]["IntegrationResponses"])
    assert all(one["ResponseParameters"] == dict.fromkeys(said, True) for one in items["MethodResponses"])
    score = named(stack, "AWS::Lambda::Function", "Score")
    assert score["Environment"]["Variables"]["API_ALLOW_ORIGIN"] == origin
    refused = [one["Properties"] for one in resources(stack, "AWS::ApiGateway::GatewayResponse").values()]
    assert {one["ResponseType"] for one in refused} == {"DEFAULT_4XX", "DEFAULT_5XX"}
    sent = {name.replace("method.response", "gatewayresponse"): value for name, value in said.items()}
    assert all(one["ResponseParameters"] == sent for one in refused)
    assert EXPOSED == cors.EXPOSED


def test_an_anonymous_api_with_an_authorizer_fails(stack, pipeline):
    users = apigateway.CognitoUserPoolsAuthorizer(stack, "Users", cognito_user_pools=[cognito.UserPool(stack, "Pool")])
    with pytest.raises(PropError, match="anonymous must be left out with an authorizer, got True"):
        pipeline().add_rest_api(authorizer=users, api_key_required=True, anonymous=True)


def test_a_gpu_that_requests_would_wait_for_fails(stack):
    model = ModelArtifact(stack, "Half", recipe=RECIPE, precision=Float16())
    waits = InferencePipeline(
        stack, "Photos", model=model, preprocess=Preprocess.image(size=224), inference=Inference.gpu()
    )
    with pytest.raises(PropError, match="inference must answer at once for an API, got Stack/Photos/Inference"):
        waits.add_rest_api()


def test_items_go_straight_to_the_queue(stack, pipeline):
    caller = iam.User(stack, "Caller")
    trigger = QueueTrigger(stack, "Trigger", encryption_key=kms.Key(stack, "Mine"))
    api = pipeline(trigger=trigger).add_rest_api()
    api.add_items()
    api.grant_send_items(caller)
    method = named(stack, "AWS::ApiGateway::Method", "itemsPOST")
    assert (method["AuthorizationType"], method["Integration"]["PassthroughBehavior"]) == ("AWS_IAM", "NEVER")
    assert ":sqs:path/" in json.dumps(method["Integration"]["Uri"])
    key, send = named(stack, "AWS::IAM::Policy", "RestApiItemsRole")["PolicyDocument"]["Statement"]
    assert key["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert (send["Action"], send["Resource"]) == ("sqs:SendMessage", stack.resolve(trigger.queue.queue_arn))
    (statement,) = named(stack, "AWS::IAM::Policy", "CallerDefaultPolicy")["PolicyDocument"]["Statement"]
    assert json.dumps(statement["Resource"]).endswith('"/prod/POST/items"]]}')
    assert api.openapi["paths"].keys() == {"/predict", "/items"}


def test_results_are_looked_up_without_a_function(stack, pipeline):
    caller = iam.User(stack, "Caller")
    api = pipeline().add_rest_api()
    api.add_results()
    api.grant_read_results(caller)
    assert len(resources(stack, "AWS::Lambda::Function")) == 3
    workflow = named(stack, "AWS::IAM::Policy", "RestApiResultsWorkflowStateMachineRoleDefaultPolicy")
    *_, query = workflow["PolicyDocument"]["Statement"]
    (table,) = resources(stack, "AWS::DynamoDB::GlobalTable")
    assert query["Action"] == "dynamodb:Query"
    assert query["Resource"] == {"Fn::GetAtt": [table, "Arn"]}
    start = named(stack, "AWS::IAM::Policy", "RestApiResultsRole")["PolicyDocument"]["Statement"][-1]
    assert start["Action"] == "states:StartSyncExecution"
    assert "RestApiResultsWorkflow" in json.dumps(start["Resource"])
    (statement,) = named(stack, "AWS::IAM::Policy", "CallerDefaultPolicy")["PolicyDocument"]["Statement"]
    assert json.dumps(statement["Resource"]).endswith('"/prod/GET/results/*"]]}')
    assert api.openapi["paths"]["/results/{id}"]["get"]["security"] == [{"caller": []}]


def test_items_of_a_bucket_fail(pipeline):
    with pytest.raises(PropError, match="must be a QueueTrigger for POST /items, got S3Trigger; put objects into"):
        pipeline().add_rest_api().add_items()


def test_items_that_are_no_text_fail(stack, pipeline):
    api = pipeline(trigger=QueueTrigger(stack, "Trigger")).add_rest_api(content_types=["image/png"])
    with pytest.raises(PropError, match="content_types must be texts for POST /items, got 'image/png'"):
        api.add_items()


def test_results_without_a_table_fail(stack, pipeline):
    backend = pipeline().stages.api_backend(None)
    with pytest.raises(PropError, match=r"must have a trigger and results for GET /results/\{id\}, got none"):
        InferenceRestApi(stack, "Alone", backend=backend).add_results()


def test_uploads_land_where_the_trigger_looks(stack, pipeline):
    caller = iam.User(stack, "Caller")
    api = pipeline(prefix="inbox/").add_rest_api()
    api.add_uploads({"image/jpeg": ".jpg"}, max_object_size=cdk.Size.mebibytes(1))
    api.grant_upload(caller)
    variables = named(stack, "AWS::Lambda::Function", "RestApiUploadsSign")["Environment"]["Variables"]
    assert (variables["UPLOAD_PREFIX"], variables["MAX_OBJECT_BYTES"]) == ("inbox/", "1048576")
    assert json.loads(variables["UPLOAD_TYPES"]) == {"image/jpeg": ".jpg"}
    policy = named(stack, "AWS::IAM::Policy", "RestApiUploadsSignRole")["PolicyDocument"]["Statement"]
    (put,) = [one for one in policy if one["Action"] == "s3:PutObject"]
    assert json.dumps(put["Resource"]).endswith('"/inbox/*"]]}')
    actions = {
        action for one in policy for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
    }
    assert {one.split(":")[0] for one in actions} == {"s3", "kms", "logs", "xray"}
    (statement,) = named(stack, "AWS::IAM::Policy", "CallerDefaultPolicy")["PolicyDocument"]["Statement"]
    assert json.dumps(statement["Resource"]).endswith('"/prod/POST/uploads"]]}')


@pytest.mark.parametrize(
    ("content_types", "message"),
    [
        ({}, "content_types must name a media type, got none"),
        ({"jpeg": ".jpg"}, "content_types must be media types in lower case"),
        ({"image/jpeg": "jpg"}, "content_types must have ends of keys such as '.jpg', got 'jpg' for 'image/jpeg'"),
    ],
)
def test_uploads_of_what_is_no_type_fail(pipeline, content_types, message):
    with pytest.raises(PropError, match=message):
        pipeline().add_rest_api().add_uploads(content_types)


def test_uploads_to_a_queue_fail(stack, pipeline):
    api = pipeline(trigger=QueueTrigger(stack, "Trigger")).add_rest_api()
    with pytest.raises(PropError, match="must have a bucket for POST /uploads, got QueueTrigger; use add_items"):
        api.add_uploads({"image/jpeg": ".jpg"})
