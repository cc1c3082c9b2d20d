"""The preprocessing function: what becomes of each message, whatever the object or the user's code does."""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.runtime.arrays import store as store_of

from inference_runtime.errors import BatchTooLargeError, RetryableError, StageError
from inference_runtime.stages.first_answers import MAX_ANSWER_BYTES, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from conftest import Inbox

VECTOR = [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}]
READ_NUMBERS = """
    import json
    import numpy as np
    from inference_runtime import RejectItem

    def function(data, item):
        try:
            return np.array(json.loads(data), np.float32)
        except ValueError as error:
            raise RejectItem("not numbers") from error
"""


@pytest.fixture
def configure(
    environment: pytest.MonkeyPatch, bucket: str, stage: Callable[[str], str], load: Callable[[str], Any]
) -> Callable[..., Any]:
    """Return a handler around the given user code."""

    def configure(code: str = READ_NUMBERS, inputs: Any = VECTOR, **variables: str) -> Any:
        stage(code)
        environment.setenv("MODEL_INPUTS", json.dumps(inputs))
        for name, value in variables.items():
            environment.setenv(name, value)
        handler = load("preprocess")
        return lambda messages: json.loads(json.dumps(handler({"messages": messages})))

    return configure


def reasons(response: dict[str, Any]) -> dict[str, str]:
    return {response["items"][entry["index"]]["key"]: entry["reason"] for entry in response["rejected"]}


def failed(response: dict[str, Any]) -> dict[str, str]:
    """Names of the errors, by message id."""
    return {each["message_id"]: each["error"] for each in response["failed"]}


NOTHING: dict[str, list[Any]] = {name: [] for name in ("items", "groups", "rejected", "retry", "failed", "unfinished")}


def scored(response: dict[str, Any]) -> list[str]:
    return [response["items"][index]["key"] for group in response["groups"] for index in group["indices"]]


def test_good_objects_are_stacked_in_order(configure: Any, inbox: Inbox) -> None:
    response = configure()([inbox.put(f"{n}.json", f"[{n}, 1]".encode()) for n in range(20)])
    assert scored(response) == [f"{n}.json" for n in range(20)]
    assert response["rejected"] == []
    assert response["retry"] == []
    assert [g["inputs"]["x"]["shape"] for g in response["groups"]] == [[20, 2]]


def test_records_as_a_queue_has_them_work(configure: Any, inbox: Inbox) -> None:
    messages = [inbox.put(f"{n}", f"[{n}, 1]".encode()) for n in range(2)]
    records = [{"messageId": m["message_id"], "body": json.dumps(m)} for m in messages]
    response = configure()([*records, {"messageId": "garbage", "body": "hello"}])
    assert scored(response) == ["0", "1"]
    assert [item["message_id"] for item in response["items"]] == [m["message_id"] for m in messages]
    assert failed(response) == {"garbage": "MalformedMessageError"}


def test_an_empty_batch_is_fine(configure: Any) -> None:
    assert configure()([]) == NOTHING


def test_different_shapes_make_different_groups(configure: Any, inbox: Inbox) -> None:
    handler = configure(inputs=[{"name": "x", "dtype": "float32", "shape": ["batch", "length"]}])
    bodies = ["[1]", "[1, 2]", "[3]", "[]", "[4, 5]"]
    response = handler([inbox.put(f"{n}", body.encode()) for n, body in enumerate(bodies)])
    assert [(g["indices"], g["inputs"]["x"]["shape"]) for g in response["groups"]] == [
        ([0, 2], [2, 1]),
        ([1, 4], [2, 2]),
        ([3], [1, 0]),
    ]


