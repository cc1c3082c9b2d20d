"""The ways to give a pipeline something besides objects: requests, messages and records, which a page sends."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from abc import ABC, abstractmethod
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from boto3.dynamodb.types import TypeSerializer
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from cdk_inference.common.json_values import mapping
from cdk_inference.local import aws
from cdk_inference.local.errors import LocalError
from cdk_inference.local.messages import queue_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cdk_inference.local.stacks import Resource
    from cdk_inference.local.uploads import Pipeline

_REST = "AWS::ApiGateway::RestApi"
_ANSWER_SECONDS = 330  # an express workflow may take five minutes
_REFUSED = (401, 403)


class Input(ABC):
    """A way to give a pipeline something.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    env
        Account and region of the pipeline.
    name
        Its name on the page, such as ``HTTP API``.
    """

    note: ClassVar[str]
    """Tells the user about it, in a sentence."""
    answers: ClassVar[bool] = False
    """Whether the answer comes at once, and not as a row."""
    content_types: tuple[str, ...] = ()
    """The only media types that it takes; any, if there are none."""
    wants_token = False
    """Whether callers prove who they are by a header that the user must give."""

    def __init__(self, endpoint: str, env: aws.Env, name: str) -> None:
        self._endpoint = endpoint
        self._env = env
        self.name = name

    def described(self) -> dict[str, Any]:
        """Return what a page shows of it."""
        return {
            "name": self.name,
            "note": self.note,
            "answers": self.answers,
            "content_types": list(self.content_types),
            "wants_token": self.wants_token,
        }

    @abstractmethod
    def send(self, data: bytes, content_type: str, authorization: str) -> dict[str, Any]:
        """Send something.

        Parameters
        ----------
        data
            Its bytes.
        content_type
            Its media type; ``""`` if that is not known.
        authorization
            The header by which callers prove who they are, if the user gave one.

        Returns
        -------
        dict
            ``status``, ``milliseconds`` and ``answer`` of a request, or ``keys``, one of which its row will have.

        Raises
        ------
        LocalError
            It is not taken.
        """


class _Queue(Input):
    """Messages of a queue.

    Parameters
    ----------
    queue
        Name or URL of the queue.
    """

    note = "Each becomes a message of the queue, and then a row."

    def __init__(self, endpoint: str, env: aws.Env, queue: str) -> None:
        super().__init__(endpoint, env, "Queue")
        self._url = queue_url(endpoint, queue, env)

    def send(self, data: bytes, content_type: str, authorization: str) -> dict[str, Any]:  # noqa: ARG002
        """Send a message."""
        return {"keys": [self._send(_text(data))]}

    def _send(self, body: str) -> str:
        with _taken("the queue"):
            sqs = aws.client(self._endpoint, "sqs", self._env)
            return str(sqs.send_message(QueueUrl=self._url, MessageBody=body)["MessageId"])


class _Schedule(_Queue):
    """Inputs of a schedule, which need not wait for their time."""

    note = "Each is scored now, as if its schedule had sent it."

    def send(self, data: bytes, content_type: str, authorization: str) -> dict[str, Any]:  # noqa: ARG002
        """Send what the schedule would, with this as its input."""
        try:
            given = json.loads(text := _text(data))
        except (ValueError, RecursionError):
            given = text
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        name = f"console-{uuid.uuid4().hex[:8]}/{at}"
        self._send(json.dumps({"id": name, "time": at, "input": given}))
        return {"keys": [name]}


class _Stream(Input):
    """Records of a Kinesis stream.

    Parameters
    ----------
    stream
        Its name.
    """

    note = "Each becomes a record of the stream, and then a row."

    def __init__(self, endpoint: str, env: aws.Env, stream: str) -> None:
        super().__init__(endpoint, env, "Stream")
        self._stream = stream

    def send(self, data: bytes, content_type: str, authorization: str) -> dict[str, Any]:  # noqa: ARG002
        """Put a record."""
        partition = f"console-{uuid.uuid4().hex[:8]}"
        with _taken("the stream"):
            kinesis = aws.client(self._endpoint, "kinesis", self._env)
            put = kinesis.put_record(StreamName=self._stream, Data=data, PartitionKey=partition)
        return {"keys": [f"{put['ShardId']}:{put['SequenceNumber']}", partition]}


class _Table(Input):
    """Items of a DynamoDB table, whose stream the pipeline reads.

    Parameters
    ----------
    table
        Its name.
    """

    note = "Each is a JSON object, which is put into the table. The change becomes a row."

    def __init__(self, endpoint: str, env: aws.Env, table: str) -> None:
        super().__init__(endpoint, env, "Table")
        self._table = table

    def send(self, data: bytes, content_type: str, authorization: str) -> dict[str, Any]:  # noqa: ARG002
        """Put an item."""
        try:
            item = json.loads(_text(data), parse_float=Decimal)
        except (ValueError, RecursionError) as error:
            raise LocalError(f"item must be a JSON object, got something else: {error}") from error
        if not isinstance(item, dict):
            raise LocalError(f"item must be a JSON object, got {type(item).__name__}")
        write = TypeSerializer().serialize
        with _taken("the table"):
            dynamodb = aws.client(self._endpoint, "dynamodb", self._env)
            dynamodb.put_item(TableName=self._table, Item={name: write(value) for name, value in item.items()})
        return {"keys": []}


class _Api(Input):
    """Requests of an HTTP API or a REST API.

    Parameters
    ----------
    api
        The API.
    name
        As for `Input`.
    """

    note = "The prediction comes with the response. A request leaves no row."
    answers = True

    def __init__(self, endpoint: str, env: aws.Env, api: Resource, name: str) -> None:
        super().__init__(endpoint, env, name)
        facts = api.metadata
        self._id, self._path = api.physical_id, str(facts.get("path", ""))
        self._url = f"{endpoint}/_aws/execute-api/{self._id}/{facts.get('api_stage')}{self._path}"
        self._signed = facts.get("signed") is not False
        self._with_key = facts.get("api_key") is True
        self.content_types = tuple(map(str, facts.get("content_types") or ()))
        self.wants_token = not self._signed and not self._with_key

    def send(self, data: bytes, content_type: str, authorization: str) -> dict[str, Any]:
        """Send a request, with the signature of the account's root and an API key where the API wants them."""
        for name, value in {"type": content_type, "authorization": authorization}.items():
            if not (value.isascii() and value.isprintable()):
                raise LocalError(f"{name} must be a single line of printable ASCII, got {value[:100]!r}")
        headers = {"content-type": content_type or "application/octet-stream"}
        if self._with_key:
            headers["x-api-key"] = self._key()
        request = AWSRequest("POST", self._url, headers, data=data)
        if authorization:
            request.headers["authorization"] = authorization
        elif self._signed:
            root = aws.root_credentials(self._endpoint, self._env.account)
            signer = Credentials(root["AccessKeyId"], root["SecretAccessKey"])
            SigV4Auth(signer, "execute-api", self._env.region).add_auth(request)
        prepared = urllib.request.Request(self._url, data, dict(request.headers), method="POST")  # noqa: S310 - loopback
        began = time.monotonic()
        try:
            with aws.open_directly(prepared, timeout=_ANSWER_SECONDS) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        except OSError as error:
            raise LocalError(f"the API must answer, got {error}") from error
        found = _answer(status, text, began)
        if status in _REFUSED and self.wants_token:
            found["answer"]["hint"] = "give the header Authorization, such as Bearer and a token of your user pool"
        return found

    def _key(self) -> str:
        """Return the key of a client of this API."""
        gateway = aws.client(self._endpoint, "apigateway", self._env)
        plans = gateway.get_usage_plans()["items"]
        mine = [plan["id"] for plan in plans if any(stage["apiId"] == self._id for stage in plan.get("apiStages", ()))]
        for plan in mine:
            for key in gateway.get_usage_plan_keys(usagePlanId=plan)["items"]:
                return str(gateway.get_api_key(apiKey=key["id"], includeValue=True)["value"])
        raise LocalError(f"the API must have a client for its key, got none; call add_client() for {self._path}")


