"""The words that people write and read for several runs, tags, times, lengths of time and exits. Pure."""

from __future__ import annotations

import re
import signal
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.run import array_spec, runids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: ``runs.reason`` where neither squeue nor accounting knows the job.
UNKNOWN_TO_SLURM = "unknown to Slurm"
#: Some tasks of an array, as squeue and our lists write them.
_TASKS = re.compile(r"([0-9]{1,18})_\[([0-9]{1,9}[0-9,:%-]*)\]")
#: Neighbouring runs.
_SPAN = re.compile(r"r([0-9]{1,18})-r?([0-9]{1,18})")
_NUMBERS = re.compile(r"[0-9]{1,18}(?:-[0-9]{1,18})?")
_COMMA = re.compile(r",(?![^\[]*\])")
_SEVERAL_AT_ONCE = 100_000
#: Characters of a list of runs; what is cut ends so that it means nothing where it is pasted.
_LONGEST = 1000

_LENGTH = re.compile(r"(\d+(?:\.\d+)?) *(s|min|h|d|w)", re.IGNORECASE)
_UNITS = {
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def length(text: str) -> timedelta | None:
    """Read a length of time: ``90s``, ``30min``, ``3h``, ``1.5d``, ``2w``; None for anything else."""
    match = _LENGTH.fullmatch(text.strip())
    try:
        return None if match is None else float(match[1]) * _UNITS[match[2].lower()]
    except OverflowError:
        return None


def counted(number: int, what: str) -> str:
    """Return a number of things: ``1 run``, ``2,000 runs``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def named(ids: Sequence[int]) -> str:
    """Return runs as one word that can be pasted; how many they are beside, where it is several."""
    if len(ids) == 1:
        return f"r{ids[0]}"
    text = runids.runs_text(ids)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST].rpartition(',')[0]},..."
    return f"{counted(len(ids), 'run')} ({text})"


def any_of(ids: Sequence[int]) -> str:
    """Return how messages call runs of which none has something: ``r7``, ``any of these 3 runs``."""
    return f"r{ids[0]}" if len(ids) == 1 else f"any of these {counted(len(ids), 'run')}"


def exit_text(code: int | None, signal_number: int | None) -> str | None:
    """Return how a process ended: ``0``, ``3``, ``SIGSEGV``; None for what is not known."""
    if not signal_number:
        return None if code is None else str(code)
    try:
        return signal.Signals(signal_number).name
    except ValueError:
        return f"signal {signal_number}"


def time(text: str) -> datetime:
    """Read a time: so long ago, or an ISO date and time (local unless it names a zone).

    Raises `errors.UsageError`.
    """
    ago = length(text)
    try:
        if ago is not None:
            return datetime.now().astimezone() - ago
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise errors.UsageError(
            f"{text!r} is no time: write 2d, 3h or 30min, or 2026-01-31 or 2026-01-31T12:00"
        ) from None


def tag(text: str) -> tuple[str, str | None]:
    """Read a tag that runs shall have: ``name=value``, or a bare name (None), whatever its value."""
    name, equals, value = text.partition("=")
    return name, value if equals else None


def goal(text: str) -> tuple[str, str]:
    """Read when a metric is better: ``max:val/acc`` is ``("val/acc", "max")``. Raises `errors.UsageError`."""
    better, _, metric = text.partition(":")
    if better not in ("max", "min") or not metric:
        raise errors.UsageError(f"{text!r} is no goal: write max:METRIC or min:METRIC")
    return metric, better


def runs(text: str) -> tuple[runids.RunRef, ...]:
    """Read what may name several runs, as lists write them: ``14_[0-3,7]``, ``r3-26,30``, ``14,15_2``.

    Raises `errors.UsageError` as `runids.parse` does, and for more than can be meant by hand.
    """
    words = _several(text.strip())
    try:
        refs = [ref for word in words for ref in _refs(word)]
        if len(refs) > _SEVERAL_AT_ONCE:
            raise ValueError(text)
    except ValueError:
        match = _TASKS.fullmatch(text.strip())
        whole = f"; all tasks of an array: {match[1]}" if match else ""
        raise errors.UsageError(f"{text.strip()!r} is not 1 to {_SEVERAL_AT_ONCE:,} runs{whole}") from None
    return tuple(refs)


def _several(text: str) -> list[str]:
    """Split a list of ids at its commas; numbers behind a run's own id are such ids, too.

    What is no such list as a whole is one word.
    """
    parts = _COMMA.split(text.removesuffix(","))
    own = parts[0].startswith("r")
    words = [f"r{part}" if own and _NUMBERS.fullmatch(part) else part for part in parts]
    return words if all(map(_is_id, words)) else [text]


def _is_id(word: str) -> bool:
    if _TASKS.fullmatch(word) or _SPAN.fullmatch(word):
        return True
    return word.strip() == word != "" and not runids.parse(word).named


def _refs(word: str) -> Iterator[runids.RunRef]:
    """Yield the runs of a word without commas. Raises ValueError for too many."""
    if match := _TASKS.fullmatch(word):
        yield from (runids.parse(f"{match[1]}_{task}") for task in _tasks(match[2]))
    elif match := _SPAN.fullmatch(word):
        span = range(int(match[1]), int(match[2]) + 1)
        _check(span)
        yield from (runids.parse(f"r{number}") for number in span)
    else:
        yield runids.parse(word)


def _tasks(text: str) -> Sequence[int]:
    ends = (part.partition(":")[0].partition("-") for part in text.partition("%")[0].split(","))
    _check(*(range(int(first), int(last) + 1) for first, dash, last in ends if dash))
    return array_spec.expand(text)


def _check(*spans: range) -> None:
    """Raise ValueError for an empty span, or for too much to be meant."""
    if sum(map(len, spans)) > _SEVERAL_AT_ONCE or not all(spans):
        raise ValueError(spans)
