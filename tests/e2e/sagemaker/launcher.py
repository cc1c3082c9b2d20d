"""The embedded AWS, in three points more like Step Functions than MiniStack is.

- A task whose function fails to submit has failed. MiniStack waits for an answer until the task's timeout.
- The error has the name of the exception. MiniStack calls all of them Runtime.HandlerError. Ours have their name in the
  message too.
- Whoever answers a task needs the permission for the state machine. MiniStack asks for one on everything, as the
  service authorization reference does. https://github.com/aws/aws-cdk/pull/8486 says what was found in AWS.
"""

from __future__ import annotations

import asyncio
import json
import runpy
import sys
import threading
from pathlib import Path

MINISTACK = Path(__file__).parents[3] / "constructs" / "cdk_inference" / "local" / "emulator" / "_ministack.py"


def correct() -> None:
    from ministack.core import iam_actions
    from ministack.services import stepfunctions

    running, machines = threading.local(), {}
    execute, invoke, call = (
        stepfunctions._execute_task,
        stepfunctions._invoke_with_callback,
        stepfunctions._call_lambda,
    )
    resource_of = iam_actions.extract_resource_arn

    def execute_task(state, state_input, execution, context):
        running.machine = execution["stateMachineArn"]
        return execute(state, state_input, execution, context)

    def invoke_with_callback(resource, arguments, token, state):
        machines[token] = running.machine
        running.token = token
        try:
            return invoke(resource, arguments, token, state)
        finally:
            running.token = None

    def call_lambda(function, event):
        try:
            return call(function, event)
        except stepfunctions._ExecutionError as error:
            message = json.loads(error.cause).get("errorMessage", "") if error.error == "Runtime.HandlerError" else ""
            if message.startswith("RetryableError: "):
                error.error = "RetryableError"
            if getattr(running, "token", None) is not None:
                task = stepfunctions._task_tokens[running.token]
                task["error"] = {"Error": error.error, "Cause": error.cause}
                task["event"].set()
            raise

    def extract_resource_arn(service, method, path, headers, body, *rest):
        if service == "states" and b'"taskToken"' in body:
            return machines.get(json.loads(body)["taskToken"], "*")
        return resource_of(service, method, path, headers, body, *rest)

    stepfunctions._execute_task = execute_task
    stepfunctions._invoke_with_callback = invoke_with_callback
    stepfunctions._call_lambda = call_lambda
    iam_actions.extract_resource_arn = extract_resource_arn


def run(main):
    correct()
    return asyncio_run(main)


asyncio_run, asyncio.run = asyncio.run, run
sys.path.insert(0, str(MINISTACK.parent))  # as if it were run itself
runpy.run_path(str(MINISTACK))["main"](Path(sys.argv[1]))
