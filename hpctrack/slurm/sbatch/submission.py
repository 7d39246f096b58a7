"""What a submission says of itself: its record, with everything redacted that PostgreSQL is to store.

`hpctrack sbatch` and `hpctrack run` both make their records here.
"""

from __future__ import annotations

import hashlib
import shlex
import uuid
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack import account, errors, limits
from hpctrack.run.arguments import parse_arguments
from hpctrack.stream.wire import ciphers, records
from hpctrack.stream.wire.names import TASK_NONE
from hpctrack.text import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hpctrack.git import repository
    from hpctrack.settings import Settings

#: What is ours or Slurm's, and never a user's words; all else that is stored is masked.
_NOT_OF_USERS = frozenset(
    "uuid user_name cluster time script_sha256 kind partition account qos parent_submission rerun_of".split()
)
#: hpctrack's own options, and what they set.
OWN = {"-E": "experiment", "--experiment": "experiment", "-T": "tag", "--tag": "tag", "--note": "note"}


#: What comes along is cut: texts, and objects with the texts in them.
_TEXTS = {
    "submit_line": limits.SUBMIT_LINE,
    "script": limits.SCRIPT,
    "script_path": limits.PATH,
    "work_dir": limits.PATH,
    "cluster": limits.WORD,
    "experiment": limits.EXPERIMENT,
    "comment": limits.NOTE,
    "job_name": limits.JOB_NAME,
    "partition": limits.WORD,
    "account": limits.WORD,
    "qos": limits.WORD,
}
_OBJECTS = {"env": limits.ENV, "args": limits.ARGS, "tags": limits.TAGS, "git": limits.GIT}
_LIMITS = {"experiment": limits.EXPERIMENT, "tag": limits.TAGS, "note": limits.NOTE}


class Own(NamedTuple):
    """hpctrack's own options; what is not given is None or empty."""

    experiment: str | None = None
    tags: tuple[str, ...] = ()
    note: str | None = None

    def checked(self) -> Own:
        """Return the same. Raises `errors.UsageError` for what is too long."""
        for limit, given in ((limits.EXPERIMENT, self.experiment), (limits.NOTE, self.note)):
            limits.text(limit, storable(given or ""))
        limits.value(limits.TAGS, storable(tags(self.tags)))
        return self

    def over(self, weaker: Own) -> Own:
        """Combine with what is said elsewhere: the stronger experiment and note count, tags add up."""
        return Own(
            self.experiment if self.experiment is not None else weaker.experiment,
            (*weaker.tags, *self.tags),
            self.note if self.note is not None else weaker.note,
        )


class Parent(NamedTuple):
    """The tracked run that makes this submission."""

    uuid: str
    task: int


class Job(NamedTuple):
    """What is known of a job when it is submitted."""

    cluster: str | None = None
    #: Of an array the array's.
    base_job_id: int | None = None
    #: Array specification.
    tasks: str | None = None
    het: bool = False
    name: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    #: Seconds.
    time_limit: float | None = None


class Source(NamedTuple):
    """What is submitted, and from where."""

    #: The command as the user typed it.
    argv: Sequence[str]
    script: str | None
    #: The script's own arguments.
    arguments: Sequence[str]
    work_dir: str
    environ: Mapping[str, str]
    #: Seconds since the epoch.
    time: float
    git: repository.State | None = None
    kind: str = "batch"
    #: File that the script was read from; empty where there is none.
    script_path: str = ""
    #: UUID of the submission that is submitted again.
    rerun_of: str | None = None


def parse_own(words: Sequence[str]) -> tuple[Own, list[str]]:
    """Take hpctrack's own options off the front; return them and the rest, which begins with any other word.

    Raises `errors.UsageError` for one without its value, and for a value that is too long.
    """
    own, rest = Own(), list(words)
    while rest:
        word, value = _divided(rest[0])
        name = OWN.get(word)
        if name is None:
            break
        del rest[0]
        if value is None:
            if not rest:
                raise errors.UsageError(f"hpctrack's option {word} needs a value")
            value = rest.pop(0)
        limits.text(_LIMITS[name], storable(value))
        given = Own(tags=(value,)) if name == "tag" else Own(**{name: value})  # type: ignore[arg-type]
        own = given.over(own)
    return own, rest


def _divided(word: str) -> tuple[str, str | None]:
    """Return an option's name, and the value that stands in the same word: ``--tag=best``, ``-Tbest``."""
    if not word.startswith("--") and word[:2] in OWN and len(word) > 2:
        return word[:2], word[2:]
    name, equals, value = word.partition("=")
    return name, value if equals else None


def from_settings(settings: Settings) -> Own:
    """Return what the configuration says where neither the command line nor the script does."""
    return Own(settings.experiment, settings.tags, settings.note or None)


def own_words(own: Own) -> list[str]:
    """Return hpctrack's own options as they are written: what `parse_own` reads."""
    words = [] if own.experiment is None else [f"--experiment={own.experiment}"]
    words += [f"--tag={tag}" for tag in own.tags]
    return words if own.note is None else [*words, f"--note={own.note}"]


def tags(words: Iterable[str]) -> dict[str, str | bool]:
    """Read tags: ``name=value``, or a bare name, which is true."""
    values: dict[str, str | bool] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name:
            values[name] = value if equals else True
    return values


