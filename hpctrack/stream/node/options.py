"""What the supervisor is asked for, and what its relay needs to know."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.stream.wire.names import TASK_NONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpctrack.settings import Settings
    from hpctrack.stream.disk.runfolder import RunFolder


class Options(NamedTuple):
    """What the wrapper or ``hpctrack run`` asks for."""

    mode: str
    spool: str
    command: list[str]
    script_line: int = 0
    #: Original path of the script: from the environment, since workers are ended by what command lines hold.
    script: str = ""
    record: str = ""
    run: str = ""
    node_dir: str = ""
    python_path: bool = True
    ranks: str = "0"
    journal_cap: int = 1 << 30
    flush: float = 5.0
    #: Descriptor on which to say that the command is tracked, to who then registers it; -1 for nobody.
    told: int = -1


class Config(NamedTuple):
    """What the relay needs to know at its start."""

    #: When the supervisor began, just before the script (Unix time): the relay may come later than its end.
    time: float
    run_dir: str
    spool: str
    spool_dir: str
    #: Path of the submission record where it is known (``hpctrack run``); else it is found by job id.
    record: str
    cluster: str | None
    #: Of an array task the array's job id, else the job's own.
    base_job_id: int | None
    #: Array task id, or `TASK_NONE`.
    task: int
    #: The job's own id (SLURM_JOB_ID).
    job_id: int | None
    attempt: int
    flush: float
    #: Files behind the script's standard output and error; empty where they are no files.
    stdout: str
    stderr: str
    #: Where in its standard error the script begins to write.
    stderr_begin: int
    #: Whether processes of other nodes may write journals, too.
    several_nodes: bool = False
    #: Whether shells append on the shared home.
    shared: bool = False


def words(settings: Settings) -> list[str]:
    """Return what of the submitter's settings the supervisor is started with, as `parse` reads it."""
    told = ["--spool", settings.spool, "--ranks", settings.ranks]
    told += ["--journal-cap", str(settings.journal_cap), "--flush", f"{settings.flush:g}"]
    told += ["--node-dir", settings.node_dir] if settings.node_dir else []
    return told if settings.python_path else [*told, "--no-python-path"]


def parse(arguments: Sequence[str]) -> Options:
    """Read the arguments that the wrapper passes; anything unknown is a bug of ours and raises."""
    mode, *rest = arguments
    values: dict[str, str] = {}
    while rest and rest[0] != "--":
        name = rest.pop(0).lstrip("-").replace("-", "_")
        values[name] = "" if name == "no_python_path" else rest.pop(0)
    return Options(
        mode=mode,
        spool=values["spool"],
        command=rest[1:],
        script_line=int(values.get("script_line", 0)),
        script=os.environ.get("HPCTRACK_SCRIPT", ""),
        record=values.get("record", ""),
        run=values.get("run", ""),
        node_dir=values.get("node_dir", ""),
        python_path="no_python_path" not in values,
        ranks=values.get("ranks", "0"),
        journal_cap=int(values.get("journal_cap", 1 << 30)),
        flush=float(values.get("flush", 5.0)),
        told=int(values.get("told", -1)),
    )


def config(options: Options, folder: RunFolder) -> Config:
    """Say to the relay what the supervisor knows: from its environment, and its open files."""
    task = _integer("SLURM_ARRAY_TASK_ID") if options.mode == "supervise" else None
    base = _integer("SLURM_ARRAY_JOB_ID") if task is not None else None
    own = _integer("SLURM_JOB_ID")
    return Config(
        time=time.time(),
        run_dir=folder.path,
        spool=options.spool,
        spool_dir=folder.spool_path,
        record=options.record,
        cluster=os.environ.get("SLURM_CLUSTER_NAME"),
        base_job_id=own if base is None else base,
        task=TASK_NONE if task is None else task,
        job_id=own,
        attempt=attempt(),
        flush=options.flush,
        stdout=_file_behind(1),
        stderr=_file_behind(2),
        stderr_begin=_position(2),
        several_nodes=several_nodes(os.environ),
        shared=several_nodes(os.environ),
    )


def several_nodes(environ: Mapping[str, str]) -> bool:
    """Whether a job has more nodes than this one."""
    return environ.get("SLURM_JOB_NUM_NODES", "1") != "1" or "SLURM_HET_SIZE" in environ


def _file_behind(descriptor: int) -> str:
    with contextlib.suppress(OSError):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isfile(path):
            return path
    return ""


def _position(descriptor: int) -> int:
    """Return where the next byte will be written to a file."""
    with contextlib.suppress(OSError):  # a pipe
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
            return os.fstat(descriptor).st_size
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    return 0


def attempt() -> int:
    """Return how many times Slurm has restarted this job (SLURM_RESTART_COUNT of sbatch(1))."""
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return int(restarts) if restarts.isdecimal() else 0


def _integer(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None
