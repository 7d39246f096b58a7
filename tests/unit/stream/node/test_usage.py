"""Usage: the job's cgroup is found, and processes are counted wherever they stand in the tree."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from hpctrack.stream.node import usage

V1 = """\
9:name=systemd:/
4:memory:/slurm_n1/uid_1001/job_10/step_batch/task_0
2:cpu,cpuacct:/slurm_n1/uid_1001/job_10/step_batch/task_0
0::/
"""
V2 = "0::/system.slice/slurmstepd.scope/job_10/step_batch/user/task_0\n"


V2_SLUID = "0::/system.slice/slurmstepd.scope/s469M8HEPKNM00/step_batch/user/task_0\n"


def found(monkeypatch, tmp_path, text, job_id, sluid=""):
    monkeypatch.setattr(usage, "_ROOT", str(tmp_path))
    for path in (
        "memory/slurm_n1/uid_1001/job_10",
        "cpuacct/slurm_n1/uid_1001/job_10",
        "system.slice/slurmstepd.scope/job_10",
        "system.slice/slurmstepd.scope/s469M8HEPKNM00",
    ):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
    folders = usage.find_cgroups(text, job_id, sluid)
    return {name: os.path.relpath(folder, tmp_path) for name, folder in folders.items()}


def test_the_jobs_cgroup_is_found_above_the_step_in_v1(monkeypatch, tmp_path):
    assert found(monkeypatch, tmp_path, V1, 10) == {
        "memory": "memory/slurm_n1/uid_1001/job_10",
        "cpuacct": "cpuacct/slurm_n1/uid_1001/job_10",
    }


def test_the_jobs_cgroup_is_found_in_v2(monkeypatch, tmp_path):
    assert found(monkeypatch, tmp_path, V2, 10) == {"": "system.slice/slurmstepd.scope/job_10"}


def test_the_jobs_cgroup_is_found_by_its_sluid(monkeypatch, tmp_path):
    """Slurm 26.05 with cgroup v2."""
    sluid = "s469M8HEPKNM00"
    ours = {"": f"system.slice/slurmstepd.scope/{sluid}"}
    assert found(monkeypatch, tmp_path, V2_SLUID, 10, sluid) == ours
    assert found(monkeypatch, tmp_path, V2, 10, sluid) == {"": "system.slice/slurmstepd.scope/job_10"}
    assert found(monkeypatch, tmp_path, V2_SLUID, 10) == {}
    assert found(monkeypatch, tmp_path, V2_SLUID, None, sluid) == {}


@pytest.mark.parametrize(
    ("text", "job_id", "lacking"),
    [
        (V2_SLUID, 10, True),
        (V1, 11, True),
        (V2, 10, False),
        ("0::/user.slice\n", 10, False),
        (V2_SLUID, None, False),
    ],
)
def test_a_cgroup_that_is_not_found_is_known(monkeypatch, tmp_path, text, job_id, lacking):
    found(monkeypatch, tmp_path, "", None)
    real = usage._read
    monkeypatch.setattr(usage, "_read", lambda path: text if path == "/proc/self/cgroup" else real(path))
    assert usage.Sampler("here", job_id, ("MARK", "none")).lacks_cgroup is lacking


def test_another_jobs_cgroup_is_not_ours(monkeypatch, tmp_path):
    assert found(monkeypatch, tmp_path, V1, 11) == {}
    assert found(monkeypatch, tmp_path, V1, None) == {}


def test_marked_processes_are_counted_and_their_time_is_kept():
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    mark = ("HPCTRACK_TEST_MARK", f"{os.getpid()}-{time.time_ns()}")
    sampler = usage.Sampler("here", None, mark)
    process = subprocess.Popen(
        [sys.executable, "-c", burn],
        env={**os.environ, mark[0]: mark[1]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # not in our tree's session: found all the same
    )
    assert process.stdout is not None
    process.stdout.readline()
    alive = sampler.sample()
    process.communicate(b"\n")
    ended = sampler.sample()
    assert alive.figures["processes"] == 1
    assert alive.figures["cpu_s"] >= 0.2  # in clock ticks of 10 ms
    assert alive.figures["memory_bytes"] > 1 << 20
    assert ended.figures["processes"] == 0
    assert ended.figures["cpu_s"] >= alive.figures["cpu_s"]
    assert ended.figures["memory_peak_bytes"] == alive.figures["memory_peak_bytes"]
    assert ended.node == "here"
