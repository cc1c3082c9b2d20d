"""The console as a user meets it: the command's address in a real browser, and photographs that are scored."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from playwright.sync_api import expect
from verify.tools import Tools

from tests.browser import PATIENCE, chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

STAGES = re.compile(r"Waiting .*, Preprocess .*, Inference .*, Postprocess .*")
DROP = """
async ([bytes, name]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector("#flow").dispatchEvent(
      new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }),
    );
}
"""
DETECTIONS = """
async () => {
  const { boxes, detections, grid, heat } = await import("/page/pictures.js");
  const found = detections({ detections: [
    { label: "<b>dog</b>", score: 0.9, box: [10, 20, 110, 220] },
    { label: "cat", score: "x", box: [0, 0, 5, NaN] }, { label: "none" }, null,
  ] });
  const frame = document.createElement("div");
  frame.id = "drawn";
  frame.append(boxes(found, 400, 300), heat(grid({ method: "rise", label: 3, grid: [[0, 1], [0.5, 2]] })));
  document.body.append(frame);
  return [found.length, grid({ grid: [[1], [1, 2]] }), grid(null)];
}
"""


@pytest.fixture(scope="module")
def address(project: Path, photos: Watched) -> Iterator[str]:
    command = [sys.executable, "-m", "cdk_inference.local", "console"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running.stdout.readline().strip()
        finally:
            running.terminate()
            assert "Traceback" not in running.stderr.read()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with chromium() as found:
        yield found


def opened(context: BrowserContext, address: str) -> Page:
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    return page


@pytest.fixture(scope="module")
def page(browser: Browser, address: str) -> Iterator[Page]:
    heard: list[str] = []
    page = opened(browser.new_context(viewport={"width": 1280, "height": 900}), address)
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    yield page
    assert heard == []
    page.context.close()


def test_a_photograph_is_dropped_and_watched_until_it_has_a_label(
    page: Page, photographs: dict[str, Path], accepted: dict[str, list[str]]
) -> None:
    assert "token" not in page.url
    page.evaluate(DROP, [list(photographs["dog.jpg"].read_bytes()), "dropped dog.jpg"])
    page.set_input_files("#files", [photographs["coffee.png"]])
    rows = page.locator("#rows tbody tr")
    expect(rows.filter(has_text="coffee.png").first).to_be_visible()
    row = rows.filter(has_text="dropped dog.jpg")
    expect(row).to_be_visible()
    assert row.locator(".label").inner_text() in accepted["dog.jpg"]
    with Image.open(photographs["dog.jpg"]) as image:
        expect(row.locator("img")).to_have_js_property("naturalWidth", image.width)
    expect(row.locator(".stages")).to_have_attribute("title", STAGES)


def test_the_details_show_picture_prediction_and_execution(page: Page) -> None:
    page.locator("#rows tbody tr").filter(has_text="dropped dog.jpg").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("img", name="The object dropped dog.jpg")).to_be_visible()
    expect(dialog.locator(".answers tr")).to_have_count(5)
    for state in ("Score parts", "Preprocess", "Infer", "Postprocess"):
        expect(dialog.locator(".state.done").filter(has_text=state).first).to_be_visible()
    expect(dialog.locator(".state.never").filter(has_text="Fail item").first).to_be_visible()
    expect(dialog.locator(".spans").first.locator("tbody tr")).to_have_count(3)
    dialog.get_by_text("Everything that is recorded").click()
    expect(dialog.locator(".whole pre")).to_contain_text('"sequencer"')
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


def test_metrics_model_and_costs(page: Page, address: str) -> None:
    page.get_by_role("tab", name="Metrics").click()
    expect(page.locator(".latencies tbody tr")).to_have_count(4)
    page.get_by_role("tab", name="Model").click()
    card = page.get_by_role("link", name="Open the model card")
    with page.expect_popup() as popup:
        card.click()
    expect(popup.value.get_by_role("heading", level=1)).to_have_text("efficientnet-lite0")
    assert popup.value.evaluate("window.origin") == "null"  # a sandbox
    popup.value.close()
    page.get_by_role("tab", name="Costs").click()
    month, million = (page.locator("#estimates dd.big").nth(number) for number in (0, 1))
    expect(month).to_have_text(re.compile(r"\$\d+\.\d\d"))
    cost = million.inner_text()
    assert month.inner_text() == cost
    page.get_by_label("Objects a month").fill("10000000")
    expect(month).not_to_have_text(cost)
    assert float(month.inner_text()[1:]) == pytest.approx(10 * float(cost[1:]), abs=0.06)
    assert million.inner_text() == cost


def test_an_object_cannot_act_as_the_page(page: Page) -> None:
    script = {"name": "page.jpg", "mimeType": "text/html", "buffer": b"<script>parent.stolen = 1</script>"}
    page.set_input_files("#files", [script])
    page.get_by_role("tab", name="Rejected").click()
    row = page.locator("#rejected tbody tr").filter(has_text="page.jpg")
    row.get_by_role("button", name="page.jpg").click()
    with page.expect_popup() as popup:
        page.get_by_role("link", name="Open the object").click()
    expect(popup.value.locator("pre")).to_have_text("<script>parent.stolen = 1</script>")
    assert popup.value.evaluate("window.origin") == "null"
    popup.value.close()
    page.keyboard.press("Escape")


def test_boxes_and_heat_maps_are_drawn_from_valid_numbers_alone(page: Page) -> None:
    assert page.evaluate(DETECTIONS) == [1, None, None]
    drawn = page.locator("#drawn")
    expect(drawn.locator(".detection")).to_have_count(1)
    expect(drawn.locator(".detection text")).to_have_text("<b>dog</b> 0.90")
    frame = drawn.locator(".detection .frame")
    assert [frame.get_attribute(name) for name in ("x", "y", "width", "height")] == ["10", "20", "100", "200"]
    assert drawn.locator("canvas").evaluate("(canvas) => [canvas.width, canvas.height]") == [2, 2]
    drawn.evaluate("(node) => node.remove()")


def test_the_keyboard_is_enough(page: Page) -> None:
    page.get_by_role("tab", name="Results").click()
    page.reload()
    expect(page.locator("#rows tbody tr").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the pipeline")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    tab = page.get_by_role("tab", selected=True)
    while not tab.evaluate("(node) => node === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Rejected")).to_be_focused()
    expect(page.locator("#rejected")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    row = page.locator("#rows tbody tr").first.get_by_role("button")
    while not row.evaluate("(node) => node === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    for _ in range(12):  # the focus does not leave it
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(row).to_be_focused()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_every_tab_fits_the_screen_and_axe_finds_nothing(
    browser: Browser, address: str, width: int, scheme: Any
) -> None:
    axe = (Tools().package("axe-core") / "axe.min.js").read_text("utf-8")
    size: Any = {"width": width, "height": 844}
    # The page's policy lets no script run, not even this one.
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    page = opened(context, address)
    expect(page.locator("#rows tbody tr").first).to_be_visible()
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
    assert (max(shade) < 64) if scheme == "dark" else (min(shade) > 192)

    def looked_at(where: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), where
        page.evaluate(axe)
        answer = page.evaluate("axe.run(document)")
        assert len(answer["passes"]) > 15
        found = [(where, each["id"], each["nodes"][0]["target"]) for each in answer["violations"]]
        assert found == []

    for name in ("Results", "Rejected", "Dead letters", "Executions", "Metrics", "Model", "Costs"):
        page.get_by_role("tab", name=name).click()
        looked_at(name)
    page.get_by_role("tab", name="Results").click()
    page.locator("#rows tbody tr").first.get_by_role("button").click()
    expect(page.locator(".execution").first).to_be_visible()
    looked_at("details")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Light" if scheme == "dark" else "Dark", exact=True).click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light" if scheme == "dark" else "dark")
    looked_at("the other theme")
    context.close()
