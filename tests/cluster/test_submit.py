"""hpctrack sbatch beside plain sbatch, on a real Slurm: same words, same exit code, same job."""

from __future__ import annotations

import os
import re
import shlex
from typing import NamedTuple

import pytest

from tests.support.variables import OF_ONE_JOB

pytestmark = pytest.mark.cluster

SCRIPTS = {
    "ok.sh": "#!/bin/bash\necho one; echo two >&2\n",
    "bad.sh": "#!/bin/bash\nexit 3\n",
    "named.sh": "#!/bin/sh\n#SBATCH -J 'in quotes' # why\n\n  # comment\n#SBATCH --comment=x --parsable\n:\n",
    "late.sh": "#!/bin/sh\n:\n#SBATCH -J too-late\n",
    "het.sh": "#!/bin/bash\n#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n1 -p urgent\n:\n",
    "array.sh": "#!/bin/bash\n#SBATCH --array=1-3:2\nexit $SLURM_ARRAY_TASK_ID\n",
    "python.py": "#!/usr/bin/env python3\nimport sys\nprint(sys.argv[1:])\nsys.exit(4)\n",
    "login.sh": "#!/bin/bash -l\nshopt -q login_shell && exit 6\n",
    "perl.pl": "#!/usr/bin/perl -w\nexit scalar @ARGV;\n",
    "elsewhere/away.sh": "#!/bin/bash\npwd\nexit 8\n",
    "noprogram.sh": "#!/nonexistent/interpreter\n:\n",
    "plain.txt": "echo\n",
    "dos.sh": "#!/bin/sh\r\n:\r\n",
    "empty.sh": "",
    "badoption.sh": "#!/bin/sh\n#SBATCH --nonsense\n:\n",
    "badquote.sh": "#!/bin/sh\n#SBATCH -J 'x\n:\n",
}
LINES = [
    "ok.sh a 'b c'",
    "./ok.sh",
    "bad.sh",
    "named.sh",
    "late.sh",
    "het.sh",
    "array.sh",
    "python.py x --lr=1",
    "login.sh",
    "perl.pl 1 2 3 4 5",
    "-D elsewhere away.sh",
    "--parsable ok.sh",
    "-Q ok.sh",
    "--quiet --parsable bad.sh",
    "--wait bad.sh",
    "-QW bad.sh",
    "--test-only ok.sh",
    "--array=0-4:2%1 -J 'a name' bad.sh",
    "--arr=1-2 bad.sh",
    "-n1 : -n1 -p urgent ok.sh",
    "-HN1 --nice=5 --comment 'c c' ok.sh",
    "--wrap 'exit 2'",
    "--wrap='echo \"$PWD\"; #SBATCH -J no' -J wrapped",
    "--wrap 'kill -SEGV $$'",
    "-M {cluster} ok.sh",
    "-M {cluster} --parsable ok.sh",
    "--export=NONE ok.sh",
    "-N1 -- ok.sh -N2",
    # What sbatch refuses, it refuses in its own words.
    "nosuch.sh",
    ".",
    "secret.sh",
    "plain.txt",
    "dos.sh",
    "empty.sh",
    "badoption.sh",
    "badquote.sh",
    "--wrap 'echo' ok.sh",
    "--nonsense ok.sh",
    "--par ok.sh",
    "-N",
    "-vQ ok.sh",
    "-p nosuch ok.sh",
    "-M nosuch ok.sh",
    "--version",
    "--usage",
]
ON_STDIN = ["#!/bin/sh\n#SBATCH -J given\nexit 9\n", "#!/bin/sh\nexit 9\n", "no script\n", ""]
FACTS = "JobName JobState ExitCode Partition Comment WorkDir NumCPUs ArrayTaskId HetJobOffset".split()


class Outcome(NamedTuple):
    """What a submission came to, without what differs from job to job."""

    returncode: int
    stdout: str
    stderr: list[str]
    job: int | None


