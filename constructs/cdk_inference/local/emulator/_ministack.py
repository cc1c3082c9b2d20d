"""The child process that is the embedded AWS: MiniStack, on a free port, for as long as its parent lives.

Run as a file, not as a module: it then imports nothing of ours. The first line on stdout is the port; closing stdin
stops it.
"""

from __future__ import annotations

import asyncio
import base64
import http
import importlib
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
import venv
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote
from xml.sax.saxutils import escape

# Packages that Lambda's Python runtimes offer a function besides its bundle.
_LAMBDA_PACKAGES = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")

# These are ours, next to MiniStack's own /_ministack/; aws.py has the same names. A service gets the credentials of the
# role that it acts with. The others list functions whose process does not run, and places that have stacks.
_SERVICE_CREDENTIALS = "/_cdk-inference/service-credentials"
_FAULTS = "/_cdk-inference/faults"
_ENVIRONMENTS = "/_cdk-inference/environments"
_BOOTSTRAP_STACK = "CDKToolkit"
_LIVE_CODE = "cdk-inference: live code"  # live_code.py has the same
_SESSION_SECONDS = 3600

# CloudFormation gives these URLs to custom resources and to wait conditions. Their tokens cannot be guessed, and who
# has one need not sign: AWS gives presigned URLs.
_PUBLIC_KEYS = re.compile(r"/[\w-]+/\.well-known/jwks\.json")
_TOKEN_PATHS = ("/_ministack/cfn-response/", "/_ministack/cfn-signal/")


def _make_lambda_python(folder: Path) -> str:
    """Make a Python that sees boto3 and nothing else, so that a function has to bundle what it imports."""
    venv.EnvBuilder(symlinks=True).create(folder)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in _LAMBDA_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (site / source.name).symlink_to(source)
    return str(folder / "bin" / "python")


