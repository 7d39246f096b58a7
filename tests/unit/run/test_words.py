"""Numbers of things are written by `words.counted`, which knows that 1 is one; how processes ended."""

from __future__ import annotations

import ast
import itertools
import re

import pytest

from hpctrack.run import words
from tests.support.paths import ROOT

PACKAGE = ROOT / "hpctrack"
THINGS = re.compile(
    r" (?:\w+ )?(runs|rows|folders|journals|submissions|records|lines|jobs|tasks|metrics|files|users|"
    r"collectors|experiments|attempts|messages|datagrams|processes|nodes|columns)\b"
)
#: The same in texts that are formatted later: of the log, and by ``str.format``.
FORMATTED = re.compile(rf"(%d|\{{\w*(?::,?d?)?\}}){THINGS.pattern}")
#: Numbers that are never one, and words that are no numbers.
NEVER_ONE = {
    ("html.py", "len(rows)", " runs"),
    ("run.py", "len(ids)", " runs"),
    ("cancel.py", "job.run_id", " runs"),
    ("options.py", "len(more) + 1", " runs"),
    ("chart_files.py", "path.suffix", " files"),
    ("question.py", "page.total", " runs"),
    ("late.py", "lines", " lines"),
    ("question.py", "count", " lines"),
    ("metrics.py", "_SHOWN", " rows"),
    ("unknown_names.py", "known_names.NEWEST", " runs"),
    ("ingestion.py", "refusals.IN_A_ROW", " rows"),
    ("words.py", "_SEVERAL_AT_ONCE", " runs"),
}


def places():
    """Yield where a number, or what may be one, stands before the name of a thing."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                for value, text in itertools.pairwise(node.values):
                    if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                        match = THINGS.match(text.value)
                        what = ast.unparse(value.value)
                        if match and "counted(" not in what:
                            yield path.name, what, match[0]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                for match in FORMATTED.finditer(node.value):
                    yield path.name, match[1], match[0][len(match[1]) :]


def test_each_plural_has_seen_its_number():
    assert {place for place in places() if place not in NEVER_ONE} == set()


@pytest.mark.parametrize(
    ("code", "signal", "expected"),
    [
        (None, None, None),
        (0, None, "0"),
        (3, 0, "3"),
        (None, 11, "SIGSEGV"),
        (1, 9, "SIGKILL"),
        (None, 250, "signal 250"),
    ],
)
def test_exits(code, signal, expected):
    assert words.exit_text(code, signal) == expected
