"""Numbers of other tongues in journals: kept as they are, and told once with their line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.stream.wire import doubts, journal
from hpctrack.text.redact import Redactor

NUMBERISH = [
    "0,25", "-0,25", "1.234,5", "1,234.5", "1'234.5", "1_000", "0.17;", "0.17,", "0.5)", "(0.5)", "[1.0]",
    "93.5%", "5\u2030", "1.5D-3", "1d+06", "1.5E", "1.5e-", "\u22120.5", "\u0663", "3.5s", "12ms", "2min",
    "1.5GB", "12KiB", "3x", "1.0f", "2L", "10MB/s", "1*10^3", "1.5x10", "1\u00a0000", "+.5,", ",5",
    "1.#INF", "-1.#IND00", "1.#QNAN", "\ufeff0.5", "$5", "0.3\u20ac",
]  # fmt: skip
WORDS = [
    "adam", "2026-01-31", "2026-01-31T12:00", "12:30", "1.2.3", "v1.2", "resnet50", "a0,5", "gpu0", "0-3",
    "n[1-4]", "10.0.0.1", "3e4f", "1a2b3c", "x1", "/a/1", "1/2", "50layers", "true", "-", "+", ".", "14_3",
]  # fmt: skip


@pytest.mark.parametrize("text", NUMBERISH)
def test_what_looks_like_a_number_is_kept_and_told_once_with_its_line(text):
    noted = doubts.Doubts()
    data = f"step=1 loss={text} acc=1\nstep=2 loss={text}\n".encode()
    first, second = journal.parse(data, 0, None, noted)
    assert (first.values["loss"], second.values["loss"]) == (text, text)
    told = noted.take()
    stored = "a list" if text == "[1.0]" else "text"
    assert told == [f"loss is {stored}, since {text} is no number: step=1 loss={text} acc=1"]
    assert noted.take() == []


@pytest.mark.parametrize("text", WORDS)
def test_words_dates_and_versions_are_what_they_are(text):
    assert not doubts.is_doubtful(text)


@given(st.one_of(st.integers(), st.floats()).map(repr))
def test_numbers_are_in_no_doubt(text):
    noted = doubts.Doubts()
    (row,) = journal.parse(f"a={text}\n".encode(), 0, None, noted)
    assert not isinstance(row.values["a"], str)
    assert noted.take() == []


def test_quoted_texts_are_meant_so():
    noted = doubts.Doubts()
    list(journal.parse(b'a="0,25" b="93.5%"\na="x y" b=93.5%\n', 0, None, noted))
    assert noted.take() == ['b is text, since 93.5% is no number: a="x y" b=93.5%']


def test_little_is_told_and_no_secret():
    noted = doubts.Doubts()
    lines = "".join(f"m{number}=0,5 {'long' * 100}=1\n" for number in range(100))
    list(journal.parse(lines.encode(), 0, None, noted))
    told = noted.take()
    assert len(told) == 5 and all(len(text) < 400 for text in told)
    noted, masked = doubts.Doubts(), Redactor(["q7Xv-9zKw2mB"])
    list(journal.parse(b"b=0,5 word=q7Xv-9zKw2mB\n", 0, masked, noted))
    assert noted.take() == ["b is text, since 0,5 is no number: b=0,5 word=***"]


BOM = "\ufeff".encode()


@pytest.mark.parametrize("line", [b"step=1 loss=0.5", b'step=1 "loss"=0.5', b"  step=1 loss=0.5\r"])
def test_a_byte_order_mark_is_no_part_of_a_name(line):
    (row,) = journal.parse(BOM + line + b"\n")
    assert (row.step, row.values) == (1, {"loss": 0.5})


def test_a_byte_order_mark_hides_neither_comments_nor_messages():
    lines = list(journal.parse(BOM + b"# comment\n" + BOM + b'!tags {"a":true}\n' + BOM + b"\n"))
    assert [(line.kind, line.text) for line in lines] == [("tags", '{"a":true}')]


TORN = {
    b"step=3, loss=1": "a comma follows step",
    b"step=3 , loss=1": "commas are no separators",
    b"step = 3 loss = 1": "step is no name=value",
    b"step= 3 loss=1": "name=value has no blanks",
    b"step=3 loss=1step=4 loss=2": "loss=1step=4 has two =",
    b"step=3 loss=1 step=4 loss=2": "step stands twice, perhaps two lines in one",
    b"epoch 3 loss=1": "epoch is no name=value",
    b"step=three loss=1": "step is no number",
    b"step=99999999999999999999 loss=1": "a number is out of range, or a name too long",
    b'step=3 text="a b': "a quote has no end",
    b"step=3 lo\x18": "its writer could not write it whole (a full disk, or its end)",
    b"step=3 \x00\x00": "it holds NUL bytes",
    b"step=3 caf\xe9=1": "it is not UTF-8",
    b"!args {": "its message is no JSON",
    b"=3 - 1 loss d 00": "a packed row is damaged",
    b"x=" + b"1" * (1 << 20): "it is longer than 1,048,576 bytes",
    b"\0" * (1 << 21): "it is longer than 1,048,576 bytes",
    "step=3 loss=1".encode("utf-16"): "it is UTF-16; journals are UTF-8",
    "step=3 loss=1".encode("utf-16-be"): "it is UTF-16; journals are UTF-8",
    b"\0" + "step=3 loss=1".encode("utf-16-le"): "it is UTF-16; journals are UTF-8",
    b"\0" * 12: "it holds NUL bytes",
}


@pytest.mark.parametrize(("line", "reason"), TORN.items(), ids=[str(line[:30]) for line in TORN])
def test_a_torn_line_is_told_with_its_reason(line, reason):
    seen = doubts.Doubts()
    assert list(journal.parse(line + b"\n", 0, None, seen)) == [journal.Torn(len(line) + 1)]
    (told,) = seen.take()
    assert told.startswith(f"a line can't be read, {reason}: ") and len(told) < 300


def test_the_first_few_torn_lines_are_told():
    seen = doubts.Doubts()
    lines = list(journal.parse(b"step=3, loss=1\n" * 50, 0, None, seen))
    assert len(lines) == 50 and len(seen.take()) == 5 and seen.take() == []
