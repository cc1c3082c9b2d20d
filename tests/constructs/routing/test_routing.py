"""Which way items go, and what is refused: the expressions are evaluated here, the state machine in tests/workflow."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import aws_cdk as cdk
import jsonata
import pytest
from aws_cdk.assertions import Template
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.constructs.conftest import RECIPE, make_stack, resources, states_of

from cdk_inference import (
    CpuInference,
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
    Route,
    Routing,
    S3Trigger,
    SageMakerAsync,
    StagedRoute,
    WorkBucket,
)
from cdk_inference.gpu.inference import GpuBackend
from cdk_inference.model import TensorSpec
from cdk_inference.releases.strategy import Arms
from cdk_inference.routing.plan import RoutePlan
from cdk_inference.routing.router import routed_expression, sampled_expression
from cdk_inference.routing.strategies import check_first

DECIDING = Path(__file__).parent / "deciding.py"
BATCH = 32
"""Messages that an expression gets at once, as in a full batch."""


def message(key="a.jpg", size=100, version="v1", bucket="inbox", **looked_up):
    detail = {"bucket": {"name": bucket}, "object": {"key": key, "size": size, "etag": "e", "version-id": version}}
    return {"message_id": f"{key}-{version}", "body": {"time": "t", "detail": detail}, **looked_up}


@pytest.fixture(scope="module")
def routes():
    model = ModelArtifact(make_stack(), "Model", recipe=RECIPE)
    return {name: Route(name, model=model, preprocess=Preprocess.image(size=224)) for name in ("a", "b", "c")}


class NoGpu(GpuBackend):
    """Stands for any GPU: a template of how it is waited for needs none."""

    def bind(self, scope, *, model, work, timeout, options, **_):
        return CpuInference(scope, "Function", model=model, work=work, timeout=timeout, **options)


def build(stack, branch, b_inference=None, **props):
    """Build a pipeline with two routes of a model each."""
    a, b = (
        Route(
            name,
            model=ModelArtifact(stack, f"Model{name}", recipe=replace(RECIPE, name=name)),
            preprocess=Preprocess.image(size=224),
            inference=inference or Inference.cpu(),
        )
        for name, inference in (("a", None), ("b", b_inference))
    )
    return InferencePipeline(stack, "Photos", routing=branch(a, b), **props)


def machines(branch, b_inference=None):
    """Return the stack, and the definitions of the express and the standard machine, with dots for references."""
    stack = make_stack()
    build(stack, branch, b_inference)
    found = {"EXPRESS": None, "STANDARD": None}
    for machine in resources(stack, "AWS::StepFunctions::StateMachine").values():
        pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
        text = "".join(piece if isinstance(piece, str) else "." for piece in pieces)
        found[machine["Properties"]["StateMachineType"]] = json.loads(text)
    return stack, found["EXPRESS"], found["STANDARD"]


def definition(branch):
    return machines(branch)[1]


def granted(branch, action):
    """Return the actions of the statements that allow an action."""
    stack, _, _ = machines(branch)
    return {
        one
        for policy in resources(stack, "AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if action in statement["Action"]
        for one in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }


def go(branch, *messages, **variables):
    """Return the destination of each message, by the expression of the state machine and the workflow's variables."""
    text = routed_expression(RoutePlan.of(branch).expression)
    return [
        one["destination"]
        for first in range(0, len(messages), BATCH)
        for one in evaluated(text, messages[first : first + BATCH], **variables)
    ]


def evaluated(text, messages, **variables):
    """Return what an expression of the state machine makes of a batch."""
    expression = jsonata.Jsonata(text.replace("$states.input", "$input"))
    expression.register_lambda("hash", lambda text, _: hashlib.sha256(text.encode()).hexdigest())
    looked_up = ("tags", "metadata", "decisions", "lost", "refused")
    messages = tuple({**one, "message_id": str(number)} for number, one in enumerate(messages))
    frame = expression.create_frame()
    frame.bind("batch", [{name: value for name, value in m.items() if name not in looked_up} for m in messages])
    frame.bind("input", [{n: v for n, v in m.items() if n in (*looked_up, "message_id")} for m in messages])
    for name, value in variables.items():
        frame.bind(name, value)
    return expression.evaluate(None, frame)