class _TextStream(Input):
    """Requests of a function that streams texts.

    Parameters
    ----------
    function
        Its name.
    """

    note = "The embedded AWS has no function URLs. It invokes the function, so the text comes as a whole."
    answers = True

    def __init__(self, endpoint: str, env: aws.Env, function: str) -> None:
        super().__init__(endpoint, env, "Text stream")
        self._function = function

    def send(self, data: bytes, content_type: str, authorization: str) -> dict[str, Any]:  # noqa: ARG002
        """Invoke the function with a request."""
        event = {
            "version": "2.0",
            "headers": {"content-type": content_type or "application/json"},
            "requestContext": {"apiId": "console", "requestId": str(uuid.uuid4()), "timeEpoch": _now()},
            "body": _text(data),
            "isBase64Encoded": False,
        }
        began = time.monotonic()
        with _taken("the function"):
            client = aws.client(self._endpoint, "lambda", self._env)
            invoked = client.invoke(FunctionName=self._function, Payload=json.dumps(event))
        said = mapping(json.loads(invoked["Payload"].read()))
        if invoked.get("FunctionError"):
            raise LocalError(f"the function must answer, got {said.get('errorMessage') or said}")
        status, body = int(said.get("statusCode", 500)), str(said.get("body", ""))
        if status != 200:  # noqa: PLR2004
            return _answer(status, body.encode(), began)
        events = [json.loads(line[6:]) for line in body.split("\n") if line.startswith("data: ")]
        text = "".join(str(each.get("text", "")) for each in events)
        end = {name: value for name, value in mapping(events[-1] if events else {}).items() if name != "text"}
        answer = {"prediction": {"text": text}, "model_version": end.pop("model_version", None), **end}
        return {"status": status, "milliseconds": _since(began), "answer": answer}


