"""hpctrack's version: from beside this file in a source distribution, else from the repository."""

from __future__ import annotations

import runpy
from pathlib import Path

HERE = Path(__file__).absolute().parent
_BESIDE = HERE / "hpctrack"
PACKAGE = _BESIDE if _BESIDE.is_dir() else HERE.parents[1] / "hpctrack"
__version__ = runpy.run_path(str(PACKAGE / "__init__.py"))["__version__"]
