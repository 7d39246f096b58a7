"""Verbs in terminals."""

from __future__ import annotations

import pytest

from tests.support.terminals import Terminal


@pytest.fixture
def terminal(database):
    """Start verbs in terminals of their own."""
    opened = []

    def start(*arguments, columns=100, **environ):
        opened.append(Terminal(database, arguments, columns, **environ))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()
