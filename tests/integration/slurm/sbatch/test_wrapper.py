"""The wrapper where tracking is not possible: the script runs as if it had been submitted by plain sbatch."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from hpctrack import resources
from hpctrack.slurm.sbatch import batch_script
from tests.support.requirements import root_only

TEMPLATE = (resources.folder("sbatch_templates") / "wrapper.sh").read_bytes()
BASH, DASH = "#!/bin/bash -p", "#!/bin/dash"


class Job:
    """A wrapped script in a folder of its own, as slurmd would put it there, and how to run it."""

    def __init__(self, folder, text, python, shell):
        self.text = text if isinstance(text, bytes) else textwrap.dedent(text).encode()
        self.file = folder / "slurm_script"
        supervision = batch_script.Supervision(
            str(python), "/nonexistent/hpctrack", ["--spool", "/nonexistent/spool"], "/home/a.sh"
        )
        wrapped = batch_script.wrap(self.text, supervision, TEMPLATE)
        if shell:
            wrapped = shell.encode() + wrapped[wrapped.index(b"\n") :]
        self.file.write_bytes(wrapped)
        self.file.chmod(0o700)

    def run(self, *arguments, environ=None, **options):
        environ = {"PATH": os.environ["PATH"], **(environ or {})}
        return subprocess.run(
            [self.file, *arguments], env=environ, capture_output=True, timeout=60, check=False, **options
        )


@pytest.fixture(params=[BASH, DASH], ids=["bash", "dash"])
def job(request, tmp_path):
    """Wrap a script for a node without our Python (or with this one in its place), in either shell."""

    def make(text, python="/nonexistent/python", shell=request.param):
        if shell == DASH and shutil.which("dash") is None:
            pytest.skip("no dash here")
        return Job(tmp_path, text, python, shell)

    return make


def fake_python(tmp_path, script):
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return path


def test_arguments_stdin_exit_code_and_name(job):
    made = job('#!/bin/bash\nprintf "%s|" "$0" "$@"\ncat\nexit 3\n')
    done = made.run("a b", "", "'c\"", input=b"given")
    assert done.stdout == f"{made.file}|a b||'c\"|given".encode()
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert b"hpctrack: this job runs untracked: can't start /nonexistent/python" in done.stderr


def test_the_batch_script_becomes_the_users_byte_for_byte(job):
    made = job(
        b"#!/bin/sh\n#SBATCH -n1\n\ncat <<'END'\n$x `y` \\ \xe9\xff\nEND\nexit 0\n"
        + bytes(range(1, 256)) * 99
    )
    done = made.run()
    assert done.stdout == b"$x `y` \\ \xe9\xff\n"
    assert made.file.read_bytes() == made.text
    assert made.file.stat().st_mode & 0o777 == 0o700


def test_a_script_without_a_final_line_break(job):
    made = job(b"#!/bin/sh\necho done; exit 4")
    assert (made.run().returncode, made.file.read_bytes()) == (4, made.text)


def test_death_by_signal(job):
    assert job("#!/bin/bash\nkill -SEGV $$\n").run().returncode == -signal.SIGSEGV


def test_signals_reach_the_script_itself(job):
    made = job(
        """\
        #!/bin/bash
        trap 'echo caught; exit 9' USR1
        echo ready
        while :; do read -t 0.1 <> <(:); done
        """
    )
    process = subprocess.Popen([made.file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.communicate(timeout=30)[0] == b"caught\n"
    assert process.returncode == 9


@pytest.mark.parametrize(
    ("first", "body", "said"),
    [
        ("#!/usr/bin/env python3", "import sys; print(sys.argv[1:], __file__[-12:])", "['x'] slurm_script\n"),
        ("#!/bin/bash -l", "shopt -q login_shell && echo login $1", "login x\n"),
        ("#!/bin/bash -e", "false; echo not reached", ""),
        ("#!/usr/bin/perl -w", 'print "$ARGV[0]\\n";', "x\n"),
        ("#!/bin/sed -nf", "2,$p", None),
        ("#! /bin/sh", 'echo "$1"', "x\n"),
    ],
)
def test_any_interpreter(job, first, body, said):
    if not os.path.exists(first[2:].split()[0]):
        pytest.skip(f"no {first[2:]} here")
    made = job(f"{first}\n{body}\n")
    if said is None:
        argument = made.file.parent / "input"
        argument.write_text("1\n2\n3\n")
        assert made.run(argument).stdout == b"2\n3\n"
    else:
        assert made.run("x").stdout.decode() == said


def test_a_missing_interpreter_fails_as_anywhere(job):
    done = job("#!/nonexistent/interpreter\n:\n").run()
    assert done.returncode in (126, 127)


def test_a_strict_script_finds_its_journal(job):
    done = job(
        '#!/bin/bash\nset -eu\necho "step=1 loss=2" >> "$HPCTRACK_JOURNAL"\necho $HPCTRACK_SCRIPT\n'
    ).run()
    assert (done.returncode, done.stdout) == (0, b"/home/a.sh\n")


ENVIRON = {
    "BASH_FUNC_module%%": "() {  echo loaded $1\n}",
    "with.dot": "1",
    "ODD": "line\nbreak 'quoted' \udcff",
    "BASH_ENV": "/nonexistent/startup-file",
    "SHLVL": "5",
    "PWD": "/",
    "OLDPWD": "/tmp",
    "_": "/usr/bin/sbatch",
    "LC_ALL": "C",
}


def test_the_environment_is_what_plain_sbatch_would_give(tmp_path):
    """With /bin/sh = dash for the wrapper, functions that bash exported would be gone."""
    made = Job(
        tmp_path,
        f"#!{sys.executable}\nimport os, json; print(json.dumps(dict(os.environ)))\n",
        "/no",
        None,
    )
    environ = {"PATH": os.environ["PATH"], **ENVIRON}
    seen = eval(made.run(environ=ENVIRON, cwd="/").stdout)
    added = {"HPCTRACK_JOURNAL": "/dev/null", "HPCTRACK_SCRIPT": "/home/a.sh"}
    assert {**seen, "_": ""} == {**environ, **added, "_": ""}


def test_a_script_imports_hpctrack_although_its_python_is_gone(tmp_path):
    made = Job(
        tmp_path,
        f"#!/bin/sh\nexec {sys.executable} -S -c 'import hpctrack; hpctrack.log(a=1)'\n",
        "/no",
        None,
    )
    made.file.write_bytes(
        made.file.read_bytes().replace(b"/nonexistent/hpctrack/imp", f"{resources.PACKAGE}/imp".encode())
    )
    done = made.run()
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr


def test_an_exported_function_still_works(tmp_path):
    made = Job(tmp_path, "#!/bin/bash\nmodule gcc\n", "/nonexistent/python", None)
    assert made.run(environ=ENVIRON).stdout == b"loaded gcc\n"


def test_exported_shell_options_do_not_make_the_script_privileged(tmp_path):
    made = Job(tmp_path, "#!/bin/bash\n[[ -o privileged ]] || echo no\n", "/nonexistent/python", None)
    assert made.run(environ={"SHELLOPTS": "braceexpand:hashall"}).stdout == b"no\n"


def test_umask_folder_limits_and_open_files_are_untouched(job):
    reading, writing = os.pipe()
    made = job(f"#!/bin/bash\numask; pwd; ulimit -n; echo open >&{writing}; ls /proc/self/fd | wc -l\n")
    plain = subprocess.run(
        ["/bin/bash", "-c", made.text.decode()],
        check=False,
        pass_fds=[writing],
        cwd="/usr",
        umask=0o027,
        stdout=subprocess.PIPE,
    )
    done = made.run(pass_fds=[writing], cwd="/usr", umask=0o027)
    os.close(writing)
    with open(reading, "rb") as file:
        assert file.read() == b"open\nopen\n"
    assert done.stdout == plain.stdout
    assert done.stdout.startswith(b"0027\n/usr\n")


@pytest.mark.parametrize(
    ("python", "why"),
    [("exit 5", b"this fails on this node: "), ("sleep 100", b"took more than 3 seconds")],
)
def test_a_python_that_fails_or_hangs(job, tmp_path, python, why):
    done = job("#!/bin/sh\necho ran\n", fake_python(tmp_path, python)).run()
    assert (done.returncode, done.stdout) == (0, b"ran\n")
    assert why in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_the_probe_decides_and_the_supervisor_takes_over(job, tmp_path):
    python = fake_python(tmp_path, 'case $4 in --probe) exit 0;; esac\nprintf "%s\\n" "$@"\nexit 7\n')
    made = job("#!/bin/sh\necho not by the shell\n", python)
    done = made.run("a b", "c")
    words = done.stdout.decode().splitlines()
    assert done.returncode == 7
    assert words[:3] == ["-I", "-S", "-X"]
    assert int(words[3].removeprefix("ignored="), 16) & 1 << signal.SIGPIPE - 1 == 0
    assert words[4:6] == ["/nonexistent/hpctrack/stream/__main__.py", "supervise"]
    assert words[words.index("--") :] == ["--", str(made.file), "a b", "c"]
    line = int(words[words.index("--script-line") + 1])
    assert b"".join(made.file.read_bytes().splitlines(keepends=True)[line - 1 :]) == made.text
    assert done.stderr == b""


def test_lines_that_a_site_puts_on_top_are_no_part_of_the_script(job):
    """A burst buffer file (--bbf), or a job_submit plugin, shifts everything behind the first line."""
    made = job(b"#!/bin/sh\nexit 6\n")
    first, rest = made.file.read_bytes().split(b"\n", 1)
    made.file.write_bytes(first + b"\n#BB one\n#BB two\n" + rest)
    assert made.run().returncode == 6
    assert made.file.read_bytes() == made.text


@root_only
def test_where_the_batch_script_cannot_be_written_a_copy_runs(job, tmp_path):
    made = job('#!/bin/sh\necho "$1" from "$0"\nexit 8\n')
    made.file.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    done = made.run("x", environ={"TMPDIR": str(scratch)}, user="nobody")
    assert done.returncode == 8
    copy = next(scratch.iterdir()) / "slurm_script"
    assert done.stdout == f"x from {copy}\n".encode()
    assert copy.read_bytes() == made.text


def test_it_works_without_timeout_on_the_node(tmp_path):
    """A shell whose default path lacks timeout: nothing is limited, everything works."""
    python = fake_python(tmp_path, "exit 0")
    made = Job(tmp_path, "#!/bin/sh\necho ran\n", python, None)
    text = made.file.read_bytes().replace(b"command -pv timeout", b"command -pv no-such-command")
    made.file.write_bytes(text.replace(b"command -p timeout", b"command -p no-such-command"))
    done = made.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
