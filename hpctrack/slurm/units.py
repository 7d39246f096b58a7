"""How squeue and sacct write times, spans, sizes, exits and array tasks. Pure."""

from __future__ import annotations

import functools
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NONE = frozenset(
    ("", "N/A", "n/a", "None", "NONE", "Unknown", "None assigned", "(null)", "INVALID", "NOT_SET")
)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)  # adding to it is many times faster than fromtimestamp()
_ARRAY = re.compile(r"(\d+)_(?:(\d+)|\[([^\]]*)\]?)\Z")
_ITEM = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?\Z")
_SIZE = re.compile(r"(\d+(?:\.\d*)?)([KMGTPE]?)[cn]?\Z", re.IGNORECASE)
#: What slurmctld makes of no limit where it has to reckon with one (YEAR_MINUTES in its sources).
_NO_LIMIT = timedelta(days=365)
_UNLIMITED = frozenset(("UNLIMITED", "365-00:00:00", "525600"))
_SCALE = {unit: 1 << 10 * power for power, unit in enumerate(("", "K", "M", "G", "T", "P", "E"))}


def text(word: str) -> str | None:
    """Return a word, or None for the many ways in which Slurm says that there is none."""
    return None if word in _NONE else word


def number(word: str) -> int | None:
    """Read a natural number; None for any other word."""
    return int(word) if word.isdecimal() else None


class Times(dict[str, "datetime | None"]):
    """Times by their text, each read once. Raises ValueError for what is no time."""

    def __missing__(self, word: str) -> datetime | None:
        self[word] = moment = time(word)
        return moment


def time(word: str) -> datetime | None:
    """Read a time: seconds since the epoch, or local without a zone; None for ``Unknown`` and the like."""
    if word in _NONE:
        return None
    if word.isdecimal():
        try:
            return _EPOCH + timedelta(seconds=int(word))
        except OverflowError as error:
            raise ValueError(word) from error
    return datetime.fromisoformat(word).astimezone(timezone.utc)


@functools.lru_cache(4096)
def seconds(word: str) -> float | None:
    """Read a span of time, ``[[days-]hours:]minutes:seconds[.fraction]``; None for ``UNLIMITED``."""
    days, dash, clock = word.rpartition("-")
    total = 0.0
    try:
        for part in clock.split(":"):
            total = total * 60 + float(part)
        return total + 86400 * int(days) if dash else total
    except ValueError:
        return None


@functools.lru_cache(4096)
def span(word: str) -> timedelta | None:
    """Read a time limit as squeue prints it; None for ``UNLIMITED`` and the year that stands for it."""
    total = seconds(word)
    return None if total is None else _limit(timedelta(seconds=total))


@functools.lru_cache(4096)
def minutes(word: str) -> timedelta | None:
    """Read a time limit in minutes; None for ``UNLIMITED``, its year, and ``Partition_Limit``."""
    return _limit(timedelta(minutes=int(word))) if word.isdecimal() else None


def is_unlimited(word: str) -> bool:
    """Whether a time limit, in minutes or as a span, is known to be none."""
    return word in _UNLIMITED


def _limit(limit: timedelta) -> timedelta | None:
    return None if limit == _NO_LIMIT else limit


@functools.lru_cache(4096)
def peak(word: str) -> int | None:
    """Read the most memory that Slurm saw in use, in bytes; None for 0, a job too short to be looked at."""
    return size(word) or None


@functools.lru_cache(4096)
def size(word: str) -> int | None:
    """Read a size such as ``216K``, ``1.5G`` or ``4000Mc`` in bytes; a count without unit stays as it is."""
    match = _SIZE.match(word)
    return int(float(match[1]) * _SCALE[match[2].upper()]) if match else None


@functools.lru_cache(4096)
def tres(words: str) -> Mapping[str, int]:
    """Read trackable resources, ``cpu=2,mem=500M,gres/gpu=1``: counts, and memory in bytes."""
    pairs = (item.partition("=") for item in words.split(","))
    return {name: amount for name, _, value in pairs if (amount := size(value)) is not None}


@functools.lru_cache(4096)
def exit_status(word: str) -> tuple[int | None, int | None]:
    """Read ``code:signal``, or a wait status as squeue prints it before Slurm 23.11."""
    code, colon, signal = word.partition(":")
    if not code.isdecimal():
        return None, None
    if colon:
        return int(code), number(signal)
    status = int(code)
    return (0, status & 0x7F) if status & 0x7F else (status >> 8, 0)


def array(word: str) -> tuple[int | None, int | None, tuple[range, ...]]:
    """Read ``12_3``, ``12_[1-5,7%2]`` or a plain id: array's id, task, or the tasks that stand together."""
    match = _ARRAY.match(word) if "_" in word else None
    if not match:
        return None, None, ()
    if match[2]:
        return int(match[1]), int(match[2]), ()
    return int(match[1]), None, array_tasks(match[3])


def array_tasks(words: str) -> tuple[range, ...]:
    """Read a list of array tasks, ``0-15:4,20%2``. What Slurm cut off (``...``) is left out."""
    items = words.partition("%")[0].split(",")
    matches = (_ITEM.match(item) for item in items)
    return tuple(range(int(f[1]), int(f[2] or f[1]) + 1, int(f[3] or 1)) for f in matches if f)
