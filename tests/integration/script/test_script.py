"""log() in real processes: forks, threads, signals, full disks, descriptors that others close."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hpctrack.script import journal_lines
from hpctrack.stream.wire import journal
from tests.support.paths import ROOT


class Run:
    """A run folder, and programs that run in it."""

    def __init__(self, folder: Path):
        self.folder = folder / "run"
        self.folder.mkdir(mode=0o700)
        self.spool = folder / "spool"
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "SLURM_JOB_ID": "14",
            "HPCTRACK_JOB_ID": "14",
            "HPCTRACK_RUN_DIR": str(self.folder),
            "HPCTRACK_SPOOL_DIR": str(self.spool),
        }

    def start(self, program: str, python: str = sys.executable, **environ: str) -> subprocess.Popen:
        return subprocess.Popen(
            [python, "-c", textwrap.dedent(program)],
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def execute(self, program: str, python: str = sys.executable, **environ: str) -> str:
        """Run a program to its end; return what it said on standard error."""
        process = self.start(program, python, **environ)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return errors

    def journals(self, folder: Path | None = None) -> list[list[journal.Line]]:
        paths = sorted((folder or self.folder).glob("*.log.journal"))
        return [list(journal.parse(path.read_bytes())) for path in paths]

    def steps(self) -> list[int]:
        return sorted(line.step for lines in self.journals() for line in lines)

    def lost(self) -> int:
        headers = [journal.parse_header(path.read_bytes()) for path in self.folder.glob("*.journal")]
        return sum(header.lost for header in headers)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_a_line_survives_sigkill_right_after_log(run):
    process = run.start("import hpctrack, os; hpctrack.log(step=1, loss=0.5); os.kill(os.getpid(), 9)")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and run.steps() == [1]


LEFT = {
    "by the script": "first = Late(1); second = Late(2); second.me = second",
    # Who holds the class, too, keeps all from going at once: modules are emptied in turn.
    "by other modules": "string.a = Late(1); string.me = string; builtins.a = Late(2); sys.a = Late",
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_what_is_logged_while_the_interpreter_goes_down_arrives(run, left):
    """Python empties modules at its very end, and calls ``__del__()`` of what is left then."""
    said = run.execute(f"""
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
    assert run.steps() == [0, 1, 2, 11, 12, 21, 22]


def test_what_comes_too_late_for_a_journal_says_nothing(run):
    said = run.execute("""
        from hpctrack import log, set_args
        class Late:
            def __del__(self):
                log(step=1, loss=1.0)
                set_args(a=1)
        first = Late()
    """)
    assert "Traceback" not in said and "Exception ignored" not in said


def test_every_call_is_one_write(run):
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    program = "import hpctrack\nfor step in range(5): hpctrack.log(step=step, a=1.0, b='x y', c={'d': 2})"
    trace = run.folder.parent / "trace"
    subprocess.run(
        ["strace", "-f", "-o", str(trace), "-e", "trace=write", sys.executable, "-c", program],
        env=run.environ, check=True, timeout=120,
    )  # fmt: skip
    assert trace.read_text().count("write(") == 1 + 5


