"""Releases next to a routing, and of models that run elsewhere than in a function on demand."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import jsonata
import pytest
from tests.constructs.conftest import resources, states_of
from tests.constructs.releases.released import Released

from cdk_inference import AbortOn, Capacity, CpuInference, Inference, PropError, Release, Routing
from cdk_inference.gpu.inference import GpuBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference import Route


class NoGpu(GpuBackend):
    """Stands for any GPU: a template of how it is waited for needs none."""

    def bind(self, scope: Any, *, model: Any, work: Any, timeout: Any, options: Any, **_: Any) -> Any:
        return CpuInference(scope, "Function", model=model, work=work, timeout=timeout, **options)


GPU = Inference.gpu(backend=NoGpu())


def in_a_routing(
    routing: Callable[[Route, Route, Route], Any],
    release: Callable[[Route, Route], Any] = lambda stable, new: Release.canary(stable=stable, candidate=new),
) -> Released:
    """Return a pipeline with the routes ``old`` and ``aside``, and a release of ``old``."""
    released = Released(model=None, preprocess=None)
    old, aside = released.route("old"), released.route("aside")
    released.props["routing"] = routing(old, aside, released.candidate)
    released.release = release(old, released.candidate)
    return released


def by_key(old: Route, aside: Route, new: Route) -> Any:
    return Routing.by_key({"aside/*": aside}, otherwise=old)


def evaluated(expression: str, **variables: Any) -> Any:
    found = jsonata.Jsonata(expression.removeprefix("{%").removesuffix("%}"))
    found.register_lambda("hash", lambda text, _: hashlib.sha256(text.encode()).hexdigest())
    frame = found.create_frame()
    for name, value in variables.items():
        frame.bind(name, value)
    return found.evaluate(None, frame)


def message(id: str, receive_count: str = "1") -> dict[str, Any]:
    detail = {"bucket": {"name": "inbox"}, "object": {"key": id, "etag": "e"}}
    return {"message_id": id, "receive_count": receive_count, "body": {"detail": detail}}


def test_one_route_of_a_routing_is_released_and_stays_where_it_is() -> None:
    released = in_a_routing(by_key)
    pipeline = released.pipeline()
    paths = {name: stages.inference.node.path for name, stages in pipeline.routes.items()}
    assert paths == {name: f"Stack/Photos/Routes/{name}/Inference" for name in ("aside", "old", "new")}
    states = states_of(released.definition("PhotosWorkflowStateMachine"))
    ways = {choice["Condition"]: choice["Assign"]["variant"] for choice in states["Which route?"]["Choices"]}
    assert list(ways.values()) == ["{% null %}", "stable", "candidate"]
    assert {"aside: Infer", "old: Infer", "new: Infer"} < states.keys()


@pytest.mark.parametrize("shadow", [False, True], ids=["canary", "shadow"])
def test_only_objects_of_the_released_route_are_counted_and_compared(shadow: bool) -> None:
    def release(stable: Route, new: Route) -> Any:
        return Release.shadow(new, 100, stable=stable) if shadow else Release.canary(stable=stable, candidate=new)

    released = in_a_routing(by_key, release)
    released.pipeline()
    states = states_of(released.definition("PhotosWorkflowStateMachine"))
    messages = [message(name) for name in ("aside/1", "old/1", "old/2", "new/1")] + [message("old/3", "2")]
    ways = {"aside/1": "aside", "new/1": "old" if shadow else "new (candidate)"}
    old = "old" if shadow else "old (stable)"
    written = {"succeeded": 1, "rejected": 0, "failed": 0, "failures": []}
    tallies = [
        evaluated(
            states["old: Postprocess"]["Output"]["tally"].replace("$states.result.Payload", "$written"),
            batch=[one],
            destination=ways.get(one["message_id"], old),
            prepared={"failed": []},
            written=written,
        )
        for one in messages
    ]
    tallies.append(evaluated(states["Fail item"]["Output"]["tally"], batch=[message("old/4")], destination=old))
    sample = states["Compare sample"]["Arguments"]["Input"]["messages"]
    compared = evaluated(sample, messages=[*messages, message("old/4")], tallies=tallies, compared=100)
    assert [one["message_id"] for one in compared] == ["old/1", "old/2", "new/1", "old/4"]
    assert evaluated(sample, messages=messages, tallies=[], compared=100) == []
    if not shadow:
        sums = states["Count arms"]["Arguments"]["ExpressionAttributeValues"]
        counted = {name: evaluated(value["N"], tallies=tallies) for name, value in sums.items()}
        assert counted == {":stable_ok": "2", ":stable_errors": "1", ":candidate_ok": "1", ":candidate_errors": "0"}


@pytest.mark.parametrize(
    ("routing", "release", "message"),
    [
        (
            lambda old, aside, new: Routing.split({"a": (1, aside), "b": (1, old)}),
            None,
            "stable must be outside of Routing.split, got 'old' in 'b'; end the experiment first",
        ),
        (
            lambda old, aside, new: Routing.cascade(first=old, then=aside, threshold=0.5),
            None,
            "routing must lead to the models of a release by the release alone, got 'old>aside'; ",
        ),
        (
            lambda old, aside, new: Routing.cascade(first=aside, then=old, threshold=0.5),
            None,
            "routing must lead to the models of a release by the release alone, got 'old'; ",
        ),
        (
            lambda old, aside, new: Routing.cascade(first=aside, then=old, threshold=0.5),
            lambda old, new: Release.shadow(new, 10, stable=old),
            "routing must lead to the models of a release by the release alone, got 'old'; ",
        ),
        (
            lambda old, aside, new: Routing.by_key({"new/*": new}, otherwise=old),
            None,
            "routing must lead to the models of a release by the release alone, got 'new'; leave the candidate out",
        ),
        (
            lambda old, aside, new: aside,
            None,
            "stable must be a route of the routing, got 'old'; pass one of aside",
        ),
        (
            by_key,
            lambda old, new: Release.canary(candidate=new),
            "stable must be a Route, got None; pass one of the routing",
        ),
    ],
    ids=["split", "first of a cascade", "second of a cascade", "shadow of a cascade", "candidate", "elsewhere", "none"],
)
def test_a_release_in_a_routing_that_has_no_clear_meaning_fails(routing: Any, release: Any, message: str) -> None:
    with pytest.raises(PropError, match=message):
        in_a_routing(routing, *([release] if release else [])).pipeline()


def test_a_model_besides_a_routing_with_a_release_fails() -> None:
    released = in_a_routing(by_key, lambda stable, new: Release.canary(candidate=new))
    released.props |= {"model": released.model, "preprocess": released.preprocess}
    with pytest.raises(PropError, match="model, preprocess must be left out with routing, got both"):
        released.pipeline()


@pytest.mark.parametrize(("stable", "candidate"), [(GPU, GPU), (None, GPU), (GPU, None)])
def test_the_workflow_of_a_gpu_counts_its_arm(stable: Inference | None, candidate: Inference | None) -> None:
    released = Released(
        lambda made: Release.canary(candidate=made.route("gpu", inference=candidate or Inference.cpu())),
        inference=stable,
    )
    released.pipeline()
    assert "Compare sample" not in states_of(released.definition("PhotosWorkflowStateMachine"))
    for inference, name, route, arm in (
        (stable, "PhotosGpu", "main", "stable"),
        (candidate, "gpuGpu", "gpu", "candidate"),
    ):
        if inference is None:
            continue
        hand_over = states_of(released.definition("PhotosWorkflowStateMachine"))[f"{route}: Hand over"]
        assert evaluated(hand_over["Arguments"]["Input"]["counted"], batch=[message("a")], counted="step-1") == "step-1"
        again = evaluated(hand_over["Arguments"]["Input"]["counted"], batch=[message("a", "2")], counted="step-1")
        assert again == ""  # its first delivery was counted
        tally = evaluated(
            hand_over["Output"]["tally"],
            batch=[message("a"), message("b")],
            destination="main (stable)",
            prepared={"failed": [{"message_id": "b"}]},
        )
        assert tally == {"destination": "main (stable)", "ok": 0, "errors": 1}
        states = states_of(released.definition(f"{name}WorkflowStateMachine"))
        count = states["Count arm"]["Arguments"]
        assert count["UpdateExpression"] == f"ADD {arm}_ok :{arm}_ok, {arm}_errors :{arm}_errors"
        assert states["Record failures"]["Next"] == states["More to do?"]["Default"] == "Anything to count?"
        table, condition = released.statements(f"{name}WorkflowStateMachineRole")["dynamodb:UpdateItem"]
        assert "ReleaseTable" in table["Fn::GetAtt"][0]
        assert list(condition["ForAllValues:StringEquals"]) == ["dynamodb:LeadingKeys"]


@pytest.mark.parametrize(
    "make",
    [
        lambda candidate: Release.shadow(candidate, 10),
        lambda candidate: Release.canary(candidate=candidate, abort_on=[AbortOn.latency()]),
    ],
    ids=["shadow", "latency"],
)
def test_answers_of_a_gpu_cannot_be_compared(make: Any) -> None:
    released = Released(lambda made: make(made.route("gpu", inference=GPU)))
    with pytest.raises(
        PropError, match=r"inference of both models must be Inference.cpu\(…\) to compare their answers"
    ):
        released.pipeline()


def test_each_arm_has_instances_of_its_own() -> None:
    capacity = Capacity.managed_instances()
    inference = Inference.cpu(capacity=capacity, memory_size=2048)
    released = Released(
        lambda made: Release.canary(candidate=made.route("new-model", inference=inference)), inference=inference
    )
    released.pipeline()
    assert len(resources(released.stack, "AWS::Lambda::CapacityProvider")) == 2
    assert "new-model: Infer" in states_of(released.definition("PhotosWorkflowStateMachine"))
