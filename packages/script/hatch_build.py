"""Take the files of the script's side from the repository: those that hpctrack's own wheel leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11, where hatchling brings it
    import tomli as tomllib


class ScriptSide(BuildHookInterface):
    """Puts them into the wheel, and into the source distribution, which brings its own from then on."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add each file under the name that it has in the repository."""
        if (Path(self.root) / "hpctrack").is_dir():
            return
        repository = Path(self.root).parents[1]
        build = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
        for name in build["targets"]["wheel"]["exclude"]:
            build_data["force_include"][str(repository / name[1:])] = name[1:]
