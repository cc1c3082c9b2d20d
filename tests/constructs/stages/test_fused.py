"""A fused pipeline: what its template has, what it may do, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import aws_cdk as cdk
import pytest
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk.assertions import Annotations, Match, Template
from tests.constructs.conftest import RECIPE, make_stack, resources, states_of

from cdk_inference import (
    Capacity,
    CpuInference,
    Execution,
    FusedFunction,
    FusedRoute,
    GpuInference,
    Inference,
    InferencePipeline,
    InferenceWorkflow,
    ModelArtifact,
    ModelDelivery,
    Postprocess,
    Preprocess,
    PropError,
    ResultsTable,
    Route,
    Routing,
    S3Trigger,
    SageMakerAsync,
    WorkBucket,
)
from cdk_inference.model import TensorSpec
from cdk_inference.model.records.manifest import Distribution, Measured

FUNCTION = "AWS::Lambda::Function"
SOURCE = "def preprocess(data, item): ...\ndef postprocess(outputs, item): ...\n"


def function(stack):
    """Return properties and metadata of the only function."""
    (found,) = resources(stack, "AWS::Lambda::Function").values()
    return found["Properties"], found["Metadata"]["cdk-inference"]


def states(stack):
    (machine,) = resources(stack, "AWS::StepFunctions::StateMachine").values()
    pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
    return states_of(json.loads("".join(piece if isinstance(piece, str) else "." for piece in pieces)))


def as_list(value):
    return value if isinstance(value, list) else [value]


def test_the_whole_template(stack, pipeline, snapshot_json):
    pipeline(execution=Execution.fused())
    assert Template.from_stack(stack).to_json()["Resources"] == snapshot_json


def test_it_has_one_function_one_task_and_no_work_bucket(stack, pipeline):
    made = pipeline(execution=Execution.fused())
    properties, mark = function(stack)
    assert properties["Handler"] == "inference_runtime.handlers.fused.handler"
    assert (mark["stage"], mark["stages"]) == ("Score", ["preprocess", "inference", "postprocess"])
    assert mark["pipeline"] == "Stack/Photos"
    assert mark["model"]["name"] == "tiny"
    assert "Ref" in mark["table"]
    assert [name for name, state in states(stack).items() if state["Type"] == "Task"] == ["Score", "Send dead letter"]
    assert len(resources(stack, "AWS::S3::Bucket")) == 1
    assert len(resources(stack, "AWS::Logs::LogGroup")) == 3  # the function, the workflow, the pipe
    assert isinstance(made.stages.score, FusedFunction)
    assert made.routes["main"] is made.stages


def test_it_may_do_what_reading_and_writing_rows_takes_and_nothing_else(stack, pipeline):
    made = pipeline(execution=Execution.fused(), prefix="in/")
    role = stack.get_logical_id(made.stages.score.role.node.default_child)
    allowed = {}
    for policy in resources(stack, "AWS::IAM::Policy").values():
        if {"Ref": role} in policy["Properties"]["Roles"]:
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
                allowed |= dict.fromkeys(as_list(statement["Action"]), statement["Resource"])
    kept = {action: json.dumps(r) for action, r in allowed.items() if not action.startswith(("logs:", "xray:", "kms:"))}
    assert kept.keys() == {"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "dynamodb:PutItem"}
    assert '"/in/*"' in kept["s3:GetObject"]
    assert "TriggerInbox" in kept["s3:GetObject"]
    assert "Results" in kept["dynamodb:PutItem"]
    (statement,) = [
        statement
        for policy in resources(stack, "AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "lambda:InvokeFunction" in as_list(statement["Action"])
    ]
    assert statement["Resource"] == {"Ref": next(iter(resources(stack, "AWS::Lambda::Alias")))}


@pytest.mark.parametrize("execution", [Execution.fused(), Execution.staged()])
def test_only_the_preprocessing_is_told_what_to_keep(stack, model, tmp_path, execution):
    (tmp_path / "own.py").write_text(SOURCE)
    preprocess = Preprocess.function(tmp_path / "own.py:preprocess", keep=["width", "größe"])
    made = InferencePipeline(stack, "Photos", model=model, preprocess=preprocess, execution=execution)
    reading = stack.get_logical_id(made.stages.input_stage.function.node.default_child)
    told = {
        name: json.loads(found["Properties"]["Environment"]["Variables"]["KEEP"])
        for name, found in resources(stack, "AWS::Lambda::Function").items()
        if "KEEP" in found["Properties"].get("Environment", {}).get("Variables", {})
    }
    assert told == {reading: ["width", "größe"]}


def test_the_environment_names_both_stages(stack, pipeline):
    pipeline(
        execution=Execution.fused(),
        postprocess=Postprocess.classification(labels=[f"class {i}" for i in range(10)]),
        result_ttl=cdk.Duration.days(3),
        max_object_size=cdk.Size.bytes(5),
    )
    properties, _ = function(stack)
    variables = properties["Environment"]["Variables"]
    assert variables["PREPROCESS_FUNCTION"].endswith("image:image_preprocessor")
    assert json.loads(variables["PREPROCESS_OPTIONS"])["size"] == 224
    assert variables["POSTPROCESS_FUNCTION"].endswith("classification:classification_postprocessor")
    assert json.loads(variables["POSTPROCESS_OPTIONS"])["labels"][0] == "class 0"
    assert (variables["RESULT_TTL_DAYS"], variables["MAX_OBJECT_BYTES"]) == ("3", "5")
    assert not {"WORK_BUCKET", "STAGE_FUNCTION", "CONFIDENCE", "MAX_BATCH"} & variables.keys()


@pytest.mark.parametrize("execution", [Execution.fused(), Execution.staged()])
def test_probabilities_that_the_build_saw_get_no_softmax(stack, model, execution):
    (scores,) = model.outputs
    model.manifest = replace(model.manifest, distributions={scores.name: Distribution(0.1, 0.2, (0.0, 1.0), {})})
    InferencePipeline(
        stack,
        "Photos",
        model=model,
        preprocess=Preprocess.image(size=224),
        postprocess=Postprocess.classification(labels=[f"class {i}" for i in range(10)]),
        execution=execution,
    )
    variables = [each["Properties"]["Environment"]["Variables"] for each in resources(stack, FUNCTION).values()]
    told = [json.loads(value) for each in variables for name, value in each.items() if name.endswith("STAGE_OPTIONS")]
    told += [json.loads(each["POSTPROCESS_OPTIONS"]) for each in variables if "POSTPROCESS_OPTIONS" in each]
    assert [options["activation"] for options in told if "labels" in options] == ["none"]


def test_long_options_of_both_stages_are_files_of_their_own(stack):
    fields = [f"a field with a long name, number {i}" for i in range(100)]
    recipe = replace(RECIPE, inputs=(TensorSpec("x", "float32", ("batch", 100)),))
    InferencePipeline(
        stack,
        "Rows",
        model=ModelArtifact(stack, "Model", recipe=recipe),
        preprocess=Preprocess.json(fields=fields),
        postprocess=Postprocess.classification(labels=[f"{i}" * 200 for i in range(10)]),
        execution=Execution.fused(),
    )
    variables = function(stack)[0]["Environment"]["Variables"]
    assert variables["PREPROCESS_OPTIONS_FILE"] == "preprocess_options.json"
    assert variables["POSTPROCESS_OPTIONS_FILE"] == "postprocess_options.json"


def test_props_of_inference_are_those_of_the_function(stack, pipeline):
    pipeline(
        execution=Execution.fused(),
        inference=Inference.cpu(
            memory_size=3538,
            timeout=cdk.Duration.seconds(20),
            capacity=Capacity.provisioned(2),
            engine="python",
            delivery=ModelDelivery.zip(),
        ),
        capacity=Capacity.provisioned(9),
        reserved_concurrent_executions=4,
    )
    properties, _ = function(stack)
    assert (properties["MemorySize"], properties["Timeout"]) == (3538, 20)
    assert properties["ReservedConcurrentExecutions"] == 4
    assert properties["Environment"]["Variables"]["INFERENCE_ENGINE"] == "python"
    (alias,) = resources(stack, "AWS::Lambda::Alias").values()
    assert alias["Properties"]["ProvisionedConcurrencyConfig"] == {"ProvisionedConcurrentExecutions": 2}


def test_the_capacity_of_the_pipeline_is_that_of_the_function_unless_inference_has_its_own(stack, pipeline):
    pipeline(execution=Execution.fused(), capacity=Capacity.provisioned(3))
    (alias,) = resources(stack, "AWS::Lambda::Alias").values()
    assert alias["Properties"]["ProvisionedConcurrencyConfig"] == {"ProvisionedConcurrentExecutions": 3}


def test_the_capacity_of_a_staged_pipeline_is_that_of_pre_and_postprocessing(stack, pipeline):
    made = pipeline(capacity=Capacity.provisioned(3))
    aliases = resources(stack, "AWS::Lambda::Alias").values()
    provisioned = [a["Properties"] for a in aliases if "ProvisionedConcurrencyConfig" in a["Properties"]]
    assert [p["ProvisionedConcurrencyConfig"] for p in provisioned] == [{"ProvisionedConcurrentExecutions": 3}] * 2
    named = {properties["FunctionName"]["Ref"] for properties in provisioned}
    ids = {
        stack.get_logical_id(f.function.node.default_child) for f in (made.stages.preprocess, made.stages.postprocess)
    }
    assert named == ids


def test_what_a_waiting_execution_invokes_is_an_alias_whatever_the_capacity(stack, pipeline):
    made = pipeline(inference=Inference.gpu(backend=SageMakerAsync()), capacity=Capacity.snap_start())
    assert made.stages.postprocess.target.node.id == "Alias"


def test_one_invocation_has_more_time_than_one_of_three(stack, pipeline):
    pipeline(execution=Execution.fused(), stage_timeout=cdk.Duration.seconds(100))
    assert function(stack)[0]["Timeout"] == 100
    later = make_stack()
    InferencePipeline(
        later,
        "Photos",
        model=ModelArtifact(later, "Model", recipe=RECIPE),
        preprocess=Preprocess.image(size=224),
        execution=Execution.fused(),
    )
    assert function(later)[0]["Timeout"] == 40
    (choice,) = states(later)["Time left?"]["Choices"]
    assert "> 250000 %}" in choice["Condition"]  # 300 s, less 40 for the function and 10 for dead letters


def test_rows_of_a_model_that_depends_on_its_batch_are_scored_alone(stack):
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    object.__setattr__(model, "manifest", replace(model.manifest, batch_dependent=True))
    trigger, results = S3Trigger(stack, "T"), ResultsTable(stack, "R")
    FusedFunction(
        stack,
        "Score",
        preprocess=Preprocess.image(size=224),
        model=model,
        postprocess=Postprocess.outputs(),
        trigger=trigger,
        results=results,
        confidence=True,
    )
    variables = function(stack)[0]["Environment"]["Variables"]
    assert (variables["MAX_BATCH"], variables["CONFIDENCE"]) == ("1", "1")


def test_too_little_memory_for_the_model_warns(stack):
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    measured = Measured("a CPU", 100, 50, 2.0, 900.0, 600.0)
    object.__setattr__(model, "manifest", replace(model.manifest, measured=measured))
    InferencePipeline(
        stack,
        "Photos",
        model=model,
        preprocess=Preprocess.image(size=224),
        inference=Inference.cpu(memory_size=256),
        execution=Execution.fused(),
    )
    Annotations.from_stack(stack).has_warning("/Stack/Photos/Score", Match.string_like_regexp("memory_size is 256"))


def test_it_makes_a_workflow_without_a_pipeline(stack, model):
    score = FusedFunction(
        stack,
        "Score",
        preprocess=Preprocess.image(size=224),
        model=model,
        postprocess=Postprocess.outputs(),
        trigger=S3Trigger(stack, "T"),
        results=ResultsTable(stack, "R"),
    )
    workflow = InferenceWorkflow(stack, "Workflow", routes=[FusedRoute(score=score)], timeout=cdk.Duration.seconds(41))
    assert isinstance(workflow.state_machine, sfn.StateMachine)
    with pytest.raises(PropError, match=r"must fit into the workflow's 39 s, got 40 s"):
        InferenceWorkflow(stack, "Short", routes=[FusedRoute(score=score)], timeout=cdk.Duration.seconds(39))


def test_a_fused_route_with_a_slow_stage_fails(stack, model):
    class Slow(CpuInference):
        max_wait = cdk.Duration.minutes(9)

    slow = Slow(stack, "Slow", model=model, work=WorkBucket(stack, "Work"))
    with pytest.raises(PropError, match="must have a gpu_workflow for Stack/Slow, got none"):
        InferenceWorkflow(stack, "Workflow", routes=[FusedRoute(score=slow)])


def test_a_fused_route_on_a_gpu_fails(stack, model):
    slow = GpuInference(stack, "Gpu", model=model, work=WorkBucket(stack, "Work"), backend=SageMakerAsync())
    with pytest.raises(PropError, match="score must be a StageFunction, got an instance of GpuInference"):
        FusedRoute(score=slow)


def route(stack, name, inference=None):
    model = ModelArtifact(stack, f"Model{name}", recipe=replace(RECIPE, name=name))
    return Route(name, model=model, preprocess=Preprocess.image(size=224), inference=inference or Inference.cpu())


def test_each_route_is_a_function_of_its_own(stack):
    a, b = route(stack, "a"), route(stack, "b")
    split = Routing.split({"x": (1, a), "y": (1, Routing.by_size(limit=9, below=a, otherwise=b))})
    made = InferencePipeline(stack, "Photos", routing=split, execution=Execution.fused())
    tasks = {name: state for name, state in states(stack).items() if state["Type"] == "Task"}
    assert tasks.keys() == {"a: Score", "b: Score", "Send dead letter"}
    payload = tasks["a: Score"]["Arguments"]["Payload"]
    assert (payload["route"], payload["messages"]) == ("a", "{% $batch %}")
    assert payload["variant"] == "{% $variant %}"
    assert len(resources(stack, "AWS::Lambda::Function")) == 2
    assert made.routes["a"].score is not made.routes["b"].score
    with pytest.raises(PropError, match=r"take .routes\['a'\]"):
        _ = made.stages.score


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda a, b, gpu: Routing.cascade(first=a, then=b, threshold=0.5),
            "execution must be Execution.staged() for the cascade 'a>b', got Execution.fused()",
        ),
        (
            lambda a, b, gpu: Routing.by_size(limit=9, below=a, otherwise=gpu),
            "inference of route 'gpu' must be Inference.cpu(…) with Execution.fused(), got GpuStrategy",
        ),
    ],
)
def test_cascades_and_gpus_are_refused(stack, make, message):
    gpu = route(stack, "gpu", Inference.gpu(backend=SageMakerAsync()))
    refused(message, stack, routing=make(route(stack, "a"), route(stack, "b"), gpu))


@pytest.mark.parametrize(
    ("props", "message"),
    [
        (
            {"stage_timeout": cdk.Duration.seconds(101)},
            "stage_timeout must be at most 100 s, got 101 s…takes 3 invocations",
        ),
        (
            {"inference": Inference.cpu(timeout=cdk.Duration.seconds(101))},
            "the timeout of inference on route main must be at most ",
        ),
        ({"inference": Inference.gpu(backend=SageMakerAsync())}, "inference of route 'main' must be Inference.cpu("),
        ({"max_object_size": cdk.Size.bytes(0)}, "max_object_size must be at least 1 byte, got 0"),
        ({"result_ttl": cdk.Duration.days(0)}, "result_ttl must be longer than 0, got 0 days"),
        (
            {"postprocess": Postprocess.classification(labels=["a", "b"], top=1)},
            "labels must have one name for each of the 10 classes",
        ),
    ],
)
def test_a_wrong_prop_fails_with_its_value_and_the_fix(pipeline, props, message):
    with pytest.raises(PropError) as error:
        pipeline(execution=Execution.fused(), **props)
    for part in message.split("…"):
        assert part in str(error.value)


@pytest.fixture
def write(tmp_path):
    """Write files of user code, and return their folder."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path = path.with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def stages(folder, before="a", after="b", sources=((), ()), requirements=((), ())):
    return {
        "preprocess": Preprocess.function(
            folder / f"{before}.py:preprocess", sources=sources[0], requirements=requirements[0]
        ),
        "postprocess": Postprocess.function(
            folder / f"{after}.py:postprocess", sources=sources[1], requirements=requirements[1]
        ),
    }


