"""Where this package, its SQL files and its templates are: installed, or at the top of a checkout."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

#: The folder of this package.
PACKAGE = os.path.dirname(os.path.abspath(__file__))
#: The folder that holds just this package: on PYTHONPATH nothing else of ours shadows modules.
IMPORTABLE = os.path.join(PACKAGE, "importable")


def folder(name: str) -> Path:
    """Return the folder ``sql``, ``sbatch_templates`` or ``systemd``."""
    from pathlib import Path

    installed = Path(PACKAGE, "_resources")
    return (installed if installed.is_dir() else Path(PACKAGE).parent) / name
