"""Usage: what a job takes of its node, from its cgroup where Slurm made one, else from its processes.

The job's cgroup is the one above our own that is named ``job_<id>`` or, by cgroup/v2 from Slurm 26.05 on, by
the job's SLUID (unless CgroupJobIdPaths=yes): it also holds what srun started. Without one, a job's processes
are those of this user that carry its mark in their environment, wherever in the process tree they stand.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from hpctrack import resources
from hpctrack.stream.wire.messages import FIGURES, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

_ROOT = "/sys/fs/cgroup"
#: What the timeline says where Slurm made a cgroup, and none of its folders is known to be the job's.
NOT_FOUND = "the job's cgroup is not found: usage is that of the processes which have the job's environment"


class Sampler:
    """Samples the usage of one job on this node."""

    def __init__(self, node: str, job_id: int | None, mark: tuple[str, str], sluid: str = "") -> None:
        """``mark`` is the environment variable, and its value, that all processes of the job carry.

        ``job_id`` and ``sluid`` name the job whose cgroup is to be looked at, if any.
        """
        self._node = node
        text = _read("/proc/self/cgroup")
        self._cgroups = find_cgroups(text, job_id, sluid)
        #: Whether Slurm made a cgroup for the job that is not found.
        self.lacks_cgroup = job_id is not None and not self._cgroups and "/slurm" in text
        self._processes = _InCgroup(self._cgroups) if self._cgroups else _Marked(mark)

    def sample(self) -> Usage:
        """Return one sample; what can't be had is None."""
        measured = self._processes.sample()
        for name, measure in _CGROUP_FIGURES.items():
            value = measure(self._cgroups)
            if value is not None:
                measured[name] = value
        figures = {figure.name: measured.get(figure.name) for figure in FIGURES}
        return Usage(time.time(), self._node, figures)


def find_cgroups(text: str, job_id: int | None, sluid: str = "") -> dict[str, str]:
    """Return the folder of the job's cgroup by controller (``""`` for v2) from ``/proc/self/cgroup``."""
    folders: dict[str, str] = {}
    names = [] if job_id is None else [f"job_{job_id}", *([sluid] if sluid else [])]
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        parts = path.strip("/").split("/")
        place = next((parts.index(name) for name in names if name in parts), None)
        if place is None:
            continue
        for controller in controllers.split(","):
            folders[controller] = os.path.join(_ROOT, controller, *parts[: place + 1])
    return {name: folder for name, folder in folders.items() if os.path.isdir(folder)}


def _cgroup_cpu(cgroups: dict[str, str]) -> float | None:
    if "cpuacct" in cgroups:
        nanoseconds = _read(os.path.join(cgroups["cpuacct"], "cpuacct.usage"))
        return int(nanoseconds) / 1e9 if nanoseconds else None
    microseconds = _fields(cgroups.get(""), "cpu.stat").get("usage_usec")
    return None if microseconds is None else microseconds / 1e6


def _cgroup_memory(cgroups: dict[str, str]) -> int | None:
    """Return resident bytes without the page cache, which the kernel takes back when it needs to."""
    if "memory" in cgroups:
        fields = _fields(cgroups["memory"], "memory.stat")
        return fields["total_rss"] + fields.get("total_shmem", 0) if "total_rss" in fields else None
    fields = _fields(cgroups.get(""), "memory.stat")
    return fields["anon"] + fields.get("shmem", 0) if "anon" in fields else None


def _cgroup_peak(cgroups: dict[str, str]) -> int | None:
    if "memory" in cgroups:
        text = _read(os.path.join(cgroups["memory"], "memory.max_usage_in_bytes"))
    else:
        text = _read(os.path.join(cgroups[""], "memory.peak")) if "" in cgroups else ""
    return int(text) if text else None


#: What the cgroup itself counts, and better than its processes do.
_CGROUP_FIGURES: dict[str, Callable[[dict[str, str]], float | None]] = {
    "cpu_s": _cgroup_cpu,
    "memory_bytes": _cgroup_memory,
    "memory_peak_bytes": _cgroup_peak,
}


