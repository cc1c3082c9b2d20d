"""The HTTP API of a pipeline: what it creates, who may do what, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk.aws_apigatewayv2_authorizers import HttpJwtAuthorizer, HttpLambdaAuthorizer, HttpLambdaResponseType
from tests.constructs.conftest import resources

from cdk_inference import Execution, Preprocess, PropError, Route, Routing


@pytest.fixture
def fused(pipeline):
    return pipeline(execution=Execution.fused())


def only(stack: cdk.Stack, kind: str) -> dict[str, Any]:
    (found,) = resources(stack, f"AWS::ApiGatewayV2::{kind}").values()
    return found["Properties"]


def test_callers_are_principals_of_iam_by_default(stack, fused):
    api = fused.add_http_api()
    route = only(stack, "Route")
    assert (route["RouteKey"], route["AuthorizationType"]) == ("POST /predict", "AWS_IAM")
    assert not resources(stack, "AWS::ApiGatewayV2::Authorizer")
    assert api.openapi["components"]["securitySchemes"]["caller"]["x-amazon-apigateway-authtype"] == "awsSigv4"


def test_the_function_of_the_pipeline_answers_and_no_other(stack, fused):
    fused.add_http_api()
    assert len(resources(stack, "AWS::Lambda::Function")) == 1
    integration = only(stack, "Integration")
    assert integration["IntegrationUri"] == stack.resolve(fused.stages.score.target.function_arn)
    assert integration["TimeoutInMillis"] == 29_000
    (permission,) = resources(stack, "AWS::Lambda::Permission").values()
    assert json.dumps(permission["Properties"]["SourceArn"]).endswith('/*/*/predict"]]}')


def test_an_api_is_throttled_and_logged_under_the_key_of_the_pipeline(stack, fused):
    fused.add_http_api(throttle_rate=5, throttle_burst=7)
    stage = only(stack, "Stage")
    settings = stage["DefaultRouteSettings"]
    assert (settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]) == (5, 7)
    ((name, group),) = [
        (name, group) for name, group in resources(stack, "AWS::Logs::LogGroup").items() if "HttpApi" in name
    ]
    assert stage["AccessLogSettings"]["DestinationArn"] == {"Fn::GetAtt": [name, "Arn"]}
    assert json.loads(stage["AccessLogSettings"]["Format"])["status"] == "$context.status"
    (key,) = resources(stack, "AWS::KMS::Key")
    assert group["Properties"]["KmsKeyId"] == {"Fn::GetAtt": [key, "Arn"]}


def test_a_grant_is_for_this_route_of_this_api(stack, fused):
    caller = iam.User(stack, "Caller")
    fused.add_http_api().grant_invoke(caller)
    (policy,) = [one for name, one in resources(stack, "AWS::IAM::Policy").items() if name.startswith("Caller")]
    (statement,) = policy["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Action"] == "execute-api:Invoke"
    assert json.dumps(statement["Resource"]).endswith('"/$default/POST/predict"]]}')


def test_tokens_and_functions_may_decide_too(stack, fused):
    tokens = HttpJwtAuthorizer("Tokens", "https://example.com", jwt_audience=["scores"])
    api = fused.add_http_api(authorizer=tokens, authorization_scopes=["score"])
    route = only(stack, "Route")
    assert (route["AuthorizationType"], route["AuthorizationScopes"]) == ("JWT", ["score"])
    assert api.openapi["components"]["securitySchemes"]["caller"]["scheme"] == "bearer"
    function = lambda_.Function.from_function_name(stack, "Function", "authorizer")
    decides = HttpLambdaAuthorizer("Decides", function, response_types=[HttpLambdaResponseType.SIMPLE])
    api = fused.add_http_api("Other", authorizer=decides)
    assert "x-amazon-apigateway-authtype" not in api.openapi["components"]["securitySchemes"]["caller"]


def test_web_pages_may_be_allowed(stack, fused):
    fused.add_http_api(cors_preflight=apigatewayv2.CorsPreflightOptions(allow_origins=["https://example.com"]))
    assert only(stack, "Api")["CorsConfiguration"]["AllowOrigins"] == ["https://example.com"]


def test_media_types_are_those_of_the_document_and_of_the_function(stack, fused):
    api = fused.add_http_api(content_types=["image/jpeg", "image/png"], request_schema={"type": "object"})
    body = api.openapi["paths"]["/predict"]["post"]["requestBody"]
    assert body["content"].keys() == {"image/jpeg", "image/png"}
    (function,) = [one for name, one in resources(stack, "AWS::Lambda::Function").items() if "Score" in name]
    assert function["Properties"]["Environment"]["Variables"]["API_CONTENT_TYPES"] == "image/jpeg image/png"


@pytest.mark.parametrize("given", ["image", "image/jpeg; q=1", "Image/JPEG", "image/jpeg image/png", ""])
def test_what_is_no_media_type_fails(fused, given):
    with pytest.raises(PropError, match=r"content_types must be media types in lower case .*, got '.*'"):
        fused.add_http_api(content_types=[given])


@pytest.mark.parametrize("name", ["throttle_rate", "throttle_burst"])
def test_an_api_that_takes_no_requests_fails(fused, name):
    with pytest.raises(PropError, match=f"{name} must be at least 1, got 0"):
        fused.add_http_api(**{name: 0})


def test_scopes_without_an_authorizer_fail(fused):
    with pytest.raises(PropError, match=r"authorization_scopes must go with an authorizer, got \['score'\] alone"):
        fused.add_http_api(authorization_scopes=["score"])


def test_separate_stages_fail(pipeline):
    with pytest.raises(PropError, match=r"must have execution=Execution\.fused\(\) for an HTTP API"):
        pipeline().add_http_api()


def test_one_of_several_routes_answers(stack, model):
    from cdk_inference import InferencePipeline

    preprocess = Preprocess.image(size=224)
    routes = {name: Route(name=name, model=model, preprocess=preprocess) for name in ("a", "b")}
    both = InferencePipeline(
        stack,
        "Both",
        routing=Routing.split({name: (1, route) for name, route in routes.items()}),
        execution=Execution.fused(),
    )
    for given in (None, "c"):
        with pytest.raises(PropError, match=f"route must be one of a, b, got '?{given}"):
            both.add_http_api(route=given)
    both.add_http_api(route="b")
    uri = only(stack, "Integration")["IntegrationUri"]
    assert uri == stack.resolve(both.routes["b"].score.target.function_arn)
