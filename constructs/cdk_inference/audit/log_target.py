"""The queue of an audit log as the target of rules, which may be in other stacks than the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jsii
from aws_cdk import Names, Stack, Token
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam

if TYPE_CHECKING:
    from aws_cdk import aws_sqs as sqs
    from aws_cdk.interfaces.aws_events import IRuleRef

_LONGEST_NAME = 64


@jsii.implements(events.IRuleTarget)
class LogTarget:
    """Sends events to a queue, and lets the rule do so, wherever the rule is.

    CDK's own target names the rule in the queue's policy by its ARN. From another stack, the stacks would then refer to
    each other, since the rule names the queue. There, the rule has a name that both stacks know.

    Parameters
    ----------
    queue, dead_letter_queue
        The queues of the log.
    message
        The message for an event.
    """

    def __init__(self, queue: sqs.Queue, dead_letter_queue: sqs.Queue, message: events.RuleTargetInput) -> None:
        self._queue = queue
        self._dead_letter_queue = dead_letter_queue
        self._message = message

    @jsii.member(jsii_name="bind")
    def bind(self, rule: IRuleRef, id: str | None = None) -> events.RuleTargetConfig:
        """Return what the rule needs to know, and let it send. CDK calls this."""
        own, other = Stack.of(self._queue), Stack.of(rule)
        if own.node.path == other.node.path or (own.account, own.region) != (other.account, other.region):
            target = targets.SqsQueue(self._queue, message=self._message, dead_letter_queue=self._dead_letter_queue)
            return target.bind(rule, id)
        name = _name(rule)
        for queue in (self._queue, self._dead_letter_queue):
            queue.add_to_resource_policy(
                iam.PolicyStatement(
                    actions=["sqs:SendMessage"],
                    principals=[iam.ServicePrincipal("events.amazonaws.com")],
                    resources=[queue.queue_arn],
                    conditions={"ArnLike": {"aws:SourceArn": [_arn(own, name), _arn(own, f"*/{name}")]}},
                )
            )
        return events.RuleTargetConfig(
            arn=self._queue.queue_arn,
            input=self._message,
            dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=self._dead_letter_queue.queue_arn),
        )


def _name(rule: IRuleRef) -> str:
    """Return the rule's name; one that has none yet gets one."""
    resource = rule.node.default_child
    assert isinstance(resource, events.CfnRule)  # noqa: S101 - for mypy
    if resource.name is None or Token.is_unresolved(resource.name):  # CDK's own token becomes no name
        resource.name = Names.unique_resource_name(rule, max_length=_LONGEST_NAME, separator="-")
    return resource.name


def _arn(stack: Stack, name: str) -> str:
    """Return the ARN of a rule; that of a bus which is not the default has the bus in front of the name."""
    return stack.format_arn(service="events", resource="rule", resource_name=name)
