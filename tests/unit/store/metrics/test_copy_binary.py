from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrack import errors, model
from hpctrack.store.ingest import gather, rows
from hpctrack.store.metrics import columns, copy_binary

FLOAT8 = {name: columns.Target(name, "float8") for name in "abcdefgh"}
EPOCH = 946_684_800_000_000


def block(steps, times=None, progress=None, others=(), **floats) -> model.MetricBlock:
    """Build a block; None among steps and times stands for no value."""
    count = len(steps)
    names = tuple(floats)
    matrix = np.array([floats[name] for name in names], dtype=float).reshape(len(names), count)

    def optional(numbers):
        if numbers is None or all(number is None for number in numbers):
            return None, None
        present = np.array([number is not None for number in numbers])
        array = np.array([number or 0 for number in numbers], dtype=np.int64)
        return array, None if present.all() else present

    return model.MetricBlock(
        count,
        *optional(steps),
        None if progress is None else np.array(progress, dtype=float),
        *optional(times),
        names,
        matrix,
        tuple(others),
    )


def sparse(name, cells) -> model.MetricColumn:
    """Build a column from a list with None where a row has no value."""
    values = [cell for cell in cells if cell is not None]
    present = np.array([cell is not None for cell in cells])
    kinds = {float: np.float64, int: np.int64, bool: bool}
    short = type(values[0]) in kinds and not any(type(value) is int and value >= 1 << 63 for value in values)
    array = np.array(values, dtype=kinds[type(values[0])]) if short else values
    return model.MetricColumn(name, None if present.all() else present, array)


def gathered(*logged, targets=FLOAT8, next_steps=None):
    table, latest = gather.gather(
        logged, targets, next_steps or dict.fromkeys({entry.run_id for entry in logged}, 0)
    )
    return table, latest


def logged(run, block_, attempt=0, journal=0):
    return rows.Logged(run, attempt, journal, block_)


def read(names, data) -> list[dict]:
    """Read COPY BINARY as PostgreSQL does; fields by column, None for NULL."""
    assert data[:11] == b"PGCOPY\n\xff\r\n\0"
    position, records = 19, []
    while True:
        (count,) = struct.unpack_from(">h", data, position)
        position += 2
        if count == -1:
            assert position == len(data)
            return records
        assert count == len(names)
        row = {}
        for name in names:
            (size,) = struct.unpack_from(">i", data, position)
            position += 4
            row[name] = None if size < 0 else data[position : position + size]
            position += max(size, 0)
        records.append(row)


def double(raw):
    return None if raw is None else struct.unpack(">d", raw)[0]


def encoded(table, **options):
    return read(*copy_binary.encode(table, **options))


def test_full_rows_are_laid_out_for_postgresql():
    table, _ = gathered(logged(7, block([3, 4], times=[10, 20], a=[0.5, float("inf")], b=[-0.0, 2.0]), 1))
    first, second = encoded(table)
    assert struct.unpack(">qqd", first["run_id"] + first["step"] + first["progress"]) == (7, 3, 0.0)
    assert struct.unpack(">iq", first["attempt"] + first["time"]) == (1, 10 - EPOCH)
    assert struct.pack(">d", -0.0) == first["b"]
    assert (double(second["a"]), double(second["b"])) == (float("inf"), 2.0)


def test_absent_values_are_null():
    table, _ = gathered(
        logged(1, block([0, 1], times=[None, 5], a=[1.0, 2.0], others=[sparse("b", [None, 3.0])])),
        logged(2, block([0], c=[4.0])),
    )
    records = encoded(table)
    assert [double(row["a"]) for row in records] == [1.0, 2.0, None]
    assert [double(row["b"]) for row in records] == [None, 3.0, None]
    assert [double(row["c"]) for row in records] == [None, None, 4.0]
    assert [row["time"] is None for row in records] == [True, False, True]


def test_metrics_without_a_column_go_to_extra():
    table, _ = gathered(
        logged(1, block([0, 1], a=[1.0, 2.0], z=[0.5, 1e22], others=[sparse("text", ["x", None])]))
    )
    records = encoded(table)
    assert [row["extra"][:1] for row in records] == [b"\x01", b"\x01"]
    assert json.loads(records[0]["extra"][1:]) == {"z": 0.5, "text": "x"}
    assert json.loads(records[1]["extra"][1:]) == {"z": {"float": "1e+22"}}


