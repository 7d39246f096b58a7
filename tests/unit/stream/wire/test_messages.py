"""Messages of a node: written by `line`, read by `read`, which believes nothing."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.stream.wire import messages
from hpctrack.stream.wire.messages import Event, Fin, Goal, Hello, Start, Tags, Usage
from tests.support.paths import ROOT

OF_TYPE = {"float8": 1.5, "int8": 1 << 40, "int4": 7, "jsonb": [{"util": 1}]}
FIGURES = {figure.name: OF_TYPE[figure.type] for figure in messages.FIGURES}
SAID = [
    Hello(1.5, 2, "n1", 14, 12, 3, "mini", 99),
    Hello(1.5, 0, "n1"),
    Start(1.5, {"A": "1"}, "/o", "/e", "/w", "train", "n[1-2]", "main", "acc", "normal"),
    Usage(1.5, "n1", FIGURES),
    Event(1.5, "signal", 15, "group"),
    Fin(1.5, None, 9, "Killed", {"0123456789abcdef": 3}, out_of_memory=True),
    Fin(1.5, 0, lost={}, out_of_memory=False),
    Tags({"a": None, "b": [1]}),
    Goal({"loss": "min", "val/acc": "max"}),
]


def read(line: bytes) -> messages.Message | None:
    kind, _, text = line.decode().removeprefix("!").partition(" ")
    return messages.read(kind, text)


@pytest.mark.parametrize("message", SAID, ids=lambda message: type(message).__name__)
def test_what_is_said_is_read(message):
    assert read(messages.line(message)) == message


def test_what_is_not_known_is_null():
    assert (
        messages.line(Event(1.5, "lost")) == b'!event {"time":1.5,"name":"lost","signal":null,"reach":null}\n'
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("later", "{}"), ("hello", "[]"), ("hello", ""), ("hello", "[" * 100_000), ("event", '{"time": 1}'),
        ("event", '{"time": 1, "name": ""}'), ("event", '{"time": -1, "name": "x"}'),
        ("usage", '{"time": 1}'), ("usage", '{"time": true, "node": "n"}'),
        ("usage", '{"time": NaN, "node": "n"}'),
        ("goal", "{}"), ("goal", '{"a": "most", "b": ["max"], "": "min"}'),
    ],
)  # fmt: skip
def test_what_can_not_be_used_is_none(kind, text):
    assert messages.read(kind, text) is None


def test_a_field_that_is_not_what_it_should_be_is_none():
    strange = {"time": "x", "exit_code": 1 << 40, "exit_signal": 2.0, "stderr_tail": 3, "lost": {"x": 1}}
    assert messages.read("fin", json.dumps(strange)) == Fin(exit_signal=2, lost={}, out_of_memory=False)
    strange = {"time": 1, "node": "n", "cpu_s": "1", "processes": -1, "read_bytes": 1e30}
    usage = messages.read("usage", json.dumps(strange))
    assert isinstance(usage, Usage) and set(usage.figures.values()) == {None}
    assert messages.read("hello", '{"job_id": true, "node": []}') == Hello()


def test_texts_are_cut_and_can_be_stored():
    event = messages.read("event", json.dumps({"time": 1, "name": "a\0\ud800" + "b" * 999}))
    assert isinstance(event, Event) and event.name == "a\ufffd\ufffd" + "b" * 397
    fin = messages.read("fin", json.dumps({"stderr_tail": "a" * 9999 + "end"}))
    assert isinstance(fin, Fin) and fin.stderr_tail and len(fin.stderr_tail) == 4096
    assert messages.read("start", '{"env": {"A": "\\u0000", "B": 1}}') == Start(env={"A": "\ufffd"})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.data(), st.sampled_from(sorted(messages.KINDS)))
def test_any_object_is_read_or_refused(data, kind):
    names = [*messages.KINDS[kind]._fields, *FIGURES]
    body = data.draw(st.dictionaries(st.sampled_from(names) | st.text(max_size=3), VALUES))
    message = messages.read(kind, json.dumps(body))
    assert message is None or type(message) is messages.KINDS[kind]


def documented() -> dict[str, set[str]]:
    """Return the fields of each kind as docs/architecture.md lists them."""
    page = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## Messages")[2]
    rows = re.findall(r"^\| (`[^|]*) \| [^|]* \| ([^|]*) \|$", page, re.MULTILINE)
    return {
        kind: set(contents.split("`")[1].split(", "))
        for kinds, contents in rows
        for kind in re.findall(r"`(\w+)`", kinds)
    }


def test_the_table_of_messages_says_what_the_records_say():
    told = {
        "hello": set(Hello._fields),
        "start": set(Start._fields),
        "usage": {*Usage._fields} - {"figures"},
        "event": set(Event._fields),
        "fin": set(Fin._fields),
    }
    assert {kind: fields for kind, fields in documented().items() if kind in told} == told
