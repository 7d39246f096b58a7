"""What looks like a number in a journal and is none: it is kept as text, and told once with its line. Pure.

Scripts in many tongues write ``loss=0,25``, ``acc=93.5%``, ``lr=1.5D-3``, ``x=0.17;``. Nobody can know what
was meant, and a text where numbers were expected would be noticed much later.
"""

from __future__ import annotations

import re

#: Digits of any script with signs, points, commas and exponents of any custom, and units that follow at once.
_NUMBERISH = re.compile(
    r"[([]?[+\-\u2212\u2013]?[.,]?\d(?:[\d.,'\u00a0\u202f\u066b\u066c]|_(?=\d{3}(?:\D|\Z)))*"
    r"(?:[dDeEqQ*^x\u00d7][+\-\u2212\u2013]?\d*[\d^]*|[fFlL])?"
    r"(?:%|\u2030|\u00b0|[kKMGTP]?i?[bB](?:/s)?|[num\u00b5]?s|min|h|k|K|M|G|x|X)?[;,:.)\]]*"
)
_VERSION = re.compile(r"\d+\.\d+\.[\d.]*")
_MOST = 5
_LONGEST = 120


def is_doubtful(text: str) -> bool:
    """Whether a bare word that is no number looks like one. Dates, versions and names are what they are."""
    return bool(_NUMBERISH.fullmatch(text)) and not _VERSION.fullmatch(text)


class Doubts:
    """Those of a run: for each of the first few metrics the first value and its line."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._untold: list[str] = []

    def note(self, name: str, text: str, line: str) -> None:
        """Note a value of a metric, if it looks like a number."""
        if name in self._seen or len(self._seen) >= _MOST or not is_doubtful(text):
            return
        self._seen.add(name)
        shown = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
        self._untold.append(f"{name[:_LONGEST]} is text, since {text[:_LONGEST]} is no number: {shown}")

    def take(self) -> list[str]:
        """Return what was noted since the last time."""
        untold, self._untold = self._untold, []
        return untold
