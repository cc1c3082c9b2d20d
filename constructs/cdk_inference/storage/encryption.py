"""The key that encrypts a pipeline's data, and grants on it without wildcards."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aws_cdk import Annotations, ArnFormat, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.common import acknowledgments
from cdk_inference.common.environments import check_environment
from cdk_inference.common.props.descriptions import KEY, described

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from constructs import Construct

ENCRYPT = ("kms:Decrypt", "kms:GenerateDataKey")
"""Permissions of a writer: S3, SQS and DynamoDB decrypt a data key for multipart and batched writes too."""

DECRYPT = ("kms:Decrypt",)

TABLE = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:DescribeKey")
"""Permissions that DynamoDB needs of a writer to a table under a customer managed key."""

_LOGS = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:DescribeKey")

_LOG_DELIVERY = ("kms:Decrypt",)
_LONGEST_REUSE = 900  # seconds that Step Functions may keep a data key: the fewest requests to KMS


def create_key(scope: Construct, id: str, *, removal_policy: RemovalPolicy) -> kms.Key:
    """Create a rotating customer managed key that CloudWatch Logs of this account may use."""
    return kms.Key(
        scope,
        id,
        description=described(f"encrypts the data of {scope.node.path}", KEY),
        enable_key_rotation=True,
        removal_policy=removal_policy,
    )


def given_or_new(scope: Construct, given: kms.IKey | None, removal_policy: RemovalPolicy) -> kms.IKey:
    """Return the key that a user gave, or the key of a pipeline, which it creates.

    Raises
    ------
    PropError
        The key is in another Region.
    """
    check_key(scope, given)
    return given if given is not None else create_key(scope, "Key", removal_policy=removal_policy)


def check_key(scope: Construct, key: kms.IKey | None) -> None:
    """Refuse a key of another Region, with which no service encrypts.

    Raises
    ------
    PropError
        The key is in another Region.
    """
    if key is not None:
        fix = "use a key of that Region, or a replica of a multi-Region key"
        check_environment(scope, "encryption_key", key, account=False, fix=fix)


def allow_logs(key: kms.IKey, scope: Construct) -> None:
    """Let CloudWatch Logs encrypt this stack's log groups with the key.

    The policy of an imported key cannot be changed from here: a warning says what it must contain.
    """
    stack = Stack.of(scope)
    result = key.add_to_resource_policy(
        iam.PolicyStatement(
            actions=list(_LOGS),
            # Other partitions have other suffixes, such as amazonaws.com.cn.
            principals=[iam.ServicePrincipal(f"logs.{stack.region}.{stack.url_suffix}")],
            resources=["*"],  # in a key policy: this key
            conditions={
                "ArnLike": {
                    "kms:EncryptionContext:aws:logs:arn": stack.format_arn(
                        service="logs",
                        resource="log-group",
                        resource_name="*",
                        arn_format=ArnFormat.COLON_RESOURCE_NAME,
                    )
                }
            },
        )
    )
    # The service that carries logs from an encrypted state machine to its log group.
    key.add_to_resource_policy(
        iam.PolicyStatement(
            actions=list(_LOG_DELIVERY),
            principals=[iam.ServicePrincipal("delivery.logs.amazonaws.com")],
            resources=["*"],  # in a key policy: this key
            conditions={"StringEquals": {"kms:EncryptionContext:SourceArn": _log_delivery_context(stack)}},
        )
    )
    if not result.statement_added:
        warn_of_imported_key(scope, "logs.<region>.<domain of the partition>", _LOGS)
        warn_of_imported_key(scope, "delivery.logs.amazonaws.com", _LOG_DELIVERY)


def encrypt_executions(state_machine: sfn.StateMachine, key: kms.IKey | None) -> None:
    """Encrypt the definition and the executions of a state machine with a key, if there is one.

    CDK's own prop writes the name of the state machine into the role's policy, where it is empty unless the user
    chooses it. It also lets every log delivery use the key. A separate policy names the ARN without a circle: state
    machine, role, policy, state machine.
    """
    if key is None:
        return
    resource = cast("sfn.CfnStateMachine", state_machine.node.default_child)
    resource.encryption_configuration = sfn.CfnStateMachine.EncryptionConfigurationProperty(
        type="CUSTOMER_MANAGED_KMS_KEY",
        kms_key_id=key.key_arn,
        kms_data_key_reuse_period_seconds=_LONGEST_REUSE,
    )
    policy = iam.Policy(
        state_machine,
        "Encryption",
        roles=[state_machine.role],
        statements=[
            iam.PolicyStatement(
                actions=list(ENCRYPT), resources=[key.key_arn], conditions=_executions_of(state_machine)
            ),
            iam.PolicyStatement(
                actions=["kms:GenerateDataKey"],
                resources=[key.key_arn],
                conditions={
                    "StringEquals": {"kms:EncryptionContext:SourceArn": _log_delivery_context(Stack.of(state_machine))}
                },
            ),
        ],
    )
    acknowledgments.explain(policy, "inline-policy")


def grant_executions(state_machine: sfn.StateMachine, key: kms.IKey | None, grantee: iam.IGrantable) -> None:
    """Let whoever starts an encrypted state machine write the input and read the output, if there is a key."""
    if key is not None:
        iam.Grant.add_to_principal(
            grantee=grantee,
            actions=list(ENCRYPT),
            resource_arns=[key.key_arn],
            conditions=_executions_of(state_machine),
        )


def _executions_of(state_machine: sfn.StateMachine) -> dict[str, dict[str, str]]:
    arn = state_machine.state_machine_arn
    return {"StringEquals": {"kms:EncryptionContext:aws:states:stateMachineArn": arn}}


def _log_delivery_context(stack: Stack) -> str:
    """Return what the delivery of logs gives as its context: this text, asterisk included."""
    return stack.format_arn(service="logs", resource="*", arn_format=ArnFormat.NO_RESOURCE_NAME)


def warn_of_imported_key(scope: Construct, service: str, actions: tuple[str, ...]) -> None:
    """Say what the policy of a key must contain that cannot be changed from this stack."""
    Annotations.of(scope).add_warning_v2(
        f"cdk-inference:imported-key-{service.partition('.')[0]}",
        f"the policy of the imported encryption key must allow {service} the actions {', '.join(actions)}; "
        "it cannot be changed from this stack (docs/operate/security.md has the statement)",
    )


def grant(key: kms.IKey | None, grantee: iam.IGrantable, actions: tuple[str, ...]) -> None:
    """Grant exact actions on the key, if there is one."""
    if key is not None:
        # Not a construct of ours: CDK would ask it for its principal across languages, seven times.
        key.grant(grantee.grant_principal, *actions)
