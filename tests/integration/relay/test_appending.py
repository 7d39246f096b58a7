"""``>> $HPCTRACK_JOURNAL`` never fails, anywhere, at any time; what comes late is told, and not the run's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hpctrack.stream import appending, folders, journals, options, runfolder
from tests.integration.relay.relayed_job import await_result

CHILD = 'set -eu; for i in 7 8 9; do echo "step=$i loss=1" >> "$HPCTRACK_JOURNAL"; done'


def environment(job) -> dict[str, str]:
    """Return what a script's `env` wrote: the environment that plain sbatch gives to its child."""
    return dict(line.split("=", 1) for line in (job.folder / "inherited").read_text().splitlines())


def child(job, **more) -> None:
    """Run a child's script, which a failing append would end."""
    environ = {**environment(job), "SLURM_JOB_ID": "15", **more}
    subprocess.run(["/bin/sh", "-c", CHILD], env=environ, check=True, timeout=60)


def rested(monkeypatch):
    monkeypatch.setattr(appending, "_REST", -1.0)


def told(job, collector) -> list[str]:
    """Deliver what timelines are to tell, as sync does when the run is over."""
    appending.tell_late(str(job.spool), str(job.node))
    job.sync(collector, ended=True)
    return [event["name"] for event in collector.messages("event") if "appended" in event["name"]]


SCRIPT = '#!/bin/sh -eu\nenv > inherited\necho "step=1 loss=1" >> "$HPCTRACK_JOURNAL"\n'


@pytest.mark.parametrize("environ", [{}, {"SLURM_JOB_NUM_NODES": "2"}], ids=["one node", "several nodes"])
def test_what_is_appended_after_the_end_is_set_aside_and_told(job, collector, monkeypatch, environ):
    rested(monkeypatch)
    job.submit()
    job.find_collector_at(collector.address)
    job.run(SCRIPT, **environ)
    job.sync(collector, ended=True)
    assert job.run_folders() == [] and job.spooled() == []
    assert told(job, collector) == []
    child(job)
    (name,) = told(job, collector)
    place = environment(job)["HPCTRACK_JOURNAL"]
    assert name.startswith("3 lines were appended after the end") and name.endswith(f":{place}")
    assert told(job, collector) == [name]  # once
    child(job)
    assert [text.partition(" ")[0] for text in told(job, collector)] == ["3", "6"]
    assert collector.steps() == [1] and len(Path(place).read_text().splitlines()) == 6
    assert job.run_folders() == [] and job.spooled() == []


def test_what_is_appended_late_to_a_task_of_an_array_is_told(job, collector, monkeypatch):
    rested(monkeypatch)
    job.record = job.record._replace(tasks="3,5")
    job.submit()
    job.run(SCRIPT, SLURM_ARRAY_JOB_ID="14", SLURM_ARRAY_TASK_ID="5", SLURM_JOB_ID="16")
    shutil.rmtree(
        job.spool / "journals"
    )  # what its own relay has left, since it has no key of this task here
    child(job)
    assert appending.tell_late(str(job.spool), str(job.node)) == 1
    (found,) = job.spooled()
    assert "3 lines were appended" in Path(found.path).read_text()
    assert '"task": 5' in Path(found.path).with_name("identity.json").read_text()


def test_a_child_on_another_node_appends_to_a_file_of_its_own(job, collector, monkeypatch):
    """On another node nothing of the parent's stands."""
    rested(monkeypatch)
    job.submit()
    job.find_collector_at(collector.address)
    job.run(SCRIPT)
    place = environment(job)["HPCTRACK_JOURNAL"]
    other = job.folder / "other"
    other.mkdir()
    child(job, HPCTRACK_JOURNAL=str(other / os.path.basename(place)))
    assert appending.tell_late(str(job.spool), str(other)) == 1
    assert told(job, collector)[0].startswith("3 lines") and collector.steps() == [1]


@pytest.mark.parametrize("environ", [{}, {"SLURM_JOB_NUM_NODES": "2"}], ids=["one node", "several nodes"])
def test_appending_goes_on_when_everything_on_the_node_is_removed(job, collector, environ):
    """A cleaner of /tmp: the run's own lines arrive."""
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    process = job.start(
        SCRIPT + 'read line < go\nfor i in 2 3; do echo "step=$i loss=1" >> "$HPCTRACK_JOURNAL"; done\n'
        'read line < go\necho "step=4 loss=1" >> "$HPCTRACK_JOURNAL"\n', **environ
    )  # fmt: skip
    await_result(lambda: collector.steps() == [1])
    for path in job.node.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (job.folder / "go").write_text("on\n")
    await_result(lambda: sorted(collector.steps()) == [1, 2, 3])
    (job.folder / "go").write_text("on\n")
    assert process.wait(60) == 0
    job.sync(collector, ended=True)
    assert sorted(collector.steps()) == [1, 2, 3, 4] and list(job.node.glob("hpctrack-*/*")) == []
    assert [path for path in job.node.iterdir() if path.is_file()] == []


def test_a_child_on_the_same_node_does_not_write_into_its_parents_run_after_the_end(
    job, collector, monkeypatch
):
    """It has the run folder in its environment, so that the folder stays while it runs."""
    rested(monkeypatch)
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    starting = "SLURM_JOB_ID=15 setsid sh -eu -c 'read line < go; " + CHILD + "; sleep 600' &\n"
    job.run(SCRIPT + starting + "echo $! > child\n")
    (job.folder / "go").write_text("on\n")
    place = environment(job)["HPCTRACK_JOURNAL"]
    try:
        await_result(lambda: os.path.exists(place) and len(Path(place).read_text().splitlines()) == 3)
        assert len(job.run_folders()) == 1
        assert told(job, collector)[0].startswith("3 lines")
        assert collector.steps() == [1]
    finally:
        os.killpg(int((job.folder / "child").read_text()), 9)
    await_result(lambda: job.sync(collector, ended=True) and not job.run_folders())
    assert collector.steps() == [1]


def test_processes_of_the_run_itself_append_after_its_end(job, collector):
    """A background process of a command outlives it: its lines are the run's."""
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    starting = "setsid sh -eu -c 'read line < go; " + CHILD + "' &\n"
    job.run(SCRIPT + starting)
    (job.folder / "go").write_text("on\n")
    await_result(lambda: job.sync(collector) == [] or not job.run_folders())
    assert sorted(collector.steps()) == [1, 7, 8, 9]
    assert not os.path.exists(environment(job)["HPCTRACK_JOURNAL"])


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_what_is_removed_before_the_relay_has_looked_is_taken_in_later(tmp_path, monkeypatch, nodes):
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", nodes)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    folder = runfolder.create(str(tmp_path / "spool"), str(tmp_path), "c.14", 0)
    told = options.parse(["supervise", "--spool", str(tmp_path / "spool"), "--", "script"])
    config = options.config(told, folder)
    if nodes == "2":
        folders.make(folder.spool_path)
    holder = folder.path if nodes == "1" else folder.spool_path
    name = Path(runfolder.publish(runfolder.create_journal(holder, "shell", 0, 0), 14, -1))
    name.unlink()
    looking = journals.Journals(config, folders.identity(config, os.getpid()), lambda _one: 0)
    name.write_text("step=7 loss=1\n")
    sizes = [one.end for one in looking.new()]
    assert 14 in sizes
