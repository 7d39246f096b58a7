"""The fields of a run, one row each. Pure.

Conditions, sorting, columns of lists, ``--json``, ``hpctrack show``, comparisons, DataFrames and notebooks
ask these rows. A new field is a row here, and an attribute of the record (`hpctrack.store.read.queries`);
where conditions and sorting take it, it is a column of the view ``run_overview``, too.

Beside them each run has names of its own, in one of the `SCOPES`: ``args.NAME``, ``tags.NAME``,
``metrics.NAME``, its latest value, and the `STATISTICS` of a metric, such as ``min.NAME``. `FieldRef` means
either.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from hpctrack import errors
from hpctrack.text import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    Reader: TypeAlias = "Callable[[Any, datetime], Any]"

#: What values are: how they compare, and how people read them.
#: ``id``: compares as a number, and is shown as a text. ``number``: a whole one; ``count``: never unknown.
#: ``size``: bytes. ``share``: 1 is all of it. ``flag``: true or false. ``value``: one of a metric's, nan and
#: infinities among them. ``object``: a whole JSON object; ``json``: an element of one.
FieldKind = Literal[
    "text", "state", "id", "number", "count", "time", "length", "size", "share", "flag", "value", "object",
    "json",
]  # fmt: skip
_SAME = ""


@dataclass(frozen=True)
class Field:
    """One field, and what it is called wherever a run is looked at.

    A row says only what differs: ``attribute``, ``json``, ``frame``, ``fact`` and ``compare`` are the field's
    name otherwise, and ``column`` is the attribute. None: the field does not appear there.
    """

    name: str
    """In conditions, in ``--sort`` and in ``--format``."""
    help: str
    kind: FieldKind
    attribute: str = _SAME
    """Of the run's record; ``resources.cpu``: one of its parts'; ``elapsed()``: a method of the time."""
    column: str | None = _SAME
    """Of run_overview, for conditions and sorting; `filters` knows those that are worked out."""
    listed: bool = True
    """Whether it is a column of ``--format``."""
    json: str | None = _SAME
    """The key in ``--json``."""
    frame: str | None = _SAME
    """The column in a DataFrame of runs."""
    fact: str | None = _SAME
    """The line in which ``hpctrack show`` and notebooks tell it, perhaps together with others."""
    compare: str | None = _SAME
    """What ``hpctrack compare`` calls it."""
    array: Literal["own", "common"] | None = None
    """What a job array says in one line: a value of its own, or that of all its tasks; None: nothing."""
    whole: bool = False
    """Whether lists leave it out: it is in the record of one run alone."""
    read: Reader = field(init=False, repr=False, compare=False)
    """Returns its value in a run's record, at some time."""

    def __post_init__(self) -> None:
        attribute = self.attribute or self.name
        same = {"attribute": attribute, "column": attribute}
        for way in ("attribute", "column", "json", "frame", "fact", "compare"):
            if getattr(self, way) == _SAME:
                object.__setattr__(self, way, same.get(way, self.name))
        object.__setattr__(self, "read", _reader(attribute))

    @property
    def of_resources(self) -> bool:
        """Whether it needs the run's resources, which lists have only where they were asked for."""
        return self.attribute.startswith("resources.")


def _reader(attribute: str) -> Reader:
    first, _, rest = attribute.partition(".")
    get = operator.attrgetter(first.removesuffix("()"))
    if first.endswith("()"):
        return lambda run, now: get(run)(now)
    if rest:
        return lambda run, _: None if (part := get(run)) is None else getattr(part, rest)
    return lambda run, _: get(run)


#: Makes a field that appears only where its row says so, and never in conditions.
_aside = functools.partial(Field, column=None, listed=False, json=None, frame=None, fact=None, compare=None)


def _used(name: str, help_text: str, kind: FieldKind, attribute: str) -> Field:
    return _aside(name, help_text, kind, f"resources.{attribute}", listed=True)