def test_several_inputs(configure: Any, inbox: Inbox) -> None:
    code = """
        import numpy as np
        def function(data, item):
            return {"ids": np.frombuffer(data, np.uint8).astype(np.int64), "mask": np.ones(len(data), bool)}
    """
    inputs = [{"name": n, "dtype": d, "shape": ["batch", "length"]} for n, d in (("ids", "int64"), ("mask", "bool"))]
    response = configure(code, inputs)([inbox.put("a", b"abc"), inbox.put("b", b"xyz")])
    assert {n: t["shape"] for n, t in response["groups"][0]["inputs"].items()} == {"ids": [2, 3], "mask": [2, 3]}


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("np.zeros(3, np.float32)", r"input 'x' is float32 \[3\], expected float32 \[2\]"),
        ("np.zeros((1, 2), np.float32)", r"float32 \[1, 2\], expected float32 \[2\]"),
        ("np.float32(0)", r"float32 \[\]"),
        ("np.array([0, np.nan], np.float32)", r"1 values that are NaN or infinite"),
        ("np.array([np.inf, -np.inf], np.float32)", r"2 values that are NaN or infinite"),
    ],
)
def test_a_shape_or_values_that_the_model_does_not_take_are_rejected(
    configure: Any, inbox: Inbox, returned: str, says: str
) -> None:
    handler = configure(f"import numpy as np\ndef function(data, item): return {returned}")
    response = handler([inbox.put("a", b"x")])
    assert re.search(says, reasons(response)["a"])


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("np.zeros(2)", r"input 'x' is float64 \[2\], expected float32 \[2\]"),
        ("np.full(3, np.nan)", r"input 'x' is float64 \[3\], expected float32 \[2\]"),
        ("[1, 2]", r"int64 \[2\]"),
        ("None", r"object \[\]"),
        ("'text'", r"string \[\]"),
        ("[[1], [1, 2]]", r"inhomogeneous"),
        ("{}", r"returned inputs \[\], expected \['x'\]"),
        ("{'y': np.zeros(2, np.float32)}", r"returned inputs \['y'\], expected \['x'\]"),
        ("{'x': np.zeros(2, np.float32), 3: 0}", r"returned inputs \['3', 'x'\]"),
    ],
)
def test_wrong_types_and_names_are_bugs_and_fail(
    configure: Any, inbox: Inbox, caplog: pytest.LogCaptureFixture, returned: str, says: str
) -> None:
    good = "np.zeros(2, np.float32)"
    handler = configure(f"import numpy as np\ndef function(d, item): return {good} if item.key == 'b' else {returned}")
    bad = inbox.put("a", b"x")
    response = handler([bad, inbox.put("b", b"x")])
    assert list(failed(response)) == [bad["message_id"]]
    assert re.search(says, response["failed"][0]["cause"])
    assert response["retry"] == []
    assert scored(response) == ["b"]
    assert response["rejected"] == []
    assert re.search(says, caplog.text)


def test_a_named_dimension_must_agree_between_inputs(configure: Any, inbox: Inbox) -> None:
    code = "import numpy as np\ndef function(d, i): return {'a': np.zeros(2, 'f4'), 'b': np.zeros(len(d), 'f4')}"
    inputs = [{"name": n, "dtype": "float32", "shape": ["batch", "length"]} for n in "ab"]
    response = configure(code, inputs)([inbox.put("two", b"xx"), inbox.put("three", b"xxx")])
    assert scored(response) == ["two"]
    assert list(reasons(response)) == ["three"]


