"""The workflow that answers one request with separate stages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aws_cdk import Duration
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.stages.base import NO_MODEL, TRANSIENT_ERRORS
from cdk_inference.stages.state_machine import LoggedStateMachine
from cdk_inference.storage import encryption

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_kms as kms
    from constructs import Construct

    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.interfaces import IStage

TIMEOUT = Duration.seconds(28)
"""API Gateway waits for 29 seconds."""

_KEY = "$states.input.key = '' ? '' : $base64decode($states.input.key)"


@check_props
class AnswerWorkflow(LoggedStateMachine):
    """An express state machine that takes one request through the stages of a pipeline, and returns the response.

    Input: ``{"request", "api", "time", "key", "body"}``, where the idempotency key and the body are in base64. Output:
    ``{"statusCode", "body"}``, where the body is JSON as a string.

    Parameters
    ----------
    preprocess, inference, postprocess
        The stages.
    route
        The name of their route on rows. Default: none.
    encryption_key
        Customer managed key of the log group, the definition and the executions. Default: AWS encrypts with its own.
    log_retention
        Default: one month.
    log_removal_policy
        Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    state_machine
        The state machine, for everything this construct does not cover.

    Raises
    ------
    PropError
        A request might have to wait for the inference.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        preprocess: StageFunction,
        inference: IStage,
        postprocess: StageFunction,
        route: str | None = None,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        if inference.max_wait is not None:
            raise PropError(
                f"inference must answer at once for an API, got {inference.node.path}, for which a batch may wait "
                f"{inference.max_wait.to_seconds():g} s; use Inference.cpu(…)"
            )
        self._create(
            first_state=self._states(preprocess, inference, postprocess, route),
            comment=f"answers requests with {inference.node.path}",
            state_machine_type=sfn.StateMachineType.EXPRESS,
            timeout=TIMEOUT,
            encryption_key=encryption_key,
            log_retention=log_retention,
            log_removal_policy=log_removal_policy,
        )
        for stage in (preprocess, inference, postprocess):
            stage.grant_invoke(self.state_machine)
        self._complete("answer-state-machine")

    def _states(
        self, preprocess: StageFunction, inference: IStage, postprocess: StageFunction, route: str | None
    ) -> sfn.IChainable:
        read = sfn.Pass.jsonata(
            self,
            "Read request",
            assign={
                "message": {
                    "message_id": "{% $states.input.request %}",
                    "body": "{% $states.input.body %}",
                    "item": {
                        "source": "{% 'arn:aws:apigateway:::' & $states.input.api %}",
                        "id": f"{{% $states.input.key = '' ? $states.input.request : {_KEY} %}}",
                        "sequence": "0",  # so that the first row of a key stays
                        "time": "{% $states.input.time %}",
                        "encoding": "base64",
                    },
                },
                "key": f"{{% {_KEY} %}}",
                "answers": "{% $states.input.key = '' ? 'only' : 'rows' %}",
            },
            outputs={},
        )
        preprocessing = preprocess.task(
            self,
            "Preprocess",
            payload={"messages": ["{% $message %}"]},
            assign={
                "prepared": {
                    name: f"{{% [$states.result.Payload.{name}] %}}"
                    for name in ("items", "rejected", "retry", "failed", "unfinished")
                },
            },
            output={"groups": "{% [$states.result.Payload.groups] %}"},
        )
        inferring = inference.task(
            self,
            "Infer",
            payload={"groups": "{% [$states.input.groups] %}"},
            output="{% $states.result.Payload %}",
        )
        named = f", 'route': '{route}'" if route is not None else ""
        postprocessing = postprocess.task(
            self,
            "Postprocess",
            payload=(
                "{% $merge([$states.input, {'items': $prepared.items, 'rejected': $prepared.rejected, "
                f"'prepared': $prepared, 'answers': $answers{named}}}]) %}}"
            ),
            output="{% $states.result.Payload.response %}",
        )
        any_left = sfn.Choice.jsonata(self, "Anything to score?")
        any_left.when(
            sfn.Condition.jsonata("{% $count($states.input.groups) = 0 %}"),
            postprocessing,
            outputs={"groups": [], "inference": "none", "model_version": inference.model_version or NO_MODEL},
        ).otherwise(inferring)
        busy = self._refuse("Busy", 503, "a service that is needed is not available; try again")
        broken = self._refuse("Broken", 500, "Internal Server Error")
        for task in (preprocessing, inferring, postprocessing):
            task.add_catch(busy, errors=list(TRANSIENT_ERRORS))
            task.add_catch(broken, errors=[sfn.Errors.ALL])
        valid = sfn.Choice.jsonata(self, "Valid?")
        valid.when(
            sfn.Condition.jsonata("{% $message.body = '' %}"),
            self._refuse("No body", 400, "the request must have a body"),
        )
        valid.when(
            sfn.Condition.jsonata("{% $key != '' and $not($contains($key, /^[ -~]{1,255}$/)) %}"),
            self._refuse("No key", 400, "Idempotency-Key must be 1 to 255 printable ASCII characters"),
        )
        valid.otherwise(preprocessing)
        read.next(valid)
        preprocessing.next(any_left)
        inferring.next(postprocessing)
        return read

    def _refuse(self, id: str, status: int, message: str) -> sfn.Pass:
        return sfn.Pass.jsonata(self, id, outputs={"statusCode": status, "body": json.dumps({"message": message})})

    def grant_start_sync_execution(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee send a request and wait for the response."""
        encryption.grant_executions(self.state_machine, self._key, grantee)
        return self.state_machine.grant_start_sync_execution(grantee)