def test_by_size_sends_smaller_objects_one_way(routes):
    branch = Routing.by_size(limit=1000, below=routes["a"], otherwise=routes["b"])
    assert go(branch, message(size=999), message(size=1000), message(size=0)) == ["a", "b", "a"]


def payload(item_id, body="text", sequence="1"):
    item = {"source": "arn:aws:sqs:eu-west-1:111122223333:orders", "id": item_id, "sequence": sequence, "time": "1"}
    return {"message_id": "m", "body": body, "item": item}


def test_messages_are_routed_by_their_id_and_their_body(routes):
    by_size = Routing.by_size(limit=1000, below=routes["a"], otherwise=routes["b"])
    assert go(by_size, payload("x", "y" * 999), payload("x", "y" * 1000), payload("x", {"y": 1})) == ["a", "b", "a"]
    by_key = Routing.by_key({"a-*": routes["a"]}, otherwise=routes["b"])
    assert go(by_key, payload("a-1"), payload("b-1"), message("a-1")) == ["a", "b", "a"]
    by_share = Routing.split({"x": (1, routes["a"]), "y": (1, routes["b"])})
    found = go(by_share, *(payload(str(number)) for number in range(200)))
    assert all(60 < number < 140 for number in Counter(found).values())
    assert len(set(found)) == 2
    assert found == go(by_share, *(payload(str(number), "another body") for number in range(200)))


def part(item_id, text=None, **item):
    """Return a message whose body says which part of an object it is."""
    item = {"source": "arn:aws:s3:::inbox", "id": item_id, "sequence": "1", "time": "1", **item}
    body = {"item": item} if text is None else {"item": {**item, "member": "body"}, "body": text}
    return {"message_id": "m", "body": body}


def test_parts_of_objects_are_routed_by_their_names_and_their_own_sizes(routes):
    by_size = Routing.by_size(limit=1000, below=routes["a"], otherwise=routes["b"])
    ranges = [part("o#1", range={"key": "o" * 2000, "size": size}) for size in (999, 1000)]
    assert go(by_size, part("o" * 2000, "y" * 999), part("o#2", "y" * 1000), *ranges) == ["a", "b", "a", "b"]
    by_key = Routing.by_key({"a.zip#*": routes["a"]}, otherwise=routes["b"])
    assert go(by_key, part("a.zip#x/y.jpg", "text"), part("b.zip#x", "text")) == ["a", "b"]
    malformed = [{"item": 7}, {"item": {"member": "x"}, "body": 7}, {"item": {"range": 7}}]
    assert len(go(by_size, *({"message_id": "m", "body": body} for body in malformed))) == len(malformed)


@pytest.mark.parametrize("body", [None, "text", {}, {"detail": {}}, {"detail": {"object": {"size": "7", "key": 3}}}])
def test_malformed_messages_fail_no_batch(routes, body):
    by_size = Routing.by_size(limit=1000, below=routes["a"], otherwise=routes["b"])
    by_key = Routing.by_key({"*.jpg": routes["a"]}, otherwise=routes["b"])
    by_share = Routing.split({"x": (1, routes["a"]), "y": (1, routes["b"])})
    for branch in (by_size, by_key):
        assert go(branch, {"message_id": "m", "body": body}, message()) == ["b", "a"]
    assert len(go(by_share, {"message_id": "m", "body": body}, message())) == 2


def test_by_key_takes_the_first_pattern_that_fits_the_whole_key(routes):
    branch = Routing.by_key({"raw/*.tif": routes["a"], "*.tif": routes["b"]}, otherwise=routes["c"])
    keys = ["raw/x.tif", "raw/x/y.tif", "x.tif", "raw/x.tiff", "RAW/x.TIF"]
    assert go(branch, *(message(key) for key in keys)) == ["a", "a", "b", "c", "c"]