def make(stack, **props):
    return InferencePipeline(
        stack, "Mine", model=ModelArtifact(stack, "M", recipe=RECIPE), execution=Execution.fused(), **props
    )


def refused(message, stack, **props):
    with pytest.raises(PropError) as error:
        InferencePipeline(stack, "Mine", execution=Execution.fused(), **props)
    for part in message.split("…"):
        assert part in str(error.value)


def test_both_stages_may_be_functions_of_one_file(stack, write):
    make(stack, **stages(write(a=SOURCE), "a", "a"))
    variables = function(stack)[0]["Environment"]["Variables"]
    assert (variables["PREPROCESS_FUNCTION"], variables["POSTPROCESS_FUNCTION"]) == ("a:preprocess", "a:postprocess")


def test_stages_may_share_a_source(stack, write):
    folder = write(a=SOURCE, b=SOURCE, shared="X = 1", package____init__="")
    shared = [folder / "shared.py", folder / "package"]
    make(stack, **stages(folder, sources=(shared, [folder / "." / "shared.py", folder / "package"])))


@pytest.mark.parametrize(
    ("before", "after", "sources", "message"),
    [
        (
            "one__stage",
            "two__stage",
            ("", ""),
            "one/stage.py' of preprocess and '…two/stage.py' of postprocess, both called 'stage'",
        ),
        ("a", "b", ("one__words", "two__words"), "both called 'words'…rename one, or share one file"),
        ("a", "b", ("one__words", "words____init__"), "both called 'words'"),
        ("a", "b", ("one__b", ""), "both called 'b'"),
    ],
)
def test_files_of_one_name_are_refused(stack, write, before, after, sources, message):
    files = [name for name in (before, after, *sources) if name]
    folder = write(**dict.fromkeys(files, SOURCE))
    paths = [folder / name.removesuffix("____init__").replace("__", "/") for name in sources]
    given = tuple(
        () if not name else [path if path.is_dir() else path.with_suffix(".py")]
        for name, path in zip(sources, paths, strict=True)
    )
    before, after = before.replace("__", "/"), after.replace("__", "/")
    with pytest.raises(PropError) as error:
        make(stack, **stages(folder, before, after, given))
    for part in message.split("…"):
        assert part in str(error.value)