def test_a_table_of_extra_alone_with_gaps():
    table, _ = gathered(logged(1, block([0, 1, 2], others=[sparse("t", [None, "y", None])])))
    assert [row["extra"] for row in encoded(table)] == [None, b'\x01{"t":"y"}', None]


def test_integers_go_into_double_precision_as_far_as_it_is_exact():
    table, _ = gathered(logged(1, block([0, 1, 2], others=[sparse("a", [3, 1 << 53, (1 << 53) + 1])])))
    records = encoded(table)
    assert [double(row["a"]) for row in records] == [3.0, float(1 << 53), None]
    assert json.loads(records[2]["extra"][1:]) == {"a": {"int": str((1 << 53) + 1)}}


def test_booleans_and_strings_are_no_numbers():
    table, _ = gathered(
        logged(1, block([0, 1], others=[sparse("a", [True, None]), sparse("b", ["1", None])]))
    )
    records = encoded(table)
    assert (records[0]["a"], records[0]["b"]) == (None, None)
    assert json.loads(records[0]["extra"][1:]) == {"a": True, "b": "1"}


DECLARED = {
    "f4": columns.Target("f4", "float4"),
    "i8": columns.Target("i8", "int8"),
    "i4": columns.Target("i4", "int4"),
    "i2": columns.Target("i2", "int2"),
    "flag": columns.Target("flag", "bool"),
    "text": columns.Target("text", "text"),
    "short": columns.Target("short", "varchar", 4 + 3),
    "num": columns.Target("num", "numeric"),
    "rounded": columns.Target("rounded", "numeric", (10 << 16) + 2 + 4),
    "at": columns.Target("at", "timestamptz"),
}
TAKEN = [
    ("f4", 0.5, struct.pack(">f", 0.5)),
    ("f4", 0.1, None),
    ("f4", 1e300, None),
    ("f4", (1 << 24) + 1, None),
    ("i8", 3, struct.pack(">q", 3)),
    ("i8", 3.0, struct.pack(">q", 3)),
    ("i8", 3.5, None),
    ("i8", -0.0, None),
    ("i8", float("nan"), None),
    ("i8", (1 << 63) - 1, struct.pack(">q", (1 << 63) - 1)),
    ("i8", 1 << 70, None),
    ("i8", True, None),
    ("i4", 1 << 31, None),
    ("i4", -(1 << 31), struct.pack(">i", -(1 << 31))),
    ("i2", 7, struct.pack(">h", 7)),
    ("i2", 1e6, None),
    ("flag", True, b"\x01"),
    ("flag", 1, None),
    ("flag", 1.0, None),
    ("text", "é", "é".encode()),
    ("text", "a\0", None),
    ("text", 1.0, None),
    ("short", "abc", b"abc"),
    ("short", "abcd", None),
    ("rounded", 0.25, None),
    ("num", float("inf"), None),
    ("num", -0.0, None),
    ("num", "1", None),
    ("at", "2000-01-01T01:00:00+01:00", bytes(8)),
    ("at", "2000-01-01T01:00:00", None),
    ("at", "yesterday", None),
]


@pytest.mark.parametrize(("name", "value", "raw"), TAKEN, ids=lambda one: repr(one)[:30])
def test_a_declared_column_takes_what_its_type_gives_back(name, value, raw):
    table, latest = gathered(logged(1, block([0], others=[sparse(name, [value])])), targets=DECLARED)
    (row,) = encoded(table)
    assert row.get(name) == raw
    assert (row.get("extra") is None) == (raw is not None)
    assert name in latest[0].values


def test_a_numeric_column_takes_exact_decimals():
    table, _ = gathered(logged(1, block([0], others=[sparse("num", [0.25])])), targets=DECLARED)
    assert encoded(table)[0]["num"] == struct.pack(">hhhhh", 1, -1, 0, 2, 2500)


def test_rows_of_one_key_are_merged():
    table, _ = gathered(
        logged(1, block([1, 2], times=[10, 20], a=[1.0, 2.0]), journal=0),
        logged(1, block([2, 3], times=[30, None], b=[5.0, 6.0]), journal=1),
    )
    merged, replaced = rows.merge(table)
    records = encoded(merged, journal_column="journal")
    assert [struct.unpack(">q", row["step"])[0] for row in records] == [1, 2, 3]
    assert [double(row["a"]) for row in records] == [1.0, 2.0, None]
    assert [double(row["b"]) for row in records] == [None, 5.0, 6.0]
    assert struct.unpack(">q", records[1]["time"])[0] == 30 - EPOCH
    assert struct.unpack(">i", records[1]["journal"])[0] == 1
    assert replaced == {}


