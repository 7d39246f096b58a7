"""docs/tour.md: what `make tour` has written shows every verb at work."""

import re

import pytest

from hpctrack.cli import table_of_verbs
from tests.support.paths import DOCS

PAGE = (DOCS / "tour.md").read_text()
COMMANDS = re.findall(r"^\$ .*$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("verb", table_of_verbs.VERBS)
def test_every_verb_is_used(verb):
    assert any(re.search(rf"\bhpctrack {verb}\b", command) for command in COMMANDS)


def test_the_page_shows_answers_and_none_of_them_a_bug():
    assert re.search(r"^\d+ runs: .*COMPLETED", PAGE, re.MULTILINE)
    assert "(a bug;" not in PAGE and "(exit code 70)" not in PAGE
