"""The page and the Markdown: whatever an app contains stays text, and the page is good to look at."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import html5lib
import pytest
from tests.browser import chromium
from verify.tools import Tools

from cdk_inference.costs.options import Traffic
from cdk_inference.costs.prices import Prices
from cdk_inference.review.assembly import Assembly
from cdk_inference.review.changes import cdk_diff
from cdk_inference.review.changes.cdk_diff import Change, StackDiff
from cdk_inference.review.errors import ReviewError
from cdk_inference.review.report import html, markdown, render
from cdk_inference.review.review import review
from cdk_inference.review.template import Template

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from cdk_inference.review.review import Review

pytestmark = pytest.mark.xdist_group("review")

HOSTILE = (
    "</text></svg><script>alert(1)</script><img src=x onerror=alert(1)>\"'`|**b**[l](javascript:a)@you\u202e{{7*7}}"
)


def hostile(version: str) -> Assembly:
    """An app in which whatever a person can name is an attack."""
    path = {"aws:cdk:path": f"{HOSTILE}/Resource"}
    model = {"name": HOSTILE, "model_version": version, "precision": HOSTILE, "inputs": [{"name": HOSTILE}]}
    states = {HOSTILE: {"Type": HOSTILE, "Next": version}, version: {"Type": "Pass"}}
    policy = {"Statement": {"Effect": "Allow", "Action": f"{HOSTILE}{version}*", "Resource": HOSTILE}}
    resources = {
        "Queue": {"Type": "AWS::SQS::Queue", "Metadata": path},
        "Function": {
            "Type": "AWS::Lambda::Function",
            "Metadata": path | {"cdk-inference": {"role": "function", "pipeline": HOSTILE, "model": model}},
            "Properties": {"DeadLetterConfig": {"TargetArn": {"Fn::GetAtt": ["Queue", "Arn"]}}},
        },
        "Machine": {
            "Type": "AWS::StepFunctions::StateMachine",
            "Metadata": {"aws:cdk:path": "Machine"},
            "Properties": {"Definition": {"StartAt": HOSTILE, "States": states}},
        },
        "Policy": {"Type": "AWS::IAM::Policy", "Properties": {"Roles": [HOSTILE], "PolicyDocument": policy}},
    }
    labels = {("Stack", HOSTILE): (HOSTILE, version)}
    return Assembly(HOSTILE, {"Stack": Template("Stack", "Stack", {"Resources": resources})}, labels=labels)


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> Review:
    before, after = hostile("1"), hostile("2")

    def compare(*_: object) -> list[StackDiff]:
        """Say what the CLI says of paths and values, without starting it."""
        resource = after.templates["Stack"].resources["Queue"]
        change = Change("Stack", "~", resource, resource, "replace", (HOSTILE,))
        return [StackDiff("Stack", (change,), f"```\n{HOSTILE}")]

    monkeypatch.setattr(cdk_diff, "compare", compare)
    return review(after, before, Traffic(items_per_month=1), Prices())


def test_hostile_texts_stay_texts_on_the_page(attacked: Review) -> None:
    page = html(attacked)
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    assert [element for element in tree.iter() if element.tag in ("script", "img", "iframe", "object")] == []
    assert {name for element in tree.iter() for name in element.attrib if name.startswith("on")} == set()
    links = {element.attrib["href"] for element in tree.iter() if "href" in element.attrib}
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert page.count("&lt;script&gt;alert(1)") > 10
    assert "{{7*7}}" in page
    assert "\u202e" not in page
    assert "default-src 'none'" in page


def test_hostile_texts_stay_texts_in_markdown(attacked: Review) -> None:
    text = markdown(attacked)
    fenced = re.findall(r"^(`{3,})\w*\n.*?^\1$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(fenced) == 2  # what the CLI says, and the drawing
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"(?<!\\)<(?!/?(?:details|summary)>|!-- cdk-inference review -->)", outside) == []
    assert "@you" not in outside
    (drawing,) = re.findall(r"^```mermaid\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"<[^>]*>", drawing)) == {"<br/>", "<small>", "</small>"}
    assert "alert(1)" not in drawing


def whole(text: str) -> bool:
    """Return whether every block of a Markdown text is closed."""
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    return "```" not in outside and text.count("<details>") == text.count("</details>")


@pytest.mark.parametrize("much", ["texts", "rows", "drawings", "everything"])
def test_a_comment_on_github_is_never_too_long(attacked: Review, much: str) -> None:
    (diff,), changes, (graph,) = attacked.diffs, attacked.changes, attacked.pipelines
    long = attacked
    if much in ("texts", "everything"):
        long = replace(long, diffs=(replace(diff, text="x\n" * 35_000),) if much == "texts" else (diff,) * 900)
    if much in ("rows", "everything"):
        many = {name: list(getattr(changes, name)) * 99 for name in ("permissions", "models", "workflows")}
        long = replace(long, changes=replace(changes, **many))
    if much in ("drawings", "everything"):
        long = replace(long, pipelines=(graph,) * 400)
    text = markdown(long)
    assert len(text) < 65_536
    assert whole(text)
    assert text.startswith(f"<!-- cdk-inference review -->\n## Review of {long.title}")
    for finding in long.findings:
        assert finding.text[:12] in text
    assert ("The rest is in the page" in text) is (much == "everything")
    assert ("```mermaid" in text) is (much in ("texts", "rows"))
    if much == "texts":
        assert html(long).count("x\n") > 30_000


def test_a_drawing_that_github_would_not_show_is_left_out(attacked: Review) -> None:
    (graph,) = attacked.pipelines
    dense = replace(graph, edges=graph.edges * 501)
    wide = replace(graph, nodes=graph.nodes * 600)
    assert "```mermaid" not in markdown(replace(attacked, pipelines=(dense, wide)))
    assert markdown(replace(attacked, pipelines=(dense, graph))).count("```mermaid") == 1


def test_a_review_that_cannot_be_written_is_an_error(attacked: Review, tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="cannot be written"):
        render(attacked, tmp_path / "missing" / "review.html")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_the_page_fits_every_screen_and_runs_nothing(
    browser: Browser, attacked: Review, app: Assembly, tmp_path: Path, width: int, scheme: Any
) -> None:
    pages = {"hostile": attacked, "app": review(app, app, Traffic(items_per_month=1e6), Prices())}
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    view, heard = context.new_page(), []
    view.on("console", lambda message: heard.append(message.text))
    view.on("dialog", lambda dialog: heard.append(dialog.message))
    view.on("request", lambda request: heard.append(request.url))
    for name, found in pages.items():
        file = tmp_path / f"{name}.html"
        render(found, file)
        view.goto(file.as_uri())
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    assert [each for each in heard if not each.startswith((tmp_path.as_uri(), "data:"))] == []
    # Nobody has to push a picture around on a phone: the last page is that of the app.
    assert view.evaluate("[...document.querySelectorAll('.picture')].every(e => e.scrollWidth <= e.clientWidth)")
    shown = view.locator(".picture:visible svg")
    assert shown.count() == len(pages["app"].pipelines) + len(pages["app"].workflows)
    shade = view.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
    assert (max(shade) < 64) if scheme == "dark" else (min(shade) > 192)
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_axe_finds_nothing(
    browser: Browser, attacked: Review, app: Assembly, tmp_path: Path, width: int, scheme: Any
) -> None:
    axe = (Tools().package("axe-core") / "axe.min.js").read_text("utf-8")
    # The page's policy lets no script run, not even this one.
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    view = context.new_page()
    for found in (attacked, review(app, None, Traffic(items_per_month=1e6), Prices())):
        render(found, tmp_path / "review.html")
        view.goto((tmp_path / "review.html").as_uri())
        view.evaluate(axe)
        answer = view.evaluate("axe.run(document)")
        assert len(answer["passes"]) > 20
        assert [(each["id"], each["nodes"][0]["target"]) for each in answer["violations"]] == []
    context.close()
