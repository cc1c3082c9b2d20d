"""The purpose of each part of an app, and therefore what it must be allowed: the table that policies are judged by.

It follows the data, not the policies. A rule names its bucket and its queue, and a pipe its queue and its state
machine. A definition names the functions that it invokes. A function's handler and variables name what it reads and
writes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from verify.policies.template import ACCOUNT, REGION, arn, aslist

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from verify.policies.template import Part, Template

DECRYPT = ("kms:Decrypt",)
ENCRYPT = ("kms:Decrypt", "kms:GenerateDataKey")
TABLE = ("kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo")
"""Permissions of services' callers on a customer managed key; the last for DynamoDB and CloudWatch Logs."""

LOGS = ("logs:CreateLogStream", "logs:PutLogEvents")
TRACES = ("xray:PutTelemetryRecords", "xray:PutTraceSegments")
SAMPLING = ("xray:GetSamplingRules", "xray:GetSamplingTargets")
LOG_DELIVERY = (
    "logs:CreateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:DescribeLogGroups",
    "logs:DescribeResourcePolicies",
    "logs:GetLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:UpdateLogDelivery",
)
INTERFACES = (
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:UnassignPrivateIpAddresses",
)
PULL = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
READ = ("s3:GetObject", "s3:GetObjectVersion")
TAGS = ("s3:GetObjectTagging", "s3:GetObjectVersionTagging")

TAKE = ("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage")
STREAM = ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator")

LEADING_KEYS = "dynamodb:LeadingKeys"
"""The condition key with the partition keys of a request: AWS tells them of every request for items."""

IMAGE = "image"
"""The handler of a function in a container: ours run models."""

UNGUARDED = frozenset({"apigateway.amazonaws.com", "lambda.amazonaws.com", "sagemaker.amazonaws.com"})
"""Services whose calls for a role carry no account that its trust policy could ask for."""


@dataclass(frozen=True, order=True)
class Edge:
    """A request that must be allowed.

    Parameters
    ----------
    who
        ARN of a role, or the name of a service.
    action, resource
        The call; a resource that ends in ``*`` stands for what begins so.
    context
        The condition keys of the request.
    """

    who: str
    action: str
    resource: str
    context: tuple[tuple[str, str], ...] = ()


