"""The console with pipelines that take messages, records and requests: the page sends one, and shows its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect
from verify.tools import Tools

from cdk_inference.local.console.server import Console
from tests.browser import PATIENCE, chromium
from tests.e2e.triggers.callers import token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page

    from cdk_inference.local import LocalCloud, PipeRunner

pytestmark = pytest.mark.e2e

ORDER, NUMBERS = "return [1, 2, 30, 40]", '{"a": 1, "b": 2, "c": 30, "d": 40}'
HOSTILE = "raise <img src=x onerror=alert(1)>"
SUMS = "[3,70]"


@pytest.fixture(scope="module")
def page(cloud: LocalCloud, pipes: PipeRunner) -> Iterator[Page]:
    with Console(lambda: cloud, pipeline="Triggers/Texts") as console, chromium() as browser:
        # The page's policy lets no script run, and axe is one.
        page = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True).new_page()
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        heard: list[str] = []
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.goto(console.url)
        yield page
        assert heard == []


def sent(page: Page, pipeline: str, way: str | None, text: str) -> Locator:
    """Send a text by the page, and return what the page shows of it."""
    if page.title() != f"{pipeline} · cdk-inference console":
        page.get_by_role("combobox", name="Pipeline").select_option(pipeline)
        expect(page).to_have_title(f"{pipeline} · cdk-inference console")
    page.get_by_role("tab", name="Try it").click()
    if way is not None:
        page.get_by_label("Send it to").select_option(way)
    before = page.locator("#answers > li").count()
    page.get_by_label("What to send").fill(text)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#answers > li")).to_have_count(before + 1)
    return page.locator("#answers > li").first


@pytest.mark.parametrize(
    ("pipeline", "way", "text"),
    [
        ("Triggers/Texts", "Queue", ORDER),
        ("Triggers/Records", "HTTP API", NUMBERS),
        ("Triggers/Records", "REST API", NUMBERS),  # with the key of its client
        ("Triggers/Staged", None, ORDER),  # a REST API next to an inbox
        ("Triggers/Nightly", None, f'"{ORDER}"'),  # now, and not when the schedule says so
        ("Triggers/Stream", None, ORDER),
    ],
)
def test_what_is_sent_by_the_page_gets_its_prediction(page: Page, pipeline: str, way: str | None, text: str) -> None:
    card = sent(page, pipeline, way, text)
    expect(card).to_have_attribute("data-state", "answered")
    expect(card.locator(".media .text")).to_have_text(text)
    expect(card.locator(".about .value").first).to_have_text(SUMS)
    expect(card.locator("header .note")).to_contain_text("s · ")  # how long it took, and when
    card.get_by_role("button", name="Model and card").click()
    expect(page.locator("#model .card").first).to_contain_text(card.locator("code").inner_text())


def test_a_text_that_is_streamed_comes_as_a_whole(page: Page) -> None:
    card = sent(page, "Triggers/TextStream", None, '{"text": "say hello", "max_tokens": 3}')
    expect(card).to_have_attribute("data-state", "answered")
    expect(card.locator(".about .value")).not_to_be_empty()
    expect(page.locator("#input-note")).to_contain_text("The embedded AWS has no function URLs")
    expect(page.get_by_role("tab")).to_have_text(["Try it", "Model"])
    card = sent(page, "Triggers/TextStream", None, '{"text": "no<|end|>"}')
    expect(card).to_have_attribute("data-state", "refused")
    expect(card.locator(".pill")).to_have_text("status 422")


def test_an_item_of_a_table_becomes_a_row(page: Page, cloud: LocalCloud) -> None:
    card = sent(page, "Triggers/Table", None, NUMBERS[:-1] + ', "id": "from the page"}')
    expect(card).to_contain_text("its row appears under Results")
    page.get_by_role("tab", name="Results").click()
    expect(page.locator("#rows tbody tr").filter(has_text="from the page")).to_contain_text("sums")
    card = sent(page, "Triggers/Table", None, "[1]")
    expect(card.locator(".reason")).to_have_text("item must be a JSON object, got list")


def test_what_is_refused_says_why_and_stays_text(page: Page, cloud: LocalCloud) -> None:
    card = sent(page, "Triggers/Texts", "HTTP API", ORDER)
    expect(card).to_have_attribute("data-state", "refused")
    expect(card).to_contain_text("give the header Authorization")
    page.get_by_label("Header Authorization").fill(f"Bearer {token(cloud)}")
    expect(sent(page, "Triggers/Texts", "HTTP API", ORDER).locator(".about .value").first).to_have_text(SUMS)
    card = sent(page, "Triggers/Texts", "HTTP API", HOSTILE)
    expect(card.locator(".pill")).to_have_text("status 500")
    expect(card.locator(".media .text")).to_have_text(HOSTILE)

    given_up = sent(page, "Triggers/Texts", "Queue", HOSTILE)
    expect(given_up.locator(".pill")).to_have_text("dead letter")
    expect(given_up.locator(".reason")).to_have_text("RuntimeError: as it was told")
    page.get_by_role("tab", name="Dead letters").click()
    dead = page.locator("#dead tbody tr").filter(has_text=HOSTILE)
    expect(dead.get_by_role("button", name="Redrive")).to_be_visible()
    page.get_by_role("tab", name="Try it").click()
    page.set_input_files("#input-files", [{"name": "a.bin", "mimeType": "", "buffer": b"\xff\x00"}])
    refused = page.locator("#answers > li").first
    expect(refused.locator(".reason")).to_have_text("input must be text in UTF-8, got 2 bytes that are none")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.evaluate((Tools().package("axe-core") / "axe.min.js").read_text("utf-8"))
        assert page.evaluate("axe.run(document).then((found) => found.violations.map((each) => each.id))") == []
    page.set_viewport_size({"width": 1280, "height": 900})


def test_what_a_function_without_a_workflow_logged_is_shown_of_an_object(page: Page) -> None:
    page.get_by_role("combobox", name="Pipeline").select_option("Triggers/Direct")
    expect(page.locator("#flow .place .title")).to_have_text(["Inbox", "Queue", "Score"])
    page.set_input_files("#files", [{"name": "page.txt", "mimeType": "", "buffer": HOSTILE.encode()}])
    page.get_by_role("tab", name="Dead letters").click()
    page.locator("#dead tbody tr").filter(has_text="in/page.txt").get_by_role("button", name="in/page.txt").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".media .text")).to_have_text(HOSTILE)
    expect(dialog.locator(".logs .traceback").first).to_contain_text('raise RuntimeError("as it was told")')
    page.keyboard.press("Escape")


def test_a_trigger_next_to_its_pipeline_has_the_inbox(page: Page) -> None:
    page.get_by_role("combobox", name="Pipeline").select_option("Triggers/Lines")
    expect(page.locator("#flow .place .title").first).to_have_text("Inbox")
    expect(page.get_by_role("tab", name="Try it")).to_be_hidden()
    line = b'{"id": "one line", "a": 1, "b": 2, "c": 30, "d": 40}\n'
    page.set_input_files("#files", [{"name": "page.jsonl", "mimeType": "", "buffer": line}])
    page.get_by_role("tab", name="Results").click()
    expect(page.locator("#rows tbody tr").filter(has_text="page.jsonl#one line")).to_contain_text("sums")