@settings(deadline=None, max_examples=25)
@given(
    pattern=st.text(alphabet=st.characters(exclude_characters="*", exclude_categories=["Cs"]), min_size=1, max_size=12),
    rest=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
)
def test_any_text_is_a_pattern_for_itself_and_what_a_star_stands_for(routes, pattern, rest):
    exact = Routing.by_key({pattern: routes["a"]}, otherwise=routes["b"])
    assert go(exact, message(pattern)) == ["a"]
    assert go(exact, message(pattern + "x" + rest)) == ["b"]
    assert go(Routing.by_key({f"{pattern}*": routes["a"]}, otherwise=routes["b"]), message(pattern + rest)) == ["a"]


def test_by_tag_and_by_metadata_take_what_was_looked_up(routes):
    by_tag = Routing.by_tag("class", {"gold": routes["a"], "silver": routes["b"]}, otherwise=routes["c"])
    by_metadata = Routing.by_metadata("Class", {"gold": routes["a"]}, otherwise=routes["c"])
    assert go(by_tag, message(tags={"class": "silver"}), message(tags={"other": "gold"}), message()) == ["b", "c", "c"]
    assert go(by_metadata, message(metadata={"class": "gold"}), message(metadata={})) == ["a", "c"]


def test_by_function_gives_back_what_it_has_no_branch_for(routes):
    branch = Routing.by_function(f"{DECIDING}:decide", {"left": routes["a"], "right": routes["b"]})
    decided = [message(decisions={"1": label}) for label in ("left", "right", "up")]
    assert go(branch, *decided, message()) == ["a", "b", "", ""]


def test_what_could_not_be_looked_up_is_given_back(routes):
    branch = Routing.by_tag("class", {"gold": routes["a"]}, otherwise=routes["b"])
    assert go(branch, message(lost=True), message(tags={})) == ["", "b"]


def test_strategies_nest(routes):
    branch = Routing.by_size(
        limit=1000,
        below=Routing.by_key({"*.png": routes["a"]}, otherwise=routes["b"]),
        otherwise=Routing.split({"old": (1, routes["b"]), "new": (1, routes["c"])}),
    )
    assert go(branch, message("x.png"), message("x.jpg")) == ["a", "b"]
    large = go(branch, *(message(f"{i}.png", size=5000) for i in range(50)))
    assert set(large) == {"b (old)", "c (new)"}


@settings(deadline=None, max_examples=3)
@given(weights=st.lists(st.integers(1, 100), min_size=2, max_size=3))
def test_a_split_has_the_shares_that_it_was_given(routes, weights):
    labels = ("a", "b", "c")[: len(weights)]
    branch = Routing.split({label: (weight, routes[label]) for label, weight in zip(labels, weights, strict=True)})
    gone = go(branch, *(message(f"{i}") for i in range(200)))
    for label, weight in zip(labels, weights, strict=True):
        share = weight / sum(weights)
        assert abs(gone.count(f"{label} ({label})") / 200 - share) < 5 * (share * (1 - share) / 200) ** 0.5 + 0.01


@settings(deadline=None, max_examples=12)
@given(
    objects=st.lists(st.tuples(st.text(max_size=30), st.text(max_size=10)), min_size=1, max_size=8),
    percent=st.integers(1, 99),
    salt=st.text(max_size=5),
)
def test_a_split_a_release_and_a_sample_take_the_same_objects_at_each_delivery(routes, objects, percent, salt):
    def share(key, version):
        digits = hashlib.sha256(f"{salt}\ninbox\n{key}\n{version or 'e'}".encode()).hexdigest()
        return int(digits[:8], 16) / 2**32

    taken = [share(*each) * 100 < percent for each in objects]
    split = Routing.split({"x": (percent, routes["a"]), "y": (100 - percent, routes["b"])}, salt=salt)
    release = Arms(stable=routes["b"], candidate=routes["a"], salt=salt)
    for looked_up in ({}, {"tags": {"any": "thing"}}):
        messages = [message(key, version=version, **looked_up) for key, version in objects]
        assert [way == "a (x)" for way in go(split, *messages)] == taken
        assert [way == "a (candidate)" for way in go(release, *messages, candidate_share=percent)] == taken
        sample = evaluated(sampled_expression("$batch", str(percent), salt), messages)
        assert [int(each["message_id"]) for each in sample] == [n for n, one in enumerate(taken) if one]


