"""Where the script's calls write, which rank does, and how what could not be written is counted."""

from __future__ import annotations

import errno
import itertools
import os

import pytest

from hpctrack.script import calls, journal_lines, writer
from hpctrack.stream.wire import journal
from tests.support.run_folders import lines, logged


@pytest.mark.parametrize(
    ("environ", "said"),
    [({"HPCTRACK_JOB_ID": None}, 0), ({"SLURM_JOB_ID": "15"}, 1), ({"HPCTRACK_JOB_ID": ""}, 1)],
    ids=str,
)
def test_outside_a_run_it_is_silent_and_in_another_job_says_one_line(
    run_folder, monkeypatch, environ, said, capfd
):
    for name, value in environ.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    for _ in range(3):
        calls.log(loss=1.0)
        calls.set_args(a=1)
    assert list(run_folder.iterdir()) == [] and capfd.readouterr().err.count("\n") == said


@pytest.mark.parametrize("value", [None, ""])
def test_a_script_that_unsets_what_is_slurms_logs(run_folder, monkeypatch, value):
    monkeypatch.delenv("SLURM_JOB_ID") if value is None else monkeypatch.setenv("SLURM_JOB_ID", value)
    calls.log(loss=1.0)
    assert logged(run_folder) == {"loss": 1.0}


def test_a_row_that_is_too_long_is_counted(run_folder):
    calls.log(step=1, a=1.0)
    calls.log({str(i): "x" * 100_000 for i in range(20)}, step=2)
    calls.set_args(text=["x" * 100_000] * 20)
    (path,) = run_folder.glob("*.log.journal")
    assert journal.parse_header(path.read_bytes()).lost == 2 and len(lines(run_folder)) == 1


@pytest.mark.parametrize("count", [45_000, 100_000])
def test_a_row_of_very_many_metrics_is_as_long_as_may_be_read(run_folder, count):
    """Digits take less than the packed form."""
    calls.log({f"m{i}": 1.0 for i in range(count)}, step=1)
    (path,) = run_folder.glob("*.log.journal")
    rows, lost = lines(run_folder), journal.parse_header(path.read_bytes()).lost
    assert (len(rows), lost) == ((1, 0) if count == 45_000 else (0, 1))
    assert all(len(line) <= journal_lines.MAX_LINE for line in path.read_bytes().splitlines())


def test_threads_that_lose_lines_at_once_count_them_all(run_folder, monkeypatch):
    """The count of the one that was slower is written last."""
    calls.log(step=0, loss=1.0)
    lost, write_count = calls._state["writer"], writer._write_count

    def overtaken(path, count):
        if count == 1:
            lost.lose()
        write_count(path, count)

    monkeypatch.setattr(writer, "_write_count", overtaken)
    lost.lose()
    (path,) = run_folder.glob("*.log.journal")
    assert journal.parse_header(path.read_bytes()).lost == 2


def test_what_can_not_be_counted_now_is_counted_later(run_folder, monkeypatch):
    """In the same journal, or in the one that comes in its place."""
    calls.log(step=0, loss=1.0)
    opened, real = calls._state["writer"], writer._write_count

    def failing(*_):
        raise OSError(errno.EIO, "no")

    def counted() -> int:
        opened._looked -= 2_000_000_000  # the next look
        calls.log(step=1, loss=1.0)
        (path,) = run_folder.glob("*.log.journal")
        return journal.parse_header(path.read_bytes()).lost

    monkeypatch.setattr(writer, "_write_count", failing)
    opened.lose()
    monkeypatch.setattr(writer, "_write_count", real)
    assert counted() == 1
    for path in run_folder.glob("*.log.journal"):
        path.unlink()
    opened.lose()
    opened.lose()
    assert counted() == 2


FAULTS = [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, 0, -1, -9]
"""What a write(2) ends with: an error, or nothing written, or so many bytes of the line."""
_FEW = [errno.EIO, errno.ENOSPC, 0, -1, -9]