def test_several_inputs_from_one_array_are_a_bug_and_fail(
    configure: Any, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    message = inbox.put("a", b"[1, 2]")
    response = configure(inputs=[VECTOR[0], {**VECTOR[0], "name": "y"}])([message])
    says = "preprocess returned ndarray, expected a dict with the inputs ['x', 'y']"
    assert response == NOTHING | {
        "failed": [{"message_id": message["message_id"], "error": "StageError", "cause": says}]
    }
    assert says in caplog.text


def test_users_errors_reject_or_fail_and_spare_the_others(
    configure: Any, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    handler = configure("""
        import numpy as np
        from inference_runtime import Item, RejectItem

        def function(data, item):
            assert isinstance(item, Item)
            if item.key == "refused":
                raise RejectItem("no face in the picture")
            if item.key == "mute":
                raise RejectItem
            if item.key == "long":
                raise RejectItem("\\ud800" + "x" * 10_000)
            if item.key == "unicode":
                data.decode()
            if item.key == "value":
                return np.zeros(2, np.float32).reshape(len(data) + 2)
            if item.key == "bug":
                return [][item.size]
            if item.key == "memory":
                raise MemoryError
            return np.zeros(2, np.float32)
    """)
    keys = ["refused", "mute", "long", "unicode", "value", "bug", "good", "memory"]
    messages = {key: inbox.put(key, b"\xff") for key in keys}
    with caplog.at_level(logging.ERROR):
        response = handler(list(messages.values()))

    assert scored(response) == ["good"]
    found = reasons(response)
    assert found.keys() == {"refused", "mute", "long"}
    assert found["refused"] == "no face in the picture"
    assert found["mute"] == "RejectItem"
    assert found["long"].startswith("?xxx")
    assert len(found["long"]) == 500
    assert response["retry"] == []
    assert failed(response) == {
        messages["unicode"]["message_id"]: "UnicodeDecodeError",
        messages["value"]["message_id"]: "ValueError",
        messages["bug"]["message_id"]: "IndexError",
        messages["memory"]["message_id"]: "MemoryError",
    }
    for error in ("UnicodeDecodeError", "cannot reshape", "IndexError", "MemoryError"):
        assert error in caplog.text
    assert f"s3://{inbox.bucket}/bug" in caplog.text


def test_a_buffer_that_user_code_reuses_does_not_mix_items(configure: Any, inbox: Inbox) -> None:
    handler = configure("""
        import numpy as np
        buffer = np.zeros(2, np.float32)
        def function(data, item):
            buffer[:] = float(data)
            return buffer
    """)
    response = handler([inbox.put("1", b"1"), inbox.put("2", b"2")])
    values = np.frombuffer(base64.b64decode(response["groups"][0]["inputs"]["x"]["data"]), np.float32)
    assert values.tolist() == [1, 1, 2, 2]


def test_duplicates_in_a_batch_are_scored_once(configure: Any, inbox: Inbox) -> None:
    message = inbox.put("a", b"[1, 2]")
    copies = [{**message, "message_id": f"copy-{n}"} for n in range(3)]
    response = configure()([message, *copies])
    assert scored(response) == ["a"]
    assert response["retry"] == []
    assert response["items"][0]["message_id"] == message["message_id"]


def test_an_overwritten_object_is_left_to_its_newer_event(configure: Any, inbox: Inbox) -> None:
    older, newer = inbox.put("a", b"[1, 2]"), inbox.put("a", b"[3, 4]")
    response = configure()([older, newer])
    assert [item["etag"] for item in response["items"]] == [newer["detail"]["object"]["etag"]]
    assert response["rejected"] == []
    assert response["retry"] == []


def test_of_a_versioned_object_each_event_reads_its_own_version(
    configure: Any, inbox: Inbox, s3: S3Client, bucket: str
) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    versions = []
    for body in (b"[1, 2]", b"broken"):
        put = s3.put_object(Bucket=bucket, Key="a", Body=body)
        versions.append(inbox.message("a", size=len(body), etag=put["ETag"], **{"version-id": put["VersionId"]}))
    s3.delete_object(Bucket=bucket, Key="a")
    lost = inbox.message("a", **{"version-id": versions[0]["detail"]["object"]["version-id"][:-4] + "0000"})

    response = configure()([*versions, lost])

    assert scored(response) == ["a"]
    assert response["items"][0]["version_id"] == versions[0]["detail"]["object"]["version-id"]
    assert [entry["index"] for entry in response["rejected"]] == [1, 2]
    assert response["rejected"][1]["reason"] == "object version no longer exists"


def test_objects_that_cannot_be_read_are_rejected(configure: Any, inbox: Inbox) -> None:
    big = inbox.put("big", b"x" * 101)
    response = configure(MAX_OBJECT_BYTES="100")([inbox.put("empty", b""), big, inbox.message("gone")])
    assert reasons(response) == {
        "empty": "object is empty",
        "big": "object has 101 bytes, at most 100 are read",
        "gone": "object no longer exists",
    }


@pytest.mark.parametrize(
    "key", ["a b+c%20%2B&?#=;'\"\\.json", "日本語/🐈.json", "k" * 1024, "ß" * 512, " ", "a//b/./c"]
)
def test_any_key_is_read_as_it_is(configure: Any, inbox: Inbox, key: str) -> None:
    assert scored(configure()([inbox.put(key, b"[1, 2]")])) == [key]


@contextmanager
def answering(status: int, body: bytes, length: int | None = None) -> Iterator[str]:
    """Serve one answer to every request: what the embedded AWS does not do by itself."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_refused_read_is_retried_and_says_why(configure: Any, inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    message = inbox.put("a", b"[1, 2]")
    with answering(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>") as url:
        response = configure(AWS_ENDPOINT_URL_S3=url)([message])
    assert response == NOTHING | {"retry": [message["message_id"]]}
    assert "AccessDenied" in caplog.text


def test_an_archived_object_is_rejected(configure: Any, inbox: Inbox) -> None:
    with answering(403, b"<Error><Code>InvalidObjectState</Code></Error>") as url:
        response = configure(AWS_ENDPOINT_URL_S3=url)([inbox.message("a")])
    assert reasons(response) == {"a": "object is archived and cannot be read"}


def test_a_connection_lost_while_reading_is_retried(configure: Any, inbox: Inbox) -> None:
    message = inbox.put("a", b"[1, 2]")
    with answering(200, b"[1,", length=6) as url:
        response = configure(AWS_ENDPOINT_URL_S3=url)([message])
    assert response["retry"] == [message["message_id"]]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
members = st.sampled_from(["key", "size", "etag", "sequencer", "version-id"])
near_misses = st.fixed_dictionaries(
    {
        "bucket": st.fixed_dictionaries({"name": json_values}) | json_values,
        "object": st.dictionaries(members, json_values) | json_values,
    }
)


@pytest.fixture
def handler(configure: Any) -> Any:
    return configure()


# The handler keeps nothing between calls, so that one for all examples is right.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_malformed_messages_of_any_shape_fail(handler: Any, data: st.DataObject) -> None:
    details = data.draw(st.lists(json_values | near_misses | (json_values | near_misses).map(json.dumps), max_size=5))
    times = st.just("2026-01-02T03:04:05Z") | json_values
    events = [{"time": data.draw(times), "detail": detail} for detail in details]
    messages: list[dict[str, Any]] = [{"message_id": f"m{n}", **event} for n, event in enumerate(events)]
    messages += [{"message_id": f"b{n}", "body": event} for n, event in enumerate(events)]
    messages += [{"messageId": f"t{n}", "body": json.dumps(event)} for n, event in enumerate(events)]
    messages += [{"messageId": f"g{n}", "body": detail} for n, detail in enumerate(details)]
    response = handler(messages)
    ids = [message.get("message_id") or message.get("messageId") for message in messages]
    assert failed(response) == dict.fromkeys(ids, "MalformedMessageError")
    assert response | {"failed": []} == NOTHING


@pytest.mark.parametrize(
    "messages", [None, {}, "x", [None], [[]], [{"detail": {}}], [{"message_id": 7}], [{"messageId": ""}]]
)
def test_a_batch_without_message_ids_fails_as_retryable(configure: Any, messages: Any) -> None:
    with pytest.raises(RetryableError):
        configure()(messages)


def test_a_lost_work_bucket_fails_as_retryable(configure: Any, inbox: Inbox) -> None:
    handler = configure(
        "import numpy as np\ndef function(d, i): return np.zeros(100_000, np.float32)",
        [{"name": "x", "dtype": "float32", "shape": ["batch", 100_000]}],
        WORK_BUCKET="no-such-bucket-anywhere",
    )
    with pytest.raises(RetryableError, match="cannot write s3://no-such-bucket-anywhere"):
        handler([inbox.put("a", b"x")])


@pytest.mark.parametrize("dtype", ["complex64", "bfloat16", "float"])
def test_a_model_input_that_cannot_travel_fails_at_the_start(configure: Any, dtype: str) -> None:
    with pytest.raises(StageError, match=f"model input 'x' is {dtype}"):
        configure(inputs=[{"name": "x", "dtype": dtype, "shape": ["batch", 1]}])


def test_a_batch_of_long_keys_and_reasons_stays_within_the_workflows_limit(configure: Any, inbox: Inbox) -> None:
    handler = configure(
        "from inference_runtime import RejectItem\ndef function(data, item): raise RejectItem('x' * 1000)"
    )
    messages = [inbox.put(f"{'é' * 500}{n:03}", b"x") for n in range(80)]
    response = handler(messages[:32])
    assert len(response["rejected"]) == 32
    assert len(json.dumps(response)) <= 180_000
    # More than fits is not lost: any other error makes the workflow halve the batch.
    with pytest.raises(BatchTooLargeError, match="smaller batch size"):
        handler(messages)


STATE_LIMIT = 262_144
REST = 2_000  # of a state: routes, indices, model versions


@pytest.fixture
def first(bucket: str, s3: S3Client) -> dict[str, Any]:
    """Return the longest answer of a cascade's first model."""
    about = {"row_version": "a" * 64, "model_version": "b" * 64, "inference": "cpu", "confidence": 0.123456}
    given = answer(store_of(s3, bucket), route="r" * 31, **about, reason="\N{GRINNING FACE}" * 500)
    while len(json.dumps(given | {"reason": given["reason"] + "x"})) <= MAX_ANSWER_BYTES:
        given["reason"] += "x"
    assert len(json.dumps(given)) == MAX_ANSWER_BYTES
    return given


def test_first_answers_leave_room_for_what_follows(configure: Any, inbox: Inbox, first: Any) -> None:
    """The hand-over holds the response and the answers, postprocessing these with the outputs instead of the inputs."""
    code = "import numpy as np\ndef function(data, item): return np.full(1300, data[0], np.float32)"
    handler = configure(code, [{"name": "x", "dtype": "float32", "shape": ["batch", 1300]}])
    messages = [inbox.put(f"{'é' * 100}{n:03}", b"x") | {"first": first} for n in range(32)]
    response = handler(messages)
    assert len(scored(response)) == 32
    answers = {message["message_id"]: message["first"] for message in messages}
    together = len(json.dumps(response)) + len(json.dumps(answers))
    assert together <= 180_000
    assert together + 80_000 + REST <= STATE_LIMIT
    assert "data" in handler([message | {"first": None} for message in messages[:2]])["groups"][0]["inputs"]["x"]


def test_a_batch_that_first_answers_make_too_large_is_halved(configure: Any, inbox: Inbox, first: Any) -> None:
    handler = configure("from inference_runtime import RejectItem\ndef function(d, i): raise RejectItem('é' * 500)")
    messages = [inbox.put(f"{'é' * 300}{n:03}", b"x") for n in range(32)]
    assert 130_000 < len(json.dumps(handler(messages))) <= 180_000
    asked = [message | {"first": first} for message in messages]
    with pytest.raises(BatchTooLargeError):
        handler(asked)
    assert len(handler(asked[:16])["rejected"]) == 16
