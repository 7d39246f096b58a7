"""Conditions on runs, as ``--where`` and the API take them. Pure: text becomes a tree, never SQL.

    args.lr < 0.01 and metrics.val_loss < 0.3
    state in (FAILED, TIMEOUT) and not tags.baseline and elapsed > 2h
    name like 'train%' and (submitted > 2d or user = alice)

    min.val_loss < 0.3 and max.acc > 0.9

The words are SQL's. ``args.NAME``, ``tags.NAME``, ``metrics.NAME`` (the latest value) and statistics such as
``min.NAME`` are looked up in each run; alone, such a name asks whether it is there. Names with blanks are
quoted: ``metrics."val loss"``.
Texts need quotes only where they hold blanks, commas, parentheses or operators. As in SQL, a value that is
not there matches no comparison; ``is null`` finds it.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, TypeAlias

from hpctrack import errors
from hpctrack.run import fields, states, words
from hpctrack.run.states import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from hpctrack.run.fields import FieldKind, FieldRef

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "like"]
Value: TypeAlias = "str | float | int | bool | datetime | timedelta | RunStatus"

_SPECIAL = MappingProxyType({"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")})
_OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "like": "like"}
)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_TOKEN = re.compile(
    rf"""\ *(?:
        (?P<operator> <= | >= | <> | != | == | [=<>] )
      | (?P<punctuation> [(),] )
      | (?P<word> (?:{"|".join(fields.SCOPES)})\.(?:"[^"]+"|'[^']+') | [^\s()<>=!,'"]+ )
      | (?P<quoted> '(?:[^']|'')*' | "(?:[^"]|"")*" )
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_BLANK = re.compile(r"\s")
_DEEPEST = 50


class Compare(NamedTuple):
    """A field beside a value."""

    field: FieldRef
    operator: Operator
    value: Value


class In(NamedTuple):
    """A field that has one of several values."""

    field: FieldRef
    values: tuple[Value, ...]


class IsNull(NamedTuple):
    """A field that has no value."""

    field: FieldRef


class Has(NamedTuple):
    """A name that is there, and not false."""

    field: FieldRef


class Not(NamedTuple):
    """The opposite."""

    item: Expression


class And(NamedTuple):
    """All of them."""

    items: tuple[Expression, ...]


class Or(NamedTuple):
    """At least one of them."""

    items: tuple[Expression, ...]


Expression: TypeAlias = "Compare | In | IsNull | Has | Not | And | Or"


class _Token(NamedTuple):
    kind: str
    """``operator``, ``punctuation``, ``word``, ``quoted`` or ``end``."""
    text: str
    """Of a quoted one what stands between the quotes."""
    begin: int


def fields_of(tree: Expression) -> Iterator[FieldRef]:
    """Yield the fields that a condition looks at."""
    if isinstance(tree, And | Or):
        for item in tree.items:
            yield from fields_of(item)
    elif isinstance(tree, Not):
        yield from fields_of(tree.item)
    else:
        yield tree.field


def parse(text: str) -> Expression:
    """Read a condition. Raises `errors.FilterError`, which shows where it stops making sense."""
    return _Parser(_BLANK.sub(" ", text)).parse()


