"""Slurm's job states and state flags: what each means for a run, and how Slurm prints it. Pure.

Sources: ``slurm.h`` (``enum job_states``, ``JOB_STATE_FLAGS``), ``job_state_string()`` and the page "Job
State Codes" of Slurm's documentation, releases 20.11 to 26.05. squeue and sacct print one word: the first
flag they know, else the base state.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from hpctrack.model import RunStatus
from hpctrack.run import words


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


class State(NamedTuple):
    """One row of the table. Both commands print the status's own name, sacct with ``by UID`` if cancelled."""

    status: RunStatus
    stage: Stage
    ends: Ends
    squeue: bool
    """Whether squeue shows it without ``--states``."""
    sacct: bool
    """Whether accounting stores it."""

    @property
    def compact(self) -> str:
        """Code as in squeue's column ST; where Slurm has none, one of ours."""
        return _CODES[self.status]

    @property
    def live(self) -> bool:
        """Whether a job may be in this state and still go on."""
        return self.ends is not Ends.RUN


_CODES = {status: code for code, status in words.STATE_CODES.items()}
_S = RunStatus
_STATES = (
    State(_S.PENDING, Stage.WAITING, Ends.NOTHING, squeue=True, sacct=True),
    State(_S.REQUEUE_FED, Stage.WAITING, Ends.NOTHING, squeue=True, sacct=False),
    State(_S.REQUEUE_HOLD, Stage.WAITING, Ends.NOTHING, squeue=True, sacct=False),
    State(_S.RESV_DEL_HOLD, Stage.WAITING, Ends.NOTHING, squeue=True, sacct=False),
    State(_S.SPECIAL_EXIT, Stage.WAITING, Ends.NOTHING, squeue=True, sacct=False),
    State(_S.EXPEDITING, Stage.WAITING, Ends.NOTHING, squeue=True, sacct=False),
    # Of a job in a federation: a sibling on another cluster goes on. Not the end of the job.
    State(_S.REVOKED, Stage.WAITING, Ends.NOTHING, squeue=False, sacct=True),
    # Flags that Slurm keeps to itself, but for newer releases' lists of all flags.
    State(_S.LAUNCH_FAILED, Stage.WAITING, Ends.NOTHING, squeue=False, sacct=False),
    State(_S.RECONFIG_FAIL, Stage.WAITING, Ends.NOTHING, squeue=False, sacct=False),
    State(_S.POWER_UP_NODE, Stage.STARTING, Ends.NOTHING, squeue=False, sacct=False),
    State(_S.CONFIGURING, Stage.STARTING, Ends.NOTHING, squeue=True, sacct=False),
    State(_S.RUNNING, Stage.RUNNING, Ends.NOTHING, squeue=True, sacct=True),
    State(_S.SUSPENDED, Stage.RUNNING, Ends.NOTHING, squeue=True, sacct=True),
    State(_S.STOPPED, Stage.RUNNING, Ends.NOTHING, squeue=True, sacct=False),
    State(_S.SIGNALING, Stage.RUNNING, Ends.NOTHING, squeue=True, sacct=False),
    # In accounting: the part of an execution before the job changed its size; the next row continues it.
    State(_S.RESIZING, Stage.RUNNING, Ends.NOTHING, squeue=True, sacct=True),
    State(_S.COMPLETING, Stage.COMPLETING, Ends.NOTHING, squeue=True, sacct=False),
    State(_S.STAGE_OUT, Stage.COMPLETING, Ends.NOTHING, squeue=True, sacct=False),
    # squeue shows REQUEUED in passing, of a job that is about to wait again.
    State(_S.REQUEUED, Stage.ENDED, Ends.ATTEMPT, squeue=True, sacct=True),
    State(_S.PREEMPTED, Stage.ENDED, Ends.ATTEMPT, squeue=False, sacct=True),
    State(_S.COMPLETED, Stage.ENDED, Ends.RUN, squeue=False, sacct=True),
    State(_S.CANCELLED, Stage.ENDED, Ends.RUN, squeue=False, sacct=True),
    State(_S.FAILED, Stage.ENDED, Ends.RUN, squeue=False, sacct=True),
    State(_S.TIMEOUT, Stage.ENDED, Ends.RUN, squeue=False, sacct=True),
    State(_S.NODE_FAIL, Stage.ENDED, Ends.RUN, squeue=False, sacct=True),
    State(_S.BOOT_FAIL, Stage.ENDED, Ends.RUN, squeue=False, sacct=True),
    State(_S.DEADLINE, Stage.ENDED, Ends.RUN, squeue=False, sacct=True),
    State(_S.OUT_OF_MEMORY, Stage.ENDED, Ends.RUN, squeue=False, sacct=True),
)
TABLE: dict[RunStatus, State] = {state.status: state for state in _STATES}
"""Every status. `tests/unit/run/test_states.py` holds that none is missing."""

_STAGES = {state.status: state.stage for state in _STATES}
_BY_WORD = {status.value: status for status in RunStatus}
_BY_TEXT = _BY_WORD | words.STATE_CODES


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


def stage_of(status: RunStatus) -> Stage:
    """How far an execution in this state is."""
    return _STAGES[status]


def has_ended(status: RunStatus | None) -> bool:
    """Whether a job, or one of its executions, is over in a state; not where none is known."""
    return status is not None and stage_of(status) is Stage.ENDED


def ends(status: RunStatus) -> Ends:
    """What is over in this state."""
    return TABLE[status].ends
