"""What a mini cluster needs of its machine: root, packages, accounts, ports, and a folder with all in it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import shutil
import socket
import subprocess
import zlib
from pathlib import Path

import minicluster_config as config
import minicluster_processes as processes
from minicluster_processes import ClusterError

DEFAULT_DIRECTORY = Path("/var/tmp/hpctrack-cluster")
#: Names the prefix of a Slurm of one's own in the environment.
CHOICE = "MINICLUSTER_SLURM"
MARKER = "minicluster.json"
# Slurm names a socket DIR/spool/n1/n1_<job>.<step>, and the path of a socket has at most 107 bytes.
LONGEST_DIRECTORY = 60
ACCOUNTS = ("hpcalice", "hpcbob")
ACCOUNT_COMMENT = "made by minicluster.py"
PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")


class Unsuitable(ClusterError):
    """This machine can't hold a cluster."""

    exit_code = 4


def require_root() -> None:
    """Refuse to go on as anybody else."""
    if os.geteuid() != 0:
        raise Unsuitable("only root can start jobs of other users")


def chosen_slurm() -> str:
    """Return the prefix of the Slurm that the environment asks for; empty for the system's."""
    prefix = os.environ.get(CHOICE, "").rstrip("/")
    if prefix and not Path(prefix, "sbin/slurmctld").exists():
        raise ClusterError(f"{CHOICE}={prefix}: there is no sbin/slurmctld below it")
    return prefix


def require_slurm(layout: config.Layout) -> None:
    """Refuse to start a cluster with another Slurm than it was made with."""
    if (chosen := chosen_slurm()) and chosen != layout.slurm:
        raise ClusterError(f"{layout.name} is of {layout.slurm or 'the system'}, not of {chosen}")


def default_directory() -> Path:
    """Return MINICLUSTER_DIR, or one for each Slurm: no release reads what a much newer one has stored."""
    if directory := os.environ.get("MINICLUSTER_DIR"):
        return Path(directory)
    name = Path(chosen_slurm()).name
    return DEFAULT_DIRECTORY.with_name(f"{DEFAULT_DIRECTORY.name}-{name}") if name else DEFAULT_DIRECTORY


def missing_programs() -> list[str]:
    """Which of the programs we start are not installed."""
    wanted = (*processes.PROGRAMS, "mariadb-install-db", "sacctmgr", "sbatch")
    return [program for program in wanted if not shutil.which(program, path=config.SYSTEM_PATH)]


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
        processes.run("usermod", "--home", str(home), name)
        home.mkdir(exist_ok=True)
        shutil.chown(home, name, pwd.getpwnam(name).pw_gid)
    except KeyError:
        processes.run("useradd", "-m", "-d", str(home), "-s", "/bin/bash", "-c", ACCOUNT_COMMENT, name)
    home.chmod(0o700)


def remove_account(name: str, homes: Path) -> None:
    """Remove an account, and what runs under it, if it was made here."""
    with contextlib.suppress(KeyError):
        account = pwd.getpwnam(name)
        if account.pw_gecos == ACCOUNT_COMMENT and Path(account.pw_dir).parent == homes:
            with contextlib.suppress(ClusterError):  # It fails if nothing runs.
                processes.run("pkill", "-KILL", "-U", str(account.pw_uid))
            processes.run("userdel", "--force", name)


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


def find_ports(directory: str, count: int) -> int:
    """Find free ports in a row; where the search begins is up to the folder's name."""
    blocks = list(config.PORT_BLOCKS)
    begin = 0 if directory == str(DEFAULT_DIRECTORY) else zlib.crc32(directory.encode()) % len(blocks)
    for port in blocks[begin:] + blocks[:begin]:
        if not any(map(processes.is_listening, range(port, port + count))):
            return port
    raise ClusterError(f"no {count} free ports in a row")


def detect_layout(before: config.Layout, nodes: int) -> config.Layout:
    """Look at the machine: its free ports, its name and address, its control groups."""
    port, host = find_ports(before.directory, nodes + 2), socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        raise Unsuitable(f"the host's name, {host}, has no address") from None
    mounts, systemd = Path("/proc/mounts").read_text(), Path("/run/systemd/system").exists()
    cgroup = config.find_cgroup(mounts, systemd=systemd)
    host, _, _ = host.partition(".")
    return dataclasses.replace(before, nodes=nodes, base_port=port, host=host, address=address, cgroup=cgroup)


def prepare(layout: config.Layout) -> None:
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
    write_configuration(layout, folder / "etc")
    ensure_key(folder / "munge/key-file")
    ensure_database(folder / "mysql")
    for account in ACCOUNTS:
        ensure_account(account, folder / "home" / account)


def write_configuration(layout: config.Layout, etc: Path) -> None:
    """Write what Slurm's daemons read; local.conf, the user's own, is made only if it is missing."""
    (etc / "slurm.conf").write_text(config.slurm_conf(layout))
    (etc / "slurmdbd.conf").touch(0o600)
    (etc / "slurmdbd.conf").write_text(config.slurmdbd_conf(layout))
    swap = len(Path("/proc/swaps").read_text().splitlines()) > 1
    (etc / "cgroup.conf").write_text(config.cgroup_conf(layout.cgroup, swap=swap))
    with contextlib.suppress(FileExistsError), (etc / "local.conf").open("x") as local:
        local.write("# Read after slurm.conf. Slurm rejects an empty file.\n")


def ensure_key(key: Path) -> None:
    """Make munge's key; an empty one was left by a start that was interrupted."""
    key.touch(0o400)
    if not key.stat().st_size:
        key.write_bytes(os.urandom(1024))
    shutil.chown(key, "munge", "munge")


def ensure_database(mysql: Path) -> None:
    """Make MariaDB's system tables. Renamed at last: what was interrupted begins anew."""
    if (mysql / "data").exists():
        return
    shutil.rmtree(mysql / "new", ignore_errors=True)
    options = ("--no-defaults", "--user=mysql", "--skip-test-db", f"--datadir={mysql}/new")
    processes.run("mariadb-install-db", *options)
    (mysql / "new").rename(mysql / "data")
