"""The requests that a simulator is asked about: those that must be allowed, and their neighbours, which must not be."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from verify.policies.flows import LEADING_KEYS, Flows
from verify.policies.template import ACCOUNT, OTHER_ACCOUNT, REGION, Template, arn, aslist, policies_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from verify.policies.flows import Edge
    from verify.policies.template import Part

TEMPTING = {
    "cloudwatch:DeleteAlarms",
    "dynamodb:BatchWriteItem",
    "dynamodb:DeleteItem",
    "dynamodb:DeleteTable",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Query",
    "dynamodb:Scan",
    "dynamodb:UpdateItem",
    "iam:PassRole",
    "iam:PutRolePolicy",
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:PutKeyPolicy",
    "kms:ScheduleKeyDeletion",
    "lambda:InvokeFunction",
    "lambda:UpdateFunctionCode",
    "logs:DeleteLogGroup",
    "logs:GetLogEvents",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:GetObjectTagging",
    "s3:ListBucket",
    "s3:PutBucketPolicy",
    "s3:PutObject",
    "s3:PutObjectTagging",
    "sagemaker:InvokeEndpoint",
    "sns:Publish",
    "sns:Subscribe",
    "sqs:DeleteMessage",
    "sqs:PurgeQueue",
    "sqs:ReceiveMessage",
    "sqs:SendMessage",
    "sqs:SetQueueAttributes",
    "states:SendTaskSuccess",
    "states:StartExecution",
    "states:StartSyncExecution",
    "states:StopExecution",
    "states:UpdateStateMachine",
    "sts:AssumeRole",
}
"""Calls that are asked about even if no policy mentions them: a wildcard would allow them."""

SERVICES = (
    "apigateway.amazonaws.com",
    "delivery.logs.amazonaws.com",
    "ec2.amazonaws.com",
    "events.amazonaws.com",
    "lambda.amazonaws.com",
    f"logs.{REGION}.amazonaws.com",
    "logs.us-east-2.amazonaws.com",
    "pipes.amazonaws.com",
    "s3.amazonaws.com",
    "sagemaker.amazonaws.com",
    "sns.amazonaws.com",
    "states.amazonaws.com",
    "vpc-flow-logs.amazonaws.com",
)
"""The callers to ask about for each resource that has a policy."""

_FEW = 3  # resources that are asked about if no policy mentions an action
# The folders of the work bucket, and one that nobody uses.
_FOLDERS = ("tensors", "sagemaker/requests", "sagemaker/answers", "sagemaker/failures", "elsewhere")
_STRANGER = f"arn:aws:iam::{OTHER_ACCOUNT}:role/Stranger"
_COLLEAGUE = f"arn:aws:iam::{ACCOUNT}:role/Colleague"
_ANYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
_ACTION_ON = {
    "AWS::S3::Bucket": "s3:GetObject",
    "AWS::SQS::Queue": "sqs:SendMessage",
    "AWS::SNS::Topic": "sns:Publish",
    "AWS::KMS::Key": "kms:Decrypt",
    "AWS::Lambda::Function": "lambda:InvokeFunction",
    "AWS::IAM::Role": "sts:AssumeRole",
}
"""The actions that a stranger tries on each kind of resource that has a policy."""

_NO_TLS = {"aws:SecureTransport": "false"}
_OLD_TLS = {"aws:SecureTransport": "true", "s3:TlsVersion": "1.1"}
_INSECURE = {
    "AWS::S3::Bucket": (_NO_TLS, _OLD_TLS),
    "AWS::SQS::Queue": (_NO_TLS,),
    "AWS::SNS::Topic": (_NO_TLS,),
}
"""How nobody may call, whatever else is allowed."""


@dataclass(frozen=True)
class Request:
    """A question for the simulator.

    Parameters
    ----------
    subject
        The logical id of the role or resource whose policy is asked about.
    principal, action, resource
        The call.
    allowed
        The answer that is right.
    context
        Condition keys.
    identity
        Policies of the caller.
    policy
        Policy of the resource.
    """

    subject: str
    principal: str
    action: str
    resource: str
    allowed: bool
    context: Mapping[str, str]
    identity: tuple[str, ...] = ()
    policy: str | None = None

    def question(self) -> list[Any]:
        """Return what the simulator is asked."""
        account = OTHER_ACCOUNT if f":{OTHER_ACCOUNT}:" in self.resource else ACCOUNT
        return [self.principal, self.action, self.resource, account, self.context, self.identity, self.policy]

    def __str__(self) -> str:
        """Return it in words, for a finding."""
        about = ", ".join(f"{name}={value}" for name, value in self.context.items() if name != "aws:SecureTransport")
        tls = "" if self.context.get("aws:SecureTransport") == "true" else " without TLS"
        return f"{self.principal.rpartition(':')[2]} {self.action} {self.resource}{tls}" + f" ({about})" * bool(about)


class Questions:
    """The questions about an app.

    Parameters
    ----------
    template
        The app.
    actions
        That some policy mentions, of this or of other apps.

    Attributes
    ----------
    flows
        The calls that must be allowed.
    documents
        The policies, by a name of ours.
    """

    def __init__(self, template: Template, actions: Iterable[str]) -> None:
        self.flows = Flows(template)
        self.documents: dict[str, Any] = {"anything": _ANYTHING}
        self._template = template
        self._actions = sorted({*actions, *TEMPTING})
        self._resources = self._universe()
        self._policies = self._resource_policies()
        self._roles = template.of("AWS::IAM::Role")
        for role in self._roles:
            for number, document in enumerate(policies_of(template, role)):
                self.documents[f"{role.id}-{number}"] = document

    def requests(self) -> Iterator[Request]:
        """Yield all questions."""
        for role in self._roles:
            yield from self._of_role(role, [edge for edge in self.flows.edges if edge.who == role.arn])
        yield from self._of_services()
        yield from self._of_strangers()

    def problems(self) -> list[tuple[str, str]]:
        """Return what needs no simulator: the subject, and what is wrong with it."""
        found = [("flows", text) for text in self.flows.untraced]
        asked = {"*", *(resource for resources in self._resources.values() for resource in resources)}
        found += [
            (edge.who, f"{edge.action} is for '{edge.resource}', which is not in the template")
            for edge in sorted(self.flows.edges | self.flows.services)
            if not any(_matches(edge.resource, one) for one in asked)
        ]
        for role in self._roles:
            if role.arn not in {edge.resource for edge in self.flows.services}:
                found.append((role.id, "nothing in the template uses this role"))
            managed = {one.rpartition("/")[2] for one in role.properties.get("ManagedPolicyArns", ())}
            expected = {"AWSLambdaManagedEC2ResourceOperator"} if role.arn in self.flows.managed else set()
            if managed != expected:
                found.append((role.id, f"has the managed policies {sorted(managed)}, and needs {sorted(expected)}"))
        return found

    # --- what there is ---

    def _universe(self) -> dict[str, list[str]]:
        """Return the ARNs of what there is and of its neighbours, by service."""
        found: dict[str, set[str]] = defaultdict(set)
        flows = (*self.flows.edges, *self.flows.services)
        for part in self._template.parts.values():
            if part.arn.startswith("arn:"):
                found[_service(part.arn)].add(part.arn)
            if part.kind in ("AWS::Lambda::Version", "AWS::Lambda::Alias"):
                found["lambda"].add(part.ref)
        for edge in flows:  # what is used without being in the template, such as CDK's buckets and repositories
            if not edge.resource.startswith("*") and _service(edge.resource) in ("ecr", "events", "s3"):
                found[_service(edge.resource)].add(edge.resource.removesuffix("*"))
            elif "/stream/" in edge.resource:
                found["dynamodb"].add(edge.resource)
        prefixes = {edge.resource.partition("/")[2].removesuffix("*") for edge in flows if ":s3:::" in edge.resource}
        for service, resources in found.items():
            for resource in list(resources):
                resources |= set(_neighbours(service, resource))
        buckets = {resource.partition("/")[0] for resource in found["s3"]}
        found["s3"] = {
            *buckets,
            *(f"{bucket}/{prefix}a.jpg" for bucket in buckets for prefix in prefixes if not prefix.endswith("a.jpg")),
            *(f"{bucket}/{folder}/a.jpg" for bucket in buckets for folder in _FOLDERS),
            *(resource for resource in found["s3"] if "/" in resource and not resource.endswith("/")),
        }
        found["logs"] = {f"{resource.removesuffix(':*')}:log-stream:a" for resource in found["logs"]} | {
            resource if resource.endswith(":*") else f"{resource}:*" for resource in found["logs"]
        }
        return {service: sorted(resources) for service, resources in found.items()}

    def _resource_policies(self) -> dict[str, str]:
        """Return the names of the policies of resources, by the ARN of the resource."""
        found = {}
        attached = (
            ("AWS::S3::Bucket", "AWS::S3::BucketPolicy", "Bucket"),
            ("AWS::SQS::Queue", "AWS::SQS::QueuePolicy", "Queues"),
            ("AWS::SNS::Topic", "AWS::SNS::TopicPolicy", "Topics"),
        )
        for kind, policy, prop in attached:
            for part in self._template.of(kind):
                found[part.arn] = self._keep(part, self._template.attached(policy, prop, part))
        for key in self._template.of("AWS::KMS::Key"):
            found[key.arn] = self._keep(key, key.properties["KeyPolicy"])
            # A key that delegates to IAM, as ours does: a grant for all keys shows.
            found[f"{key.arn}-neighbour"] = found[key.arn]
        for role in self._template.of("AWS::IAM::Role"):
            found[role.arn] = self._keep(role, role.properties["AssumeRolePolicyDocument"])
        for function in self._template.of("AWS::Lambda::Function"):
            for target in self._targets(function):
                found[target] = self._keep(function, self._permissions(target), target)
        return {resource: name for resource, name in found.items() if name}

    def _keep(self, part: Part, document: Mapping[str, Any] | None, name: str = "") -> str:
        if not document:
            return ""
        name = f"of {name or part.id}"
        self.documents[name] = document
        return name

    def _targets(self, function: Part) -> list[str]:
        """Return the ARNs of a function, of its versions and of its aliases."""
        qualified = self._template.of("AWS::Lambda::Version", "AWS::Lambda::Alias")
        return [function.arn, *(one.ref for one in qualified if one.ref.startswith(f"{function.arn}:"))]

    def _permissions(self, target: str) -> dict[str, Any] | None:
        """Return the permissions on a function, or on a version or an alias of it, as the policy that they become."""
        statements = []
        for permission in self._template.of("AWS::Lambda::Permission"):
            properties = permission.properties
            name = properties["FunctionName"]
            if target not in (name, f"{arn(f'lambda:{REGION}:{ACCOUNT}:function:')}{name}"):
                continue
            conditions: dict[str, dict[str, str]] = {}
            if "SourceArn" in properties:
                conditions["ArnLike"] = {"AWS:SourceArn": properties["SourceArn"]}
            if "SourceAccount" in properties:
                conditions["StringEquals"] = {"AWS:SourceAccount": properties["SourceAccount"]}
            principal = properties["Principal"]
            statements.append(
                {
                    "Effect": "Allow",
                    "Principal": {"Service": principal} if principal.endswith(".com") else {"AWS": principal},
                    "Action": properties["Action"],
                    "Resource": target,
                    **({"Condition": conditions} if conditions else {}),
                }
            )
        return {"Version": "2012-10-17", "Statement": statements} if statements else None

    # --- questions ---

    def _of_role(self, role: Part, edges: list[Edge]) -> Iterator[Request]:
        identity = tuple(name for name in self.documents if name.rpartition("-")[0] == role.id)
        by_action: dict[str, list[Edge]] = defaultdict(list)
        for each in edges:
            by_action[each.action].append(each)
        for action in self._actions:
            service = action.partition(":")[0]
            # Some actions take no resource, and the simulator says which.
            resources = ("*", *self._resources.get(_resources_of(action), ()))
            if not by_action[action] and not self._mentioned(action, identity):
                resources = resources[:_FEW]
            for resource in resources:
                policy = self._policy_of(resource)
                matching = [one for one in by_action[action] if _matches(one.resource, resource)]
                for context, allowed in _contexts(service, matching, insecure=policy is None):
                    yield Request(role.id, role.arn, action, resource, allowed, context, identity, policy)

    def _of_services(self) -> Iterator[Request]:
        """Ask as each service, on behalf of each source, for each resource with a policy."""
        for resource in sorted({*self._policies, *(edge.resource for edge in self.flows.services)}):
            policy = self._policies.get(resource)
            part = self._template.named(resource)
            subject = part.id if part else resource
            edges = [one for one in self.flows.services if one.resource == resource]
            contexts = {one.context for one in self.flows.services} | {()}
            actions = {one.action for one in edges}
            if part and part.kind in _ACTION_ON:
                actions.add(_ACTION_ON[part.kind])
            for service in SERVICES:
                for action in sorted(actions):
                    for about in sorted(contexts):
                        if not _sensible(about, service, edges):
                            continue
                        mine = [one for one in edges if one.who == service and one.action == action]
                        target = f"{resource}/a.jpg" if action == "s3:GetObject" else resource
                        for context, allowed in self._about(dict(about), mine, part):
                            yield Request(subject, service, action, target, allowed, context, (), policy)

    @staticmethod
    def _about(about: dict[str, str], edges: list[Edge], part: Part | None) -> Iterator[tuple[dict[str, str], bool]]:
        """Yield what a service's call may be about, and whether it must be allowed then."""
        secure = {"aws:SecureTransport": "true"}
        allowed = any(edge.context == tuple(about.items()) for edge in edges)
        # A trust policy or a key policy cannot name the source where that would close a circle.
        loose = part is not None and part.kind in ("AWS::IAM::Role", "AWS::KMS::Key") and bool(edges) and bool(about)
        if allowed or not loose:
            yield {**about, **secure}, allowed
        if allowed and about:
            yield {**_of_account(about, OTHER_ACCOUNT), **secure}, False
            if part is not None and part.kind in ("AWS::SQS::Queue", "AWS::SNS::Topic"):
                yield {**about, "aws:SecureTransport": "false"}, False

    def _of_strangers(self) -> Iterator[Request]:
        """Ask as roles of another account, and as one of this account, that may do anything or nothing."""
        secured = {part.arn for kind in _INSECURE for part in self._template.of(kind)}
        for resource in sorted({*self._policies, *secured}):
            policy = self._policies.get(resource)
            part = self._template.named(resource)
            kind = part.kind if part else "AWS::Lambda::Function" if ":function:" in resource else ""
            if kind not in _ACTION_ON:
                continue
            action = _ACTION_ON[kind]
            target = f"{resource}/a.jpg" if kind == "AWS::S3::Bucket" else resource
            subject = part.id if part else resource
            yield Request(subject, _STRANGER, action, target, False, _call(""), ("anything",), policy)
            yield Request(subject, _COLLEAGUE, action, target, False, _call(""), (), policy)
            for insecure in _INSECURE.get(kind, ()):
                yield Request(subject, _COLLEAGUE, action, target, False, insecure, ("anything",), policy)

    def _mentioned(self, action: str, identity: Iterable[str]) -> bool:
        """Return whether a policy that could matter is about an action; if none is, few questions do."""
        names = {*identity, *self._policies.values()}
        return any(_is_about(statement, action) for name in names for statement in self.documents[name]["Statement"])

    def _policy_of(self, resource: str) -> str | None:
        return self._policies.get(resource.partition("/")[0] if ":s3:::" in resource else resource)


