"""What a mini cluster is made of: its daemons, their ports and command lines, the text of their files.

Everything here is pure, and may be tested without a Slurm.
"""

from __future__ import annotations

import dataclasses
import re

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST_NODES = 18
# Below the ports that Linux gives to outgoing connections, so that a restarted daemon finds its own free.
PORT_BLOCKS = range(17000, 32000, MOST_NODES + 2)


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
    slurm: str = ""
    """Where a Slurm of one's own was installed (configure's ``--prefix``); empty for the system's."""

    @property
    def path(self) -> str:
        """The PATH on which this cluster's daemons and commands are found."""
        own = f"{self.slurm}/sbin:{self.slurm}/bin:" if self.slurm else ""
        return own + SYSTEM_PATH

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


def is_serving(node_state: str) -> bool:
    """Does a node in this state (sinfo's %T) take jobs? A trailing * means that it does not answer."""
    return re.fullmatch("(idle|mixed|allocated|completing|planned)[^*]?", node_state) is not None