@contextmanager
def _taken(what: str) -> Iterator[None]:
    """Say that something was not taken, and why."""
    try:
        yield
    except ClientError as error:
        raise LocalError(f"{what} must take it, got {error.response['Error'].get('Message')}") from error


def inputs_of(endpoint: str, pipeline: Pipeline) -> Iterator[Input]:
    """Yield the ways to give a pipeline something besides objects.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    pipeline
        The pipeline, or what streams texts.
    """
    parts, env = pipeline.parts, pipeline.env
    kind, _, name = (pipeline.source or "").partition(":")
    if pipeline.table is None:
        for function in parts.functions:
            yield _TextStream(endpoint, env, function)
    elif kind == "sqs" and parts.queue is not None:
        yield (_Schedule if parts.scheduled else _Queue)(endpoint, env, parts.queue)
    elif kind == "kinesis":
        yield _Stream(endpoint, env, name)
    elif kind == "dynamodb":
        yield _Table(endpoint, env, name)
    titles: dict[str, int] = {}
    for api in parts.apis:
        title = "REST API" if api.type == _REST else "HTTP API"
        titles[title] = titles.get(title, 0) + 1
        yield _Api(endpoint, env, api, title if titles[title] == 1 else f"{title} {titles[title]}")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise LocalError(f"input must be text in UTF-8, got {len(data):,} bytes that are none") from error


def _answer(status: int, body: bytes, began: float) -> dict[str, Any]:
    """Return a response, whose body may be text as well."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    said: Mapping[str, Any] = answer if isinstance(answer, dict) else {"message": body.decode(errors="replace")[:2000]}
    return {"status": status, "milliseconds": _since(began), "answer": dict(said)}


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)


def _now() -> int:
    return round(time.time() * 1000)