#: In the order in which they are listed, printed and told.
FIELDS = (
    Field("run", "the run's own id, r7", "id", "ref", "id", frame=None, fact=None, compare=None, array="own"),
    _aside("id", "the same as a number", "count", "id", json="id", frame="run"),
    Field("state", "Slurm's job state", "state", "status", frame="status", fact=None),
    Field(
        "job", "Slurm's job id: 14, 14_3", "id", "job", "slurm_job_id", json="job_id", fact=None,
        compare=None, array="own",
    ),
    _aside("jobid", "raw job id", "number", "slurm_job_id", listed=True, json="slurm_job_id"),
    Field(
        "array", "id of the job array", "number", "array_job_id", json="array_job_id", frame=None, fact=None,
        compare=None, array="common",
    ),
    Field(
        "task", "task of the job array", "number", "array_task_id", json="array_task_id", frame=None,
        fact=None, compare=None,
    ),
    _aside("het", "id of the heterogeneous job", "number", "het_job_id", json="het_job_id"),
    Field("name", "the job's name", "text", "job_name", fact=None, array="common"),
    Field("experiment", "the experiment's name", "text", array="common"),
    _aside("tags", "all tags", "object", "tags", listed=True, json="tags", fact="tags"),
    Field("note", "what somebody noted about it", "text", "comment"),
    Field("user", "whose run it is", "text", "user_name", array="common"),
    Field("cluster", "Slurm's ClusterName", "text", fact="user", array="common"),
    Field("kind", "who ends it: batch (Slurm), command, client", "text", compare=None, array="common"),
    Field("archived", "whether lists leave it out", "flag", compare=None, array="common"),
    Field("partition", "Slurm's partition", "text", fact="queue", array="common"),
    Field("account", "Slurm's account", "text", fact="queue", array="common"),
    Field("qos", "Slurm's quality of service", "text", fact="queue", array="common"),
    Field(
        "submitted", "when it was submitted", "time", "time_created", json="time_created",
        frame="time_created", compare=None, array="common",
    ),
    Field(
        "started", "when the latest attempt started", "time", "time_started", json="time_started",
        frame="time_started", compare=None, array="own",
    ),
    Field(
        "ended", "when it was over", "time", "time_ended", json="time_ended", frame="time_ended",
        compare=None, array="own",
    ),
    _aside("waited", "how long it waited for its start", "length", "waited()", listed=True, fact="started"),
    Field(
        "elapsed", "how long it has run, or ran", "length", "elapsed()", json="elapsed_s", frame=None,
        fact="ended", array="own",
    ),
    Field(
        "limit", "time limit", "length", "time_limit", json="time_limit_s", fact="ended", array="common"
    ),
    Field("nodes", "node list: n[1-4]", "text", "node_list"),
    _aside("exit", "how the script itself ended: 3, SIGSEGV", "text", "exit", listed=True, fact="exit"),
    Field("exit_code", "exit code of the script itself", "number", fact="exit", compare="exit code"),
    Field("exit_signal", "signal that ended the script", "number", fact="exit", compare="exit signal"),
    _aside("slurm_state", "Slurm's latest word", "text", "slurm_state", json="slurm_state", fact="exit"),
    Field("reason", "Slurm's reason", "text", fact=None),
    Field("restarts", "0 for the first attempt", "count", "attempt", fact=None),
    _aside("missing", "since when Slurm knows no such job", "time", "missing_since", json="missing_since"),
    _aside("silent", "since when nothing was heard of it", "time", "silent_since", json="silent_since"),
    _aside("args", "all arguments", "object", "args", listed=True, json="args", fact="args"),
    Field(
        "step", "step of the latest row of metrics", "number", "last_step", json="last_step", fact=None,
        compare="last step",
    ),
    Field("rows", "rows of metrics that arrived", "count", fact=None, compare=None, array="own"),
    _aside("latest", "latest value of each metric", "object", "last", listed=True, json="last"),
    Field("lost", "lines lost, torn or rejected", "count", fact=None, compare=None, array="own"),
    _aside("waiting", "rows that wait in the spool", "count", "waiting", json="waiting_rows"),
    _used("cpus", "processors that it was given", "number", "cpus"),
    _used("cputime", "processor time that it used", "length", "cpu_time"),
    _used("cpueff", "share of its processors' time that it used", "share", "cpu"),
    _used("reqmem", "memory that it asked for", "size", "memory_requested_bytes"),
    _used("maxmem", "most memory that it used", "size", "memory_used_bytes"),
    _used("memeff", "share of its memory that it used", "share", "memory"),
    _used("timeeff", "share of its time limit that it used", "share", "time"),
    _aside("stdout", "file of its output", "text", "stdout_path", json="stdout", fact="stdout", whole=True),
    _aside("stderr", "file of its errors", "text", "stderr_path", json="stderr", fact="stderr", whole=True),
    _aside("seen", "when it was last vouched for", "time", "time_seen", json="time_seen", whole=True),
)  # fmt: skip
BY_NAME: Mapping[str, Field] = MappingProxyType({row.name: row for row in FIELDS})
#: What conditions and sorting take.
ASKED: Mapping[str, Field] = MappingProxyType({row.name: row for row in FIELDS if row.column is not None})
#: What ``--format`` takes.
LISTED: Mapping[str, Field] = MappingProxyType({row.name: row for row in FIELDS if row.listed})
#: What is known of a metric of a run, beside its latest value, and what that is.
STATISTICS: Mapping[str, str] = MappingProxyType(
    {
        "min": "least value of one metric",
        "max": "greatest value of one metric",
        "first": "value at the first step that has one",
        "last": "value at the last step that has one",
        "count": "how many values of one metric there are",
        "nans": "how many of them are nan",
    }
)
#: Where a run has names of its own, by the attribute that holds them.
SCOPES: Mapping[str, str] = MappingProxyType(
    {"args": "args", "tags": "tags", "metrics": "last", **dict.fromkeys(STATISTICS, "summaries")}
)
#: How what stands in them is written.
SCOPED = tuple(f"{scope}.NAME" for scope in SCOPES)


