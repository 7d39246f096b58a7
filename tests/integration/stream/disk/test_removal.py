"""Nothing is removed that is not proven to be delivered: what could not be seen stays, and comes later."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpctrack.process import children
from hpctrack.script import journal_lines
from hpctrack.stream.disk import folders, removal, tail
from hpctrack.stream.node import spool
from tests.support.paths import DATA
from tests.support.relayed_job import LOG, Job
from tests.support.requirements import root_only, skip_or_fail
from tests.support.waiting import eventually

#: As an ordinary user: root passes by all permissions.
ORDINARY = ("setpriv", "--bounding-set=-all", "--")
DELIVER = """
import sys
from hpctrack.stream.node import spool
from hpctrack.stream.wire.names import Address
folder, node, address = sys.argv[1:]
for waiting in spool.pending(folder, node):
    try:
        print(spool.ship(waiting, folder, lambda: [Address.parse(address)], lambda count: None).name)
    except Exception as error:
        print(type(error).__name__, error)
"""
ERRORS = [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOMEM]


@pytest.fixture(scope="module")
def failing_files(tmp_path_factory) -> str:
    if shutil.which("cc") is None:
        skip_or_fail("no C compiler")
    library = tmp_path_factory.mktemp("cc") / "failing_files.so"
    source = DATA / "programs" / "failing_files.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return str(library)


def deliver(job: Job, collector, *prefix: str, **environ: str) -> str:
    """Deliver in a process of its own."""
    return subprocess.run(
        [*prefix, sys.executable, "-c", DELIVER, job.spool, job.node, collector.address],
        env={**os.environ, **environ}, check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("mask", ["0777", "0477", "0277", "0077"])
@pytest.mark.parametrize("where", ["job", "script"])
def test_a_script_may_have_any_umask(job, collector, mask, where):
    job.submit()
    job.find_collector_at(collector.address)
    prefix = ORDINARY
    script = LOG.replace("exec", "rm $HPCTRACK_JOURNAL; echo step=1000 loss=1 >> $HPCTRACK_JOURNAL\nexec")
    if where == "job":
        prefix = (*ORDINARY, "sh", "-c", f'umask {mask}; exec "$@"', "sh")
    else:
        script = script.replace("rm $", f"umask {mask}; rm $", 1)
    process = job.start(script, prefix=prefix)
    assert process.wait(60) == 0
    assert sorted(collector.steps()) == [*range(100), 1000]
    assert job.run_folders() == [] and job.spooled() == []


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("fault", ["open .log.journal", "read .log.journal", "list /c.14."])
def test_journals_that_the_relay_can_not_see_stay(job, collector, failing_files, fault, number):
    job.submit()
    job.find_collector_at(collector.address)
    control = job.folder / "faults"
    control.write_text(f"{fault} {number}\n")
    process = job.start(LOG, flush=1, LD_PRELOAD=failing_files, FAULTS=str(control))
    assert process.wait(60) == 0
    assert set(collector.steps()) < set(range(100)), "the fault does nothing"
    assert len(job.run_folders()) == 1
    before = {path.name: path.read_bytes() for path in job.run_dir().glob("*.log.journal")}
    assert before
    refused = deliver(job, collector, LD_PRELOAD=failing_files, FAULTS=str(control))
    assert "Error" in refused or "BadInput" in refused or not refused
    assert {path.name: path.read_bytes() for path in job.run_dir().glob("*.log.journal")} == before
    assert set(deliver(job, collector).split()) == {"REMOVED"}
    assert sorted(collector.steps()) == list(range(100))
    assert job.run_folders() == [] and job.spooled() == []


@pytest.mark.parametrize("fault", ["open .log.journal", "read .log.journal", "list /c.14."])
def test_a_fault_that_passes_costs_nothing(job, collector, failing_files, fault):
    job.submit()
    job.find_collector_at(collector.address)
    control = job.folder / "faults"
    control.write_text(f"{fault} {errno.EIO}\n")
    process = job.start(LOG, REST="3", LD_PRELOAD=failing_files, FAULTS=str(control))
    eventually(lambda: job.journal("log"))
    control.write_text("")
    assert process.wait(60) == 0
    assert sorted(collector.steps()) == list(range(100)) and job.run_folders() == []
    assert collector.messages("fin")[0]["lost"] == {}


def test_a_run_folder_that_is_shut_for_some_seconds(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start("#!/bin/sh\nread line < go\n" + LOG.partition("\n")[2], prefix=ORDINARY, REST="2")
    os.mkfifo(job.folder / "go")
    run_dir = job.run_dir()
    eventually(lambda: collector.messages("start"))
    run_dir.chmod(0)
    (job.folder / "go").write_text("on\n")
    eventually(lambda: any(run_dir.parent.parent.parent.glob("spool/journals/*/*.log.journal")))
    run_dir.chmod(0o700)
    with (run_dir / f"{'ab' * 8}.log.journal").open("wb") as file:
        file.write(journal_lines.format_header(0, 0) + b"step=100 loss=1\n")
    assert process.wait(60) == 0
    assert sorted(collector.steps()) == list(range(101))
    assert job.run_folders() == []


def test_the_folder_of_a_living_script_stays_though_supervisor_and_relay_are_dead(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    lines = []
    for step in range(3):
        os.mkfifo(job.folder / f"go{step}")
        lines.append(f"read line < go{step}\necho step=$line loss=1 >> $HPCTRACK_JOURNAL\n")
    process = job.start("#!/bin/sh -e\necho $$ > pid\n" + "".join(lines))
    relay = job.relay(process)
    script = eventually(lambda: (job.folder / "pid").exists() and (job.folder / "pid").read_text().strip())
    eventually(lambda: collector.messages("start"))
    os.kill(relay, signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    for step in range(3):
        eventually(lambda: job.sync(collector) == [False])
        assert len(job.run_folders()) == 1
        (job.folder / f"go{step}").write_text(f"{step}\n")
    eventually(lambda: not folders.started_at(int(script)))
    assert job.sync(collector) == [True]
    assert sorted(collector.steps()) == [0, 1, 2] and job.run_folders() == []


def test_a_relay_that_is_dead_beside_a_living_supervisor_leaves_nothing_behind(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start(LOG, REST="30")
    relay = job.relay(process)
    eventually(lambda: b"!args" in job.journal("log").read_bytes())
    assert job.sync(collector) == [], "its relay lives"
    os.kill(relay, signal.SIGKILL)
    eventually(lambda: job.sync(collector) == [False])
    assert sorted(collector.steps()) == list(range(100)) and len(job.run_folders()) == 1
    job.kill(process)
    assert job.sync(collector) == [True]


BACKGROUND = """#!/bin/sh
setsid "$PYTHON" -c '
import hpctrack, os, sys
open("pid", "w").write(str(os.getpid()))
for line in open("go"):
    hpctrack.log(step=int(line), loss=1.0)
    open("done", "a").write(line)
