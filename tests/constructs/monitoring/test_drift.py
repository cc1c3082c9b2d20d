"""The template of a drift monitor, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_events as events
from aws_cdk.assertions import Template
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    Execution,
    InferencePipeline,
    ModelArtifact,
    Postprocess,
    Preprocess,
    PropError,
    Route,
    Routing,
)
from cdk_inference.model import TensorSpec
from cdk_inference.model.records.manifest import Observation
from cdk_inference.monitoring.drift import _schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    Built = Callable[..., ModelArtifact]


def variables(stack: cdk.Stack, description: str) -> dict[str, Any]:
    (found,) = (
        function["Properties"]["Environment"]["Variables"]
        for function in resources(stack, "AWS::Lambda::Function").values()
        if description in function["Properties"]["Description"]
    )
    return found


def statements(stack: cdk.Stack, table: str) -> dict[str, list[str]]:
    """Return the actions on the table of windows that each role is allowed, by the beginning of its policy's id."""
    found: dict[str, list[str]] = {}
    for name, policy in resources(stack, "AWS::IAM::Policy").items():
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            if table in json.dumps(statement["Resource"]):
                actions = statement["Action"]
                found.setdefault(name, []).extend([actions] if isinstance(actions, str) else actions)
    return found


def test_a_monitor_that_nobody_listens_to_puts_no_events(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline().add_drift_monitor()
    quiet = json.dumps(Template.from_stack(stack).to_json())
    assert not [word for word in ("events:PutEvents", "EVENT_BUS") if word in quiet]


def test_the_judge_may_put_verdicts_on_its_bus_and_nothing_else(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    monitor = pipeline().add_drift_monitor()
    bus = events.EventBus(stack, "Bus")
    monitor.on_verdict("Drifted", verdicts=["DRIFT"], event_bus=bus)
    monitor.on_verdict("Every")
    with pytest.raises(PropError, match="verdicts must be 'DRIFT', 'NO_DRIFT' or 'TOO_FEW_OBJECTS', got 'MAYBE'"):
        monitor.on_verdict("Other", verdicts=["MAYBE"])
    with pytest.raises(PropError, match="event_bus must be the same for all rules of these events, got Stack/Other"):
        monitor.on_verdict("Third", event_bus=events.EventBus.from_event_bus_name(stack, "Other", "other"))
    (name,) = resources(stack, "AWS::Events::EventBus")
    puts = [
        statement
        for policy in resources(stack, "AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Action"] == "events:PutEvents"
    ]
    assert puts == [
        {
            "Action": "events:PutEvents",
            "Condition": {
                "ForAllValues:StringEquals": {"events:source": "cdk-inference", "events:detail-type": "Drift Verdict"},
                "Null": {"events:source": "false", "events:detail-type": "false"},
            },
            "Effect": "Allow",
            "Resource": {"Fn::GetAtt": [name, "Arn"]},
        }
    ]
    rules = {name: each["Properties"] for name, each in resources(stack, "AWS::Events::Rule").items()}
    drifted, every = (next(rule for name, rule in rules.items() if part in name) for part in ("Drifted", "Every"))
    assert drifted["EventBusName"] == every["EventBusName"] == {"Ref": name}
    assert drifted["EventPattern"] == {
        "source": ["cdk-inference"],
        "detail-type": ["Drift Verdict"],
        "detail": {"pipeline": ["Stack/Photos"], "verdict": ["DRIFT"]},
    }
    assert every["EventPattern"]["detail"] == {"pipeline": ["Stack/Photos"]}


def test_functions_are_told_what_to_count_and_may_add_to_the_table(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline().add_drift_monitor()
    before, after = variables(stack, "reads objects and makes the input of"), variables(stack, "stores what")
    assert json.loads(before["DRIFT_INPUTS"]) == [["image", "brightness", [90, 120]]]
    assert "DRIFT_TABLE" not in before
    assert [one[1] for one in json.loads(after["DRIFT_OUTPUTS"])] == ["label", "confidence"]
    assert re.fullmatch(r"0123456789ab#[0-9a-f]{8}", after["DRIFT_MODEL"])
    assert after["DRIFT_WINDOW"] == "3600"
    (table,) = (name for name in resources(stack, "AWS::DynamoDB::GlobalTable") if "Drift" in name)
    assert after["DRIFT_TABLE"] == {"Ref": table}
    found = statements(stack, table)
    assert sorted(found.values()) == [["dynamodb:Query", "dynamodb:UpdateItem"], ["dynamodb:UpdateItem"]]
    (counting,) = (name for name, actions in found.items() if "dynamodb:Query" not in actions)
    assert counting.startswith("PhotosPostprocess")


def test_the_table_is_encrypted_with_the_key_of_the_pipeline_and_forgets(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline().add_drift_monitor()
    (key,) = resources(stack, "AWS::KMS::Key")
    (table,) = (t for name, t in resources(stack, "AWS::DynamoDB::GlobalTable").items() if "Drift" in name)
    (replica,) = table["Properties"]["Replicas"]
    assert replica["SSESpecification"] == {"KMSMasterKeyId": {"Fn::GetAtt": [key, "Arn"]}}
    assert table["Properties"]["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table["DeletionPolicy"] == "RetainExceptOnCreate"


def test_a_pipeline_without_a_monitor_stays_as_it_is(built: Built) -> None:
    plain = make_stack()
    InferencePipeline(
        plain,
        "Photos",
        model=built(ModelArtifact(plain, "Model", recipe=RECIPE)),
        preprocess=Preprocess.image(size=224),
    )
    text = json.dumps(Template.from_stack(plain).to_json())
    assert "DRIFT" not in text
    assert '"edges"' not in text


@pytest.mark.parametrize(
    ("minutes", "cron"),
    [
        (5, "2/5 * * * ? *"),
        (30, "2/30 * * * ? *"),
        (60, "2 * * * ? *"),
        (360, "2 0/6 * * ? *"),
        (1440, "2 0/24 * * ? *"),
    ],
)
def test_windows_are_judged_two_minutes_after_their_end(minutes: int, cron: str) -> None:
    assert _schedule(60 * minutes).expression_string == f"cron({cron})"


def test_the_metric_is_of_the_model_and_the_window(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    monitor = pipeline().add_drift_monitor(window=cdk.Duration.minutes(30))
    (rule,) = (r for name, r in resources(stack, "AWS::Events::Rule").items() if "Drift" in name)
    assert rule["Properties"]["ScheduleExpression"] == "cron(2/30 * * * ? *)"
    metric = stack.resolve(monitor.metric_drift().to_metric_config().metric_stat)
    assert metric["metricName"] == "Drift"
    assert {d["name"]: d["value"] for d in metric["dimensions"]} == {
        "pipeline": "Stack/Photos",
        "model_version": "0123456789ab",
    }


def test_wrong_props_fail(pipeline: Callable[..., InferencePipeline]) -> None:
    made = pipeline()
    wrong: dict[str, dict[str, Any]] = {
        "window must be 5 minutes or more, and divide an hour .*, got 7 minutes": {"window": cdk.Duration.minutes(7)},
        "window must be 5 minutes or more, and divide an hour .*, got 1 minutes": {"window": cdk.Duration.minutes(1)},
        "window must be .*, got 90 minutes": {"window": cdk.Duration.minutes(90)},
        "window must be .*, got 2880 minutes": {"window": cdk.Duration.days(2)},
        "false_alarm_rate must be above 0 and at most 0.5, got 0.0": {"false_alarm_rate": 0.0},
        "min_objects must be at least 1, got 0": {"min_objects": 0},
    }
    for number, (message, props) in enumerate(wrong.items()):
        with pytest.raises(PropError, match=message):
            made.add_drift_monitor(f"Drift{number}", **props)


def test_a_model_without_a_baseline_fails(
    stack: cdk.Stack, model: ModelArtifact, pipeline: Callable[..., InferencePipeline]
) -> None:
    model.manifest = replace(model.manifest, baseline=())
    with pytest.raises(PropError, match=r"model of route 'main' must have a baseline .* cdk_inference\.model baseline"):
        pipeline().add_drift_monitor()


def test_a_baseline_of_few_samples_fails(
    built: Built, model: ModelArtifact, pipeline: Callable[..., InferencePipeline]
) -> None:
    built(model, Observation("output", "logits", "label", (0.5,), (20, 12)))
    with pytest.raises(PropError, match=r"evaluation\.data of tiny must have at least 50 samples .*, got 32"):
        pipeline().add_drift_monitor()


def test_more_numbers_than_fit_are_left_out_or_fail(
    built: Built, stack: cdk.Stack, model: ModelArtifact, pipeline: Callable[..., InferencePipeline]
) -> None:
    many = [Observation("input", "image", f"feature {n}", (0.0, 1.5, 2.25), (100,) * 4) for n in range(40)]
    built(model, *many)
    pipeline().add_drift_monitor()
    assert len(json.loads(variables(stack, "reads objects and makes the input of")["DRIFT_INPUTS"])) == 24


def test_a_fused_function_counts_inputs_and_outputs(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline(execution=Execution.fused()).add_drift_monitor()
    found = variables(stack, "scores objects")
    assert {"DRIFT_INPUTS", "DRIFT_OUTPUTS", "DRIFT_TABLE", "DRIFT_MODEL", "DRIFT_WINDOW"} <= found.keys()


def test_of_a_vector_its_elements_are_watched(
    built: Built, stack: cdk.Stack, model: ModelArtifact, pipeline: Callable[..., InferencePipeline]
) -> None:
    built(model, metric="cosine")
    pipeline().add_drift_monitor()
    assert [one[1] for one in json.loads(variables(stack, "stores what")["DRIFT_OUTPUTS"])] == [
        "feature 0",
        "feature 1",
    ]


def test_with_labels_a_vector_is_one_of_classes(
    built: Built, stack: cdk.Stack, model: ModelArtifact, pipeline: Callable[..., InferencePipeline]
) -> None:
    built(model, metric="cosine")
    pipeline(postprocess=Postprocess.classification(labels=list("abcdefghij"))).add_drift_monitor()
    assert [one[1] for one in json.loads(variables(stack, "stores what")["DRIFT_OUTPUTS"])] == ["label", "confidence"]


def test_of_boxes_and_masks_the_outputs_are_watched(
    built: Built, stack: cdk.Stack, model: ModelArtifact, pipeline: Callable[..., InferencePipeline]
) -> None:
    """They are not the scores of classes, although there are labels."""
    means = [Observation("output", "logits", kind, (0.5,), (150, 150)) for kind in ("mean", "contrast")]
    outputs = (TensorSpec("logits", "float32", ("batch", 6, 16)),)
    model.manifest = replace(built(model, *means, metric="box_f1").manifest, outputs=outputs)
    pipeline(postprocess=Postprocess.detection(labels=list("ab"))).add_drift_monitor()
    assert [one[1] for one in json.loads(variables(stack, "stores what")["DRIFT_OUTPUTS"])] == ["mean", "contrast"]


def test_of_a_cascade_the_first_model_is_watched(built: Built, stack: cdk.Stack, model: ModelArtifact) -> None:
    other = built(ModelArtifact(stack, "Other", recipe=RECIPE))
    first, second = (
        Route(name, model=one, preprocess=Preprocess.image(size=224))
        for name, one in (("small", model), ("large", other))
    )
    pipeline = InferencePipeline(stack, "Photos", routing=Routing.cascade(first=first, then=second, threshold=0.8))
    monitor = pipeline.add_drift_monitor()
    counting = [
        function["Properties"]["Environment"]["Variables"]
        for function in resources(stack, "AWS::Lambda::Function").values()
        if "DRIFT_MODEL" in function["Properties"]["Environment"]["Variables"]
    ]
    assert len(counting) == 1
    monitor.metric_drift(route="small")
    with pytest.raises(PropError, match="route must be one of small, got large; name the one to look at"):
        monitor.metric_drift(route="large")


def test_each_route_of_a_split_is_watched(built: Built, stack: cdk.Stack, model: ModelArtifact) -> None:
    other = built(ModelArtifact(stack, "Other", recipe=RECIPE))
    routes = [
        Route(name, model=one, preprocess=Preprocess.image(size=224)) for name, one in (("a", model), ("b", other))
    ]
    pipeline = InferencePipeline(stack, "Photos", routing=Routing.split({"a": (90, routes[0]), "b": (10, routes[1])}))
    monitor = pipeline.add_drift_monitor()
    with pytest.raises(PropError, match="route must be one of a, b, got None"):
        monitor.metric_drift()
    assert monitor.metric_drift(route="a", statistic="image brightness").dimensions["statistic"] == "image brightness"


def test_a_second_monitor_fails(pipeline: Callable[..., InferencePipeline]) -> None:
    made = pipeline()
    made.add_drift_monitor()
    with pytest.raises(PropError, match=r"must have one drift monitor, got another, 'Hourly'; .* 'Drift'"):
        made.add_drift_monitor("Hourly")


def test_a_placeholder_has_a_monitor_too(stack: cdk.Stack) -> None:
    """As in `cdk ls`, where nothing is built."""
    unbuilt = ModelArtifact(stack, "Unbuilt", recipe=RECIPE)
    pipeline = InferencePipeline(stack, "Photos", model=unbuilt, preprocess=Preprocess.image(size=224))
    pipeline.add_drift_monitor()
