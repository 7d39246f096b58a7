#!/usr/bin/env python3
"""A real Slurm on one machine, for tests and for trying things out.

`start` brings up munged, mariadbd, slurmdbd, slurmctld and a slurmd for each of four nodes, all as plain
processes: no systemd, no containers, and nothing outside one folder but the accounts hpcalice and hpcbob.

    sudo scripts/minicluster.py start
    sudo scripts/minicluster.py run hpcalice sbatch --wrap 'exit 3'
    eval "$(scripts/minicluster.py env)"; squeue
    sudo scripts/minicluster.py daemon kill n1
    sudo scripts/minicluster.py stop --purge

Partitions: main (the default; preempted jobs are requeued), urgent (preempts the others), scav (preempted
jobs are cancelled), hidden (listed with --all only). A batch script that exits with 111 is requeued, with 112
it is requeued and held as SPECIAL_EXIT; a requeued job waits 11 seconds. slurmdbd keeps script, environment
and comment of each job (`sacct --batch-script`, `--env-vars`), so that leaks can be seen. DIR/etc/local.conf
is read after slurm.conf and outlives `stop`; `daemon restart slurmctld` makes changes there take effect.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 (status) not all is up, 4 this machine can't hold a cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

DEFAULT_DIRECTORY = Path("/var/tmp/hpctrack-cluster")
MARKER = "minicluster.json"
# In the environment of our daemons, as DIR:NAME. Neither slurmstepds nor jobs keep it.
MARK = "MINICLUSTER_DAEMON"
# Slurm names a socket DIR/spool/n1/n1_<job>.<step>, and the path of a socket has at most 107 bytes.
LONGEST_DIRECTORY = 60
ACCOUNTS = ("hpcalice", "hpcbob")
ACCOUNT_COMMENT = "made by minicluster.py"
PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST_NODES = 18
# Below the ports that Linux gives to outgoing connections, so that a restarted daemon finds its own free.
PORT_BLOCKS = range(17000, 32000, MOST_NODES + 2)
START_SECONDS, GRACE_SECONDS = 30.0, 10.0


class ClusterError(Exception):
    """What failed, in one line, with the log to read."""

    exit_code = 1


class Unsuitable(ClusterError):
    """This machine can't hold a cluster."""

    exit_code = 4


@dataclasses.dataclass(frozen=True)
class Layout:
    """All that configuration and command lines depend on; the marker file remembers it."""

    directory: str
    name: str
    nodes: int = 4
    base_port: int = PORT_BLOCKS.start
    host: str = "localhost"
    address: str = "127.0.0.1"
    cgroup: int = 0

    @property
    def node_names(self) -> list[str]:
        """The names n1, n2, ..."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def port(self, daemon: str) -> int:
        """Each daemon's own."""
        return self.base_port + ["slurmctld", "slurmdbd", *self.node_names].index(daemon)


