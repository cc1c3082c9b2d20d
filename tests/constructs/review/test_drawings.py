"""The pictures: what they connect, and that nothing lies on top of something else."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import aws_cdk as cdk
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.constructs.conftest import RECIPE

from cdk_inference import (
    DirectPipeline,
    ItemsFormat,
    ModelArtifact,
    Postprocess,
    Preprocess,
    QueueTrigger,
    S3ItemsTrigger,
)
from cdk_inference.drawings.column import draw_column
from cdk_inference.drawings.graph import Edge, Graph, Node
from cdk_inference.drawings.layout import draw
from cdk_inference.review import graphs
from cdk_inference.review.assembly import read_assembly
from cdk_inference.review.changes import models, workflows
from cdk_inference.review.changes.cdk_diff import Change
from cdk_inference.review.template import Template

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.review.assembly import Assembly

pytestmark = pytest.mark.xdist_group("review")


def ways(graph: Graph, *, dashed: bool = False) -> set[tuple[str, str]]:
    names = {node.id: node.title for node in graph.nodes}
    return {(names[edge.source], names[edge.target]) for edge in graph.edges if edge.dashed is dashed}


def all_graphs(app: Assembly) -> list[Graph]:
    found = []
    for template in app.templates.values():
        found += graphs.pipelines(template)
        found += [level for flow in workflows.workflows(template).values() for level in graphs.levels(flow)]
    return found


def test_a_pipeline_is_connected_from_the_bucket_to_the_table(app: Assembly) -> None:
    (graph,) = graphs.pipelines(app.templates["Shop"])
    in_turn = ["Trigger/Inbox", "Trigger/ObjectCreated", "Trigger/Queue", "Trigger/Pipe", "Workflow"]
    assert set(itertools.pairwise(in_turn)) <= ways(graph)
    for route in ("small", "large"):
        stages = [f"{route}/{stage}" for stage in ("Preprocess", "Inference", "Postprocess")]
        assert {("Workflow", stage) for stage in stages} <= ways(graph)
        assert {(stages[0], "Work"), (stages[1], "Work"), (stages[2], "Results")} <= ways(graph)
        assert (stages[0], "Results") not in ways(graph)
    assert ("Trigger/Queue", "Trigger/DeadLetterQueue") in ways(graph, dashed=True)
    kinds = {node.title: (node.subtitle, node.kind) for node in graph.nodes}
    assert kinds["Results"] == ("DynamoDB table", "store")


def test_a_direct_pipeline_has_no_workflow(app: Assembly) -> None:
    (graph,) = graphs.pipelines(app.templates["Shop/Inner"])
    straight = {("Trigger/Inbox", "Trigger/Queue"), ("Trigger/Queue", "Score"), ("Score", "Results")}
    assert straight <= ways(graph)
    assert all(node.kind != "flow" for node in graph.nodes)


def test_triggers_next_to_pipelines_are_drawn_with_those_that_they_feed(tmp_path: Path) -> None:
    context = {"aws:cdk:bundling-stacks": [], "aws:cdk:enable-path-metadata": True}
    app = cdk.App(outdir=str(tmp_path / "cdk.out"), context=context)
    stack = cdk.Stack(app, "Shop")
    model, preprocess = ModelArtifact(stack, "Model", recipe=RECIPE), Preprocess.image(size=224)
    for name, trigger in (
        ("Orders", QueueTrigger(stack, "OrderQueue")),
        ("Lines", S3ItemsTrigger(stack, "Files", items=ItemsFormat.json_lines())),
    ):
        DirectPipeline(
            stack,
            name,
            model=model,
            preprocess=preprocess,
            postprocess=Postprocess.classification(labels=[*"abcdefghij"]),
            trigger=trigger,
        )
    app.synth()
    assembly = read_assembly(tmp_path / "cdk.out", "cdk.out")
    template = assembly.templates["Shop"]
    lines, orders = graphs.pipelines(template)
    assert [lines.title, orders.title] == ["Shop/Lines", "Shop/Orders"]
    assert ("Shop/OrderQueue/Queue", "Score") in ways(orders)
    assert {("Shop/Files/Objects/Queue", "Shop/Files/Split"), ("Shop/Files/Queue", "Score")} <= ways(lines)
    assert not {node.id for node in lines.nodes} & {node.id for node in orders.nodes}
    # Both have the same model. One function has all stages, and the labels too.
    (same,) = models.alike(models.compare(None, assembly))
    assert [model.path for model in same] == ["Orders/Score/Function", "Lines/Score/Function"]
    assert {figure.name: figure.after for figure in same[0].figures}["Labels"] == "10"


def test_changes_are_said_in_words(app: Assembly) -> None:
    template = app.templates["Shop"]
    table = template.of_type("AWS::DynamoDB::GlobalTable")[0]
    (graph,) = graphs.pipelines(template, [Change("Shop", "~", table, table, "replace", ())])
    assert {node.title: node.status for node in graph.nodes if node.status} == {"Results": "replaced"}
    assert "DynamoDB table · replaced" in [box.subtitle for box in draw(graph, downwards=True).boxes]


def test_a_map_has_a_picture_to_itself(app: Assembly) -> None:
    (flow,) = workflows.workflows(app.templates["Shop"]).values()
    outer, *inner = graphs.levels(flow)
    assert ("Receive", "Score parts") in ways(outer)
    part = next(level for level in inner if level.title.endswith("inside of Score parts"))
    assert ("Take part", "Time left?") in ways(part)
    assert any(source == "small: Infer" for source, _ in ways(part, dashed=True))
    assert sum(len(level.nodes) for level in (outer, *inner)) == len(flow.states)


@pytest.mark.parametrize("downwards", [True, False])
def test_boxes_lie_apart_and_arrows_end_at_their_borders(app: Assembly, downwards: bool) -> None:
    for graph in all_graphs(app):
        drawing = draw(graph, downwards=downwards)
        assert drawing == draw(graph, downwards=downwards)
        for one, two in itertools.combinations(drawing.boxes, 2):
            beside = one.x + one.width <= two.x or two.x + two.width <= one.x
            assert beside or one.y + one.height <= two.y or two.y + two.height <= one.y
        for box in drawing.boxes:
            assert box.x >= 0
            assert box.y >= 0
            assert box.x + box.width <= drawing.width
            assert box.y + box.height <= drawing.height
        boxes = {box.node.id: box for box in drawing.boxes}
        for edge, arrow in zip(graph.edges, drawing.arrows, strict=True):
            x, y = map(float, arrow.head.split()[0].split(","))
            target = boxes[edge.target]
            assert target.x - 1 <= x <= target.x + target.width + 1
            assert target.y - 1 <= y <= target.y + target.height + 1
            assert re.fullmatch(r"(?:[MLQ ]|-?\d+(?:\.\d)?)+", arrow.path)


def test_a_column_fits_a_phone_and_its_arrows_end_at_their_boxes(app: Assembly) -> None:
    for graph in all_graphs(app):
        drawing = draw_column(graph)
        assert drawing.width <= 350, graph.title
        assert [box.y for box in drawing.boxes] == sorted(box.y for box in drawing.boxes)
        assert {box.node.id for box in drawing.boxes} == {node.id for node in graph.nodes}
        targets = {edge.target for edge in graph.edges}
        reached = set()
        for each in drawing.arrows:
            assert re.fullmatch(r"(?:[MLQ ]|-?\d+(?:\.\d)?)+", each.path)
            numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d)?", each.path + " " + each.head)]
            assert min(numbers) >= 0
            assert max(numbers) <= max(drawing.width, drawing.height)
            if each.head:
                y = float(each.head.split()[0].split(",")[1])
                reached.add(next(box.node.id for box in drawing.boxes if box.y - 1 <= y <= box.y + box.height))
        assert reached == targets


def test_a_column_goes_down_and_what_many_fall_back_to_has_one_line(app: Assembly) -> None:
    (graph,) = graphs.pipelines(app.templates["Shop"])
    titles = [box.title for box in draw_column(graph).boxes]
    assert titles[:5] == ["Trigger/Inbox", "Trigger/ObjectCreated", "Trigger/Queue", "Trigger/Pipe", "Workflow"]
    (flow,) = workflows.workflows(app.templates["Shop"]).values()
    part = next(level for level in graphs.levels(flow) if level.title.endswith("inside of Score parts"))
    heads = [each for each in draw_column(part).arrows if each.dashed and each.head]
    assert len([edge for edge in part.edges if edge.dashed]) > 2 * len(heads)


@given(st.integers(1, 7), st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=20))
def test_any_graph_has_a_column(size: int, ends: set[tuple[int, int, bool]]) -> None:
    nodes = tuple(Node(str(number), str(number), "Task", "state") for number in range(size))
    edges = tuple(Edge(str(one % size), str(two % size), dashed) for one, two, dashed in sorted(ends))
    drawing = draw_column(Graph("any", nodes, edges))
    assert sorted(box.node.id for box in drawing.boxes) == sorted(node.id for node in nodes)
    assert bool(drawing.arrows) == bool(edges)


def test_states_say_what_they_call(app: Assembly) -> None:
    (flow,) = workflows.workflows(app.templates["Shop"]).values()
    nodes = {node.title: (node.subtitle, node.kind) for level in graphs.levels(flow) for node in level.nodes}
    assert nodes["small: Infer"] == ("lambda:invoke", "compute")
    assert nodes["Take part"] == ("Pass", "state")


def test_loops_two_ways_and_boxes_alone_are_drawn() -> None:
    nodes = tuple(Node(name, name, "Task", "state") for name in "abc")
    graph = Graph("loops", nodes, (Edge("a", "b"), Edge("b", "a", dashed=True), Edge("a", "a")))
    drawing = draw(graph, downwards=True)
    assert (len(drawing.boxes), len(drawing.arrows)) == (3, 3)
    assert draw(Graph("alone", nodes[:1], ()), downwards=False).arrows == []


def test_a_template_without_a_pipeline_is_drawn_as_a_whole() -> None:
    queue = {"Type": "AWS::SQS::Queue"}
    topic = {"Type": "AWS::SNS::Topic"}
    link = {"Type": "AWS::SNS::Subscription", "Properties": {"TopicArn": {"Ref": "T"}, "Endpoint": {"Ref": "Q"}}}
    body = {"Resources": {"Q": queue, "T": topic, "L": link, "Alone": queue}}
    (graph,) = graphs.pipelines(Template("Stack", "Stack", body))
    assert (graph.title, ways(graph)) == ("Stack", {("T", "Q")})
