"""Which functions run the stages of a route, and what a pipeline says of them."""

from __future__ import annotations

import pytest
from aws_cdk.assertions import Template
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    CpuInference,
    Execution,
    FusedFunction,
    FusedStages,
    InferencePipeline,
    ModelArtifact,
    Postprocess,
    PostprocessFunction,
    Preprocess,
    PreprocessFunction,
    Route,
    Routing,
    SeparateStages,
    WorkBucket,
)


def test_the_default_is_a_function_for_each_stage(pipeline):
    stages = pipeline().stages
    assert isinstance(stages, SeparateStages)
    kinds = [type(stage) for stage in (stages.preprocess, stages.inference, stages.postprocess, stages.work)]
    assert kinds == [PreprocessFunction, CpuInference, PostprocessFunction, WorkBucket]
    assert stages.gpu_workflow is None


def test_a_fused_pipeline_has_one_function(pipeline):
    stages = pipeline(execution=Execution.fused()).stages
    assert isinstance(stages, FusedStages)
    assert isinstance(stages.score, FusedFunction)


def test_memory_sizes_reach_the_functions(stack, pipeline):
    pipeline(execution=Execution.staged(preprocess_memory_size=3000, postprocess_memory_size=512))
    sizes = {
        function["Metadata"]["cdk-inference"]["stage"]: function["Properties"]["MemorySize"]
        for function in resources(stack, "AWS::Lambda::Function").values()
    }
    assert sizes == {"Preprocess": 3000, "Inference": 1769, "Postprocess": 512}


@pytest.mark.parametrize("execution", [Execution.staged(), Execution.fused()], ids=["staged", "fused"])
def test_one_execution_serves_several_pipelines_and_routes(execution):
    templates = []
    for _ in range(2):
        stack = make_stack()
        a, b = (
            Route(name, model=ModelArtifact(stack, name, recipe=RECIPE), preprocess=Preprocess.image(size=224))
            for name in ("a", "b")
        )
        split = Routing.split({"a": (1, a), "b": (1, b)})
        made = InferencePipeline(stack, "Photos", routing=split, postprocess=Postprocess.outputs(), execution=execution)
        assert made.routes.keys() == {"a", "b"}
        templates.append(Template.from_stack(stack).to_json())
    assert templates[0] == templates[1]
    assert len(resources(templates[0], "AWS::S3::Bucket")) == (2 if execution.functions_in_turn == 3 else 1)