def test_the_last_value_of_a_key_counts_wherever_it_lives():
    cells = [1.0, "abc", 2.0]
    for order in ([0, 1, 2], [0, 1], [1, 0], [1, 2, 1]):
        blocks = [block([5], others=[sparse("a", [cells[index]])]) for index in order]
        table, latest = gathered(*(logged(1, content) for content in blocks))
        merged, _ = rows.merge(table)
        (row,) = encoded(merged)
        last = cells[order[-1]]
        if last == "abc":
            assert row["a"] is None
            assert json.loads(row["extra"][1:]) == {"a": "abc"}
            assert latest[0].values == {"a": '"abc"'}
        else:
            assert double(row["a"]) == last
            assert row.get("extra") is None
            assert latest[0].values == {"a": repr(double(row["a"]))}


def test_a_later_attempt_replaces_and_is_counted():
    table, latest = gathered(
        logged(1, block([1, 2], a=[1.0, 1.0], b=[9.0, 9.0]), attempt=0, journal=0),
        logged(1, block([2], a=[2.0]), attempt=1, journal=3),
    )
    merged, replaced = rows.merge(table)
    records = encoded(merged)
    assert [double(row["a"]) for row in records] == [1.0, 2.0]
    assert [double(row["b"]) for row in records] == [9.0, 9.0]
    assert replaced == {3: 1}
    assert (latest[0].attempt, latest[0].step, latest[0].values["a"]) == (1, 2, "2.0")


def test_progress_is_part_of_the_key():
    table, _ = gathered(logged(1, block([1, 1, 1], progress=[0.5, 0.25, 0.5], a=[1.0, 2.0, 3.0])))
    merged, _ = rows.merge(table)
    assert [double(row["a"]) for row in encoded(merged)] == [2.0, 3.0]


def test_rows_without_a_step_follow_the_greatest():
    table, latest = gathered(
        logged(1, block([None, 10, None, 3, None], a=[0.0] * 5)),
        logged(2, block([None, None], a=[0.0] * 2)),
        next_steps={1: 4, 2: 0},
    )
    assert table.step.tolist() == [11, 10, 12, 3, 13, 0, 1]
    assert table.numbered.tolist() == [True, False, True, False, True, True, True]
    assert rows.advance(table, {1: 4, 2: 0}) == {1: 14, 2: 2}
    assert rows.fresh(table, {1: 4, 2: 0}).tolist() == [True, True, True, False, True, True, True]
    assert [item.step for item in latest] == [13, 1]


def test_the_greatest_of_all_steps_leaves_no_number():
    last = (1 << 63) - 1
    with pytest.raises(errors.ContentRefused):
        gathered(logged(1, block([last, None], a=[1.0, 2.0])))
    table, _ = gathered(logged(1, block([last, -last - 1], a=[1.0, 2.0])))
    assert rows.advance(table, {1: 0}) == {1: last}


ENTRY = st.tuples(st.none() | st.integers(-5, 30), st.none() | st.integers(0, 9))


@given(st.lists(ENTRY, min_size=1, max_size=30), st.integers(0, 10))
@settings(deadline=None)
def test_numbering_is_what_a_loop_would_do(entries, start):
    steps, times = zip(*entries, strict=True)
    given_block = block(steps, times=times, a=[0.0] * len(steps))
    table, _ = gathered(logged(1, given_block), next_steps={1: start})
    brought = {step for step in steps if step is not None}
    now, waiting = 0, []
    for place, (step, time) in enumerate(entries):
        now = now if time is None else time
        if step is None:
            waiting.append((now, place))
    expected = list(steps)
    for number, (_, place) in enumerate(sorted(waiting), max([start, *(step + 1 for step in brought)])):
        expected[place] = number
    assert table.step.tolist() == expected
    assert table.numbered.tolist() == [step is None for step in steps]


PLACE = st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.0, 0.25, 0.5, -1.0]))


