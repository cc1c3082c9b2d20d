"""Makes graphs of what is drawn: a pipeline from its template, and a workflow from its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import listed, mapping
from cdk_inference.common.owners import Owners
from cdk_inference.drawings.graph import Edge, Graph, Node
from cdk_inference.review.template import references

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cdk_inference.drawings.workflows import Workflow
    from cdk_inference.review.changes.cdk_diff import Change
    from cdk_inference.review.changes.workflows import WorkflowChange
    from cdk_inference.review.template import Resource, Template

KINDS = {
    "AWS::ApiGateway::RestApi": ("REST API", "front"),
    "AWS::ApiGatewayV2::Api": ("HTTP API", "front"),
    "AWS::CloudFormation::Stack": ("nested stack", "other"),
    "AWS::DynamoDB::GlobalTable": ("DynamoDB table", "store"),
    "AWS::DynamoDB::Table": ("DynamoDB table", "store"),
    "AWS::Events::EventBus": ("event bus", "message"),
    "AWS::Events::Rule": ("EventBridge rule", "message"),
    "AWS::Kinesis::Stream": ("Kinesis stream", "message"),
    "AWS::Lambda::Function": ("Lambda function", "compute"),
    "AWS::Lambda::Url": ("function URL", "front"),
    "AWS::Pipes::Pipe": ("EventBridge pipe", "message"),
    "AWS::S3::Bucket": ("S3 bucket", "store"),
    "AWS::S3Vectors::Index": ("vector index", "store"),
    "AWS::SageMaker::Endpoint": ("SageMaker endpoint", "compute"),
    "AWS::Scheduler::Schedule": ("schedule", "front"),
    "AWS::SNS::Topic": ("SNS topic", "message"),
    "AWS::SQS::Queue": ("SQS queue", "message"),
    "AWS::StepFunctions::StateMachine": ("state machine", "flow"),
}
"""The types that are drawn, with their names for people and their kinds."""

# A reference to one of these stands for what they belong to.
_STANDS_FOR = {
    "AWS::Lambda::Alias": "FunctionName",
    "AWS::Lambda::Version": "FunctionName",
    "AWS::StepFunctions::StateMachineAlias": "RoutingConfiguration",
    "AWS::StepFunctions::StateMachineVersion": "StateMachineArn",
}
# From where to where, as places in the properties; nothing stands for the resource itself.
_WAYS: Mapping[str, Sequence[tuple[str, str]]] = {
    "AWS::ApiGateway::Method": [
        ("RestApiId", "Integration.Uri"),
        ("RestApiId", "Integration.RequestTemplates"),
        ("RestApiId", "Integration.RequestParameters"),
    ],
    "AWS::ApiGateway::RestApi": [("", "Body")],
    "AWS::ApiGatewayV2::Api": [("", "Body")],
    "AWS::ApiGatewayV2::Integration": [("ApiId", "IntegrationUri"), ("ApiId", "RequestParameters")],
    "AWS::Events::Rule": [("EventPattern", ""), ("EventBusName", ""), ("", "Targets.Arn")],
    "AWS::Lambda::EventInvokeConfig": [("FunctionName", "DestinationConfig.OnSuccess")],
    "AWS::Lambda::EventSourceMapping": [("EventSourceArn", "FunctionName")],
    "AWS::Lambda::Url": [("", "TargetFunctionArn")],
    "AWS::Pipes::Pipe": [("Source", ""), ("", "Target")],
    "AWS::S3::Bucket": [("", "NotificationConfiguration")],
    "AWS::Scheduler::Schedule": [("", "Target.Arn"), ("", "Target.Input")],
    "AWS::SNS::Subscription": [("TopicArn", "Endpoint")],
    "AWS::StepFunctions::StateMachine": [("", "Definition"), ("", "DefinitionString"), ("", "DefinitionSubstitutions")],
}
_WAYS_OF_FAILURES: Mapping[str, Sequence[tuple[str, str]]] = {
    "AWS::Events::Rule": [("", "Targets.DeadLetterConfig")],
    "AWS::Lambda::EventInvokeConfig": [("FunctionName", "DestinationConfig.OnFailure")],
    "AWS::Lambda::EventSourceMapping": [("FunctionName", "DestinationConfig.OnFailure")],
    "AWS::Lambda::Function": [("", "DeadLetterConfig")],
    "AWS::Pipes::Pipe": [
        ("", "SourceParameters.DynamoDBStreamParameters.DeadLetterConfig"),
        ("", "SourceParameters.KinesisStreamParameters.DeadLetterConfig"),
    ],
    "AWS::Scheduler::Schedule": [("", "Target.DeadLetterConfig")],
    "AWS::SNS::Subscription": [("TopicArn", "RedrivePolicy")],
    "AWS::SQS::Queue": [("", "RedrivePolicy")],
}
# These also write to, send to and start what their role lets them.
_WITH_ROLE = ("AWS::Lambda::Function", "AWS::StepFunctions::StateMachine")
_WRITES = (
    "dynamodb:PutItem",
    "dynamodb:UpdateItem",
    "dynamodb:BatchWriteItem",
    "events:PutEvents",
    "kinesis:PutRecords",
    "s3:PutObject",
    "s3vectors:PutVectors",
    "sns:Publish",
    "sqs:SendMessage",
    "states:StartExecution",
    "states:StartSyncExecution",
    "lambda:InvokeFunction",
    "sagemaker:InvokeEndpointAsync",
)
# The ends of paths that say no more than the type of the resource does.
_SAYS_NOTHING = ("Function", "Table", "Bucket", "StateMachine")


def pipelines(template: Template, changes: Sequence[Change] = ()) -> list[Graph]:
    """Return the graph of each pipeline of a template; of the whole template if there is none."""
    edges = list(dict.fromkeys(connections(template)))
    status = {change.resource.logical_id: _status(change) for change in changes if change.after is not None}
    drawn = {name: resource for name, resource in template.resources.items() if resource.type in KINDS}
    linked = {end for edge in edges for end in (edge.source, edge.target)}
    owners = Owners(each.facts for each in template.resources.values())
    found = {owner for each in drawn.values() if (owner := owners.pipeline(each.facts)) is not None}
    # By the paths of what is theirs, the longest first: a part without facts belongs to what is around it.
    roots = sorted([*({owner: owner for owner in found} | owners.triggers()).items()], key=lambda root: -len(root[0]))
    graphs = []
    for owner in sorted(found) or [template.path]:
        prefix = f"{owner}/"
        own = {name for name, each in drawn.items() if not found or _owner(each, roots) == owner}
        # Neighbours of a pipeline, such as a shared table, are drawn with it.
        near = {end for edge in edges if {edge.source, edge.target} & own for end in (edge.source, edge.target)}
        kept = (near | own) & linked
        nodes = tuple(
            Node(name, _short(each, prefix), KINDS[each.type][0], KINDS[each.type][1], status.get(name, ""))
            for name, each in drawn.items()
            if name in kept
        )
        inner = tuple(edge for edge in edges if edge.source in kept and edge.target in kept)
        if nodes:
            graphs.append(Graph(owner, nodes, inner))
    return graphs


def _owner(resource: Resource, roots: Sequence[tuple[str, str]]) -> str | None:
    path = f"{resource.full_path}/"
    return next((owner for root, owner in roots if path.startswith(f"{root}/")), None)


def levels(drawn: Workflow, change: WorkflowChange | None = None) -> list[Graph]:
    """Return the graphs of a state machine: that of the outer states, and one for each Map or Parallel state.

    Parameters
    ----------
    drawn
        The state machine.
    change
        How it changes, if it does.
    """
    statuses = dict.fromkeys(change.changed, "changed") | dict.fromkeys(change.added, "new") if change else {}
    return drawn.levels(statuses)


def _status(change: Change) -> str:
    if change.sign == "+":
        return "new"
    return "replaced" if change.impact in ("replace", "may be replaced") else "changed"


def _short(resource: Resource, prefix: str) -> str:
    name = f"{resource.full_path}/".removeprefix(prefix).strip("/") or resource.path
    parts = name.split("/")
    while len(parts) > 1 and parts[-1] in _SAYS_NOTHING:
        parts.pop()
    return "/".join(part for part in parts if part != "Routes")


def connections(template: Template) -> Iterator[Edge]:
    """Yield what events, items and rows pass between, also what roles let functions write to."""
    senders = _senders(template)
    for name, resource in template.resources.items():
        for ways, dashed in ((_WAYS, False), (_WAYS_OF_FAILURES, True)):
            for source, target in ways.get(resource.type, ()):
                yield from _between(_ends(template, resource, source), _ends(template, resource, target), dashed)
        role = next(references(resource.properties.get("Role", resource.properties.get("RoleArn"))), "")
        if resource.type in _WITH_ROLE:
            yield from _between([name], senders.get(role, []), False)


def _between(sources: Sequence[str], targets: Sequence[str], dashed: bool) -> Iterator[Edge]:
    for source in sources:
        for target in targets:
            if source != target:
                yield Edge(source, target, dashed)


def _ends(template: Template, resource: Resource, place: str) -> list[str]:
    """Return the resources that a property names, however deep; the resource itself without a property."""
    if not place:
        return [resource.logical_id]
    values: list[Any] = [resource.properties]
    for part in place.split("."):
        values = [mapping(each).get(part) for value in values for each in listed(value)]
    return _meant(template, values)


def _meant(template: Template, value: object) -> list[str]:
    """Return the drawn resources that a value refers to, also by an alias or a version."""
    found = []
    for name in references(value):
        resource = template.resources.get(name)
        while resource is not None and resource.type in _STANDS_FOR:
            nearest = next(references(resource.properties.get(_STANDS_FOR[resource.type])), "")
            resource = template.resources.get(nearest)
        if resource is not None and resource.type in KINDS:
            found.append(resource.logical_id)
    return list(dict.fromkeys(found))


def _senders(template: Template) -> dict[str, list[str]]:
    """Return what each role may write to, send to or start, by the role's logical id."""
    found: dict[str, list[str]] = {}
    for policy in template.of_type("AWS::IAM::Policy"):
        targets = []
        for statement in listed(mapping(policy.properties.get("PolicyDocument")).get("Statement")):
            allowed = mapping(statement).get("Effect") == "Allow"
            if allowed and set(map(str, listed(mapping(statement).get("Action")))) & set(_WRITES):
                targets += _meant(template, mapping(statement).get("Resource"))
        for role in listed(policy.properties.get("Roles")):
            found.setdefault(next(references(role), ""), []).extend(targets)
    return found
