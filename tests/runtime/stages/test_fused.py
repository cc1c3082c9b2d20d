"""The fused function: the same rows as the three stages, in one process, without a work bucket."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import boto3
import onnx
import pytest
from onnx import TensorProto, helper
from tests.runtime.invocation import Clock, Context
from tests.runtime.stages.mean import BODIES, USER_CODE, code, score, staged

from inference_runtime.errors import LittleTimeError, RetryableError, StageError
from inference_runtime.stages import preprocessor
from inference_runtime.stages.postprocessor import Postprocessor
from inference_runtime.stages.time_limit import TookTooLongError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Inbox


__all__ = ["code", "score", "staged"]  # fixtures


NOTHING = {"retry": [], "failures": [], "unfinished": []}


def found(table: str) -> dict[str, dict[str, Any]]:
    rows: list[Any] = boto3.resource("dynamodb").Table(table).scan(ConsistentRead=True)["Items"]
    return {row["key"]: {name: value for name, value in row.items() if name != "recorded_at"} for row in rows}


def empty(table: str) -> None:
    for row in boto3.resource("dynamodb").Table(table).scan()["Items"]:
        boto3.resource("dynamodb").Table(table).delete_item(Key={n: row[n] for n in ("object", "version")})


def batch(inbox: Inbox) -> list[dict[str, Any]]:
    """Messages of every kind."""
    messages = [inbox.put(key, body) for key, body in BODIES.items()]
    messages.append(inbox.message("gone"))
    old = inbox.put("overwritten", b"[1]")
    inbox.put("overwritten", b"[2]")
    malformed = {"message_id": "malformed", "time": "2026-01-02T03:04:05Z", "detail": {"bucket": 7}}
    return [malformed, *messages, old, {**messages[0], "message_id": "delivered twice"}]


@pytest.mark.parametrize("more", [{}, {"route": "better", "variant": "a/b"}, {"route": "better", "variant": None}])
def test_rows_are_those_of_the_three_stages(
    score: Any, staged: Any, inbox: Inbox, table: str, environment: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    messages = batch(inbox)

    failures = staged(messages, **more)
    expected = found(table)
    empty(table)
    done = score(messages, **more)

    assert found(table) == expected
    assert done["failures"] == failures
    assert done["retry"] == done["unfinished"] == []
    assert {key: row["status"] for key, row in expected.items()} == {
        "good": "SUCCEEDED",
        "also good": "SUCCEEDED",
        "of another shape": "SUCCEEDED",
        "refused before": "REJECTED",
        "refused after": "REJECTED",
        "not a number": "REJECTED",
        "infinite mean": "FAILED",
        "infinite prediction": "FAILED",
        "no rank": "REJECTED",
        "empty": "REJECTED",
        "gone": "REJECTED",
    }
    assert (done["succeeded"], done["rejected"], done["failed"]) == (3, 6, 2)
    assert len(failures) == 4  # the malformed one, and three bugs
    assert {row["inference"] for row in expected.values()} == {"cpu"}


def test_a_batch_of_which_nothing_is_scored_says_so_in_its_rows(
    score: Any, staged: Any, inbox: Inbox, table: str
) -> None:
    messages = [inbox.put("refused", b"refuse"), inbox.put("empty", b"")]
    staged(messages)
    expected = found(table)
    empty(table)
    assert score(messages) == {**NOTHING, "succeeded": 0, "rejected": 2, "failed": 0}
    assert found(table) == expected
    assert {row["inference"] for row in expected.values()} == {"none"}


def test_scored_again_nothing_is_written_nor_counted(
    score: Any, inbox: Inbox, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [inbox.put("a", b"[1, 2]"), inbox.put("b", b"refuse")]
    assert score(messages)["succeeded"] == 1
    before = found(table)
    capsys.readouterr()
    assert score(messages) == {**NOTHING, "succeeded": 0, "rejected": 0, "failed": 0}
    assert found(table) == before
    [emf] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert [emf[name] for name in ("Succeeded", "Rejected", "Failed", "Retried")] == [[0]] * 4


def test_metrics_are_those_of_postprocessing(score: Any, inbox: Inbox, capsys: pytest.CaptureFixture[str]) -> None:
    score(batch(inbox))
    [emf] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    [directive] = emf["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("cdk-inference", [["pipeline"]])
    assert (emf["pipeline"], emf["model_version"]) == ("photos", "m1")
    assert [emf[name] for name in ("Succeeded", "Rejected", "Failed", "Retried")] == [[3], [6], [2], [1]]
    assert "Escalated" not in emf
    assert len(emf["Latency"]) == 11


def test_metrics_are_those_of_the_route_too(
    code: Any, inbox: Inbox, environment: pytest.MonkeyPatch, load: Callable[[str], Any], capsys: Any
) -> None:
    environment.setenv("ROUTE_METRICS", "1")
    load("fused")({"messages": [inbox.put("a", b"[1, 2]")], "route": "small", "variant": "control"})
    [emf] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert emf["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["pipeline"], ["pipeline", "route"]]
    assert (emf["route"], "variant" in emf) == ("small", False)


def test_a_large_batch_takes_little_memory(score: Any, inbox: Inbox, table: str) -> None:
    numbers, count = 2**20, 32  # 4 MiB for each of 32 items
    messages = [inbox.put(f"{i}", f"zeros {numbers}".encode()) for i in range(count)]
    tracemalloc.start()
    try:
        assert score(messages)["succeeded"] == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The inputs that wait for the model, stacked once more, and an item or two.
    assert peak < 85 * 2**20 < count * 4 * numbers
    assert len(found(table)) == count


def test_parts_of_a_large_batch_keep_their_order(
    score: Any, inbox: Inbox, table: str, environment: pytest.MonkeyPatch
) -> None:
    from inference_runtime.handlers import fused  # configured by then

    environment.setattr(fused, "MOST_INPUT_BYTES", 40)
    values = {f"{i}": [i] * (1 + i % 3) for i in range(40)}
    values |= {"refuse": None}
    messages = [inbox.put(k, b"refuse" if v is None else json.dumps(v).encode()) for k, v in values.items()]
    assert score(messages) == {**NOTHING, "succeeded": 40, "rejected": 1, "failed": 0}
    rows = found(table)
    assert rows.pop("refuse")["status"] == "REJECTED"
    assert {key: int(row["prediction"]["mean"]) for key, row in rows.items()} == {f"{i}": i for i in range(40)}
    assert all(row["prediction"]["key"] == key for key, row in rows.items())


@pytest.mark.parametrize("count", [1, 16, 17, 33])
def test_the_model_runs_on_at_most_16_items(
    score: Any, inbox: Inbox, environment: pytest.MonkeyPatch, count: int
) -> None:
    from inference_runtime.handlers import fused

    runs = []
    infer = fused.engine.session.run
    environment.setattr(fused.engine.session, "run", lambda inputs: runs.append(len(inputs["x"])) or infer(inputs))
    assert score([inbox.put(f"{i}", b"[1, 2]") for i in range(count)])["succeeded"] == count
    assert sum(runs) == count
    assert max(runs) <= 16


def test_a_model_whose_outputs_depend_on_the_batch_runs_one_by_one(
    code: Any, environment: pytest.MonkeyPatch, load: Callable[[str], Any], inbox: Inbox, table: str
) -> None:
    environment.setenv("MAX_BATCH", "1")
    environment.setenv("CONFIDENCE", "0")
    score = load("fused")
    from inference_runtime.handlers import fused

    runs = []
    infer = fused.engine.session.run
    environment.setattr(fused.engine.session, "run", lambda inputs: runs.append(len(inputs["x"])) or infer(inputs))
    assert score({"messages": [inbox.put(f"{i}", b"[1, 2]") for i in range(5)]})["succeeded"] == 5
    assert runs == [1] * 5


def test_when_the_model_fails_the_invocation_fails_and_nothing_is_written(
    score: Any, inbox: Inbox, table: str, environment: pytest.MonkeyPatch
) -> None:
    from inference_runtime.handlers import fused

    messages = [inbox.put(f"{i}", json.dumps([1] * (1 + i)).encode()) for i in range(3)]
    infer = fused.engine.session.run

    def poisoned(inputs: Any) -> Any:
        if inputs["x"].shape[1] == 2:
            raise RuntimeError("a kernel failed")
        return infer(inputs)

    environment.setattr(fused.engine.session, "run", poisoned)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        score(messages)  # the workflow halves the batch then
    assert found(table) == {}
    assert score([messages[0], messages[2]])["succeeded"] == 2


def test_a_row_that_cannot_be_written_is_retried(
    score: Any, inbox: Inbox, environment: pytest.MonkeyPatch, table: str
) -> None:
    boto3.client("dynamodb").delete_table(TableName=table)
    message, refused = inbox.put("a", b"[1]"), inbox.put("b", b"refuse")
    done = score([message, refused])
    assert sorted(done["retry"]) == sorted([message["message_id"], refused["message_id"]])
    assert done["succeeded"] == done["rejected"] == 0


def test_rows_expire_and_say_how_sure_the_model_was_if_asked(
    code: Any, environment: pytest.MonkeyPatch, load: Callable[[str], Any], inbox: Inbox, table: str, tmp_path: Path
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["mean"], axis=1)],
        "softmax",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "n"])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", "n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model" / "model.onnx")
    environment.setenv("CONFIDENCE", "1")
    environment.setenv("RESULT_TTL_DAYS", "2")
    environment.setenv("POSTPROCESS_FUNCTION", "inference_runtime.stages.builtin.outputs:outputs_postprocessor")
    environment.setenv("POSTPROCESS_OPTIONS", "{}")
    done = load("fused")({"messages": [inbox.put("a", b"[0, 0]"), inbox.put("b", b"refuse")]})
    assert (done["succeeded"], done["rejected"]) == (1, 1)
    rows = found(table)
    assert float(rows["a"]["confidence"]) == 0.5
    assert "confidence" not in rows["b"]
    assert all("expires_at" in row for row in rows.values())


def test_each_stage_has_options_of_its_own(
    code: Callable[[str], None],
    environment: pytest.MonkeyPatch,
    load: Callable[[str], Any],
    inbox: Inbox,
    table: str,
    tmp_path: Path,
) -> None:
    code(
        """
        import numpy as np

        def preprocess(times):
            return lambda data, item: np.full(3, times, np.float32)

        def postprocess(names):
            return lambda outputs, item: {"mean": outputs["mean"], "names": names}
        """
    )
    environment.setenv("PREPROCESS_OPTIONS", '{"times": 3}')
    (tmp_path / "postprocess_options.json").write_text('{"names": ["größe"]}', encoding="utf-8")
    environment.setenv("POSTPROCESS_OPTIONS_FILE", "postprocess_options.json")
    assert load("fused")({"messages": [inbox.put("a", b"x")]})["succeeded"] == 1
    assert found(table)["a"]["prediction"] == {"mean": 3, "names": ["größe"]}


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("PREPROCESS_FUNCTION", None, "PREPROCESS_FUNCTION is not set"),
        ("POSTPROCESS_FUNCTION", None, "POSTPROCESS_FUNCTION is not set"),
        ("POSTPROCESS_FUNCTION", "json:nothing", 'POSTPROCESS_FUNCTION is "json:nothing", but "json" has no function'),
        ("PREPROCESS_OPTIONS", "{", "PREPROCESS_OPTIONS is not JSON"),
        ("POSTPROCESS_OPTIONS_FILE", "nowhere.json", "cannot read POSTPROCESS_OPTIONS_FILE"),
        ("RESULTS_TABLE", None, "RESULTS_TABLE is not set"),
        ("MODEL_INPUTS", "{}", "MODEL_INPUTS is dict, expected list"),
    ],
)
def test_a_wrong_environment_fails_at_the_start_and_is_named(
    code: Any,
    environment: pytest.MonkeyPatch,
    load: Callable[[str], Any],
    variable: str,
    value: str | None,
    says: str,
) -> None:
    if value is None:
        environment.delenv(variable)
    else:
        environment.setenv(variable, value)
    with pytest.raises(StageError, match=says):
        load("fused")


@pytest.mark.parametrize("messages", [None, "text", [{"detail": {}}]])
def test_messages_that_cannot_be_told_apart_fail_as_retryable(score: Any, messages: Any) -> None:
    with pytest.raises(RetryableError):
        score(messages)


def test_it_answers_warming_events_without_touching_data(score: Any, load: Callable[[str], Any], table: str) -> None:
    assert load("fused")({"cdk-inference": "warm"}) == {"warm": True}
    assert found(table) == {}


def test_no_row_is_written_when_the_time_is_over(
    score: Any, inbox: Inbox, rows: Callable[[], dict[str, Any]], environment: pytest.MonkeyPatch
) -> None:
    clock, outcomes = Clock(environment), Postprocessor.outcomes

    def slow(*given: Any) -> Any:
        clock.now += 600
        return outcomes(*given)

    messages = [inbox.put("a", b"[1]"), inbox.put("b", b"refuse")]
    with environment.context() as patch:
        patch.setattr(Postprocessor, "outcomes", slow)
        with pytest.raises(LittleTimeError, match="too late to write rows"):
            score(messages, clock.context(600))
    assert rows() == {}
    assert score(messages, clock.context(600))["retry"] == []
    assert rows().keys() == {"a", "b"}


def test_a_failure_is_told_when_the_time_is_over(score: Any, inbox: Inbox, environment: pytest.MonkeyPatch) -> None:
    """There is no row to write, and a message that is scored again would take as long again."""
    clock = Clock(environment)

    def interrupted_late(seconds: float, _: Callable[[], Any]) -> None:
        clock.now += 600  # inside of one call of C
        raise TookTooLongError(seconds)

    environment.setattr(preprocessor, "call_within", interrupted_late)
    slow = inbox.put("a", b"[1]")
    (failure,) = score([slow], clock.context(600))["failures"]
    assert (failure["message_id"], failure["error"]) == (slow["message_id"], "TookTooLongError")


def test_an_item_that_kills_its_process_leaves_the_rows_of_the_others(
    code: Callable[[str], None], load: Callable[[str], Any], inbox: Inbox, table: str
) -> None:
    code(
        USER_CODE.replace("order, _, rest", "data == b'die' and os.abort()\n        order, _, rest", 1).replace(
            "import json", "import json, os", 1
        )
    )
    messages = {key: inbox.put(key, body) for key, body in [("a", b"[1, 2]"), ("b", b"die"), ("c", b"[3]")]}
    done = load("fused")({"messages": list(messages.values()), "isolate": True}, Context(600))
    assert [failure["message_id"] for failure in done["failures"]] == [messages["b"]["message_id"]]
    assert found(table).keys() == {"a", "c"}


def test_an_empty_batch_is_fine(score: Any) -> None:
    assert score([]) == {**NOTHING, "succeeded": 0, "rejected": 0, "failed": 0}
