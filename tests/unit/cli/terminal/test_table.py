"""Tables that fit, and the words for times and states."""

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from hpctrack import errors
from hpctrack.cli import options
from hpctrack.cli.terminal import chart, listing, table
from hpctrack.run import states
from hpctrack.run.states import RunStatus
from hpctrack.store.metrics.curves import Bucket, Curve
from hpctrack.view import columns, notation


def column(width: int, **how) -> table.Column:
    return table.Column("h", [Text("x" * width)], **how)


def test_what_fits_is_left_alone():
    columns = [column(10, least=2), column(20, drop=1)]
    assert table.fit(columns, 32) == [(columns[0], 10), (columns[1], 20)]


def test_the_widest_gives_first():
    columns = [column(10, least=4), column(30, least=4), column(5)]
    assert [width for _, width in table.fit(columns, 39)] == [10, 20, 5]
    assert [width for _, width in table.fit(columns, 21)] == [6, 6, 5]


def test_columns_go_in_their_turn_when_shrinking_is_not_enough():
    columns = [column(10), column(20, drop=2), column(30, least=20, drop=1)]
    assert table.fit(columns, 40) == [(columns[0], 10), (columns[1], 20)]
    assert table.fit(columns, 12) == [(columns[0], 10)]


def test_thousands_of_columns_are_looked_at_once():
    looks = []

    class Looked(table.Column):
        @property
        def width(self):
            looks.append(self.header)
            return super().width

    columns = [Looked(f"layer{n}/w", [Text("0.5")], drop=3000 - n or None) for n in range(3001)]
    fitted = table.fit(columns, 40)
    assert [shown.header for shown, _ in fitted] == ["layer0/w", "layer1/w", "layer3000/w"]
    assert len(looks) == len(columns)


@pytest.mark.parametrize("term", ["dumb", "unknown", "xterm"])
def test_tables_fit_terminals_of_any_kind(monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "37")
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes a terminal of what is none
    assert table.Output().console.width == 37


def test_what_can_neither_shrink_nor_go_stays():
    columns = [column(10), column(10)]
    assert [width for _, width in table.fit(columns, 5)] == [10, 10]


@given(
    st.lists(
        st.builds(
            column,
            st.integers(0, 60),
            least=st.none() | st.integers(0, 60),
            drop=st.none() | st.integers(1, 5),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 200),
)
def test_fitting_ends_and_only_narrows(columns, width):
    fitted = table.fit(columns, width)
    assert all(cells <= column.width for column, cells in fitted)
    assert [column for column in columns if column.drop is None] == [
        column for column, _ in fitted if column.drop is None
    ]


NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.floats(allow_nan=False)).map(notation.number)


@given(
    st.lists(
        st.tuples(
            st.lists(NUMBERS, min_size=3, max_size=3),
            st.sampled_from(["left", "right"]),
            st.none() | st.integers(0, 20),
            st.none() | st.integers(1, 5),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 120),
)
def test_a_number_is_whole_or_has_a_sign_that_it_is_cut(drawn, width):
    columns = [
        table.Column("h", [Text(number) for number in numbers], justify, least, drop)
        for numbers, justify, least, drop in drawn
    ]
    kept = [column for column, _ in table.fit(columns, width)]
    for index, line in enumerate(table.build(columns, width).plain.split("\n")[1:]):
        whole = [column.cells[index].plain for column in kept]
        words = line.split()
        assert len(line) <= width
        assert len(line) >= width - 1 or len(words) == len(whole)
        assert [word for word in words if "…" not in word] == [
            number for number, word in zip(whole, words, strict=False) if "…" not in word
        ]
        assert len(words) == len(whole) or words[-1].endswith("…")
        for number, word in zip(whole, words, strict=False):
            assert word == number or (word.endswith("…") and number.startswith(word[:-1]))


def test_a_line_that_ends_where_a_cell_is_cut_has_one_sign():
    columns = [column(10, least=6), column(12)]
    assert table.build(columns, 7).plain.split("\n")[1] == "xxxxx…"


def test_a_width_that_is_asked_for_cuts_with_a_sign():
    run = SimpleNamespace(last={"loss": 0.06561}, is_array=False)
    for width in range(1, 9):
        for plain, sign in ((True, "+"), (False, "…")):
            (cell,) = listing.build(columns.parse(f"metrics.loss%{width}"), [run], None, plain=plain)[0].cells
            assert cell.plain == ("0.06561" if width > 6 else f"{'0.06561'[: width - 1]}{sign}")


def parse_since(text):
    return options.read_time(click.Context(click.Command("x")), click.Argument(["x"]), text)


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90s", 90), ("30min", 1800), ("3h", 10800), ("2d", 172800), ("1.5 H", 5400), ("1w", 604800)],
)
def test_a_time_ago(text, ago):
    found = parse_since(text)
    assert abs((datetime.now(timezone.utc) - found).total_seconds() - ago) < 60


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31", datetime(2026, 1, 31).astimezone()),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12).astimezone()),
        ("2026-01-31 12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=timezone.utc)),
    ],
)
def test_a_date(text, expected):
    assert parse_since(text) == expected


