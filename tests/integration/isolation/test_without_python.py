"""Where Python or hpctrack can't start, sbatch submits all the same: once, as it would without us."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.places import Place
from tests.support.requirements import root_only
from tests.support.waiting import eventually

SCRIPT = "#!/bin/sh\necho hello\n"


@pytest.fixture
def broken(place: Place, tmp_path):
    """A copy of the installation, to be broken; gives the command and its folder."""
    environment = tmp_path / "environment"
    shutil.copytree(place.installation.command.parents[1], environment, symlinks=True)
    (place.work / "train.sh").write_text(SCRIPT)
    command = environment / "bin" / "hpctrack"
    name_interpreter(command, str(environment / "bin" / "python"))
    place.installation = place.installation._replace(command=command)
    assert place.run("--version").returncode == 0
    return environment


def name_interpreter(command: Path, python: str, first: str = "") -> None:
    """Write another interpreter into the file beside the command, as what installs it does."""
    start = command.with_name("hpctrack-start")
    start.write_text((first or f"#!{python}\n") + start.read_text().partition("\n")[2])


def program(text: str):
    """Return what puts a program in the place of Python."""

    def breaks(environment: Path) -> None:
        path = environment / "bin" / "python"
        path.unlink()
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    return breaks


def module(name: str, text: str | None):
    """Return what replaces a module of hpctrack, or takes a package away."""

    def breaks(environment: Path) -> None:
        [packages] = environment.glob("lib/*/site-packages")
        path = packages / name
        if text is not None:
            path.write_text(text)
        elif path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)

    return breaks


#: What breaks an installation.
BREAKS = {
    "no interpreter": lambda environment: (environment / "bin" / "python").unlink(),
    "one that can't be executed": lambda environment: (
        program(":")(environment), (environment / "bin" / "python").chmod(0o644)),
    "one that is a folder": lambda environment: (
        (environment / "bin" / "python").unlink(), (environment / "bin" / "python").mkdir()),
    "one that is no program": lambda environment: (
        program(":")(environment), (environment / "bin" / "python").write_bytes(b"\x7fELF garbage")),
    "one that fails": program("echo 'error while loading shared libraries' >&2; exit 127"),
    "one that does nothing": program("exit 0"),
    "one that talks": program("echo hello; exit 0"),
    "one that is killed": program("kill -SEGV $$"),
    "one without its standard library": program("echo 'Fatal Python error: init_fs_encoding' >&2; exit 1"),
    "no packages": lambda environment: shutil.rmtree(environment / "lib"),
    "no other half": lambda environment: (environment / "bin" / "hpctrack-start").unlink(),
    "an empty other half": lambda environment: (environment / "bin" / "hpctrack-start").write_text(""),
    "no click": module("click", None),
    "no hpctrack": module("hpctrack", None),
    "a module that does not compile": module("hpctrack/cli/verbs/sbatch.py", "this is no Python"),
    "a module that ends Python": module("hpctrack/slurm/sbatch/submit.py", "raise SystemExit(3)"),
    "a module that has no bounds": module("hpctrack/errors.py", "def f(): f()\nf()"),
    "a .pth file that ends Python": module("x.pth", "import sys; sys.exit(5)"),
}  # fmt: skip
ODD = {"BASH_FUNC_module%%": "() {  echo 'a b'\n}", "a.b": "1", "x-y": " two\n lines \n"}


def names(environ: dict[bytes, bytes]) -> dict[bytes, bytes]:
    left_out = (b"_", b"SHLVL", b"HPCTRACK_JOURNAL")
    return {name: value for name, value in environ.items() if name not in left_out}


@pytest.mark.parametrize("what", BREAKS)
def test_sbatch_submits_untracked_and_once(place: Place, broken, what):
    BREAKS[what](broken)
    environ = {**ODD, "FAKE_EXIT": "3", "HPCTRACK_JOB_ID": "", "LD_LIBRARY_PATH": "/x"}
    place.run("--array=1-2", "train.sh", "-E", "its own", command="sbatch", environ=environ)
    expected = (place.argv, names(place.job_environ))
    own = ["-E", "exp", "-Tx=y", "--tag", "z", "--note=a b", "--experiment", "other", "-Eglued", "--tag=t"]
    done = place.run("sbatch", *own, "--array=1-2", "train.sh", "-E", "its own", environ=environ)
    assert (done.returncode, done.stdout) == (3, "Submitted batch job 14\n")
    first, *rest = done.stderr.splitlines()
    assert first.startswith("hpctrack: this job is submitted untracked: "), first
    assert "install hpctrack anew" in first
    assert rest == ["sbatch says this"]
    assert place.calls() == 2
    seen = names(place.job_environ)
    expected[1].pop(b"HPCTRACK_JOB_ID")  # of a job around us, which this one is not
    assert (place.argv, seen) == expected
    assert place.job_environ[b"HPCTRACK_JOURNAL"] == b"/dev/null"


@pytest.mark.parametrize(
    "what", sorted(set(BREAKS) - {"a module that does not compile", "a module that ends Python"})
)
def test_a_command_runs_untracked(place: Place, broken, what):
    BREAKS[what](broken)
    done = place.run(
        "run", "-E", "exp", "--note", "n", "--", "sh", "-c", 'echo "$1 $HPCTRACK_JOURNAL"; exit 4', "-", "x"
    )
    assert (done.returncode, done.stdout) == (4, "x /dev/null\n")
    [line] = done.stderr.splitlines()
    assert line.startswith("hpctrack: this command runs untracked: ")


@pytest.mark.parametrize("what", ["no interpreter", "no click", "one that fails"])
def test_other_verbs_say_what_is_wrong_in_one_line(place: Place, broken, what):
    BREAKS[what](broken)
    done = place.run("status")
    if what == "one that fails":  # it says so itself
        assert done.returncode == 127
        return
    assert (done.returncode, done.stdout) == (69, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("hpctrack: ")
    assert line.endswith("; install hpctrack anew, or tell those who keep it here")


@pytest.mark.parametrize("arguments", [["-E"], ["--note"], ["-E", "x", "--tag"]])
def test_an_option_without_its_value_submits_nothing(place: Place, broken, arguments):
    BREAKS["no interpreter"](broken)
    done = place.run("sbatch", *arguments)
    assert (done.returncode, place.calls()) == (2, 0)
    assert done.stderr == f"hpctrack: hpctrack's option {arguments[-1]} needs a value\n"


def test_a_script_from_standard_input_is_submitted(place: Place, broken):
    BREAKS["no click"](broken)
    done = place.run("sbatch", "-E", "exp", "-", stdin=None, input=SCRIPT)
    assert done.returncode == 0
    assert (place.fake / "stdin").read_text() == SCRIPT


def test_sbatch_that_is_not_there_is_said(place: Place, broken):
    BREAKS["no interpreter"](broken)
    done = place.run("sbatch", "train.sh", environ={"PATH": "/nonexistent"})
    assert done.returncode == 127
    assert "sbatch: not found" in done.stderr


def test_signals_are_as_they_were(place: Place, broken):
    """Python ignores SIGPIPE; the sbatch that comes after it does not."""
    BREAKS["no click"](broken)
    sbatch = Path(place.environ["PATH"].partition(":")[0], "sbatch")
    sbatch.write_text("#!/bin/bash -p\ngrep SigIgn /proc/$$/status\n")
    expected = place.run(command="sbatch").stdout
    assert place.run("sbatch").stdout == expected


@pytest.mark.parametrize("held", [[], [signal.SIGINT, signal.SIGTERM], [signal.SIGUSR1]], ids=str)
@pytest.mark.parametrize("ignored", [[], [signal.SIGINT, signal.SIGHUP]], ids=str)
def test_signals_are_as_they_were_on_a_terminal(place: Place, held, ignored):
    """What holds a Ctrl-C while Python starts lets go of nothing else."""
    sbatch = Path(place.environ["PATH"].partition(":")[0], "sbatch")
    sbatch.write_text("#!/bin/bash -p\nexec grep -E 'Sig(Blk|Ign)' /proc/self/status\n")

    def begin():
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        for signum in ignored:
            signal.signal(signum, signal.SIG_IGN)

    above, below = pty.openpty()
    plain, tracked = (
        subprocess.run(
            [*command, "train.sh"], env=place.environ, cwd=place.work, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=below, preexec_fn=begin, timeout=60, check=False,
        ).stdout
        for command in ([sbatch], [place.installation.command, "sbatch"])
    )  # fmt: skip
    os.close(below)
    os.close(above)
    assert plain.startswith(b"SigBlk") and tracked[: len(plain)] == plain


# ---- How it is called --------------------------------------------------------------------------------------


def test_it_is_found_by_an_empty_entry_of_path(place: Place):
    environ = {"PATH": f":{place.environ['PATH']}"}
    line = 'cd "$0" && exec hpctrack --version'
    done = place.run("-c", line, place.installation.command.parent, command="/bin/sh", environ=environ)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_found_through_links_names_and_folders_with_blanks(place: Place, tmp_path):
    command = place.installation.command
    assert " " in str(command)
    (tmp_path / "a bin").mkdir()
    (tmp_path / "a bin" / "hpctrack").symlink_to(command)
    (tmp_path / "hpctrack").symlink_to("a bin/hpctrack")
    version = place.run("--version").stdout
    relative = os.path.relpath(command, place.work)
    for name in (tmp_path / "a bin" / "hpctrack", tmp_path / "hpctrack", relative):
        assert place.run("--version", command=name).stdout == version
    for path in (command.parent, tmp_path / "a bin", os.path.dirname(relative)):
        environ = {"PATH": f"{path}:{place.environ['PATH']}"}
        assert place.run("-c", "hpctrack --version", command="/bin/sh", environ=environ).stdout == version
    assert place.run(command, "--version", command="/bin/sh").stdout == version


EXEC = "#!/bin/sh\n'''exec' {} \"$0\" \"$@\"\n' '''"


@pytest.mark.parametrize(
    "line",
    ["#!{python}", "#! {python}", "#!{python} -sE", "#!/usr/bin/env {name}", "#!{blank}",
     EXEC.format("{python}"), EXEC.format("'{blank}'"), EXEC.format('"{blank}"')],
)  # fmt: skip
def test_the_interpreter_is_read_as_installers_write_it(place: Place, broken, tmp_path, line):
    (tmp_path / "a blank").symlink_to(broken / "bin")
    values = {
        "python": broken / "bin" / "python",
        "blank": tmp_path / "a blank" / "python",
        "name": "python",
    }
    name_interpreter(place.installation.command, "", line.format(**values) + "\n")
    environ = {"PATH": f"{broken / 'bin'}:{place.environ['PATH']}"}
    done = place.run("sbatch", "train.sh", environ=environ)
    assert (done.returncode, place.calls(), len(place.records())) == (0, 1, 1), done.stderr


@pytest.mark.parametrize("shell", ["sh", "bash", "bash --posix", "busybox sh", "ksh", "zsh"])
def test_every_shell_does(place: Place, shell):
    if shutil.which(shell.split()[0]) is None:
        pytest.skip("there is no such shell here")
    (place.work / "train.sh").write_text(SCRIPT)
    place.run("train.sh", command="sbatch", environ=ODD)
    expected = names(place.job_environ)
    first, *rest = shell.split()
    done = place.run(*rest, place.installation.command, "sbatch", "train.sh", command=first, environ=ODD)
    assert (done.returncode, len(place.records())) == (0, 1), done.stderr
    assert names(place.job_environ) == expected


FUNCTIONS = {
    f"BASH_FUNC_{name}%%": "() {  echo a function\n}" for name in ("command", "printf", "read", "echo")
}


@pytest.mark.parametrize("verb", ["sbatch", "--untracked why sbatch"])
@pytest.mark.parametrize("options", ["xtrace", "allexport", "noglob:errexit:nounset"])
def test_what_bash_takes_from_the_environment_changes_nothing(place: Place, verb, options):
    """Where sh is bash. Our own variables are none of the job's."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    (place.work / "train.sh").write_text(SCRIPT)
    done = place.run(
        "--posix", place.installation.command, *verb.split(), "train.sh",
        command="bash", environ={**FUNCTIONS, "SHELLOPTS": options},
    )  # fmt: skip
    assert (done.returncode, place.calls()) == (0, 1), done.stderr
    assert len(place.records()) == (verb == "sbatch"), done.stderr
    assert "Submitted batch job 14" in done.stdout
    assert "a function" not in done.stdout + done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("+")]
    assert not [name for name in place.job_environ if name.startswith(b"hpctrack_")]