def test_forks_have_journals_of_their_own(run):
    run.execute("""
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
    assert run.steps() == [0, 1, *(1000 * (child + 1) + step for child in range(4) for step in range(100))]
    assert [len(lines) for lines in run.journals()].count(100) == 4 and len(run.journals()) == 5


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_workers_log(run, method, tmp_path):
    (tmp_path / "work.py").write_text("import hpctrack\ndef work(n): hpctrack.log(step=n, loss=1.0)\n")
    run.execute(
        f"""
        import multiprocessing, work
        if __name__ == "__main__":
            work.work(0)
            with multiprocessing.get_context({method!r}).Pool(3) as pool:
                pool.map(work.work, range(1, 50))
        """,
        PYTHONPATH=f"{ROOT}:{tmp_path}",
    )
    assert run.steps() == list(range(50))


def test_threads_share_one_journal_without_mixing_lines(run):
    run.execute("""
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
    assert run.steps() == list(range(4000)) and len(run.journals()) == 1


def test_a_signal_handler_may_log_too(run):
    run.execute("""
        import hpctrack, os, signal
        log = hpctrack.log
        count = depth = 0
        def handle(*_):
            global count, depth
            if depth < 20:  # a slow machine gets signals faster than it handles them
                depth += 1
                count += 1
                log(step=-count, loss=1.0)
                depth -= 1
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for step in range(30_000):
            log(step=step, loss=0.5)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(count, file=open(os.environ["HPCTRACK_RUN_DIR"] + "/count", "w"))
    """)
    count = int((run.folder / "count").read_text())
    assert count > 10 and run.steps() == list(range(-count, 30_000))


#: Calls a function in the midst of another, before each of its instructions in our code, as a signal would.
AT_EVERY_INSTRUCTION = """
    import hpctrack, signal, sys
    from hpctrack import script
    def interrupted(call, at, interrupt):
        seen = 0
        def trace(frame, event, _):
            nonlocal seen
            if "hpctrack" not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                seen += 1
                if seen == at:
                    interrupt()
            return trace
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(None)
        return seen
    def forget():
        script._state.clear()
        script._packers.clear()
"""


@pytest.mark.parametrize("first", [False, True])
def test_a_signal_handler_may_log_at_every_instruction_of_log(run, first):
    """The first call opens the journal; others need only write."""
    run.execute(f"""{AT_EVERY_INSTRUCTION}
    count = 0
    def nested():
        global count
        count += 1
        hpctrack.log(step=-count, loss=1.0)
    total = 1
    while count < total:
        if {first} or count == 0:
            forget()
        step = count
        total = interrupted(lambda: hpctrack.log(step=step, loss=0.5), count + 1, nested)
    """)
    steps = run.steps()
    assert len(steps) > 200 and steps == list(range(-(len(steps) // 2), len(steps) // 2))


CALLS = {
    "log": "hpctrack.log(step=1, loss=0.5)",
    "log text": "hpctrack.log({'a': 'b c', 'd': {'e': 1}}, step=2, progress=0.5)",
    "set_args": "hpctrack.set_args(a=1, b={'c': [1.5]})",
    "set_tags": "hpctrack.set_tags('a', b=1)",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", ["RuntimeError", "TimeoutError"])
def test_what_a_signal_handler_raises_is_not_swallowed(run, call, kind):
    """A script that ends itself by an exception of its handler of SIGTERM must hear of it."""
    run.execute(f"""{AT_EVERY_INSTRUCTION}
    class Preempted({kind}): pass
    def handle(*_): raise Preempted
    signal.signal(signal.SIGTERM, handle)
    at, swallowed = 0, []
    while True:
        at += 3
        forget()
        try:
            seen = interrupted(lambda: {call}, at, lambda: signal.raise_signal(signal.SIGTERM))
        except Preempted:
            continue
        if seen < at:
            break
        swallowed.append(at)
    assert at > 200 and not swallowed, (at, len(swallowed), swallowed[:9])
    """)


@pytest.mark.parametrize("before", ["", "hpctrack.log(step=-1, loss=1.0)"], ids=["first", "later"])
def test_a_stack_without_room_loses_nothing(run, before):
    """Signal handlers that pile up, and deep recursions, leave no room to call anything."""
    run.execute(f"""
        import hpctrack, os
        {before}
        begun = []
        def anything(): pass
        def down(depth):
            anything()
            begun[9999:] = [depth]
            hpctrack.log(step=depth, loss=0.5)
            hpctrack.set_tags(deep=True)
            begun[9999:] = [-1]
            down(depth + 1)
        try:
            down(0)
        except RecursionError:
            pass
        assert begun.count(-1) == len(begun) / 2, "raised into the script"
        print(max(begun), file=open(os.environ["HPCTRACK_RUN_DIR"] + "/count", "w"))
    """)
    last = int((run.folder / "count").read_text())
    rows = [line.step for lines in run.journals() for line in lines if isinstance(line, journal.Row)]
    assert last > 900 and sorted({*rows, -1}) == list(range(-1, last + 1))


CLOSERS = {
    "closed": "os.closerange(3, 4096)",
    "replaced by a file": "fd = next(n for n in range(4096) if is_journal(n)); os.dup2(other, fd)",
    "replaced by a pipe": "fd = next(n for n in range(4096) if is_journal(n)); os.dup2(os.pipe()[1], fd)",
}


@pytest.mark.parametrize("close", CLOSERS.values(), ids=CLOSERS)
def test_descriptors_that_the_script_closes_or_reuses(run, close, tmp_path):
    run.execute(f"""
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
    assert run.steps() == [1, 2, 3] and len(run.journals()) == 1
    assert (tmp_path / "other").read_bytes() == b""


def test_the_descriptor_is_out_of_the_way_and_not_inherited(run):
    run.execute("""
        import hpctrack, os, subprocess, sys
        hpctrack.log(step=1, loss=1.0)
        links = {int(n): os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if n != "3"}
        (number,) = [n for n, path in links.items() if path.endswith(".journal")]
        assert number >= 1000, number
        assert b".journal" not in subprocess.check_output(["ls", "-l", "/proc/self/fd"], close_fds=False)
    """)


def test_a_low_limit_on_descriptors(run):
    run.execute("""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        import hpctrack
        hpctrack.log(step=1, loss=1.0)
    """)
    assert run.steps() == [1]


def test_a_journal_that_was_deleted_is_replaced(run):
    run.execute("""
        import glob, hpctrack, os, time
        hpctrack.log(step=1, loss=1.0)
        (path,) = glob.glob(os.environ["HPCTRACK_RUN_DIR"] + "/*")
        os.unlink(path)
        time.sleep(1.1)  # as after a rest: nothing that is written to is deleted
        hpctrack.log(step=2, loss=1.0)
    """)
    assert run.steps() == [2]


def test_a_run_folder_that_was_deleted_gives_way_to_the_spool(run):
    run.execute("""
        import hpctrack, os, shutil, time
        hpctrack.log(step=1, loss=1.0)
        shutil.rmtree(os.environ["HPCTRACK_RUN_DIR"])
        time.sleep(1.1)
        hpctrack.log(step=2, loss=1.0)
    """)
    ((line,),) = run.journals(run.spool)
    assert line.step == 2


def test_a_journal_that_can_not_grow_loses_lines_and_counts_them(run):
    """RLIMIT_FSIZE cuts the first write that crosses it short and refuses the next ones, like a full disk."""
    errors = run.execute("""
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
    (lines,) = run.journals()
    rows = [line.step for line in lines if isinstance(line, journal.Row)]
    torn = sum(isinstance(line, journal.Torn) for line in lines)
    assert (
        rows[-10:] == list(range(100, 110)) and rows[:-10] == list(range(len(rows) - 10)) and len(rows) > 20
    )
    assert torn == 1 and len(rows) + torn + run.lost() == 110
    assert errors.count("\n") == 1


def on_a_small_disk(run, tmp_path: Path, program: str) -> None:
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
        os.system("cp " + folder + "/*.journal " + {str(run.folder)!r})
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
    environ = {**run.environ, **folders, "HPCTRACK_JOURNAL": shell_journal}
    done = subprocess.run(
        [*namespace, shell], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_full_disk(run, tmp_path):
    on_a_small_disk(
        run,
        tmp_path,
        """
        for step in range(6000):
            hpctrack.log(step=step, loss=1.0)
        os.unlink(folder + "/ballast")
        for step in range(6000, 6100):
            hpctrack.log(step=step, loss=1.0)
        """,
    )
    (lines,) = run.journals()
    rows = [line.step for line in lines if isinstance(line, journal.Row)]
    torn = sum(isinstance(line, journal.Torn) for line in lines)
    assert rows[-100:] == list(range(6000, 6100))
    assert torn <= 1 and run.lost() > 100 and len(rows) + torn + run.lost() == 6100


def test_processes_that_find_a_full_disk_count_what_they_lose(run, tmp_path):
    """They can create no journal; the shells' journal has room for a count. One of them sees room again.

    While another one adds to it they wait, to the program's end if need be.
    """
    on_a_small_disk(
        run,
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
    assert run.steps() == list(range(10, 20))
    assert run.lost() == 41


def test_the_cap_bounds_what_piles_up(run):
    run.execute(
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
    assert run.steps() == list(range(2000)) and run.lost() == 2000


def test_a_broken_or_closed_standard_error(run):
    run.environ["HPCTRACK_JOB_ID"] = "other"
    for close in ("sys.stderr.close()", "sys.stderr = None", "os.close(2)"):
        run.execute(f"import hpctrack, os, sys; {close}; hpctrack.log(loss=1.0)")


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.12", "3.13"])
def test_other_pythons(run, version):
    python = next(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), None) or shutil.which(
        f"python{version}"
    )
    if python is None or subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode:
        pytest.skip(f"no Python {version} here")
    run.execute(
        "import hpctrack; hpctrack.log(step=1, loss=0.5, n=1); hpctrack.log({'a b': True})", str(python)
    )
    ((first, second),) = run.journals()
    assert first.values == {"loss": 0.5, "n": 1} and second.values == {"a b": True}


def test_log_does_not_wait_for_anybody(run):
    """50,000 rows, with nobody reading: bounded by the processor, not by anything that could block."""
    run.execute("import hpctrack\nfor step in range(50_000): hpctrack.log(step=step, a=1.0, b=2.0)")
    assert len(run.steps()) == 50_000
