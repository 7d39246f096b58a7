"""The very end of the user's program: `hpctrack.log` in ``__del__()`` of what is left works there, too.

Python empties the modules that it knows, the last one first, and then calls ``__del__()`` of what the
script's own globals held. By then ours would be empty. So they leave `sys.modules` when the program ends, and
bring copies of what they use. Loaded at a program's end alone; Python 3.8 or newer.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

_OURS = (
    "hpctrack",
    "hpctrack.script",
    "hpctrack.script.calls",
    "hpctrack.script.conversions",
    "hpctrack.script.writer",
    "hpctrack.script.journal_lines",
    "hpctrack.script.ranks",
    "hpctrack.script.trouble",
)


def outlast() -> None:
    """Make the script's side independent of all other modules, which are about to be emptied."""
    ours = [sys.modules.pop(name) for name in _OURS if name in sys.modules]
    for module in ours:
        for name, value in list(vars(module).items()):
            if isinstance(value, ModuleType) and value not in ours:
                setattr(module, name, SimpleNamespace(**vars(value)))
