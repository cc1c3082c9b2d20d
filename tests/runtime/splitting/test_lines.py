"""JSON lines and CSV: the same items whatever the chunks and blocks are, and none but those that are there."""

from __future__ import annotations

import csv
import io
import json
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.splitting.stored import chunks_of, in_blocks, named, source_of

from inference_runtime.splitting.csv_rows import CsvRows
from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk
from inference_runtime.splitting.json_lines import JsonLines
from inference_runtime.splitting.names import MAX_ID_BYTES, Names, SeenIds
from inference_runtime.stages.builtin.tabular import csv_preprocessor

BOM = b"\xef\xbb\xbf"
sizes = st.integers(1, 40)
ends = st.sampled_from([b"\n", b"\r\n"])
ids = st.sampled_from(["a", "b", "7", "#1", "", "x" * 2000, "\ud800"])
records = st.one_of(
    st.builds(lambda found: json.dumps({"order": {"id": found}}).encode(), ids),
    st.sampled_from(
        [b"", b"  ", b"no json", b"\xff\xfe", b'{"order": 7}', b'{"order": {"id": 3}}', "ä\u2028b".encode()]
    ),
)


@given(lines=st.lists(st.tuples(records, ends)), bom=st.booleans(), cut=st.booleans(), block=sizes, chunk=sizes)
def test_lines_are_the_same_in_any_chunks(
    lines: list[tuple[bytes, bytes]], bom: bool, cut: bool, block: int, chunk: int
) -> None:
    data = (BOM if bom else b"") + b"".join(line + end for line, end in lines)
    data = data.removesuffix(b"\n") if cut else data
    expected = [
        (f"K#{number}", line.rstrip(b"\r") if cut and number == len(lines) else line)
        for number, (line, _) in enumerate(lines, 1)
        if line.strip()
    ]
    with in_blocks(block):
        assert named(JsonLines(), data) == expected
        assert named(JsonLines(), data, chunks_of(JsonLines(), data, chunk, 3)) == expected
        by_id = JsonLines("order.id")
        whole = named(by_id, data)
        assert named(by_id, data, chunks_of(by_id, data, chunk, 3)) == whole
    assert [content for _, content in whole] == [content for _, content in expected]
    assert len({name for name, _ in whole}) == len(whole)
    assert all(len(name.encode()) <= MAX_ID_BYTES for name, _ in whole)


values = st.text(st.sampled_from('a,;"\n\r\t ä'), max_size=6).map(lambda text: text.replace("\r", "\r\n"))
rows = st.lists(st.lists(values, min_size=2, max_size=2), max_size=8)


@given(
    table=rows,
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "latin-1"]),
    columns=st.sampled_from([["id", "text"], ['i\n"d";', "text"]]),
    block=sizes,
    chunk=sizes,
)
def test_rows_are_the_same_in_any_chunks(
    table: list[list[str]],
    end: str,
    quoting: int,
    delimiter: str,
    encoding: str,
    columns: list[str],
    block: int,
    chunk: int,
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=quoting, delimiter=delimiter)
    writer.writerow(columns)
    for row in table:
        writer.writerow(row)
        text.write(end)  # an empty line between all
    data = text.getvalue().encode(encoding)
    form = CsvRows(most_header_bytes=100, item_id=columns[0], delimiter=delimiter, encoding=encoding)
    with in_blocks(block):
        whole = named(form, data)
        assert named(form, data, chunks_of(form, data, chunk, 2)) == whole
    read = [list(csv.reader(io.StringIO(item.decode(), newline=""), delimiter=delimiter)) for _, item in whole]
    assert read == [[columns, row] for row in table]
    assert len({name for name, _ in whole}) == len(whole)
    assert [number for number, (name, _) in enumerate(whole, 1) if name == f"K##{number}"] == [
        number
        for number, (found, _) in enumerate(table, 1)
        if not found or found.startswith("#") or found in [earlier for earlier, _ in table[: number - 1]]
    ]