class FieldRef(NamedTuple):
    """What a user wrote: ``scope`` is ``run`` for a field, or one of `SCOPES` with a name in it."""

    scope: str
    name: str

    @property
    def kind(self) -> FieldKind:
        """What its values are."""
        if self.scope == "run":
            return BY_NAME[self.name].kind
        return "value" if self.is_statistic else "json"

    @property
    def is_statistic(self) -> bool:
        """Whether it is one of a metric's `STATISTICS`."""
        return self.scope in STATISTICS

    @property
    def of_names(self) -> str:
        """The scope that has its name: statistics have those of metrics."""
        return "metrics" if self.is_statistic else self.scope

    def read(self, run: Any, now: datetime) -> Any:
        """Return its value in a run's record."""
        if self.scope == "run":
            return BY_NAME[self.name].read(run, now)
        held = getattr(run, SCOPES[self.scope])
        if self.is_statistic:
            summary = held.get(self.name)
            return None if summary is None else getattr(summary, self.scope)
        return element(held, self.name)


def parse(text: str) -> FieldRef:
    """Read a field that conditions take: ``elapsed``, ``metrics.val_loss``. Raises `errors.UsageError`."""
    ref = scoped(text)
    if ref is not None:
        return ref
    if text.lower() in ASKED:
        return FieldRef("run", text.lower())
    raise errors.UsageError(f"{text!r} is no field of a run: {hint(text, ASKED)}")


def scoped(text: str) -> FieldRef | None:
    """Read a name in one of the `SCOPES`, in quotes or without; None for what is none."""
    scope, _, name = text.partition(".")
    if scope.lower() not in SCOPES or not name:
        return None
    quoted = len(name) > 2 and name[0] == name[-1] and name[0] in "\"'"
    return FieldRef(scope.lower(), name[1:-1] if quoted else name)


def hint(text: str, names: Iterable[str]) -> str:
    """Return a hint for an unknown field: the nearest of these names, or all of them and the scopes."""
    return nearest.of_ours(text, _alike(text, names), *SCOPED)


def _alike(text: str, names: Iterable[str]) -> Iterator[str]:
    scope, dot, name = text.partition(".")
    in_scope = dot and name and scope.lower() not in SCOPES
    return (f"{known}.{name}" for known in SCOPES) if in_scope else iter(names)


def element(value: Any, name: str) -> Any:
    """Return an element of an object by its name, or by its path: ``model.depth``; None where it is not."""
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    first, dot, rest = name.partition(".")
    return element(value.get(first), rest) if dot else None
