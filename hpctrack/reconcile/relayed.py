"""What relays say, as facts. Pure; trusts no type in what comes from a node."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from hpctrack.model import JobFacts, RelayMessage, RunStatus
from hpctrack.reconcile.attempts import verdict_of
from hpctrack.run import runids

if TYPE_CHECKING:
    from collections.abc import Mapping

_INT32 = range(-(1 << 31), 1 << 31)
_INT64 = range(-(1 << 63), 1 << 63)
_STDERR_TAIL = 4096
#: Reason of an end whose supervisor was killed before it.
UNSEEN = "how it ended was not seen: its supervisor was killed"


def fact_of(message: RelayMessage, now: datetime) -> JobFacts | None:
    """Return the fact in a ``hello``, ``start`` or ``fin``; None for other messages.

    A ``fin`` carries the verdict on the script's own end; for a batch job `plan` takes no more of it than
    that the script has ended.
    """
    body = message.body
    when = _time(body.get("time")) or now
    common: dict[str, Any] = {
        "source": "relay",
        "cluster": None,
        "job_id": _integer(body.get("job_id"), _INT64) or 0,
        "run_id": message.run_id,
        "attempt": message.attempt,
        "time": when,
    }
    if message.kind == "hello":
        return JobFacts(
            **common,
            raw="hello",
            status=RunStatus.RUNNING,
            time_started=when,
            batch_host=_text(body.get("node")),
        )
    if message.kind == "start":
        return JobFacts(
            **common,
            raw="start",
            status=RunStatus.RUNNING,
            stdout_path=_text(body.get("stdout")),
            stderr_path=_text(body.get("stderr")),
            node_list=_text(body.get("node_list")),
            sluid=_sluid(body.get("env")),
        )
    return _fin(body, common) if message.kind == "fin" else None


def _fin(body: Mapping[str, Any], common: dict[str, Any]) -> JobFacts:
    exit_code = _integer(body.get("exit_code"), _INT32)
    exit_signal = _integer(body.get("exit_signal"), _INT32)
    out_of_memory = bool(body.get("out_of_memory"))
    tail = _text(body.get("stderr_tail"))
    unseen = exit_code is None and exit_signal is None
    if out_of_memory:
        raw = "fin: out of memory"
    elif unseen:
        raw = "fin: not seen"
    else:
        raw = f"fin: signal {exit_signal}" if exit_signal else f"fin: exit {exit_code}"
    return JobFacts(
        **common,
        raw=raw,
        status=verdict_of(exit_code, exit_signal, out_of_memory=out_of_memory),
        exit_code=exit_code,
        exit_signal=exit_signal,
        reason=UNSEEN if unseen else None,
        time_ended=common["time"],
        stderr_tail=tail[-_STDERR_TAIL:] if tail else None,
    )


def environment_of(message: RelayMessage) -> dict[str, str] | None:
    """Return the environment in a ``start``; None for other messages, or where it has none."""
    env = message.body.get("env") if message.kind == "start" else None
    if not isinstance(env, dict):
        return None
    return {
        _storable(name): _storable(value)
        for name, value in env.items()
        if isinstance(name, str) and isinstance(value, str)
    }


def _sluid(env: object) -> str | None:
    found = env.get("SLURM_JOB_SLUID") if isinstance(env, dict) else None
    return runids.sluid(found) if isinstance(found, str) else None


def _storable(text: str) -> str:
    """Replace what PostgreSQL can't store: NUL and lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _text(value: object) -> str | None:
    return _storable(value) if isinstance(value, str) and value else None


def _integer(value: object, limits: range) -> int | None:
    return value if type(value) is int and value in limits else None


def _time(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(value, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