@pytest.mark.parametrize("first", FAULTS, ids=lambda fault: errno.errorcode.get(fault, f"{-fault} bytes"))
def test_what_a_failing_disk_does_not_take_is_counted(run_folder, monkeypatch, first):
    """Each row is there, or counted: as lost by its writer, or as torn by who reads it. In any order."""
    faults: list[int | None] = []

    def failing(descriptor, data):
        fault = faults.pop(0) if faults else None
        if fault is None:
            return os.write(descriptor, data)
        if fault > 0:
            raise OSError(fault, os.strerror(fault))
        return os.write(descriptor, data[:-fault]) if fault else 0

    monkeypatch.setattr(writer, "write", failing)
    orders = [[first, *more] for size in range(4) for more in itertools.product([*_FEW, None], repeat=size)]
    for number, order in enumerate(orders):
        calls.log(step=10 * number, loss=1.0)
        faults[:] = order
        for step in range(1, 10):
            calls.log(step=10 * number + step, loss=1.0)
        assert not faults
    (path,) = run_folder.glob("*.log.journal")
    rows = [line for line in lines(run_folder) if isinstance(line, journal.Row)]
    torn = len(lines(run_folder)) - len(rows)
    assert len(rows) + torn + journal.parse_header(path.read_bytes()).lost == 10 * len(orders)
    assert all(row.values == {"loss": 1.0} for row in rows)
    assert len({row.step for row in rows}) == len(rows) > 6 * len(orders)


def test_outside_slurm_both_ids_are_empty(run_folder, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("HPCTRACK_JOB_ID", "")
    calls.log(loss=1.0)
    assert logged(run_folder) == {"loss": 1.0}


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({}, 0),
        ({"SLURM_PROCID": "0"}, 0),
        ({"SLURM_PROCID": "3"}, 3),
        ({"PMI_RANK": "2", "SLURM_PROCID": "0"}, 2),
        ({"PMIX_RANK": "1", "PMI_RANK": "2"}, 1),
        ({"OMPI_COMM_WORLD_RANK": "4", "PMIX_RANK": "0"}, 4),
        ({"RANK": "", "SLURM_PROCID": "5"}, 5),
    ],
    ids=str,
)
def test_ranks(run_folder, monkeypatch, environ, rank, capfd):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    calls.log(loss=1.0)
    assert [type(line) for line in lines(run_folder)] == [journal.Row if rank == 0 else journal.Message]
    assert capfd.readouterr().err == ""
    calls._state.clear()
    calls._packers.clear()
    monkeypatch.setenv("HPCTRACK_RANKS", "all")
    calls.log(step=1, loss=2.0)
    found = {name for line in lines(run_folder) if isinstance(line, journal.Row) for name in line.values}
    assert f"loss@{rank}" in found
    assert any(journal.parse_header(path.read_bytes()).rank == rank for path in run_folder.glob("*.journal"))


def test_that_ranks_are_silent_is_told_once_for_other_nodes(run_folder, monkeypatch, tmp_path):
    """They don't see the run folder."""
    (tmp_path / "spool").mkdir(mode=0o700)
    run_folder.rmdir()
    for rank in ("3", "1"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        calls._state.clear()
        calls.log(loss=1.0)
    (told,) = lines(tmp_path / "spool" / "journals" / "c.14.0")
    assert told.kind == "event" and "rank 3 (SLURM_PROCID) logs nothing" in told.text


def test_that_ranks_are_silent_is_told_once(run_folder, monkeypatch):
    for rank in ("3", "1", "2"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        calls._state.clear()
        calls.log(loss=1.0)
    (told,) = lines(run_folder)
    assert told.kind == "event" and "rank 3 (SLURM_PROCID) logs nothing" in told.text


def test_without_a_run_folder_it_writes_to_the_spool(run_folder, monkeypatch, tmp_path):
    (tmp_path / "spool").mkdir(mode=0o700)
    run_folder.rmdir()
    calls.log(loss=1.0)
    spool = tmp_path / "spool" / "journals" / "c.14.0"
    assert logged(spool) == {"loss": 1.0}
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (spool, spool.parent, spool.parent.parent))


def test_in_a_container_that_sees_neither_it_makes_nothing_and_says_one_line(run_folder, tmp_path, capfd):
    run_folder.rmdir()
    for _ in range(3):
        calls.log(loss=1.0)
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err.count("\n") == 1


def test_a_run_folder_that_others_can_enter_is_not_used(run_folder, tmp_path):
    (tmp_path / "spool").mkdir(mode=0o700)
    run_folder.chmod(0o755)
    calls.log(loss=1.0)
    assert lines(run_folder) == [] and logged(tmp_path / "spool" / "journals" / "c.14.0") == {"loss": 1.0}


def test_nowhere_to_write_is_told_once(run_folder, monkeypatch, capfd):
    monkeypatch.setenv("HPCTRACK_RUN_DIR", "/nowhere")
    monkeypatch.setenv("HPCTRACK_SPOOL_DIR", "/proc/nowhere")
    for _ in range(3):
        calls.log(loss=1.0)
    assert capfd.readouterr().err.count("\n") == 1