class Submitter:
    """Submits the same thing with plain sbatch and with hpctrack in front."""

    def __init__(self, account):
        self.account = account
        self.folder = account.home / "submissions"
        self.cluster = re.search(r"ClusterName\s*= (\S+)", account.run("scontrol", "show", "config").stdout)[
            1
        ]
        for name, text in SCRIPTS.items():
            account.write(f"submissions/{name}", text)
        account.write("submissions/secret.sh", "#!/bin/sh\n:\n", 0o000)

    def submit(self, tracked, line, **options):
        words = [word.format(cluster=self.cluster) for word in shlex.split(line)]
        front = ["hpctrack"] if tracked else []
        done = self.account.run(*front, "sbatch", *words, cwd=self.folder, check=False, **options)
        newest = self.account.run("squeue", "-h", "-a", "-t", "all", "--me", "-o", "%i", "-S", "-V,-i").stdout
        stderr = [line for line in done.stderr.splitlines() if not line.startswith("hpctrack: started")]
        return Outcome(
            done.returncode,
            without_numbers(done.stdout),
            list(map(without_numbers, stderr)),
            int(re.match(r"\d+", newest)[0]) if newest else None,
        )

    def pair(self, line, **options):
        """Submit both ways; return both outcomes, the job only where one was made."""
        before = self.newest()
        outcomes = []
        for tracked in (False, True):
            outcome = self.submit(tracked, line, **options)
            outcomes.append(outcome._replace(job=None if outcome.job == before else outcome.job))
            before = outcome.job
        return outcomes

    def newest(self):
        return self.submit(False, "--version").job

    def script(self, job):
        """The script that Slurm has of a job."""
        path = self.folder / f"kept-{job}"
        self.account.run("scontrol", "write", "batch_script", str(job), path)
        return path.read_bytes()

    def facts(self, job):
        """What slurmctld says of a job and its tasks or components, once all have ended."""
        shown = self.account.run("scontrol", "-o", "show", "job", str(job)).stdout.splitlines()
        if any(re.search(r"JobState=(PENDING|CONFIGURING|RUNNING|COMPLETING)", line) for line in shown):
            return None
        return sorted(
            [match[0] for name in FACTS if (match := re.search(rf"\b{name}=.*?(?= [\w/:]+=|$)", line))]
            for line in shown
        )


def without_numbers(text):
    """Job ids, times and temporary paths differ."""
    return re.sub(r"\d+", "N", text)


@pytest.fixture(scope="module")
def submitter(alice):
    return Submitter(alice)


@pytest.fixture(scope="module")
def pairs(submitter):
    """Every line, submitted both ways."""
    found = {line: submitter.pair(line) for line in LINES}
    held = found["-HN1 --nice=5 --comment 'c c' ok.sh"]
    for outcome in held:
        submitter.account.run("scontrol", "release", str(outcome.job))
    return found


@pytest.mark.parametrize("line", LINES)
def test_as_under_plain_sbatch(submitter, pairs, await_until, line):
    plain, tracked = pairs[line]
    assert tracked[:3] == plain[:3]
    assert (tracked.job is None) == (plain.job is None)
    if plain.job is not None:
        expected = await_until(lambda: submitter.facts(plain.job), 90, f"the end of job {plain.job}")
        assert await_until(lambda: submitter.facts(tracked.job), 90, f"the end of {tracked.job}") == expected


@pytest.mark.parametrize("text", ON_STDIN)
def test_a_script_on_standard_input(submitter, await_until, text):
    plain, tracked = submitter.pair("-p main", input=text)
    assert tracked[:3] == plain[:3]
    if plain.job is not None:
        expected = await_until(lambda: submitter.facts(plain.job), 90)
        assert await_until(lambda: submitter.facts(tracked.job), 90) == expected


def test_a_job_that_could_not_run_fails_under_both(submitter, await_until):
    """The exit codes differ where the interpreter is missing: the shell's, and slurmstepd's errno."""
    plain, tracked = submitter.pair("noprogram.sh")
    assert tracked[:3] == plain[:3]
    for outcome in (plain, tracked):
        assert "JobState=FAILED" in await_until(lambda job=outcome.job: submitter.facts(job), 90)[0]


def awkward():
    """A script of a thousand lines that quoting, here-documents and encodings would trip over."""
    lines = ["#!/bin/bash", "#SBATCH -J awkward", "", "# Grüße, \udce9\udcff", "cat <<'END'"]
    lines += [f"line {n} $HOME `date` \\ \" ' ** {{}} @SCRIPT@ %s éß漢字 \t" for n in range(994)]
    return os.fsencode("\n".join([*lines, "END"]))


def test_a_long_awkward_script_arrives_byte_for_byte(submitter, await_until):
    account, text = submitter.account, awkward()
    account.write("submissions/awkward.sh", text)
    outputs = []
    for front in ([], ["hpctrack"]):
        output = submitter.folder / f"awkward-{len(front)}.out"
        words = ["sbatch", "--parsable", "-o", output, "awkward.sh"]
        job = account.run(*front, *words, cwd=submitter.folder).stdout.strip()
        await_until(lambda job=job: submitter.facts(job), 60, f"the end of {job}")
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"\n") == 994
    assert submitter.script(job).endswith(b"byte for byte\n" + text)


def test_slurm_keeps_the_same_script_for_identical_jobs(submitter, await_until):
    account = submitter.account
    first, second = (
        account.run("hpctrack", "sbatch", "--parsable", "ok.sh", cwd=submitter.folder).stdout.strip()
        for _ in range(2)
    )
    assert submitter.script(first) == submitter.script(second)
    records = [
        path.read_text() for path in account.home.glob(".local/share/hpctrack/spool/submissions/*.json")
    ]
    secrets = [re.search(r'"secret": "(\w+)"', record)[1] for record in records]
    environment = await_until(
        lambda: re.search(r"PATH=.*", account.run("sacct", "-j", first, "--env-vars").stdout, re.DOTALL), 60
    )[0]
    assert secrets
    assert not any(secret in environment + str(submitter.script(first)) for secret in secrets)


