"""The embedded AWS as a process: it enforces IAM, keeps to itself, and leaves nothing behind however it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError
from tests.constructs.local.processes import gone, group
from tests.waiting import PATIENCE, wait_until

from cdk_inference.local import LocalError, aws
from cdk_inference.local.emulator import emulator as emulator_module
from cdk_inference.local.emulator.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.local import LocalCloud

HOLD = """
    import sys, time
    from cdk_inference.local import LocalCloud
    with LocalCloud() as cloud:
        print(cloud.emulator.state, cloud.emulator._process.pid, flush=True)
        time.sleep(600)
"""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running


def packed(code: str) -> bytes:
    """Return the package of a function with one module."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(zipfile.ZipInfo("index.py"), textwrap.dedent(code))  # of no time, so of the same content
    return data.getvalue()


def make_function(endpoint: str, code: str) -> str:
    """Create a function with a role that may do nothing, and return its name."""
    iam, functions = aws.client(endpoint, "iam"), aws.client(endpoint, "lambda")
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    name = f"function-{time.monotonic_ns()}"
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))["Role"]
    functions.create_function(
        FunctionName=name,
        Role=role["Arn"],
        Runtime="python3.13",
        Handler="index.handler",
        Code={"ZipFile": packed(code)},
        Timeout=600,
    )
    return name


def invoke(endpoint: str, name: str) -> dict[str, object]:
    answer = aws.client(endpoint, "lambda").invoke(FunctionName=name, Payload=b"{}")
    return dict(json.loads(answer["Payload"].read()))


def test_functions_share_the_files_of_a_package_but_not_what_they_write(emulator: Emulator) -> None:
    code = """
        import os
        from pathlib import Path
        def handler(event, context):
            own = Path("own.txt")
            before = own.exists()
            own.write_text("mine")
            return {"file": os.stat(__file__).st_ino, "before": before}
    """
    one, other = (invoke(emulator.endpoint, make_function(emulator.endpoint, code)) for _ in range(2))
    assert one["file"] == other["file"]
    assert one["before"] is other["before"] is False


def test_an_invocation_ends_with_its_code_and_the_next_one_has_the_new_code(emulator: Emulator, tmp_path: Path) -> None:
    begun, end = tmp_path / "begun", tmp_path / "end"
    old = f"""
        import time
        from pathlib import Path
        def handler(event, context):
            Path({str(begun)!r}).touch()
            while not Path({str(end)!r}).exists():
                time.sleep(0.01)
            return {{"code": "old"}}
    """
    name = make_function(emulator.endpoint, old)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(invoke, emulator.endpoint, name)
        wait_until(begun.exists)
        new = packed('def handler(event, context):\n    return {"code": "new"}\n')
        aws.client(emulator.endpoint, "lambda").update_function_code(FunctionName=name, ZipFile=new)
        assert invoke(emulator.endpoint, name) == {"code": "new"}
        end.touch()
        assert working.result(PATIENCE) == {"code": "old"}
    assert invoke(emulator.endpoint, name) == {"code": "new"}


def test_a_function_that_does_not_start_has_the_traceback_in_its_log(emulator: Emulator) -> None:
    name = make_function(emulator.endpoint, "import nonexistent\n")
    assert invoke(emulator.endpoint, name)["errorMessage"] == "Worker init failed: No module named 'nonexistent'"
    logged = aws.client(emulator.endpoint, "logs").filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
    lines = [event["message"] for event in logged]
    assert "Traceback (most recent call last):" in lines
    assert "ModuleNotFoundError: No module named 'nonexistent'" in lines