def test_no_time_is_none():
    assert parse_since(None) is None


@pytest.mark.parametrize("text", ["", "yesterday", "2", "3 fortnights", "2026-13-01", "-2d", "9" * 30 + "w"])
def test_what_is_no_time_is_refused_with_what_to_write(text):
    with pytest.raises(errors.UsageError, match="write 2d, 3h or 30min"):
        parse_since(text)


def parse_states(*texts):
    return options.read_states(click.Context(click.Command("x")), click.Argument(["x"]), texts)


def test_states_in_any_form():
    assert parse_states("PD,r", "Failed", "oom, cd") == (
        RunStatus.PENDING,
        RunStatus.RUNNING,
        RunStatus.FAILED,
        RunStatus.OUT_OF_MEMORY,
        RunStatus.COMPLETED,
    )


def test_an_unknown_state_is_told_with_the_known_ones():
    with pytest.raises(errors.UsageError, match=r"'DONE' is no job state of Slurm's: .*RUNNING"):
        parse_states("R,done")


def test_compact_forms_mean_different_states():
    assert len(states.BY_CODE) == len(RunStatus)


def line(*values: float) -> Curve:
    buckets = tuple(Bucket(float(x), 1, value, value) for x, value in enumerate(values, 1))
    return Curve("loss", "step", len(values), 0, values[0], values[-1], min(values), max(values), buckets)


def one_line(curve: Curve) -> chart.Chart:
    return chart.Chart("loss", (chart.Line("r7", curve),))


def test_a_chart_falls_where_the_metric_falls():
    lines = chart.draw(one_line(line(*(10.0 - x for x in range(11)))), 60)
    assert "r7: loss" in lines[0]
    assert lines[-1].strip() == "step"
    assert all(len(drawn) <= 60 for drawn in lines)
    body = [drawn.partition("┤")[2] or drawn.partition("│")[2] for drawn in lines[2:-3]]
    marks = [[x for x, char in enumerate(drawn) if "⠁" <= char <= "⣿"] for drawn in body]
    starts = [min(drawn) for drawn in marks if drawn]
    assert len(starts) > 8
    assert starts == sorted(starts)


def test_lines_of_several_runs_are_told_apart_without_colours():
    both = chart.Chart(
        "loss", (chart.Line("r7", line(*range(11))), chart.Line("r8", line(*range(10, -1, -1))))
    )
    lines = chart.draw(both, 60)
    text = "\n".join(lines)
    assert lines[0].strip() == "loss"
    assert "r7" in text
    assert lines[-2:] == ["  ⠤⠤ r7", "  ●● r8"]
    assert text.count("●") > 8
    assert "\x1b" not in text
    coloured = "\n".join(chart.draw(both, 60, colour=True))
    assert "●" not in coloured
    for red, green, blue in chart.COLOURS[:2]:
        assert f"38;2;{red};{green};{blue}m" in coloured


def test_a_chart_of_several_runs_reaches_over_all_of_them():
    both = chart.Chart("loss", (chart.Line("r7", line(1.0, 2.0)), chart.Line("r8", line(*range(41)))))
    lines = chart.draw(both, 70)
    assert [drawn.split("┤")[0].strip() for drawn in lines if "┤" in drawn] == ["40", "30", "20", "10", "0"]


def test_ticks_are_round():
    lines = chart.draw(one_line(line(*range(41))), 70)
    assert [drawn.split("┤")[0].strip() for drawn in lines if "┤" in drawn] == ["40", "30", "20", "10", "0"]
    assert lines[-2].split() == ["10", "20", "30", "40"]


@pytest.mark.parametrize("values", [(1.0,), (2.0, 2.0), (0.0, 1e-300), (-1e300, 1e300), (1e15, 1e15 + 1)])
def test_extremes_can_be_drawn(values):
    assert len(chart.draw(one_line(line(*values)), 60)) > 10


def test_nothing_finite_can_not_be_drawn():
    with pytest.raises(ValueError, match="no finite value"):
        chart.draw(one_line(Curve("loss", "step", 1, 1, None, None, None, None, ())), 60)


def test_elapsed_words_need_no_zone():
    assert parse_since("1d") - parse_since("2d") < timedelta(days=1, minutes=1)
