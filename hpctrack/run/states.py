"""Slurm's job states and state flags: what each means for a run, how Slurm prints it and how it looks. Pure.

A state is one row of the table, which says all that is to be known of it.

Sources: ``slurm.h`` (``enum job_states``, ``JOB_STATE_FLAGS``), ``job_state_string()`` and the page "Job
State Codes" of Slurm's documentation, releases 20.11 to 26.05. squeue and sacct print one word: the first
flag they know, else the base state.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors
from hpctrack.model import RunStatus
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
STOPPED = Look("⊘", "#b04fa0")
BROKEN = Look("✗", "#e04030", bold=True)


class State(NamedTuple):
    """One row of the table. Both commands print the status's own name, sacct with ``by UID`` if cancelled."""

    status: RunStatus
    code: str
    """Slurm's compact form (squeue(1), "JOB STATE CODES"); EX, PU and RC, where it has none, are ours."""
    stage: Stage
    ends: Ends
    look: Look
    squeue: bool
    """Whether squeue shows it without ``--states``."""
    sacct: bool
    """Whether accounting stores it."""

    @property
    def live(self) -> bool:
        """Whether a job may be in this state and still go on."""
        return self.ends is not Ends.RUN


_S = RunStatus
_STATES = (
    State(_S.PENDING, "PD", Stage.WAITING, Ends.NOTHING, WAITING, squeue=True, sacct=True),
    State(_S.REQUEUE_FED, "RF", Stage.WAITING, Ends.NOTHING, WAITING, squeue=True, sacct=False),
    State(_S.REQUEUE_HOLD, "RH", Stage.WAITING, Ends.NOTHING, WAITING, squeue=True, sacct=False),
    State(_S.RESV_DEL_HOLD, "RD", Stage.WAITING, Ends.NOTHING, WAITING, squeue=True, sacct=False),
    State(_S.SPECIAL_EXIT, "SE", Stage.WAITING, Ends.NOTHING, BROKEN, squeue=True, sacct=False),
    State(_S.EXPEDITING, "EX", Stage.WAITING, Ends.NOTHING, ACTIVE, squeue=True, sacct=False),
    # Of a job in a federation: a sibling on another cluster goes on. Not the end of the job.
    State(_S.REVOKED, "RV", Stage.WAITING, Ends.NOTHING, STOPPED, squeue=False, sacct=True),
    # Flags that Slurm keeps to itself, but for newer releases' lists of all flags.
    State(_S.LAUNCH_FAILED, "LF", Stage.WAITING, Ends.NOTHING, BROKEN, squeue=False, sacct=False),
    State(_S.RECONFIG_FAIL, "RC", Stage.WAITING, Ends.NOTHING, BROKEN, squeue=False, sacct=False),
    State(_S.POWER_UP_NODE, "PU", Stage.STARTING, Ends.NOTHING, WAITING, squeue=False, sacct=False),
    State(_S.CONFIGURING, "CF", Stage.STARTING, Ends.NOTHING, WAITING, squeue=True, sacct=False),
    State(_S.RUNNING, "R", Stage.RUNNING, Ends.NOTHING, ACTIVE, squeue=True, sacct=True),
    State(_S.SUSPENDED, "S", Stage.RUNNING, Ends.NOTHING, WAITING, squeue=True, sacct=True),
    State(_S.STOPPED, "ST", Stage.RUNNING, Ends.NOTHING, WAITING, squeue=True, sacct=False),
    State(_S.SIGNALING, "SI", Stage.RUNNING, Ends.NOTHING, ACTIVE, squeue=True, sacct=False),
    # In accounting: the part of an execution before the job changed its size; the next row continues it.
    State(_S.RESIZING, "RS", Stage.RUNNING, Ends.NOTHING, ACTIVE, squeue=True, sacct=True),
    State(_S.COMPLETING, "CG", Stage.COMPLETING, Ends.NOTHING, ACTIVE, squeue=True, sacct=False),
    State(_S.STAGE_OUT, "SO", Stage.COMPLETING, Ends.NOTHING, ACTIVE, squeue=True, sacct=False),
    # squeue shows REQUEUED in passing, of a job that is about to wait again.
    State(_S.REQUEUED, "RQ", Stage.ENDED, Ends.ATTEMPT, WAITING, squeue=True, sacct=True),
    State(_S.PREEMPTED, "PR", Stage.ENDED, Ends.ATTEMPT, WAITING, squeue=False, sacct=True),
    State(_S.COMPLETED, "CD", Stage.ENDED, Ends.RUN, DONE, squeue=False, sacct=True),
    State(_S.CANCELLED, "CA", Stage.ENDED, Ends.RUN, STOPPED, squeue=False, sacct=True),
    State(_S.FAILED, "F", Stage.ENDED, Ends.RUN, BROKEN, squeue=False, sacct=True),
    State(_S.TIMEOUT, "TO", Stage.ENDED, Ends.RUN, BROKEN, squeue=False, sacct=True),
    State(_S.NODE_FAIL, "NF", Stage.ENDED, Ends.RUN, BROKEN, squeue=False, sacct=True),
    State(_S.BOOT_FAIL, "BF", Stage.ENDED, Ends.RUN, BROKEN, squeue=False, sacct=True),
    State(_S.DEADLINE, "DL", Stage.ENDED, Ends.RUN, BROKEN, squeue=False, sacct=True),
    State(_S.OUT_OF_MEMORY, "OOM", Stage.ENDED, Ends.RUN, BROKEN, squeue=False, sacct=True),
)
TABLE: dict[RunStatus, State] = {state.status: state for state in _STATES}
"""Every status. `tests/unit/run/test_states.py` holds that none is missing."""

BY_CODE: dict[str, RunStatus] = {state.code: state.status for state in _STATES}
_STAGES = {state.status: state.stage for state in _STATES}
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


def stage_of(status: RunStatus) -> Stage:
    """How far an execution in this state is."""
    return _STAGES[status]


def has_ended(status: RunStatus | None) -> bool:
    """Whether a job, or one of its executions, is over in a state; not where none is known."""
    return status is not None and stage_of(status) is Stage.ENDED


def ends(status: RunStatus) -> Ends:
    """What is over in this state."""
    return TABLE[status].ends


def look_of(status: RunStatus) -> Look:
    """How this state looks."""
    return TABLE[status].look