def test_a_state_that_fails_is_tried_as_often_as_in_aws_but_soon(local_cloud: LocalCloud) -> None:
    name = make_function(local_cloud.endpoint, "def handler(event, context): raise ValueError")
    retry = {"ErrorEquals": ["States.ALL"], "IntervalSeconds": 3600, "MaxAttempts": 8, "BackoffRate": 2}
    fail = {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Retry": [retry], "End": True}
    fail |= {"Parameters": {"FunctionName": name}}
    states = local_cloud.client("stepfunctions")
    machine = states.create_state_machine(
        name=name,
        definition=json.dumps({"StartAt": "Fail", "States": {"Fail": fail}}),
        roleArn=f"arn:aws:iam::{aws.ACCOUNT}:role/{name}",
    )["stateMachineArn"]
    execution = states.start_execution(stateMachineArn=machine)["executionArn"]
    wait_until(lambda: states.describe_execution(executionArn=execution)["status"] == "FAILED")
    history = states.get_execution_history(executionArn=execution, maxResults=1000)["events"]
    assert [event["type"] for event in history].count("TaskFailed") == 9


def test_a_function_gets_messages_that_it_failed_on_as_often_as_in_aws_but_soon(local_cloud: LocalCloud) -> None:
    code = """
        def handler(event, context):
            print("tried")
            return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in event["Records"]]}
    """
    name, sqs = make_function(local_cloud.endpoint, code), local_cloud.client("sqs")
    dead, queue = (f"{local_cloud.endpoint}/{aws.ACCOUNT}/{part}-{name}" for part in ("dead", "queue"))
    target = f"arn:aws:sqs:{aws.REGION}:{aws.ACCOUNT}:"
    redrive = {"deadLetterTargetArn": f"{target}dead-{name}", "maxReceiveCount": 3}
    sqs.create_queue(QueueName=f"dead-{name}")
    visibility = {"VisibilityTimeout": "3600", "RedrivePolicy": json.dumps(redrive)}
    sqs.create_queue(QueueName=f"queue-{name}", Attributes=visibility)
    local_cloud.client("lambda").create_event_source_mapping(
        FunctionName=name, EventSourceArn=f"{target}queue-{name}", FunctionResponseTypes=["ReportBatchItemFailures"]
    )
    sqs.send_message(QueueUrl=queue, MessageBody="failing")
    wait_until(lambda: "Messages" in sqs.receive_message(QueueUrl=dead, VisibilityTimeout=0))
    logged = local_cloud.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
    assert [event["message"] for event in logged].count("tried") == 3


def test_a_role_without_a_right_is_refused(emulator: Emulator) -> None:
    name = make_function(
        emulator.endpoint,
        """
        import boto3
        def handler(event, context):
            boto3.client("s3").list_buckets()
        """,
    )
    assert "not authorized to perform: s3:ListAllMyBuckets" in str(invoke(emulator.endpoint, name))


def test_unknown_credentials_fail(emulator: Emulator) -> None:
    stranger = aws.role_clients(emulator.endpoint, {"AccessKeyId": "AKIASTRANGER", "SecretAccessKey": "x"}, ["s3"])
    with pytest.raises(ClientError, match="must be signed with a key of this embedded AWS"):
        stranger["s3"].list_buckets()


def test_a_function_sees_only_what_lambda_has(emulator: Emulator) -> None:
    name = make_function(
        emulator.endpoint,
        """
        import importlib.util, os
        def handler(event, context):
            names = ("boto3", "botocore", "numpy", "onnxruntime", "typer", "cdk_inference", "ministack")
            return {name: importlib.util.find_spec(name) is not None for name in names} | {"home": os.environ["HOME"]}
        """,
    )
    seen = invoke(emulator.endpoint, name)
    assert seen.pop("home") == str(emulator.state)
    assert [name for name, found in seen.items() if found] == ["boto3", "botocore"]


def test_buckets_and_queues_that_want_tls_take_requests(emulator: Emulator) -> None:
    s3 = aws.client(emulator.endpoint, "s3")
    s3.create_bucket(Bucket="tls-only")
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": ["arn:aws:s3:::tls-only", "arn:aws:s3:::tls-only/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    s3.put_bucket_policy(Bucket="tls-only", Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    iam = aws.client(emulator.endpoint, "iam")
    iam.create_user(UserName="writer")
    allow = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::tls-only/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    iam.put_user_policy(UserName="writer", PolicyName="write", PolicyDocument=policy)
    writer = aws.role_clients(emulator.endpoint, iam.create_access_key(UserName="writer")["AccessKey"], ["s3"])["s3"]
    assert writer.put_object(Bucket="tls-only", Key="k", Body=b"x")["ETag"]


def test_nothing_is_left_after_stop() -> None:
    with Emulator() as running:
        state, leader = running.state, running._process.pid
        hanging = make_function(
            running.endpoint,
            """
            import signal, time
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            def handler(event, context):
                time.sleep(300)
            """,
        )
        aws.client(running.endpoint, "lambda").invoke(FunctionName=hanging, InvocationType="Event", Payload=b"{}")
        wait_until(lambda: any("_worker.py" in process for process in group(leader)))
    assert not state.exists()
    wait_until(lambda: not group(leader))  # the kernel may still be ending what was killed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_parent_dies(number: signal.Signals) -> None:
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOLD)], stdout=subprocess.PIPE, text=True)
    try:
        state, leader = holder.stdout.readline().rsplit(" ", 1)
        assert group(int(leader))
        holder.send_signal(number)
        holder.wait(PATIENCE)
        assert gone(int(leader), Path(state))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_two_run_side_by_side(emulator: Emulator) -> None:
    with Emulator() as other:
        assert other.endpoint != emulator.endpoint
        aws.client(other.endpoint, "s3").create_bucket(Bucket="only-there")
        names = [bucket["Name"] for bucket in aws.client(emulator.endpoint, "s3").list_buckets()["Buckets"]]
        assert "only-there" not in names


def test_an_emulator_that_does_not_start_fails_with_its_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no room for a cloud')")
    monkeypatch.setattr(emulator_module, "_LAUNCHER", broken)
    running = Emulator()
    with pytest.raises(LocalError, match="no room for a cloud"):
        running.start()
    with pytest.raises(LocalError, match="must be running"):
        _ = running.state


def test_the_environment_leads_nowhere_else() -> None:
    base = {
        "AWS_PROFILE": "production",
        "AWS_SESSION_TOKEN": "secret",
        "AWS_ENDPOINT_URL_S3": "https://elsewhere",
        "AWS_ROLE_ARN": "arn",
        "PATH": os.environ["PATH"],
    }
    aws.use_key("http://127.0.0.1:1", aws.Key("KEY", "secret"))
    made = aws.environment("http://127.0.0.1:1", base)
    assert (made["AWS_ACCESS_KEY_ID"], made["AWS_SECRET_ACCESS_KEY"]) == ("KEY000000000000", "secret")
    assert made["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert made["AWS_CONFIG_FILE"] == os.devnull
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_ROLE_ARN"} & set(made)


def test_neither_the_constructs_nor_cdk_are_imported() -> None:
    code = (
        "import sys, cdk_inference.local.cli as _; print([m for m in ('aws_cdk', 'jsii', 'torch') if m in sys.modules])"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "[]"
