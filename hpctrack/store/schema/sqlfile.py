"""SQL files cut into statements, as psql cuts them. Pure.

Statement by statement, a failure can be told with its line, and a file's own ``BEGIN`` and ``END`` can be
told from those inside function bodies. PostgreSQL manual, "Lexical Structure".
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
      (?P<blank>  \s+ | --[^\n]* )
    | (?P<block>  /\* )
    | (?P<quoted> [eE]'(?:[^'\\]|\\.|'')*(?:'|\Z) | '(?:[^']|'')*(?:'|\Z) | "(?:[^"]|"")*(?:"|\Z) )
    | (?P<word>   [^\W\d][\w$]* )
    | (?P<dollar> \$(?:[^\W\d]\w*)?\$ )
    | (?P<other>  . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


class Statement(NamedTuple):
    """One statement without its semicolon."""

    #: Of its first word, counted from 1.
    line: int
    text: str
    #: Its first words, upper case.
    words: tuple[str, ...]

    @property
    def begins_or_commits(self) -> bool:
        """Whether it begins or commits a transaction."""
        return self.words[:1] in (("BEGIN",), ("START",), ("COMMIT",), ("END",))

    @property
    def rolls_back(self) -> bool:
        """Whether it rolls back a whole transaction, not only to a savepoint."""
        return self.words[:1] in (("ROLLBACK",), ("ABORT",)) and "TO" not in self.words


def split(text: str) -> list[Statement]:
    """Cut a file into its statements; comments between them are left out.

    What is never closed (a string, a comment, a parenthesis) reaches to the end of the file: PostgreSQL says
    what is wrong with it.
    """
    statements: list[Statement] = []
    begin: int | None = None
    words: list[str] = []
    nesting = 0
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None  # noqa: S101 (one of the branches takes any character)
        kind, piece = match.lastgroup, match[0]
        end = _end_of(text, match)
        if kind == "other" and piece == ";" and nesting <= 0:
            if begin is not None:
                statements.append(_statement(text, begin, position, words))
            begin, words, nesting = None, [], 0
        elif kind not in ("blank", "block"):
            begin = position if begin is None else begin
            if kind == "word":
                words.append(piece.upper())
            nesting += _nesting(piece, words, nesting)
        position = end
    if begin is not None:
        statements.append(_statement(text, begin, len(text), words))
    return statements


def _statement(text: str, begin: int, end: int, words: list[str]) -> Statement:
    return Statement(text.count("\n", 0, begin) + 1, text[begin:end].rstrip(), tuple(words[:8]))


def _end_of(text: str, match: re.Match[str]) -> int:
    """Return where a piece ends, also one that a regular expression can't describe."""
    if match.lastgroup == "dollar":
        end = text.find(match[0], match.end())
        return len(text) if end < 0 else end + len(match[0])
    return _end_of_comment(text, match.end()) if match.lastgroup == "block" else match.end()


def _end_of_comment(text: str, end: int) -> int:
    depth = 1  # comments nest
    while depth:
        edge = _COMMENT_EDGE.search(text, end)
        if edge is None:
            return len(text)
        depth, end = depth + (1 if edge[0] == "/*" else -1), edge.end()
    return end


def _nesting(piece: str, words: list[str], nesting: int) -> int:
    """Return by how much a piece changes the nesting: parentheses, bodies of SQL-standard functions."""
    if piece in ("(", ")"):
        return 1 if piece == "(" else -1
    if not piece.isalpha() or words[0] != "CREATE":
        return 0
    word = piece.upper()
    if word == "ATOMIC" and words[-2:-1] == ["BEGIN"]:
        return 1
    if nesting > 0 and "ATOMIC" in words:
        return {"CASE": 1, "END": -1}.get(word, 0)
    return 0
