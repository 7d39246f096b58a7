"""Which way Slurm is asked: ``slurm_backend = auto | cli | pyslurm``."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

from hpctrack import errors
from hpctrack.slurm import accounting, native

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpctrack.slurm.accounting import Backend

_log = logging.getLogger(__name__)


def choose(wanted: str, cluster: str, environ: Mapping[str, str], *, remote: bool = False) -> Backend:
    """Return the backend for a cluster; ``remote``: one that Slurm's commands are told by ``-M``.

    ``auto`` takes pyslurm where it is installed, imports, and is of the release of Slurm's commands. Raises
    `errors.SlurmError` where pyslurm is wanted and can't be used.
    """
    commands = accounting.CommandLine(cluster, environ, remote=remote)
    if wanted == "cli":
        return commands
    if remote:
        reason: str | None = "pyslurm asks the local cluster only"
    elif importlib.util.find_spec("pyslurm") is None:
        reason = "pyslurm is not installed"
    else:
        reason = native.why_not(environ)
    if reason is None:
        return native.Native(commands, environ)
    if wanted == "pyslurm":
        raise errors.SlurmError(f"slurm_backend = pyslurm: {reason}")
    _log.debug("Slurm is asked by its commands: %s", reason)
    return commands
