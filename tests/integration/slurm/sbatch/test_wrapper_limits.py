"""The wrapped script under limits, and with shell options that were exported: never worse than the script."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hpctrack import resources
from hpctrack.slurm.sbatch import batch_script
from tests.support.requirements import root_only

TEMPLATE = (resources.folder("sbatch_templates") / "wrapper.sh").read_bytes()
NOWHERE = ("/nonexistent/python", "/nonexistent/hpctrack")


def submit(folder: Path, text: str, python: str = sys.executable, package: str = resources.PACKAGE):
    """Put a script there, plain and wrapped; return both paths."""
    plain, wrapped = folder / "plain", folder / "slurm_script"
    plain.write_text(text)
    spool = str(folder / "spool")
    supervision = batch_script.Supervision(
        python, package, ["--spool", spool, "--node-dir", str(folder), "--flush", "0.2"], "/home/a.sh"
    )
    wrapped.write_bytes(batch_script.wrap(text.encode(), supervision, TEMPLATE))
    for file in (plain, wrapped):
        file.chmod(0o755)
    return plain, wrapped


def run(file: Path, limit: str = ":", environ: dict[str, str] | None = None, **options):
    """Run a job's file, below a limit; return exit code, output, errors."""
    done = subprocess.run(
        ["/bin/bash", "-c", f'{limit}; exec "$0" "$@"', file, "a b"],
        env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": "14", "SLURM_CLUSTER_NAME": "c", **(environ or {})},
        cwd=file.parent, check=False, capture_output=True, text=True, timeout=100, **options,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("hpctrack-*/*"))


LIMITS = [
    "v 200000", "v 20000", "v 6000", "d 20000", "d 1000", "n 20", "n 8", "n 6", "n 4", "t 2", "f 0",
    "S -f 0", "f 1", "f 8", "s 24", "s 32", "s 64", "S -s 32",
    "n 13", "l 0", "c 0",
]  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_what_the_script_can_do_without_it_can_do_wrapped(tmp_path, limit, shell):
    plain, wrapped = submit(tmp_path, f"#!{shell}\necho ran $#\nexit 3\n")
    told = f"ulimit -{limit}"
    assert run(wrapped, told)[:2] == run(plain, told)[:2]  # dash itself needs more than eight files


@pytest.mark.parametrize("limit", ["v 20000", "n 8", "f 8", "S -f 0", "f 0", "s 24", "s 64", "t 2"])
@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_limits_where_there_is_no_python(tmp_path, limit, shell):
    """Where no program starts, or no byte can be written, the wrapper's own shell reads on."""
    plain, wrapped = submit(tmp_path, f"#!{shell}\necho ran $# ${{0##*/}}\nexit 3\n", *NOWHERE)
    told = f"ulimit -{limit}"
    code, output, _ = run(wrapped, told)
    assert (code, output.replace("slurm_script", "plain")) == run(plain, told)[:2]


def test_the_shell_that_reads_on_holds_nothing_of_the_wrapper(tmp_path):
    text = "#!/bin/bash\nset -u; set; declare -F; echo $-; trap\n"
    plain, wrapped = submit(tmp_path, text, *NOWHERE)
    ours = re.compile(
        r"HPCTRACK_|hpctrack_on=|_=|BASH_(ARG|LINENO|SOURCE)|PPID|PYTHONPATH|(EPOCH|S?RANDOM|SECONDS)"
    )
    found = [
        [line for line in run(file, "ulimit -f 0")[1].splitlines() if not ours.match(line)]
        for file in (plain, wrapped)
    ]
    assert found[1] == found[0]


OTHERWISE = [
    {"BASH_FUNC_echo%%": "() { printf told; }"},
    {"BASH_ENV": "/dev/null"},
    {"SHELLOPTS": "errexit"},
]


@pytest.mark.parametrize("exported", OTHERWISE, ids=str)
def test_a_shell_that_would_run_it_otherwise_does_not(tmp_path, exported):
    _, wrapped = submit(tmp_path, "#!/bin/bash\necho ran\n", *NOWHERE)
    code, output, errors = run(wrapped, "ulimit -f 0", environ=exported)
    assert (code, output) == (126, ""), errors