def _fields(folder: str | None, name: str) -> dict[str, int]:
    text = _read(os.path.join(folder, name)) if folder else ""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _load_psutil() -> ModuleType | None:
    """Import psutil; without ``site`` it is found only beside this package, or else in its environment."""
    beside = os.path.dirname(resources.PACKAGE)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    environment = os.path.join(
        os.path.dirname(os.path.dirname(sys.executable)), "lib", version, "site-packages"
    )
    if environment != beside and environment not in sys.path:
        sys.path.append(environment)
    return _psutil()


def _psutil() -> ModuleType | None:
    try:
        import psutil
    except ImportError:
        return None
    return psutil


class _Totals:
    """Counters that go on counting what processes had used when they ended."""

    def __init__(self) -> None:
        self._alive: dict[Any, tuple[float, ...]] = {}
        self._ended: tuple[float, ...] = (0.0, 0.0, 0.0)

    def update(self, counters: dict[Any, tuple[float, ...]]) -> tuple[float, ...]:
        """Take the counters of the processes that live now; return the sums over all that ever did."""
        gone = [values for key, values in self._alive.items() if key not in counters]
        self._ended = _add(self._ended, gone)
        self._alive = counters
        return _add(self._ended, counters.values())


def _add(start: tuple[float, ...], rows: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(sum(column) for column in zip(start, *rows, strict=True))


class _InCgroup:
    """I/O and number of the processes in the job's cgroup; `_CGROUP_FIGURES` has its time and memory.

    Counters include processes that have ended.
    """

    def __init__(self, cgroups: dict[str, str]) -> None:
        self._folder = cgroups.get("memory") or next(iter(cgroups.values()))
        self._totals = _Totals()

    def sample(self) -> dict[str, float]:
        counters: dict[Any, tuple[float, ...]] = {}
        for folder, _, _ in os.walk(self._folder):
            for pid in _read(os.path.join(folder, "cgroup.procs")).split():
                io = dict(line.split(": ") for line in _read(f"/proc/{pid}/io").splitlines())
                counters[pid] = (0.0, float(io.get("read_bytes", 0)), float(io.get("write_bytes", 0)))
        _, read, written = self._totals.update(counters)
        return {"read_bytes": int(read), "write_bytes": int(written), "processes": len(counters)}


class _Marked:
    """The processes of this user that carry the job's mark. psutil is imported on the first sample.

    Counters include processes that have ended.
    """

    def __init__(self, mark: tuple[str, str]) -> None:
        self._mark = mark
        self._ours: dict[tuple[int, str], bool] = {}
        self._totals = _Totals()
        self._peak = 0

    def sample(self) -> dict[str, float]:
        psutil = _load_psutil()
        if psutil is None:
            return {}
        memory = 0
        counters: dict[Any, tuple[float, ...]] = {}
        alive: dict[tuple[int, str], bool] = {}
        for pid in psutil.pids():
            started = _started(pid)
            if not started:
                continue
            key = (pid, started)
            alive[key] = self._ours[key] if key in self._ours else _carries(pid, self._mark)
            if not alive[key]:
                continue
            try:
                process = psutil.Process(pid)
                times, io, resident = process.cpu_times(), process.io_counters(), process.memory_info().rss
            except (psutil.Error, OSError):
                continue
            memory += resident
            counters[key] = (times.user + times.system, io.read_bytes, io.write_bytes)
        self._ours = alive
        self._peak = max(self._peak, memory)
        cpu, read, written = self._totals.update(counters)
        return {
            "cpu_s": cpu,
            "memory_bytes": memory,
            "memory_peak_bytes": self._peak,
            "read_bytes": int(read),
            "write_bytes": int(written),
            "processes": len(counters),
        }


def _started(pid: int) -> str:
    """Return when a process of this user started, which tells it from others of its number; else nothing."""
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.getuid():
            return ""
    except OSError:
        return ""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _carries(pid: int, mark: tuple[str, str]) -> bool:
    """Look at an environment: once, reading them all every few seconds would cost more than it tells."""
    return "=".join(mark) in _read(f"/proc/{pid}/environ").split("\0")
