"""Names and descriptions come from recipes, data sets and exceptions: nothing in them becomes part of the page."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import html5lib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tests.constructs.model.card import entries

from cdk_inference.common.escaping import clean, escape_markdown, fence
from cdk_inference.model.card import render

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    'http://example.com/?a="><svg onload=alert(1)>',
    "</style></title></svg><iframe src=//example.com>",
    "]]><![CDATA[<x>-->",
    "{{ 7 * 7 }}{% raw %}",
    "| a | b |\n|---|---|\r\n# heading\n\n- item\n\n```\ncode\n```",
    "[link](http://example.com) ![image](http://example.com/x.png) <http://example.com> www.example.com a@b.example",
    "**bold** _it_ ~~gone~~ `code` $x$ &lt;b&gt; &#60; \\",
    "@everyone #1",
    "$\\frac{1}{0}$ $",
    "\u202egpj.exe\u2066 \u200f",
    "عربي עברית",
    "👩‍👩‍👧‍👦🏳️‍🌈🧪" * 30,
    "Z̸̧̢̛͍̣̺̱̞̲͐̐̽̎̾͊" * 40,
    "x" * 20_000,
    "\x00\x01\x1b[31m\x7f\ud800\ufffe",
    "",
    " \t\n",
]
hostile = (
    st.sampled_from(HOSTILE) | st.text(max_size=80) | st.text(alphabet="<>&\"'`|*_[]()\\$@#!~:/.-= \naw1", max_size=60)
)
SETTINGS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TEXTS = 8


def hostile_build(folder: Path, texts: list[str]) -> Path:
    """A build with a text in every place that a recipe, a data set or a tool can fill."""
    name, licence, origin, reason, kind, description, class_name, other = texts
    candidates = [
        {**entries.CANDIDATES[0], "name": name},
        {**entries.CANDIDATES[1], "name": other, "reason": reason, "status": kind if kind != "shipped" else "?"},
        {**entries.CANDIDATES[2], "name": reason, "precision": {"kind": kind}},
    ]
    gate = {"metric": "top1_agreement", "baseline": 1.0, "deployed": 0.8, "limit": 0.7, "samples": 3}
    scores = np.eye(3, 4, dtype=np.float32) * 9
    tensors = (
        [entries.TensorSpec("features", "float32", ("batch", 2))],
        [entries.TensorSpec("s", "float32", ("batch", 4))],
    )
    provenance = {"license": licence, "origin": origin, f"version:{other}": reason}
    # NumPy's arrays hold no lone surrogates, and drop zeros at the end.
    described = [d.encode("utf-8", "replace").decode() for d in (description, other, "c")]
    return entries.write(
        folder,
        entries.manifest(*tensors, name=name, provenance=provenance),
        entries.report(
            candidates,
            gate,
            name=name,
            architecture=kind,
            class_names=[class_name, other, name, ""],
            host={name: other, "cpu": description},
            recipe={name: {other: [reason, {kind: class_name}]}, "source": {"kind": kind, other: {reason: name}}},
            passes=[{"pass": other, "seconds": 1.0, "cached": True}, {"pass": reason, "seconds": "?"}],
        ),
        {"float_s": scores, "deployed_s": np.roll(scores, 1, axis=1)},
        {"input_features": np.ones((3, 2), np.float32), "descriptions": np.array(described)},
    )  # fmt: skip


def structure(html: str) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Elements with their attributes, but for those whose values are texts, which browsers only show."""
    root = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)
    for element in root.iter():
        shown = {"alt", "title", "aria-label", "content", "href"}
        assert isinstance(element.tag, str)  # no comment
        yield element.tag, tuple(sorted((k, "" if k in shown else v) for k, v in element.attrib.items()))


@pytest.fixture(scope="module")
def tame(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the same build with harmless texts."""
    return render(hostile_build(tmp_path_factory.mktemp("tame"), [*"abcdefgh"])).html.read_text("utf-8")


@SETTINGS
@given(texts=st.lists(hostile, min_size=TEXTS, max_size=TEXTS))
def test_no_part_of_either_card_comes_from_data(
    tmp_path_factory: pytest.TempPathFactory, tame: str, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    card = render(hostile_build(folder, texts))
    html = card.html.read_text("utf-8")
    allowed = {(tag, tuple(name for name, _ in attributes)) for tag, attributes in structure(tame)}
    allowed.add(("a", ("href", "rel")))  # of addresses in the origin
    for tag, attributes in structure(html):
        assert (tag, tuple(name for name, _ in attributes)) in allowed
    root = html5lib.parse(html, namespaceHTMLElements=False)
    assert all(a.get("href", "").lower().startswith(("http://", "https://")) for a in root.iter("a"))
    assert [e.text for e in root.iter("style")] == [
        e.text for e in html5lib.parse(tame, namespaceHTMLElements=False).iter("style")
    ]
    assert not any(c in html for c in "\u202e\u2066\u200f\x00\x1b")
    assert len(html) < 400_000
    markdown_has_its_parts(card.markdown.read_text("utf-8"))


def markdown_has_its_parts(source: str) -> None:
    """Check that a text of the data begins no block, table or link in the Markdown."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(source)
    assert [t.content for t in tokens if t.type == "html_block"] == [
        "<details>\n<summary>Build, tools and recipe</summary>\n",
        "</details>\n",
    ]
    assert sum(t.type == "fence" for t in tokens) == 1
    assert sum(t.type == "table_open" for t in tokens) == 9
    inline = {c.type for t in tokens for c in t.children or []}
    assert inline <= {"text", "text_special", "strong_open", "strong_close", "link_open", "link_close", "softbreak"}
    links = [c.attrs["href"] for t in tokens for c in t.children or [] if c.type == "link_open"]
    assert all(str(link).lower().startswith(("http://", "https://")) for link in links)


@given(value=hostile)
@example("www.example.com")
@example("a@example.com")
@example("#")
@settings(max_examples=250, deadline=None)
def test_markdown_shows_a_text_as_it_is(value: str) -> None:
    written = escape_markdown(value)
    assert not re.search(r"://|www\.|\w@\w|(^|\s)#\d", written)  # GitHub makes links of these
    cell = MarkdownIt("gfm-like", {"linkify": False}).parse(f"| x |\n|---|\n| a {written} b |\n")
    inlines = [t for t in cell if t.type == "inline"]
    assert len(inlines) == 2  # the head and one cell
    children = inlines[1].children or []
    assert {c.type for c in children} <= {"text", "text_special"}
    shown = "".join(c.content for c in children).replace("\N{WORD JOINER}", "")
    assert " ".join(shown.split()) == " ".join(f"a {clean(value)} b".replace("\N{WORD JOINER}", "").split())


@given(value=hostile)
def test_no_text_closes_a_code_block(value: str) -> None:
    tokens = MarkdownIt().parse(
        fence(json.dumps(clean(value), ensure_ascii=False) + "\n" + value.replace("\r", ""), "json")
    )
    assert [t.type for t in tokens] == ["fence"]
