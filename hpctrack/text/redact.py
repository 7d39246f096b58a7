"""What is a secret, and what a copy shows in its place.

Everything hpctrack stores or sends goes through a `Redactor` first: environment, arguments, batch script,
submit line, git remotes, stderr tails, messages of exceptions. The job itself always gets its own bytes.

Two kinds of evidence are combined on the same original text. *Patterns* see a secret by what stands around it
(the name it is assigned to, its URL, header or command) or by its shape (`ghp_...`, private keys). *Known
values* are what the patterns found in the environment, the arguments and the script; they are masked wherever
else they appear, percent-encoded, in base64 or quoted as well; those that may be words (`train`) only where
they stand alone. In doubt a copy shows less, but paths, booleans, numbers (other than passwords) and
references (`$TOKEN`, `$(cat file)`) are no secrets, whatever they are assigned to.

Pure, and standard library only: compute nodes import this with `python -I -S`, so only `re` and `binascii`.
"""

from __future__ import annotations

import binascii
import functools
import re

from hpctrack.text import secret_patterns

TYPE_CHECKING = False  # `typing` costs more than the rest
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

MASK = "***"
_PASSES = 6  # the second sees what the first one joined; more are needed by texts made for it only

_JSON = {c: f"\\u{c:04x}" for c in range(32)}
_UTF16 = "utf-16-be", "surrogatepass"
_JSON |= {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


def _bytes(value: str) -> bytes:
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def _unquoted(value: str) -> tuple[str, str]:
    """What a value means if it is percent-encoded, and if it has backslashes."""
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), _bytes(value))
    plain = re.sub(r"""'(?:\\'|"'")'""", "'", value).replace("\\n", "\n")
    return raw.decode("utf-8", "surrogateescape"), re.sub(r"\\(.)", r"\1", plain)


def _parts(value: str) -> Iterator[str]:
    """What else is secret with a value: what it means without quotes, a part of it, its lines."""
    yield from _unquoted(value)
    yield value.partition(";")[0]  # where a shell's command ends, and not every password
    if "\n" in value or "\\n" in value:
        yield from secret_patterns.KEY_LINE.findall(value)
    yield from (line for line in value.split("\n")[1:] if not secret_patterns.is_word(line))


