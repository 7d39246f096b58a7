"""Datagrams, against a second decoder that was written from docs/wire.md alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpctrack import errors
from hpctrack.stream.wire import bodies, ciphers, datagrams, journal, layout
from hpctrack.stream.wire.journal import Message, Row, Torn
from tests.support.sender import split

KEY = ciphers.run_key(b"s" * 32, 7)
HEADER = datagrams.Header(layout.DATA, bytes(range(16)), 7, 2, b"journal!", 100, 900, 0xFFFFFFFF)


def decode(body: bytes) -> list[tuple]:
    """Read a body as the document says: rows as (step, progress, microseconds, values)."""
    lines: list[tuple] = []
    while body:
        kind, length = struct.unpack_from("<BI", body)
        block, body = body[5 : 5 + length], body[5 + length :]
        assert len(block) == length
        if kind == 1:
            lines += decode_rows(block)
        elif kind == 2:
            size = block[0]
            lines.append((block[1 : 1 + size].decode(), json.loads(block[1 + size :])))
        else:
            assert kind == 3 and length == 4 and not body
            lines.append(("torn", struct.unpack("<I", block)[0]))
    return lines


def decode_rows(block: bytes) -> list[tuple]:
    count, steps, progress, times, high, low = struct.unpack_from("<HBBBBH", block)
    table_size = (high << 16) + low
    table, data = block[8 : 8 + table_size], block[8 + table_size :]

    def take(format_: str, number: int = 1) -> tuple:
        nonlocal data
        size = struct.calcsize(f"<{number}{format_}")
        taken, data = data[:size], data[size:]
        return struct.unpack(f"<{number}{format_}", taken)

    def bitmap() -> list[bool]:
        bits = take("B", (count + 7) // 8)
        return [bool(bits[row // 8] >> row % 8 & 1) for row in range(count)]

    def series(mode: int, format_: str) -> list:
        if mode == 0:
            return [None] * count
        if mode == 1:
            return list(take(format_, count))
        if mode == 2:
            present = bitmap()
            values = iter(take(format_, sum(present)))
            return [next(values) if is_there else None for is_there in present]
        if mode == 3 and format_ == "q":
            first, stride = take("q", 2)
            return [first + row * stride for row in range(count)]
        assert mode == 4
        (first,) = take("q")
        return [first + delta for delta in take("I", count)]

    rows = [
        *zip(
            series(steps, "q"),
            series(progress, "d"),
            series(times, "q"),
            [{} for _ in range(count)],
            strict=True,
        )
    ]
    kinds = []
    while table:
        kind, presence, size = struct.unpack_from("<BBH", table)
        name, table = table[4 : 4 + size].decode(), table[4 + size :]
        kinds.append((kind, presence))
        present = bitmap() if presence else [True] * count
        number = sum(present)
        if kind == 4:
            values = [json.loads(bytes(take("B", size))) for size in take("I", number)]
        else:
            values = list(take({1: "d", 2: "q", 3: "?"}[kind], number))
        having = [row for row, is_there in zip(rows, present, strict=True) if is_there]
        for row, value in zip(having, values, strict=True):
            assert name not in row[3]
            row[3][name] = value
    assert not data
    assert kinds == sorted(kinds, key=lambda kind: kind != (1, 0)), "the matrix comes first"
    return rows


def microseconds(time: float | None) -> int | None:
    return None if time is None else round(min(max(time, -2e11), 9e12) * 1e6)


def plain(lines: list[journal.Line]) -> list[tuple]:
    """Return lines as `decode` gives them back."""
    decoded: list[tuple] = []
    for line in lines:
        if isinstance(line, Row):
            decoded.append((line.step, line.progress, microseconds(line.time), line.values))
        elif isinstance(line, Message):
            decoded.append((line.kind, json.loads(line.text)))
    torn = sum(isinstance(line, Torn) for line in lines)
    return [*decoded, ("torn", torn)] if torn else decoded


values = st.one_of(
    st.floats(allow_nan=False),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-(10**40), 10**40),
    st.booleans(),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
rows = st.builds(
    Row.of,
    st.just(1),
    st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 9),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.floats(allow_nan=False) | st.floats(1.7e9, 1.8e9),
    st.dictionaries(st.sampled_from(["loss", "a/b", "é", "lr", ""]), values),
)
messages = st.builds(Message, st.just(1), st.sampled_from(["args", "usage"]), st.just('{"a":[1,"é"]}'))
lines = st.lists(st.one_of(rows, rows, messages, st.just(Torn(1))), min_size=1, max_size=40)


@given(lines)
@example([Row.of(1, step, None, None, {}) for step in range(40)])
@example([Row.of(1, 2**62 * (-1) ** step, None, None, {}) for step in range(4)])
@example([Row.of(1, None, 0.5, None, {"a": -0.0}), Row.of(1, 1, None, 5.0, {"a": 1})])
@example([Row.of(1, 1, None, time, {}) for time in (5.0, 4.0)])
@example([Row.of(1, 1, None, time, {}) for time in (5.0, 4299.9, 4300.0)])
def test_everything_arrives_in_order(lines):
    decoded: list[tuple] = []
    left = list(lines)
    while left:
        body, count = bodies.pack(left)
        assert count and len(body) <= layout.MAX_BODY
        assert decode(body) == plain(left[:count])
        decoded += left[:count]
        left = left[count:]
    assert decoded == lines


@given(lines, st.integers(50, 400))
def test_a_budget_is_kept_and_used(lines, budget):
    body, count = bodies.pack(lines, budget)
    assert decode(body) == plain(lines[:count])
    assert len(body) <= budget or count == 1
    if count < len(lines):
        # What a bound may overestimate: a step and a time for each row that has none, and their bitmaps.
        slack = 40 + 16 * count
        assert len(bodies.pack(lines[: count + 1], 1 << 40)[0]) >= budget - slack


@pytest.mark.parametrize("step", [None, 1])
def test_rows_that_need_more_than_a_datagram_travel_alone(step):
    row = Row.of(1, step, None, 1.7e9, {f"m{i}": 0.5 for i in range(300)})
    assert [bodies.pack(lines)[1] for lines in ([row] * 3, [Torn(1), row, row], [row, Torn(1)])] == [1, 1, 1]


def test_nan_and_infinities():
    given_row = Row.of(1, 1, math.inf, 0.0, {"a": math.nan, "b": -math.inf})
    body, _ = bodies.pack([given_row])
    ((_, progress, _, found),) = decode(body)
    assert progress == math.inf and math.isnan(found["a"]) and found["b"] == -math.inf


@pytest.mark.parametrize("time", [None, 1.7e9])
@pytest.mark.parametrize("names", [["loss"], ["loss", "accuracy", "lr", "gradient norm", "epoch time"]])
@pytest.mark.parametrize("step", [1, 3])
def test_long_runs_of_equal_rows_fill_their_datagrams(names, step, time):
    lines = [
        Row.of(1, i * step, None, time and time + i / 100, dict.fromkeys(names, i / 7)) for i in range(5000)
    ]
    sizes = []
    while lines:
        body, count = bodies.pack(lines)
        sizes.append(len(body))
        lines = lines[count:]
    assert min(sizes[:-1]) > 0.95 * layout.MAX_BODY


def test_no_body_holds_more_rows_than_one_may():
    _, count = bodies.pack([Row.of(1, step, None, None, {}) for step in range(5000)])
    assert count == layout.MAX_LINES


def test_a_line_that_needs_more_than_one_datagram():
    line = Row.of(1, 1, None, None, {"a": "x" * 5000})
    body, count = bodies.pack([line, line])
    assert count == 1 and decode(body) == [(1, None, None, {"a": "x" * 5000})]
    parts = split(KEY, HEADER, body)
    assert len(parts) == 4 and all(len(datagram) <= layout.MAX_DATAGRAM for datagram in parts)
    headers = [datagrams.peek(datagram) for datagram in parts]
    assert headers == [HEADER._replace(part=part, parts=4) for part in range(4)]
    assert b"".join(datagrams.body(KEY, datagram) for datagram in parts) == body


@pytest.mark.parametrize("count", [6_000, 45_000])
def test_a_row_of_very_many_metrics(count):
    """Its column table takes more than 64 KiB."""
    row = Row.of(9, 3, None, None, {f"metric/{i}": float(i) for i in range(count)})
    body, packed = bodies.pack([row])
    assert packed == 1 and len(body) <= layout.MAX_BODY * layout.MAX_PARTS
    assert decode(body) == [(3, None, None, row.values)]


def test_an_empty_range():
    (datagram,) = split(KEY, HEADER, b"")
    assert datagrams.body(KEY, datagram) == b"" and decode(b"") == []
    assert bodies.pack([]) == (b"", 0)


def derived(label: bytes) -> bytes:
    return hashlib.blake2b(label, key=KEY, digest_size=32).digest()


def test_key_and_datagram_are_those_of_the_document():
    key = hashlib.blake2b(
        struct.pack("<i", 7), key=b"s" * 32, digest_size=32, person=b"hpctrack run key"
    ).digest()
    assert key == KEY != ciphers.run_key(b"s" * 32, -1)
    datagram = datagrams.seal(KEY, HEADER, TORN)
    assert datagram[:4] == b"HT\x02\x01" and datagram[4:20] == bytes(range(16))
    assert struct.unpack_from("<iHHH8sQQI", datagram, 20) == (7, 2, 0, 1, b"journal!", 100, 900, 0xFFFFFFFF)
    assert datagram[58:-16] == b"\0" + TORN
    assert hashlib.blake2b(datagram[:-16], key=derived(b"MAC"), digest_size=16).digest() == datagram[-16:]


@pytest.mark.parametrize("version", layout.VERSIONS)
def test_an_answer_has_the_version_of_its_question(version):
    question = datagrams.seal(KEY, HEADER._replace(version=version), TORN)
    header = datagrams.peek(question)
    assert header == HEADER._replace(version=version)
    for answer in (datagrams.answer(header, KEY, 5, 9), datagrams.held(header, KEY, 5, 9)):
        assert answer[2] == question[2] == version
        assert datagrams.verified(KEY, answer)


@pytest.mark.parametrize("version", [0, 3, 255])
def test_what_is_of_another_version_is_none_of_ours(version):
    with pytest.raises(errors.WireError, match="version"):
        datagrams.peek(datagrams.seal(KEY, HEADER._replace(version=version), TORN))


MESSAGE, _ = bodies.pack([Message(1, "start", '{"env": {"NOTE": "private"}}')])
ROWS, _ = bodies.pack([Row.of(1, step, None, 1.7e9, {"loss": step / 3}) for step in range(20)])
TORN, _ = bodies.pack([Torn(1)])
#: Bodies, and whether they have something that the database hides from others.
BODIES = {
    "a message": (MESSAGE, True),
    "rows before a message": (ROWS + MESSAGE, True),
    "a message before rows": (MESSAGE + ROWS + TORN, True),
    "a kind of a later version": (b"\x09\x07\0\0\0private", True),
    "a message in parts": (bodies.pack([Message(1, "fin", json.dumps({"t": "private" * 500}))])[0], True),
    "no blocks at all": (b"private", True),
    "a block cut short": (ROWS[:-1], True),
    "rows": (ROWS, False),
    "rows of a series": (bodies.pack([Row.of(1, 1, None, None, {"x": 1.0}, series="eval")])[0], False),
    "torn lines": (ROWS + TORN, False),
    "nothing": (b"", False),
}


@pytest.mark.parametrize(("body", "is_hidden"), BODIES.values(), ids=BODIES)
def test_what_others_may_not_see_is_encrypted_as_the_document_says(body, is_hidden):
    parts = split(KEY, HEADER, body)
    assert b"".join(datagrams.body(KEY, datagram) for datagram in parts) == body
    assert all(datagrams.verified(KEY, datagram) for datagram in parts)
    pieces = []
    for datagram in parts:
        nonce, content = datagram[59:75], datagram[75:-16]
        assert (datagram[58] == 1) == is_hidden
        if is_hidden:
            stream = hashlib.shake_128(derived(b"cipher") + nonce).digest(len(content))
            content = bytes(byte ^ other for byte, other in zip(content, stream, strict=True))
        else:
            content = datagram[59:-16]
        pieces.append(content)
        assert b"private" not in datagram
    assert b"".join(pieces) == body


def test_a_python_without_a_sha_3_of_its_own_takes_openssls():
    root = str(Path(datagrams.__file__).parents[3])
    program = (
        f"import sys; sys.path.insert(0, {root!r}); sys.modules['_sha3'] = None\n"
        "from hpctrack.stream.wire import ciphers, datagrams\n"
        "print(datagrams.body(bytes(32), bytes.fromhex(sys.argv[1])).hex(), ciphers.shake_128.__name__)"
    )
    datagram = datagrams.seal(bytes(32), HEADER, MESSAGE)
    words = [sys.executable, "-I", "-S", "-c", program, datagram.hex()]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert said == [MESSAGE.hex(), "openssl_shake_128"]


def test_no_two_datagrams_share_a_keystream():
    again = [datagrams.seal(KEY, HEADER, MESSAGE)[58:-16] for _ in range(100)]
    assert len({content[1:17] for content in again}) == len({content[17:] for content in again}) == 100


@given(st.sampled_from([MESSAGE, TORN]), st.data())
def test_one_changed_byte_is_seen(body, data):
    datagram = bytearray(datagrams.seal(KEY, HEADER, body))
    assert datagrams.verified(KEY, bytes(datagram))
    datagram[data.draw(st.integers(0, len(datagram) - 1))] ^= data.draw(st.integers(1, 255))
    assert not datagrams.verified(KEY, bytes(datagram))
    assert not datagrams.verified(ciphers.run_key(b"s" * 32, 8), datagrams.seal(KEY, HEADER, body))


def changed(**fields) -> bytes:
    return datagrams.seal(KEY, HEADER._replace(**fields))


@pytest.mark.parametrize(
    "datagram",
    [
        b"", bytes(73), bytes(74), bytes(1401), b"XX" + changed()[2:], b"HT\x03" + changed()[3:],
        changed(part=1), changed(parts=0), changed(parts=1025), changed(start=900), changed(start=901),
        changed(end=1 << 63), datagrams.sign(KEY, HEADER, b""),
        datagrams.sign(KEY, HEADER, b"\1" + bytes(15)), datagrams.sign(KEY, HEADER, b"\2" + bytes(40)),
    ],
)  # fmt: skip
def test_what_is_no_datagram_of_ours(datagram):
    with pytest.raises(errors.WireError):
        datagrams.peek(datagram)


def test_answers_are_not_longer_than_questions_and_name_their_direction():
    question = HEADER._replace(part=3, parts=9)
    for kind, expected in ((layout.DATA, layout.ACK), (layout.PING, layout.PONG)):
        answer = datagrams.answer(question._replace(kind=kind), KEY, 500, 4000)
        assert len(answer) <= len(datagrams.seal(KEY, question._replace(kind=kind)))
        assert datagrams.peek(answer) == HEADER._replace(kind=expected, start=500, end=4000)
    assert datagrams.peek(datagrams.held(question, KEY, 700, 4000)) == HEADER._replace(
        kind=layout.HELD, start=700, end=4000
    )


@settings(max_examples=500)
@given(st.binary(max_size=1500))
def test_random_bytes_raise_nothing_else(data):
    with contextlib.suppress(errors.WireError):
        datagrams.peek(b"HT\x01\x01" + data)