def _follow_parent(state: Path) -> None:
    """Stop as soon as nobody holds the other end of stdin: our parent asked for it, or died."""
    os.read(0, 1)
    shutil.rmtree(state, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # us and the functions' workers


def _service_credentials(request: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Let an AWS service assume a role, if the role's trust policy agrees, as STS does inside AWS.

    MiniStack has no service principals: it lets the account's root stand for any service. It does so without the keys
    by which a trust policy tells on whose behalf the service asks.
    """
    from ministack.core.iam_evaluator import (  # noqa: PLC0415
        EvalContext,
        evaluate_trust_policy,
    )
    from ministack.services import iam  # noqa: PLC0415

    service, role_arn, source_arn = request["Service"], request["RoleArn"], request["SourceArn"]
    *_, region, source_account, _ = source_arn.split(":", 5)
    account, name = role_arn.split(":")[4], role_arn.rsplit("/", 1)[-1]
    role = iam._roles.get_scoped(account, None, name)
    if role is None:
        return 403, {"message": f"there is no role {role_arn}"}
    policy = role["AssumeRolePolicyDocument"]
    policy = json.loads(policy) if isinstance(policy, str) else policy
    context = EvalContext(
        principal_arn=service,
        principal_type="Service",
        principal_account="",
        action="sts:AssumeRole",
        resource_arn=role_arn,
        region=region,
        service_context={"aws:sourceaccount": source_account, "aws:sourcearn": source_arn},
    )
    if not evaluate_trust_policy(_seen_by(service, policy), service, context):
        return 403, {
            "message": f"the trust policy of {role_arn} does not let {service} assume the role with "
            f"aws:SourceAccount {source_account} and aws:SourceArn {source_arn}: {json.dumps(policy)}"
        }
    session = service.split(".")[0]
    return 200, _session(account, name, role["RoleId"], session, Expiration=time.time() + _SESSION_SECONDS)


def _function_credentials(config: dict[str, Any]) -> dict[str, str]:
    """Return credentials for a function's process; MiniStack derives them from its name, so that others can, too."""
    account, role = config["FunctionArn"].split(":")[4], config.get("Role", "").rsplit("/", 1)[-1]
    made = _session(account, role, role, config.get("FunctionName", "function")[:64])
    return {
        "AWS_ACCESS_KEY_ID": made["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"],
        "AWS_SESSION_TOKEN": made["SessionToken"],
    }


def _session(account: str, role: str, role_id: str, session: str, **facts: Any) -> dict[str, str]:
    """Make credentials of an assumed role."""
    from ministack.services import iam, sts  # noqa: PLC0415

    credentials = {
        "AccessKeyId": str(iam._gen_session_access_key()),
        "SecretAccessKey": str(iam._gen_secret()),
        "SessionToken": str(iam._gen_session_token()),
    }
    facts |= {
        "Arn": f"arn:aws:sts::{account}:assumed-role/{role}/{session}",
        "UserId": f"{role_id}:{session}",
        "AccountId": account,
        "PrincipalType": "AssumedRole",
        "SecretAccessKey": credentials["SecretAccessKey"],
        "SessionToken": credentials["SessionToken"],
    }
    sts.register_session(credentials["AccessKeyId"], facts)
    return credentials


def _environments() -> tuple[int, dict[str, Any]]:
    """Return the accounts and regions with stacks that are not CDK's own, and what tells that a stack has changed."""
    from ministack.services import cloudformation  # noqa: PLC0415

    stacks = {key: stack for key, stack in cloudformation._stacks.to_dict().items() if key[2] != _BOOTSTRAP_STACK}
    facts = ("StackId", "StackStatus", "CreationTime", "LastUpdatedTime")
    marks = sorted([str(stack.get(fact)) for fact in facts] for stack in stacks.values())
    return 200, {"environments": sorted({tuple(key[:2]) for key in stacks}), "marks": marks}


def _seen_by(service: str, policy: dict[str, Any]) -> dict[str, Any]:
    """Return a trust policy whose statements for a service are for anyone: the evaluator knows no services."""
    statements = policy.get("Statement", [])
    seen = []
    for statement in [statements] if isinstance(statements, dict) else statements:
        principal = statement.get("Principal")
        named = principal.get("Service", []) if isinstance(principal, dict) else []
        mine = service in ([named] if isinstance(named, str) else named)
        seen.append({**statement, "Principal": "*"} if mine else statement)
    return {**policy, "Statement": seen}


def _with_error_type(refusal: dict[str, Any]) -> dict[str, Any]:
    return {**refusal, "body": {**refusal["body"], "errorType": "Lambda.TooManyRequestsException"}}


def _with_class_name(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a function's answer, with the error called by its class if the function raised one."""
    body = answer.get("body")
    _, raised, trace = str(answer.get("log", "")).rpartition("Traceback (most recent call last):\n")
    if not (raised and isinstance(body, dict) and body.get("errorType") == "Runtime.HandlerError"):
        return answer
    # The first line that is not indented has the class and the text.
    said = next((line for line in trace.splitlines() if line and not line[0].isspace()), "")
    name = said.partition(":")[0].rpartition(".")[2]
    return {**answer, "body": {**body, "errorType": name}} if name.isidentifier() else answer


def _announce_stacks() -> None:
    """Have EventBridge tell when a stack is deployed, as in AWS: rules may start what has to begin then."""
    from ministack.services import cloudformation, eventbridge  # noqa: PLC0415
    from ministack.services.cloudformation import (  # noqa: PLC0415
        changesets,
        handlers,
    )

    deploy = handlers._deploy_stack_async

    async def announced(name: str, stack_id: str, *given: Any, **named: Any) -> None:
        await deploy(name, stack_id, *given, **named)
        status = cloudformation._stacks[name]["StackStatus"]
        detail = {"stack-id": stack_id, "status-details": {"status": status, "status-reason": ""}}
        event = {
            "Source": "aws.cloudformation",
            "DetailType": "CloudFormation Stack Status Change",
            "Detail": json.dumps(detail),
            "Resources": [stack_id],
        }
        eventbridge._put_events({"Entries": [event]}, allow_aws_source=True)

    handlers._deploy_stack_async = changesets._deploy_stack_async = announced


def _run_schedules() -> None:
    """Deliver what schedules send as AWS does: with their role, and with its keywords replaced.

    MiniStack sends a schedule's input as it is, with all rights. Nothing is tried again here.
    """
    from ministack.services import eventbridge, scheduler  # noqa: PLC0415

    invoke = eventbridge._invoke_target

    def invoke_target(target: dict[str, Any], event: dict[str, Any], rule: dict[str, Any], *rest: Any) -> None:
        if event["Source"] != "aws.scheduler":
            invoke(target, event, rule, *rest)
            return
        body = _replaced_keywords(target.get("Input") or "{}", rule)
        try:
            _send_as(target, rule, target["Arn"], body, {})
        except Exception as error:  # whatever it is, the message tells
            logging.getLogger("scheduler").warning("schedule %s: %s", rule["Name"], error)
            if queue := target.get("DeadLetterConfig", {}).get("Arn"):
                said = {"ERROR_CODE": type(error).__name__, "ERROR_MESSAGE": str(error)[:1000]}
                _send_as(target, rule, queue, body, said)

    eventbridge._invoke_target = invoke_target
    scheduler._SCHEDULE_TICK_INTERVAL = 1
    # A schedule that is changed begins anew; MiniStack takes a run before the change for the one of `at(…)`.
    update = scheduler._update_schedule

    def update_schedule(name: str, body: dict[str, Any]) -> Any:  # noqa: ANN401
        key = scheduler._schedules._scoped(f"{body.get('GroupName', 'default')}/{name}")
        scheduler._schedule_last_fired.pop(key, None)
        return update(name, body)

    scheduler._update_schedule = update_schedule


def _replaced_keywords(text: str, schedule: dict[str, Any]) -> str:
    """Return what a schedule sends, with the time of this run: that of ``at(…)``, or the minute that it is now."""
    once = re.fullmatch(r"at\((.+)\)", schedule["ScheduleExpression"])
    keywords = {
        "schedule-arn": schedule["Arn"],
        "scheduled-time": f"{once[1]}Z" if once else time.strftime("%Y-%m-%dT%H:%M:00Z", time.gmtime()),
        "execution-id": os.urandom(8).hex(),
        "attempt-number": "1",
    }
    return re.sub(r"<aws\.scheduler\.([a-z-]+)>", lambda found: keywords.get(found[1], found[0]), text)


def _send_as(target: dict[str, Any], schedule: dict[str, Any], arn: str, body: str, attributes: dict[str, str]) -> None:
    """Send a message to a queue, or an event to a function, with the role of a schedule.

    Raises
    ------
    PermissionError
        Scheduler may not take the role on behalf of the schedule's group.
    """
    import boto3  # noqa: PLC0415

    service, region = arn.split(":")[2:4]
    group = schedule["Arn"].replace(":schedule/", ":schedule-group/").rpartition("/")[0]
    asked = {"Service": "scheduler.amazonaws.com", "RoleArn": target["RoleArn"], "SourceArn": group}
    status, given = _service_credentials(asked)
    if status != http.HTTPStatus.OK:
        raise PermissionError(given["message"])
    endpoint = f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"
    create: Any = boto3.client  # its types want the name of one service
    client = create(
        service,
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"],
    )
    if service == "lambda":
        client.invoke(FunctionName=arn, InvocationType="Event", Payload=body)
        return
    *_, account, name = arn.split(":")
    client.send_message(
        QueueUrl=f"{endpoint}/{account}/{name}",
        MessageBody=body,
        MessageAttributes={name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()},
    )


def _name_resources() -> None:
    """Check policies against the stream or map run of a request: MiniStack asks whether all are allowed."""
    from ministack.core import iam_actions  # noqa: PLC0415

    arn_of = iam_actions.extract_resource_arn
    named = {"dynamodbstreams": _stream_of, "states": _map_run_of}
    iam_actions.extract_resource_arn = lambda service, method, path, headers, body, *rest: (
        (named[service](body) if service in named else None) or arn_of(service, method, path, headers, body, *rest)
    )


def _name_actions() -> None:
    """Check policies against the actions that SQS has: a request for several messages needs that for one."""
    from ministack.core import iam_actions  # noqa: PLC0415

    action_of = iam_actions.extract_iam_action

    def named(service: str, *given: Any) -> str | None:
        action: str | None = action_of(service, *given)
        return action.removesuffix("Batch") if service == "sqs" and action is not None else action

    iam_actions.extract_iam_action = named


def _name_events() -> None:
    """Check policies against the source and the type of events, which MiniStack does not look at."""
    from ministack.core import iam_actions  # noqa: PLC0415

    keys_of = iam_actions.request_tag_context
    iam_actions.request_tag_context = lambda service, action, body, params: (
        {**keys_of(service, action, body, params), **(_events_of(body) if action == "events:PutEvents" else {})}
    )


def _events_of(body: bytes) -> dict[str, list[str]]:
    """Return the sources and types of the events of a request."""
    entries = json.loads(body)["Entries"]
    members = {"events:source": "Source", "events:detail-type": "DetailType"}
    return {key: sorted({str(entry.get(member, "")) for entry in entries}) for key, member in members.items()}


def _stream_of(body: bytes) -> str:
    """Return the ARN of the stream that a request names itself, or by an iterator that MiniStack made."""
    named = json.loads(body)
    try:
        iterator = json.loads(base64.urlsafe_b64decode(named["ShardIterator"])) if "ShardIterator" in named else {}
        return str(named.get("StreamArn") or iterator["arn"])
    except (ValueError, KeyError):
        return "*"


def _map_run_of(body: bytes) -> str | None:
    """Return the ARN of the map run that a request names."""
    try:
        named = json.loads(body)
    except ValueError:
        return None
    return named.get("mapRunArn") if isinstance(named, dict) else None


class _Faults:
    """Functions whose process was killed from outside, or does not start.

    A function that crashes or runs out of time is not one: the workflow finds the object that did it.
    """

    def __init__(self) -> None:
        self._found: deque[dict[str, Any]] = deque(maxlen=100)

    def watch(self, worker: Any) -> None:  # noqa: ANN401
        """Look at what the workers of functions do.

        Parameters
        ----------
        worker
            MiniStack's class for the process of a function.
        """
        spawn, invoke = worker._spawn, worker.invoke

        def noted_spawn(self: Any, *given: Any, **named: Any) -> Any:  # noqa: ANN401
            self._last_process = None
            try:
                return spawn(self, *given, **named)
            finally:
                self._last_process = self._proc  # MiniStack forgets it once it has ended

        def noted_invoke(self: Any, *given: Any, **named: Any) -> Any:  # noqa: ANN401
            try:
                answer = invoke(self, *given, **named)
            except (RuntimeError, OSError) as error:  # OSError: such as a full disk
                if self.config.get("Description") == _LIVE_CODE:  # which is only tried
                    raise
                reason = str(error).partition("\n")[0]  # the log has the traceback
                self_found.append(_fault(self.func_name, f"does not start: {reason}"))
                raise
            process = getattr(self, "_last_process", None)
            died = answer.get("status") == "error" and answer.get("error") == "Worker process died"
            if died and process is not None and process.returncode == -signal.SIGKILL:
                reason = "was killed by SIGKILL; if nobody did it, the machine ran out of memory"
                self_found.append(_fault(self.func_name, reason))
            return answer

        self_found = self._found
        worker._spawn, worker.invoke = noted_spawn, noted_invoke

    def answer(self) -> tuple[int, dict[str, Any]]:
        """Return what was found, oldest first."""
        return 200, {"faults": list(self._found)}


def _fault(function: str, reason: str) -> dict[str, Any]:
    return {"at": round(time.time() * 1000), "function": function, "reason": reason}


class _Gate:
    """The only way in, for requests that are signed with a key of this embedded AWS.

    Browsers say whose page sent a request, and a page that has its own name lead here (DNS rebinding) is told by that
    name. MiniStack itself takes every caller without a key, or with the key ``test``, for the account's root.

    Parameters
    ----------
    port
        The port it listens on.
    key_id, secret
        The key of the accounts' roots. The number of an account follows the id.
    """

    def __init__(self, port: int, key_id: str, secret: str) -> None:
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self._root = re.compile(rf"{re.escape(key_id)}(\d{{12}})")
        self._secret = secret

    def refusal(self, scope: dict[str, Any], body: bytes) -> str | None:
        """Return why a request is refused, None if it may pass.

        Parameters
        ----------
        scope
            The request, as in ASGI.
        body
            Its body.
        """
        from ministack.core.sigv4 import decode_header_value  # noqa: PLC0415

        headers: dict[str, str] = {}
        for name, raw in scope["headers"]:
            field, value = name.decode("latin-1").lower(), decode_header_value(raw)
            headers[field] = f"{headers[field]},{value}" if field in headers else value
        to_api = _execute_api(scope["path"]) is not None
        if ("origin" in headers or "sec-fetch-site" in headers) and not to_api:
            return "web pages have no access to the embedded AWS"
        if headers.get("host") not in self._hosts:
            return f"the host must be {' or '.join(self._hosts)}, got {headers.get('host')!r}"
        if to_api and scope["method"] == "OPTIONS":  # how a browser asks first whether a page may call
            return None
        if scope["method"] == "PUT" and scope["path"].startswith(_TOKEN_PATHS):
            return None
        if _is_for_anyone(scope["method"], scope["path"]):
            return None
        return self._unsigned(scope, headers, body)

    def _unsigned(self, scope: dict[str, Any], headers: dict[str, str], body: bytes) -> str | None:
        """Return what is wrong with a request's signature, if anything is."""
        from ministack.core import iam_evaluator, responses, router, sigv4  # noqa: PLC0415

        path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")
        query = parse_qs(scope["query_string"].decode("utf-8", "replace"), keep_blank_values=True)
        key = router.extract_access_key_id(headers, query)
        unsigned = "requests must be signed with a key of this embedded AWS"
        if iam_evaluator.is_root_access_key(key):  # such as none, or "test"
            return unsigned
        self._register_root(key)
        account = responses._account_from_sts_session(key) or iam_evaluator.find_iam_access_key_account(key)
        if "authorization" not in headers and iam_evaluator._s3_presigned_query(query):
            # S3 checks these, but nothing else that such a request may name.
            credential = iam_evaluator.resolve_credential(key, account)
            if isinstance(credential, iam_evaluator.CredentialResolutionError):
                return str(credential.message)
            signature = sigv4.parse_query_signature(query)
            failure = sigv4.header_signature_failure(
                signature, credential.secret_access_key, scope["method"], path, query, headers, body, presigned=True
            )
            return None if failure is None else str(failure[1])
        iam_evaluator.pin_signed_request(scope["method"], path, query, scope["headers"])
        iam_evaluator.pin_signed_body(body)
        found = iam_evaluator.authenticate(key, account)
        if isinstance(found, iam_evaluator.AuthError):
            return f"{unsigned}: {found.message}"
        return unsigned if found is None else None

    def _register_root(self, key: str) -> None:
        """Make the root of an account known as soon as it calls: any account may be deployed to."""
        from ministack.services import sts  # noqa: PLC0415

        match = self._root.fullmatch(key)
        if match is None or key in sts._sessions:
            return
        account = match[1]
        facts = {
            "Arn": f"arn:aws:iam::{account}:root",
            "UserId": account,
            "AccountId": account,
            "PrincipalType": "Root",
            "SecretAccessKey": self._secret,
        }
        sts.register_session(key, facts)


def _is_for_anyone(method: str, path: str) -> bool:
    """Whether a request need not be signed: its API asks an authorizer, or it is for the public keys of a user pool."""
    app = importlib.import_module("ministack.app")
    if (asked := _execute_api(path)) is None:
        return method == "GET" and _PUBLIC_KEYS.fullmatch(path) is not None
    api, *rest = asked
    stage, path = app._resolve_stage_and_path(api, *rest)
    kind = app._execute_api_authorization_type(api, stage, method, path)
    return kind not in (None, "AWS_IAM")


def _execute_api(path: str) -> tuple[str, ...] | None:
    """Return API, stage and path of a request that an API of the user gets; None for other requests."""
    found: tuple[str, ...] | None = importlib.import_module("ministack.app")._parse_execute_api_url("", path)
    return found


def _listen_nowhere_else(event: str, given: tuple[Any, ...]) -> None:
    """Refuse a second port to MiniStack, as for custom runtimes and databases: it would let everybody in."""
    if event == "socket.bind" and given[0].family in (socket.AF_INET, socket.AF_INET6):
        raise PermissionError(f"the embedded AWS listens on one port only, and not at {given[1]}")


async def _refuse(scope: dict[str, Any], send: Any, reason: str) -> None:  # noqa: ANN401
    """Answer in a way that SDKs understand: services that take JSON have errors in JSON, the others in XML."""
    types = [value for name, value in scope["headers"] if name.lower() == b"content-type"]
    if any(b"json" in kind for kind in types):
        await _send(send, 403, {"__type": "AccessDenied", "message": reason})
        return
    body = f"<ErrorResponse><Error><Code>AccessDenied</Code><Message>{escape(reason)}</Message></Error></ErrorResponse>"
    headers = [(b"content-type", b"text/xml"), (b"x-amzn-errortype", b"AccessDenied")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


async def _body(receive: Any) -> bytes:  # noqa: ANN401
    parts, more = [], True
    while more:
        part = await receive()
        parts.append(part.get("body", b""))
        more = part.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Any) -> Any:  # noqa: ANN401
    """Return what gives a body that was read, and then goes on."""
    given = False

    async def receive_again() -> Any:  # noqa: ANN401
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _without_cors(send: Any) -> Any:  # noqa: ANN401
    """Return what sends an answer without the headers that let any web page read it."""

    async def send_without(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [h for h in message.get("headers", ()) if not h[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": headers}
        await send(message)

    return send_without


async def _send(send: Any, status: int, answer: dict[str, Any]) -> None:  # noqa: ANN401
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def _date_lines() -> None:
    """Let MiniStack's log begin its lines as ours do, so that both can be shown in order."""
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03d+00:00 %(levelname)s [%(name)s] %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)


def _take_metric_math() -> None:
    """Let alarms on metric math be created, which MiniStack refuses; they never have data."""
    from ministack.services.cloudformation import provisioners  # noqa: PLC0415

    record = provisioners._cw_metric_alarm_record
    provisioners._cw_metric_alarm_record = lambda name, alarm: record(name, _without_math(alarm))


def _without_math(alarm: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of an alarm with a metric that has no data, in place of metric math."""
    if not alarm.get("Metrics"):
        return alarm
    kept = {name: value for name, value in alarm.items() if name != "Metrics"}
    return {**kept, "Namespace": "metric-math", "MetricName": "not evaluated here"}


def _behave_as_aws(state: Path) -> None:
    """Mend what MiniStack does in another way than AWS."""
    import _builds  # type: ignore[import-not-found]  # noqa: PLC0415 - a file next to this one
    import _distributed_map  # type: ignore[import-not-found]  # noqa: PLC0415 - as the one before
    import _histories  # type: ignore[import-not-found]  # noqa: PLC0415 - as the one before
    import _packages  # type: ignore[import-not-found]  # noqa: PLC0415 - as the one before
    from ministack.core import lambda_runtime  # noqa: PLC0415
    from ministack.services import lambda_svc, pipes  # noqa: PLC0415

    # Reserved concurrency is the function's, whichever version is invoked; MiniStack looks at the version's record.
    reserved = lambda_svc._reserved_concurrency
    lambda_svc._reserved_concurrency = lambda record, config: reserved(
        lambda_svc._functions.get(config["FunctionName"], record), config
    )
    # Step Functions names a throttled task's error so; MiniStack, which leaves it out, says that it is unknown.
    throttled = lambda_svc._throttle_response
    lambda_svc._throttle_response = lambda *given, **named: _with_error_type(throttled(*given, **named))
    # And an error of the function's by its class; MiniStack has one name for all.
    execute = lambda_svc._execute_function_with_config_scope
    lambda_svc._execute_function_with_config_scope = lambda *given, **named: _with_class_name(execute(*given, **named))
    _take_metric_math()
    _distributed_map.install()
    _histories.install()
    _packages.install(state / "packages")
    _builds.install(state / "builds", state / "builds.json", _service_credentials)
    lambda_runtime.execution_credentials = lambda_svc.execution_credentials = _function_credentials
    _name_actions()
    _name_resources()
    _name_events()
    _announce_stacks()
    _run_schedules()
    # Pipes run outside: MiniStack would start workflows with the records of tables, with all rights.
    pipes._poll_once = lambda: None


def main(state: Path, retry_after: float | None = None) -> None:
    """Serve until stdin closes; if told how long, no retry waits longer."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sys.addaudithook(_listen_nowhere_else)
    port = listener.getsockname()[1]
    key = json.loads((state / "key.json").read_text())
    gate = _Gate(port, key["id"], key["secret"])
    os.environ["GATEWAY_PORT"] = str(port)
    threading.Thread(target=_follow_parent, args=(state,), daemon=True).start()

    from hypercorn.asyncio import serve  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415
    from ministack.app import app  # noqa: PLC0415
    from ministack.core import lambda_runtime  # noqa: PLC0415

    _behave_as_aws(state)
    if retry_after is not None:
        from _retries import install  # type: ignore[import-not-found]  # noqa: PLC0415 - a file next to this one

        install(retry_after)
    from _cors import answer_pages  # type: ignore[import-not-found]  # noqa: PLC0415 - a file next to this one
    from _rest_apis import integrate_workflows  # type: ignore[import-not-found]  # noqa: PLC0415 - as the one before

    answer_pages()
    integrate_workflows(_service_credentials, port)
    _date_lines()
    faults = _Faults()
    faults.watch(lambda_runtime.Worker)
    sys.executable = _make_lambda_python(state / "lambda-python")  # what MiniStack runs Python functions with

    async def gated(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401
        if scope["type"] == "websocket":  # such as of API Gateway: nobody signs them
            await receive()
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        body = await _body(receive)
        if (reason := gate.refusal(scope, body)) is not None:
            await _refuse(scope, send, reason)
        elif scope["path"] == _SERVICE_CREDENTIALS:
            await _send(send, *_service_credentials(json.loads(body)))
        elif scope["path"] == _FAULTS:
            await _send(send, *faults.answer())
        elif scope["path"] == _ENVIRONMENTS:
            await _send(send, *_environments())
        else:
            # Bucket and queue policies refuse what does not come by TLS. Loopback needs none: we say, as a
            # terminating proxy would, that it did.
            scope = {**scope, "headers": [*scope["headers"], (b"x-forwarded-proto", b"https")]}
            # An API of the user says itself which pages may read its answers.
            to_api = _execute_api(scope["path"]) is not None
            await app(scope, _again(body, receive), send if to_api else _without_cors(send))

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    print(port, flush=True)  # noqa: T201
    asyncio.run(serve(gated, config))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:]))
