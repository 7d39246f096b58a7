"""``>> $HPCTRACK_JOURNAL`` never fails, anywhere, at any time; what comes late is told, and not the run's."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from hpctrack.stream.disk import appending, folders, journals, late, runfolder
from hpctrack.stream.node import options, relay
from hpctrack.stream.wire import records
from tests.support.waiting import eventually

#: The ways in which people append; no shell option that they may have set makes one fail.
CHILD = (
    'set -euC; echo "step=7 loss=1" >> "$HPCTRACK_JOURNAL"; echo "step=8 loss=1" >> $HPCTRACK_JOURNAL; '
    'echo "step=9 loss=1" | tee -a "$HPCTRACK_JOURNAL" > /dev/null'
)


def environment(job) -> dict[str, str]:
    """Return what a script's `env` wrote: the environment that plain sbatch gives to its child."""
    return dict(line.split("=", 1) for line in (job.folder / "inherited").read_text().splitlines())


def child(job, **more) -> None:
    """Run a child's script, which a failing append would end."""
    environ = {**environment(job), "SLURM_JOB_ID": "15", **more}
    subprocess.run(["/bin/sh", "-c", CHILD], env=environ, check=True, timeout=60)


def rested(monkeypatch):
    monkeypatch.setattr(late, "_REST", -1.0)


def told(job, collector) -> list[str]:
    """Deliver what timelines are to tell, as sync does when the run is over."""
    late.tell(str(job.spool), str(job.node))
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
    assert late.tell(str(job.spool), str(job.node)) == 1
    (only,) = job.spooled()
    assert "3 lines were appended" in Path(only.path).read_text()
    assert '"task": 5' in Path(only.path).with_name("identity.json").read_text()


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
    assert late.tell(str(job.spool), str(other)) == 1
    assert told(job, collector)[0].startswith("3 lines") and collector.steps() == [1]


@pytest.mark.parametrize("environ", [{}, {"SLURM_JOB_NUM_NODES": "2"}], ids=["one node", "several nodes"])
@pytest.mark.parametrize("removed", ["*", "hpctrack-*[0-9]", "*.journal"])
def test_appending_goes_on_when_things_on_the_node_are_removed(job, collector, environ, removed):
    """A cleaner of /tmp: the run's own lines arrive, once."""
    job.submit()
    job.find_collector_at(collector.address)
    for name in ("first", "second"):  # with one, the shell might find the writer of before
        os.mkfifo(job.folder / name)
    process = job.start(
        SCRIPT + 'read line < first\nfor i in 2 3; do echo "step=$i loss=1" >> "$HPCTRACK_JOURNAL"; done\n'
        'read line < second\necho "step=4 loss=1" >> "$HPCTRACK_JOURNAL"\n', **environ
    )  # fmt: skip
    eventually(lambda: collector.steps() == [1])
    for path in job.node.glob(removed):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (job.folder / "first").write_text("on\n")
    eventually(lambda: sorted(collector.steps()) == [1, 2, 3])
    (job.folder / "second").write_text("on\n")
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
        eventually(lambda: os.path.exists(place) and len(Path(place).read_text().splitlines()) == 3)
        assert len(job.run_folders()) == 1
        assert told(job, collector)[0].startswith("3 lines")
        assert collector.steps() == [1]
    finally:
        os.killpg(int((job.folder / "child").read_text()), 9)
    eventually(lambda: job.sync(collector, ended=True) and not job.run_folders())
    assert collector.steps() == [1]


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/dash"])
def test_a_script_that_begins_with_removing_everything(job, collector, shell):
    """Before its relay has begun: what it appends from then on is counted, and so is its end."""
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start(f"#!{shell} -euC\nrm -rf {job.node}/*\n{CHILD}\n")
    assert process.wait(60) == 0, (job.folder / "err").read_text()
    job.sync(collector, ended=True)
    assert sorted(collector.steps()) == [7, 8, 9] and len(collector.messages("fin")) == 1
    assert relay._REMOVED in [event["name"] for event in collector.messages("event")]
    assert job.run_folders() == [] and list(job.node.glob("*.journal")) == []


