"""The script for one's own account, against the answers that AWS documents."""

from __future__ import annotations

import base64
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lambda_cold_start.py"
# https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html
COLD = (
    "START RequestId: 8f507cfc Version: $LATEST\nEND RequestId: 8f507cfc\n"
    "REPORT RequestId: 8f507cfc\tDuration: 15.74 ms\tBilled Duration: 147 ms\tMemory Size: 1769 MB\t"
    "Max Memory Used: 56 MB\tInit Duration: 130.49 ms\t\n"
)
WARM = COLD.replace("\tInit Duration: 130.49 ms", "").replace("15.74", "5.5")
RESTORED = COLD.replace("Init Duration: 130.49 ms", "Restore Duration: 87.2 ms\tBilled Restore Duration: 90 ms")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lambda_cold_start", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client() -> Any:
    session = boto3.Session("none", "none", region_name="us-east-1")
    return session.client("lambda")


def invocation(stubber: Stubber, log: str, *, error: bool = False, **where: str) -> None:
    body = StreamingBody(io.BytesIO(b'{"errorMessage": "no model"}'), 28)
    answer = {"StatusCode": 200, "LogResult": base64.b64encode(log.encode()).decode(), "Payload": body}
    expected = {"FunctionName": "infer", "Payload": b"{}", "LogType": "Tail", **where}
    stubber.add_response("invoke", {**answer, "FunctionError": "Unhandled"} if error else answer, expected)


def configuration(stubber: Stubber, **variables: str) -> None:
    expected = {"FunctionName": "infer", "Environment": {"Variables": variables}}
    stubber.add_response("update_function_configuration", {}, expected)
    stubber.add_response("get_function", {"Configuration": {"LastUpdateStatus": "Successful"}}, {"FunctionName": ANY})


def test_every_round_is_a_cold_start_and_the_configuration_is_put_back(script: ModuleType, client: Any) -> None:
    with Stubber(client) as stubber:
        own = {"Environment": {"Variables": {"MODEL_VERSION": "1"}}}
        stubber.add_response("get_function_configuration", own, {"FunctionName": "infer"})
        for number in range(3):
            configuration(stubber, MODEL_VERSION="1", CDK_INFERENCE_COLD_START=str(number))
            invocation(stubber, COLD)
            invocation(stubber, WARM)
        configuration(stubber, MODEL_VERSION="1")
        rounds = script.measure(client, "infer", b"{}", 3)
        stubber.assert_no_pending_responses()
    medians = script.medians(rounds)
    assert medians["cold"]["Init Duration"] == 130.49
    assert medians["cold"]["Max Memory Used"] == 56
    assert medians["cold"]["Init or restore, and Duration"] == pytest.approx(146.23)
    assert medians["warm"]["Duration"] == 5.5


def test_with_snap_start_versions_are_published_and_deleted(script: ModuleType, client: Any) -> None:
    with Stubber(client) as stubber:
        own = {"SnapStart": {"ApplyOn": "PublishedVersions"}}
        stubber.add_response("get_function_configuration", own, {"FunctionName": "infer"})
        configuration(stubber, CDK_INFERENCE_COLD_START="0")
        stubber.add_response("publish_version", {"Version": "7"}, {"FunctionName": "infer"})
        active = {"State": "Active"}
        stubber.add_response("get_function_configuration", active, {"FunctionName": "infer", "Qualifier": "7"})
        invocation(stubber, RESTORED, Qualifier="7")
        invocation(stubber, WARM, Qualifier="7")
        stubber.add_response("delete_function", {}, {"FunctionName": "infer", "Qualifier": "7"})
        configuration(stubber)
        rounds = script.measure(client, "infer", b"{}", 1, snap_start=True)
        stubber.assert_no_pending_responses()
    assert rounds[0]["cold"]["Restore Duration"] == 87.2
    assert "Init Duration" not in rounds[0]["cold"]


def test_a_round_that_was_not_cold_is_repeated(script: ModuleType, client: Any) -> None:
    with Stubber(client) as stubber:
        stubber.add_response("get_function_configuration", {}, {"FunctionName": "infer"})
        for number, first in enumerate((WARM, COLD)):
            configuration(stubber, CDK_INFERENCE_COLD_START=str(number))
            invocation(stubber, first)
            invocation(stubber, WARM)
        configuration(stubber)
        assert len(script.measure(client, "infer", b"{}", 1)) == 1
        stubber.assert_no_pending_responses()


def test_fails_with_other_traffic_and_puts_back_what_it_changed(script: ModuleType, client: Any) -> None:
    with Stubber(client) as stubber:
        stubber.add_response("get_function_configuration", {}, {"FunctionName": "infer"})
        for number in range(script.MOST_SPOILT + 1):
            configuration(stubber, CDK_INFERENCE_COLD_START=str(number))
            invocation(stubber, WARM)
            invocation(stubber, WARM)
        configuration(stubber)
        with pytest.raises(SystemExit, match=r"6 of 6 rounds .* other traffic"):
            script.measure(client, "infer", b"{}", 5)
        stubber.assert_no_pending_responses()


def test_fails_with_what_the_function_said_and_puts_back_what_it_changed(script: ModuleType, client: Any) -> None:
    with Stubber(client) as stubber:
        stubber.add_response("get_function_configuration", {}, {"FunctionName": "infer"})
        configuration(stubber, CDK_INFERENCE_COLD_START="0")
        invocation(stubber, COLD, error=True)
        configuration(stubber)
        with pytest.raises(SystemExit, match="no model"):
            script.measure(client, "infer", b"{}", 5)
        stubber.assert_no_pending_responses()


def test_fails_without_snap_start_before_anything_is_changed(script: ModuleType, client: Any) -> None:
    with Stubber(client) as stubber:
        stubber.add_response(
            "get_function_configuration", {"SnapStart": {"ApplyOn": "None"}}, {"FunctionName": "infer"}
        )
        with pytest.raises(SystemExit, match="infer has no SnapStart"):
            script.measure(client, "infer", b"{}", 1, snap_start=True)


def test_reports_in_json_logs_are_read_too(script: ModuleType) -> None:
    line = (
        '{"time": "2026-01-01T00:00:00Z", "type": "platform.report", "record": {"requestId": "1", "metrics": '
        '{"durationMs": 10.5, "billedDurationMs": 61, "maxMemoryUsedMB": 70, "initDurationMs": 50}}}'
    )
    assert script.report(f"{{}}\n{line}\n") == {
        "Duration": 10.5,
        "Billed Duration": 61,
        "Max Memory Used": 70,
        "Init Duration": 50,
    }