@dataclass
class Flows:
    """The edges of an app.

    Parameters
    ----------
    template
        The app.

    Attributes
    ----------
    edges
        The calls that roles must be allowed.
    services
        The calls that services must be allowed by the policies of resources, the trust policies of roles included.
    managed
        ARNs of the roles that have a policy of AWS.
    untraced
        The parts that were not understood: a finding, since nobody judges what it may do.
    """

    template: Template
    edges: set[Edge] = field(default_factory=set)
    services: set[Edge] = field(default_factory=set)
    managed: set[str] = field(default_factory=set)
    untraced: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._inboxes = self._trace_inboxes()
        for function in self.template.of("AWS::Lambda::Function"):
            self._function(function)
        for machine in self.template.of("AWS::StepFunctions::StateMachine"):
            self._machine(machine)
        for pipe in self.template.of("AWS::Pipes::Pipe"):
            self._pipe(pipe)
        for method in self.template.of("AWS::ApiGateway::Method"):
            self._method(method)
        for rule in self.template.of("AWS::Events::Rule"):
            self._rule(rule)
        for subscription in self.template.of("AWS::SNS::Subscription"):
            self._subscription(subscription)
        for model in self.template.of("AWS::SageMaker::Model"):
            self._endpoint(model)
        for provider in self.template.of("AWS::Lambda::CapacityProvider"):
            self._operator(provider)
        for flow_log in self.template.of("AWS::EC2::FlowLog"):
            self._flow_log(flow_log)
        for group in self.template.of("AWS::Logs::LogGroup"):
            self._encrypt_logs(group)

    # --- where the data comes from ---

    def _trace_inboxes(self) -> dict[str, list[tuple[str, str]]]:
        """Return the buckets and prefixes that each function gets objects of: rule, queue, pipe, state machine."""
        queues: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for rule in self.template.of("AWS::Events::Rule"):
            pattern = rule.properties.get("EventPattern", {})
            if "aws.s3" in pattern.get("source", ()):
                (bucket,) = pattern["detail"]["bucket"]["name"]
                prefixes = _prefixes(pattern["detail"].get("object", {}).get("key", [{"prefix": ""}]))
                for target in rule.properties["Targets"]:
                    queues[target["Arn"]] += [(bucket, prefix) for prefix in prefixes]
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for pipe in self.template.of("AWS::Pipes::Pipe"):
            machine = self.template.named(pipe.properties["Target"])
            if machine is not None:
                sources = queues[pipe.properties["Source"]]
                found[machine.id] += sources
                for called in calls(machine):
                    function = self._function_of(called.arguments.get("FunctionName", ""))
                    if function is not None:
                        found[function.id] += sources
        return found

    def _function_of(self, name: str) -> Part | None:
        """Return the function that a version or an alias belongs to."""
        return self.template.named(":".join(name.split(":")[:7])) if isinstance(name, str) else None

    # --- parts ---

    def _function(self, function: Part) -> None:
        properties = function.properties
        role = properties["Role"]
        variables = properties.get("Environment", {}).get("Variables", {})
        self._trust(role, "lambda.amazonaws.com", function.arn)
        group = self.template.named(properties["LoggingConfig"]["LogGroup"])
        self._allow(role, LOGS, group.arn if group else "")
        self._allow(role, TRACES, "*")
        if "VpcConfig" in properties:
            self._allow(role, INTERFACES, "*")
        handler = IMAGE if properties.get("PackageType") == "Image" else properties["Handler"]
        does = {
            "inference_runtime.handlers.preprocess.handler": (self._reads_objects, self._writes_tensors),
            "inference_runtime.handlers.infer.handler": (self._reads_tensors, self._writes_tensors, self._reads_model),
            IMAGE: (self._reads_tensors, self._writes_tensors),
            "inference_runtime.handlers.postprocess.handler": (
                self._reads_tensors,
                self._writes_rows,
                self._keeps_answers,
            ),
            "inference_runtime.handlers.fused.handler": (self._reads_objects, self._reads_model, self._writes_rows),
            "inference_runtime.handlers.submit.handler": (self._submits,),
            "inference_runtime.handlers.callback.handler": (self._calls_back,),
            "inference_runtime.handlers.decide.handler": (),
            "inference_runtime.handlers.audit.handler": (self._writes_log,),
            "inference_runtime.handlers.upload.handler": (self._signs_uploads,),
            "inference_runtime.handlers.drift.handler": (self._judges_windows,),
            "inference_runtime.handlers.judge_release.handler": (self._judges_release,),
            "inference_runtime.handlers.compare_models.handler": (self._reads_tensors, self._counts_for_release),
        }.get(handler)
        if does is None:
            self.untraced.append(f"{function.id} has the handler {handler}, of which nothing is known")
            return
        for each in does:
            each(function, role, variables)

    def _reads_objects(self, function: Part, role: str, variables: Mapping[str, str]) -> None:  # noqa: ARG002
        self._read_inbox(function, role)

    def _read_inbox(self, reader: Part, role: str) -> None:
        for bucket, prefix in self._inboxes[reader.id]:
            self._objects(role, READ, bucket, prefix, DECRYPT)
            # Otherwise S3 answers 403 for an object that is gone.
            self._allow(role, ("s3:ListBucket",), arn(f"s3:::{bucket}"))

    def _reads_tensors(self, function: Part, role: str, variables: Mapping[str, str]) -> None:  # noqa: ARG002
        self._objects(role, ("s3:GetObject",), variables["WORK_BUCKET"], "tensors/", DECRYPT)

    def _writes_tensors(self, function: Part, role: str, variables: Mapping[str, str]) -> None:  # noqa: ARG002
        self._objects(role, ("s3:PutObject",), variables["WORK_BUCKET"], "tensors/", ENCRYPT)

    def _keeps_answers(self, function: Part, role: str, variables: Mapping[str, str]) -> None:
        """Let postprocessing write large answers, if the workflow asks it what it was unsure of."""
        for machine in self.template.of("AWS::StepFunctions::StateMachine"):
            for call in calls(machine):
                called = self._function_of(call.arguments.get("FunctionName", ""))
                if called is function and "'unsure'" in json.dumps(call.arguments):
                    self._writes_tensors(function, role, variables)

    def _reads_model(self, function: Part, role: str, variables: Mapping[str, str]) -> None:  # noqa: ARG002
        if variables.get("MODEL_DELIVERY") == "s3":
            for file in json.loads(variables["MODEL_FILES"]):
                self._allow(role, ("s3:GetObject",), arn(f"s3:::{variables['MODEL_BUCKET']}/{file['key']}"))

    def _writes_rows(self, function: Part, role: str, variables: Mapping[str, str]) -> None:  # noqa: ARG002
        self._table(role, "dynamodb:PutItem", variables["RESULTS_TABLE"])
        if "DRIFT_TABLE" in variables:
            self._table(role, "dynamodb:UpdateItem", variables["DRIFT_TABLE"])

    def _judges_windows(self, function: Part, role: str, variables: Mapping[str, str]) -> None:  # noqa: ARG002
        for action in ("dynamodb:Query", "dynamodb:UpdateItem"):
            self._table(role, action, variables["DRIFT_TABLE"])
        if variables.get("EVENT_BUS"):
            about = {"events:source": "cdk-inference", "events:detail-type": "Drift Verdict"}
            self._allow(role, ("events:PutEvents",), variables["EVENT_BUS"], about)

    def _judges_release(self, function: Part, role: str, variables: Mapping[str, str]) -> None:  # noqa: ARG002
        self._table(role, "dynamodb:Query", variables["RELEASES_TABLE"], variables["RELEASE"])

    def _counts_for_release(self, function: Part, role: str, variables: Mapping[str, str]) -> None:  # noqa: ARG002
        self._table(role, "dynamodb:UpdateItem", variables["RELEASES_TABLE"], variables["RELEASE"])

    def _submits(self, function: Part, role: str, variables: Mapping[str, str]) -> None:  # noqa: ARG002
        self._table(role, "dynamodb:PutItem", variables["TOKENS_TABLE"])
        self._objects(role, ("s3:PutObject",), variables["WORK_BUCKET"], "sagemaker/requests/", ENCRYPT)
        endpoint = self.template.named(f"{variables['ENDPOINT']}") or self._endpoint_called(variables["ENDPOINT"])
        self._allow(role, ("sagemaker:InvokeEndpointAsync",), endpoint.arn if endpoint else "")

    def _endpoint_called(self, name: str) -> Part | None:
        endpoints = self.template.of("AWS::SageMaker::Endpoint")
        return next((one for one in endpoints if one.arn.endswith(f"/{name}")), None)

    def _calls_back(self, function: Part, role: str, variables: Mapping[str, str]) -> None:
        self._table(role, "dynamodb:GetItem", variables["TOKENS_TABLE"])
        for answers in self._outputs():
            self._objects(role, ("s3:GetObject",), *_bucket_and_key(answers["S3OutputPath"]), DECRYPT)
        # Those who wait for a token.
        for machine in self.template.of("AWS::StepFunctions::StateMachine"):
            if any(call.integration.endswith(".waitForTaskToken") for call in calls(machine)):
                self._allow(role, ("states:SendTaskFailure", "states:SendTaskSuccess"), machine.arn)
                self._execution_key(role, machine)
        for config in self.template.of("AWS::Lambda::EventInvokeConfig"):
            destination = config.properties.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
            if destination and config.properties["FunctionName"] == function.ref:
                # The last two are CDK's: `grant_send_messages` gives them.
                self._allow(role, ("sqs:SendMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl"), destination)
                self._key(role, destination, ENCRYPT)

    def _writes_log(self, function: Part, role: str, variables: Mapping[str, str]) -> None:
        self._objects(role, ("s3:PutObject",), variables["AUDIT_BUCKET"], "records/", ENCRYPT)
        self._allow(role, ("secretsmanager:GetSecretValue",), variables["AUDIT_SECRET"])
        for mapping in self.template.of("AWS::Lambda::EventSourceMapping"):
            if mapping.properties["FunctionName"].partition(":")[0] == function.ref:
                # The last two are CDK's: `grant_consume_messages` gives them.
                taken = (*TAKE, "sqs:ChangeMessageVisibility", "sqs:GetQueueUrl")
                self._allow(role, taken, mapping.properties["EventSourceArn"])

    def _signs_uploads(self, function: Part, role: str, variables: Mapping[str, str]) -> None:  # noqa: ARG002
        self._objects(role, ("s3:PutObject",), variables["UPLOAD_BUCKET"], variables["UPLOAD_PREFIX"], ENCRYPT)

    def _outputs(self) -> Iterator[dict[str, Any]]:
        for config in self.template.of("AWS::SageMaker::EndpointConfig"):
            yield config.properties["AsyncInferenceConfig"]["OutputConfig"]

    def _machine(self, machine: Part) -> None:
        role = machine.properties["RoleArn"]
        self._trust(role, "states.amazonaws.com", machine.arn)
        self._allow(role, (*TRACES, *SAMPLING, *LOG_DELIVERY), "*")
        key = self._execution_key(role, machine)
        if key:
            # CloudWatch Logs writes the log of the executions by way of its delivery.
            about = {"kms:EncryptionContext:SourceArn": arn(f"logs:{REGION}:{ACCOUNT}:*")}
            self._allow(role, ("kms:GenerateDataKey",), key, about)
            self._serve("delivery.logs.amazonaws.com", DECRYPT, key, about)
        for call in calls(machine):
            given = call.arguments
            if call.integration in ("lambda:invoke", "lambda:invoke.waitForTaskToken"):
                self._allow(role, ("lambda:InvokeFunction",), given["FunctionName"])
            elif call.integration == "states:startExecution":
                itself = given["StateMachineArn"] == "{% $states.context.StateMachine.Id %}"
                started = machine.arn if itself else given["StateMachineArn"]
                self._allow(role, ("states:StartExecution",), started)
                self._execution_key(role, self.template.named(started))
            elif call.integration in ("dynamodb:getItem", "dynamodb:updateItem", "aws-sdk:dynamodb:query"):
                self._call_table(role, call)
            elif call.integration == "aws-sdk:cloudwatch:describeAlarms":
                for name in given["AlarmNames"]:
                    alarm = self.template.named(name)
                    self._allow(role, ("cloudwatch:DescribeAlarms",), alarm.arn if alarm else "")
            elif call.integration == "sqs:sendMessage":
                queue = self.template.named(given["QueueUrl"])
                self._allow(role, ("sqs:SendMessage",), queue.arn if queue else "")
                self._key(role, given["QueueUrl"], ENCRYPT)
            elif call.integration == "aws-sdk:s3:headObject":
                self._read_inbox(machine, role)
            elif call.integration == "aws-sdk:s3:getObjectTagging":
                for bucket, prefix in self._inboxes[machine.id]:
                    self._allow(role, TAGS, arn(f"s3:::{bucket}/{prefix}*"))
                    self._allow(role, ("s3:ListBucket",), arn(f"s3:::{bucket}"))
            else:
                self.untraced.append(f"{machine.id} calls {call.integration}, of which nothing is known")

    def _call_table(self, role: str, call: Call) -> None:
        name = call.arguments["TableName"]
        if call.integration == "aws-sdk:dynamodb:query":
            table = self.template.named(name)
            self._allow(role, ("dynamodb:Query",), table.arn if table else "")
            self._key(role, name, DECRYPT)
        else:
            action = call.integration.replace(":g", ":G").replace(":u", ":U")
            self._table(role, action, name, call.arguments["Key"]["release"]["S"])

    def _pipe(self, pipe: Part) -> None:
        properties = pipe.properties
        role = properties["RoleArn"]
        self._trust(role, "pipes.amazonaws.com", pipe.arn)
        if ":dynamodb:" in properties["Source"]:
            self._allow(role, STREAM, properties["Source"])
            self._key(role, properties["Source"].partition("/stream/")[0], DECRYPT)
            self._allow(role, ("events:PutEvents",), properties["Target"])
            dead_letters = properties["SourceParameters"]["DynamoDBStreamParameters"]["DeadLetterConfig"]["Arn"]
            self._allow(role, ("sqs:SendMessage",), dead_letters)
        else:
            self._allow(role, TAKE, properties["Source"])
            self._key(role, properties["Source"], DECRYPT)
            self._allow(role, ("states:StartSyncExecution",), properties["Target"])
            # Its API reference asks this of who starts a synchronous execution, and no more.
            self._execution_key(role, self.template.named(properties["Target"]), DECRYPT)
        destination = properties["LogConfiguration"]["CloudwatchLogsLogDestination"]
        self._allow(role, LOGS, destination["LogGroupArn"])

    def _method(self, method: Part) -> None:
        """Trace what a REST API does with a role; the policy of a function says which APIs may invoke it."""
        integration = method.properties["Integration"]
        role = integration.get("Credentials")
        if role is None:
            return
        self._trust(role, "apigateway.amazonaws.com", method.arn)
        if integration["Uri"].endswith(":states:action/StartSyncExecution"):
            templates = integration["RequestTemplates"].values()
            for started in {found for one in templates for found in re.findall('"stateMachineArn": "([^"]+)"', one)}:
                self._allow(role, ("states:StartSyncExecution",), started)
                self._execution_key(role, self.template.named(started))
        elif ":sqs:path/" in integration["Uri"]:
            queue = arn(f"sqs:{REGION}:{ACCOUNT}:{integration['Uri'].rpartition('/')[2]}")
            self._allow(role, ("sqs:SendMessage",), queue)
            self._key(role, queue, ENCRYPT)
        else:
            self.untraced.append(f"{method.id} calls {integration['Uri']}, of which nothing is known")

    def _rule(self, rule: Part) -> None:
        about = self._from(rule.arn)
        for target in rule.properties["Targets"]:
            if ":function:" in target["Arn"]:
                self._serve("events.amazonaws.com", ("lambda:InvokeFunction",), target["Arn"], about)
                continue
            if ":stateMachine:" in target["Arn"]:
                self._trust(target["RoleArn"], "events.amazonaws.com", rule.arn)
                self._allow(target["RoleArn"], ("states:StartExecution",), target["Arn"])
                self._execution_key(target["RoleArn"], self.template.named(target["Arn"]))
                continue
            if "InputTransformer" in target:  # CDK's target of a rule gives these
                asked = ("sqs:GetQueueAttributes", "sqs:GetQueueUrl")
                self._serve("events.amazonaws.com", asked, target["Arn"], about)
            for queue in filter(None, (target["Arn"], target.get("DeadLetterConfig", {}).get("Arn"))):
                self._serve("events.amazonaws.com", ("sqs:SendMessage",), queue, about)
                key = self._key_of(queue)
                if key:
                    self._serve("events.amazonaws.com", ENCRYPT, key, about)

    def _subscription(self, subscription: Part) -> None:
        properties = subscription.properties
        about = self._from(properties["TopicArn"])
        self._serve("sns.amazonaws.com", ("lambda:InvokeFunction",), properties["Endpoint"], about)
        dead_letters = properties.get("RedrivePolicy", {}).get("deadLetterTargetArn")
        if dead_letters:
            self._serve("sns.amazonaws.com", ("sqs:SendMessage",), dead_letters, about)
            key = self._key_of(dead_letters)
            if key:
                self._serve("sns.amazonaws.com", ENCRYPT, key, about)

    def _endpoint(self, model: Part) -> None:
        role = model.properties["ExecutionRoleArn"]
        container = model.properties["PrimaryContainer"]
        variables = container["Environment"]
        self._trust(role, "sagemaker.amazonaws.com", model.arn)
        self._reads_tensors(model, role, variables)
        self._writes_tensors(model, role, variables)
        self._objects(role, ("s3:GetObject",), variables["WORK_BUCKET"], "sagemaker/requests/", DECRYPT)
        for output in self._outputs():
            for path in (output["S3OutputPath"], output["S3FailurePath"]):
                self._objects(role, ("s3:PutObject", "s3:AbortMultipartUpload"), *_bucket_and_key(path), ENCRYPT)
            for topic in (output["NotificationConfig"][name] for name in ("SuccessTopic", "ErrorTopic")):
                self._allow(role, ("sns:Publish",), topic)
                self._key(role, topic, ENCRYPT)
        repository = container["Image"].partition("/")[2].partition(":")[0]
        self._allow(role, PULL, arn(f"ecr:{REGION}:{ACCOUNT}:repository/{repository}"))
        self._allow(role, ("ecr:GetAuthorizationToken",), "*")
        for endpoint in self.template.of("AWS::SageMaker::Endpoint"):
            name = endpoint.arn.rpartition("/")[2]
            group = arn(f"logs:{REGION}:{ACCOUNT}:log-group:/aws/sagemaker/Endpoints/{name}:*")
            self._allow(role, (*LOGS, "logs:CreateLogGroup", "logs:DescribeLogStreams"), group)
        about = {"cloudwatch:namespace": "/aws/sagemaker/Endpoints"}
        self._allow(role, ("cloudwatch:PutMetricData",), "*", about)

    def _operator(self, provider: Part) -> None:
        role = provider.properties["PermissionsConfig"]["CapacityProviderOperatorRoleArn"]
        self._trust(role, "lambda.amazonaws.com", provider.arn)
        self.managed.add(role)

    def _flow_log(self, flow_log: Part) -> None:
        role = flow_log.properties["DeliverLogsPermissionArn"]
        self._trust(role, "vpc-flow-logs.amazonaws.com", arn(f"ec2:{REGION}:{ACCOUNT}:vpc-flow-log/{flow_log.id}"))
        self._allow(role, (*LOGS, "logs:DescribeLogStreams"), flow_log.properties["LogDestination"])

    def _encrypt_logs(self, group: Part) -> None:
        key = group.properties.get("KmsKeyId")
        if key:
            about = {"kms:EncryptionContext:aws:logs:arn": group.arn.removesuffix(":*")}
            self._serve(f"logs.{REGION}.amazonaws.com", TABLE, key, about)

    # --- edges ---

    def _allow(
        self, role: str, actions: tuple[str, ...], resource: str, context: Mapping[str, str] | None = None
    ) -> None:
        self.edges |= {Edge(role, action, resource, tuple((context or {}).items())) for action in actions}

    def _serve(self, service: str, actions: tuple[str, ...], resource: str, context: Mapping[str, str]) -> None:
        self.services |= {Edge(service, action, resource, tuple(context.items())) for action in actions}

    def _trust(self, role: str, service: str, source: str) -> None:
        about = {} if service in UNGUARDED else self._from(source)
        self._serve(service, ("sts:AssumeRole",), role, about)

    @staticmethod
    def _from(source: str) -> dict[str, str]:
        return {"aws:SourceArn": source, "aws:SourceAccount": ACCOUNT}

    def _objects(
        self, role: str, actions: tuple[str, ...], bucket: str, prefix: str, key_actions: tuple[str, ...]
    ) -> None:
        self._allow(role, actions, arn(f"s3:::{bucket}/{prefix}*"))
        self._key(role, bucket, key_actions)

    def _table(self, role: str, action: str, name: str, leading_key: str | None = None) -> None:
        table = self.template.named(name)
        about = {} if leading_key is None else {LEADING_KEYS: leading_key}
        self._allow(role, (action,), table.arn if table else "", about)
        self._key(role, name, TABLE)

    def _execution_key(self, role: str, machine: Part | None, actions: tuple[str, ...] = ENCRYPT) -> str | None:
        """Allow what who runs, starts or answers executions needs on the key of a state machine, and return the key."""
        key: str | None = machine.properties.get("EncryptionConfiguration", {}).get("KmsKeyId") if machine else None
        if key and machine:
            self._allow(role, actions, key, {"kms:EncryptionContext:aws:states:stateMachineArn": machine.arn})
        return key

    def _key(self, role: str, what: str, actions: tuple[str, ...]) -> None:
        """Allow what the use of something takes on the key that it is encrypted with."""
        key = self._key_of(what)
        if key:
            self._allow(role, actions, key)

    def _key_of(self, name: str) -> str | None:
        """Return the ARN of the customer managed key of a queue, a topic, a bucket or a table of the template."""
        part = self.template.named(name)
        if part is None:  # imported; a bucket of this name may be under the pipeline's key
            return self._imported_key(name)
        found = _find_key(part)
        key = self.template.named(found)
        return key.arn if key and key.kind == "AWS::KMS::Key" else None

    def _imported_key(self, bucket: str) -> str | None:
        """Return the pipeline's key, which an imported bucket may have: its inbox is traced to one queue."""
        for rule in self.template.of("AWS::Events::Rule"):
            buckets = rule.properties.get("EventPattern", {}).get("detail", {}).get("bucket", {})
            if isinstance(buckets, dict) and bucket in buckets.get("name", ()):
                return self._key_of(rule.properties["Targets"][0]["Arn"])
        return None


