"""Messages of a node, as records. Pure; standard library only.

A node makes a record and writes its `line` into a journal. The collector calls `read` once for each message
that arrives. `read` believes nothing: it checks each field's type and bounds, and takes out of texts what
PostgreSQL can't store. A field that fails is None, and so is a message that lacks what it can't do without:
a field that has no default. Nobody behind `read` sees JSON.

A field is one line here: its type says how it is checked. A figure of usage is one line of `FIGURES`.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_type_hints

from hpctrack.script import journal_lines

if TYPE_CHECKING:
    from typing import TypeAlias

_INT32 = range(-(1 << 31), 1 << 31)
#: Seconds since the epoch: the year 9892.
_LAST_TIME = 2.5e11
_MAX_NODE, _MAX_EVENT, _MAX_TAIL = 255, 400, 4096  # characters
#: Of how many journals of a run, and how many lines of each, the relay may report losses.
_MAX_JOURNALS = 4096
_LOST = range(1, 1 << 48)
#: Of how many metrics one message may say whether more is better.
_MAX_GOALS = 200
_JOURNAL = re.compile(r"[0-9a-f]{16}")
_FOREIGN = re.compile("[\0\ud800-\udfff]")


class Figure(NamedTuple):
    """A figure of usage: one row here, and a column of the table ``usage`` that has the same name."""

    name: str
    type: str
    """PostgreSQL's: ``float8``, ``int8``, ``int4`` or ``jsonb``."""
    meaning: str
    """The comment of the column."""
    label: str = ""
    """What `hpctrack show` calls an attempt's total: the greatest of each node, added up. Empty: no total."""
    unit: str = ""
    """Of the total: ``s``, ``bytes``, or nothing for a number."""
    or_else: str = ""
    """The figure whose greatest stands in for the total where this one is not known."""


FIGURES = (
    Figure("cpu_s", "float8", "Processor seconds since the attempt began (counts up)", "cpu", "s"),
    Figure("memory_bytes", "int8", "Memory in use now, in bytes"),
    Figure(
        "memory_peak_bytes", "int8", "Most memory in use since the attempt began, in bytes",
        "memory", "bytes", or_else="memory_bytes",
    ),
    Figure("read_bytes", "int8", "Bytes read since the attempt began (counts up)", "read", "bytes"),
    Figure("write_bytes", "int8", "Bytes written since the attempt began (counts up)", "written", "bytes"),
    Figure("processes", "int4", "Number of processes now", "processes"),
    Figure("gpu", "jsonb", "What the GPUs did, as the relay found it; NULL without any"),
)  # fmt: skip
#: Those of which attempts have a total.
TOTALS = tuple(figure for figure in FIGURES if figure.label)


def storable(text: str) -> str:
    """Return a text that PostgreSQL can hold: without NUL and lone surrogates."""
    return _FOREIGN.sub("\ufffd", text)


def _number(value: object) -> float | None:
    """Return a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _time(value: object) -> float | None:
    """Return a time, in seconds since the epoch, that can be stored."""
    time = _number(value)
    return time if time is not None and 0 <= time <= _LAST_TIME else None


def _integer(value: object, among: range) -> int | None:
    """Return an integer of a range; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value in among else None


def _int32(value: object) -> int | None:
    return _integer(value, _INT32)


def _int64(value: object) -> int | None:
    return _integer(value, journal_lines.INT64)


def _text(value: object) -> str | None:
    return storable(value) if isinstance(value, str) and value else None


def _node(value: object) -> str | None:
    return storable(value)[:_MAX_NODE] if isinstance(value, str) else None


def _event(value: object) -> str | None:
    text = _text(value)
    return text and text[:_MAX_EVENT]


def _tail(value: object) -> str | None:
    text = _text(value)
    return text and text[-_MAX_TAIL:]


def _environment(value: object) -> dict[str, str] | None:
    if not isinstance(value, dict):
        return None
    return {storable(name): storable(text) for name, text in value.items() if isinstance(text, str)}


def _losses(value: object) -> dict[str, int]:
    """Return how many lines could not be written, by journal."""
    lost = sorted(value.items())[:_MAX_JOURNALS] if isinstance(value, dict) else ()
    counts = {journal: _integer(count, _LOST) for journal, count in lost if _JOURNAL.fullmatch(journal)}
    return {journal: count for journal, count in counts.items() if count is not None}


def _goals(value: Mapping[str, Any]) -> dict[str, str] | None:
    """Return ``max`` and ``min`` by metric; None if there is neither."""
    known = [(name, better) for name, better in value.items() if better in ("max", "min")]
    return {storable(name): better for name, better in known[:_MAX_GOALS] if name} or None


def _figures(value: Mapping[str, Any]) -> dict[str, Any]:
    return {figure.name: _OF_TYPE[figure.type](value.get(figure.name)) for figure in FIGURES}