def actions_of(template: Template) -> set[str]:
    """Return the actions that the policies of an app name, those with wildcards left out."""
    found: set[str] = set()
    for part in template.parts.values():
        properties = part.properties
        documents = [properties.get(name) for name in ("PolicyDocument", "KeyPolicy")]
        documents += [inline["PolicyDocument"] for inline in properties.get("Policies", ())]
        for document in filter(None, documents):
            for statement in document["Statement"]:
                found.update(action for action in aslist(statement.get("Action", [])) if "*" not in action)
    return found


def _is_about(statement: Mapping[str, Any], action: str) -> bool:
    patterns = aslist(statement.get("Action", "*"))  # without one it has a NotAction
    allows = statement["Effect"] == "Allow"
    return allows and any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)


def _call(service: str) -> dict[str, str]:
    """Return what is true of every call: over TLS, and for S3 of a new version."""
    return {"aws:SecureTransport": "true", **({"s3:TlsVersion": "1.3"} if service == "s3" else {})}


def _contexts(service: str, edges: list[Edge], *, insecure: bool) -> Iterator[tuple[dict[str, str], bool]]:
    """Yield what a call may be about, and whether it must be allowed then.

    Parameters
    ----------
    service
        The service that calls.
    edges
        That are about the call.
    insecure
        Whether it is allowed without TLS, for want of a policy of the resource.
    """
    plain = any(not edge.context for edge in edges)
    if plain or not any(LEADING_KEYS in dict(edge.context) for edge in edges):
        yield _call(service), plain
    if plain and service in ("s3", "sqs", "sns"):
        yield {**_call(service), "aws:SecureTransport": "false"}, insecure
    for edge in edges:
        context = {**_call(service), **dict(edge.context)}
        if edge.context:
            yield context, True
        for name in dict(edge.context):
            yield {**context, name: "elsewhere"}, plain


