"""The page of a model in a real browser: the answers of the engine, for all that the gate looks at."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from model_assets.digits_cnn.data import evaluation
from typer.testing import CliRunner
from verify.tools import Tools, UnavailableError

from cdk_inference.anywhere.cli import app
from cdk_inference.anywhere.web.export import LIBRARY, write_page
from cdk_inference.errors import PropError
from cdk_inference.testing import LocalModel
from tests.browser import PATIENCE, chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGITS = Path(__file__).parents[3] / "model_assets" / "digits_cnn"
RUN = """async (batches) => {
  const { openModel } = await import("./model.mjs");
  const model = await openModel();
  const answers = [];
  for (const images of batches) answers.push(Array.from((await model.run({ images })).logits.data));
  return answers.flat();
}"""


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel.of(DIGITS / "recipe.py", architecture="x86_64")


@pytest.mark.slow
def test_the_browser_answers_as_the_engine_does(model: LocalModel, tmp_path: Path) -> None:
    try:
        library = Tools().package("onnxruntime-web")
    except UnavailableError as error:
        pytest.skip(str(error))
    arguments = [model.folder, "--output", tmp_path, "--onnxruntime-web", library, "--labels", DIGITS / "labels.txt"]
    written = CliRunner().invoke(app, ["web", *map(str, arguments)], catch_exceptions=False)
    shown = {str(Path(line).relative_to(tmp_path)) for line in written.output.splitlines()}
    assert shown == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    images = np.concatenate([inputs["images"] for inputs, _, _ in evaluation()])
    expected = np.stack([model.run({"images": image})["logits"] for image in images])
    with served(tmp_path) as address, chromium() as browser:
        page = browser.new_page()
        troubles: list[str] = []
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(address)
        page.get_by_text("The model is ready.").wait_for(timeout=PATIENCE)
        parts = [images[first : first + 100].tolist() for first in range(0, len(images), 100)]
        found = np.array(page.evaluate(RUN, parts)).reshape(expected.shape)
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

        page.get_by_label("Input, in JSON").fill(json.dumps(images[0].tolist()))
        page.get_by_role("button", name="Run").click()
        first = page.locator("#result tbody tr").first
        first.wait_for(timeout=PATIENCE)
        labels = (DIGITS / "labels.txt").read_text().splitlines()
        assert first.locator("td").first.inner_text() == labels[expected[0].argmax()]
        page.get_by_label("Or a file").set_input_files(
            {"name": "x.json", "mimeType": "application/json", "buffer": b"[[1, 2], [3]]"}
        )
        page.wait_for_function("document.getElementById('input').value.startsWith('[[1, 2]')", timeout=PATIENCE)
        page.get_by_role("button", name="Run").click()
        page.get_by_text("must have the shape [batch, 8, 8], got [1, 2, 2]").wait_for(timeout=PATIENCE)
        assert page.locator("#result").is_hidden()
        assert troubles == []
        accessible = browser.new_context(bypass_csp=True).new_page()  # the page's policy lets no other script run
        accessible.goto(address)
        accessible.evaluate((Tools().package("axe-core") / "axe.min.js").read_text("utf-8"))
        assert accessible.evaluate("axe.run(document)")["violations"] == []


def test_a_page_that_cannot_run_the_model_is_not_written(model: LocalModel, tmp_path: Path) -> None:
    library = tmp_path / "library"
    (library / "dist").mkdir(parents=True)
    output = tmp_path / "page"
    with pytest.raises(PropError, match="onnxruntime_web must be the folder of the npm package"):
        write_page(model.folder, model.manifest, output, library=library)
    for name in LIBRARY:
        (library / "dist" / name).write_text("")
    with pytest.raises(PropError, match=r"labels must name the values of .* logits \['batch', 10\], got 2"):
        write_page(model.folder, model.manifest, output, library=library, labels=("a", "b"))
    with pytest.raises(PropError, match="model must be one graph"):
        write_page(tmp_path, model.manifest, output, library=library)
    assert not output.exists()
