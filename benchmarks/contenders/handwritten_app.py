"""The reference app as one would write it with the CDK alone: the same resources, and files that are there already.

``ASSETS`` names a folder with the zips of the three functions, their settings, and the workflow's definition; the
benchmark takes them from the reference app. `tests/benchmarks` compares both templates.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_pipes as pipes
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn

if TYPE_CHECKING:
    from constructs import Construct

ASSETS = Path(os.environ["ASSETS"])
RETAIN = cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
READ = ["kms:Decrypt"]
WRITE = ["kms:Decrypt", "kms:GenerateDataKey"]
NO_DEAD_LETTERS = sqs.RedriveAllowPolicy(redrive_permission=sqs.RedrivePermission.DENY_ALL)
TABLE = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:DescribeKey"]


class PhotoLabels(cdk.Stack):
    """Photographs land in a bucket, and their labels in a table."""

    def __init__(self, scope: Construct, id: str) -> None:
        super().__init__(scope, id, description="Labels photographs with EfficientNet-Lite0 (hand-written)")
        self.key = self.make_key()
        uploads = s3.LifecycleRule(
            abort_incomplete_multipart_upload_after=cdk.Duration.days(7), expired_object_delete_marker=True
        )
        self.inbox = self.make_bucket("Inbox", versioned=True, lifecycle_rules=[uploads])
        inbox = self.inbox.node.default_child
        assert isinstance(inbox, s3.CfnBucket)  # noqa: S101 - for the type checker
        inbox.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
        )
        self.work = self.make_bucket(
            "Work",
            lifecycle_rules=[
                s3.LifecycleRule(
                    expiration=cdk.Duration.days(1), abort_incomplete_multipart_upload_after=cdk.Duration.days(1)
                )
            ],
        )
        self.table = self.make_table()
        self.make_queues()
        preprocess = self.make_function("preprocess", WORK_BUCKET=self.work.bucket_name)
        infer = self.make_function("infer", WORK_BUCKET=self.work.bucket_name)
        postprocess = self.make_function(
            "postprocess", WORK_BUCKET=self.work.bucket_name, RESULTS_TABLE=self.table.table_name
        )
        self.allow(preprocess, WRITE, self.key.key_arn)
        self.allow(preprocess, ["s3:GetObject", "s3:GetObjectVersion"], self.inbox.arn_for_objects("*"))
        self.allow(preprocess, ["s3:ListBucket"], self.inbox.bucket_arn)
        self.allow(preprocess, ["s3:PutObject"], self.work.arn_for_objects("tensors/*"))
        self.allow(infer, WRITE, self.key.key_arn)
        self.allow(infer, ["s3:GetObject", "s3:PutObject"], self.work.arn_for_objects("tensors/*"))
        self.allow(postprocess, TABLE, self.key.key_arn)
        self.allow(postprocess, ["s3:GetObject"], self.work.arn_for_objects("tensors/*"))
        self.allow(postprocess, ["dynamodb:PutItem"], self.table.table_arn)
        machine = self.make_workflow(preprocess, infer, postprocess)
        self.make_pipe(machine)
        cdk.CfnOutput(self, "InboxBucket", value=self.inbox.bucket_name, description="Put photographs here")
        cdk.CfnOutput(self, "ResultsTable", value=self.table.table_name, description="Find their labels here")

    def make_key(self) -> kms.Key:
        """Make the key of all data."""
        key = kms.Key(self, "Key", description="encrypts the data", enable_key_rotation=True, removal_policy=RETAIN)
        groups = f"arn:{self.partition}:logs:{self.region}:{self.account}:log-group:*"
        key.add_to_resource_policy(
            iam.PolicyStatement(
                actions=TABLE,
                principals=[iam.ServicePrincipal(f"logs.{self.region}.amazonaws.com")],
                resources=["*"],
                conditions={"ArnLike": {"kms:EncryptionContext:aws:logs:arn": groups}},
            )
        )
        key.add_to_resource_policy(
            iam.PolicyStatement(
                actions=WRITE,
                principals=[iam.ServicePrincipal("events.amazonaws.com")],
                resources=["*"],
                conditions={"StringEquals": {"aws:SourceAccount": self.account}},
            )
        )
        return key

    def make_bucket(self, id: str, **options: object) -> s3.Bucket:
        """Make an encrypted bucket."""
        return s3.Bucket(
            self,
            id,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            removal_policy=RETAIN,
            **options,  # type: ignore[arg-type]
        )

    def make_table(self) -> dynamodb.TableV2:
        """Make the table of results."""
        table = dynamodb.TableV2(
            self,
            "Results",
            partition_key=dynamodb.Attribute(name="object", type=dynamodb.AttributeType.STRING),
            sort_key=dynamodb.Attribute(name="version", type=dynamodb.AttributeType.STRING),
            time_to_live_attribute="expires_at",
            encryption=dynamodb.TableEncryptionV2.aws_managed_key(),
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            deletion_protection=False,
            removal_policy=RETAIN,
        )
        resource = table.node.default_child
        assert isinstance(resource, dynamodb.CfnGlobalTable)  # noqa: S101
        resource.add_property_override("Replicas.0.SSESpecification", {"KMSMasterKeyId": self.key.key_arn})
        return table

    def make_queues(self) -> None:
        """Make the queues and the rule that fills them."""
        fortnight = cdk.Duration.days(14)
        encrypted = {"encryption": sqs.QueueEncryption.KMS, "encryption_master_key": self.key}
        self.dead = sqs.Queue(self, "DeadLetters", enforce_ssl=True, retention_period=fortnight, **encrypted)
        self.queue = sqs.Queue(
            self,
            "Queue",
            enforce_ssl=True,
            retention_period=fortnight,
            visibility_timeout=cdk.Duration.seconds(331),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead, max_receive_count=1000),
            redrive_allow_policy=NO_DEAD_LETTERS,
            **encrypted,
        )
        undelivered = sqs.Queue(
            self,
            "Undelivered",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=fortnight,
            redrive_allow_policy=NO_DEAD_LETTERS,
        )
        rule = events.CfnRule(
            self,
            "ObjectCreated",
            description="new objects",
            event_pattern={
                "source": ["aws.s3"],
                "detail-type": ["Object Created"],
                "detail": {"bucket": {"name": [self.inbox.bucket_name]}},
            },
            targets=[
                events.CfnRule.TargetProperty(
                    id="Queue",
                    arn=self.queue.queue_arn,
                    dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=undelivered.queue_arn),
                )
            ],
        )
        for queue in (self.queue, undelivered):
            queue.add_to_resource_policy(
                iam.PolicyStatement(
                    principals=[iam.ServicePrincipal("events.amazonaws.com")],
                    actions=["sqs:SendMessage"],
                    resources=[queue.queue_arn],
                    conditions={"ArnEquals": {"aws:SourceArn": rule.attr_arn}},
                )
            )

    def make_logs(self, id: str, name: str | None = None) -> logs.LogGroup:
        """Make an encrypted log group."""
        return logs.LogGroup(
            self,
            id,
            log_group_name=name,
            retention=logs.RetentionDays.ONE_MONTH,
            encryption_key=self.key,
            removal_policy=RETAIN,
        )

    def make_function(self, name: str, **variables: str) -> lambda_.Function:
        """Make a function from a zip that is there, with a version."""
        settings = json.loads((ASSETS / f"{name}.json").read_text(encoding="utf-8"))
        id = name.capitalize()
        group = self.make_logs(f"{id}Logs")
        role = iam.Role(self, f"{id}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"), description=name)
        group.grant_write(role)
        return lambda_.Function(
            self,
            id,
            description=name,
            code=lambda_.Code.from_asset(str(ASSETS / f"{name}.zip")),
            handler=settings["handler"],
            runtime=lambda_.Runtime.PYTHON_3_14,
            architecture=lambda_.Architecture.ARM_64,
            environment={**settings["environment"], **variables},
            memory_size=settings["memory_size"],
            timeout=cdk.Duration.seconds(30),
            role=role,
            tracing=lambda_.Tracing.ACTIVE,
            logging_format=lambda_.LoggingFormat.JSON,
            log_group=group,
        )

    def allow(self, function: lambda_.Function, actions: list[str], resource: str) -> None:
        """Let a function do something."""
        function.add_to_role_policy(iam.PolicyStatement(actions=actions, resources=[resource]))

    def make_workflow(
        self, preprocess: lambda_.Function, infer: lambda_.Function, postprocess: lambda_.Function
    ) -> sfn.StateMachine:
        """Make the workflow from its definition in a file."""
        aliases = {
            name: lambda_.Alias(self, f"{name}Alias", alias_name="live", version=function.current_version)
            for name, function in (("Preprocess", preprocess), ("Inference", infer), ("Postprocess", postprocess))
        }
        definition = (ASSETS / "workflow.asl.json").read_text(encoding="utf-8")
        for name, alias in aliases.items():
            definition = definition.replace(f"${{{name}}}", alias.function_arn)
        definition = definition.replace("${DeadLetterQueue}", self.dead.queue_url)
        machine = sfn.StateMachine(
            self,
            "Workflow",
            definition_body=sfn.DefinitionBody.from_string(definition),
            state_machine_type=sfn.StateMachineType.EXPRESS,
            tracing_enabled=True,
            logs=sfn.LogOptions(
                destination=self.make_logs("WorkflowLogs", "/aws/vendedlogs/states/PhotoLabels"),
                level=sfn.LogLevel.ERROR,
                include_execution_data=False,
            ),
        )
        resource = machine.node.default_child
        assert isinstance(resource, sfn.CfnStateMachine)  # noqa: S101
        resource.encryption_configuration = sfn.CfnStateMachine.EncryptionConfigurationProperty(
            type="CUSTOMER_MANAGED_KMS_KEY", kms_key_id=self.key.key_arn, kms_data_key_reuse_period_seconds=900
        )
        iam.Policy(
            self,
            "Encryption",
            roles=[machine.role],
            statements=[iam.PolicyStatement(actions=WRITE, resources=[self.key.key_arn])],
        )
        machine.add_to_role_policy(
            iam.PolicyStatement(
                actions=["lambda:InvokeFunction"], resources=[alias.function_arn for alias in aliases.values()]
            )
        )
        self.dead.grant_send_messages(machine)
        return machine

    def make_pipe(self, machine: sfn.StateMachine) -> None:
        """Make the pipe that hands the queue to the workflow in batches."""
        group = self.make_logs("PipeLogs", "/aws/vendedlogs/pipes/PhotoLabels")
        role = iam.Role(
            self,
            "PipeRole",
            assumed_by=iam.ServicePrincipal(
                "pipes.amazonaws.com",
                conditions={
                    "StringEquals": {"aws:SourceAccount": self.account},
                    "ArnLike": {
                        "aws:SourceArn": f"arn:{self.partition}:pipes:{self.region}:{self.account}:pipe/*",
                    },
                },
            ),
            description="pipe",
            inline_policies={
                "Pipe": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            actions=["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
                            resources=[self.queue.queue_arn],
                        ),
                        iam.PolicyStatement(
                            actions=["states:StartSyncExecution"], resources=[machine.state_machine_arn]
                        ),
                    ]
                )
            },
        )
        role.add_to_policy(iam.PolicyStatement(actions=READ, resources=[self.key.key_arn]))
        group.grant_write(role)
        pipe = pipes.CfnPipe(
            self,
            "Pipe",
            source=self.queue.queue_arn,
            target=machine.state_machine_arn,
            role_arn=role.role_arn,
            log_configuration=pipes.CfnPipe.PipeLogConfigurationProperty(
                level="ERROR",
                cloudwatch_logs_log_destination=pipes.CfnPipe.CloudwatchLogsLogDestinationProperty(
                    log_group_arn=group.log_group_arn
                ),
            ),
            description="batches",
            source_parameters=pipes.CfnPipe.PipeSourceParametersProperty(
                sqs_queue_parameters=pipes.CfnPipe.PipeSourceSqsQueueParametersProperty(
                    batch_size=32, maximum_batching_window_in_seconds=1
                )
            ),
            target_parameters=pipes.CfnPipe.PipeTargetParametersProperty(
                input_template=(
                    '{"message_id": "<$.messageId>", '
                    '"receive_count": "<$.attributes.ApproximateReceiveCount>", "body": <$.body>}'
                ),
                step_function_state_machine_parameters=pipes.CfnPipe.PipeTargetStateMachineParametersProperty(
                    invocation_type="REQUEST_RESPONSE"
                ),
            ),
        )
        pipe.node.add_dependency(role)


app = cdk.App()
PhotoLabels(app, "PhotoLabels")
app.synth()
