"""Old spellings work for one release, with a warning that points at the caller and names the new one."""

from __future__ import annotations

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Annotations, Match, Template
from tests.constructs.conftest import RECIPE, make_stack, resources

import cdk_inference
from cdk_inference import (
    Capacity,
    CapacitySchedule,
    CpuOption,
    Execution,
    FusedFunction,
    GpuInference,
    Inference,
    InferencePipeline,
    InferenceWorkflow,
    ModelArtifact,
    Postprocess,
    PostprocessFunction,
    Preprocess,
    PreprocessFunction,
    PropError,
    ResultsTable,
    Routing,
    S3Trigger,
    SageMakerAsync,
    StagedRoute,
    Traffic,
    WorkBucket,
)
from cdk_inference.costs import choose


@pytest.fixture
def make():
    """Return the template of a pipeline in a new stack."""

    def make(**props):
        stack = make_stack()
        model = ModelArtifact(stack, "Model", recipe=RECIPE)
        InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224), **props)
        return Template.from_stack(stack).to_json()

    return make


def warns(old: str, new: str):
    return pytest.warns(DeprecationWarning, match=f"{old}.* is deprecated .*use {new}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"fused": True}, {"execution": Execution.fused()}),
        ({"fused": False}, {}),
        ({"preprocess_memory_size": 2000}, {"execution": Execution.staged(preprocess_memory_size=2000)}),
        ({"postprocess_memory_size": 2000}, {"execution": Execution.staged(postprocess_memory_size=2000)}),
        ({"batch_window": cdk.Duration.seconds(9)}, {"max_batching_window": cdk.Duration.seconds(9)}),
        ({"max_object_bytes": 1000}, {"max_object_size": cdk.Size.bytes(1000)}),
        ({"result_ttl_days": 30}, {"result_ttl": cdk.Duration.days(30)}),
        ({"result_ttl_days": None}, {}),
    ],
)
def test_old_props_of_a_pipeline_make_the_same_template_and_warn(make, old, new):
    with warns(next(iter(old)), "") as warned:
        found = make(**old)
    assert {warning.filename for warning in warned} == {__file__}
    assert found == make(**new)


def test_old_attributes_of_a_pipeline_warn(pipeline):
    made = pipeline()
    for name in ("preprocess", "inference", "postprocess", "work"):
        with warns(f"InferencePipeline.{name}", rf"\.stages\.{name}"):
            assert getattr(made, name) is getattr(made.stages, name)


def test_the_old_attribute_of_a_fused_pipeline_warns(pipeline):
    made = pipeline(execution=Execution.fused())
    with warns("InferencePipeline.score", r"\.stages\.score"):
        assert made.score is made.stages.score


