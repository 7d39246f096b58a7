"""Slurm's job states and state flags: what each means for a run, how Slurm prints it and how it looks. Pure.

A state is one row of `RunStatus`, which says all that is to be known of it.

Sources: ``slurm.h`` (``enum job_states``, ``JOB_STATE_FLAGS``), ``job_state_string()`` and the page "Job
State Codes" of Slurm's documentation, releases 20.11 to 26.05. squeue and sacct print one word: the first
flag they know, else the base state.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack import errors
from hpctrack.text import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable


class Stage(enum.IntEnum):
    """How far an execution is; it only ever goes forward."""

    WAITING = 1
    STARTING = 2
    RUNNING = 3
    COMPLETING = 4
    ENDED = 5


class Ends(enum.Enum):
    """What is over in a state."""

    NOTHING = "nothing"
    ATTEMPT = "attempt"
    """This execution; Slurm may start the job again."""
    RUN = "run"
    """The job, if squeue no longer lists it."""


class Look(NamedTuple):
    """How a state looks in the terminal, in notebooks and on pages.

    After Okabe and Ito's palette for colour-blind people, moved so that terminals with 16 colours show five
    different ones too; glyph and word say the same without any colour.
    """

    glyph: str
    colour: str
    """``#rrggbb``."""
    bold: bool = False
    """For what wants to be seen."""


WAITING = Look("○", "#e69f00")
ACTIVE = Look("●", "#56b4e9", bold=True)
DONE = Look("✓", "#009e73")
WITHDRAWN = Look("⊘", "#b04fa0")
BROKEN = Look("✗", "#e04030", bold=True)


class RunStatus(enum.Enum):
    """Slurm's job states and state flags, one-to-one: a row each.

    A row is the name, which both commands print, code, stage, what ends, look, and whether squeue and sacct
    have it.
    """

    value: str
    code: str
    """Slurm's compact form (squeue(1), "JOB STATE CODES"); EX, PU and RC, where it has none, are ours."""
    stage: Stage
    """How far an execution in this state is."""
    ends: Ends
    """What is over in this state."""
    look: Look
    squeue: bool
    """Whether squeue shows it without ``--states``."""
    sacct: bool
    """Whether accounting stores it; its command says ``by UID`` of one that was cancelled."""

    def __new__(cls, name: str, *row: Any) -> RunStatus:
        """Make a member of its row."""
        status = object.__new__(cls)
        status._value_ = name
        status.code, status.stage, status.ends, status.look, status.squeue, status.sacct = row
        return status

    # Members are singletons; Enum's own hash is written in Python, and the reconciler looks up many.
    __hash__ = object.__hash__

    PENDING = "PENDING", "PD", Stage.WAITING, Ends.NOTHING, WAITING, True, True
    REQUEUE_FED = "REQUEUE_FED", "RF", Stage.WAITING, Ends.NOTHING, WAITING, True, False
    REQUEUE_HOLD = "REQUEUE_HOLD", "RH", Stage.WAITING, Ends.NOTHING, WAITING, True, False
    RESV_DEL_HOLD = "RESV_DEL_HOLD", "RD", Stage.WAITING, Ends.NOTHING, WAITING, True, False
    SPECIAL_EXIT = "SPECIAL_EXIT", "SE", Stage.WAITING, Ends.NOTHING, BROKEN, True, False
    EXPEDITING = "EXPEDITING", "EX", Stage.WAITING, Ends.NOTHING, ACTIVE, True, False
    # Of a job in a federation: a sibling on another cluster goes on. Not the end of the job.
    REVOKED = "REVOKED", "RV", Stage.WAITING, Ends.NOTHING, WITHDRAWN, False, True
    # Flags that Slurm keeps to itself, but for newer releases' lists of all flags.
    LAUNCH_FAILED = "LAUNCH_FAILED", "LF", Stage.WAITING, Ends.NOTHING, BROKEN, False, False
    RECONFIG_FAIL = "RECONFIG_FAIL", "RC", Stage.WAITING, Ends.NOTHING, BROKEN, False, False
    POWER_UP_NODE = "POWER_UP_NODE", "PU", Stage.STARTING, Ends.NOTHING, WAITING, False, False
    CONFIGURING = "CONFIGURING", "CF", Stage.STARTING, Ends.NOTHING, WAITING, True, False
    RUNNING = "RUNNING", "R", Stage.RUNNING, Ends.NOTHING, ACTIVE, True, True
    SUSPENDED = "SUSPENDED", "S", Stage.RUNNING, Ends.NOTHING, WAITING, True, True
    STOPPED = "STOPPED", "ST", Stage.RUNNING, Ends.NOTHING, WAITING, True, False
    SIGNALING = "SIGNALING", "SI", Stage.RUNNING, Ends.NOTHING, ACTIVE, True, False
    # In accounting: the part of an execution before the job changed its size; the next row continues it.
    RESIZING = "RESIZING", "RS", Stage.RUNNING, Ends.NOTHING, ACTIVE, True, True
    COMPLETING = "COMPLETING", "CG", Stage.COMPLETING, Ends.NOTHING, ACTIVE, True, False
    STAGE_OUT = "STAGE_OUT", "SO", Stage.COMPLETING, Ends.NOTHING, ACTIVE, True, False
    # squeue shows REQUEUED in passing, of a job that is about to wait again.
    REQUEUED = "REQUEUED", "RQ", Stage.ENDED, Ends.ATTEMPT, WAITING, True, True
    PREEMPTED = "PREEMPTED", "PR", Stage.ENDED, Ends.ATTEMPT, WAITING, False, True
    COMPLETED = "COMPLETED", "CD", Stage.ENDED, Ends.RUN, DONE, False, True
    CANCELLED = "CANCELLED", "CA", Stage.ENDED, Ends.RUN, WITHDRAWN, False, True
    FAILED = "FAILED", "F", Stage.ENDED, Ends.RUN, BROKEN, False, True
    TIMEOUT = "TIMEOUT", "TO", Stage.ENDED, Ends.RUN, BROKEN, False, True
    NODE_FAIL = "NODE_FAIL", "NF", Stage.ENDED, Ends.RUN, BROKEN, False, True
    BOOT_FAIL = "BOOT_FAIL", "BF", Stage.ENDED, Ends.RUN, BROKEN, False, True
    DEADLINE = "DEADLINE", "DL", Stage.ENDED, Ends.RUN, BROKEN, False, True
    OUT_OF_MEMORY = "OUT_OF_MEMORY", "OOM", Stage.ENDED, Ends.RUN, BROKEN, False, True


