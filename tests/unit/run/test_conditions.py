"""Conditions on runs: what the language says, and how it tells of what it can't read."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack import errors
from hpctrack.run import conditions, fields
from hpctrack.run.conditions import And, Compare, Has, In, IsNull, Not, Or
from hpctrack.run.fields import FieldRef
from hpctrack.run.states import RunStatus
from hpctrack.store.read import filters
from tests.support.paths import DOCS

LR = FieldRef("args", "lr")
STATE = FieldRef("run", "state")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("args.lr < 0.01", Compare(LR, "<", 0.01)),
        ("args.lr<0.01", Compare(LR, "<", 0.01)),
        ("ARGS.lr <> -1e-3", Compare(LR, "!=", -0.001)),
        ("args.lr == 3", Compare(LR, "=", 3)),
        ("args.lr = '3'", Compare(LR, "=", "3")),
        ("args.model = resnet-50", Compare(FieldRef("args", "model"), "=", "resnet-50")),
        ("args.model.depth >= 3", Compare(FieldRef("args", "model.depth"), ">=", 3)),
        ("args.amp = TRUE", Compare(FieldRef("args", "amp"), "=", True)),
        ("metrics.loss != inf", Compare(FieldRef("metrics", "loss"), "!=", math.inf)),
        ("metrics.train/loss < 1", Compare(FieldRef("metrics", "train/loss"), "<", 1)),
        ('metrics."val loss" < 1', Compare(FieldRef("metrics", "val loss"), "<", 1)),
        ("name like 'train%'", Compare(FieldRef("run", "name"), "like", "train%")),
        ("name not like x", Not(Compare(FieldRef("run", "name"), "like", "x"))),
        ("note = 'it''s'", Compare(FieldRef("run", "note"), "=", "it's")),
        ("user = and", Compare(FieldRef("run", "user"), "=", "and")),
        ("state = oom", Compare(STATE, "=", RunStatus.OUT_OF_MEMORY)),
        ("state in (PD, Running)", In(STATE, (RunStatus.PENDING, RunStatus.RUNNING))),
        ("state not in (PD)", Not(In(STATE, (RunStatus.PENDING,)))),
        ("elapsed > 1.5h", Compare(FieldRef("run", "elapsed"), ">", timedelta(hours=1.5))),
        ("limit = 90", Compare(FieldRef("run", "limit"), "=", timedelta(seconds=90))),
        ("exit_code is null", IsNull(FieldRef("run", "exit_code"))),
        ("args.lr IS NOT NULL", Not(IsNull(LR))),
        ("tags.best", Has(FieldRef("tags", "best"))),
        ("not tags.best", Not(Has(FieldRef("tags", "best")))),
        ("not not args.lr", Not(Not(Has(LR)))),
        ("args.lr or args.lr and tags.a", Or((Has(LR), And((Has(LR), Has(FieldRef("tags", "a"))))))),
        ("(args.lr or args.lr) and tags.a", And((Or((Has(LR), Has(LR))), Has(FieldRef("tags", "a"))))),
        ("\targs.lr\n<\n1 ", Compare(LR, "<", 1)),
    ],
)
def test_what_is_written_is_understood(text, expected):
    assert conditions.parse(text) == expected


def test_times_are_dates_or_so_long_ago():
    condition = conditions.parse("submitted >= 2026-01-31T12:00:00+00:00")
    assert condition.value == datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
    ago = datetime.now(timezone.utc) - conditions.parse("started < 2d").value
    assert abs(ago - timedelta(days=2)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("lr < 0.01", 0, "'lr' is no field of a run: run, state, job"),
        ("args.lr < 0.01 and lss < 1", 19, "'lss' is no field"),
        ("args. < 3", 0, "'args.' is no field"),
        ("", 0, "expected a field"),
        ("args.lr <", 9, "expected a value"),
        ("args.lr < 0.01 0.02", 15, "expected 'and', 'or' or the end"),
        ("(args.lr < 1", 12, "expected ')'"),
        ("state", 5, "expected a comparison of state"),
        ("state = DONE", 8, "'DONE' is no job state"),
        ("state < RUNNING", 8, "states have no order"),
        ("state like 'R%'", 11, "state is no text"),
        ("name like 'a\\'", 10, "can't end with a backslash"),
        ("exit_code = x", 12, "'x' is no number"),
        ("elapsed > soon", 10, "'soon' is no length of time"),
        ("submitted > soon", 12, "'soon' is no time"),
        ("name = 'abc", 7, "a quote that is never closed"),
        ("name ! x", 5, "unexpected"),
        ("state in RUNNING", 9, "expected '('"),
        ("state in (R,)", 12, "expected a value"),
        ("args.lr not 3", 12, "expected 'in' or 'like' after 'not'"),
        ("args.lr is 3", 11, "expected 'null'"),
        ("not " * 60 + "tags.a", 200, "more than 50 deep"),
        ("(" * 3000, 50, "more than 50 deep"),
    ],
)
def test_what_is_not_understood_is_shown_where(text, position, said):
    with pytest.raises(errors.FilterError) as caught:
        conditions.parse(text)
    assert said in str(caught.value)
    line, caret = caught.value.excerpt.split("\n")
    assert line == text
    assert caret == " " * position + "^"


@given(st.text(alphabet=st.sampled_from(list("args.lr<=>()'\" ,andornt0158%{}\\\0é")), max_size=40))
def test_any_text_is_understood_or_refused(text):
    try:
        tree = conditions.parse(text)
    except errors.FilterError as error:
        assert error.excerpt
        return
    assert filters.expression(tree, filters.Parameters()) is not None


@given(st.text(min_size=1, max_size=30).filter(lambda text: "'" not in text and "\0" not in text))
def test_nothing_that_is_written_becomes_sql(text):
    text = text.translate({ord(space): " " for space in "\n\r\t\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029"})
    parameters = filters.Parameters()
    made = filters.expression(conditions.parse(f"user = 'marker{text}'"), parameters).as_string(None)
    assert made == "user_name = %(p0)s::text"


def test_the_page_about_conditions_names_every_field_and_its_examples_are_understood():
    text = (DOCS / "reading.md").read_text(encoding="utf-8")
    section = text.split("## Conditions")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")]
    assert {name for line in table for name in re.findall(r"`(\w+)`", line.split("|")[2])} == set(
        fields.ASKED
    )
    examples = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    assert len(examples) == 4
    for example in examples:
        conditions.parse(example)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("train*", ["train", "train.sh"], ["my-train"]),
        ("t?.sh", ["t1.sh"], ["t.sh", "t1xsh"]),
        ("[ab]*", ["a1", "b"], ["c"]),
        ("[!ab]*", ["c1"], ["a"]),
        ("[]x]", ["]", "x"], ["a"]),
        ("[a", ["[a"], ["a"]),
        ("a.b+(c)|d$^\\", ["a.b+(c)|d$^\\"], ["axb+(c)|d$^\\"]),
        ("", [""], ["a"]),
    ],
)
def test_globs(pattern, matching, others):
    # What PostgreSQL and Python agree about.
    compiled = re.compile(filters.glob(pattern))
    assert [name for name in [*matching, *others] if compiled.search(name)] == matching


def test_a_glob_that_can_not_be_read_is_told():
    with pytest.raises(errors.UsageError, match=r"'\[z-a\]' is no choice of characters"):
        filters.glob("x[z-a]")
