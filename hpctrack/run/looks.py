"""How job states look, in the terminal and in notebooks. Pure.

After Okabe and Ito's palette for colour-blind people, moved so that terminals with 16 colours show five
different ones too; glyph and word say the same without any.
"""

from __future__ import annotations

from typing import NamedTuple

from hpctrack.model import RunStatus


class Look(NamedTuple):
    """A glyph and a colour (``#rrggbb``); ``bold`` is what wants to be seen."""

    glyph: str
    colour: str
    bold: bool = False


_WAITING = Look("○", "#e69f00")
_RUNNING = Look("●", "#56b4e9", bold=True)
_DONE = Look("✓", "#009e73")
_STOPPED = Look("⊘", "#b04fa0")
_FAILED = Look("✗", "#e04030", bold=True)
_LOOKS = {
    RunStatus.RUNNING: _RUNNING,
    RunStatus.COMPLETING: _RUNNING,
    RunStatus.STAGE_OUT: _RUNNING,
    RunStatus.SIGNALING: _RUNNING,
    RunStatus.RESIZING: _RUNNING,
    RunStatus.EXPEDITING: _RUNNING,
    RunStatus.COMPLETED: _DONE,
    RunStatus.CANCELLED: _STOPPED,
    RunStatus.REVOKED: _STOPPED,
    RunStatus.BOOT_FAIL: _FAILED,
    RunStatus.DEADLINE: _FAILED,
    RunStatus.FAILED: _FAILED,
    RunStatus.LAUNCH_FAILED: _FAILED,
    RunStatus.NODE_FAIL: _FAILED,
    RunStatus.OUT_OF_MEMORY: _FAILED,
    RunStatus.RECONFIG_FAIL: _FAILED,
    RunStatus.SPECIAL_EXIT: _FAILED,
    RunStatus.TIMEOUT: _FAILED,
}


def of(status: RunStatus) -> Look:
    """Return how a state looks; all that are neither running nor over look like waiting."""
    return _LOOKS.get(status, _WAITING)