def slurm_conf(layout: Layout) -> str:
    """Render slurm.conf."""
    folder = layout.directory
    track, task, gather = ("cgroup", "cgroup", "cgroup") if layout.cgroup else ("linuxproc", "none", "linux")
    # - Slurm binds to the address of the host's name, on Debian a loopback one, or to all (NoInAddrAny).
    # - A requeued job waits until its old credential expires (cred_expire), by default for two minutes.
    # - Clusters on one host share cgroups named after user and job, so they must not share job ids.
    # - No program exits with 111 or 112 by habit, and sacct would show 128 and above as 128 less.
    # - Without a default for memory, a job gets all of its node.
    # - Nodes have the CPUs and memory that they claim, whatever the host has (config_overrides).
    settings = f"""
        ClusterName={layout.name} SlurmctldHost={layout.host}({layout.address}) SlurmUser=root
        CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
        SlurmctldPort={layout.port("slurmctld")} StateSaveLocation={folder}/state
        SlurmctldPidFile={folder}/run/slurmctld.pid SlurmdPidFile={folder}/run/%n.pid
        SlurmdSpoolDir={folder}/spool/%n AuthInfo=socket={folder}/munge/socket,cred_expire=10
        SlurmdParameters=config_overrides SlurmdTimeout=10 ReturnToService=2 MailProg=/bin/true

        ProctrackType=proctrack/{track} TaskPlugin=task/{task} JobAcctGatherType=jobacct_gather/{gather}
        JobAcctGatherFrequency=task=1 AccountingStorageType=accounting_storage/slurmdbd
        AccountingStorageHost={layout.address} AccountingStoragePort={layout.port("slurmdbd")}
        AccountingStoragePass={folder}/munge/socket AccountingStoreFlags=job_script,job_env,job_comment

        FirstJobId={PORT_BLOCKS.index(layout.base_port) * 10000 + 1} MaxArraySize=10001 MaxJobCount=20000
        MinJobAge=300 KillWait=2 JobRequeue=1 RequeueExit=111 RequeueExitHold=112
        SelectType=select/cons_tres SelectTypeParameters=CR_CPU_Memory DefMemPerCPU=250
        SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0
        PriorityType=priority/basic PreemptType=preempt/partition_prio PreemptMode=REQUEUE
    """.split()
    ports = f"{layout.port('n1')}-{layout.port(layout.node_names[-1])}"
    place = f"NodeHostname={layout.host} NodeAddr={layout.address} Port=[{ports}]"
    lines = [
        "# Written anew whenever the cluster starts from nothing. Changes belong into local.conf.",
        *settings,
        f"NodeName=n[1-{layout.nodes}] {place} CPUs=8 RealMemory=4000",
        "PartitionName=main Nodes=ALL Default=YES PriorityTier=10 PreemptMode=REQUEUE",
        "PartitionName=urgent Nodes=ALL PriorityTier=100 PreemptMode=OFF",
        "PartitionName=scav Nodes=ALL PriorityTier=1 PreemptMode=CANCEL",
        "PartitionName=hidden Nodes=ALL PriorityTier=10 PreemptMode=OFF Hidden=YES",
        f"Include {folder}/etc/local.conf",
    ]
    return "\n".join(lines) + "\n"


def slurmdbd_conf(layout: Layout) -> str:
    """Render slurmdbd.conf. It holds no password: MariaDB knows root by the credentials of its socket."""
    settings = f"""
        DbdHost={layout.host} DbdAddr={layout.address} DbdPort={layout.port("slurmdbd")} SlurmUser=root
        AuthType=auth/munge AuthInfo=socket={layout.directory}/munge/socket
        CommunicationParameters=NoInAddrAny PidFile={layout.directory}/run/slurmdbd.pid
        StorageType=accounting_storage/mysql StorageHost=localhost StorageUser=root
    """.split()
    return "\n".join(settings) + "\n"


def cgroup_conf(version: int, *, swap: bool) -> str:
    """Render cgroup.conf. A host's swap is limited too, else a job would never run out of memory."""
    if not version:
        return "# No control group here can limit memory, so OUT_OF_MEMORY can't be shown.\n"
    limit_swap = f"ConstrainSwapSpace={'yes' if swap else 'no'}"
    return f"CgroupPlugin=cgroup/v{version}\nConstrainRAMSpace=yes\n{limit_swap}\n"


def find_cgroup(mounts: str, *, systemd: bool) -> int:
    """Find which version of control groups can limit memory, by the text of /proc/mounts; 0 for none.

    Slurm needs three controllers of version 1, or version 2 at the top and systemd to hand it a part.
    """
    if re.search(r"^\S+ /sys/fs/cgroup cgroup2 rw\b", mounts, re.MULTILINE):
        return 2 if systemd else 0
    wanted = (rf"^\S+ /sys/fs/cgroup/\S+ cgroup rw\S*,{name}\b" for name in ("memory", "freezer", "cpuacct"))
    return 1 if all(re.search(pattern, mounts, re.MULTILINE) for pattern in wanted) else 0


def is_serving(node_state: str) -> bool:
    """Does a node in this state (sinfo's %T) take jobs? A trailing * means that it does not answer."""
    return re.fullmatch("(idle|mixed|allocated|completing|planned)[^*]?", node_state) is not None


