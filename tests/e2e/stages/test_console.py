"""The console with a pipeline whose objects are hostile: what they say stays text, and what failed can be repaired."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from cdk_inference.local.console.notices import NoticeObject
from cdk_inference.local.console.server import Console
from tests.browser import PATIENCE, chromium
from tests.e2e.conftest import key_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import ConsoleMessage, Page

    from cdk_inference.local import LocalCloud, PipeRunner
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

HOSTILE = "<img src=x onerror=alert(1)>\"'{{7*7}}\u202e.txt"
ASSETS = "cdk-hnb659fds-assets-000000000000-us-east-1"
EXPLAINED = """
async (given) => (await import("/page/explanations.js")).explained(given, { drawn: false }).textContent
"""
REFUSED = "</td><script>alert(1)<script>.txt"


@pytest.fixture(scope="module")
def pipeline(watch: type[Watched], cloud: LocalCloud, pipes: PipeRunner) -> Watched:
    return watch(cloud, "Stages/Obedient")


@pytest.fixture(scope="module")
def console(cloud: LocalCloud) -> Iterator[Console]:
    with Console(lambda: cloud, pipeline="Stages/Obedient") as running:
        yield running


@pytest.fixture(scope="module")
def page(console: Console) -> Iterator[Page]:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        heard: list[str] = []
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: told_of(heard, message))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.goto(console.url)
        yield page
        assert heard == []


def told_of(heard: list[str], message: ConsoleMessage) -> None:
    """Note what the browser says, but for previews of rows whose object is gone."""
    if "/api/preview?" not in message.location["url"]:
        heard.append(message.text)


@contextmanager
def repaired(cloud: LocalCloud, pipeline: Watched, **changes: str) -> Iterator[None]:
    """Change the code of the preprocessing for the length of a block, as a deployment would."""
    functions, name = cloud.client("lambda"), pipeline.functions["Preprocess"]
    alias = functions.get_alias(FunctionName=name, Name="live")
    (function,) = (one for one in cloud.resources(pipeline=pipeline.name) if one.physical_id == name)
    asset = cloud.client("s3").get_object(Bucket=ASSETS, Key=function.properties["Code"]["S3Key"])["Body"].read()
    before = zipfile.ZipFile(io.BytesIO(asset))
    after = io.BytesIO()
    with zipfile.ZipFile(after, "w") as archive:
        for entry in before.infolist():
            if "obey." in entry.filename and entry.filename.endswith(".pyc"):
                continue  # it would win over the source
            data = before.read(entry)
            if entry.filename.endswith("obey.py"):
                for old, new in changes.items():
                    assert f'if order == b"{old}":'.encode() in data
                    data = data.replace(
                        f'if order == b"{old}":'.encode(), f'if order == b"{old}":\n        {new}'.encode()
                    )
            archive.writestr(entry, data)
    functions.update_function_code(FunctionName=name, ZipFile=after.getvalue())
    version = functions.publish_version(FunctionName=name)["Version"]
    functions.update_alias(FunctionName=name, Name="live", FunctionVersion=version)
    try:
        yield
    finally:
        functions.update_function_code(FunctionName=name, ZipFile=asset)
        functions.update_alias(FunctionName=name, Name="live", FunctionVersion=alias["FunctionVersion"])
        functions.delete_function(FunctionName=name, Qualifier=version)


def test_what_failed_is_understood_repaired_and_sent_again(page: Page, cloud: LocalCloud, pipeline: Watched) -> None:
    orders = {HOSTILE: b"raise <b>", REFUSED: b"refuse <b>"}
    page.set_input_files(
        "#files", [{"name": key, "mimeType": "text/plain", "buffer": order} for key, order in orders.items()]
    )

    # The error of the user's code is told at once, with what happens next.
    told = page.locator(".notice.bad").filter(has_text=HOSTILE.partition("\u202e")[0])
    more = page.locator("#more-notices[aria-expanded=false]")

    def is_shown() -> bool:
        """Show all errors if there are many, as other objects of the shared stack may fail meanwhile."""
        if not told.count() and more.is_visible():
            more.click()
        return bool(told.count())

    wait_until(is_shown, lambda: "the error is not told")
    expect(told).to_contain_text("Preprocess: RuntimeError: as it was told")
    told.locator("summary").click()
    expect(told.locator(".traceback")).to_contain_text("obey.py")
    told.get_by_role("button", name="Dismiss").click()
    expect(told).to_have_count(0)

    # It is given up, and the page says why: with the traceback of the user's own line.
    page.get_by_role("tab", name="Dead letters").click()
    dead = page.locator("#dead tbody tr").filter(has_text=HOSTILE.partition("\u202e")[0])
    expect(dead).to_contain_text("RuntimeError: as it was told")
    dead.get_by_role("button", name="<img src").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", level=2)).to_have_text(HOSTILE)
    expect(dialog.locator(".text")).to_have_text("raise <b>")
    expect(dialog.locator(".traceback").first).to_contain_text('raise RuntimeError("as it was told")')
    expect(dialog.locator(".state.done").filter(has_text="Send dead letter")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    page.get_by_role("tab", name="Rejected").click()
    refused = page.locator("#rejected tbody tr").filter(has_text=REFUSED)
    expect(refused).to_contain_text("as it was told to refuse")

    # After the cause is gone, both are scored, with the events that they came with.
    (event,) = (json.loads(body) for body in pipeline.dead_bodies() if key_of(body) == HOSTILE)
    before = pipeline.row(REFUSED)
    fixed = "return np.zeros(4, np.float32)"
    with repaired(cloud, pipeline, **{"raise": fixed, "refuse": fixed}):
        refused.get_by_role("button", name="Score again").click()
        expect(refused).to_have_count(0)
        page.get_by_role("tab", name="Dead letters").click()
        dead.get_by_role("button", name="Redrive").click()
        expect(dead).to_have_count(0)
        page.get_by_role("tab", name="Results").click()
        for key in (HOSTILE, REFUSED):
            row = page.locator("#rows tbody tr").filter(has_text=key.partition("\u202e")[0])
            expect(row).to_contain_text("ordinal: 0th")
    after = pipeline.row(REFUSED)
    same = ("id", "version", "etag", "sequencer", "event_time")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert (before["status"], after["status"]) == ("REJECTED", "SUCCEEDED")
    redriven = pipeline.row(HOSTILE)
    assert (redriven["event_time"], redriven["etag"]) == (event["time"], event["detail"]["object"]["etag"])
    assert HOSTILE not in pipeline.dead()


def test_errors_behind_the_newest_come_up(page: Page, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console._deployment, "_tell_failures", lambda: None)  # other objects may still fail
    dismiss_all = page.get_by_role("button", name="Dismiss all errors")
    if dismiss_all.is_visible():
        dismiss_all.click()
    for number in range(5):
        console._notices.add("failure", f"planted {number}")
    planted, titles = page.locator(".notice.bad"), [f"planted {number}" for number in reversed(range(5))]
    expect(planted.locator(".title")).to_contain_text(titles[:3])
    planted.first.get_by_role("button", name="Dismiss").click()
    expect(planted.locator(".title")).to_contain_text(titles[1:4])
    expect(planted.first.get_by_role("button", name="Dismiss")).to_be_focused()
    page.get_by_role("button", name="Show 1 more error").click()
    expect(planted.locator(".title")).to_contain_text(titles[1:])
    page.get_by_role("button", name="Show fewer").click()
    dismiss_all.click()
    expect(planted).to_have_count(0)
    expect(dismiss_all).to_be_hidden()


def test_the_object_of_another_pipelines_error_is_shown_and_the_same_error_is_told_again(
    page: Page, console: Console, cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console._deployment, "_tell_failures", lambda: None)  # other objects may still fail
    fused = cloud.pipeline("Stages/Fused")
    fused.put("of the other.txt", b"return [1, 2, 3, 4]")
    about = NoticeObject("Stages/Fused", fused.inbox, "of the other.txt")
    said = page.locator("#said span")
    for title in ("first try", "second try", "second try"):
        before = page.evaluate_handle("() => document.querySelector('#said').firstElementChild")
        console._notices.add("failure", title, about=about, topic="the same bug")
        expect(said).to_have_text(title)
        # The same words again are a new element, which a screen reader reads.
        page.wait_for_function("old => !old?.isConnected", arg=before)
    page.locator(".notice.bad").filter(has_text="second try").get_by_role("button", name="Show the object").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", level=2)).to_have_text("of the other.txt")
    expect(dialog.locator(".text")).to_have_text("return [1, 2, 3, 4]")
    page.keyboard.press("Escape")
    expect(page).to_have_title("Stages/Fused · cdk-inference console")
    page.get_by_role("combobox", name="Pipeline").select_option("Stages/Obedient")
    expect(page).to_have_title("Stages/Obedient · cdk-inference console")


def test_an_explanation_says_what_each_part_adds(page: Page, cloud: LocalCloud) -> None:
    tables = cloud.pipeline("Stages/Tables")
    tables.put("rows/why on the page.json", b'{"a": 3, "b": 1, "c": 0.5, "d": -1}')
    page.get_by_role("combobox", name="Pipeline").select_option("Stages/Tables")
    page.locator("#rows tbody tr").filter(has_text="why on the page").get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".weights th")).to_have_count(4)
    expect(dialog.locator(".weights th").first).to_have_text("a")  # the field that adds most
    expect(dialog.locator(".explanation dd").first).to_have_text("shapley")
    page.keyboard.press("Escape")
    for explanation, shown in (
        ({"method": "rise", "reason": "<b>late</b>"}, "There is no explanation: <b>late</b>"),
        ({"tokens": [{"token": "<i>no</i>", "weight": -0.5}, {"token": " go", "weight": 0.1}]}, "<i>no</i>"),
    ):
        assert shown in page.evaluate(EXPLAINED, explanation)
    page.get_by_role("combobox", name="Pipeline").select_option("Stages/Obedient")
    expect(page).to_have_title("Stages/Obedient · cdk-inference console")


def test_the_page_finds_an_object_among_many(page: Page, pipeline: Watched) -> None:
    page.get_by_role("tab", name="Results").click()
    page.get_by_role("searchbox").fill("batch/1")
    rows = page.locator("#rows tbody tr")
    expect(rows.filter(has_text="batch/12")).to_have_count(1)
    expect(rows.filter(has_not_text="batch/1")).to_have_count(0)
    page.get_by_role("searchbox").fill("nothing has this")
    expect(page.locator("#shown")).to_have_text("Nothing matches “nothing has this”")
    page.get_by_role("searchbox").fill("")
    expect(rows.filter(has_text="mixed/1")).to_have_count(1)


def test_a_long_name_leaves_the_rest_of_the_header_free_on_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    choice = page.get_by_role("combobox", name="Pipeline").bounding_box()
    live = page.locator("#live").bounding_box()
    page.set_viewport_size({"width": 1280, "height": 900})
    assert choice is not None
    assert live is not None
    assert choice["x"] + choice["width"] <= live["x"]


def test_another_pipeline_is_chosen(page: Page, console: Console) -> None:
    page.get_by_role("combobox", name="Pipeline").select_option("Stages/Fused")
    expect(page.locator("#flow .stage")).to_have_count(1)
    expect(page).to_have_title("Stages/Fused · cdk-inference console")
    page.get_by_role("combobox", name="Pipeline").select_option("Stages/Obedient")
    expect(page.locator("#flow .stage .title")).to_have_text(["Preprocess", "Inference", "Postprocess"])


def test_nobody_looks_at_the_embedded_aws_while_no_page_is_open(page: Page, console: Console) -> None:
    wait_until(lambda: console.open_pages == 1, lambda: console.open_pages)
    page.goto("about:blank")
    wait_until(lambda: console.open_pages == 0, lambda: console.open_pages)
