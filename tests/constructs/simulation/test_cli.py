"""The command line and the page, for an app that was synthesized."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

import aws_cdk as cdk
import html5lib
import pytest
from aws_cdk import Duration
from aws_cdk import aws_dynamodb as dynamodb
from tests.browser import PATIENCE, chromium
from tests.constructs.conftest import RECIPE
from typer.testing import CliRunner

from cdk_inference import (
    DirectPipeline,
    InferencePipeline,
    ModelArtifact,
    Postprocess,
    Preprocess,
    PropError,
    ResultsTable,
    Route,
    Routing,
    S3Trigger,
)
from cdk_inference.costs import CpuOption, SplitOption
from cdk_inference.simulation import Quotas, Sweep, sweep
from cdk_inference.simulation.cli import app as command
from cdk_inference.simulation.page import html, render
from cdk_inference.simulation.pipelines import read_pipeline

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("simulation")

SLOW = ("--rate", "5", "--rate", "40")


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulation") / "cdk.out"
    context = {"aws:cdk:bundling-stacks": [], "aws:cdk:enable-path-metadata": True}
    app = cdk.App(outdir=str(folder), context=context)
    stack = cdk.Stack(app, "Shop")
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    preprocess = Preprocess.image(size=224)
    small, large = (
        Route(model=model, preprocess=preprocess, postprocess=Postprocess.outputs(), name=name, milliseconds=ms)
        for name, ms in (("small", 3), ("large", 30))
    )
    InferencePipeline(
        stack,
        "Photos",
        routing=Routing.split({"a": (90, small), "b": (10, large)}),
        trigger=S3Trigger(stack, "Trigger", max_batching_window=Duration.seconds(3)),
        results=ResultsTable(stack, "Results", warm_throughput=dynamodb.WarmThroughput(write_units_per_second=25_000)),
    )
    InferencePipeline(stack, "ByKey", routing=Routing.by_key({"small/*": small}, otherwise=large))
    # The model was not built, and so nobody knows how long it takes.
    DirectPipeline(stack, "Direct", model=model, preprocess=preprocess)
    app.synth()
    return folder


@pytest.fixture(scope="module")
def swept() -> Sweep:
    return sweep(CpuOption("lite0", milliseconds=3), [5, 40], name="<b>Shop</b>", quotas=Quotas(s3_gets=20))


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_what_is_simulated_is_what_was_synthesized(assembly: Path) -> None:
    photos = read_pipeline(assembly, "Shop/Photos")
    assert isinstance(photos.option, SplitOption)
    assert {way.name: share for share, way in photos.option.ways} == {"small": 0.9, "large": 0.1}
    assert (photos.shape.batch_size, photos.window, photos.warm_writes) == (32, 3, 25_000)
    by_key = read_pipeline(assembly, "Shop/ByKey", route="large")
    assert (by_key.option.milliseconds, by_key.warm_writes) == (30, None)


def test_the_command_line_simulates_and_writes_the_page(assembly: Path, tmp_path: Path) -> None:
    page = tmp_path / "simulation.html"
    shown = run(assembly, "--pipeline", "Shop/Photos", *SLOW, "--quota", "s3_gets=20", "--output", page)
    assert "Shop/Photos" in shown
    assert "S3, GET" in shown
    assert "(1) S3, GET and HEAD requests per partitioned prefix" in shown
    assert "advice: spread the keys over more prefixes, since it cannot be raised and each prefix has its own" in shown
    assert "Shop/Photos" in page.read_text("utf-8")
    for curve in ("bursts", "day"):
        one = run(assembly, "--pipeline", "Shop/Photos", "--rate", "0.03", "--curve", curve, "--assume", "failures=0.1")
        assert "p95" in one


def test_a_table_that_holds_up_names_the_prop_that_warms_it_and_one_that_is_warm_does_not(assembly: Path) -> None:
    few = ("--rate", "20", "--quota", "table_writes_at_first=30")
    by_key = run(assembly, "--pipeline", "Shop/ByKey", "--route", "small", "--rate", "20")
    assert "of 4,000 write units a second: DynamoDB, initial throughput" in by_key
    held_up = run(assembly, "--pipeline", "Shop/ByKey", "--route", "small", *few)
    assert "keeps up      no: " in held_up
    assert "of 20.0 objects a second get rows" in held_up
    assert "advice        set warm_throughput of the ResultsTable" in held_up
    assert "that you expect: 4" in held_up
    warm = run(assembly, "--pipeline", "Shop/Photos", "--rate", "300")
    assert "of 25,000 write units a second: DynamoDB, initial throughput" in warm


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "pipeline must be one of Shop/"),
        (("--pipeline", "Shop/Other"), "pipeline must be one of Shop/"),
        (("--pipeline", "Shop/ByKey"), "route must be one of"),
        (("--pipeline", "Shop/ByKey", "--route", "huge"), "route must be one of"),
        (("--pipeline", "Shop/Direct"), "milliseconds of route"),
        (("--pipeline", "Shop/Photos", "--quota", "s3_gets=0"), "s3_gets must be above 0"),
    ],
)
def test_what_cannot_be_simulated_fails(assembly: Path, arguments: tuple[str, ...], named: str) -> None:
    result = CliRunner().invoke(command, [str(assembly), *arguments])
    assert isinstance(result.exception, PropError)
    assert named in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--output", "page.txt"),
        ("--quota", "gets=5"),
        ("--quota", "s3_gets=many"),
        ("--assume", "cold_start"),
        ("--curve", "day", "--rate", "1", "--rate", "2"),
    ],
)
def test_wrong_usage_fails_with_2(assembly: Path, arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(command, [str(assembly), "--pipeline", "Shop/Photos", *arguments])
    assert result.exit_code == 2


class _Loads(HTMLParser):
    """Finds what a page loads or runs."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") or name == "src" for name, _ in attrs)


def test_the_page_loads_nothing_and_shows_names_as_text(swept: Sweep) -> None:
    page = html(swept)
    html5lib.HTMLParser(strict=True).parse(page)
    found = _Loads()
    found.feed(page)
    assert "script" not in found.tags
    assert "<b>Shop</b>" not in page
    assert "&lt;b&gt;Shop&lt;/b&gt;" in page
    assert "held up from 40.0 objects a second on" in page
    assert page.count('<circle cx="') == 2 * sum(2 * n for n in (2, 1, 1, 4))


def test_the_page_fits_a_screen_and_a_phone(swept: Sweep, tmp_path: Path) -> None:
    render(swept, tmp_path / "simulation.html")
    with chromium() as browser:
        for width in (1200, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.set_default_timeout(PATIENCE)
            page.goto((tmp_path / "simulation.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width
            shown = page.locator(".picture:visible")
            assert shown.count() == page.locator("figure").count() >= 5
            beyond = "every => every.filter(t => t.getBoundingClientRect().right > innerWidth).map(t => t.textContent)"
            assert page.locator(".picture:visible text").evaluate_all(beyond) == []


def test_a_page_that_cannot_be_written_fails(swept: Sweep, tmp_path: Path) -> None:
    with pytest.raises(PropError, match="output must be a file that can be written"):
        render(swept, tmp_path / "missing" / "simulation.html")


def test_a_sweep_without_rates_fails() -> None:
    with pytest.raises(PropError, match="rates must be at least one"):
        sweep(CpuOption("lite0", milliseconds=3), [])
