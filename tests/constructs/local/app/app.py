"""A small event-driven app without our constructs, in which a function writes one row for each object."""

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_pipes as pipes
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn

CODE = """
import datetime, json, os, pathlib, tempfile, time, boto3
table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
s3 = boto3.client("s3")

def handler(event, context):
    failed = []
    for message in event:
        detail = message["detail"]
        key, bucket, etag = detail["object"]["key"], detail["bucket"]["name"], detail["object"]["etag"]
        print("scoring", key)
        if "hang" in key:
            pathlib.Path(tempfile.gettempdir(), "hanging").write_text(str(os.getpid()))
            while s3.head_object(Bucket=bucket, Key=key):  # until it is deleted, which raises
                time.sleep(0.2)
        if "poison" in key:
            failed.append({"itemIdentifier": message["message_id"]})
            continue
        s3.head_object(Bucket=bucket, Key=key, IfMatch=etag)
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        table.put_item(Item={
            "object": f"{bucket}/{key}", "version": "null#1", "bucket": bucket, "key": key, "etag": etag,
            "event_time": message["time"], "recorded_at": now, "model_version": "1", "batch": len(event),
            "status": "REJECTED" if "bad" in key else "SUCCEEDED",
            "prediction": {"label": "cat", "class_index": 3},
        })
    return {"batchItemFailures": failed}
"""


def mark(construct, role, **facts):
    (construct.node.default_child or construct).add_metadata(
        "cdk-inference", {"role": role, "pipeline": stack.stack_name, **facts}
    )


app = cdk.App()
account, _, region = (app.node.try_get_context("env") or "").partition("/")
env = cdk.Environment(account=account, region=region) if region else None
stack = cdk.Stack(app, app.node.try_get_context("stack") or "LocalProbe", env=env)
data = cdk.Stack(app, "Data", env=env) if app.node.try_get_context("elsewhere") else stack
inbox = s3.Bucket(data, "Inbox", enforce_ssl=True, removal_policy=cdk.RemovalPolicy.DESTROY)
inbox.node.default_child.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
    event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
)
dead = sqs.Queue(stack, "Dead", enforce_ssl=True)
queue = sqs.Queue(
    stack,
    "Queue",
    enforce_ssl=True,
    # Longer than an execution may take on a busy machine: what comes back meanwhile ends twice.
    visibility_timeout=cdk.Duration.seconds(int(app.node.try_get_context("visibility") or 120)),
    dead_letter_queue=sqs.DeadLetterQueue(queue=dead, max_receive_count=2),
)
events.Rule(
    stack,
    "Rule",
    event_pattern=events.EventPattern(
        source=["aws.s3"], detail_type=["Object Created"], detail={"bucket": {"name": [inbox.bucket_name]}}
    ),
    targets=[targets.SqsQueue(queue)],
)
results = dynamodb.TableV2(
    data,
    "Results",
    partition_key=dynamodb.Attribute(name="object", type=dynamodb.AttributeType.STRING),
    sort_key=dynamodb.Attribute(name="version", type=dynamodb.AttributeType.STRING),
)
function = lambda_.Function(
    stack,
    "Score",
    runtime=lambda_.Runtime.PYTHON_3_13,
    handler="index.handler",
    code=lambda_.Code.from_inline(("import nonexistent" if app.node.try_get_context("broken") else "") + CODE),
    timeout=cdk.Duration.seconds(60),
    environment={"TABLE": results.table_name},
)
results.grant_write_data(function)
inbox.grant_read(function)
machine = sfn.StateMachine(
    stack,
    "Machine",
    state_machine_type=sfn.StateMachineType.EXPRESS,
    definition_body=sfn.DefinitionBody.from_string(
        stack.to_json_string(
            {
                "QueryLanguage": "JSONata",
                "StartAt": "Score",
                "States": {
                    "Score": {
                        "Type": "Task",
                        "Resource": "arn:aws:states:::lambda:invoke",
                        "Arguments": {"FunctionName": function.function_arn, "Payload": "{% $states.input %}"},
                        "Output": "{% $states.result.Payload %}",
                        "End": True,
                    }
                },
            }
        )
    ),
)
function.grant_invoke(machine)
role = iam.Role(
    stack,
    "PipeRole",
    assumed_by=iam.ServicePrincipal(
        "pipes.amazonaws.com",
        conditions={
            "StringEquals": {"aws:SourceAccount": stack.account},
            "ArnLike": {"aws:SourceArn": stack.format_arn(service="pipes", resource="pipe", resource_name="*")},
        },
    ),
)
queue.grant_consume_messages(role)
invocation = stack.node.try_get_context("invocation") or "REQUEST_RESPONSE"
if invocation == "FIRE_AND_FORGET":
    machine.grant_start_execution(role)
elif stack.node.try_get_context("without-start") is None:
    machine.grant_start_sync_execution(role)
pipe = pipes.CfnPipe(
    stack,
    "Pipe",
    role_arn=role.role_arn,
    source=queue.queue_arn,
    target=machine.state_machine_arn,
    source_parameters={
        "sqsQueueParameters": {
            "batchSize": 25,
            "maximumBatchingWindowInSeconds": 1,
        }
    },
    target_parameters={
        "inputTemplate": '{"message_id": <$.messageId>, "time": <$.body.time>, "detail": <$.body.detail>}',
        "stepFunctionStateMachineParameters": {"invocationType": invocation},
    },
    log_configuration={
        "level": "ERROR",
        "cloudwatchLogsLogDestination": {"logGroupArn": logs.LogGroup(stack, "PipeLog").log_group_arn},
    },
)
pipe.node.add_dependency(role)
mark(queue, "queue", bucket=inbox.bucket_name, prefix="in/")
mark(dead, "dead-letter-queue")
mark(function, "function", table=results.table_name)
if data is stack:
    mark(inbox, "inbox", bucket=inbox.bucket_name, prefix="in/")
    mark(results, "results", table=results.table_name)
mark(machine, "state-machine")
mark(pipe, "pipe")
app.synth()
