"""A check of ``hpctrack doctor``, and what it found."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "note", "broken"]
ASK_FOR_RIGHTS = "ask who set it up: hpctrack setup --grant-user YOUR_ROLE"


class Check(NamedTuple):
    """What a check found."""

    name: str
    state: State
    says: str
    #: What to do; empty if nothing is wrong.
    do: str = ""


class Failed(Exception):
    """A check without which the following ones make no sense has failed."""

    def __init__(self, check: Check) -> None:
        super().__init__(check.says)
        self.check = check