def _forms(value: str) -> Iterator[str]:
    """A value as it is, percent-encoded, in base64, and quoted for JSON, Python, libpq and shells."""
    raw = _bytes(value)
    percent = re.sub(rb"[^A-Za-z0-9._~-]", lambda match: b"%%%02X" % ord(match[0]), raw).decode()
    yield from (value, percent, percent.replace("%20", "+"))
    yield re.sub("%..", lambda match: match[0].lower(), percent)
    for offset in range(3):  # within a longer encoded text: the characters that hold nothing but the value
        encoded = binascii.b2a_base64(bytes(offset) + raw, newline=False).decode()
        inner = encoded[(0, 2, 3)[offset] : (offset + len(raw)) * 8 // 6]
        for form in (inner, encoded) if not offset else (inner,):
            if len(form) >= 2 * secret_patterns.KNOWN_LENGTH:
                yield from (form, form.replace("+", "-").replace("/", "_"))
    escaped = value.translate(_JSON)
    ascii_only = re.sub(
        r"[^\0-\x7f]", lambda match: re.sub("(....)", r"\\u\1", match[0].encode(*_UTF16).hex()), escaped
    )
    yield from (escaped, ascii_only, escaped.translate(_JSON), ascii_only.translate(_JSON))
    yield repr(value)[1:-1]
    yield value.replace("\\", "\\\\").replace("'", "\\'")
    yield from (value.replace("'", "'\\''"), value.replace("'", "'\"'\"'"))
    yield re.sub(r"([^\w@%+=:,./-])", r"\\\1", value)


def _occurrences(form: str, text: str) -> Iterator[tuple[int, int]]:
    """All occurrences, overlapping ones too; those of `abab` in a long `abab...` as one, to stay linear."""
    start = text.find(form)
    period = (form + form).find(form, 1) if start >= 0 else 0
    while start >= 0:
        end = start + len(form)
        while 2 * period <= len(form) and end < len(text) and text[end] == text[end - period]:
            end += 1
        yield start, end
        start = text.find(form, end - len(form) + 1)


def of_process(environ: Mapping[str, str], argv: Sequence[str]) -> Redactor:
    """Return the redactor of a process, made once for as long as its environment and command stay."""
    return _of_process(tuple(environ.items()), tuple(argv))


@functools.lru_cache(maxsize=2)
def _of_process(environ: tuple[tuple[str, str], ...], argv: tuple[str, ...]) -> Redactor:
    return Redactor.collect(dict(environ), argv)


class Redactor:
    """Masks secrets in copies of texts, environments, arguments and JSON values.

    `Redactor()` goes by patterns alone; `Redactor.collect(...)` also knows the secret values of a submission.
    All methods are pure, give `MASK` for what is secret, and give back their own results unchanged.
    """

    __slots__ = ("_forms", "known")

    known: frozenset[str]
    """The values that are masked wherever they appear. Never to be shown."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.known = frozenset(value for value in map(str.strip, known) if secret_patterns.is_known(value))
        forms = {form: secret_patterns.is_word(form) for value in self.known for form in _forms(value)}
        self._forms = sorted(forms.items(), key=lambda form: (-len(form[0]), form[0]))

    @classmethod
    def collect(cls, env: Mapping[str, str], argv: Sequence[str] = (), texts: Iterable[str] = ()) -> Redactor:
        """A redactor that knows the secret values in an environment, arguments and texts (scripts)."""
        known: list[str] = []
        known += (
            value
            for name, value in env.items()
            if secret_patterns.is_secret(name, value) and not secret_patterns.is_harmless(value)
        )
        known += (argv[i][start:end] for i, start, end in _secret_arguments(argv))
        for text in (*texts, *argv, *env.values()):
            known += (text[start:end] for start, end, spread in secret_patterns.patterns(text) if spread)
        return cls([*known, *(part for value in known for part in _parts(value))])

    def __repr__(self) -> str:
        return f"<Redactor of {len(self.known)} known values>"

    def text(self, text: str) -> str:
        """`text` with its secrets masked, line by line; everything else stays byte for byte."""
        for _ in range(_PASSES):
            before, text = text, self._pass(text)
            if text == before:
                break
        return text

    def environ(self, env: Mapping[str, str]) -> dict[str, str]:
        """A copy of an environment: values under secret names masked whole, the others as texts."""
        return self.value(dict(env))  # type: ignore[no-any-return]

    def argv(self, argv: Sequence[str]) -> list[str]:
        """A copy of a command's arguments, one for one: `--token X`, `--api-key=X`, `wandb.api_key=X`."""
        copy = list(argv)
        for index, start, end in _secret_arguments(argv):
            argument = copy[index]  # what is masked in it stands behind
            copy[index] = (
                argument[:start] + secret_patterns.LINE.sub(MASK, argument[start:end]) + argument[end:]
            )
        return [self.text(argument) for argument in copy]

    def value(self, obj: Any, *, name: str = "") -> Any:
        """A copy of a JSON value; ``name`` is the key under which it stands.

        Strings anywhere under a secret key are masked whole, other lists of strings go as arguments.
        """
        if isinstance(obj, str):
            return self.text(secret_patterns.LINE.sub(MASK, obj) if _is_its_secret(name, obj) else obj)
        if isinstance(obj, dict):
            inherited = name if secret_patterns.is_secret_name(name) else ""
            return {
                self.value(key): self.value(item, name=inherited or str(key)) for key, item in obj.items()
            }
        if isinstance(obj, (list, tuple)):
            return self._list(obj, name)
        if type(obj) is int and secret_patterns.is_secret(name, str(obj)):
            return MASK
        return obj

    def _list(self, items: Sequence[Any], name: str) -> list[Any]:
        if not secret_patterns.strength(name) and all(isinstance(item, str) for item in items):
            return self.argv(items)
        return [self.value(item, name=name) for item in items]

    def _pass(self, text: str) -> str:
        secret = bytearray(len(text))  # a mark per character: of overlapping secrets no remainder shows
        for start, end, *_ in secret_patterns.patterns(text):
            secret[start:end] = b"x" * (end - start)
        for form, is_word in self._forms:
            for start, end in _occurrences(form, text):
                if not is_word or _stands_alone(text, start, end):
                    secret[start:end] = b"x" * (end - start)
        pieces, done = [""], 0
        for start, end in (run.span() for run in re.finditer(b"x+", secret)):
            if text[start:end].strip("*\r\n \t"):  # what is masked stays as it is
                pieces += (text[done:start], secret_patterns.LINE.sub(MASK, text[start:end]))
                done = end
        return "".join((*pieces, text[done:]))


_BESIDE_A_WORD = re.compile(r"[\w./\\-]")


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether it is a word by itself there, rather than a part of a name or path; a full stop may follow."""
    if start and _BESIDE_A_WORD.match(text, start - 1):
        return False
    following = text[end : end + 2]
    return not _BESIDE_A_WORD.match(following) or (following[0] == "." and not following[1:].strip())


_NAMED_ARGUMENT = re.compile(r"[-+~]*[\w.@/-]+=")
_OPTION = re.compile(r"--?[A-Za-z][\w.-]*\Z")
_TOGETHER = str.maketrans(dict.fromkeys(" \t\r\n\v\f\"'", "\x1a"))


def _secret_arguments(argv: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """(index, start, end) of what is secret in arguments, from the last place in each to the first."""
    spans = _nameless(argv)
    option = ""  # whose value comes next
    for index, argument in enumerate(argv):
        if _OPTION.match(argument):
            option = "" if secret_patterns.FLAG.match(argument) else argument
            continue
        name, start = _name(argument, option)
        option = ""
        if name and _is_its_secret(name, argument[start:]):
            spans = [span for span in spans if span[0] != index]
            spans.append((index, start, len(argument)))
    yield from spans


def _nameless(argv: Sequence[str]) -> list[tuple[int, int, int]]:
    """(index, start, end) of what commands take without a name, as `secret_patterns.given` finds it."""
    line = " ".join(argument.translate(_TOGETHER) for argument in argv)
    given = sorted(set(secret_patterns.given(line)), reverse=True)
    position = len(line) + 1
    spans: list[tuple[int, int, int]] = []
    for index in range(len(argv) - 1, -1, -1):
        end = position - 1
        position = end - len(argv[index])
        while given and given[0][0] >= position:
            begin, stop = given.pop(0)
            spans.append((index, begin - position, min(stop, end) - position))
    return spans


def _name(argument: str, option: str) -> tuple[str, int]:
    """The name that an argument stands under, its own or the option before it; where its value begins."""
    assignment = _NAMED_ARGUMENT.match(argument)
    if assignment and not secret_patterns.is_secret_name(option):
        return assignment[0], assignment.end()
    return option, 0


def _is_its_secret(name: str, value: str) -> bool:
    """Whether a value is a secret under this name, and no reference to one."""
    return secret_patterns.is_secret(name, value) and not secret_patterns.is_reference(value)
