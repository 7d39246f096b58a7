"""log() in real processes: forks, threads, descriptors that others close, interpreters that end."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def test_a_line_survives_sigkill_right_after_log(programs):
    process = programs.start("import hpctrack, os; hpctrack.log(step=1, loss=0.5); os.kill(os.getpid(), 9)")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and programs.steps() == [1]


LEFT = {
    "by the script": "first = Late(1); second = Late(2); second.me = second",
    # Who holds the class, too, keeps all from going at once: modules are emptied in turn.
    "by other modules": "string.a = Late(1); string.me = string; builtins.a = Late(2); sys.a = Late",
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_what_is_logged_while_the_interpreter_goes_down_arrives(programs, left):
    """Python empties modules at its very end, and calls ``__del__()`` of what is left then."""
    said = programs.execute(f"""
        import builtins, string, sys
        import hpctrack
        from hpctrack import log, set_args, set_tags
        class Late:
            def __init__(self, step):
                self.step = step
            def __del__(self, log=log, all=hpctrack, set_args=set_args, set_tags=set_tags):
                log(step=self.step, loss=1.0)
                all.log({{"x": 2.0}}, step=10 + self.step)
                log(text="a b", step=20 + self.step)
                set_args({{}})
                set_tags()
        log(step=0, loss=1.0)
        {left}
    """)
    assert said == ""
    assert programs.steps() == [0, 1, 2, 11, 12, 21, 22]


def test_what_comes_too_late_for_a_journal_says_nothing(programs):
    said = programs.execute("""
        from hpctrack import log, set_args
        class Late:
            def __del__(self):
                log(step=1, loss=1.0)
                set_args(a=1)
        first = Late()
    """)
    assert "Traceback" not in said and "Exception ignored" not in said


def test_every_call_is_one_write(programs):
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    program = "import hpctrack\nfor step in range(5): hpctrack.log(step=step, a=1.0, b='x y', c={'d': 2})"
    trace = programs.folder.parent / "trace"
    subprocess.run(
        ["strace", "-f", "-o", str(trace), "-e", "trace=write", sys.executable, "-c", program],
        env=programs.environ, check=True, timeout=120,
    )  # fmt: skip
    assert trace.read_text().count("write(") == 1 + 5


def test_forks_have_journals_of_their_own(programs):
    programs.execute("""
        import hpctrack, os
        hpctrack.log(step=0, loss=1.0)
        for child in range(4):
            if os.fork() == 0:
                for step in range(100):
                    hpctrack.log(step=1000 * (child + 1) + step, loss=1.0)
                os._exit(0)
        for _ in range(4):
            assert os.wait()[1] == 0
        hpctrack.log(step=1, loss=1.0)
    """)
    assert programs.steps() == [
        0,
        1,
        *(1000 * (child + 1) + step for child in range(4) for step in range(100)),
    ]
    assert [len(lines) for lines in programs.journals()].count(100) == 4 and len(programs.journals()) == 5


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_workers_log(programs, method, tmp_path):
    (tmp_path / "work.py").write_text("import hpctrack\ndef work(n): hpctrack.log(step=n, loss=1.0)\n")
    programs.execute(
        f"""
        import multiprocessing, work
        if __name__ == "__main__":
            work.work(0)
            with multiprocessing.get_context({method!r}).Pool(3) as pool:
                pool.map(work.work, range(1, 50))
        """,
        PYTHONPATH=f"{ROOT}:{tmp_path}",
    )
    assert programs.steps() == list(range(50))


def test_threads_share_one_journal_without_mixing_lines(programs):
    programs.execute("""
        import hpctrack, sys, threading
        sys.setswitchinterval(1e-5)
        ready = threading.Barrier(8)
        def work(thread):
            ready.wait()
            for step in range(500):
                hpctrack.log(step=500 * thread + step, loss=0.5, text="a b")
        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """)
    assert programs.steps() == list(range(4000)) and len(programs.journals()) == 1


CLOSERS = {
    "closed": "os.closerange(3, 4096)",
    "replaced by a file": "fd = next(n for n in range(4096) if is_journal(n)); os.dup2(other, fd)",
    "replaced by a pipe": "fd = next(n for n in range(4096) if is_journal(n)); os.dup2(os.pipe()[1], fd)",
}


@pytest.mark.parametrize("close", CLOSERS.values(), ids=CLOSERS)
def test_descriptors_that_the_script_closes_or_reuses(programs, close, tmp_path):
    programs.execute(f"""
        import hpctrack, os
        other = os.open({str(tmp_path / "other")!r}, os.O_RDWR | os.O_CREAT)
        def is_journal(n):
            try:
                return os.readlink(f"/proc/self/fd/{{n}}").endswith(".journal")
            except OSError:
                return False
        hpctrack.log(step=1, loss=1.0)
        {close}
        hpctrack.log(step=2, loss=1.0)
        hpctrack.log(step=3, loss=1.0)
    """)
    assert programs.steps() == [1, 2, 3] and len(programs.journals()) == 1
    assert (tmp_path / "other").read_bytes() == b""


def test_the_descriptor_is_out_of_the_way_and_not_inherited(programs):
    programs.execute("""
        import hpctrack, os, subprocess, sys
        hpctrack.log(step=1, loss=1.0)
        links = {int(n): os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if n != "3"}
        (number,) = [n for n, path in links.items() if path.endswith(".journal")]
        assert number >= 1000, number
        assert b".journal" not in subprocess.check_output(["ls", "-l", "/proc/self/fd"], close_fds=False)
    """)


def test_a_low_limit_on_descriptors(programs):
    programs.execute("""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        import hpctrack
        hpctrack.log(step=1, loss=1.0)
    """)
    assert programs.steps() == [1]


def test_a_broken_or_closed_standard_error(programs):
    programs.environ["HPCTRACK_JOB_ID"] = "other"
    for close in ("sys.stderr.close()", "sys.stderr = None", "os.close(2)"):
        programs.execute(f"import hpctrack, os, sys; {close}; hpctrack.log(loss=1.0)")


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.12", "3.13"])
def test_other_pythons(programs, version):
    python = next(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), None) or shutil.which(
        f"python{version}"
    )
    if python is None or subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode:
        pytest.skip(f"no Python {version} here")
    programs.execute(
        "import hpctrack; hpctrack.log(step=1, loss=0.5, n=1); hpctrack.log({'a b': True})", str(python)
    )
    ((first, second),) = programs.journals()
    assert first.values == {"loss": 0.5, "n": 1} and second.values == {"a b": True}


def test_log_does_not_wait_for_anybody(programs):
    """50,000 rows, with nobody reading: bounded by the processor, not by anything that could block."""
    programs.execute("import hpctrack\nfor step in range(50_000): hpctrack.log(step=step, a=1.0, b=2.0)")
    assert len(programs.steps()) == 50_000
