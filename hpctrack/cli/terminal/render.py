"""Records to what people and programs read. Pure; dashes are made here and nowhere else.

What comes from a job (its name, its stderr) may hold anything, escape sequences for the terminal included:
all of it goes through `clean` or `clean_lines`, see `hpctrack.text.visible`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import signal
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from rich.text import Text

from hpctrack.cli import common
from hpctrack.model import RunStatus
from hpctrack.run import states
from hpctrack.run import words as words_
from hpctrack.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hpctrack.store.metrics.series import Bucket, Series
    from hpctrack.store.read.queries import Cluster, RunRow

UNKNOWN = "-"
WARNING = "#e04030"
_BLOCKS = "▁▂▃▄▅▆▇█"
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


#: Reasons that say no more than the state does.
_SILENT_REASONS = frozenset((None, "", "None", "NonZeroExitCode", "RaisedSignal"))


clean, harmless = visible.line, visible.in_json


def clean_lines(text: str) -> list[str]:
    """Return the lines of a program's output, without colours, and with what progress bars drew last."""
    lines = _ESCAPE.sub("", text).replace("\r\n", "\n").rstrip("\n").split("\n")
    return [visible.shown(line.rstrip("\r").rpartition("\r")[2].expandtabs()) for line in lines]


def state(status: RunStatus | None, raw: str | None = None, *, plain: bool = False) -> Text:
    """Return a state in its colour; ``raw`` stands for one that is not in our list."""
    word = clean(raw or UNKNOWN) if status is None else status.value
    if plain or status is None:
        return Text(word)
    look = states.look_of(status)
    return Text(f"{look.glyph} {word}", style=f"bold {look.colour}" if look.bold else look.colour)


def duration(length: timedelta | None) -> str:
    """Return a length of time as squeue writes it: ``M:SS``, ``H:MM:SS``, ``D-HH:MM:SS``."""
    if length is None:
        return UNKNOWN
    minutes, seconds = divmod(max(int(length.total_seconds()), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{seconds:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def size(count: int | None) -> str:
    """Return a number of bytes with a binary unit."""
    if count is None:
        return UNKNOWN
    number = float(count)
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    unit = units.pop(0)
    while abs(round(number)) >= 1024 and units:
        number, unit = number / 1024, units.pop(0)
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.3g} {unit}"


def percent(ratio: float | None) -> str:
    """Return a share in whole percent, a small one with a digit more."""
    if ratio is None:
        return UNKNOWN
    if 0 < ratio < 0.0005:
        return "<0.1%"
    return f"{100 * ratio:.0f}%" if ratio >= 0.01 or ratio == 0 else f"{100 * ratio:.1f}%"


def number(value: object) -> str:
    """Return a metric's value: four significant digits for a float, all of an integer."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.4g}"
    if isinstance(value, dict | list):
        return clean(json.dumps(value, ensure_ascii=False))
    return clean(value)


def moment(time: datetime | None) -> str:
    """Return a time in the local zone, to the second."""
    return UNKNOWN if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def exit_text(code: int | None, signal_number: int | None) -> str:
    """Return how a process ended: ``0``, ``3``, ``SIGSEGV``."""
    if signal_number:
        try:
            return signal.Signals(signal_number).name
        except ValueError:
            return f"signal {signal_number}"
    return UNKNOWN if code is None else str(code)


def attempt(count: int) -> str:
    """Return an attempt as people count: SLURM_RESTART_COUNT 2 is ``attempt 3``."""
    return f"attempt {count + 1}"


def notes(run: RunRow) -> list[str]:
    """Return what is worth saying about a run beside its state, not cleaned yet."""
    found: list[str] = []
    if run.exit_signal or run.exit_code:
        found.append(
            exit_text(run.exit_code, run.exit_signal) if run.exit_signal else f"exit {run.exit_code}"
        )
    if run.reason not in _SILENT_REASONS:
        found.append(str(run.reason))
    if run.attempt > 0:
        found.append(attempt(run.attempt))
    if run.lost > 0:
        found.append(f"{run.lost} lost")
    if run.waiting > 0:
        found.append(waiting(run.waiting))
    if run.missing_since is not None and run.time_ended is None and run.reason == words_.UNKNOWN_TO_SLURM:
        found[found.index(run.reason)] = f"{run.reason} since {moment(run.missing_since)}"
    if run.silent_since is not None:
        found.append(f"not heard from since {moment(run.silent_since)}")
    return found


def waiting(rows: int) -> str:
    """Return what is said of rows that wait."""
    return f"{common.counted(rows, 'row')} waiting in spool"


def pairs(values: Mapping[str, object], separator: str = "  ") -> Text:
    """Return names and values in one line, the names dim."""
    text = Text()
    for name, value in values.items():
        text.append(separator if text else "").append(clean(name), "dim").append(" ").append(number(value))
    return text


def words(tags: Any) -> str:
    """Return tags as they are given: ``baseline, sweep=lr``."""
    if not isinstance(tags, dict):
        return "" if tags is None else to_json(tags)
    return ", ".join(name if value in (None, True, "") else f"{name}={value}" for name, value in tags.items())


def cluster_warning(cluster: Cluster, now: datetime) -> str | None:
    """Return the line that says a cluster's Slurm does not answer; None while it does, or nobody waits."""
    since = cluster.unreachable_since
    if since is None or not cluster.awaited:
        return None
    why = f": {clean(cluster.error)}" if cluster.error else ""
    return (
        f"Slurm of cluster {clean(cluster.name)} has not answered since {moment(since)} "
        f"({duration(now - since)} ago); states may be out of date{why}"
    )


def sparkline(series: Series, width: int) -> str:
    """Return a metric's course in blocks, at most ``width`` of them.

    A block stands for the middle of its values, but where the least or greatest value of all lies, for that.
    """
    low, high = series.minimum, series.maximum
    if low is None or high is None:
        return ""
    buckets = series.buckets[-width:] if len(series.buckets) > width else series.buckets
    return "".join(_block(_height(bucket, low, high), low, high) for bucket in buckets)


def _height(bucket: Bucket, low: float, high: float) -> float:
    if bucket.maximum == high:
        return high
    return low if bucket.minimum == low else bucket.minimum / 2 + bucket.maximum / 2


def _block(value: float, low: float, high: float) -> str:
    span = high / 2 - low / 2
    if span <= 0:
        return _BLOCKS[3]
    share = (value / 2 - low / 2) / span
    return _BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)]


