"""Text that commands nothing and hides nothing, and that can be told from any other."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack import cli
from hpctrack.text import visible

#: Letters that do harm, and backslashes, often.
NASTY = st.text(
    st.one_of(st.sampled_from("\\\\\\xunrt1b\x1b\n\t\r\u202e\u0301\u0301\U000e0041e'=-+@"), st.characters())
)


def is_seen(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def test_all_of_unicode_is_seen_or_written_out():
    everything = [chr(number) for number in range(0x110000)]
    hidden = [letter for letter in everything if not is_seen(letter)]
    for show in (visible.line, visible.shown, visible.lines, visible.coloured):
        kept = {letter for letter in hidden if show("a" + letter) == "a" + letter}
        assert kept <= {"\n", "\t", "\r"}
    plain = [letter for letter in everything if unicodedata.category(letter)[0] in "LNPS" and letter != "\\"]
    written_out = {letter for letter in plain if visible.line(letter) != letter}
    assert written_out == set("\u115f\u1160\u3164\uffa0\u2800\ufffc") - {"\ufffc"}


def decoded(line: str) -> str:
    """Take back what `visible.line` wrote out."""
    text, at = "", 0
    while at < len(line):
        width = {"x": 4, "u": 6, "U": 10, "n": 2, "r": 2, "t": 2, "\\": 2}.get(line[at + 1 : at + 2], 0)
        if line[at] == "\\" and width:
            text += line[at : at + width].encode("latin-1").decode("unicode_escape")
            at += width
        else:
            text += line[at]
            at += 1
    return text


@given(NASTY)
def test_two_names_that_differ_look_different(name):
    assert decoded(visible.line(name)) == name


@given(NASTY)
def test_json_means_what_it_did(text):
    said = visible.in_json(json.dumps({text: [text]}, ensure_ascii=False))
    assert json.loads(said) == {text: [text]}
    assert all(is_seen(letter) for letter in said)


def test_marks_do_not_pile_up():
    assert visible.line("e" + "\u0301" * 6) == "e" + "\u0301" * 4 + "\\u0301" * 2
    assert visible.line("\u0301e") == "\\u0301e"
    assert visible.lines("a\n\u0301e") == "a\n\\u0301e"
    for word in ("größe", "été", "Việt", "ที่นี่", "שָׁלוֹם", "हिन्दी", "日本語 データ", "👍🏽", "Ω", "naïve"):
        assert visible.line(word) == word


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\x1b[1;31mred\x1b[0m\x1b[m", "\x1b[1;31mred\x1b[0m\x1b[m"),
        ("\x1b[38;5;8m\x1b[48;2;1;2;3m", "\x1b[38;5;8m\x1b[48;2;1;2;3m"),
        (" 10%\r 20%\n", " 10%\r 20%\n"),
        ("\x1b[8mhidden\x1b[0;8m", "\\x1b[8mhidden\\x1b[0;8m"),
        ("\x1b[2J\x1b[1A\x1b]0;t\x07\x1bc", "\\x1b[2J\\x1b[1A\\x1b]0;t\\x07\\x1bc"),
    ],
)
def test_output_keeps_its_colours_alone(text, said):
    assert visible.coloured(text) == said


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1"),
        *("\uff1d1", "-x", "'=1", "''=1", "+"),
    ],
)
def test_text_is_no_formula(text):
    assert visible.cell(text) == "'" + text


@pytest.mark.parametrize(
    "value",
    [
        *("", "a", "-1.5", "+3", "1e5", "-inf", "nan", "-.5e-3", "a=1", "'a'"),
        *(-1.5, 3, None, float("-inf"), True),
    ],
)
def test_numbers_and_other_text_stay(value):
    assert visible.cell(value) is value


@given(NASTY)
def test_taking_the_apostrophe_away_gives_back_the_text(text):
    for whole in (text, "'" + text, "''" + text):
        cell = visible.cell(whole)
        assert cell in (whole, "'" + whole)
        taken = cell.startswith("'") and visible.cell(cell[1:]) == cell
        assert (cell[1:] if taken else cell) == whole


#: Who writes to the terminal beside `cli.say`: help that we wrote, tables, bytes of files, JSON row by row.
WRITERS = {"say.py", "main.py", "screen.py", "table.py", "logs.py", "metrics.py", "group.py"}


def test_what_verbs_print_goes_through_one_place():
    folder = Path(cli.__file__).parent
    writes = re.compile(r"click\.s?echo\(|(?<![\w.])print\(|sys\.std(?:out|err)\.(?:buffer\.)?write")
    found = {path.name for path in folder.rglob("*.py") if writes.search(path.read_text(encoding="utf-8"))}
    assert found <= WRITERS
