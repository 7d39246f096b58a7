"""log() on disks that are full, bounded or gone: what is lost is counted."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hpctrack.script import journal_lines
from hpctrack.stream.wire import journal


def test_a_journal_that_was_deleted_is_replaced(programs):
    programs.execute("""
        import glob, hpctrack, os, time
        hpctrack.log(step=1, loss=1.0)
        (path,) = glob.glob(os.environ["HPCTRACK_RUN_DIR"] + "/*")
        os.unlink(path)
        time.sleep(1.1)  # as after a rest: nothing that is written to is deleted
        hpctrack.log(step=2, loss=1.0)
    """)
    assert programs.steps() == [2]


def test_a_run_folder_that_was_deleted_gives_way_to_the_spool(programs):
    programs.execute("""
        import hpctrack, os, shutil, time
        hpctrack.log(step=1, loss=1.0)
        shutil.rmtree(os.environ["HPCTRACK_RUN_DIR"])
        time.sleep(1.1)
        hpctrack.log(step=2, loss=1.0)
    """)
    ((line,),) = programs.journals(programs.spool)
    assert line.step == 2


def test_a_journal_that_can_not_grow_loses_lines_and_counts_them(programs):
    """RLIMIT_FSIZE cuts the first write that crosses it short and refuses the next ones, like a full disk."""
    errors = programs.execute("""
        import hpctrack, resource
        for step in range(10):
            hpctrack.log(step=step, loss=1.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        for step in range(10, 100):
            hpctrack.log(step=step, loss=1.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for step in range(100, 110):
            hpctrack.log(step=step, loss=1.0)
    """)
    (lines,) = programs.journals()
    rows = [line.step for line in lines if isinstance(line, journal.Row)]
    torn = sum(isinstance(line, journal.Torn) for line in lines)
    assert (
        rows[-10:] == list(range(100, 110)) and rows[:-10] == list(range(len(rows) - 10)) and len(rows) > 20
    )
    assert torn == 1 and len(rows) + torn + programs.lost() == 110
    assert errors.count("\n") == 1


def on_a_small_disk(programs, tmp_path: Path, program: str) -> None:
    """Run a program with a run folder on a disk of 256 KB of which a ballast takes 100; keep its journals."""
    mount = tmp_path / "small"
    mount.mkdir(mode=0o700)
    program = f"""
        import hpctrack, os, time
        folder = {str(mount)!r}
        open(os.environ["HPCTRACK_JOURNAL"], "wb").write({journal_lines.format_header(0, 0)!r})
        def fill():
            with open(folder + "/ballast", "ab", buffering=0) as file:
                try:
                    while True: file.write(bytes(1000))
                except OSError:
                    pass
        {textwrap.indent(textwrap.dedent(program), "        ").strip()}
        os.system("cp " + folder + "/*.journal " + {str(programs.folder)!r})
    """
    (tmp_path / "fill.py").write_text(textwrap.dedent(program))
    shell = (
        f"mount -t tmpfs -o size=256k,mode=700 none {mount} && head -c 100000 /dev/zero > {mount}/ballast && "
        f"exec {sys.executable} {tmp_path}/fill.py"
    )
    namespace = ["unshare", "--mount", "--map-root-user", "--user", "sh", "-c"]
    if subprocess.run(
        [*namespace, f"mount -t tmpfs none {mount}"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no file system can be mounted here")
    shell_journal = str(mount / f"{'5e' * 8}.shell.journal")
    folders = {"HPCTRACK_RUN_DIR": str(mount), "HPCTRACK_SPOOL_DIR": "/nowhere/journals/c.14.0"}
    environ = {**programs.environ, **folders, "HPCTRACK_JOURNAL": shell_journal}
    done = subprocess.run(
        [*namespace, shell], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_full_disk(programs, tmp_path):
    on_a_small_disk(
        programs,
        tmp_path,
        """
        for step in range(6000):
            hpctrack.log(step=step, loss=1.0)
        os.unlink(folder + "/ballast")
        for step in range(6000, 6100):
            hpctrack.log(step=step, loss=1.0)
        """,
    )
    (lines,) = programs.journals()
    rows = [line.step for line in lines if isinstance(line, journal.Row)]
    torn = sum(isinstance(line, journal.Torn) for line in lines)
    assert rows[-100:] == list(range(6000, 6100))
    assert torn <= 1 and programs.lost() > 100 and len(rows) + torn + programs.lost() == 6100


def test_processes_that_find_a_full_disk_count_what_they_lose(programs, tmp_path):
    """They can create no journal; the shells' journal has room for a count. One of them sees room again.

    While another one adds to it they wait, to the program's end if need be.
    """
    on_a_small_disk(
        programs,
        tmp_path,
        """
        import fcntl, subprocess, sys
        fill()
        program = "import hpctrack, sys; hpctrack.log(loss=1.0); print(flush=True); sys.stdin.read()"
        with open(os.environ["HPCTRACK_JOURNAL"], "r+b") as shells:
            fcntl.lockf(shells, fcntl.LOCK_EX)
            child = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1)
            child.stdout.readline()
            assert b"lost=000000000000" in shells.read()
        assert child.communicate() and child.returncode == 0
        for child in range(4):
            if os.fork() == 0:
                for step in range(10):
                    hpctrack.log(step=step, loss=1.0)
                if child == 3:
                    os.unlink(folder + "/ballast")
                    time.sleep(1.1)  # the next attempt
                    for step in range(10, 20):
                        hpctrack.log(step=step, loss=1.0)
                os._exit(0)
            os.wait()
        """,
    )
    assert programs.steps() == list(range(10, 20))
    assert programs.lost() == 41


def test_the_cap_bounds_what_piles_up(programs):
    programs.execute(
        """
        import hpctrack, time
        for step in range(2000):
            hpctrack.log(step=step, loss=1.0)
        time.sleep(1.1)  # the next look
        for step in range(2000, 4000):
            hpctrack.log(step=step, loss=1.0)
        """,
        HPCTRACK_JOURNAL_CAP="50000",
    )
    assert programs.steps() == list(range(2000)) and programs.lost() == 2000
