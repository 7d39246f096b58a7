"""Divide hpctrack's wheel from hpctrack-script (packages/script) where it is made to be published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ScriptSide(BuildHookInterface):
    """Divides what ``make wheel`` makes; ``pip install .`` has all files and needs no second package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Depend on hpctrack-script in the same version, or bring what it would have brought."""
        if version != "standard":
            return  # an editable wheel has all files where they are
        if os.environ.get("HPCTRACK_DIVIDE") == "1":
            build_data["dependencies"].append(f"hpctrack-script=={self.metadata.version}")
            return
        for name in self.build_config.target_config["exclude"]:
            build_data["force_include"][str(Path(self.root) / name[1:])] = name[1:]