@dataclass(frozen=True)
class Call:
    """The call that a state of a state machine makes.

    Parameters
    ----------
    state
        Its name.
    integration
        The service and call, such as ``lambda:invoke``.
    arguments
        With what; empty if they are one expression.
    """

    state: str
    integration: str
    arguments: Mapping[str, Any]


def calls(machine: Part) -> list[Call]:
    """Return what a state machine calls."""
    found: list[Call] = []
    for name, state in states_of(json.loads(machine.properties["DefinitionString"])):
        if state["Type"] == "Task":
            arguments = state.get("Arguments")
            integration = state["Resource"].partition(":states:::")[2]
            found.append(Call(name, integration, arguments if isinstance(arguments, dict) else {}))
    return found


def states_of(definition: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the states of a definition with their names, those within maps included."""
    for name, state in definition["States"].items():
        yield name, state
        for inner in (state.get("ItemProcessor"), *state.get("Branches", ())):
            if inner:
                yield from states_of(inner)


def _prefixes(patterns: list[dict[str, str]]) -> list[str]:
    """Return what keys begin with that an event pattern lets through."""
    found = set()
    for pattern in patterns:
        text = pattern.get("prefix", pattern.get("wildcard", ""))
        if "wildcard" in pattern:
            text = re.sub(r"\\(.)", r"\1", text.partition("*")[0])
        found.add(text)
    return sorted(found)


def _bucket_and_key(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return bucket, key


def _find_key(part: Part) -> Any:
    properties = part.properties
    if part.kind == "AWS::S3::Bucket":
        rules = properties.get("BucketEncryption", {}).get("ServerSideEncryptionConfiguration", [])
        return next((rule["ServerSideEncryptionByDefault"].get("KMSMasterKeyID") for rule in rules), None)
    if part.kind == "AWS::DynamoDB::GlobalTable":
        return next((one.get("SSESpecification", {}).get("KMSMasterKeyId") for one in properties["Replicas"]), None)
    return aslist(properties.get("KmsMasterKeyId"))[0]