' 2> late &
while [ ! -s pid ]; do sleep 0.1; done
"""


def test_rows_that_are_logged_after_the_end_are_delivered(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    os.mkfifo(job.folder / "go")
    process = job.start(BACKGROUND)
    assert process.wait(60) == 0
    assert len(collector.messages("fin")) == 1 and len(job.run_folders()) == 1
    go = (job.folder / "go").open("w", buffering=1)
    try:
        for step in range(3):
            go.write(f"{step}\n")
            eventually(lambda: str(step) in _text(job.folder / "done"))  # noqa: B023
            assert job.sync(collector) == [False], "it may go on"
        assert sorted(collector.steps()) == [0, 1, 2]
    finally:
        go.close()
    pid = int(_text(job.folder / "pid"))
    eventually(lambda: not folders.started_at(pid))
    assert job.sync(collector) == [True] and job.run_folders() == []


def test_what_ended_runs_have_left_on_a_node_is_adopted_by_a_later_relay(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    for name in ("go", "on"):
        os.mkfifo(job.folder / name)
    assert job.start(BACKGROUND).wait(60) == 0
    left = job.run_dir()
    with (job.folder / "go").open("w", buffering=1) as go:
        later = job.start("#!/bin/sh\nread line < on\n", SLURM_JOB_ID="15")
        eventually(lambda: len(job.run_folders()) == 2)
        time.sleep(8)  # somebody may still write there: a relay has looked, and has left it
        go.write("7\n")
        eventually(lambda: "7" in _text(job.folder / "done"))
    pid = int(_text(job.folder / "pid"))
    eventually(lambda: not folders.started_at(pid))
    assert left.exists() and collector.steps() == []
    (job.folder / "on").write_text("on\n")
    assert later.wait(60) == 0 and left.exists()
    with (job.folder / "on").open("r+b", buffering=0):
        later = job.start("#!/bin/sh\nread line < on\n", SLURM_JOB_ID="16")
        eventually(lambda: not left.exists())
        (job.folder / "on").write_text("on\n")
        assert later.wait(60) == 0
    assert collector.steps() == [] and (Path(job.spool) / "journals" / left.name).exists()
    job.sync(collector, ended=True)
    assert collector.steps() == [7] and not (Path(job.spool) / "journals" / left.name).exists()


@pytest.mark.parametrize("task", [None, 3], ids=["job", "task of an array"])
def test_rows_under_the_environment_of_an_ended_run_are_that_runs(tmp_path, task):
    from tests.support.relayed_job import MemoryCollector, ciphers, records

    job = Job(tmp_path)
    if task is not None:
        job.record = job.record._replace(tasks="0-4")
        job.key = ciphers.run_key(bytes.fromhex(job.record.secret), task)
    collector = MemoryCollector(job.key)
    environ = {} if task is None else {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "14"}
    records.write(str(job.spool), job.record)
    job.find_collector_at(collector.address)
    job.run("#!/bin/sh\nenv > env\n", **{"SLURM_JOB_ID": "17" if environ else "14", **environ})
    assert job.run_folders() == []
    kept = dict(line.partition("=")[::2] for line in _text(job.folder / "env").splitlines())
    late = "import hpctrack; hpctrack.log(step=5, loss=1.0)"
    subprocess.run([sys.executable, "-c", late], env=kept, check=True)
    assert job.sync(collector) == [False], "some process of another node may go on"
    assert collector.steps() == [5]
    assert job.sync(collector, ended=True) == [True]
    collector.close()
    assert collector.steps() == [5] and list(job.spool.glob("journals/*")) == []


# In the tests below names leave room: a journal that has no header when it is seen goes by the next name.


def test_more_journals_than_open_files(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start(
        '#!/bin/sh\nfor i in $(seq 1100); do echo "step=$i loss=1" > $HPCTRACK_RUN_DIR/'
        "$(printf %014x00 $i).log.journal; done\nsleep 1\n",
        prefix=("sh", "-c", 'ulimit -n 64; exec "$@"', "sh"), flush=60,
    )  # fmt: skip
    assert process.wait(120) == 0
    assert sorted(collector.steps()) == list(range(1, 1101)) and job.run_folders() == []


def test_more_journals_than_open_files_are_synced(job, collector):
    job.submit()
    script = (
        '#!/bin/sh\nfor i in $(seq 300); do echo "step=$i loss=1" > $HPCTRACK_RUN_DIR/'
        "$(printf %014x00 $i).log.journal; done\n"
    )
    job.run(script, prefix=("sh", "-c", 'ulimit -n 64; exec "$@"', "sh"))
    out = deliver(job, collector, "sh", "-c", 'ulimit -n 40; exec "$@"', "sh")
    assert out == "REMOVED\n"
    assert sorted(collector.steps()) == list(range(1, 301)) and job.run_folders() == []


# --- the function that decides ---


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "folder" / f"{'12' * 8}.log.journal"
    path.parent.mkdir()
    path.write_bytes(b"x" * 100)
    return str(path)


OVER = removal.Keeping(in_spool=True, over=True)


def remove(
    path: str, safe: int = 100, keeping: removal.Keeping = OVER, descriptor: int | None = None
) -> bool:
    """Delete a file as a deliverer does; whether it is gone."""
    own = os.open(path, os.O_RDONLY) if descriptor is None else descriptor
    try:
        removal.clear(os.path.dirname(path), keeping, lambda _: removal.Proof(own, 0, safe))
        return not os.path.lexists(path)
    finally:
        os.close(own)


def test_what_is_proven_goes(file):
    assert remove(file) and not os.path.exists(os.path.dirname(file))


@pytest.mark.parametrize("safe", [0, 99])
def test_a_file_that_has_more_than_is_acknowledged_stays(file, safe):
    assert not remove(file, safe)


def test_a_file_that_grew_meanwhile_stays(file):
    descriptor = os.open(file, os.O_RDONLY)
    with open(file, "ab") as more:
        more.write(b"y")
    assert not remove(file, descriptor=descriptor)


def test_another_file_under_the_name_stays(file):
    descriptor = os.open(file, os.O_RDONLY)
    Path(file + ".new").write_bytes(b"x" * 100)
    os.rename(file + ".new", file)
    assert not remove(file, descriptor=descriptor)


def test_a_link_under_the_name_stays(file):
    descriptor = os.open(file, os.O_RDONLY)
    os.rename(file, file + ".old")
    os.symlink(file + ".old", file)
    assert not remove(file, descriptor=descriptor)
    assert Path(file + ".old").exists()


def test_a_file_that_somebody_has_open_for_writing_stays(file):
    with open(file, "ab"):
        assert not remove(file)
    assert remove(file)


def test_without_proof_nothing_goes(file):
    assert not removal.clear(os.path.dirname(file), OVER, lambda _: None)
    assert os.path.exists(file)


def test_a_folder_with_something_of_the_users_stays(file):
    note = Path(file).with_name("note.txt")
    note.write_text("mine")
    run_folder = removal.Keeping(in_spool=False, over=True)
    assert not remove(file, keeping=run_folder) and note.exists()


def test_a_run_folder_goes_as_a_whole_or_not_at_all(file):
    other = Path(file).with_name(f"{'34' * 8}.log.journal")
    other.write_bytes(b"x" * 101)
    own = {path: os.open(path, os.O_RDONLY) for path in (file, str(other))}
    run_folder = removal.Keeping(in_spool=False, over=True)
    try:
        assert not removal.clear(
            os.path.dirname(file), run_folder, lambda found: removal.Proof(own[found.path], 0, 100)
        )
    finally:
        for descriptor in own.values():
            os.close(descriptor)
    assert os.path.exists(file) and other.exists()


def test_a_shell_journal_stays_while_its_job_may_go_on(file):
    shell = file.replace(".log.", ".shell.")
    os.rename(file, shell)
    os.utime(shell, (0, 0))
    assert not remove(shell, keeping=removal.Keeping(in_spool=True, over=False, now=1e9))
    os.rename(shell, file)
    assert remove(file, keeping=removal.Keeping(in_spool=True, over=False, now=1e9))
    assert os.path.isdir(os.path.dirname(file))


def test_processes_that_may_write_are_found(tmp_path):
    folder = tmp_path / "c.14.0.12ab34cd"
    folder.mkdir()
    journal = folder / "x"
    journal.touch()
    assert folders.users(str(folder)) == []
    for start in (
        {"env": {**os.environ, "HPCTRACK_RUN_DIR": str(folder)}},
        {"cwd": folder},
        {"stdout": journal.open("ab")},
        {"stdin": journal.open("rb")},
    ):
        process = subprocess.Popen(["sleep", "60"], **start)
        try:
            eventually(lambda: folders.users(str(folder)) == [process.pid])  # noqa: B023
        finally:
            process.kill()
            process.wait(30)
    assert folders.users(str(folder)) == []


@pytest.mark.parametrize("part", ["journals", "unregistered"])
def test_a_spool_that_can_not_be_looked_through_is_no_empty_one(tmp_path, part):
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / part).write_text("in the way")
    survey = spool.survey(str(tmp_path / "spool"), str(tmp_path / "node"))
    assert [stuck.path for stuck in survey.stuck] == [str(tmp_path / "spool" / part)]
    with pytest.raises(OSError, match="Not a directory"):
        tail.find(str(tmp_path / "spool" / part))


def test_a_home_of_run_folders_that_is_open_to_others_is_told(job, collector):
    job.submit()
    (job.node / f"hpctrack-{os.geteuid()}").mkdir(mode=0o755)
    (job.node / f"hpctrack-{os.geteuid()}").chmod(0o755)
    [stuck] = spool.survey(str(job.spool), str(job.node)).stuck
    assert "open to others" in stuck.reason and stuck.remedy.startswith("chmod 700")


@root_only
def test_root_logs_to_the_run_of_a_user_and_a_stranger_says_that_he_can_not(job, collector):
    """As under sudo in a script, and under su to a third account."""
    folder = job.folder / "c.14.0.12ab34cd"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    environ = {**os.environ, "HPCTRACK_JOB_ID": "", "HPCTRACK_RUN_DIR": str(folder), "SLURM_JOB_ID": ""}
    environ["HPCTRACK_SPOOL_DIR"] = str(job.folder / "nobody" / "journals" / folder.name)
    (job.folder / "nobody").mkdir(mode=0o700)
    log = [sys.executable, "-c", "import hpctrack; hpctrack.log(step=1, loss=1.0)"]
    run = subprocess.run(log, env=environ, check=True, capture_output=True, text=True)
    [path] = folder.glob("*.log.journal")
    status = path.stat()
    assert (run.stderr, status.st_uid, status.st_mode & 0o777) == ("", 65534, 0o600)
    as_stranger = ["setpriv", "--reuid=65533", "--clear-groups", "--"]
    run = subprocess.run([*as_stranger, *log], env=environ, check=True, capture_output=True, text=True)
    assert "nothing is logged" in run.stderr and run.stderr.count("\n") == 1
    assert len(list(folder.iterdir())) == 1


def test_what_outlives_a_command_has_no_run_folder_in_its_environment():
    run = "/var/tmp/hpctrack-0/c.14.0.12ab34cd"
    given = {
        "HPCTRACK_RUN_DIR": run, "HPCTRACK_JOURNAL": run + "/x.shell.journal", "PATH": "/bin:/usr/bin",
        "PYTHONPATH": f"/a:{run}/python:/b", "HOME": "/root",
    }  # fmt: skip
    assert children.without_run(given) == {"PATH": "/bin:/usr/bin", "PYTHONPATH": "/a:/b", "HOME": "/root"}
    assert children.without_run({"HOME": "/root", "EMPTY": ""}) == {"HOME": "/root", "EMPTY": ""}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_shell_without_environment_that_knows_the_path_may_write(tmp_path):
    folder = tmp_path / "c.14.0.0123abcd"
    folder.mkdir()
    process = subprocess.Popen(["sh", "-c", f"sleep 60; echo loss=1 >> {folder}/j"], env={}, cwd="/")
    try:
        assert folders.users(str(folder)) == [process.pid]
    finally:
        process.kill()
        process.wait(30)


def test_what_is_mapped_into_memory_to_be_written_stays(tmp_path):
    """The descriptor is closed; the mapping writes on."""
    path = tmp_path / f"{'0' * 15}1.shell.journal"
    path.write_bytes(journal_lines.format_header(0, 0) + b"a=1\n")
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    descriptor = os.open(path, os.O_RDONLY)
    proof = removal.Proof(descriptor, 0, path.stat().st_size)
    keeping = removal.Keeping(in_spool=False, over=True)
    assert not removal.clear(str(tmp_path), keeping, lambda file: proof) and path.exists()
    mapped.close()
    assert removal.clear(str(tmp_path), keeping, lambda file: proof) and not path.exists()
    os.close(descriptor)
