"""Which answers are explained and by what: what functions are told, what is refused, and what it costs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    Column,
    CpuOption,
    DirectPipeline,
    Execution,
    Explain,
    Inference,
    InferencePipeline,
    LambdaGpu,
    ModelArtifact,
    PipelineShape,
    Preprocess,
    PropError,
    Route,
    Routing,
    SageMakerAsync,
    Traffic,
)
from cdk_inference.costs import estimate
from cdk_inference.explanations.explain import METADATA_KEY, SETTINGS_FILE, Explanation
from cdk_inference.explanations.items import ItemParts
from cdk_inference.model import TensorSpec
from cdk_inference.model.records.faithfulness import Faithfulness
from cdk_inference.routing.route_costs import option

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE = Preprocess.json(fields=["age", "income"])
FIGURES = Faithfulness("occlusion", "mean", (4.0, 5.0, 6.0), 32, 0.2, 0.8, 0.5, 0.4, 65.0, 0.25)


def model_of(
    stack: cdk.Stack, name: str = "Model", *, shape: Any = (4,), dtype: str = "float32", **changes: Any
) -> Any:
    inputs = changes.pop("inputs", (TensorSpec("x", dtype, ("batch", *shape)),))
    return ModelArtifact(stack, name, recipe=replace(RECIPE, inputs=inputs, **changes))


def environments(stack: cdk.Stack) -> dict[str, dict[str, Any]]:
    """Return the variables about explanations, by the part of a function's id that names its stage."""
    found = {}
    for name, function in resources(stack, "AWS::Lambda::Function").items():
        variables = function["Properties"]["Environment"]["Variables"]
        found[name[:-16].removeprefix("Photos").removesuffix("Function")] = {
            key: value for key, value in variables.items() if key.startswith("EXPLA")
        }
    return found