SURROUNDINGS = (
    "#!/bin/bash\n"
    'printf "%s\\n" "$#:$*"; umask; pwd; ulimit -a; type -t module; module x 2>&-\n'
    "open=(/proc/$$/fd/*); echo ${#open[@]}; grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status\n"
    "python3 -c 'import os; print(*sorted(os.environ.items()), sep=chr(10))'"
    f""" | grep -v -E "^.'({OF_ONE_JOB}|SHLVL)'"\n"""
)


@pytest.mark.parametrize("untracked", [False, True], ids=["tracked", "untracked"])
@pytest.mark.parametrize("export", ["--export=ALL", "--export=NONE", "--export=ODD.NAME,HOME"])
def test_the_job_finds_what_plain_sbatch_would_give_it(submitter, broken, await_until, export, untracked):
    """Exported functions and variables with odd names come through the wrapper's shell."""
    account = submitter.account
    account.write("submissions/surroundings.sh", SURROUNDINGS)
    env = {"BASH_FUNC_module%%": "() {  echo module $1\n}", "ODD.NAME": "1", "LANG": "C"}
    outputs = []
    for front in ([], [broken] if untracked else ["hpctrack"]):
        output = submitter.folder / f"surroundings-{len(front)}.out"
        words = ["sbatch", "--parsable", "-w", "n2", "-o", output, export, "surroundings.sh", "a b", "*"]
        job = account.run(*front, *words, cwd=submitter.folder, env=env).stdout.strip()
        await_until(lambda job=job: submitter.facts(job), 60, f"the end of {job}")
        lines = output.read_text().splitlines()
        outputs.append([line for line in lines if "hpctrack: this job runs untracked" not in line])
    assert outputs[1] == outputs[0]
    assert "1:a b" not in outputs[0]


# ---- where tracking is not possible


@pytest.fixture(scope="module")
def broken(alice):
    """A hpctrack with a Python that the nodes don't have."""
    program = "import sys; sys.executable = '/nonexistent/python'; from hpctrack.cli.main import main; main()"
    command = f"exec {alice.bin}/python -c {shlex.quote(program)}"
    return alice.write("broken-hpctrack", f'#!/bin/bash -p\n{command} "$@"\n')


@pytest.mark.parametrize("ending", ["exit 0", "exit 3", "kill -SEGV $$", "kill -TERM $$", "kill 0; sleep 9"])
def test_untracked_it_ends_as_under_plain_sbatch(submitter, broken, await_until, ending):
    account = submitter.account
    script = account.write("submissions/ending.sh", f"#!/bin/bash\necho began $0\n{ending}\n")
    rows, outputs = [], []
    for front in ([], [broken]):
        output = submitter.folder / f"ending-{len(front)}.out"
        output.unlink(missing_ok=True)
        done = account.run(
            *front, "sbatch", "--parsable", "-W", "-w", "n1", "-o", output, script, check=False
        )
        job = done.stdout.strip()
        rows.append((done.returncode, await_until(lambda job=job: submitter.facts(job), 60)))
        outputs.append(re.sub(r"\d{2,}", "N", output.read_text()).splitlines())
    assert rows[1] == rows[0]
    note, *said = outputs[1]
    assert "hpctrack: this job runs untracked: can't start /nonexistent/python" in note
    assert said[:1] == outputs[0][:1]  # $0 too


LISTENER = """\
#!/usr/bin/python3
import os, signal, sys
every = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, every)
print("ready", flush=True)
while True:
    signum = signal.sigwaitinfo(every).si_signo
    print(signal.Signals(signum).name, flush=True)
    if signum == signal.SIGHUP:
        break
"""


@pytest.mark.parametrize("send", ["scancel", "scancel -b -s USR1", "scancel -f -s USR1", "scancel -s USR1"])
def test_untracked_it_gets_the_signals_of_plain_sbatch(submitter, broken, await_until, send):
    account = submitter.account
    script = account.write("submissions/listener.py", LISTENER)
    seen = []
    for front in ([], [broken]):
        output = submitter.folder / f"listener-{len(front)}.out"
        output.unlink(missing_ok=True)
        job = account.run(*front, "sbatch", "--parsable", "-o", output, script).stdout.strip()
        await_until(lambda path=output: path.exists() and "ready" in path.read_text(), 60, "the job listens")
        account.run(*send.split(), job)
        account.run("scancel", "-b", "-s", "HUP", job, check=False)
        await_until(lambda job=job: submitter.facts(job), 60, f"the end of {job}")
        lines = output.read_text().splitlines()
        seen.append(sorted(line for line in lines if line.startswith("SIG")))
    assert seen[1] == seen[0]