@given(text=st.text(st.sampled_from('a",\n'), max_size=40), block=sizes, chunk=sizes)
def test_quotes_anywhere_are_read_as_python_reads_them(text: str, block: int, chunk: int) -> None:
    data = f"x,y\n{text}".encode()
    form = CsvRows(most_header_bytes=100)
    with in_blocks(block):
        whole = named(form, data)
        assert named(form, data, chunks_of(form, data, chunk, 2)) == whole
    expected = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    found = [list(csv.reader(io.StringIO(item.decode(), newline="")))[-1] for _, item in whole]
    # In quotes that are never closed, the last line end may count or not.
    assert [[value.rstrip("\n") for value in row] for row in found[-1:]] == [
        [value.rstrip("\n") for value in row] for row in expected[-1:]
    ]
    assert found[:-1] == expected[:-1]


def test_a_row_is_what_the_tabular_stage_reads() -> None:
    form = CsvRows(most_header_bytes=100, delimiter=";")
    read = csv_preprocessor(["b", "a"], delimiter=";")
    items = named(form, b'a;b\r\n1;2\r\n"3";\n')
    assert read(items[0][1], None).tolist() == [2, 1]  # type: ignore[arg-type]
    assert items[1] == ("K#2", b'a;b\n"3";')


def test_a_long_line_is_found_but_not_kept() -> None:
    data = b'{"id": "a"}\n{"id": "' + b"b" * 100 + b'"}\n{"id": "c"}'
    with patch("inference_runtime.splitting.records.MOST", 50):
        for form, name in ((JsonLines("id"), "K##2"), (JsonLines(), "K#2")):
            first, second, third = form.items(source_of(data), Chunk())
            assert (second.data, third.number) == (None, 3)
            assert second.range is not None
            assert (second.range.start, second.range.end) == (12, 123)
            assert named(form, data)[1] == (name, data[12:123])
            assert first.data == b'{"id": "a"}'
        rows = CsvRows(most_header_bytes=100)
        data = b'a,b\n1,"' + b'x"",\n' * 30 + b'"\n3,4\n'
        assert [len(item) for _, item in named(rows, data)] == [len(data) - 4, 7]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a" * 101 + b"\n1\n", "header must be at most 100 bytes, since it goes with each row, got 102"),
        (b'"' + b"a\n" * 1000, "header must be at most 100 bytes"),
        (b"id," + b"\x01" * 50 + b"\n1,2\n", "header must be at most 100 bytes, .* got 305"),
        (b"\xff,id\n1,2\n", "header must be utf-8"),
        (b"id,b\r1,2\r", "lines must end in LF or CRLF"),
        (b"a,b\n1,2\n", "header must have the column 'id' once"),
        (b"id,id\n1,2\n", "header must have the column 'id' once"),
    ],
)
def test_a_header_that_is_none_fails(data: bytes, text: str) -> None:
    form = CsvRows(most_header_bytes=100, item_id="id")
    with pytest.raises(CorruptObjectError, match=text):
        named(form, data)


@pytest.mark.parametrize("data", [b"", b"\n", b"a,b", b"a,b\n", b"\r\n\r\na,b\r\n\r\n"])
def test_csv_without_rows_has_no_items(data: bytes) -> None:
    assert named(CsvRows(most_header_bytes=100), data) == []


def test_a_row_in_another_encoding_stays_as_it_is() -> None:
    """The preprocessing says what is wrong with it."""
    assert named(CsvRows(most_header_bytes=100), b"a\n\xff\n") == [("K#1", b"a\n\xff")]
    assert named(CsvRows(most_header_bytes=100, encoding="cp1252"), b"a\n\x80\n\x81\n") == [
        ("K#1", "a\n€".encode()),
        ("K#2", b"a\n\x81"),
    ]


def test_ids_that_are_too_many_are_replaced_by_numbers() -> None:
    seen = SeenIds(most=2)
    assert [seen.is_new(found) for found in ("a", "b", "a", "c")] == [True, True, False, False]
    data = b'{"id": 1}\n' * 2500 + b'{"id": 2}\n'
    form = JsonLines("id")
    chunks = chunks_of(form, data, 1000, 2000)
    assert len(chunks) == 26
    chunks = chunks_of(form, data, 21_000)
    assert [chunk.by_number for chunk in chunks] == [True, list(range(2101, 2501))]
    names = [name for name, _ in named(form, data, chunks)]
    assert len(set(names)) == 2501
    assert names[-2:] == ["K##2500", "K#2"]


def test_names_of_a_long_key_are_short_and_distinct() -> None:
    keys = ["ä" * 511, "ä" * 510 + "aa"]
    names = [Names(key, None).name(10**19, None) for key in keys]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= MAX_ID_BYTES for name in names)
