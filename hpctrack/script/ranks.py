"""Ranks: which process of a parallel program this is, by the variables of whatever launched it. Pure.

The only place that knows these variables. Only rank 0 logs, unless ``ranks = all``. What counts:

* The innermost launcher: torchrun under srun names the rank, srun only the node's. The table is in that
  order.
* Only a launcher within the run. What stood in the environment of the run's supervisor already, somebody's
  own ``RANK=8`` or the task of ``srun -n 2 hpctrack run``, says nothing about the processes of the run:
  `outside` is what the supervisor hands on.
* Only what makes sense: a rank is less than the number of ranks. ``RANK`` alone, without that number, is
  somebody's own word.
* Only what tells processes apart: a script that exports ``RANK`` and ``WORLD_SIZE``, or ``LOCAL_RANK`` and
  ``NODE_RANK``, and then has srun start as many processes, gives all of them the same.

The user's script loads this, in Python 3.8 or newer.
"""

from __future__ import annotations

from binascii import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Where the supervisor hands on what it found in its own environment.
OUTSIDE = "HPCTRACK_RANKS_OUTSIDE"


class Launcher:
    """How a launcher tells a process its rank."""

    def __init__(
        self, name: str, rank: str, size: str = "", others: tuple[str, ...] = (), *, sized: bool = False
    ) -> None:
        """``others`` tell one launch from another; ``sized``: without a size the rank says nothing."""
        self.name, self.rank, self.size, self.others, self.sized = name, rank, size, others, sized

    def find(self, environ: Mapping[str, str]) -> int | None:
        """Return the rank that it gave this process; None if it did not launch it."""
        rank, size = environ.get(self.rank, ""), environ.get(self.size, "")
        if not rank.isdecimal() or (self.sized and not size.isdecimal()):
            return None
        return None if size.isdecimal() and int(rank) >= int(size) else int(rank)

    def mark(self, environ: Mapping[str, str]) -> str:
        """Return what tells this launch, and this process of it, from others."""
        values = [environ.get(name, "") for name in (self.rank, self.size, *self.others)]
        return f"{self.rank}={crc32(chr(0).join(values).encode('utf-8', 'replace')):08x}"


class _Lightning(Launcher):
    """PyTorch Lightning starts its processes itself, and tells them their rank on the node and the node's."""

    def find(self, environ: Mapping[str, str]) -> int | None:
        node, local = environ.get("NODE_RANK", ""), environ.get("LOCAL_RANK", "")
        if not (node.isdecimal() and local.isdecimal()):
            return None
        on_node = environ.get("LOCAL_WORLD_SIZE") or environ.get("WORLD_SIZE", "")
        return int(node) * (int(on_node) if on_node.isdecimal() else 1000) + int(local)


LAUNCHERS = (
    Launcher("torchrun", "RANK", "WORLD_SIZE", ("MASTER_ADDR", "MASTER_PORT"), sized=True),
    _Lightning("Lightning", "LOCAL_RANK", "", ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")),
    Launcher("horovodrun", "HOROVOD_RANK", "HOROVOD_SIZE", ("HOROVOD_GLOO_RENDEZVOUS_PORT",)),
    Launcher("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("PMIX_NAMESPACE",)),
    Launcher("MVAPICH2", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    Launcher("MVAPICH", "MPIRUN_RANK", "MPIRUN_NPROCS", ("MPIRUN_ID",)),
    Launcher("Platform MPI", "MPI_RANKID", "MPI_NRANKS"),
    Launcher("PALS", "PALS_RANKID", "", ("PALS_APID",)),
    Launcher("ALPS", "ALPS_APP_PE", "", ("ALPS_APP_ID",)),
    Launcher("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    Launcher("Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", ("FLUX_JOB_ID",)),
    Launcher("PMIx", "PMIX_RANK", "", ("PMIX_NAMESPACE",)),
    Launcher("PMI", "PMI_RANK", "PMI_SIZE", ("PMI_JOBID", "PMI_FD", "PMI_PORT")),
    Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ("SLURM_STEP_ID", "SLURM_JOB_ID")),
)

#: All that they set and that is looked at.
VARIABLES = sorted(
    {name for launcher in LAUNCHERS for name in (launcher.rank, launcher.size, *launcher.others) if name}
    | {"LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"}
)


def outside(environ: Mapping[str, str]) -> str:
    """Return what an environment holds of launchers already."""
    return " ".join(launcher.mark(environ) for launcher in LAUNCHERS if launcher.find(environ) is not None)


def find(environ: Mapping[str, str]) -> tuple[int, str]:
    """Return the rank of a process, and the variable that says so; 0 and nothing outside of launchers."""
    known = environ.get(OUTSIDE, "").split()
    ranks = [
        (rank, launcher)
        for launcher in LAUNCHERS
        if (rank := launcher.find(environ)) is not None and launcher.mark(environ) not in known
    ]
    if not ranks:
        return 0, ""
    rank, launcher = ranks[0]
    for outer_rank, outer in ranks[1:]:
        if outer.rank == "LOCAL_RANK":  # torchrun's own
            continue
        if launcher.rank == "RANK" and environ.get("GROUP_WORLD_SIZE") == "1" and outer_rank:
            # Each task of an outer launcher has started a torchrun of its own: every one has a rank 0.
            return outer_rank * int(environ["WORLD_SIZE"]) + rank, outer.rank
        if _is_by_hand(launcher, rank, environ) and _starts_all(outer, environ):
            return outer_rank, outer.rank
    return rank, launcher.rank


def _is_by_hand(launcher: Launcher, rank: int, environ: Mapping[str, str]) -> bool:
    """Whether a script may have exported this itself, for all of its processes alike."""
    if launcher.rank == "LOCAL_RANK":
        return not rank
    return launcher.rank == "RANK" and "LOCAL_WORLD_SIZE" not in environ


def _starts_all(launcher: Launcher, environ: Mapping[str, str]) -> bool:
    """Whether a launcher has started as many processes as there are said to be."""
    size = environ.get(launcher.size, "")
    return size.isdecimal() and int(size) > 1 and environ.get("WORLD_SIZE", size) == size
