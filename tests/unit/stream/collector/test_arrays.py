from __future__ import annotations

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrack import errors, model
from hpctrack.script import journal_lines
from hpctrack.store import values
from hpctrack.store.ingest import pieces
from hpctrack.stream.collector import arrays
from hpctrack.stream.wire import bodies, journal, layout

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
FLOATS = st.floats(allow_nan=True)
ELEMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text(st.characters(codec="ascii")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
#: Lists and objects of JSON, as journals hold them.
JSON = (st.lists(ELEMENTS, max_size=4) | st.dictionaries(st.text(max_size=3), ELEMENTS, max_size=3)).map(
    lambda value: journal_lines.Json(values.to_json(value))
)
VALUES = FLOATS | INT64 | st.booleans() | st.text(max_size=20) | st.integers(1 << 63, 1 << 90) | JSON
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
PROGRESS = st.none() | st.floats(allow_nan=False)
TIMES = st.none() | st.floats(0, 4e9)
ROWS = st.builds(
    lambda step, progress, time, cells: journal.Row.of(0, step, progress, time, cells),
    st.none() | INT64,
    PROGRESS,
    TIMES,
    st.dictionaries(NAMES, VALUES, max_size=5),
)
OF_SERIES = st.builds(lambda row, series: row._replace(series=series), ROWS, st.none() | NAMES)


def bits(value):
    """Tell values apart as `==` does not: nan from nan, 0.0 from -0.0, 1 from 1.0 and True."""
    return (type(value), struct.pack("<d", value) if isinstance(value, float) else value)


def rows_of(block: model.MetricBlock) -> list[tuple]:
    """Return step, progress, time and values of each row, as logged."""
    return [
        (
            integer(block.steps, block.stepped, row),
            0.0 if block.progress is None else float(block.progress[row]),
            integer(block.times, block.timed, row),
            values_of(block, row),
        )
        for row in range(block.rows)
    ]


def integer(cells, present, row: int) -> int | None:
    """Return a row's cell, if there is one."""
    if cells is None or (present is not None and not present[row]):
        return None
    return int(cells[row])


def values_of(block: model.MetricBlock, row: int) -> dict:
    """Return a row's values by name; columns with gaps have cells for the rows that have one."""
    cells = {name: float(block.matrix[index, row]) for index, name in enumerate(block.names)}
    for column in block.columns:
        if column.present is None or column.present[row]:
            index = row if column.present is None else int(np.count_nonzero(column.present[:row]))
            value = column.values[index]
            cells[column.name] = value if isinstance(value, (str, int)) else value.item()
    return cells


def expected(row: journal.Row) -> tuple:
    time = None if row.time is None else round(row.time * 1e6)
    return row.step, row.progress or 0.0, time, row.values


@given(st.lists(ROWS, min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_rows_come_back_bit_for_bit(rows):
    body, count = bodies.pack(rows, 1 << 20)
    assert count == len(rows)
    (block,) = arrays.decode(body).blocks
    for got, row in zip(rows_of(block), rows, strict=True):
        *place, cells = expected(row)
        assert list(got[:3]) == place
        assert {k: bits(v) for k, v in got[3].items()} == {k: bits(v) for k, v in cells.items()}


@given(st.lists(OF_SERIES, min_size=1, max_size=12), st.integers(0, 2000))
@settings(max_examples=100, deadline=None)
def test_rows_of_a_series_are_a_block_of_their_own(rows, budget):
    body, count = bodies.pack(rows, budget)
    assert len(body) <= budget or count == 1
    contents = arrays.decode(body)
    packed = {}
    for row in rows[:count]:
        packed.setdefault(row.series, []).append(expected(row)[0])
    assert {block.series: [row[0] for row in rows_of(block)] for block in contents.blocks} == packed
    lines = pieces.count(contents)
    assert lines == count
    cut = [pieces.cut(contents, begin, begin + 1) for begin in range(lines)]
    assert sorted(str(row) for part in cut for block in part.blocks for row in rows_of(block)) == sorted(
        str(row) for block in contents.blocks for row in rows_of(block)
    )


def test_the_size_of_blocks_of_several_series_is_known():
    rows = [
        journal.Row.of(
            0, step, None, 1e9 + step, {f"m{step % 3}": 1.0}, series=f"s{step % 5}" if step % 2 else None
        )
        for step in range(300)
    ]
    body, count = bodies.pack(rows)
    assert 0 < layout.MAX_BODY - len(body) < 60
    assert count > 40


def test_messages_and_torn_lines_keep_their_place():
    lines = [
        journal.Message(1, "hello", '{"a": "é"}'),
        journal.Row.of(2, 1, None, None, {"x": 1.0}),
        journal.Torn(3),
        journal.Message(4, "fin", "{}"),
        journal.Torn(5),
    ]
    contents = arrays.decode(bodies.pack(lines)[0])
    kinds = [getattr(block, "kind", "rows") for block in contents.blocks]
    assert kinds == ["hello", "rows", "fin"]
    assert contents.blocks[0].text == '{"a": "é"}'
    assert contents.torn == 2


def test_a_gap_travels_alone():
    row = journal.Row.of(2, 1, None, None, {"x": 1.0})
    lines = [row, journal.Gap(900, 1 << 33), row]
    assert bodies.pack(lines)[1] == 1
    body, count = bodies.pack(lines[1:])
    assert count == 1 and arrays.decode(body) == ([], 0, 1 << 33)


def test_floats_in_every_row_are_one_matrix():
    rows = [journal.Row.of(0, i, None, 1e9, {"b": i + 0.5, "a": 1.0}) for i in range(5)]
    (block,) = arrays.decode(bodies.pack(rows)[0]).blocks
    assert set(block.names) == {"a", "b"}
    assert block.columns == ()
    assert block.matrix.shape == (2, 5)


def test_nothing_is_nothing():
    assert arrays.decode(b"") == model.Contents([], 0)


def block(kind: int, content: bytes) -> bytes:
    return struct.pack("<BI", kind, len(content)) + content


def rows_block(
    rows: int, table: bytes = b"", data: bytes = b"", modes: tuple[int, int, int] = (0, 0, 0)
) -> bytes:
    return block(layout.ROWS, struct.pack("<HBBBxH", rows, *modes, len(table)) + table + data)


def column(kind: int, presence: int, name: bytes) -> bytes:
    return struct.pack("<BBH", kind, presence, len(name)) + name


FLOAT = column(layout.FLOAT64, 0, b"x")
NAN = struct.pack("<d", float("nan"))
MALFORMED = {
    "cut short": b"\x01\x00",
    "longer than its body": struct.pack("<BI", layout.ROWS, 1 << 31) + b"x",
    "no head": block(layout.ROWS, b"\0\0\0"),
    "no rows": rows_block(0),
    "too many rows": rows_block(65535, modes=(layout.AFFINE, 0, 0), data=struct.pack("<qq", 0, 1)),
    "too many rows in all": rows_block(1000) + rows_block(1000),
    "too many messages": (struct.pack("<BIB", 2, 4, 1) + b"a{}") * 1025,
    "too many blocks of a kind that nobody knows": struct.pack("<BI", 9, 0) * 1025,
    "too many lines": rows_block(1000) + struct.pack("<BI", 9, 0) * 25,
    "unknown mode": rows_block(1, modes=(9, 0, 0)),
    "affine progress": rows_block(1, modes=(0, layout.AFFINE, 0), data=bytes(16)),
    "table beyond the block": block(layout.ROWS, struct.pack("<HBBBxH", 1, 0, 0, 0, 999)),
    "half a column": rows_block(1, b"\x01\x00"),
    "name beyond the table": rows_block(1, struct.pack("<BBH", 1, 0, 50) + b"x"),
    "unknown type": rows_block(1, column(9, 0, b"x")),
    "unknown presence": rows_block(1, column(1, 7, b"x")),
    "name not UTF-8": rows_block(1, column(1, 0, b"\xff"), bytes(8)),
    "column twice": rows_block(1, FLOAT + FLOAT, bytes(16)),
    "two values of a name": rows_block(1, FLOAT + column(layout.INT64, 0, b"x"), bytes(16)),
    "values missing": rows_block(2, FLOAT, bytes(8)),
    "bytes left over": rows_block(1, FLOAT, bytes(9)),
    "bits beyond the rows": rows_block(1, column(1, 1, b"x"), b"\xff" + bytes(8)),
    "boolean of 2": rows_block(1, column(layout.BOOL, 0, b"x"), b"\x02"),
    "text longer than its block": rows_block(1, column(layout.JSON, 0, b"x"), struct.pack("<I", 1 << 31)),
    "text not JSON": rows_block(1, column(layout.JSON, 0, b"x"), struct.pack("<I", 1) + b"{"),
    "text of a list": rows_block(1, column(layout.JSON, 0, b"x"), struct.pack("<I", 2) + b"[]"),
    "text of true": rows_block(1, column(layout.JSON, 0, b"x"), struct.pack("<I", 4) + b"true"),
    "text not UTF-8": rows_block(1, column(layout.JSON, 0, b"x"), struct.pack("<I", 3) + b'"\xff"'),
    "nan as progress": rows_block(1, modes=(0, layout.RAW, 0), data=NAN),
    "steps beyond 64 bits": rows_block(3, modes=(3, 0, 0), data=struct.pack("<qq", 1, (1 << 63) - 1)),
    "message without kind": block(layout.MESSAGE, b""),
    "message of a bad kind": block(layout.MESSAGE, b"\x02a b{}"),
    "message cut short": block(layout.MESSAGE, b"\x09abc"),
    "message not UTF-8": block(layout.MESSAGE, b"\x01a\xff"),
    "torn of a wrong size": block(layout.TORN, b"\0"),
    "a gap of a wrong size": block(layout.GAP, bytes(4)),
}  # fmt: skip


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_what_the_wire_does_not_allow_is_refused(body):
    with pytest.raises(errors.WireError):
        arrays.decode(body)


def test_a_block_of_an_unknown_kind_is_kept_as_it_came():
    body = block(200, b"of the future") + block(layout.TORN, struct.pack("<I", 3))
    assert arrays.decode(body) == model.Contents([model.UnknownBlock(200, b"of the future")], 3)


def test_a_name_with_a_nul_is_kept_as_far_as_postgresql_can():
    (only,) = arrays.decode(rows_block(1, column(1, 0, b"a\0b"), bytes(8))).blocks
    assert only.names == ("a\ufffdb",)


def test_times_at_the_end_of_time_do_not_overflow():
    data = struct.pack("<qI", (1 << 63) - 1, 5)
    (only,) = arrays.decode(rows_block(1, modes=(0, 0, layout.DELTAS), data=data)).blocks
    assert only.times[0] > 1 << 62


@given(st.binary(max_size=1400) | st.sampled_from(list(MALFORMED.values())).flatmap(
    lambda body: st.integers(0, max(0, len(body) - 1)).map(lambda cut: body[cut:] + body[:cut])
))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_decoded_or_refused(body):
    try:
        contents = arrays.decode(body)
    except errors.WireError:
        return
    assert sum(b.rows for b in contents.blocks if isinstance(b, model.MetricBlock)) <= layout.MAX_LINES


@given(st.lists(ROWS, min_size=1, max_size=5), st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_bodies_are_decoded_or_refused(rows, data):
    body = bytearray(bodies.pack(rows, 1 << 20)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(errors.WireError):
        arrays.decode(bytes(body))


def test_absurd_counts_allocate_nothing():
    absurd = [
        rows_block(layout.MAX_LINES, column(1, 0, b"x")),
        rows_block(layout.MAX_LINES, column(layout.JSON, 0, b"x"), bytes(4)),
        block(layout.MESSAGE, b"\xff"),
        rows_block(1, column(layout.JSON, 0, b"x"), struct.pack("<I", 0xFFFFFFFF)),
    ]
    tracemalloc.start()
    try:
        for body in absurd:
            with pytest.raises(errors.WireError):
                arrays.decode(body)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "values",
    [
        {"loss": 0.5, "accuracy": 0.25},
        {f"n{i}": i for i in range(60)},
        {f"f{i}": bool(i % 2) for i in range(60)},
        {f"s{i}": "x" for i in range(60)},
    ],
)
def test_the_footprint_is_about_what_it_takes(values):
    body, _ = bodies.pack([journal.Row.of(0, step, None, 1.7e9, values) for step in range(100)])
    copies = [bytes(bytearray(body)) for _ in range(100)]
    arrays.decode(body)
    tracemalloc.start()
    try:
        contents = [arrays.decode(body) for body in copies]
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken / 2 < sum(map(arrays.footprint, contents)) < taken * 3
