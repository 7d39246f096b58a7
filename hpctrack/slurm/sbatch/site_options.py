"""The options that the site's sbatch has, plugins' ones included: asked once, then remembered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpctrack.slurm import command, site
from hpctrack.slurm.sbatch import options

if TYPE_CHECKING:
    from collections.abc import Mapping


def ask(environ: Mapping[str, str], cache: str, *, fresh: bool = False) -> dict[str, int]:
    """Return the options in ``sbatch --help``, as `options.parse_help` reads them.

    They are remembered in ``cache``, a folder of the user's, until sbatch or the configuration of plugins
    changes; ``fresh`` asks anew. Raises `errors.SlurmError`.
    """

    def listed() -> dict[str, int]:
        text = command.run(["sbatch", "--help"], timeout=site.SECONDS, environ=environ).stdout
        return options.parse_help(text)

    plugins = str(Path(site.conf(environ)).parent / "plugstack.conf")
    key = [*site.stamp(command.find("sbatch", environ)), *site.stamp(plugins)]
    return site.remembered("sbatch-options.json", cache, key, listed, fresh=fresh)
