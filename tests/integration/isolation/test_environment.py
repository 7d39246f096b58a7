"""Whatever stands in the environment: jobs and commands are tracked, and see what they would without us."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrack.stream.wire import records
from tests.support.environments import GRAVE, TROUBLES, given, variables
from tests.support.places import Place

SCRIPT = "#!/bin/sh\necho hello\n"


@pytest.fixture(scope="session")
def troubles(tmp_path_factory):
    """The values of `TROUBLES`."""
    old = tmp_path_factory.mktemp("old")
    (old / "click.py").write_text("print 'an old click, for Python 2'\n")
    (old / "site.py").write_text("print 'the site of Python 2'\n")
    (old / "env").write_text("echo the shell read this; exit 9\n")
    libraries = tmp_path_factory.mktemp("libraries")
    for path in map(Path, _libraries()):
        (libraries / path.name).write_bytes(b"no library\n" * 1000)
    return {
        name: value.format(old=old, libraries=libraries)
        for name, value in TROUBLES.items()
        if name != "LD_LIBRARY_PATH" or any(libraries.iterdir())
    }


def _libraries() -> list[str]:
    """Return what Python is linked with and sbatch is not."""
    told = subprocess.run(["ldd", sys.executable], capture_output=True, text=True, check=True).stdout
    libraries = [line.split()[0] for line in told.splitlines() if "=>" in line]
    return [
        name for name in libraries if not name.startswith(("libc.", "libm.", "libpthread", "libdl", "librt"))
    ]


@pytest.mark.parametrize("name", TROUBLES)
def test_a_job_is_tracked_and_sees_the_same(place: Place, troubles, name):
    if name not in troubles:
        pytest.skip("Python is linked with the C library alone")
    environ = {name: troubles[name]}
    (place.work / "train.sh").write_text(SCRIPT)
    plain = place.run("train.sh", command="sbatch", environ=environ)
    expected = given(place.job_environ)
    done = place.run("sbatch", "-E", "there", "train.sh", environ=environ)
    assert (done.returncode, done.stdout) == (0, "Submitted batch job 14\n")
    said = [line for line in done.stderr.splitlines() if "ld.so" not in line]
    assert [line for line in said if not line.startswith("hpctrack: job 14 is submitted; it will be")] == [
        line for line in plain.stderr.splitlines() if "ld.so" not in line
    ]
    assert place.calls() == 2
    assert given(place.job_environ) == expected
    assert place.argv != ["train.sh"], "the job is tracked"
    assert len(place.records()) == 1


@pytest.mark.parametrize("name", TROUBLES)
def test_a_command_runs_tracked_and_sees_the_same(place: Place, troubles, name, tmp_path):
    if name not in troubles:
        pytest.skip("Python is linked with the C library alone")
    environ = {name: troubles[name], "BASH_FUNC_module%%": "() {  echo loaded\n}"}
    look = ["/bin/cat", "/proc/self/environ"]
    expected = place.run(*look[1:], command=look[0], environ=environ, text=False)
    done = place.run("run", "--", *look, environ=environ, text=False)
    assert done.returncode == 0
    seen = variables(done.stdout)
    assert seen[b"HPCTRACK_JOURNAL"].endswith(b".journal")
    assert given(seen) == given(variables(expected.stdout))


@pytest.mark.parametrize("name", GRAVE)
def test_a_job_runs_tracked_and_sees_the_same(place: Place, troubles, name, tmp_path):
    """The wrapped script, as slurmd starts it."""
    if name not in troubles:
        pytest.skip("Python is linked with the C library alone")
    (place.work / "train.sh").write_text("#!/bin/bash\ncat /proc/self/environ\n")
    (place.work / "train.sh").chmod(0o700)
    place.run("sbatch", "train.sh")
    (place.fake / "script").chmod(0o700)
    environ = {
        name: troubles[name], "BASH_FUNC_module%%": "() {  echo loaded\n}", "SLURM_JOB_ID": "14",
        "SLURM_CLUSTER_NAME": "fake", "HPCTRACK_NODE_DIR": str(tmp_path),
    }  # fmt: skip
    expected = variables(place.run(command=place.work / "train.sh", environ=environ, text=False).stdout)
    done = place.run(command=place.fake / "script", environ=environ, text=False)
    seen = variables(done.stdout)
    assert seen[b"HPCTRACK_JOURNAL"].endswith(b".journal"), done.stderr
    assert given(seen) == given(expected)


@pytest.mark.parametrize("name", GRAVE)
def test_a_list_is_told_and_nothing_else(place: Place, troubles, name):
    if name not in troubles:
        pytest.skip("Python is linked with the C library alone")
    done = place.run("status", "--help", environ={name: troubles[name]})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: hpctrack status")
    assert [line for line in done.stderr.splitlines() if "ld.so" not in line] == []


def test_all_troubles_at_once(place: Place, troubles):
    (place.work / "train.sh").write_text(SCRIPT)
    done = place.run("sbatch", "train.sh", environ={**troubles, "IFS": " \t\n"})
    assert (done.returncode, done.stdout, place.calls()) == (0, "Submitted batch job 14\n", 1)
    assert len(place.records()) == 1


@pytest.mark.parametrize("verb", ["sbatch", "rerun"])
def test_names_that_a_shell_can_not_hold_reach_the_job(place: Place, verb):
    odd = {"BASH_FUNC_module%%": "() {  echo 'a b'\n}", "a.b": "1", "x-y": " two\n lines \n", "ü": "é"}
    (place.work / "train.sh").write_text(SCRIPT)
    place.run("train.sh", command="sbatch", environ=odd)
    expected = given(place.job_environ)
    place.run("sbatch", "train.sh", environ=odd)
    assert given(place.job_environ) == expected
    assert expected[b"x-y"] == b" two\n lines \n"


def test_an_environment_that_is_large(place: Place):
    odd = {f"BASH_FUNC_f{i}%%": "() {  " + "x" * 60_000 + "\n}" for i in range(4)}
    (place.work / "train.sh").write_text(SCRIPT)
    assert place.run("sbatch", "train.sh", environ=odd).returncode == 0
    assert {name: place.job_environ[os.fsencode(name)].decode() for name in odd} == odd
    assert place.argv != ["train.sh"]


def test_a_python_that_needs_a_library_path_gets_it(place: Place, tmp_path):
    """As one of a module: it does not start without LD_LIBRARY_PATH."""
    environment = tmp_path / "environment"
    shutil.copytree(place.installation.command.parents[1], environment, symlinks=True)
    python = (environment / "bin" / "python").resolve()
    start = environment / "bin" / "hpctrack-start"
    needs = tmp_path / "python"
    needs.write_text(f'#!/bin/sh\n[ "$LD_LIBRARY_PATH" = /needed ] || exit 127\nexec {python} "$@"\n')
    needs.chmod(0o755)
    start.write_text(f"#!{needs}\n" + start.read_text().partition("\n")[2])
    (place.work / "train.sh").write_text(SCRIPT)
    for verb in (["sbatch", "train.sh"], ["status", "--help"]):
        done = place.run(
            *verb, command=environment / "bin" / "hpctrack", environ={"LD_LIBRARY_PATH": "/needed"}
        )
        assert done.returncode == 0, done.stderr
    assert place.job_environ[b"LD_LIBRARY_PATH"] == b"/needed"


def test_records_can_be_read(place: Place):
    """The environment that is stored is the job's."""
    (place.work / "train.sh").write_text(SCRIPT)
    place.run("sbatch", "train.sh", environ={"LD_LIBRARY_PATH": "/x", "LC_ALL": "C"})
    [path] = place.records()
    env = records.read(str(path)).submission["env"]
    assert env["LD_LIBRARY_PATH"] == "/x"
    assert not {name for name in env if name.startswith("HPCTRACK_GIVEN")}
