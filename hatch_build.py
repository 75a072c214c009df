"""Put the start-up files of the lm-eval plug-in at the root of site-packages, for wheels and editable ones.

`force-include` in pyproject.toml does not reach editable installs, so both kinds are served here.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

START_UP_FILES = ("midalign_autoload.pth", "midalign_autoload.start")


class StartUpFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Hatch calls `initialize` before it collects files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the start-up files; `version` is "standard" or "editable"."""
        table = "force_include_editable" if version == "editable" else "force_include"
        for name in START_UP_FILES:
            build_data[table][str(Path(self.root, "harness_plugins", name))] = name
