"""States and courses as text, and what programs print made harmless."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.cli.terminal import render, table
from hpctrack.run.states import RunStatus
from hpctrack.store.metrics.curves import Bucket, Curve
from hpctrack.text import visible
from hpctrack.view import jsonable


@given(st.text())
def test_no_text_can_command_the_terminal(text):
    line = render.clean(text)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in line)
    for cleaned in render.clean_lines(text):
        assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in cleaned)
    for cleaned in (visible.in_json(text), jsonable.to_json({text: text})):
        assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in cleaned.replace("\n", ""))
    assert json.loads(jsonable.to_json({text: text})) == {text: text}


@pytest.mark.parametrize("terminal", [False, True])
def test_csv_is_as_it_is_but_on_a_terminal(monkeypatch, terminal):
    output = io.StringIO()
    output.isatty = lambda: terminal
    monkeypatch.setattr("sys.stdout", output)
    table.ForPrograms().writelines(["a,\x1b[2J\n", "\u202eb,\x9b2J\n"])
    expected = "a,\\u001b[2J\n\\u202eb,\\u009b2J\n" if terminal else "a,\x1b[2J\n\u202eb,\x9b2J\n"
    assert output.getvalue() == expected


def test_output_of_programs_loses_colours_and_overwritten_progress():
    text = "\x1b[31mError\x1b[0m: no\r\n 10%|#  |\r 20%|## |\n\tlast\x07\n"
    assert render.clean_lines(text) == ["Error: no", " 20%|## |", "        last\\x07"]


@pytest.mark.parametrize("status", RunStatus)
def test_every_state_is_written_out_beside_its_glyph(status):
    assert render.state(status).plain.split()[1] == status.value
    assert render.state(status, plain=True).plain == status.value


def test_a_state_that_we_do_not_know_is_slurms_word():
    assert render.state(None, "QUANTUM").plain == "QUANTUM"


def test_families_of_states_differ_in_glyph_and_colour():
    looks = [
        render.state(status)
        for status in (
            RunStatus.PENDING,
            RunStatus.RUNNING,
            RunStatus.COMPLETED,
            RunStatus.CANCELLED,
            RunStatus.FAILED,
        )
    ]
    assert len({look.plain[0] for look in looks}) == len({str(look.style) for look in looks}) == 5


def curve(*values: float | tuple[float, float]) -> Curve:
    pairs = [value if isinstance(value, tuple) else (value, value) for value in values]
    buckets = tuple(Bucket(float(x), 1, low, high) for x, (low, high) in enumerate(pairs))
    return Curve(
        "loss", "step", len(pairs), 0, pairs[0][0], pairs[-1][1],
        min(low for low, _ in pairs), max(high for _, high in pairs), buckets,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 1, 2, 3, 4, 5, 6, 7), "▁▂▃▄▅▆▇█"),
        ((5, 5, 5), "▄▄▄"),
        ((1.0,), "▄"),
        ((-1.7e308, 1.7e308), "▁█"),
        ((0, (0, 100), 0, (50, 50)), "▁█▁▅"),
        ((100, (0, 100), 100, (50, 50)), "███▅"),
    ],
)
def test_sparklines_keep_the_peaks(values, expected):
    assert render.sparkline(curve(*values), 40) == expected


def test_a_sparkline_of_nothing_finite_is_empty():
    assert render.sparkline(replace(curve(1.0), minimum=None, maximum=None, buckets=()), 40) == ""


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60), st.integers(1, 50)
)
def test_a_sparkline_is_never_wider_than_asked(values, width):
    assert 1 <= len(render.sparkline(curve(*values), width)) <= width