@given(st.lists(PLACE, min_size=1, max_size=20))
@settings(deadline=None)
def test_progress_is_given_as_a_loop_would_do(places):
    steps, progress = zip(*places, strict=True)
    table, _ = gathered(logged(1, block(steps, progress=progress, a=[0.0] * len(steps))))
    expected = list(progress)
    for step in set(steps):
        at = [place for place, other in enumerate(steps) if other == step]
        for number, place in enumerate(at):
            if not progress[place]:
                before = [progress[other] for other in at[:number] if progress[other]]
                after = [progress[other] for other in at[number:] if progress[other]]
                expected[place] = max(before) if before else (after or [0.0])[0]
    assert rows.give_progress(table).progress.tolist() == expected


CELL = st.none() | st.sampled_from([1.0, 2.5, 3, (1 << 60), True, "text"])


@given(
    st.lists(
        st.tuples(
            st.integers(1, 2), st.integers(0, 3), st.dictionaries(st.sampled_from("abz"), CELL, max_size=3)
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=200, deadline=None)
def test_merging_is_what_a_dictionary_would_do(given_rows):
    given_rows.sort(key=lambda row: row[0])
    blocks = []
    for run, step, cells in given_rows:
        others = [sparse(name, [cell]) for name, cell in cells.items() if cell is not None]
        blocks.append(logged(run, block([step], others=others)))
    table, latest = gathered(*blocks)
    merged, _ = rows.merge(table)
    expected: dict = {}
    last: dict = {}
    for run, step, cells in given_rows:
        present = {name: cell for name, cell in cells.items() if cell is not None}
        expected.setdefault((run, step), {}).update(present)
        last.setdefault(run, {}).update(present)
    merged_rows = {}
    for row in encoded(merged):
        cells = {name: double(row[name]) for name in "ab" if row.get(name) is not None}
        extra = json.loads(row["extra"][1:]) if row.get("extra") else {}
        assert not cells.keys() & extra.keys()
        merged_rows[struct.unpack(">qq", row["run_id"] + row["step"])] = cells | extra

    def plain(cell):
        return {"int": str(cell)} if cell == 1 << 60 else cell

    assert merged_rows == {
        key: {name: plain(cell) for name, cell in cells.items()} for key, cells in expected.items()
    }
    assert {
        item.run_id: {name: json.loads(text) for name, text in item.values.items()} for item in latest
    } == {run: {name: plain(cell) for name, cell in cells.items()} for run, cells in last.items()}


def test_tables_are_kept_narrow_and_small():
    targets = {f"m{i}": columns.Target(f"m{i}", "float8") for i in range(300)}
    many = [logged(run, block([0], **{f"m{run * 5 + i}": [1.0] for i in range(5)})) for run in range(60)]
    parts = list(rows.partition(many, targets))
    assert sorted(entry.run_id for part in parts for entry in part) == list(range(60))
    assert 1 < len(parts) < 30
    long = [logged(1, block(list(range(1000)), a=[0.0] * 1000)) for _ in range(150)]
    parts = list(rows.partition(long, FLOAT8))
    assert 1 < len(parts) < 10
    assert all(len(part) * 1000 * 2 <= rows._MAX_CELLS for part in parts)
    assert [entry for part in parts for entry in part] == long


def test_long_runs_are_spread_and_nothing_is_lost():
    steps = {1: list(range(900)), 2: [5, 6, 7], 3: list(range(900))}
    given = [logged(run, block(some, a=[run + 0.001 * step for step in some])) for run, some in steps.items()]
    table, _ = gather.gather(given, FLOAT8, dict.fromkeys(steps, 0))
    spread = rows.spread(table)
    assert spread.run.tolist() == table.run.tolist()
    first = spread.step[:900].tolist()
    assert first[:7] == [0, 2, 4, 6, 8, 9, 11]
    assert first[500:504] == [1, 3, 5, 7]
    assert sorted(first) == steps[1]
    assert spread.step[900:903].tolist() == steps[2]
    assert spread.floats[0].tolist() == (spread.run + 0.001 * spread.step).tolist()
    short = table.take(np.arange(400))
    assert rows.spread(short) is short


def test_a_bounded_number_of_columns_is_chosen():
    catalog = columns.Catalog("s", {}, frozenset({"Loss"}), automatic=198)
    names = ["loss", "LOSS", "ctid", "Step", "x" * 64, "é" * 32, "", "ok", "OK", "fine", "more"]
    assert columns.choose(names, catalog) == ["ok", "fine"]
    assert columns.choose(names, catalog._replace(automatic=200)) == []
    full = columns.Catalog("s", {}, frozenset(f"c{i}" for i in range(799)), automatic=0)
    assert columns.choose(names, full) == ["loss"]
