"""Which way Slurm is asked, and what becomes of a pyslurm that misbehaves: stand-ins for it on PYTHONPATH."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

import pytest

from hpctrack import errors
from hpctrack.run.states import RunStatus
from hpctrack.slurm import accounting, backend, native
from tests.support.slurm_says import T0, epoch, line, row

PYSLURM = """\
__version__ = "{version}"
{first}

class Job:
    def __init__(self, **told):
        self.__dict__.update({{"state": "COMPLETED", "requeue_count": 0, "user_name": "alice", **told}})
    def __getattr__(self, name):
        return None

class Jobs(dict):
    wanted = None
    @classmethod
    def load(cls, wanted=None):
        {load}

class db:
    class Jobs(Jobs):
        pass
    class JobFilter:
        def __init__(self, **told):
            self.__dict__.update(told)
"""
SCONTROL = "#!/bin/sh\necho slurm-wlm 25.11.7\n"


@pytest.fixture
def pyslurm(tmp_path, monkeypatch, slurm):
    """Write a stand-in for pyslurm, and scontrol beside squeue and sacct; returns the environment."""

    def write(version="25.11.2", first="", load="return cls()"):
        (tmp_path / "pyslurm.py").write_text(PYSLURM.format(version=version, first=first, load=load))
        (slurm.folder / "scontrol").write_text(SCONTROL)
        (slurm.folder / "scontrol").chmod(0o755)
        monkeypatch.syspath_prepend(tmp_path)
        return {**slurm.environ, "PYTHONPATH": str(tmp_path)}

    return write


def test_pyslurm_is_taken_where_it_fits(pyslurm):
    environ = pyslurm()
    assert isinstance(backend.choose("auto", "mini", environ), native.Native)
    assert isinstance(backend.choose("pyslurm", "mini", environ), native.Native)
    assert isinstance(backend.choose("cli", "mini", environ), accounting.CommandLine)


MISFITS = {
    "of another release": ({"version": "24.5.0"}, "pyslurm 24.5.0 is not for Slurm 25.11.7"),
    "that does not import": (
        {"first": "raise ImportError('libslurmfull.so: cannot open shared object file')"},
        "pyslurm: libslurmfull.so: cannot open shared object file",
    ),
    "that ends the process": (
        {"first": "import os, sys; sys.stderr.write('slurm: fatal: no slurm.conf\\n'); os._exit(1)"},
        "slurm: fatal: no slurm.conf",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_pyslurm_is_left_alone(pyslurm, misfit):
    told, reason = MISFITS[misfit]
    environ = pyslurm(**told)
    assert isinstance(backend.choose("auto", "mini", environ), accounting.CommandLine)
    with pytest.raises(errors.SlurmError) as caught:
        backend.choose("pyslurm", "mini", environ)
    assert str(caught.value) == f"slurm_backend = pyslurm: {reason}"


def test_another_cluster_is_asked_by_commands(pyslurm):
    environ = pyslurm()
    assert isinstance(backend.choose("auto", "far", environ, remote=True), accounting.CommandLine)
    with pytest.raises(errors.SlurmError, match="the local cluster only"):
        backend.choose("pyslurm", "far", environ, remote=True)


def asked(environ, **options):
    return native.Native(accounting.CommandLine("mini", environ), environ, **options)


def test_of_a_requeued_job_sacct_tells_all_executions(pyslurm, slurm):
    environ = pyslurm(
        load="return cls({n: Job(id=n, requeue_count=n - 10, stats=Job()) for n in wanted.ids if n < 20})"
    )
    rows = [row(11, "REQUEUED"), row(11, "FAILED", Submit=epoch(60), Start=epoch(70), End=epoch(80))]
    slurm.says("sacct", *rows, row(10, "TIMEOUT"))
    facts = asked(environ).ended(["10", "11", "30"], datetime(2026, 11, 21, tzinfo=timezone.utc))
    assert [(fact.job_id, fact.status) for fact in facts] == [
        (10, RunStatus.COMPLETED), (11, RunStatus.REQUEUED), (11, RunStatus.FAILED),
    ]  # fmt: skip
    assert [argv[argv.index("-j") + 1] for _, argv, _ in slurm.calls("sacct")] == ["11"]


def test_of_a_resized_job_sacct_tells_all_parts(pyslurm, slurm):
    """pyslurm has the last one only, which was submitted and started when the job changed its size."""
    resized = "submit_time=30, start_time=30, nodelist='n1'"
    environ = pyslurm(load=f"return cls({{10: Job(id=10, stats=Job(), {resized})}})")
    slurm.says("sacct", row(10, "RESIZING", End=epoch(30)), row(10, Submit=epoch(30), Start=epoch(30)))
    [fact] = asked(environ).ended(["10"], datetime(2026, 11, 21, tzinfo=timezone.utc))
    assert (fact.status, fact.time_submitted) == (RunStatus.COMPLETED, T0)
    assert (fact.time_started, fact.time_ended) == (T0 + timedelta(seconds=5), T0 + timedelta(seconds=50))


def test_without_accounting_slurmctld_is_asked_as_ever(pyslurm, slurm):
    environ = pyslurm(load="raise RuntimeError('Failed to open connection to slurmdbd')")
    slurm.says("sacct", stderr="Slurm accounting storage is disabled\n", exit=1)
    slurm.says("squeue", line(10, "FAILED", exit_code="3:0", EndTime=epoch(9), NodeList="n1"))
    [fact] = asked(environ).ended(["10"], datetime(2026, 11, 21, tzinfo=timezone.utc))
    assert (fact.source, fact.status, fact.slurm_exit_code) == ("squeue", RunStatus.FAILED, 3)


def test_each_array_is_asked_for_once_and_in_chunks(pyslurm, tmp_path):
    log = tmp_path / "asked"
    environ = pyslurm(load=f"open({str(log)!r}, 'a').write(f'{{len(wanted.ids)}} '); return cls()")
    jobs = [f"{job}_{task}" for job in range(700) for task in range(3)]
    assert asked(environ).ended(jobs, datetime.now(timezone.utc)) == []
    assert log.read_text() == "500 200 "


TROUBLES = {
    "hangs": "import time; time.sleep(60)",
    "can't reach slurmctld": "raise OSError('Unable to contact slurm controller (connect failure)')",
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "tells nonsense": "return cls({1: Job(id='?')})",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_from_trouble_nothing_is_concluded(pyslurm, trouble):
    environ = pyslurm(load=TROUBLES[trouble])
    with pytest.raises(errors.SlurmError) as caught:
        asked(environ, timeout=3 if trouble == "hangs" else 30).queue()
    assert "pyslurm" in str(caught.value)
    assert isinstance(caught.value, errors.SlurmUnavailable) == (trouble in list(TROUBLES)[:2])


def test_what_pyslurm_prints_is_no_answer(pyslurm):
    environ = pyslurm(load="print('a word'); return cls({1: Job(id=1, state='RUNNING', name='x')})")
    [fact] = asked(environ).queue()
    assert (fact.job_id, fact.status) == (1, RunStatus.RUNNING)


def test_a_folder_in_which_somebody_calls_is_not_imported_from(pyslurm, tmp_path, monkeypatch):
    environ = pyslurm()
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "json.py").write_text("raise SystemExit('trapped')")
    (trap / "pyslurm.py").write_text("raise SystemExit('trapped')")
    monkeypatch.chdir(trap)
    assert native.why_not({**environ, "PATH": f"{environ['PATH']}:{os.environ['PATH']}"}) is None