def test_where_there_is_no_proc(place: Place):
    (place.work / "train.sh").write_text(SCRIPT)
    hide = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    if subprocess.run([*hide, "true"], capture_output=True, check=False).returncode:
        pytest.skip("/proc can't be hidden here")
    done = place.run(*hide[1:], place.installation.command, "sbatch", "train.sh", command=hide[0])
    assert (done.returncode, place.calls(), len(place.records())) == (0, 1, 1), done.stderr


@pytest.mark.parametrize("where", ["a full disk", "a pipe that nobody reads"])
def test_what_can_not_be_said_changes_nothing(place: Place, where):
    (place.work / "train.sh").write_text(SCRIPT)
    program = Path(place.environ["PATH"].partition(":")[0], "sbatch")
    program.write_text(program.read_text().replace('echo "sbatch says', ': "'))
    reading, writing = os.pipe()
    os.close(reading)
    if where == "a full disk":
        os.dup2(os.open("/dev/full", os.O_WRONLY), writing)
    with open(writing, "wb") as stderr:
        done = place.run("sbatch", "train.sh", capture_output=False, stdout=subprocess.PIPE, stderr=stderr)
    assert (done.returncode, place.calls(), len(place.records())) == (0, 1, 1)
    assert done.stdout == "Submitted batch job 14\n"


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_ctrl_c_while_the_shell_looks_ends_it(place: Place, broken, shell):
    """Some shells pass over a Ctrl-C that what they wait for does not die of."""
    (place.work / "train.sh").write_text(SCRIPT)
    for_last = 'for last; do :; done; kill -INT "$last"; sleep 0.2'
    program(f'{for_last}; exec {sys.executable} "$@"')(broken)
    done = place.run(place.installation.command, "sbatch", "train.sh", command=shell)
    assert (done.returncode, done.stderr, place.calls()) == (130, "", 0)