class _Parser:
    """Recursive descent, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        self._end = 0
        self._token = self._read()

    def parse(self) -> Expression:
        tree = self._any()
        if self._token.kind != "end":
            self._fail("expected 'and', 'or' or the end")
        return tree

    def _any(self) -> Expression:
        items = [self._all()]
        while self._accept("or"):
            items.append(self._all())
        return items[0] if len(items) == 1 else Or(tuple(items))

    def _all(self) -> Expression:
        items = [self._one()]
        while self._accept("and"):
            items.append(self._one())
        return items[0] if len(items) == 1 else And(tuple(items))

    def _one(self) -> Expression:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(f"more than {_DEEPEST} deep")
        if self._accept("not"):
            tree: Expression = Not(self._one())
        elif self._accept("("):
            tree = self._any()
            self._expect(")")
        else:
            tree = self._condition()
        self._depth -= 1
        return tree

    def _condition(self) -> Expression:
        what = self._field()
        if self._accept("is"):
            negated = self._accept("not")
            self._expect("null")
            return _negated(IsNull(what), negated)
        negated = self._accept("not")
        if self._accept("in"):
            return _negated(self._in(what), negated)
        operator = self._operator(negated=negated)
        if operator is None:
            if what.kind in ("json", "flag", "value"):
                return Has(what)
            self._fail(f"expected a comparison of {what.name}, such as = or <")
        return _negated(Compare(what, operator, self._value(what, operator)), negated)

    def _in(self, what: FieldRef) -> In:
        self._expect("(")
        values = [self._value(what, "=")]
        while self._accept(","):
            values.append(self._value(what, "="))
        self._expect(")")
        return In(what, tuple(values))

    def _field(self) -> FieldRef:
        token = self._token
        if token.kind != "word":
            self._fail("expected a field")
        try:
            ref = fields.parse(token.text)
        except errors.UsageError as error:
            self._fail(str(error))
        self._token = self._read()
        return ref

    def _operator(self, *, negated: bool) -> Operator | None:
        token = self._token
        word = token.text.lower()
        if (token.kind == "operator" and not negated) or (token.kind == "word" and word == "like"):
            self._token = self._read()
            return _OPERATORS[word]
        if negated:
            self._fail("expected 'in' or 'like' after 'not'")
        return None

    def _value(self, what: FieldRef, operator: Operator) -> Value:
        token = self._token
        if token.kind not in ("word", "quoted"):
            self._fail("expected a value")
        try:
            value = _read_value(what, operator, token)
        except ValueError as error:
            self._fail(str(error))
        except errors.UsageError as error:
            self._fail(str(error))
        self._token = self._read()
        return value

    def _accept(self, text: str) -> bool:
        token = self._token
        if token.kind not in ("word", "punctuation") or token.text.lower() != text:
            return False
        self._token = self._read()
        return True

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            self._fail(f"expected {text!r}")

    def _read(self) -> _Token:
        match = _TOKEN.match(self._text, self._end)
        if match is None:
            rest = self._text[self._end :]
            begin = len(self._text) - len(rest.lstrip())
            if rest.strip():
                self._fail(
                    "a quote that is never closed" if rest.lstrip()[0] in "\"'" else "unexpected", begin
                )
            return _Token("end", "", begin)
        self._end = match.end()
        kind = str(match.lastgroup)
        text = match[kind]
        if kind == "quoted":
            text = text[1:-1].replace(text[0] * 2, text[0])
        return _Token(kind, text, match.start(kind))

    def _fail(self, what: str, begin: int | None = None) -> NoReturn:
        at = self._token.begin if begin is None else begin
        raise errors.FilterError(f"{what} (at character {at + 1})", excerpt=f"{self._text}\n{' ' * at}^")


def _negated(tree: Expression, negated: bool) -> Expression:
    return Not(tree) if negated else tree


def _read_value(what: FieldRef, operator: Operator, token: _Token) -> Value:
    """Return a value as its field wants it. Raises ValueError or `errors.UsageError`."""
    kind = what.kind
    if operator == "like":
        return _pattern(what, token.text)
    if kind == "state" and operator not in ("=", "!="):
        raise ValueError("states have no order: write = or !=, or in (...)")
    if kind == "json" and token.kind == "quoted":
        return token.text
    return _READERS[kind](token.text)


def _pattern(what: FieldRef, text: str) -> str:
    if what.kind not in ("text", "json"):
        raise ValueError(f"{what.name} is no text: like does not go with it")
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise ValueError("a pattern can't end with a backslash: write \\\\ for one")
    return text


def _length(text: str) -> timedelta:
    length = words.length(text)
    try:
        return timedelta(seconds=float(text)) if length is None else length
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no length of time: write 90s, 30min, 2h or 1.5d") from None


def _number(text: str) -> float | int:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    raise ValueError(f"{text!r} is no number")


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _metric_value(text: str) -> Value:
    special = _SPECIAL.get(text.lower())
    return _number(text) if special is None else special


def _json_value(text: str) -> Value:
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    return _metric_value(text) if lowered in _SPECIAL or _NUMBER.fullmatch(text) else text


_READERS: Mapping[FieldKind, Callable[[str], Value]] = MappingProxyType(
    {
        "text": str,
        "state": states.parse,
        "id": _number,
        "number": _number,
        "count": _number,
        "time": words.time,
        "length": _length,
        "size": _number,
        "share": _number,
        "flag": _flag,
        "value": _metric_value,
        "json": _json_value,
    }
)