def daemons_of(layout: Layout) -> dict[str, tuple[int | str, list[str]]]:
    """Name the daemons in the order of their start: the port or socket each listens on, its command line."""
    munge, mysql, conf = (f"{layout.directory}/{name}" for name in ("munge", "mysql", "etc/slurm.conf"))
    munged = "setpriv --reuid=munge --regid=munge --init-groups munged --foreground".split()
    munged += [f"--{what}={munge}/{what}" for what in ("socket", "key-file", "pid-file", "seed-file")]
    mariadbd = "mariadbd --no-defaults --user=mysql --skip-networking --innodb-lock-wait-timeout=900".split()
    mariadbd += [f"--datadir={mysql}/data", f"--socket={mysql}/socket", "--innodb-flush-log-at-trx-commit=2"]
    return {
        "munged": (f"{munge}/socket", munged),
        "mariadbd": (f"{mysql}/socket", mariadbd),
        "slurmdbd": (layout.port("slurmdbd"), ["slurmdbd", "-D"]),
        "slurmctld": (layout.port("slurmctld"), ["slurmctld", "-D", "-f", conf]),
        **{node: (layout.port(node), ["slurmd", "-D", "-N", node, "-f", conf]) for node in layout.node_names},
    }


def is_listening(address: int | str) -> bool:
    """Ask the kernel about a TCP port or a socket: Slurm logs an error for a connection without words."""
    if isinstance(address, str):
        return f" {address}\n" in Path("/proc/net/unix").read_text()
    return re.search(rf":{address:04X} 0+:0000 0A", Path("/proc/net/tcp").read_text()) is not None


def all_pids() -> list[int]:
    """All processes of the machine."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def daemon_pids(directory: str) -> dict[str, int]:
    """Find the daemons of a cluster that run, by their mark: pid files may be stale, or not yet written."""
    pids = {}
    for pid in all_pids():
        with contextlib.suppress(OSError):  # It is gone, or a zombie.
            variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
            names = [v.rpartition(":")[2] for v in variables if v.startswith(f"{MARK}={directory}:")]
            program = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[0]
            # What a daemon forks looks like it for a moment, but does not lead a session.
            if names and Path(program).name in DAEMONS and os.getsid(pid) == pid:
                pids[names[0]] = pid
    return pids


def step_pids(spool: Path) -> set[int]:
    """Find slurmstepds by the working directory that their slurmd gave them, and all that runs below them."""
    parents, found = {}, set()
    for pid in all_pids():
        with contextlib.suppress(OSError):
            # The command, in parentheses, may hold anything; after it come state and parent.
            command, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
            parents[pid] = int(rest.split()[1])
            if command.endswith("(slurmstepd") and Path(f"/proc/{pid}/cwd").readlink().is_relative_to(spool):
                found.add(pid)
    while below := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= below
    return found


def end(find: Callable[[], Iterable[int]], number: int = signal.SIGTERM) -> None:
    """Send a signal to the processes found; what can still be found after a while is killed."""
    for attempt in (number, signal.SIGKILL, signal.SIGKILL):
        for pid in find():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, attempt)
        if wait_for(lambda: not find(), GRACE_SECONDS if attempt == signal.SIGTERM else 2.0):
            return
    raise ClusterError(f"processes {sorted(find())} can't be killed")


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; false if it does not in time."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds


def run(*argv: str, **variables: str) -> str:
    """Run a command and return what it printed; its failure is one line."""
    command, env = shlex.join(argv[:3]), {"PATH": SYSTEM_PATH, "LC_ALL": "C", **variables}
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=env, start_new_session=True,
        )  # fmt: skip
        try:
            output, errors = process.communicate(timeout=60)
        except BaseException:  # ^C as well must leave nothing: mariadb-install-db runs a server below it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{command}: {error}") from error
    if process.returncode != 0:
        last = (errors.strip() or f"exit code {process.returncode}").splitlines()[-1]
        raise ClusterError(f"{command} failed: {last}")
    return output


def require_root() -> None:
    """Refuse to go on as anybody else."""
    if os.geteuid() != 0:
        raise Unsuitable("only root can start jobs of other users")


def missing_programs() -> list[str]:
    """Which of the programs we start are not installed."""
    wanted = (*DAEMONS, "mariadb-install-db", "sacctmgr", "sbatch")
    return [program for program in wanted if not shutil.which(program, path=SYSTEM_PATH)]


def install_packages(log: Path, policy: Path = Path("/usr/sbin/policy-rc.d")) -> None:
    """Install what is missing. Debian's packages start their services unless the policy exits with 101."""
    with contextlib.ExitStack() as stack:
        if not policy.exists():
            stack.callback(policy.unlink)
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        output = stack.enter_context(log.open("ab"))
        install = ("install", "-qy", "--no-install-recommends", *PACKAGES)
        for words in (install, ("update", "-q"), install):
            command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *words]
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
            if not missing_programs():
                return
    raise Unsuitable(f"{', '.join(missing_programs())} missing, and apt-get could not help: read {log}")