def test_ctrl_c_before_the_command_line_is_there_leaves_no_traceback(place: Place, broken):
    [packages] = broken.glob("lib/*/site-packages")
    (packages / "early.pth").write_text("import os; os.kill(os.getpid(), 2)\n")
    done = place.run("status", "--help")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("verb", ["status", "sbatch"])
def test_ctrl_c_before_pythons_first_line_leaves_no_traceback_on_a_terminal(place: Place, broken, verb):
    start = broken / "bin" / "hpctrack-start"
    start.write_bytes(start.read_bytes() + b"# a line that is long to read\n" * 1_000_000)
    above, below = pty.openpty()
    command = [place.installation.command, verb, "train.sh"]
    with subprocess.Popen(
        command, env=place.environ, cwd=place.work, stdin=subprocess.DEVNULL, stdout=below, stderr=below
    ) as process:
        os.close(below)
        while not holds_open(process.pid, start):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the other end is closed
        assert os.read(above, 1000) == b""
    os.close(above)
    assert (process.returncode, place.calls()) == (-signal.SIGINT, 0)


def holds_open(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        if "python" in os.readlink(f"/proc/{pid}/exe"):
            return any(os.readlink(entry.path) == str(path) for entry in os.scandir(f"/proc/{pid}/fd"))
    return False


def test_arguments_arrive_as_they_are(place: Place):
    odd = [
        "",
        " ",
        "a b",
        "*",
        "$HOME",
        "`id`",
        "'",
        '"',
        "\\",
        "new\nline",
        "-n",
        "--",
        "é",
        b"\xff\xfe",
        "%s",
        "~",
    ]
    look = 'import os, sys; sys.stdout.write("".join(word + "\\0" for word in sys.argv[1:]))'
    done = place.run(
        "run", "--", sys.executable, "-I", "-c", look, *odd, text=False, environ={"LC_ALL": "C.UTF-8"}
    )
    assert done.returncode == 0
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in odd]