def test_traffic_as_a_prop_warns_and_still_advises(stack):
    route = cdk_inference.Route(
        "a", model=ModelArtifact(stack, "Model", recipe=RECIPE), preprocess=Preprocess.image(size=224), milliseconds=30
    )
    with warns("traffic", r"pipeline\.advise"):
        InferencePipeline(stack, "Photos", routing=route, traffic=Traffic(items_per_month=1_200_000_000))
    Annotations.from_stack(stack).has_warning("*", Match.string_like_regexp("always-on capacity cheaper"))


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"fused": True, "execution": Execution.fused()}, "execution must replace fused, got both; remove fused"),
        ({"preprocess_memory_size": 1, "execution": Execution.staged()}, "execution must replace preprocess_memory"),
        ({"preprocess_memory_size": 3000, "fused": True}, "preprocess_memory_size must be left out with fused=True"),
        ({"fused": "no"}, "fused must be a bool, got str 'no'; use True or False"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_props_that_contradict_others_fail(make, props, message):
    with pytest.raises(PropError, match=message):
        make(**props)


def test_old_names_of_classes_warn():
    for old, new in {"Leg": "StagedRoute", "FusedLeg": "FusedRoute"}.items():
        with warns(f"cdk_inference.{old}", new) as warned:
            assert getattr(cdk_inference, old) is getattr(cdk_inference, new)
        assert warned[0].filename == __file__


def test_legs_of_a_workflow_warn(stack, pipeline):
    stages = pipeline().stages
    route = StagedRoute(preprocess=stages.preprocess, inference=stages.inference, postprocess=stages.postprocess)
    with warns(r"InferenceWorkflow\(legs=…\)", "routes="):
        InferenceWorkflow(stack, "Mine", legs=[route])
    with warns("legs", "routes="), pytest.raises(PropError, match="must have routes or legs, got both; remove legs"):
        InferenceWorkflow(stack, "Both", legs=[route], routes=[route])


def test_patience_warns(stack, model):
    hour, work = cdk.Duration.hours(1), WorkBucket(stack, "Work")
    with warns(r"Inference.gpu\(patience=…\)", "max_wait="):
        strategy = Inference.gpu(patience=hour, backend=SageMakerAsync())
    with warns("Inference.patience", r"\.max_wait"):
        assert strategy.patience is hour
    with warns(r"GpuInference\(patience=…\)", "max_wait="):
        stage = GpuInference(stack, "Gpu", model=model, work=work, backend=SageMakerAsync(), patience=hour)
    with warns("GpuInference.patience", r"\.max_wait"):
        assert stage.patience is hour
    with warns(r"GpuInference\.slow", r"\.max_wait"):
        assert stage.slow


def test_slow_warns(pipeline):
    with warns(r"CpuInference\.slow", r"\.max_wait"):
        assert not pipeline().stages.inference.slow
    with warns(r"CpuStrategy\.slow", r"\.max_wait"):
        assert not Inference.cpu().slow


def test_old_props_of_functions_and_triggers_warn(stack, model):
    trigger, work, results = S3Trigger(stack, "Trigger"), WorkBucket(stack, "Work"), ResultsTable(stack, "Results")
    image, outputs = Preprocess.image(size=224), Postprocess.outputs()
    with warns("max_object_bytes", "max_object_size="):
        PreprocessFunction(stack, "A", stage=image, model=model, trigger=trigger, work=work, max_object_bytes=9)
    with warns("result_ttl_days", "result_ttl="):
        PostprocessFunction(stack, "B", stage=outputs, model=model, work=work, results=results, result_ttl_days=2)
    with warns("max_object_bytes", "max_object_size="), warns("result_ttl_days", "result_ttl="):
        FusedFunction(
            stack,
            "C",
            preprocess=image,
            model=model,
            postprocess=outputs,
            trigger=trigger,
            results=results,
            max_object_bytes=9,
            result_ttl_days=2,
        )
    with warns("batch_window", "max_batching_window="):
        S3Trigger(stack, "D", batch_window=cdk.Duration.seconds(2))
    found = [f["Properties"]["Environment"]["Variables"] for f in resources(stack, "AWS::Lambda::Function").values()]
    assert [(v.get("MAX_OBJECT_BYTES"), v.get("RESULT_TTL_DAYS")) for v in found] == [
        ("9", None),
        (None, "2"),
        ("9", "2"),
    ]


def test_old_names_of_capacities_warn():
    with warns("Capacity.warmed", "Capacity.keep_warm"):
        assert Capacity.warmed(3) == Capacity.keep_warm(3)
    with warns(r"CapacitySchedule\(", "") as warned:
        schedule = CapacitySchedule(environments=1, hour=8, week_days="MON", max_environments=2)
    assert len(warned) == 3
    assert schedule == CapacitySchedule(min_capacity=1, hour=8, week_day="MON", max_capacity=2)
    for old, new in {
        "environments": "min_capacity",
        "week_days": "week_day",
        "max_environments": "max_capacity",
    }.items():
        with warns(f"CapacitySchedule.{old}", rf"\.{new}"):
            assert getattr(schedule, old) == getattr(schedule, new)
    with warns(r"Capacity.provisioned\(", ""):
        old = Capacity.provisioned(environments=1, target_utilization=0.5, max_environments=3)
    assert old == Capacity.provisioned(1, target_utilization=0.5, max_capacity=3)


def test_old_props_of_choices_by_cost_warn(stack):
    options = [CpuOption("a", milliseconds=1, quality=1)]
    with warns(r"choose\(least_quality=…\)", "min_quality="), warns(r"choose\(most_seconds=…\)", "max_seconds="):
        choose(options, Traffic(items_per_month=1), least_quality=0.5, most_seconds=100)
    route = cdk_inference.Route(
        "a", model=ModelArtifact(stack, "Model", recipe=RECIPE), preprocess=Preprocess.image(size=224)
    )
    with warns(r"Routing.cheapest\(most_seconds=…\)", "max_seconds="):
        Routing.cheapest(cpu=route, gpu=route, traffic=Traffic(items_per_month=1), most_seconds=1)


def test_a_grant_by_its_old_name_warns(stack, pipeline):
    trigger = pipeline().trigger
    user = cdk.aws_iam.User(stack, "User")
    with warns("S3Trigger.grant_bury", r"\.grant_send_dead_letter"):
        assert trigger.grant_bury(user).success