def test_two_experiments_with_different_salts_split_independently(routes):
    halves = {"x": (1, routes["a"]), "y": (1, routes["b"])}
    messages = [message(f"{i}") for i in range(200)]
    first, second = (go(Routing.split(halves, salt=salt), *messages) for salt in ("one", "two"))
    both = sum(a == b for a, b in zip(first, second, strict=True))
    assert 70 < both < 130


def test_rows_of_nested_experiments_name_both_variants(routes):
    inner = Routing.split({"x": (1, routes["a"]), "y": (1, routes["b"])}, salt="inner")
    plan = RoutePlan.of(Routing.split({"old": (1, routes["c"]), "new": (1, inner)}))
    assert {d.variant for d in plan.destinations.values()} == {"old", "new/x", "new/y"}


def test_by_model_takes_the_model_that_the_object_asks_for(routes):
    branch = Routing.by_model([routes["a"]], otherwise=routes["b"])
    assert go(branch, message(metadata={"model": "tiny"}), message(metadata={"model": "big"})) == ["a", "b"]


# The states of the state machine.


def tasks(states):
    """Return the tasks of the stages and of the router."""
    return [name for name, state in states.items() if state["Type"] == "Task" and name != "Send dead letter"]


def test_a_choice_by_key_needs_no_function_beside_the_stages():
    states = states_of(definition(lambda a, b: Routing.by_key({"*.png": a}, otherwise=b)))
    assert sorted(tasks(states)) == sorted(
        f"{leg}: {stage}" for leg in ("a", "b") for stage in ("Preprocess", "Infer", "Postprocess")
    )
    assert {choice["Next"] for choice in states["Which route?"]["Choices"]} == {"a: Preprocess", "b: Preprocess"}
    assert "$contains($key, /^[\\s\\S]*\\.png$/)" in states["Route"]["Output"]


def test_one_route_alone_has_nothing_to_choose():
    states = states_of(definition(lambda a, b: a))
    assert states["Time left?"]["Default"] == "a: Preprocess"
    assert not {"Which route?", "Route"} & states.keys()


def test_tags_are_read_by_the_workflow_itself_and_it_may():
    branch = lambda a, b: Routing.by_tag("class", {"gold": a}, otherwise=b)  # noqa: E731
    states = states_of(definition(branch))
    assert states["Look up"]["ItemProcessor"]["StartAt"] == "Is it an event?"
    (read,) = tasks(states["Look up"]["ItemProcessor"]["States"])
    assert states["Look up"]["ItemProcessor"]["States"][read]["Resource"].endswith("aws-sdk:s3:getObjectTagging")
    assert granted(branch, "s3:GetObjectTagging") == {"s3:GetObjectTagging", "s3:GetObjectVersionTagging"}
    assert granted(branch, "s3:ListBucket")  # else an object that is gone looks like one that is forbidden


def said(state, result):
    """Return what a state that looks something up makes of the answer, by its expression."""
    expression = jsonata.Jsonata(state["Output"].removeprefix("{%").removesuffix("%}"))
    frame = expression.create_frame()
    frame.bind("states", {"input": {"message_id": "m"}, "result": result})
    return expression.evaluate(None, frame)


