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

It is the system's Slurm unless MINICLUSTER_SLURM names the prefix of another (what was given to configure as
--prefix, with --enable-multiple-slurmd). That one's cluster has a folder of its own, named after the prefix:

    sudo MINICLUSTER_SLURM=/opt/slurm-26.05 scripts/minicluster.py start

MINICLUSTER_DIR is --dir for all, the tests included.

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
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# The tests import this file by its path, and then Python does not look beside it by itself.
sys.path.insert(0, str(Path(__file__).resolve().parent))
if __name__ == "__main__":
    sys.dont_write_bytecode = True  # sudo would leave root's __pycache__ in a user's clone.

import minicluster_config as config
import minicluster_machine as machine
import minicluster_processes as processes
from minicluster_processes import ClusterError

START_SECONDS = 30.0


class Cluster:
    """A cluster in a folder of its own. Whatever starts, stops or looks at daemons needs root."""

    def __init__(self, directory: Path | str | None = None) -> None:
        self.directory = Path(directory or machine.default_directory()).resolve()
        self.marker = self.directory / machine.MARKER

    @property
    def layout(self) -> config.Layout:
        """What it was started with, maybe by another version of this script, and in another folder."""
        try:
            stored = dict(json.loads(self.marker.read_text() or "{}"))
        except (OSError, ValueError, TypeError):
            raise ClusterError(f"no cluster in {self.directory}: start it first") from None
        names = {field.name for field in dataclasses.fields(config.Layout)}
        known = {name: value for name, value in stored.items() if name in names}
        name = re.sub(r"\W+", "_", self.directory.name.lower())
        new = {"name": name, "slurm": "" if known else machine.chosen_slurm()}
        return config.Layout(**{**new, **known, "directory": str(self.directory)})

    def start(self, nodes: int | None = None) -> str:
        """Bring up whatever is down, wait until all nodes take jobs, and say in one line what was done."""
        machine.require_root()
        machine.claim_folder(self.directory)
        machine.require_slurm(self.layout)
        with self._locked():
            began, running = time.monotonic(), self._pids()
            if not running:
                machine.prepare(machine.detect_layout(self.layout, nodes or self.layout.nodes))
            layout = self.layout
            if nodes not in (None, layout.nodes):
                raise ClusterError(f"{layout.name} runs with {layout.nodes} nodes: stop it first")
            if running.keys() == config.daemons_of(layout).keys() and self._serving(layout.node_names):
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
        machine.require_root()
        if not self.marker.exists():
            if purge and self.directory.exists():
                raise ClusterError(f"{self.directory} is not removed: {machine.MARKER} is not in it")
            return f"no cluster in {self.directory}"
        with self._locked():
            self._cancel_jobs()
            self._end(["slurmctld", *self.layout.node_names])
            processes.end(lambda: processes.step_pids(self.directory / "spool"), signal.SIGKILL)
            self._end(["slurmdbd"])
            self._end(["mariadbd", "munged"])
            if purge:
                for account in machine.ACCOUNTS:
                    machine.remove_account(account, self.directory / "home")
                shutil.rmtree(self.directory)
        return f"{self.directory} is {'removed' if purge else 'stopped'}"

    def status(self) -> dict[str, int | None]:
        """The process of each daemon, in the order of their start; None for one that is down."""
        machine.require_root()
        pids, daemons = self._pids(), config.daemons_of(self.layout)
        return {
            name: pids.get(name) if processes.is_listening(address) else None
            for name, (address, _) in daemons.items()
        }

    def daemon(self, action: str, name: str) -> str:
        """Start, stop (SIGTERM), restart or kill one daemon, or crash it: kill its jobs as well."""
        machine.require_root()
        if name not in config.daemons_of(self.layout):
            raise ClusterError(f"no daemon {name}: there are {', '.join(config.daemons_of(self.layout))}")
        with self._locked():
            if action != "start":
                self._end([name], signal.SIGKILL if action in ("kill", "crash") else signal.SIGTERM)
            if action == "crash":
                processes.end(lambda: processes.step_pids(self.directory / "spool" / name), signal.SIGKILL)
            if action in ("start", "restart"):
                self._bring_up(name)
                if name in self.layout.node_names and "slurmctld" in self._pids():
                    self._await_nodes([name])
        return f"{name}: {action} done"

    def env(self) -> dict[str, str]:
        """The variables that point Slurm's commands to this cluster."""
        own = self._path.removesuffix(config.SYSTEM_PATH)
        given = os.environ.get("PATH", "")
        path = dict.fromkeys(f"{own}:{given}:{config.SYSTEM_PATH}".split(":"))
        return {"SLURM_CONF": f"{self.directory}/etc/slurm.conf", "PATH": ":".join(filter(None, path))}

    @property
    def _path(self) -> str:
        """The PATH of its daemons and of its users."""
        try:
            return self.layout.path
        except ClusterError:
            return config.SYSTEM_PATH

    def command_as(self, user: str, *argv: str) -> list[str]:
        """The command line with which root runs a command as this user, at home, in a clean environment."""
        try:
            home = pwd.getpwnam(user).pw_dir
        except KeyError:
            raise ClusterError(f"no account {user}") from None
        login = {"HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", "LANG": "C.UTF-8"}
        login |= {"PATH": self._path, "SLURM_CONF": self.env()["SLURM_CONF"]}
        variables = [f"{key}={value}" for key, value in login.items()]
        return ["runuser", "-u", user, "--", "env", "-i", f"--chdir={home}", *variables, *argv]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time may change a cluster; the others wait."""
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _pids(self) -> dict[str, int]:
        return processes.daemon_pids(str(self.directory))

    def _end(self, names: list[str], number: int = signal.SIGTERM) -> None:
        processes.end(lambda: [pid for name, pid in self._pids().items() if name in names], number)

    def _bring_up(self, *names: str) -> None:
        """Start those that are down, all at once, and wait until each listens."""
        daemons, running = config.daemons_of(self.layout), self._pids()
        for name in names:
            if name not in running:
                processes.launch(self.directory, name, daemons[name][1], self._path)
        for name in names:
            self._await_daemon(name, daemons[name][0])

    def _await_daemon(self, name: str, address: int | str) -> None:
        def lives() -> bool:
            return name in self._pids()

        # What was launched becomes the daemon in a moment. If it is missing later, it died.
        processes.wait_for(lives, 2)
        processes.wait_for(lambda: processes.is_listening(address) or not lives(), START_SECONDS)
        if not (lives() and processes.is_listening(address)):
            raise ClusterError(f"{name} did not come up: read {self.directory}/log/{name}.log")

    def _slurm(self, *argv: str) -> str:
        return processes.run(*argv, SLURM_CONF=self.env()["SLURM_CONF"], PATH=self._path)

    def _register_accounts(self) -> None:
        """Make the cluster and its users known to accounting."""
        users = f"user {','.join(machine.ACCOUNTS)} account=hpctrack"
        for words in (f"cluster {self.layout.name}", "account hpctrack", users):
            with contextlib.suppress(ClusterError):  # It fails for what is known already.
                self._slurm("sacctmgr", "-iQ", "add", *words.split())

    def _cancel_jobs(self) -> None:
        """Let Slurm end the jobs, so that accounting knows; what is left of them after a while is killed."""
        with contextlib.suppress(ClusterError):
            if "slurmctld" in self._pids() and (jobs := self._slurm("squeue", "-ah", "-o", "%F").split()):
                self._slurm("scancel", *sorted(set(jobs)))
                processes.wait_for(lambda: not self._slurm("squeue", "-ah"), processes.GRACE_SECONDS)

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
        return len(states) == len(nodes) and all(map(config.is_serving, states.values()))

    def _await_nodes(self, nodes: list[str]) -> None:
        if not processes.wait_for(lambda: self._serving(nodes), START_SECONDS):
            raise ClusterError(
                f"not all nodes take jobs ({self._node_states()}): read {self.directory}/log/slurmctld.log"
            )

    def _node_states(self) -> str:
        """What Slurm says of the nodes, and why."""
        try:
            lines = self._slurm("sinfo", "-ahN", "-o", "%N %T %E").splitlines()
        except ClusterError as error:
            return str(error)
        return ", ".join(dict.fromkeys(line.removesuffix(" none") for line in lines))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        usual = machine.DEFAULT_DIRECTORY
        command.add_argument("--dir", help=f"the cluster's folder ({usual}, or one beside it)")
        return command

    start = add("start", "bring up whatever is down, and wait until all nodes take jobs")
    start.add_argument(
        "--nodes", type=int, choices=range(1, config.MOST_NODES + 1), metavar="N", help="usually 4"
    )
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
        machine.require_root()
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
