"""Every Python that is promised and found here, from a hostile folder and in every environment."""

from __future__ import annotations

import subprocess

import pytest

from tests.support import installations
from tests.support.environments import GRAVE, TROUBLES, given, variables
from tests.support.places import Place

VERSIONS = [f"3.{minor}" for minor in range(10, 15)]
#: Libraries that are good in any Python.
PURE = ("click", "tenacity", "typing_extensions", "psycopg", "rich", "pygments", "markdown_it", "mdurl")
SCRIPT = "#!/bin/sh\ntrue\n"


@pytest.fixture(scope="module", params=VERSIONS)
def installation(request, wheels, tmp_path_factory) -> installations.Installation:
    python = installations.interpreter(request.param)
    if python is None:
        pytest.skip(f"there is no Python {request.param} here")
    environment = tmp_path_factory.mktemp(f"python{request.param}") / "environment"
    subprocess.run([python, "-I", "-m", "venv", "--without-pip", environment], check=True)
    installations.pip(
        "--python", environment / "bin" / "python", "install", "--no-deps", "--no-index", "-q", *wheels
    )
    packages = environment / "lib" / f"python{request.param}" / "site-packages"
    for name in PURE:
        installations.link(name, packages)
    return installations.Installation(environment / "bin" / "hpctrack", {}, packages)


@pytest.fixture
def old(installation, tmp_path) -> Place:
    return Place(installation, tmp_path)


def test_a_job_and_a_command_are_tracked_from_a_hostile_folder(old: Place, hostile, mark, tmp_path):
    (hostile / "train.sh").write_text(SCRIPT)
    environ = {"PYTHONPATH": "::.:./", "PYTHONHOME": "/nonexistent", "BASH_FUNC_f%%": "() {  :\n}"}
    done = old.run("sbatch", "train.sh", cwd=hostile, environ=environ)
    assert (done.returncode, done.stdout) == (0, "Submitted batch job 14\n"), done.stderr
    assert (old.calls(), len(old.records())) == (1, 1)
    assert old.job_environ[b"BASH_FUNC_f%%"] == b"() {  :\n}"
    done = old.run("run", "--", "sh", "-c", 'echo "$HPCTRACK_JOURNAL"; exit 5', cwd=hostile, environ=environ)
    assert done.returncode == 5
    assert done.stdout.endswith(".journal\n"), done.stderr
    assert not mark.exists()


@pytest.mark.parametrize("name", GRAVE)
def test_nothing_in_the_environment_matters(old: Place, name, tmp_path):
    values = {"old": tmp_path, "libraries": tmp_path}
    (tmp_path / "click.py").write_text("print 'an old click, for Python 2'\n")
    environ = {name: TROUBLES[name].format(**values)}
    look = ["/bin/cat", "/proc/self/environ"]
    expected = variables(old.run(*look[1:], command=look[0], environ=environ, text=False).stdout)
    done = old.run("run", "--", *look, environ=environ, text=False)
    assert done.returncode == 0, done.stderr
    assert variables(done.stdout)[b"HPCTRACK_JOURNAL"].endswith(b".journal")
    assert given(variables(done.stdout)) == given(expected)


def test_the_child_that_registers_starts(old: Place):
    """It says what keeps it from registering: nothing answers here."""
    done = old.run("run", "--", "sleep", "1")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "No module named 'hpctrack'" not in done.stderr