BY_CODE = {status.code: status for status in RunStatus}
_BY_WORD = {status.value: status for status in RunStatus}
_BY_TEXT = _BY_WORD | BY_CODE


def status_of(text: str) -> RunStatus | None:
    """Read what Slurm printed for a state: ``CANCELLED by 1000``, ``Running``, ``PD``, ``OUT_OF_ME+``.

    The first word counts, in any case; one that ends with ``+`` was cut short by a narrow column. None for
    a word that this table does not know: keep the text, and never take it for an end.
    """
    known = _BY_TEXT.get(text)
    if known is not None:
        return known
    first, *_ = text.split(None, 1) or [""]
    word = first.upper()
    known = _BY_TEXT.get(word.rstrip("+"))
    if known is None and len(word) > 3 and word.endswith("+"):
        candidates = [name for name in _BY_WORD if name.startswith(word[:-1])]
        known = _BY_WORD[candidates[0]] if len(candidates) == 1 else None
    return known


def parse(word: str) -> RunStatus:
    """Read a state that somebody wrote, in any case or in its compact form. Raises `errors.UsageError`."""
    upper = word.strip().upper()
    if upper not in BY_CODE and upper not in _BY_WORD:
        known = nearest.of_ours(upper, _BY_WORD, "or compact: PD, R, CD ...")
        raise errors.UsageError(f"{upper!r} is no job state of Slurm's: {known}")
    return _BY_TEXT[upper]


def parse_lists(texts: Iterable[str]) -> tuple[RunStatus, ...]:
    """Read states, several joined by commas: ``running``, ``PD,R``. Raises `errors.UsageError`."""
    return tuple(parse(word) for text in texts for word in text.split(",") if word.strip())


def has_ended(status: RunStatus | None) -> bool:
    """Whether a job, or one of its executions, is over in a state; not where none is known."""
    return status is not None and status.stage is Stage.ENDED
