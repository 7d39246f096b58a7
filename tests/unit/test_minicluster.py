"""The parts of scripts/minicluster*.py that need no Slurm: what it writes, what it reads from the kernel."""

import importlib.util
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "scripts" / "minicluster.py"


def load():
    spec = importlib.util.spec_from_file_location("minicluster", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["minicluster"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


minicluster = load()
config, machine, processes = minicluster.config, minicluster.machine, minicluster.processes

V1 = """\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/freezer cgroup rw,relatime,freezer 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate 0 0\n"


@pytest.fixture
def layout():
    return config.Layout("/var/tmp/My-cluster.2", "mine", nodes=3, base_port=17040, host="box", cgroup=1)


def settings(text):
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and " " not in line)
    return dict(pairs)


def test_ports_follow_each_other_and_are_below_the_ephemeral_ones(layout):
    daemons = ["slurmctld", "slurmdbd", "n1", "n2", "n3"]
    assert [layout.port(name) for name in daemons] == list(range(17040, 17045))
    assert max(config.PORT_BLOCKS) + config.PORT_BLOCKS.step < 32768


def test_every_port_of_the_configuration_is_one_that_a_daemon_is_expected_on(layout):
    conf = config.slurm_conf(layout)
    assert settings(conf)["SlurmctldPort"] == "17040"
    assert settings(conf)["AccountingStoragePort"] == "17041"
    assert settings(config.slurmdbd_conf(layout))["DbdPort"] == "17041"
    assert "NodeName=n[1-3] NodeHostname=box NodeAddr=127.0.0.1 Port=[17042-17044]" in conf


def test_each_setting_stands_once_on_a_line_of_its_own(layout):
    for text in (config.slurm_conf(layout), config.slurmdbd_conf(layout)):
        keys = [line.split("=")[0] for line in text.splitlines() if "=" in line and " " not in line]
        assert len(keys) == len(set(keys))
        assert all(key.isidentifier() for key in keys)


def test_all_paths_are_in_the_folder(layout):
    conf = config.slurm_conf(layout) + config.slurmdbd_conf(layout)
    paths = [value for value in settings(conf).values() if value.startswith("/") and value != "/bin/true"]
    assert paths
    assert all(path.startswith("/var/tmp/My-cluster.2/") for path in paths)


def test_partitions_are_there_to_preempt_and_to_hide(layout):
    partitions = [line for line in config.slurm_conf(layout).splitlines() if line.startswith("Partition")]
    assert [line.split()[0] for line in partitions] == [
        "PartitionName=main", "PartitionName=urgent", "PartitionName=scav", "PartitionName=hidden",
    ]  # fmt: skip
    assert [line for line in partitions if "Default=YES" in line] == partitions[:1]
    assert [line for line in partitions if "Hidden=YES" in line] == partitions[3:]


def test_local_settings_come_last_so_that_they_win(layout):
    last = config.slurm_conf(layout).splitlines()[-1]
    assert last == "Include /var/tmp/My-cluster.2/etc/local.conf"


def test_clusters_beside_each_other_do_not_share_job_ids():
    blocks = list(config.PORT_BLOCKS)
    confs = [config.slurm_conf(config.Layout("/a", "a", base_port=port)) for port in blocks]
    firsts = [int(settings(conf)["FirstJobId"]) for conf in confs]
    assert firsts[0] == 1
    assert all(later - earlier >= 10000 for earlier, later in itertools.pairwise(firsts))


@pytest.mark.parametrize(("cgroup", "tracking"), [(0, "linuxproc"), (1, "cgroup"), (2, "cgroup")])
def test_without_control_groups_slurm_is_told_to_do_without(cgroup, tracking):
    conf = settings(config.slurm_conf(config.Layout("/a", "a", cgroup=cgroup)))
    assert conf["ProctrackType"] == f"proctrack/{tracking}"
    assert ("ConstrainRAMSpace=yes" in config.cgroup_conf(cgroup, swap=True)) == bool(cgroup)


@pytest.mark.parametrize(
    ("mounts", "systemd", "found"),
    [
        (V1, False, 1),
        (V1, True, 1),
        (V1.replace("memory cgroup rw", "memory cgroup ro"), True, 0),
        (V1.replace(",freezer 0", ",blkio 0"), True, 0),
        (V2, True, 2),
        (V2, False, 0),
        (V2.replace("cgroup2 rw", "cgroup2 ro"), True, 0),
        ("proc /proc proc rw 0 0\n", True, 0),
        ("", True, 0),
    ],
)
def test_control_groups_are_found_by_what_is_mounted(mounts, systemd, found):
    assert config.find_cgroup(mounts, systemd=systemd) == found


@pytest.mark.parametrize("state", ["idle", "mixed", "allocated", "completing", "mixed-", "planned"])
def test_nodes_that_take_jobs(state):
    assert config.is_serving(state)


@pytest.mark.parametrize("state", ["idle*", "down", "down*", "drained", "draining", "unk*", "inval", ""])
def test_nodes_that_take_none(state):
    assert not config.is_serving(state)


def test_a_moved_cluster_reads_its_marker_with_its_new_folder(tmp_path, layout):
    (tmp_path / machine.MARKER).write_text(json.dumps(vars(layout)))
    moved = minicluster.Cluster(tmp_path).layout
    assert moved.directory == str(tmp_path.resolve())
    assert (moved.name, moved.nodes, moved.base_port, moved.cgroup) == ("mine", 3, 17040, 1)


@pytest.mark.parametrize("marker", [None, "[1]", "{"])
def test_a_folder_without_a_readable_marker_is_no_cluster(tmp_path, marker):
    if marker is not None:
        (tmp_path / machine.MARKER).write_text(marker)
    with pytest.raises(minicluster.ClusterError, match="start it first"):
        _ = minicluster.Cluster(tmp_path).layout


def test_the_marker_of_another_version_is_understood(tmp_path):
    (tmp_path / "My-cluster.2").mkdir()
    (tmp_path / "My-cluster.2" / machine.MARKER).write_text('{"nodes": 2, "colour": "red"}')
    layout = minicluster.Cluster(tmp_path / "My-cluster.2").layout
    assert (layout.nodes, layout.name) == (2, "my_cluster_2")


def test_a_start_that_was_interrupted_at_once_can_be_repeated(tmp_path):
    (tmp_path / machine.MARKER).touch()
    assert minicluster.Cluster(tmp_path).layout.nodes == 4


def test_a_cluster_keeps_its_name_and_finds_ports_that_are_free(monkeypatch, layout):
    monkeypatch.setattr(processes, "is_listening", lambda port: port < config.PORT_BLOCKS[-1])
    layout_ = machine.detect_layout(layout, 2)
    assert (layout_.name, layout_.nodes, layout_.base_port) == ("mine", 2, config.PORT_BLOCKS[-1])
    monkeypatch.setattr(processes, "is_listening", lambda port: True)
    with pytest.raises(minicluster.ClusterError, match="no 4 free ports"):
        machine.detect_layout(layout, 2)


def test_nodes_that_are_down_are_told_with_the_reason(monkeypatch, tmp_path):
    cluster, said = minicluster.Cluster(str(tmp_path)), "n1 down* Not responding\nn2 idle none\n"
    monkeypatch.setattr(minicluster, "START_SECONDS", 0.0)
    monkeypatch.setattr(cluster, "_slurm", lambda *argv: said if "%E" in argv[-1] else "")
    with pytest.raises(minicluster.ClusterError, match=r"n1 down\* Not responding, n2 idle\)"):
        cluster._await_nodes(["n1", "n2"])


def test_a_command_that_hangs_is_ended_with_all_that_it_started(monkeypatch, tmp_path):
    real = subprocess.Popen.communicate
    monkeypatch.setattr(subprocess.Popen, "communicate", lambda self, timeout: real(self, timeout=0.3))
    with pytest.raises(minicluster.ClusterError, match="timed out"):
        processes.run("sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    child = Path("/proc") / (tmp_path / "pid").read_text().strip()
    assert processes.wait_for(lambda: not child.exists() or " Z " in (child / "stat").read_text(), 5)


def test_a_process_is_taken_for_a_daemon_only_by_mark_and_program_and_session(tmp_path):
    mark = f"{processes.MARK}={tmp_path}:n1"
    impostor = subprocess.Popen(["env", mark, "sleep", "60"], start_new_session=True)
    other = subprocess.Popen(["bash", "-c", "exec -a slurmd sleep 60"], start_new_session=True)
    real = subprocess.Popen(["env", mark, "bash", "-c", "exec -a slurmd sleep 60"], start_new_session=True)
    try:
        assert processes.wait_for(lambda: processes.daemon_pids(str(tmp_path)) == {"n1": real.pid}, 5)
        processes.end(lambda: processes.daemon_pids(str(tmp_path)).values())
        assert real.wait(5) == -15
        assert impostor.poll() is None
        assert other.poll() is None
    finally:
        for process in (impostor, other, real):
            process.kill()
            process.wait()


def test_what_ignores_a_signal_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.2)
    mark = f"{processes.MARK}={tmp_path}:slurmctld"
    command = ["env", mark, "bash", "-c", "trap '' TERM; exec -a slurmctld sleep 60"]
    stubborn = subprocess.Popen(command, start_new_session=True)
    assert processes.wait_for(lambda: bool(processes.daemon_pids(str(tmp_path))), 5)
    processes.end(lambda: processes.daemon_pids(str(tmp_path)).values())
    assert stubborn.wait(5) == -9


def test_listening_is_seen_without_connecting(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert processes.is_listening(port)
    assert not processes.is_listening(port)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        assert processes.is_listening(str(tmp_path / "socket"))
    assert not processes.is_listening(str(tmp_path / "socket"))  # The file is still there.


def test_the_failure_of_a_command_is_one_line():
    with pytest.raises(minicluster.ClusterError) as failure:
        processes.run("sh", "-c", "echo first >&2; echo last >&2; exit 3")
    assert str(failure.value).endswith("failed: last")
    with pytest.raises(minicluster.ClusterError, match="No such file"):
        processes.run("no-such-program")


def test_env_is_for_eval_and_keeps_the_path(tmp_path):
    directory = tmp_path / "a folder"
    printed = subprocess.check_output(
        [sys.executable, SCRIPT, "env", "--dir", directory],
        env={**os.environ, "PATH": "/opt/x:/usr/bin"},
        text=True,
    )
    shown = subprocess.check_output(["bash", "-c", f'{printed}echo "$SLURM_CONF|$PATH"'], text=True).strip()
    assert shown.startswith(f"{directory}/etc/slurm.conf|/opt/x:/usr/bin:")
    assert shown.endswith(":/sbin:/bin")


@pytest.fixture
def other_slurm(tmp_path, monkeypatch):
    daemon = tmp_path / "slurm-99.05" / "sbin" / "slurmctld"
    daemon.parent.mkdir(parents=True)
    daemon.touch()
    monkeypatch.setenv("MINICLUSTER_SLURM", f"{daemon.parents[1]}/")
    return str(daemon.parents[1])


def test_another_slurm_has_a_folder_of_its_own_and_comes_first_on_the_path(other_slurm, monkeypatch):
    cluster = minicluster.Cluster()
    assert cluster.directory == Path("/var/tmp/hpctrack-cluster-slurm-99.05")
    monkeypatch.setattr(cluster, "marker", Path(other_slurm) / "marker")
    cluster.marker.touch()
    assert cluster.layout.slurm == other_slurm
    assert cluster.env()["PATH"].startswith(f"{other_slurm}/sbin:{other_slurm}/bin:")
    cluster.marker.write_text(json.dumps(vars(cluster.layout)))
    monkeypatch.delenv("MINICLUSTER_SLURM")
    assert cluster.layout.slurm == other_slurm, "it is remembered"
    assert minicluster.Cluster().directory == machine.DEFAULT_DIRECTORY


def test_a_cluster_is_not_started_with_another_slurm_than_it_was_made_with(other_slurm, layout):
    machine.require_slurm(config.Layout("/a", "a", slurm=other_slurm))
    with pytest.raises(minicluster.ClusterError, match="mine is of the system, not of"):
        machine.require_slurm(layout)


def test_a_slurm_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setenv("MINICLUSTER_SLURM", "/no/such")
    assert minicluster.main(["status"]) == 1
    assert capsys.readouterr().err == (
        "minicluster: MINICLUSTER_SLURM=/no/such: there is no sbin/slurmctld below it\n"
    )


def test_it_runs_by_a_link_from_anywhere_and_leaves_nothing_beside_itself(tmp_path):
    (tmp_path / "link").symlink_to(SCRIPT)
    cache = {"PYTHONPYCACHEPREFIX": str(tmp_path / "cache"), "PYTHONSAFEPATH": "1"}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | cache
    subprocess.run([sys.executable, tmp_path / "link", "env"], cwd="/", env=env, check=True)
    assert not list(tmp_path.glob("cache/**/minicluster*"))


def test_help_explains_itself_and_wrong_usage_exits_with_2():
    text = subprocess.check_output([sys.executable, SCRIPT, "--help"], text=True)
    assert all(word in text for word in ("start", "stop", "SPECIAL_EXIT", "Exit codes"))
    with pytest.raises(SystemExit) as wrong:
        minicluster.main(["start", "--nodes", "99"])
    assert wrong.value.code == 2


def test_stopping_where_no_cluster_is_does_nothing_and_removes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "require_root", lambda: None)
    (tmp_path / "precious").touch()
    assert minicluster.Cluster(tmp_path).stop().startswith("no cluster")
    with pytest.raises(minicluster.ClusterError, match="not removed"):
        minicluster.Cluster(tmp_path).stop(purge=True)
    assert (tmp_path / "precious").exists()


def test_who_is_not_root_is_told_so_with_an_exit_code_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(minicluster.os, "geteuid", lambda: 1000)
    assert minicluster.main(["start"]) == 4
    assert "only root" in capsys.readouterr().err


@pytest.fixture
def apt(monkeypatch, tmp_path):
    """An apt-get that notes its calls, and can install only after an update."""
    calls, policy = tmp_path / "calls", tmp_path / "policy-rc.d"
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(f"""#!/bin/sh
        echo "$DEBIAN_FRONTEND $1 $("{policy}"; echo $?)" >> "{calls}"
        [ "$1" = update ] && touch "{tmp_path}/lists"
        [ "$1" = install ] && [ -e "{tmp_path}/lists" ] && touch "{tmp_path}/installed"
        exit 0""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(
        machine, "missing_programs", lambda: [] if (tmp_path / "installed").exists() else ["slurmd"]
    )
    return calls, policy


def test_package_lists_are_fetched_only_when_needed_and_no_service_is_started(apt, tmp_path):
    calls, policy = apt
    machine.install_packages(tmp_path / "apt.log", policy)
    assert calls.read_text().splitlines() == [
        f"noninteractive {word} 101" for word in ("install", "update", "install")
    ]
    assert not policy.exists()
    (tmp_path / "installed").unlink()
    machine.install_packages(tmp_path / "apt.log", policy)
    assert len(calls.read_text().splitlines()) == 4


def test_packages_that_cannot_be_had_make_the_machine_unsuitable(apt, tmp_path, monkeypatch):
    _, policy = apt
    monkeypatch.setattr(machine, "missing_programs", lambda: ["slurmd"])
    with pytest.raises(machine.Unsuitable, match=r"slurmd missing.*apt\.log"):
        machine.install_packages(tmp_path / "apt.log", policy)
    assert not policy.exists()