def test_of_an_objects_tags_and_metadata_only_those_that_are_asked_for_are_kept():
    """Ten long tags of each of 21 objects in a batch do not fit into the state of a workflow."""
    states = states_of(
        definition(
            lambda a, b: Routing.by_tag("class", {"gold": a}, otherwise=Routing.by_metadata("x", {"y": a}, otherwise=b))
        )
    )
    long = [{"Key": "k" * 127 + str(i), "Value": "v" * 256} for i in range(9)]
    tags = [*long, {"Key": "class", "Value": "gold"}]
    assert said(states["Read tags"], {"TagSet": tags}) == {"message_id": "m", "tags": {"class": "gold"}}
    assert said(states["Read tags"], {"TagSet": long}) == {"message_id": "m", "tags": {}}
    assert said(states["Read tags"], {"TagSet": []}) == {"message_id": "m", "tags": {}}
    metadata = {"x": "y", "long": "v" * 1900}
    assert said(states["Read metadata"], {"Metadata": metadata}) == {"message_id": "m", "metadata": {"x": "y"}}
    assert said(states["Read metadata"], {"Metadata": {}}) == {"message_id": "m", "metadata": {}}


def test_a_function_of_the_users_is_asked_for_the_whole_batch():
    def branch(a, b):
        return Routing.by_function(f"{DECIDING}:decide", {"left": a, "right": b})

    states = states_of(definition(branch))
    assert states["Decide 1"]["Arguments"]["Payload"] == {"messages": "{% $batch %}"}
    assert states["Unsorted"]["Next"] == "Decide 1"
    assert states["Decide 1"]["Next"] == "Route"


def test_a_cascade_escalates_what_is_below_its_threshold():
    states = states_of(definition(lambda a, b: Routing.cascade(first=a, then=b, threshold=0.75)))
    assert "confidences[confidence < 0.75]" in states["a>b: Postprocess"]["Arguments"]["Payload"]
    assert (
        "Payload.unsure.message_id], 'isolate': $isolate, 'destination': \"b\""
        in (states["a>b: Postprocess"]["Output"]["parts"])
    )
    assert "answers" not in states["b: Postprocess"]["Output"]


def test_a_gpu_is_waited_for_in_a_standard_machine_that_the_express_one_starts():
    gpu = Inference.gpu(backend=NoGpu())
    _, express, standard = machines(lambda a, b: Routing.by_size(limit=9, below=a, otherwise=b), b_inference=gpu)
    states = states_of(express)
    assert "b: Infer" not in states
    assert "hash" in states["b: Hand over"]["Arguments"]["Name"]
    caught = [catch["ErrorEquals"] for catch in states["b: Hand over"]["Catch"]]
    assert any("StepFunctions.ExecutionAlreadyExistsException" in errors for errors in caught)
    assert "< 1200000" in standard["States"]["Time left for inference?"]["Choices"][0]["Condition"]
    assert "$random()" in standard["States"]["Wait for inference"]["Seconds"]


def test_a_pipeline_with_a_gpu_alone_hands_over_too():
    stack = make_stack()
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    pipeline = InferencePipeline(
        stack,
        "Photos",
        model=model,
        preprocess=Preprocess.image(size=224),
        inference=Inference.gpu(backend=NoGpu(), max_wait=cdk.Duration.minutes(5)),
    )
    assert pipeline.routes["main"].gpu_workflow is not None
    assert pipeline.stages.inference.max_wait.to_minutes() == 5