def ensure_account(name: str, home: Path) -> None:
    """Make an account without a password. One that exists is kept, and so is its home if it is there."""
    try:
        if Path(pwd.getpwnam(name).pw_dir).is_dir():
            return
        run("usermod", "--home", str(home), name)
        home.mkdir(exist_ok=True)
        shutil.chown(home, name, pwd.getpwnam(name).pw_gid)
    except KeyError:
        run("useradd", "-m", "-d", str(home), "-s", "/bin/bash", "-c", ACCOUNT_COMMENT, name)
    home.chmod(0o700)


def remove_account(name: str, homes: Path) -> None:
    """Remove an account, and what runs under it, if it was made here."""
    with contextlib.suppress(KeyError):
        account = pwd.getpwnam(name)
        if account.pw_gecos == ACCOUNT_COMMENT and Path(account.pw_dir).parent == homes:
            with contextlib.suppress(ClusterError):  # It fails if nothing runs.
                run("pkill", "-KILL", "-U", str(account.pw_uid))
            run("userdel", "--force", name)


def claim_folder(directory: Path) -> None:
    """Make the folder, unless it is somebody else's or can't be used."""
    if len(bytes(directory)) > LONGEST_DIRECTORY:
        raise ClusterError(f"{directory} has over {LONGEST_DIRECTORY} bytes, too long for Slurm's sockets")
    for folder in filter(Path.exists, (directory, *directory.parents)):
        if not folder.stat().st_mode & 0o001:
            raise ClusterError(f"users can't enter {folder}: choose another --dir")
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    if directory.stat().st_uid != 0 or (any(directory.iterdir()) and not (directory / MARKER).exists()):
        raise ClusterError(f"{directory} is there already, and not a cluster's")
    (directory / MARKER).touch()


def detect_layout(before: Layout, nodes: int) -> Layout:
    """Look at the machine; where the search for free ports begins is up to the folder's name."""
    first = before.directory == str(DEFAULT_DIRECTORY)
    begin = 0 if first else zlib.crc32(before.directory.encode()) % len(PORT_BLOCKS)
    for port in (*PORT_BLOCKS[begin:], *PORT_BLOCKS[:begin]):
        if not any(map(is_listening, range(port, port + nodes + 2))):
            break
    else:
        raise ClusterError(f"no {nodes + 2} free ports in a row")
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        raise Unsuitable(f"the host's name, {host}, has no address") from None
    mounts, systemd = Path("/proc/mounts").read_text(), Path("/run/systemd/system").exists()
    cgroup = find_cgroup(mounts, systemd=systemd)
    host, _, _ = host.partition(".")
    return dataclasses.replace(before, nodes=nodes, base_port=port, host=host, address=address, cgroup=cgroup)