def _service(resource: str) -> str:
    return resource.split(":")[2]


def _resources_of(action: str) -> str:
    """Return the service whose resources an action is about."""
    service = action.partition(":")[0]
    return "iam" if service == "sts" else service


def _matches(pattern: str, resource: str) -> bool:
    """Return whether an edge is about a resource; log groups end in ``:*`` as their ARNs do."""
    if pattern.endswith(":*"):
        return resource.startswith(pattern[:-1])
    return resource.startswith(pattern[:-1]) if pattern.endswith("*") and pattern != "*" else resource == pattern


def _neighbours(service: str, resource: str) -> Iterator[str]:
    """Yield what is named much like a resource."""
    if service == "s3":
        yield f"{resource.partition('/')[0]}-neighbour"
    elif service == "logs":
        yield f"{resource.removesuffix(':*')}-neighbour:*"
    elif service == "lambda" and ":function:" in resource:
        function = ":".join(resource.split(":")[:7])
        yield from (f"{function}:$LATEST", f"{function}:8", f"{function}:other", f"{function}-neighbour")
        yield f"{function}-neighbour:live"
    else:
        yield f"{resource}-neighbour"
        yield resource.replace(f":{ACCOUNT}:", f":{OTHER_ACCOUNT}:")


def _of_account(about: Mapping[str, str], account: str) -> dict[str, str]:
    return {name: value.replace(ACCOUNT, account) for name, value in about.items()}


def _sensible(about: tuple[tuple[str, str], ...], service: str, edges: list[Edge]) -> bool:
    """Return whether a service could call about this."""
    if not about:
        return True
    return any(edge.who == service for edge in edges) or service in ("events.amazonaws.com", "s3.amazonaws.com")