# --- JSON: the keys are documented in docs/json.md and stay -------------------------------------------------


def to_json(value: object) -> str:
    """Return JSON text; nan and infinities, which JSON has no form for, as strings."""
    return harmless(json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False))


def jsonable(value: object) -> Any:
    """Return a value that JSON can hold: times in ISO 8601 in UTC, lengths of time in seconds."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, RunStatus):
        return value.value
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def run_json(run: RunRow, now: datetime) -> dict[str, Any]:
    """Return a run as an object."""
    return {
        "run": f"r{run.id}",
        "id": run.id,
        "job_id": run.job,
        "slurm_job_id": run.slurm_job_id,
        "array_job_id": run.array_job_id,
        "array_task_id": run.array_task_id,
        "het_job_id": run.het_job_id,
        "experiment": run.experiment,
        "name": run.job_name,
        "user": run.user_name,
        "cluster": run.cluster,
        "partition": run.partition,
        "state": run.status,
        "slurm_state": run.slurm_state,
        "reason": run.reason,
        "missing_since": run.missing_since,
        "silent_since": run.silent_since,
        "restarts": run.attempt,
        "time_created": run.time_created,
        "time_started": run.time_started,
        "time_ended": run.time_ended,
        "elapsed_s": run.elapsed(now),
        "time_limit_s": run.time_limit,
        "nodes": run.node_list,
        "exit_code": run.exit_code,
        "exit_signal": run.exit_signal,
        "tags": run.tags,
        "args": run.args,
        "last_step": run.last_step,
        "last": run.last,
        "rows": run.rows,
        "lost": run.lost,
        "waiting_rows": run.waiting,
    }


def record_json(record: Any, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """Return a frozen record as an object, its fields the keys."""
    if isinstance(record, tuple):
        names = type(record)._fields  # type: ignore[attr-defined]  # a NamedTuple
    else:
        names = [field.name for field in dataclasses.fields(record)]
    return {name: getattr(record, name) for name in names if name not in leave_out}