@pytest.fixture
def everybodys():
    """A folder that every user can look into."""
    with tempfile.TemporaryDirectory(prefix="hpctrack-test-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@root_only
@pytest.mark.parametrize("shell", ["bash", "dash"])
@pytest.mark.parametrize("processes", [0, 2, 8, 60])
def test_a_user_who_may_have_few_processes(everybodys, processes, shell):
    """The script starts none of its own; at 2 to 8 some of ours could be started, and must not stay."""
    python = "/usr/bin/python3"
    if not os.path.exists(python) or not shutil.which(shell):
        pytest.skip(f"no {python} or {shell} for everybody here")
    user = 61_000 + (os.getpid() * 16 + processes) % 4000
    tmp_path = everybodys
    package = tmp_path / "package" / "hpctrack"
    shutil.copytree(resources.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    text = f'#!/bin/{shell}\nread -r children < /proc/$$/task/$$/children\necho "ran $children"\nexit 3\n'
    subprocess.run(["chmod", "-R", "a+rX", tmp_path / "package"], check=True)
    _, wrapped = submit(tmp_path, text, python, str(package))
    for folder in (tmp_path, wrapped):
        os.chown(folder, user, user)
    told = f"ulimit -u {processes}"
    code, output, errors = run(wrapped, told, user=user, group=user, extra_groups=[])
    assert (code, output) == (3, "ran \n"), errors
    if processes < 60:
        assert "untracked" in errors
        assert left(tmp_path) == []


def test_a_node_without_room_leaves_nothing_behind(tmp_path):
    """Nothing but folders can be made there: the script runs untracked, from slurmd's copy as ever."""
    plain, wrapped = submit(tmp_path, '#!/bin/bash\necho "${0##*/}"\nexit 3\n')
    code, output, errors = run(wrapped, "ulimit -f 0")
    assert (code, output, errors.count("untracked")) == (3, output, 1)
    assert left(tmp_path) == []
    assert run(wrapped, "ulimit -S -f 0")[0] == run(plain)[0]
    assert wrapped.read_bytes() == plain.read_bytes()


def test_a_node_with_room_for_a_journal_and_none_for_the_script_leaves_nothing(tmp_path):
    package = tmp_path / "package" / "hpctrack"
    shutil.copytree(resources.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    text = f"#!/bin/bash\necho ran\nexit 3\n{'#' * 5000}\n"
    _, wrapped = submit(tmp_path, text, package=str(package))
    for limit, told in (("f 2", 1), ("f unlimited", 0)):  # nor does Python leave half a .pyc to later jobs
        code, output, errors = run(wrapped, f"ulimit -{limit}")
        assert (code, output, errors.count("untracked")) == (3, "ran\n", told), errors
        assert told == 0 or left(tmp_path) == []
        _, wrapped = submit(tmp_path, text, package=str(package))


def test_the_key_in_the_script_and_no_place_for_journals(tmp_path):
    """What is removed of a command that nobody tracks is not the batch script."""
    plain, wrapped = submit(tmp_path, "#!/bin/bash\necho ran\nexit 3\n")
    text = plain.read_bytes()
    supervision = batch_script.Supervision(
        sys.executable,
        str(resources.PACKAGE),
        ["--spool", "/nowhere", "--node-dir", "/dev/null"],
        "/home/a.sh",
    )
    wrapped.write_bytes(batch_script.wrap(text, supervision, TEMPLATE, record=b"{}"))
    code, output, errors = run(wrapped)
    assert (code, output, errors.count("untracked")) == (3, "ran\n", 1), errors
    assert wrapped.read_bytes() == text


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize("module", ["stream/node/supervisor.py", "process/process_name.py"])
def test_what_fails_between_the_probe_and_the_start(tmp_path, shell, module):
    """A shared file system that fails now and then: the script runs, as it would have without us."""
    package = tmp_path / "package" / "hpctrack"
    shutil.copytree(resources.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    failing = "import sys\nif '--probe' not in sys.argv: raise EOFError('marshal data too short')\n"
    (package / module).write_text(failing + (package / module).read_text().replace("from __future__", "# "))
    text = f"#!/bin/{shell}\necho ran $# $(env | grep -c -E 'FAILED|GIVEN|^LC_CTYPE=C$')\n"
    text += "grep SigIgn /proc/self/status\nexit 3\n"
    plain, wrapped = submit(tmp_path, text, package=str(package))
    found = [run(file, environ={"LC_CTYPE": "C", "LD_LIBRARY_PATH": "/x"}) for file in (plain, wrapped)]
    assert found[1][:2] == found[0][:2] == (3, found[0][1])
    assert found[1][2].count("\n") == found[1][2].count("untracked") == 1


SCRIPT = """\
#!/bin/bash
false
set -o | grep -E 'errexit|noclobber|nounset|pipefail|privileged'
shopt | grep -E 'nullglob|extglob|failglob'
echo precious > kept
echo lost > kept
echo "$SHELLOPTS|$BASHOPTS|$LC_CTYPE|${FUNCNEST-none}"
"""
EXPORTED = [
    {"SHELLOPTS": "errexit"},
    {"SHELLOPTS": "braceexpand:hashall:noclobber:pipefail"},
    {"SHELLOPTS": "nounset:xtrace"},
    {"SHELLOPTS": "errexit:noexec"},
    {"SHELLOPTS": "posix:noglob:monitor"},
    {"SHELLOPTS": ""},
    {"BASHOPTS": "nullglob:extglob"},
    {"SHELLOPTS": "noclobber", "BASHOPTS": "failglob:execfail"},
    {"CDPATH": "/usr", "GLOBIGNORE": "*.o"},
    {"FUNCNEST": "1", "LC_CTYPE": "C"},
    {"FUNCNEST": "", "LC_CTYPE": "nowhere"},
]


@pytest.mark.parametrize("exported", EXPORTED, ids=str)
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("shell", ["", "#!/bin/bash"], ids=["as submitted", "sh is bash"])
def test_exported_shell_options_reach_the_script(tmp_path, exported, tracked, shell):
    """``export SHELLOPTS`` sets them in every shell below: scripts fail early, files stay."""
    plain, wrapped = submit(tmp_path, SCRIPT, *(() if tracked else NOWHERE))
    if shell:
        text = wrapped.read_bytes()
        wrapped.write_bytes(shell.encode() + text[text.index(b"\n") :])
    found = []
    for file in (plain, wrapped):
        (tmp_path / "kept").unlink(missing_ok=True)
        code, output, errors = run(file, environ={**exported, "LC_ALL": "C"})
        kept = (tmp_path / "kept").read_text() if (tmp_path / "kept").exists() else None
        own = [line for line in errors.splitlines() if not line.startswith("hpctrack: ")]
        found.append((code, output, kept, own))
    assert without_folder(found[1]) == without_folder(found[0])


def without_folder(found):
    """Leave out of what bash says the path of the script, and its line."""
    return (*found[:3], [re.sub(r"\S*/(plain|slurm_script)", "", line) for line in sorted(found[3])])
