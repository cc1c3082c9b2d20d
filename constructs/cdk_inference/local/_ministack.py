"""The child process that is the embedded AWS: MiniStack, on a port of its own, for as long as its parent lives.

Run as a file, not as a module: it then imports nothing of ours. The first line on stdout is the port; closing stdin
stops it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
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

# What Lambda's Python runtimes offer a function besides its own bundle.
_LAMBDA_PACKAGES = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")

# Ours, next to MiniStack's own /_ministack/: credentials of a role for a service that acts with it, and functions
# whose process does not run. aws.py has the same names.
_SERVICE_CREDENTIALS = "/_cdk-inference/service-credentials"
_FAULTS = "/_cdk-inference/faults"
_SESSION_SECONDS = 3600


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

    MiniStack has no service principals: it lets the account's root stand for any service, without the keys by which a
    trust policy tells on whose behalf the service asks.
    """
    from ministack.core.iam_evaluator import (  # type: ignore[import-untyped]  # noqa: PLC0415
        EvalContext,
        evaluate_trust_policy,
    )
    from ministack.services import iam, sts  # type: ignore[import-untyped]  # noqa: PLC0415

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
    credentials = {
        "AccessKeyId": iam._gen_session_access_key(),
        "SecretAccessKey": iam._gen_secret(),
        "SessionToken": iam._gen_session_token(),
    }
    facts = {
        "Arn": f"arn:aws:sts::{account}:assumed-role/{name}/{session}",
        "UserId": f"{role['RoleId']}:{session}",
        "AccountId": account,
        "PrincipalType": "AssumedRole",
        "SecretAccessKey": credentials["SecretAccessKey"],
        "SessionToken": credentials["SessionToken"],
        "Expiration": time.time() + _SESSION_SECONDS,
    }
    sts.register_session(credentials["AccessKeyId"], facts)
    return 200, credentials


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


def _named_errors(stepfunctions: Any, call_lambda: Any, function: str, event: Any) -> Any:  # noqa: ANN401
    try:
        return call_lambda(function, event)
    except stepfunctions._ExecutionError as error:
        name, colon, _ = str(json.loads(error.cause).get("errorMessage", "")).partition(": ")
        if error.error == "Runtime.HandlerError" and colon and name.isidentifier() and name.endswith("Error"):
            error.error = name
        raise


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
            except RuntimeError as error:
                self_found.append(_fault(self.func_name, f"does not start: {error}"))
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


async def _body(receive: Any) -> bytes:  # noqa: ANN401
    body, more = b"", True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
    return body


async def _send(send: Any, status: int, answer: dict[str, Any]) -> None:  # noqa: ANN401
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def main(state: Path) -> None:
    """Serve until stdin closes."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    os.environ["GATEWAY_PORT"] = str(port)
    threading.Thread(target=_follow_parent, args=(state,), daemon=True).start()

    from hypercorn.asyncio import serve  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415
    from ministack.app import app  # type: ignore[import-untyped]  # noqa: PLC0415
    from ministack.core import lambda_runtime  # type: ignore[import-untyped]  # noqa: PLC0415
    from ministack.services import lambda_svc, stepfunctions  # noqa: PLC0415

    # Reserved concurrency is the function's, whichever version is invoked; MiniStack looks at the version's record.
    reserved = lambda_svc._reserved_concurrency
    lambda_svc._reserved_concurrency = lambda record, config: reserved(
        lambda_svc._functions.get(config["FunctionName"], record), config
    )
    # Step Functions names a throttled task's error so; MiniStack, which leaves it out, says that it is unknown.
    throttled = lambda_svc._throttle_response
    lambda_svc._throttle_response = lambda *given, **named: _with_error_type(throttled(*given, **named))
    # And an error of the function's by its class; MiniStack has one name for all. Ours begin with theirs.
    call_lambda = stepfunctions._call_lambda
    stepfunctions._call_lambda = lambda function, event: _named_errors(stepfunctions, call_lambda, function, event)
    faults = _Faults()
    faults.watch(lambda_runtime.Worker)
    sys.executable = _make_lambda_python(state / "lambda-python")  # what MiniStack runs Python functions with

    async def behind_tls(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401
        # Bucket and queue policies refuse what does not come by TLS. Loopback needs none: we say, as a
        # terminating proxy would, that it did.
        if scope["type"] == "http":
            if scope["path"] == _SERVICE_CREDENTIALS:
                await _send(send, *_service_credentials(json.loads(await _body(receive))))
                return
            if scope["path"] == _FAULTS:
                await _send(send, *faults.answer())
                return
            scope = {**scope, "headers": [*scope["headers"], (b"x-forwarded-proto", b"https")]}
        await app(scope, receive, send)

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    print(port, flush=True)  # noqa: T201
    asyncio.run(serve(behind_tls, config))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