@pytest.mark.parametrize(
    ("explain", "mode"),
    [
        (Explain.when(confidence_below=0.6), "when"),
        (Explain.always(), "always"),
        (Explain.on_request(), "on_request"),
    ],
)
def test_functions_are_told_and_get_no_other_permission(
    explain: Explain, mode: str, stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline(explain=explain)
    assert environments(stack) == {
        "Preprocess": {"EXPLAIN": mode},
        "Inference": {"EXPLANATION_SETTINGS": SETTINGS_FILE},
        "Postprocess": {},
    }
    plain = make_stack()
    InferencePipeline(
        plain, "Photos", model=ModelArtifact(plain, "Model", recipe=RECIPE), preprocess=Preprocess.image(size=224)
    )
    for kind in ("AWS::IAM::Policy", "AWS::IAM::Role", "AWS::KMS::Key", "AWS::StepFunctions::StateMachine"):
        assert resources(stack, kind) == resources(plain, kind)


def test_one_function_is_told_all(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> None:
    pipeline(explain=Explain.on_request(), execution=Execution.fused())
    assert environments(stack) == {"Score": {"EXPLAIN": "on_request", "EXPLANATION_SETTINGS": SETTINGS_FILE}}
    direct = make_stack()
    DirectPipeline(direct, "Photos", model=model_of(direct, shape=(2,)), preprocess=TABLE, explain=Explain.always())
    assert environments(direct)["Score"]["EXPLAIN"] == "always"


def test_a_pipeline_without_explanations_is_told_nothing(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline()
    assert set(map(str, environments(stack).values())) == {"{}"}


@pytest.mark.parametrize(
    ("shape", "dtype", "preprocess", "expected"),
    [
        ((32, 32, 3), "uint8", Preprocess.image(size=32), {"layout": "HWC", "method": "occlusion"}),
        ((1, 8, 8), "float32", Preprocess.tensor(), {"layout": "CHW", "method": "occlusion"}),
        ((8, 8), "uint8", Preprocess.tensor(), {"layout": "HW", "method": "occlusion"}),
        ((2,), "float32", TABLE, {"names": ["age", "income"], "method": "shapley"}),
        ((3,), "float32", Preprocess.tensor(), {"names": ["feature 0", "feature 1", "feature 2"]}),
    ],
)
def test_what_is_hidden_follows_from_the_model(
    shape: Any, dtype: str, preprocess: Preprocess, expected: dict[str, Any], stack: cdk.Stack
) -> None:
    found = Explain.always().bind(model_of(stack, shape=shape, dtype=dtype), preprocess)
    settings = json.loads(found.files[SETTINGS_FILE])
    assert settings["options"] | {"method": settings["method"]} | expected == settings["options"] | {
        "method": settings["method"]
    }
    assert settings["target"] == "class"


def test_an_input_for_each_column_is_a_feature(stack: cdk.Stack) -> None:
    columns = [Column.number("age", missing=0.0), Column.text("colour"), Column.category("size", ["s", "m"])]
    inputs = tuple(
        TensorSpec(name, dtype, ("batch", 1))
        for name, dtype in [("age", "float32"), ("colour", "string"), ("size", "int64")]
    )
    parts = ItemParts.of(inputs, Preprocess.json(fields=columns), grid=8)
    assert parts.options == {"places": [("age", 0), ("colour", 0), ("size", 0)], "names": ["age", "colour", "size"]}
    assert parts.common == (1, 2)  # a mean of colours says nothing
    row = ItemParts.of((TensorSpec("x", "float32", ("batch", 2)),), Preprocess.json(fields=["age", columns[2]]), grid=8)
    assert (row.options["names"], row.common) == (["age", "size"], (1,))


def test_all_options_reach_the_function(stack: cdk.Stack) -> None:
    explain = Explain.when(
        confidence_below=0.6,
        method="rise",
        grid=6,
        masks=200,
        baseline="zero",
        max_time=cdk.Duration.seconds(3),
        heat_map=True,
    )
    settings = json.loads(explain.bind(model_of(stack, shape=(8, 8)), Preprocess.tensor()).files[SETTINGS_FILE])
    assert (settings["when"], settings["method"], settings["masks"], settings["seconds"]) == (0.6, "rise", 200, 3)
    assert (settings["options"]["grid"], settings["baseline"], settings["heat_map"]) == (6, "zero", True)


def test_one_number_is_explained_as_such(stack: cdk.Stack) -> None:
    model = model_of(stack, shape=(2,), outputs=(TensorSpec("price", "float32", ("batch", 1)),))
    assert json.loads(Explain.always().bind(model, TABLE).files[SETTINGS_FILE])["target"] == "number"
    with pytest.raises(PropError, match=r"confidence_below must be of a model that returns scores of classes first"):
        Explain.when(confidence_below=0.5).bind(model, TABLE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1,)}, r"2 to 200 features, got 1"),
        ({"shape": (201,)}, r"2 to 200 features, got 201"),
        ({"shape": ("n",)}, r"one picture, the tokens of Preprocess.text, or the values of a row, got x: float32"),
        ({"shape": (4, 4, 4, 4)}, r"one picture"),
        ({"shape": (5, 5, 5)}, r"one picture"),
        ({"dtype": "bool"}, r"one picture"),
        (
            {"inputs": (TensorSpec("a", "float32", ("batch", 4)), TensorSpec("b", "float32", ("batch", 1)))},
            r"got a: float32 .*, b: float32",
        ),
        ({"outputs": (TensorSpec("y", "int64", ("batch", 4)),)}, r"whose first output is a number, class scores"),
        ({"outputs": (TensorSpec("y", "float32", ("batch", 4, 4)),)}, r"whose first output is a number"),
    ],
)
def test_models_that_cannot_be_explained_fail(changes: dict[str, Any], message: str, stack: cdk.Stack) -> None:
    with pytest.raises(PropError, match=message):
        Explain.always().bind(model_of(stack, **changes), Preprocess.tensor())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Explain.when(confidence_below=0), r"confidence_below must be above 0"),
        (lambda: Explain.when(confidence_below=1.5), r"confidence_below must be a share"),
        (lambda: Explain.on_request(expected_share=-1), r"expected_share must be a share"),
        (lambda: Explain.always(grid=1), r"grid must be 2 to 12"),
        (lambda: Explain.always(grid=13), r"grid must be 2 to 12"),
        (lambda: Explain.always(masks=10), r"masks must be 100 to 10,000"),
        (lambda: Explain.always(method="lime"), r"method must be"),
        (lambda: Explain.always(baseline="blur"), r"baseline must be"),
        (lambda: Explain.always(max_time=cdk.Duration.millis(500)), r"max_time must be"),
        (lambda: Explain.always(max_time=cdk.Duration.minutes(6)), r"max_time must be"),
    ],
)
def test_options_out_of_range_fail(make: Callable[[], object], message: str) -> None:
    with pytest.raises(PropError, match=message):
        make()


def test_a_method_of_other_items_fails(stack: cdk.Stack) -> None:
    with pytest.raises(PropError, match=r"method must be 'shapley' for a row of a table, got 'occlusion'"):
        Explain.always(method="occlusion").bind(model_of(stack), Preprocess.tensor())