def test_standard_input_is_the_commands(place: Place):
    done = place.run("run", "--", "cat", stdin=None, input="one\ntwo\n")
    assert done.stdout == "one\ntwo\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_stay_closed(place: Place, closed):
    (place.work / "train.sh").write_text(SCRIPT)
    line = f'"$0" sbatch train.sh {closed}'
    place.run("-c", line, place.installation.command, command="/bin/sh")
    assert (place.calls(), len(place.records())) == (1, 1)


def test_a_folder_that_is_gone_does_not_matter(place: Place):
    line = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" status --help'
    done = place.run("-c", line, place.installation.command, command="/bin/sh")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr  # dash itself says that there is no such folder


def test_the_process_that_was_started_is_the_one_that_runs(place: Place):
    """A signal reaches what a caller started, and nothing is left."""
    with subprocess.Popen(
        [place.installation.command, "run", "--", "sleep", "100"], env=place.environ, cwd=place.work
    ) as process:
        line = Path(f"/proc/{process.pid}/cmdline")
        eventually(lambda: b"hpct-supervisor" in line.read_bytes())
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        eventually(lambda: children.read_text().split())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM


@root_only
def test_a_folder_on_path_that_one_may_not_look_into_does_not_matter():
    """As root's own is for a user to whom its PATH was handed on."""
    code = textwrap.dedent("""
        import os, sys
        from hpctrack.git import program
        from hpctrack.slurm.sbatch import preparation
        os.setuid(65534)
        search = sys.argv[1]
        print(program.find({"PATH": search}), preparation.find_script("elsewhere.sh", None, search))
    """)
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        closed, found = Path(name, "closed"), Path(name, "found")
        Path(name).chmod(0o755)
        closed.mkdir(0o700)
        found.mkdir(0o755)
        for program in ("git", "elsewhere.sh"):
            (found / program).write_text(SCRIPT)
            (found / program).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", code, f"{closed}:{found}"], capture_output=True, text=True, check=False,
            cwd=ROOT,
        )  # fmt: skip
        assert done.stdout.split() == [str(found / "git"), str(found / "elsewhere.sh")], done.stderr
