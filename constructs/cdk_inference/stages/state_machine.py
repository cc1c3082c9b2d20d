"""The logs, encryption and metrics that the state machines of a pipeline share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import STATE_MACHINE_LOGS, log_group

if TYPE_CHECKING:
    from aws_cdk import Duration, RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_logs as logs


class LoggedStateMachine(Construct):
    """A state machine that logs and traces its executions, and encrypts them if there is a key.

    Attributes
    ----------
    state_machine
        The state machine, for everything this construct does not cover.
    log_group
        Its log group.
    """

    state_machine: sfn.StateMachine
    log_group: logs.LogGroup
    _key: kms.IKey | None

    def _create(
        self,
        *,
        first_state: sfn.IChainable,
        comment: str,
        state_machine_type: sfn.StateMachineType,
        timeout: Duration,
        encryption_key: kms.IKey | None,
        log_retention: logs.RetentionDays,
        log_removal_policy: RemovalPolicy | None,
    ) -> None:
        self._key = encryption_key
        self.log_group = log_group(
            self,
            key=encryption_key,
            retention=log_retention,
            removal_policy=log_removal_policy,
            folder=STATE_MACHINE_LOGS,
        )
        self.state_machine = sfn.StateMachine(
            self,
            "StateMachine",
            comment=comment,
            definition_body=sfn.DefinitionBody.from_chainable(first_state),
            query_language=sfn.QueryLanguage.JSONATA,
            state_machine_type=state_machine_type,
            timeout=timeout,
            tracing_enabled=True,
            logs=sfn.LogOptions(destination=self.log_group, level=sfn.LogLevel.ERROR, include_execution_data=False),
        )

    def _complete(self, role: str) -> None:
        """Encrypt and describe the state machine, once it has been granted all that it may do."""
        encryption.encrypt_executions(self.state_machine, self._key)
        add_metadata(self.state_machine, role)
        acknowledgments.explain(self.state_machine, "errors-logged-only")
        acknowledgments.policy_of(self.state_machine.role, "tracing-and-log-delivery")

    def metric_failed(self, **options: Any) -> cloudwatch.Metric:
        """Count the executions that failed as a whole, as a sum over 5 minutes."""
        return self.state_machine.metric_failed(**options)

    def metric_timed_out(self, **options: Any) -> cloudwatch.Metric:
        """Count the executions that ran out of time, as a sum over 5 minutes."""
        return self.state_machine.metric_timed_out(**options)

    def metric_time(self, **options: Any) -> cloudwatch.Metric:
        """Measure the milliseconds of an execution, waiting included, the average over 5 minutes."""
        return self.state_machine.metric_time(**options)