def test_a_file_that_is_called_as_the_options_are_is_refused(stack, write):
    folder = write(b=SOURCE)
    (folder / "preprocess_options.json").write_text("{}")
    recipe = replace(RECIPE, inputs=(TensorSpec("x", "float32", ("batch", 200)),))
    model = ModelArtifact(stack, "M", recipe=recipe)
    after = Postprocess.function(folder / "b.py:postprocess", sources=[folder / "preprocess_options.json"])
    before = Preprocess.json(fields=[f"field {i}" for i in range(200)])
    refused("both called 'preprocess_options.json'", stack, model=model, preprocess=before, postprocess=after)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (["six==1.17.0"], ["six==1.16.0"], "got 'six==1.17.0' and 'six==1.16.0'"),
        (["Six == 1.17.0"], ["six<1.17"], "got 'Six == 1.17.0' and 'six<1.17'"),
        (["python.dateutil>=3"], ["python-dateutil==2.9.0 # why"], "and 'python-dateutil==2.9.0'"),
        (["six[x]==1.17.0 --hash=sha256:00"], ["six===1.16.0"], "got 'six[x]==1.17.0'"),
    ],
)
def test_versions_that_exclude_each_other_are_refused(stack, write, before, after, message):
    with pytest.raises(PropError) as error:
        make(stack, **stages(write(a=SOURCE), "a", "a", requirements=(before, after)))
    assert message in str(error.value)
    assert "agree on a version" in str(error.value)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["six==1.17.0"], ["six==1.17.0"]),
        (["six==1.17.0"], ["six>=1.16"]),
        (["six>=1.16"], ["six<1.18"]),
        (["six==1.17.*"], ["six==1.17.0"]),
        (["six==1.17.0"], ["other==1.16.0"]),
        (["six==1.17.0 ; python_version < '3'"], ["six==1.16.0"]),
        (["six==1.17.0"], []),
        (["six @ https://example.com/six-1.17.0-py3-none-any.whl"], ["six==1.16.0"]),  # the installer compares
        (["./six-1.17.0-py3-none-any.whl"], ["six==1.16.0"]),
    ],
)
def test_versions_that_may_go_together_are_left_to_the_installer(stack, write, before, after):
    make(stack, **stages(write(a=SOURCE), "a", "a", requirements=(before, after)))


def test_versions_in_files_are_compared_too(stack, write, tmp_path):
    (tmp_path / "before.txt").write_text("# all\n-r more.txt\n")
    (tmp_path / "more.txt").write_text("six==1.17.0\n")
    with pytest.raises(PropError, match=r"got 'six==1\.17\.0' and 'six==1\.16\.0'"):
        make(
            stack,
            **stages(write(a=SOURCE), "a", "a", requirements=(tmp_path / "before.txt", ["six==1.16.0"])),
        )


def test_what_a_stage_leaves_out_stays_if_the_other_stage_may_need_it(tmp_path):
    from cdk_inference.stages.fused import fused_package  # what is bundled: nothing is, in these tests

    text = replace(Preprocess.tensor().code, excluded_requirements=("huggingface-hub",))
    plain = Postprocess.outputs().code
    assert fused_package(text, plain).excluded_requirements == ("huggingface-hub",)
    assert fused_package(text, replace(plain, requirements=("transformers==5.0.0",))).excluded_requirements == ()
    assert fused_package(text, plain).runtime_requirements == ("preprocess-base", "postprocess")
