"""Where the SQL files and templates are: inside the installed package, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path


def _followed(package: Path) -> Path:
    """Return where a package really is.

    A supervisor offers this one to its script by a link in the run folder, which is gone when its job is:
    nothing that outlives the job may go by that. Links further up are the site's, and stay.
    """
    while package.is_symlink():
        package = package.parent / package.readlink()
    return package


#: The folder of this package.
PACKAGE = _followed(Path(__file__).absolute().parent)
_INSTALLED = PACKAGE / "_resources"


def folder(name: str) -> Path:
    """Return the folder ``sql`` or ``sbatch_templates``."""
    root = _INSTALLED if _INSTALLED.is_dir() else PACKAGE.parent
    return root / name