def find_parent(environ: Mapping[str, str], spool: str) -> Parent | None:
    """Return the tracked run in which this process runs, if it runs in one."""
    job = environ.get("SLURM_JOB_ID", "")
    if environ.get("HPCTRACK_JOB_ID") != job:
        return None
    identity, _, task = environ.get("HPCTRACK_RUN", "").partition(":")
    if task.lstrip("-").isdecimal():
        return Parent(identity, int(task))
    cluster = environ.get("SLURM_CLUSTER_NAME")
    record = _record(spool, cluster, job)
    if record is not None and record.tasks is None:
        return Parent(record.uuid, TASK_NONE)
    record = _record(spool, cluster, environ.get("SLURM_ARRAY_JOB_ID", ""))
    task = environ.get("SLURM_ARRAY_TASK_ID", "")
    if record is not None and record.tasks is not None and task.isdecimal():
        return Parent(record.uuid, int(task))
    return None


def _record(spool: str, cluster: str | None, base_job_id: str) -> records.Record | None:
    if not base_job_id.isdecimal():
        return None
    try:
        return records.find(spool, cluster, int(base_job_id))
    except (OSError, ValueError):
        return None


def make(settings: Settings, source: Source, own: Own, job: Job, parent: Parent | None) -> records.Record:
    """Make the record of a submission."""
    return complete(mint(settings, source.time), source, own, job, parent)


def mint(settings: Settings, time: float) -> records.Record:
    """Make a record with a UUID and a secret of its own, and with what the relay needs of the settings."""
    return records.Record(
        uuid=str(uuid.uuid4()),
        secret=ciphers.mint().hex(),
        time=time,
        cluster=None,
        base_job_id=None,
        tasks=None,
        submission={},
        run={},
        collector=tuple(map(str, settings.collector)),
        transport=settings.transport,
        flush=settings.flush,
        usage_interval=settings.usage_interval,
        journal_cap=settings.journal_cap,
        place=settings.place,
    )


def complete(
    minted: records.Record, source: Source, own: Own, job: Job, parent: Parent | None
) -> records.Record:
    """Add to a minted record what is submitted, and as which job."""
    texts = [source.script] if source.script is not None else []
    redactor = redact.Redactor.collect(source.environ, source.argv, texts)
    return minted._replace(
        cluster=job.cluster,
        base_job_id=job.base_job_id,
        tasks=job.tasks,
        submission=bounded(storable(_masked(_submission(minted, source, job, redactor), redactor))),
        run=bounded(storable(_masked(_run(source, own, job, parent, redactor), redactor))),
    )


def _masked(stored: Mapping[str, Any], redactor: redact.Redactor) -> dict[str, Any]:
    """Return what is to be stored without secrets: what is known from anywhere is masked everywhere."""
    return {name: value if name in _NOT_OF_USERS else redactor.value(value) for name, value in stored.items()}


def _submission(
    minted: records.Record, source: Source, job: Job, redactor: redact.Redactor
) -> dict[str, Any]:
    return {
        "uuid": minted.uuid,
        "user_name": account.user_name(),
        "cluster": job.cluster,
        "time": datetime.fromtimestamp(minted.time, timezone.utc).isoformat(),
        "submit_line": shlex.join(redactor.argv(source.argv)),
        "script": source.script,
        "script_path": source.script_path or None,
        "script_sha256": None if source.script is None else fingerprint(source.script),
        "work_dir": source.work_dir,
        "git": dict(source.git) if source.git else None,
        "env": dict(source.environ),
    }


def fingerprint(script: str) -> str:
    """Return what tells a script from any other; bytes that are not UTF-8 are lone surrogates."""
    return hashlib.sha256(script.encode("utf-8", "surrogateescape")).hexdigest()


def _run(
    source: Source, own: Own, job: Job, parent: Parent | None, redactor: redact.Redactor
) -> dict[str, Any]:
    return {
        "kind": source.kind,
        "experiment": own.experiment or "default",
        "comment": own.note,
        "tags": tags(own.tags),
        "args": parse_arguments(redactor.argv(source.arguments)),
        "job_id": job.base_job_id,
        "het_job_id": job.base_job_id if job.het else None,
        "job_name": job.name,
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "time_limit_s": job.time_limit,
        "parent_submission": parent.uuid if parent else None,
        "parent_task": parent.task if parent else None,
        "rerun_of": source.rerun_of,
    }


def bounded(values: dict[str, Any]) -> dict[str, Any]:
    """Return what a record says, cut where it is longer than the tables take."""
    cut = dict(values)
    for name, limit in _TEXTS.items():
        if isinstance(cut.get(name), str):
            cut[name] = limits.cut(limit, cut[name])
    for name, limit in _OBJECTS.items():
        if isinstance(cut.get(name), dict):
            cut[name] = limits.cut_object(limit, limits.VARIABLE, cut[name])
    return cut


def storable(value: Any) -> Any:
    r"""Return a JSON value that PostgreSQL takes: bytes that are not UTF-8 written out (``\xff``), no NUL."""
    if isinstance(value, str):
        return _storable_text(value)
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return value


def _storable_text(text: str) -> str:
    if not text.isascii():
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.replace("\0", "\\x00")
