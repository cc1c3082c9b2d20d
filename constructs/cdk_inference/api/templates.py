"""The mapping templates between a request and the workflow that answers it, in Velocity's language.

https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-mapping-template-reference.html has what they
may use. Whatever a caller sends is in base64 before it becomes part of JSON.
"""

from __future__ import annotations

MOST_BYTES = 190_000
"""Largest body: in base64, it must fit into the input of a workflow of 262,144 characters."""

_LATE = '{"message": "the request took longer than an API may take; send less, or use a queue or a bucket"}'
_BUSY = '{"message": "a service that is needed is not available; try again"}'
_LARGE = f'{{"message": "the body must be at most {MOST_BYTES:,} bytes"}}'
_BROKEN = '{"message": "Internal Server Error"}'

_REQUEST = """\
#set($key = $input.params('Idempotency-Key'))
#if($key == '')
#set($key = $input.params('idempotency-key'))
#end
{"stateMachineArn": "STATE_MACHINE", "input": "{\\"request\\": \\"$context.requestId\\", \
\\"api\\": \\"$context.apiId\\", \\"time\\": \\"$context.requestTimeEpoch\\", \
\\"key\\": \\"$util.base64Encode($key)\\", \\"body\\": \\"BODY\\"}"}
"""

_ENDED = f"""\
#set($run = $input.path('$'))
#if($run.status == 'SUCCEEDED')
#set($said = $util.parseJson($run.output))
#set($context.responseOverride.status = $said.statusCode)
$said.body
#elseif($run.status == 'TIMED_OUT')
#set($context.responseOverride.status = 504)
{_LATE}
#else
#set($context.responseOverride.status = 500)
{_BROKEN}
#end
"""

# Step Functions answers with status 400 whatever is wrong, and names it in __type.
_REFUSED = f"""\
#set($type = $input.path('$').get('__type'))
#if($type.contains('ValidationException') || $type.contains('InvalidExecutionInput'))
#set($context.responseOverride.status = 413)
{_LARGE}
#elseif($type.contains('Throttl') || $type.contains('LimitExceeded'))
#set($context.responseOverride.status = 503)
{_BUSY}
#else
#set($context.responseOverride.status = 500)
{_BROKEN}
#end
"""

_FAILED = _BUSY


def request_template(state_machine_arn: str, *, text: bool) -> str:
    """Return the template that makes a request the input of a workflow.

    Parameters
    ----------
    state_machine_arn
        The workflow.
    text
        Whether API Gateway has the body as a text. Bytes are in base64 then already.
    """
    body = "$util.base64Encode($input.body)" if text else "$input.body"
    return _REQUEST.replace("STATE_MACHINE", state_machine_arn).replace("BODY", body)


RESPONSES: tuple[tuple[str, str | None, str], ...] = (
    ("200", None, _ENDED),
    ("400", "4\\d{2}", _REFUSED),
    ("503", "5\\d{2}", _FAILED),
)
"""Responses by the status of Step Functions: each one's status, unless its template sets another; pattern; template."""


def look_up_template(state_machine_arn: str) -> str:
    """Return the template that makes the id of a path the input of a workflow."""
    return (
        f'{{"stateMachineArn": "{state_machine_arn}", "input": "{{\\"api\\": \\"$context.apiId\\", '
        '\\"id\\": \\"$util.base64Encode($input.params(\'id\'))\\"}"}'
    )


SEND_MESSAGE = "Action=SendMessage&MessageBody=$util.urlEncode($input.body)"
"""The template that makes a request a message of SQS."""

SENT: tuple[tuple[str, str | None, str], ...] = (
    ("202", "2\\d{2}", '{"id": "$input.path(\'$.SendMessageResponse.SendMessageResult.MessageId\')"}'),
    ("400", "400", '{"message": "the body is empty, too large, or has characters that a queue does not take"}'),
    ("500", None, _BROKEN),
    ("503", "5\\d{2}", _BUSY),
)
"""Responses by the status of SQS, as `RESPONSES`."""


def is_text(content_type: str) -> bool:
    """Whether bodies of a media type are texts, in UTF-8."""
    kind, _, name = content_type.partition("/")
    return kind == "text" or name in ("json", "xml", "x-ndjson") or name.endswith(("+json", "+xml"))
