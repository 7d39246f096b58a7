"""Have hpctrack's wheel depend on hpctrack-script (packages/script) in the same version."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DependOnScript(BuildHookInterface):
    """Adds what only a wheel needs: ``pip install -e .`` has all files where they are."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the dependency to a wheel that is no editable one."""
        if version == "standard":
            build_data["dependencies"].append(f"hpctrack-script=={self.metadata.version}")