# Refused routings.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a, b: Routing.by_size(limit=0, below=a, otherwise=b), "limit must be at least 1 byte, got 0"),
        (lambda a, b: Routing.by_key({}, otherwise=b), "patterns must have at least one branch"),
        (lambda a, b: Routing.by_key({"": a}, otherwise=b), "labels of patterns must not be empty"),
        (lambda a, b: Routing.by_tag("", {"x": a}, otherwise=b), "name of the tags must not be empty"),
        (lambda a, b: Routing.by_metadata("", {"x": a}, otherwise=b), "name of the metadata must not be empty"),
        (lambda a, b: Routing.by_model([a, b], otherwise=b), "models of the routes must have unique names"),
        (lambda a, b: Routing.split({"x": (0, a), "y": (1, b)}), "weights must be above 0, got 0 for 'x'"),
        (lambda a, b: Routing.split({"x": (float("nan"), a)}), "weights must be above 0, got nan for 'x'"),
        (lambda a, b: Routing.by_function("nowhere.py:decide", {"x": a}), "must be an existing file"),
        (lambda a, b: Routing.by_function(f"{__file__}:build", {"x": a}), r"must be a function of \(item\)"),
        (lambda a, b: Routing.cascade(first=a, then=b, threshold=1.1), "threshold must be 0 to 1, got 1.1"),
        (lambda a, b: Routing.cascade(first=a, then=b, threshold=-0.1), "got -0.1"),
        (lambda a, b: Routing.cascade(first=a, then=b, threshold=float("nan")), "got nan"),
        (lambda a, b: Routing.cascade(first=a, then=b, agreement=0), "agreement must be above 0 .*, got 0"),
        (
            lambda a, b: Routing.cascade(first=a, then=b, agreement=0.9, threshold=0.5),
            "threshold must be left out with agreement, by which it is found, got both",
        ),
        (lambda a, b: Routing.cascade(first=a, then=a, threshold=0.5), "then must be another route than first"),
    ],
)
def test_a_routing_that_cannot_work_fails(routes, make, message):
    with pytest.raises(PropError, match=message):
        RoutePlan.of(make(routes["a"], routes["b"]))


@pytest.mark.parametrize("single", [False, True])
def test_a_cascade_by_a_model_without_scores_fails(routes, single):
    shape = ("batch", 1) if single else ("batch",)
    recipe = replace(RECIPE, outputs=(TensorSpec("value", "float32", shape),))
    model = ModelArtifact(make_stack(), "Model", recipe=recipe)
    flat = Route("flat", model=model, preprocess=Preprocess.image(size=224))
    with pytest.raises(PropError, match="whose first output holds scores of classes, got "):
        Routing.cascade(first=flat, then=routes["a"], threshold=0.5)
    if single:
        check_first("route", flat, agreement=None, threshold=0.0)  # as of a device that sends nothing on


def test_what_a_waiting_execution_invokes_outlives_a_deployment():
    stack = make_stack()
    build(stack, lambda a, b: Routing.by_size(limit=9, below=a, otherwise=b), Inference.gpu(backend=SageMakerAsync()))
    template = Template.from_stack(stack).to_json()["Resources"]
    aliases = resources(stack, "AWS::Lambda::Alias")
    assert {alias["Properties"]["Name"] for alias in aliases.values()} == {"live"}
    for machine in resources(stack, "AWS::StepFunctions::StateMachine").values():
        pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
        named = {piece["Ref"] for piece in pieces if "Ref" in piece} - {"AWS::Partition"}
        kinds = {template[name]["Type"] for name in named}
        assert "AWS::Lambda::Alias" in kinds
        assert not kinds & {"AWS::Lambda::Version", "AWS::Lambda::Function"}


def test_a_cascade_that_begins_on_a_gpu_fails(routes):
    slow = Route(
        "slow",
        model=routes["a"].model,
        preprocess=Preprocess.image(size=224),
        inference=Inference.gpu(backend=NoGpu()),
    )
    with pytest.raises(PropError, match="begin with one on a CPU"):
        Routing.cascade(first=slow, then=routes["a"], threshold=0.5)


@pytest.mark.parametrize("name", ["", "1st", "a b", "a" * 32, "a/b", "ä"])
def test_a_route_with_a_name_that_cannot_be_used_fails(routes, name):
    with pytest.raises(PropError, match="route name must be a letter, followed by up to 30 letters, digits"):
        Route(name, model=routes["a"].model, preprocess=Preprocess.image(size=224))


def test_two_routes_of_one_name_fail(routes):
    other = Route("a", model=routes["a"].model, preprocess=Preprocess.image(size=224))
    with pytest.raises(PropError, match="names of routes must be unique, got 'a' twice"):
        RoutePlan.of(Routing.by_size(limit=9, below=routes["a"], otherwise=other))


def test_an_express_workflow_with_a_slow_stage_fails():
    stack = make_stack()
    with pytest.raises(PropError, match=r"must have a gpu_workflow for Stack/Infer, got none"):
        InferenceWorkflow(stack, "Workflow", routes=[route(stack, on_gpu=True)])