def prepare(layout: Layout) -> None:
    """Make everything that the daemons find when they start."""
    folder = Path(layout.directory)
    (folder / MARKER).write_text(json.dumps(vars(layout), indent=1))
    for name in ("etc", "home", "log", "run", *(f"spool/{node}" for node in layout.node_names)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if missing_programs():
        install_packages(folder / "log/apt.log")
    for name, user, mode in (("state", "root", 0o700), ("munge", "munge", 0o755), ("mysql", "mysql", 0o700)):
        (folder / name).mkdir(mode, exist_ok=True)
        shutil.chown(folder / name, user, user)
    (folder / "etc/slurm.conf").write_text(slurm_conf(layout))
    (folder / "etc/slurmdbd.conf").touch(0o600)
    (folder / "etc/slurmdbd.conf").write_text(slurmdbd_conf(layout))
    swap = len(Path("/proc/swaps").read_text().splitlines()) > 1
    (folder / "etc/cgroup.conf").write_text(cgroup_conf(layout.cgroup, swap=swap))
    with contextlib.suppress(FileExistsError), (folder / "etc/local.conf").open("x") as local:
        local.write("# Read after slurm.conf. Slurm rejects an empty file.\n")
    key = folder / "munge/key-file"
    key.touch(0o400)
    if not key.stat().st_size:
        key.write_bytes(os.urandom(1024))
    shutil.chown(key, "munge", "munge")
    if not (data := folder / "mysql/data").exists():
        # Renamed at last: what was interrupted begins anew.
        shutil.rmtree(folder / "mysql/new", ignore_errors=True)
        options = ("--no-defaults", "--user=mysql", "--skip-test-db", f"--datadir={folder}/mysql/new")
        run("mariadb-install-db", *options)
        (folder / "mysql/new").rename(data)
    for account in ACCOUNTS:
        ensure_account(account, folder / "home" / account)


class Cluster:
    """A cluster in a folder of its own. Whatever starts, stops or looks at daemons needs root."""

    def __init__(self, directory: Path | str = DEFAULT_DIRECTORY) -> None:
        self.directory = Path(directory).resolve()
        self.marker = self.directory / MARKER

    @property
    def layout(self) -> Layout:
        """What it was started with, maybe by another version of this script, and in another folder."""
        try:
            stored = dict(json.loads(self.marker.read_text() or "{}"))
        except (OSError, ValueError, TypeError):
            raise ClusterError(f"no cluster in {self.directory}: start it first") from None
        known = {
            field.name: stored[field.name] for field in dataclasses.fields(Layout) if field.name in stored
        }
        name = re.sub(r"\W+", "_", self.directory.name.lower())
        return Layout(**{"name": name, **known, "directory": str(self.directory)})

    def start(self, nodes: int | None = None) -> str:
        """Bring up whatever is down, wait until all nodes take jobs, and say in one line what was done."""
        require_root()
        claim_folder(self.directory)
        with self._locked():
            began, running = time.monotonic(), self._pids()
            if not running:
                prepare(detect_layout(self.layout, nodes or self.layout.nodes))
            layout = self.layout
            if nodes not in (None, layout.nodes):
                raise ClusterError(f"{layout.name} runs with {layout.nodes} nodes: stop it first")
            if running.keys() == daemons_of(layout).keys() and self._serving(layout.node_names):
                return f"{layout.name} is up already in {self.directory}"
            self._bring_up("munged", "mariadbd")
            self._bring_up("slurmdbd")
            self._register_accounts()
            self._bring_up("slurmctld", *layout.node_names)
            self._await_nodes(layout.node_names)
        memory = "" if layout.cgroup else ", without memory limits (no OUT_OF_MEMORY)"
        return f"{layout.name} is up in {self.directory} after {time.monotonic() - began:.1f} s{memory}"

    def stop(self, *, purge: bool = False) -> str:
        """Cancel all jobs and end all daemons; with purge, remove the folder and the accounts made for it."""
        require_root()
        if not self.marker.exists():
            if purge and self.directory.exists():
                raise ClusterError(f"{self.directory} is not removed: {MARKER} is not in it")
            return f"no cluster in {self.directory}"
        with self._locked():
            self._cancel_jobs()
            self._end(["slurmctld", *self.layout.node_names])
            end(lambda: step_pids(self.directory / "spool"), signal.SIGKILL)
            self._end(["slurmdbd"])
            self._end(["mariadbd", "munged"])
            if purge:
                for account in ACCOUNTS:
                    remove_account(account, self.directory / "home")
                shutil.rmtree(self.directory)
        return f"{self.directory} is {'removed' if purge else 'stopped'}"

    def status(self) -> dict[str, int | None]:
        """The process of each daemon, in the order of their start; None for one that is down."""
        require_root()
        pids, daemons = self._pids(), daemons_of(self.layout)
        return {name: pids.get(name) if is_listening(at) else None for name, (at, _) in daemons.items()}

    def daemon(self, action: str, name: str) -> str:
        """Start, stop (SIGTERM), restart or kill one daemon, or crash it: kill its jobs as well."""
        require_root()
        if name not in daemons_of(self.layout):
            raise ClusterError(f"no daemon {name}: there are {', '.join(daemons_of(self.layout))}")
        with self._locked():
            if action != "start":
                self._end([name], signal.SIGKILL if action in ("kill", "crash") else signal.SIGTERM)
            if action == "crash":
                end(lambda: step_pids(self.directory / "spool" / name), signal.SIGKILL)
            if action in ("start", "restart"):
                self._bring_up(name)
                if name in self.layout.node_names and "slurmctld" in self._pids():
                    self._await_nodes([name])
        return f"{name}: {action} done"

    def env(self) -> dict[str, str]:
        """The variables that point Slurm's commands to this cluster."""
        path = dict.fromkeys(os.environ.get("PATH", "").split(":") + SYSTEM_PATH.split(":"))
        return {"SLURM_CONF": f"{self.directory}/etc/slurm.conf", "PATH": ":".join(filter(None, path))}

    def command_as(self, user: str, *argv: str) -> list[str]:
        """The command line with which root runs a command as this user, at home, in a clean environment."""
        try:
            home = pwd.getpwnam(user).pw_dir
        except KeyError:
            raise ClusterError(f"no account {user}") from None
        login = {"HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", "LANG": "C.UTF-8"}
        login |= {"PATH": SYSTEM_PATH, "SLURM_CONF": self.env()["SLURM_CONF"]}
        variables = [f"{key}={value}" for key, value in login.items()]
        return ["runuser", "-u", user, "--", "env", "-i", f"--chdir={home}", *variables, *argv]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time may change a cluster; the others wait."""
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _pids(self) -> dict[str, int]:
        return daemon_pids(str(self.directory))

    def _end(self, names: list[str], number: int = signal.SIGTERM) -> None:
        end(lambda: [pid for name, pid in self._pids().items() if name in names], number)

    def _bring_up(self, *names: str) -> None:
        """Start those that are down, all at once, and wait until each listens."""
        daemons, running = daemons_of(self.layout), self._pids()
        for name in names:
            if name not in running:
                self._launch(name, daemons[name][1])
        for name in names:
            self._await_daemon(name, daemons[name][0])

    def _launch(self, name: str, argv: list[str]) -> None:
        """Start a daemon that keeps nothing of the caller's: no session, pipe, ignored signal or variable."""
        folder, spool = self.directory, self.directory / "spool" / name
        env = {MARK: f"{folder}:{name}", "PATH": SYSTEM_PATH, "LANG": "C.UTF-8"}
        env |= {"SLURM_CONF": f"{folder}/etc/slurm.conf", "MYSQL_UNIX_PORT": f"{folder}/mysql/socket"}
        with (folder / f"log/{name}.log").open("ab") as log:
            subprocess.run(
                ["setsid", "--fork", "env", "--default-signal", *argv],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, umask=0o022, check=True,
                cwd=spool if spool.exists() else folder,
            )  # fmt: skip

    def _await_daemon(self, name: str, address: int | str) -> None:
        def lives() -> bool:
            return name in self._pids()

        # What was launched becomes the daemon in a moment. If it is missing later, it died.
        wait_for(lives, 2)
        wait_for(lambda: is_listening(address) or not lives(), START_SECONDS)
        if not (lives() and is_listening(address)):
            raise ClusterError(f"{name} did not come up: read {self.directory}/log/{name}.log")

    def _slurm(self, *argv: str) -> str:
        return run(*argv, SLURM_CONF=self.env()["SLURM_CONF"])

    def _register_accounts(self) -> None:
        """Make the cluster and its users known to accounting."""
        users = f"user {','.join(ACCOUNTS)} account=hpctrack"
        for words in (f"cluster {self.layout.name}", "account hpctrack", users):
            with contextlib.suppress(ClusterError):  # It fails for what is known already.
                self._slurm("sacctmgr", "-iQ", "add", *words.split())

    def _cancel_jobs(self) -> None:
        """Let Slurm end the jobs, so that accounting knows; what is left of them after a while is killed."""
        with contextlib.suppress(ClusterError):
            if "slurmctld" in self._pids() and (jobs := self._slurm("squeue", "-ah", "-o", "%F").split()):
                self._slurm("scancel", *sorted(set(jobs)))
                wait_for(lambda: not self._slurm("squeue", "-ah"), GRACE_SECONDS)

    def _serving(self, nodes: list[str]) -> bool:
        """Do all these nodes take jobs? Those that somebody drained or set down are resumed on the way."""
        try:
            lines = self._slurm("sinfo", "-ahN", "-n", ",".join(nodes), "-o", "%N %T").splitlines()
            states = dict(line.split() for line in lines)
            for node, state in states.items():
                if re.fullmatch("(down|drain).*[^*]", state):
                    self._slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
        except ClusterError:
            return False
        return len(states) == len(nodes) and all(map(is_serving, states.values()))

    def _await_nodes(self, nodes: list[str]) -> None:
        if not wait_for(lambda: self._serving(nodes), START_SECONDS):
            raise ClusterError(f"not all nodes take jobs: read {self.directory}/log/slurmctld.log")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--dir", default=DEFAULT_DIRECTORY, help="the cluster's folder (%(default)s)")
        return command

    start = add("start", "bring up whatever is down, and wait until all nodes take jobs")
    start.add_argument("--nodes", type=int, choices=range(1, MOST_NODES + 1), metavar="N", help="usually 4")
    stop = add("stop", "cancel all jobs and end all daemons")
    stop.add_argument("--purge", action="store_true", help="remove folder and accounts too")
    add("status", "show the daemons; exit with 3 unless all are up")
    add("env", "print shell lines that point Slurm's commands to the cluster")
    daemon = add("daemon", "act on one daemon, to test faults; crash kills a node's jobs with it")
    daemon.add_argument("action", choices=("start", "stop", "restart", "kill", "crash"))
    daemon.add_argument("name", help="munged, mariadbd, slurmdbd, slurmctld, n1, n2, ...")
    run_as = add("run", "run a command as hpcalice or hpcbob, at home; a shell if none is given")
    run_as.add_argument("user")
    run_as.add_argument("argv", nargs=argparse.REMAINDER, metavar="...")
    return top.parse_args(argv)


def perform(arguments: argparse.Namespace) -> int:
    """Do what the command line says, and return the exit code."""
    cluster, command = Cluster(arguments.dir), arguments.command
    if command == "start":
        print(cluster.start(arguments.nodes))
    elif command == "stop":
        print(cluster.stop(purge=arguments.purge))
    elif command == "daemon":
        print(cluster.daemon(arguments.action, arguments.name))
    elif command == "env":
        print(*(f"export {name}={shlex.quote(value)}" for name, value in cluster.env().items()), sep="\n")
    elif command == "run":
        require_root()
        argv = cluster.command_as(arguments.user, *(arguments.argv or ["bash", "-l"]))
        os.execvp(argv[0], argv)
    else:
        pids = cluster.status()
        print(*(f"{name:<10} {f'up, pid {pid}' if pid else 'down'}" for name, pid in pids.items()), sep="\n")
        return 0 if all(pids.values()) else 3
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run as a command: a failure is one line."""
    try:
        return perform(parse(argv))
    except (ClusterError, OSError) as error:
        print(f"minicluster: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, ClusterError) else 1
    except KeyboardInterrupt:
        print("minicluster: interrupted; `stop` ends what has been started", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