#: How a figure is checked.
_OF_TYPE: dict[str, Callable[[object], Any]] = {
    "float8": _number,
    "int8": lambda value: _integer(value, range(journal_lines.INT64.stop)),
    "int4": lambda value: _integer(value, range(_INT32.stop)),
    "jsonb": lambda value: value,
}

# Types of fields, with what checks them.
Time = Annotated[float, _time]
Int32 = Annotated[int, _int32]
Int64 = Annotated[int, _int64]
Flag = Annotated[bool, bool]
Text = Annotated[str, _text]
Node = Annotated[str, _node]
#: Fields of these types are not one key of the object: they are all of it.
Figures = Annotated[Mapping[str, Any], _figures]
Object = Annotated[Mapping[str, Any], dict]
Goals = Annotated[Mapping[str, str], _goals]
_WHOLE = frozenset(("figures", "values"))


class Hello(NamedTuple):
    """The first thing that is sent: ids only, since no collector has shown yet that it knows the key."""

    time: Time | None = None
    """When the supervisor began."""
    attempt: Int32 | None = None
    node: Node | None = None
    job_id: Int64 | None = None
    """Slurm's own: of an array task the task's."""
    array_job_id: Int64 | None = None
    array_task_id: Int64 | None = None
    cluster: Text | None = None
    pid: Int64 | None = None


class Start(NamedTuple):
    """Where and how the script runs: told once the collector has answered under the key."""

    time: Time | None = None
    env: Annotated[Mapping[str, str], _environment] | None = None
    """What differs from the environment at submission."""
    stdout: Text | None = None
    stderr: Text | None = None
    work_dir: Text | None = None
    job_name: Text | None = None
    node_list: Text | None = None
    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None


class Usage(NamedTuple):
    """A sample of what the job uses on a node."""

    time: Time
    node: Node
    figures: Figures
    """By the names of `FIGURES`; what is not known is None."""


class Event(NamedTuple):
    """Something that happened on the node: a signal, or what is told in words."""

    time: Time
    name: Annotated[str, _event]
    signal: Int32 | None = None
    reach: Text | None = None
    """Whom a signal was meant for: a value of `hpctrack.stream.node.signals.Reach`."""


class Fin(NamedTuple):
    """How the script ended; neither code nor signal where nobody saw it."""

    time: Time | None = None
    exit_code: Int32 | None = None
    exit_signal: Int32 | None = None
    stderr_tail: Annotated[str, _tail] | None = None
    """The end of what a failure had to say."""
    lost: Annotated[Mapping[str, int], _losses] | None = None
    """Lines that could not be written, by journal."""
    out_of_memory: Flag | None = None
    """Of a script that SIGKILL ended: whether the kernel killed in its cgroup for want of memory."""


class Args(NamedTuple):
    """What ``set_args()`` says: merged into ``runs.args``."""

    values: Object


class Tags(NamedTuple):
    """What ``set_tags()`` says: merged into ``runs.tags``."""

    values: Object


class Goal(NamedTuple):
    """What ``goal()`` says: merged into the goals of the run's experiment."""

    values: Goals


Message: TypeAlias = Hello | Start | Usage | Event | Fin | Args | Tags | Goal


class RunMessage(NamedTuple):
    """A message that was read, and the attempt that it is about."""

    run_id: int
    """As PostgreSQL knows the run."""
    attempt: int
    message: Message


#: By what stands behind ``!`` in the line.
KINDS: dict[str, type[Message]] = {
    "hello": Hello,
    "start": Start,
    "usage": Usage,
    "event": Event,
    "fin": Fin,
    "args": Args,
    "tags": Tags,
    "goal": Goal,
}
_KINDS = {record: kind for kind, record in KINDS.items()}


def line(message: Message) -> bytes:
    """Return the line of a journal that says a message; what is None is null there."""
    said: dict[str, Any] = {}
    for name, value in message._asdict().items():
        said.update(value if name in _WHOLE else {name: value})
    return journal_lines.format_message(_KINDS[type(message)], said)


def read(kind: str, text: str) -> Message | None:
    """Return what a message says; None for a kind that is not in `KINDS`, and for what can't be used."""
    body = _object(text)
    if kind not in KINDS or body is None:
        return None
    record, checks = KINDS[kind], _checks(kind)
    values = {name: check(body if name in _WHOLE else body.get(name)) for name, check in checks.items()}
    required = checks.keys() - record._field_defaults.keys()
    return None if any(values[name] is None for name in required) else record(**values)


def _object(text: str) -> dict[str, Any] | None:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


@functools.cache
def _checks(kind: str) -> dict[str, Callable[[Any], Any]]:
    """Return what checks each field of a record: it stands in the field's type."""
    hints = get_type_hints(KINDS[kind], include_extras=True)
    return {
        name: next(part.__metadata__[0] for part in (hint, *get_args(hint)) if hasattr(part, "__metadata__"))
        for name, hint in hints.items()
    }