def test_a_heat_map_without_a_grid_or_a_work_bucket_fails(
    pipeline: Callable[..., InferencePipeline],
) -> None:
    with pytest.raises(PropError, match=r"heat_map must be left out for a row of a table, got True"):
        Explain.always(heat_map=True).bind(model_of(make_stack()), Preprocess.tensor())
    with pytest.raises(PropError, match=r"heat_map of route 'main' must be left out where one function runs all"):
        pipeline(explain=Explain.always(heat_map=True), execution=Execution.fused())


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize("backend", [LambdaGpu(), SageMakerAsync()])
def test_a_gpu_is_told_wherever_it_is_and_gets_no_other_permission(
    backend: LambdaGpu | SageMakerAsync, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[str] = []
    monkeypatch.setattr(Explanation, "record", lambda _, scope: recorded.append(scope.node.id))
    stack, plain = make_stack(), make_stack()
    for each, explain in ((stack, Explain.always(heat_map=True)), (plain, None)):
        if on_cpu:
            each.node.set_context("cdk-inference:accelerator", "cpu")
        InferencePipeline(
            each,
            "Photos",
            model=ModelArtifact(each, "Model", recipe=RECIPE),
            preprocess=Preprocess.image(size=224),
            inference=Inference.gpu(backend=backend),
            explain=explain,
        )
    told = {name: found for name, found in environments(stack).items() if found}
    for model in resources(stack, "AWS::SageMaker::Model").values():
        variables = model["Properties"]["PrimaryContainer"]["Environment"]
        told["InferenceModel"] = {name: value for name, value in variables.items() if name.startswith("EXPLA")}
    place = "OnCpu" if on_cpu else "OnGpu" if isinstance(backend, LambdaGpu) else "Model"
    assert told == {
        "Preprocess": {"EXPLAIN": "always"},
        f"Inference{place}": {"EXPLANATION_SETTINGS": SETTINGS_FILE},
    }
    assert recorded == [place]
    for kind in ("AWS::IAM::Policy", "AWS::IAM::Role", "AWS::KMS::Key", "AWS::StepFunctions::StateMachine"):
        assert resources(stack, kind) == resources(plain, kind)


def test_explain_next_to_a_routing_fails(stack: cdk.Stack) -> None:
    route = Route("a", model=ModelArtifact(stack, "Model", recipe=RECIPE), preprocess=Preprocess.image(size=224))
    with pytest.raises(PropError, match=r"explain must be left out with routing, got both; each route has its own"):
        InferencePipeline(stack, "Photos", routing=route, explain=Explain.always())


def test_the_first_model_of_a_cascade_explains_what_it_answers(
    stack: cdk.Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    above = Explanation.above
    monkeypatch.setattr(
        Explanation, "above", lambda self, threshold: (seen.append(threshold), above(self, threshold))[1]
    )
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    routes = [
        Route(name, model=model, preprocess=Preprocess.image(size=224), explain=Explain.always())
        for name in ("small", "large")
    ]
    InferencePipeline(stack, "Photos", routing=Routing.cascade(first=routes[0], then=routes[1], threshold=0.8))
    assert seen == [0.8]


def test_the_assembly_says_what_hides_parts_and_how_faithful_that_was(stack: cdk.Stack) -> None:
    explanation = Explanation("always", {"method": "occlusion"}, {}, FIGURES, 1.0)
    explanation.record(stack)
    (entry,) = (each for each in stack.node.metadata if each.type == METADATA_KEY)
    said = json.loads(entry.data)
    assert said["figures"]["fill"] == [4, 5, 6]
    assert (said["figures"]["deletion"], said["figures"]["insertion"], said["figures"]["random"]) == (0.2, 0.8, 0.5)


def test_costs_have_the_explained_share_and_its_runs(stack: cdk.Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdk_inference.explanations.explain.measured", lambda *_, **__: FIGURES)
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    preprocess = Preprocess.image(size=224)
    for explain, share in [
        (Explain.when(confidence_below=0.6), 0.25),
        (Explain.always(), 1),
        (Explain.on_request(expected_share=0.02), 0.02),
    ]:
        route = Route("a", model=model, preprocess=preprocess, explain=explain, milliseconds=3.0)
        for backend in (LambdaGpu(), SageMakerAsync()):
            on_gpu = option(replace(route, inference=Inference.gpu(backend=backend)))
            assert on_gpu.item_ms == pytest.approx(3 * (1 + 65 * share))  # further items of the model's batches
        found = option(route)
        assert isinstance(found, CpuOption)
        assert (found.explained, found.explanation_runs) == (share, 65)
    traffic = Traffic(items_per_month=1_000_000)
    plain, explained = (
        estimate(replace(found, explained=share, memory_size=1769), traffic, shape=PipelineShape())
        for share in (0, 0.25)
    )
    # A quarter of the items, 65 runs of 3 ms with 1,769 MiB each.
    seconds = 1_000_000 * 0.25 * 65 * 0.003
    line = explained.usd("GB-seconds of explanations, arm64")
    assert line == pytest.approx(seconds * 1769 / 1024 * explained.prices.lambda_gb_second("arm64"))
    assert plain.usd("GB-seconds of explanations, arm64") == 0
    more = explained.usd_per_month - plain.usd_per_month - line
    assert more == pytest.approx(explained.usd("GB-seconds of express") - plain.usd("GB-seconds of express"))
    assert explained.seconds[0] > plain.seconds[0]
