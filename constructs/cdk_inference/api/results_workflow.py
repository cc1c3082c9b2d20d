"""The workflow that looks up a row for a REST API: no function reads the table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aws_cdk import Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.common.jsonata import string_literal
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.stages.state_machine import LoggedStateMachine
from cdk_inference.storage import encryption

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from constructs import Construct

    from cdk_inference.storage.results import IResultsTable

TIMEOUT = Duration.seconds(20)

# An attribute of DynamoDB has one member, its type: Step Functions calls that of null Nul, and DynamoDB NULL.
_PLAIN = (
    "$plain := function($attribute) {( $type := $keys($attribute)[0]; $value := $lookup($attribute, $type); "
    "$type = 'M' ? $merge([{}, $each($value, function($member, $name) { {$name: $plain($member)} })]) "
    ": $type = 'L' ? [$value.$plain($)] : $type = 'N' ? $number($value) "
    ": $type in ['NULL', 'Null', 'Nul'] ? null : $value )}"
)
_SHOWN = ("status", "prediction", "reason", "model_version", "recorded_at", "etag")


@check_props
class ResultsWorkflow(LoggedStateMachine):
    """An express state machine that returns the newest row of an item as a response.

    Input: ``{"api", "id"}``, where the id is in base64. Output: ``{"statusCode", "body"}``, where the body is JSON as a
    string.

    Parameters
    ----------
    results
        The table.
    beginning
        The beginning of the attribute ``object`` of the trigger's items, up to their id. Rows of requests with an
        idempotency key are found first.
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
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        results: IResultsTable,
        beginning: str,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._create(
            first_state=self._states(results, beginning),
            comment=f"looks up results of {scope.node.path}",
            state_machine_type=sfn.StateMachineType.EXPRESS,
            timeout=TIMEOUT,
            encryption_key=encryption_key,
            log_retention=log_retention,
            log_removal_policy=log_removal_policy,
        )
        results.grant_look_up(self.state_machine)
        self._complete("results-state-machine")

    def _states(self, results: IResultsTable, beginning: str) -> sfn.IChainable:
        read = sfn.Pass.jsonata(
            self,
            "Read request",
            assign={
                "asked": "{% 'apigateway:' & $states.input.api & '/' & $base64decode($states.input.id) %}",
                "sent": f"{{% {string_literal(beginning)} & $base64decode($states.input.id) %}}",
            },
        )
        first = self._query("Look up request", results, "{% $asked %}")
        second = self._query("Look up item", results, "{% $sent %}")
        found = sfn.Pass.jsonata(
            self,
            "Found",
            outputs={
                "statusCode": 200,
                "body": f"{{% ({_PLAIN}; $row := $states.input.Items[0]; $string($merge(["
                + ", ".join(f"$exists($row.{name}) ? {{'{name}': $plain($row.{name})}} : {{}}" for name in _SHOWN)
                + "]))) %}",
            },
        )
        missing = sfn.Pass.jsonata(
            self,
            "Missing",
            outputs={"statusCode": 404, "body": json.dumps({"message": "no result has this id yet"})},
        )
        any_request = sfn.Choice.jsonata(self, "A request?")
        any_request.when(sfn.Condition.jsonata("{% $states.input.Count > 0 %}"), found).otherwise(second)
        any_item = sfn.Choice.jsonata(self, "An item?")
        any_item.when(sfn.Condition.jsonata("{% $states.input.Count > 0 %}"), found).otherwise(missing)
        first.next(any_request)
        second.next(any_item)
        read.next(first)
        return read

    def _query(self, id: str, results: IResultsTable, key: str) -> sfn.CustomState:
        query = sfn.CustomState(
            self,
            id,
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self).partition}:states:::aws-sdk:dynamodb:query",
                "Arguments": {
                    "TableName": results.table.table_name,
                    "KeyConditionExpression": "#object = :object",
                    "ExpressionAttributeNames": {"#object": "object"},
                    "ExpressionAttributeValues": {":object": {"S": key}},
                    "ScanIndexForward": False,
                    "Limit": 1,
                },
            },
        )
        query.add_retry(interval=Duration.seconds(1), max_attempts=2, backoff_rate=2)
        return query

    def grant_start_sync_execution(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee look up a row and wait for it."""
        encryption.grant_executions(self.state_machine, self._key, grantee)
        return self.state_machine.grant_start_sync_execution(grantee)
