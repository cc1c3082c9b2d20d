"""The backfill: what it creates and refuses, how it keeps to a rate, and what it says that it costs."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from aws_cdk import aws_s3 as s3
from hypothesis import example, given
from hypothesis import strategies as st
from tests.constructs.conftest import resources, states_of
from typer.testing import CliRunner

from cdk_inference import PropError, QueueTrigger, Route, Routing
from cdk_inference.backfill import cli
from cdk_inference.backfill.deployed import LONGEST_PACE, BackfillError, Selection, pace_of
from cdk_inference.costs import CpuOption, PipelineShape, Traffic, estimate
from cdk_inference.costs.backfills import BackfillPrices


def machine(stack: Any) -> dict[str, Any]:
    (found,) = [
        one for one in resources(stack, "AWS::StepFunctions::StateMachine").values() if role_of(one) == "backfill"
    ]
    return found


def role_of(resource: dict[str, Any]) -> str:
    return str(resource["Metadata"]["cdk-inference"]["role"])


def definition(stack: Any) -> dict[str, Any]:
    parts = machine(stack)["Properties"]["DefinitionString"]["Fn::Join"][1]
    return dict(json.loads("".join(part if isinstance(part, str) else "TOKEN" for part in parts)))


def planner(stack: Any) -> dict[str, Any]:
    functions = resources(stack, "AWS::Lambda::Function").values()
    (found,) = [one for one in functions if "BACKFILL" in one["Properties"]["Environment"]["Variables"]]
    return dict(json.loads(found["Properties"]["Environment"]["Variables"]["BACKFILL"]))


def test_batches_are_those_of_the_trigger_and_bounded(stack, pipeline):
    pipeline(prefix="in/", suffixes=[".JPG"], batch_size=8).add_backfill()
    states = definition(stack)["States"]
    assert [name for name, state in states.items() if state["Type"] == "Map"] == ["Score prefix", "Score list"]
    for state in (states["Score prefix"], states["Score list"]):
        assert state["ItemBatcher"]["MaxItemsPerBatch"] == 8
        assert state["MaxConcurrency"] == "{% $states.input.max_concurrency %}"
        assert state["ToleratedFailurePercentage"] == 5
        assert state["ItemProcessor"]["ProcessorConfig"] == {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"}
        assert state["ResultWriter"]["Arguments"]["Prefix"] == "runs"
    assert {name: planner(stack)[name] for name in ("prefix", "suffixes")} == {"prefix": "in/", "suffixes": [".jpg"]}


def test_an_inventory_is_read_from_its_bucket_only(stack, pipeline):
    pipeline().add_backfill(inventory_bucket=s3.Bucket.from_bucket_name(stack, "Lists", "lists"))
    reader = definition(stack)["States"]["Score inventory"]["ItemReader"]
    assert reader["ReaderConfig"] == {"InputType": "MANIFEST"}
    assert reader["Arguments"]["Bucket"] == "lists"
    states = states_of(definition(stack))
    assert states["Plan (inventory)"]["Arguments"]["Payload"]["encoded"] is True
    assert states["Plan (list)"]["Arguments"]["Payload"]["encoded"] is False


def test_a_child_has_time_to_queue_what_is_left(stack, pipeline):
    pipeline().add_backfill()
    score = states_of(definition(stack))["Score batch (list)"]
    assert score["TimeoutSeconds"] + LONGEST_PACE <= 300
    assert "States.Timeout" in score["Catch"][0]["ErrorEquals"]


def test_rows_of_each_model_of_the_pipeline_count(stack, model, pipeline):
    pipeline().add_backfill()
    assert planner(stack)["models"] == [model.version]


def test_the_two_models_of_a_cascade_have_rows_of_one_version(stack, model):
    from cdk_inference import InferencePipeline, Preprocess

    routes = [Route(name, model=model, preprocess=Preprocess.image(size=224)) for name in ("small", "large")]
    cascade = Routing.cascade(first=routes[0], then=routes[1], threshold=0.5)
    InferencePipeline(stack, "Photos", routing=cascade).add_backfill()
    versions = planner(stack)["models"]
    definitions = json.dumps(resources(stack, "AWS::StepFunctions::StateMachine"))
    (row_version,) = set(re.findall(r"'row_version': '([^']+)'", definitions))
    assert row_version in versions


def test_messages_of_a_queue_have_no_backfill_and_fail(stack, pipeline):
    inferring = pipeline(trigger=QueueTrigger(stack, "Trigger"))
    with pytest.raises(PropError, match="trigger must be an S3Trigger for a backfill, got QueueTrigger"):
        inferring.add_backfill()


def test_a_pipeline_without_a_backfill_has_nothing_of_one(stack, pipeline):
    pipeline()
    assert "ackfill" not in json.dumps(resources(stack, "AWS::Lambda::Function"))
    assert len(resources(stack, "AWS::StepFunctions::StateMachine")) == 1


def test_prices_are_those_of_the_estimates():
    option, shape = CpuOption("cpu", milliseconds=20), PipelineShape()
    prices = BackfillPrices.of([option], shape=shape)
    live = estimate(option, Traffic(items_per_month=1e6), shape=shape)
    front = sum(live.usd(name) for name in ("EventBridge events", "SQS requests", "pipe requests"))
    assert prices.scored == pytest.approx(live.usd_per_month - front + live.usd("GB-seconds of express"), abs=0.01)
    assert prices.looked_at == 1.42  # docs/operate/backfill.md
    assert prices.usd(2_000_000, 1_000_000) == pytest.approx(2 * 1.42 + prices.scored)


def test_a_route_whose_price_is_not_known_leaves_the_sum_unknown():
    prices = BackfillPrices.of([CpuOption("cpu", milliseconds=20), None], shape=PipelineShape())
    assert prices.scored is None
    assert prices.usd(1, 1) is None


@given(rate=st.floats(0.05, 1e5), most=st.integers(1, 10_000), size=st.integers(1, 32))
@example(rate=0.35, most=21, size=1)  # 21 / 0.35 is above 60 in floating point
def test_a_rate_is_kept_by_batches_that_last_no_minute(rate: float, most: int, size: int) -> None:
    try:
        concurrency, pace = pace_of(rate, most, size)
    except BackfillError:
        assert size / rate > LONGEST_PACE  # not even one batch at a time
        return
    assert 1 <= concurrency <= most
    assert pace <= LONGEST_PACE
    assert concurrency * size / math.ceil(pace) <= rate * (1 + 1e-9)


def test_a_rate_that_is_too_low_fails_with_what_is_possible() -> None:
    with pytest.raises(BackfillError, match=r"rate must be at least 0.53 objects a second with batches of 32, got 0.1"):
        pace_of(0.1, 10, 32)


class Deployed:
    """Stands for what is deployed, and notes what is started."""

    bucket = "inbox"
    prices = BackfillPrices(looked_at=1.42, scored=10, region="us-east-1", as_of="2026-11-28")

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []

    def under(self, prefix: str | None, since: object) -> Selection:  # noqa: ARG002 - as the real one
        return Selection("prefix", 0 if prefix == "empty/" else 500_000, {"prefix": prefix or ""})

    def start(self, selection: Selection, **options: Any) -> str:
        self.started.append({"source": selection.source, **options})
        raise BackfillError("it has begun")  # nothing can be asked of it


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Deployed:
    found = Deployed()
    monkeypatch.setattr(cli, "_backfill", lambda *_: found)
    return found


def test_the_price_is_said_and_confirmed_before_a_start(deployed: Deployed) -> None:
    refused = CliRunner().invoke(cli.app, ["start", "Stack", "--since", "30d"], input="n\n")
    assert refused.exit_code == 1
    assert (
        "500,000 objects of s3://inbox: about 5.71 USD if all have to be scored, about 0.71 USD if none"
        in refused.output
    )
    assert deployed.started == []
    CliRunner().invoke(cli.app, ["start", "Stack"], input="y\n")
    CliRunner().invoke(cli.app, ["start", "Stack", "--yes", "--rate", "50", "--rejected"])
    assert [one["rate"] for one in deployed.started] == [None, 50]
    assert [one["again"] for one in deployed.started] == [(), ["REJECTED"]]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--prefix", "empty/"], 1, "no object matches"),
        (["--since", "soon"], 1, "since must be a time such as 30d, 12h or 2026-11-01, got 'soon'"),
        (["--prefix", "a", "--inventory", "s3://b/manifest.json"], 2, "exclude each other"),
    ],
)
def test_a_start_that_cannot_be_meant_fails(deployed: Deployed, arguments: list[str], code: int, said: str) -> None:
    found = CliRunner().invoke(cli.app, ["start", "Stack", "--yes", *arguments])
    assert found.exit_code == code
    assert said in " ".join((found.output + str(found.exception)).split())
    assert deployed.started == []