@pytest.mark.parametrize("copy", ["env > copy", "export -p > copy"])
def test_a_child_that_takes_over_a_copy_of_the_environment(job, collector, monkeypatch, copy):
    """It says that it is the run's own job."""
    rested(monkeypatch)
    job.submit()
    job.find_collector_at(collector.address)
    job.run(f"#!/bin/bash -eu\n{copy}\n{SCRIPT.partition(chr(10))[2]}")
    script = "set -a; . ./copy; set +a\n" + CHILD
    environ = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "15"}
    subprocess.run(["/bin/bash", "-euc", script], cwd=job.folder, env=environ, check=True, timeout=60)
    assert told(job, collector)[0].startswith("3 lines") and collector.steps() == [1]


@pytest.mark.parametrize("env", ["env", "env -u SLURM_JOB_ID"])
def test_processes_of_the_run_itself_append_after_its_end(job, collector, env):
    """A background process of a command outlives it: its lines are the run's."""
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    starting = f"{env} setsid sh -eu -c 'read line < go; " + CHILD + "' &\n"
    job.run(SCRIPT + starting)
    (job.folder / "go").write_text("on\n")
    eventually(lambda: job.sync(collector) == [] or not job.run_folders())
    assert sorted(collector.steps()) == [1, 7, 8, 9]
    assert not os.path.exists(environment(job)["HPCTRACK_JOURNAL"])


def test_where_others_could_lead_it_elsewhere_shells_append_on_the_shared_home(job, collector, monkeypatch):
    """In a folder that all may write to, or on a kernel that follows their links in a sticky one."""
    rested(monkeypatch)
    job.node.chmod(0o777)
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    process = job.start(
        SCRIPT + 'read line < go\nrm "$HPCTRACK_JOURNAL"\necho "step=2 loss=1" >> $HPCTRACK_JOURNAL\n'
        "printf step=3 >> $HPCTRACK_JOURNAL\n"
    )
    eventually(lambda: collector.steps() == [1])
    assert [path.name for path in job.node.iterdir()] == [f"hpctrack-{os.geteuid()}"]
    (job.folder / "go").write_text("on\n")
    assert process.wait(60) == 0
    assert Path(environment(job)["HPCTRACK_JOURNAL"]).parent == job.spool / "appended"
    assert sorted(collector.steps()) == [1, 2] and collector.torn() == 1
    assert job.run_folders() == [] and list(job.spool.glob("*/hpctrack*")) + job.spooled() == []
    child(job)
    assert told(job, collector)[0].startswith("3 lines") and sorted(collector.steps()) == [1, 2]


@pytest.mark.parametrize("deleted", [False, True])
def test_what_was_set_aside_goes_a_month_later(job, collector, monkeypatch, deleted):
    """Administrators ask what stays on their nodes: also of a run that is deleted by then."""
    rested(monkeypatch)
    job.submit()
    job.find_collector_at(collector.address)
    job.run(SCRIPT)
    child(job)
    place = Path(environment(job)["HPCTRACK_JOURNAL"])
    assert told(job, collector)[0].startswith("3 lines")
    monkeypatch.setattr(late, "_TOLD_EACH", 0)
    with place.open("a") as file:
        file.write("step=10 loss=1\n")
    assert told(job, collector)[1:] == [] and place.exists()
    if deleted:
        records.remove(records.path(str(job.spool), job.record))
    days = late.KEPT + 3600
    os.utime(place, (time.time() - days,) * 2)
    late.tell(str(job.spool), str(job.node))
    assert not place.exists() and list((job.spool / "appended").iterdir()) == []
    if not deleted:
        assert told(job, collector)[1].startswith("4 lines")


def test_a_name_that_somebody_else_has_linked_is_not_taken_in(tmp_path):
    """On a kernel without protected_hardlinks another user can give any file that name, once it is free."""
    folder = tmp_path / "hpctrack-0" / "c.14.0.00000000"
    folder.mkdir(parents=True)
    name = appending.Name(str(folder), 14, -1)
    (tmp_path / "secret").write_text("key=1\n")
    os.link(tmp_path / "secret", name.path)
    name.take_in()
    assert list(folder.iterdir()) == []
    os.unlink(name.path)
    os.symlink(tmp_path / "secret", name.path)
    name.take_in()
    assert list(folder.iterdir()) == []


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
    sizes = [file.end for file in looking.new()]
    assert 14 in sizes