def route(stack, *, on_gpu=False):
    trigger, work, results = S3Trigger(stack, "T"), WorkBucket(stack, "W"), ResultsTable(stack, "R")
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    return StagedRoute(
        preprocess=PreprocessFunction(
            stack, "Pre", stage=Preprocess.image(size=224), model=model, trigger=trigger, work=work
        ),
        inference=GpuInference(stack, "Infer", model=model, work=work, backend=NoGpu())
        if on_gpu
        else CpuInference(stack, "Infer", model=model, work=work),
        postprocess=PostprocessFunction(
            stack, "Post", stage=Postprocess.outputs(), model=model, work=work, results=results
        ),
    )


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({}, "model must be a ModelArtifact, got None; pass one, or a routing"),
        ({"model": True}, "preprocess must be set, got None"),
        ({"model": True, "routing": True}, "model must be left out with routing, got both"),
    ],
)
def test_a_pipeline_without_a_way_to_go_or_with_two_fails(routes, props, message):
    stack = make_stack()
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    given = {name: {"model": model, "routing": routes["a"]}[name] for name in props}
    with pytest.raises(PropError, match=message):
        InferencePipeline(stack, "Photos", **given)


def test_the_stages_of_a_pipeline_with_two_routes_must_be_named(routes):
    stack = make_stack()
    pipeline = build(stack, lambda a, b: Routing.by_size(limit=9, below=a, otherwise=b))
    with pytest.raises(PropError, match=r"stages must be those of one route, got a, b; take .routes\['a'\]"):
        _ = pipeline.stages.inference


@pytest.mark.parametrize("seconds", [61, 120, 900])
def test_inference_with_a_timeout_of_its_own_that_does_not_fit_fails(seconds):
    slow = Inference.cpu(timeout=cdk.Duration.seconds(seconds))
    with pytest.raises(PropError, match=r"timeout.* s"):
        build(make_stack(), lambda a, b: Routing.by_size(limit=9, below=a, otherwise=b), slow)


def test_stages_that_take_longer_than_their_workflow_fail():
    stack = make_stack()
    with pytest.raises(PropError, match=r"must fit into the workflow's 60 s, got 90 s"):
        InferenceWorkflow(stack, "Workflow", routes=[route(stack)], timeout=cdk.Duration.seconds(60))


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: Routing.cascade(first=a, then=b, threshold=0.5),
        lambda a, b: Routing.split({"x" * 60: (1, Routing.cascade(first=a, then=b, threshold=0.5)), "y": (1, a)}),
    ],
)
def test_names_that_are_too_long_for_states_fail(routes, make):
    long = [
        Route(f"{name * 30}", model=routes["a"].model, preprocess=Preprocess.image(size=224)) for name in ("a", "b")
    ]
    with pytest.raises(PropError, match="state names must have at most 80 characters"):
        RoutePlan.of(make(*long))


def test_a_gpus_workflow_ends_later_than_two_items_that_time_out_are_found():
    gpu = Inference.gpu(backend=NoGpu(), timeout=cdk.Duration.minutes(15))
    _, _, standard = machines(lambda a, b: Routing.by_size(limit=9, below=a, otherwise=b), b_inference=gpu)
    assert standard["TimeoutSeconds"] >= 2 * 20 * 60 + 2 * 6 * 15 * 60


def test_two_models_in_turn_leave_less_time_for_each():
    stack = make_stack()
    with pytest.raises(PropError, match=r"stage_timeout must be at most \d+ s, got 31 s; .* takes 10 invocations"):
        build(
            stack, lambda a, b: Routing.cascade(first=a, then=b, threshold=0.5), stage_timeout=cdk.Duration.seconds(31)
        )


def test_the_state_machines_of_a_cascade_that_ends_on_a_gpu(snapshot_json):
    _, express, standard = machines(
        lambda a, b: Routing.cascade(first=a, then=b, threshold=0.75), b_inference=Inference.gpu(backend=NoGpu())
    )
    assert {"express": express, "standard": standard} == snapshot_json
