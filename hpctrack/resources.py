"""Where the SQL files and templates are: inside the installed package, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path

#: The folder of this package.
PACKAGE = Path(__file__).absolute().parent
_INSTALLED = PACKAGE / "_resources"


def folder(name: str) -> Path:
    """Return the folder ``sql`` or ``sbatch_templates``."""
    root = _INSTALLED if _INSTALLED.is_dir() else PACKAGE.parent
    return root / name
