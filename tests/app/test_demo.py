"""The demo's exit code: `make demo` is a check as well."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.request import url2pathname

import html5lib
import pytest

from cdk_inference import LambdaPlatform
from cdk_inference.local import Outcome
from tests import fresh_boot
from tests.assemblies import synthesized
from tests.browser import chromium

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType
    from xml.etree.ElementTree import Element

    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
ON_ITS_OWN = """
import sys, time
from pathlib import Path
print("booted", time.monotonic(), "seconds ago")
from demos import photographs as demo
demo.PHOTOGRAPHS, demo.ROOT, demo.PAGE = map(Path, sys.argv[1:])
sys.exit(demo.main())
"""


@pytest.fixture
def demo(tmp_path: Path) -> ModuleType:
    """The demo, with two photographs."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "demos" / "photographs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("coffee.png", "camera.png"):
        shutil.copy(module.PHOTOGRAPHS / name, tmp_path)
    module.PHOTOGRAPHS, module.PAGE = tmp_path, tmp_path / "pages" / "photographs.html"
    return module


def accept(demo: ModuleType, **accepted: str) -> None:
    labels = {f"{name}.png": [label] for name, label in accepted.items()}
    (demo.PHOTOGRAPHS / "accepted.json").write_text(json.dumps(labels))


def freshly_booted() -> tuple[list[str], str]:
    """Return the command under which a process believes that the machine was booted a moment ago.

    Where there is none, return why.
    """
    clocks = [f"--{name}={seconds}" for name, seconds in fresh_boot.offsets().items()]
    alone = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *alone, "--time", "--fork", "--kill-child", *clocks]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        refusal = tried.stderr.strip() if tried.returncode else ""
    except FileNotFoundError as error:
        refusal = str(error)
    return ([], refusal) if refusal else (command, "")


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.e2e
def test_the_demo_holds_on_a_machine_that_was_just_booted(
    demo: ModuleType, built: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    built("efficientnet_lite/lite0.py", LambdaPlatform.host().architecture)
    accept(demo, coffee="espresso", camera="tripod")
    app = synthesized(ROOT / "app.py", tmp_path_factory.mktemp("reference"))
    command, refusal = freshly_booted()
    shown = subprocess.run(
        [*command, sys.executable, "-c", ON_ITS_OWN, str(demo.PHOTOGRAPHS), str(app), str(demo.PAGE)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout
    assert "espresso" in shown.stdout
    assert "not labelled as expected" not in shown.stdout
    assert "Traceback" not in shown.stdout
    assert shown.stdout.splitlines()[-1] == f"The photographs and their labels: {demo.PAGE}"
    page = demo.PAGE.read_text("utf-8")
    stages = [found.text for found in elements(page, "passes")[0].iter("bdi")]
    assert stages == ["Preprocess", "Inference", "Postprocess"]
    (card,) = [link.attrib["href"] for link in parsed(page).iter("a")]
    assert Path(url2pathname(card.removeprefix("file://"))).is_file()
    if refusal:
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(f"CI must run the demo in a time namespace: {refusal}")
        pytest.skip(f"the demo holds, but this machine makes no time namespace: {refusal}")
    assert float(shown.stdout.split()[1]) < 1800  # sessions of roles last that long


HOSTILE = "<script>alert(1)<.script><img src=x onerror=alert(1)>\"'`{{7*7}}\u202e&amp;.png"


class LabelledCloud:
    """Stands for an embedded AWS in which the app labels every photograph alike."""

    def __enter__(self) -> LabelledCloud:
        return self

    def __exit__(self, *_: object) -> None: ...

    def deploy(self, folder: Path, **_: object) -> None: ...

    def put(self, *files: Path) -> list[str]:
        return [file.name for file in files]

    def wait_for(self, uploads: list[str], **_: object) -> list[Outcome]:
        answers = {"top": [{"label": "espresso", "score": 0.9}, {"label": HOSTILE, "score": 0.1}]}
        return [
            Outcome(key, "REJECTED", reason=f"no picture: {key}")
            if key.startswith("none")
            else Outcome(key, "SUCCEEDED", label="espresso", score=0.9, seconds=1.5, prediction=answers)
            for key in uploads
        ]

    def logs(self) -> list[tuple[int, str, str]]:
        report = "REPORT RequestId: 1\tDuration: {} ms\tBilled Duration: 1 ms"
        found = [("Preprocess", 20), ("Inference", 7.5), ("Inference", 7), ("Postprocess", 10)]
        return [(0, HOSTILE, "START"), *((0, stage, report.format(took)) for stage, took in found)]


def parsed(page: str) -> Element:
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def elements(page: str, name: str) -> list[Element]:
    return [element for element in parsed(page).iter() if name in element.attrib.get("class", "").split()]


@pytest.fixture
def labelled(demo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The demo without a deployment: coffee is coffee, and the others are not."""
    monkeypatch.setattr(demo, "LocalCloud", LabelledCloud)
    manifest = SimpleNamespace(
        name=HOSTILE,
        model_version="1",
        precision="static_int8",
        size_bytes=5e6,
        baseline_size_bytes=2e7,
        measured=None,
        metric=None,
        parity={"quantized": 0.99},
        exact_on=["arm64"],
    )
    built = SimpleNamespace(manifest=manifest, card=tmp_path / HOSTILE / "card.html")
    monkeypatch.setattr(demo, "build_model", lambda recipe, architecture: built)
    (tmp_path / "none.jpg").write_text("no picture")
    shutil.copy(tmp_path / "coffee.png", tmp_path / HOSTILE)
    labels = {"coffee.png": ["espresso", HOSTILE], HOSTILE: ["tripod"], "none.jpg": ["cat"]}
    (tmp_path / "accepted.json").write_text(json.dumps(labels))
    return demo


def test_the_demo_fails_when_a_label_is_not_accepted(labelled: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    labelled.console.width = 200
    assert labelled.main() == 1
    shown = capsys.readouterr().out
    assert "espresso" in shown
    assert f"not labelled as expected: {HOSTILE}, none.jpg" in shown


def test_the_page_shows_what_came_and_names_stay_text(labelled: ModuleType) -> None:
    assert labelled.main() == 1
    page = labelled.PAGE.read_text("utf-8")
    assert list(labelled.PAGE.parent.iterdir()) == [labelled.PAGE]
    tree = parsed(page)
    assert [element for element in tree.iter() if element.tag in ("script", "iframe", "object")] == []
    assert {name for element in tree.iter() for name in element.attrib if name.startswith("on")} == set()
    assert [image.attrib["src"].partition(",")[0] for image in tree.iter("img")] == ["data:image/jpeg;base64"] * 2
    assert {link.attrib["href"].partition(":")[0] for link in tree.iter() if "href" in link.attrib} == {"data", "file"}
    assert page.count("&lt;script&gt;alert(1)") > 5
    assert "{{7*7}}" in page
    assert "\u202e" not in page
    assert "default-src 'none'" in page
    assert [mark.text for mark in elements(page, "fits")] == ["✓ fits"]
    assert len(elements(page, "flag")) == 2
    assert "2 of 3 photographs" in page
    assert "REJECTED: no picture: none.jpg" in page
    stages = ["".join(line.itertext()) for line in elements(page, "passes")[0].iter("li")]
    assert stages == ["Preprocess20.0 ms", "Inference7.50 ms", "Postprocess10.0 ms"]


def test_the_page_fits_every_screen_and_runs_nothing(labelled: ModuleType, browser: Browser) -> None:
    assert labelled.main() == 1
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        view, heard = context.new_page(), []
        view.on("console", lambda message, heard=heard: heard.append(message.text))
        view.on("dialog", lambda dialog, heard=heard: heard.append(dialog.message))
        view.on("request", lambda request, heard=heard: heard.append(request.url))
        view.goto(labelled.PAGE.as_uri())
        assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert [one for one in heard if not one.startswith((labelled.PAGE.as_uri(), "data:"))] == []
        assert view.evaluate("[...document.images].every(image => image.naturalWidth === 448)")
        shade = view.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
        assert (max(shade) < 64) if scheme == "dark" else (min(shade) > 192)
        context.close()
