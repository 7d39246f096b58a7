"""hpctrack-script, the wheel for containers: alone in every Python that it promises, and beside hpctrack."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hpctrack
from tests.support import installations
from tests.support.chain import Chain
from tests.support.journals import stored
from tests.support.paths import ROOT

#: The oldest, the newest, and the one of these tests.
VERSIONS = dict.fromkeys(["3.8", "3.9", "3.13", "3.14", installations.VERSION.removeprefix("python")])
#: What a container has to be given: docs/submission.md.
HANDED_ON = "HPCTRACK_JOB_ID HPCTRACK_ATTEMPT HPCTRACK_RUN_DIR HPCTRACK_SPOOL_DIR HPCTRACK_RUN SLURM_JOB_ID"
ONE_SERVER = pytest.mark.parametrize("server", ["wheel"], indirect=True)


def modules(wheel: Path) -> dict[str, bytes]:
    """Return what a wheel puts into the folder of the package, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.startswith("hpctrack/")}


def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        return archive.read(name).decode()


def environment(python: str, folder: Path) -> Path:
    """Make an environment with a pip that fits its Python; return its interpreter."""
    subprocess.run([python, "-I", "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def pip(python: Path, *arguments: object) -> None:
    command = [python, "-I", "-m", "pip", "--disable-pip-version-check", *arguments, "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=VERSIONS)
def alone(request, wheels, tmp_path_factory) -> Path:
    """The interpreter of an environment in which the small wheel is, and nothing else."""
    python = installations.interpreter(request.param)
    if python is None:
        pytest.skip(f"there is no Python {request.param} here")
    made = environment(python, tmp_path_factory.mktemp("container") / request.param)
    pip(made, "install", "--no-index", "--find-links", wheels[1].parent, "hpctrack-script")
    return made


@pytest.fixture
def both(wheels, tmp_path) -> Path:
    """``bin`` of an environment with both wheels, and the libraries of these tests."""
    python = environment(str(installations.BASE), tmp_path / "both")
    pip(python, "install", "--no-index", "--no-deps", *wheels)
    for name in installations.LIBRARIES:
        installations.link(name, tmp_path / "both" / "lib" / installations.VERSION / "site-packages")
    return python.parent


def run(*argv: object, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder which is its home, too, and in an environment with little else."""
    return subprocess.run(
        argv, env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **environ}, cwd=folder,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_two_share_no_file_and_are_all_of_hpctrack(wheels):
    large, small = map(modules, wheels)
    assert not large.keys() & small.keys()
    inside = {f"{path.relative_to(ROOT)}" for path in (ROOT / "hpctrack").rglob("*.py")}
    inside.add("hpctrack/py.typed")
    there = {name for name in {**large, **small} if not name.startswith("hpctrack/_resources/")}
    assert there == inside


def test_hpctrack_depends_on_the_same_version_and_that_on_nothing(wheels):
    large, small = map(metadata, wheels)
    assert f"\nRequires-Dist: hpctrack-script=={hpctrack.__version__}\n" in large
    assert f"\nVersion: {hpctrack.__version__}\n" in small and "\nRequires-Python: >=3.8\n" in small
    assert "Requires-Dist" not in small


def test_all_of_the_small_one_is_python_3_8(wheels):
    sources = {name: text for name, text in modules(wheels[1]).items() if name.endswith(".py")}
    assert len(sources) > 6
    for name, text in sources.items():
        ast.parse(text, name, feature_version=(3, 8))


@pytest.mark.parametrize("source", [".", "packages/script"])
def test_a_source_distribution_makes_the_same_wheel(wheels, tmp_path, source):
    command = [sys.executable, "-m", "build", "--outdir", tmp_path, ROOT / source]
    environ = {**os.environ, "HPCTRACK_DIVIDE": "1"}
    # The wheel is made of the distribution.
    subprocess.run(command, check=True, capture_output=True, env=environ)
    [made] = tmp_path.glob("*.whl")
    [expected] = [wheel for wheel in wheels if wheel.name == made.name]
    assert (modules(made), metadata(made)) == (modules(expected), metadata(expected))


def test_what_is_installed_from_a_checkout_is_whole_and_needs_no_second_package(wheels, tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    [whole] = tmp_path.glob("*.whl")
    large, small = map(modules, wheels)
    assert modules(whole) == {**large, **small}
    assert "Requires-Dist: hpctrack-script" not in metadata(whole)


def test_both_have_the_license():
    assert (ROOT / "packages" / "script" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_outside_a_run_it_is_silent_and_makes_nothing(alone, tmp_path):
    program = "import hpctrack; hpctrack.log(loss=1); hpctrack.set_args(a=1); hpctrack.set_tags('b')"
    program += "; hpctrack.goal('a', 'max')"
    done = run(alone, "-W", "error", "-c", program, folder=tmp_path, SLURM_JOB_ID="14", SLURM_PROCID="0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_in_it_says_so_in_one_line(alone, tmp_path):
    for program in ("from hpctrack import Client", "import hpctrack; hpctrack.Run"):
        done = run(alone, "-c", program, folder=tmp_path)
        last = done.stderr.splitlines()[-1]
        assert re.fullmatch(r"ModuleNotFoundError: hpctrack\.\w+ needs .*: pip install hpctrack", last), last
    done = run(alone, "-c", "from hpctrack import *; log(loss=1)", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def chain(database, connection, tmp_path):
    chain = Chain(database._replace(collector_bind="127.0.0.1"), connection, tmp_path)
    chain.collect()
    yield chain
    chain.close()


@ONE_SERVER
def test_in_a_run_its_rows_arrive(alone, chain, tmp_path):
    """With nothing in the environment but what is handed on to a container; the relay is the host's."""
    script = tmp_path / "script.py"
    script.write_text(
        "import hpctrack, sys\n"
        "assert hpctrack.__file__.startswith(sys.prefix), hpctrack.__file__\n"
        "hpctrack.set_args(lr=0.1)\n"
        "for step in range(20):\n"
        "    hpctrack.log(step=step, loss=step / 7)\n"
    )
    handed_on = " ".join(f'${{{name}+"{name}=${name}"}}' for name in HANDED_ON.split())
    done = chain.hpctrack("run", "--", "sh", "-c", f'exec env -i {handed_on} "$@"', "sh", alone, "-I", script)
    assert (done.returncode, done.stderr) == (0, "")
    run_id = chain.ended()
    rows = [row["loss"] for _, row in sorted(stored(chain.connection, run_id).items())]
    assert rows == [step / 7 for step in range(20)]
    assert chain.accounts(run_id) == (20, 0, 0)


@ONE_SERVER
def test_what_a_newer_one_wrote_is_kept_and_told(chain, tmp_path):
    """The script's side of the image is newer than the relay of the host."""
    script = tmp_path / "script.py"
    script.write_text(
        "import hpctrack\n"
        "from hpctrack.script import journal_lines\n"
        "journal_lines._HEADER = journal_lines._HEADER.replace('journal 2 ', 'journal 3 ')\n"
        "hpctrack.log(step=1, loss=0.5)\n"
    )
    done = chain.hpctrack("run", "--", sys.executable, script, HPCTRACK_FLUSH="1s")
    assert done.returncode == 0, done.stderr
    left = [path for path in tmp_path.rglob("*.journal") if b"journal 3 " in path.read_bytes()]
    assert left, "it is gone"
    done = chain.hpctrack("sync")
    assert done.returncode == 65 and "a newer hpctrack wrote it (journal 3)" in done.stderr
    assert any(b"journal 3 " in path.read_bytes() for path in tmp_path.rglob("*.journal"))


def test_both_are_hpctrack(both, tmp_path):
    done = run(both / "hpctrack", "--version", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"hpctrack {hpctrack.__version__}\n", "")


def test_without_hpctrack_the_small_one_goes_on(both, tmp_path):
    pip(both / "python", "uninstall", "-y", "hpctrack")
    done = run(both / "python", "-c", "import hpctrack; hpctrack.log(loss=1)", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (both / "hpctrack").exists()


def test_without_the_small_one_commands_run_untracked_and_say_why(both, wheels, tmp_path):
    pip(both / "python", "uninstall", "-y", "hpctrack-script")
    why = "hpctrack and hpctrack-script have to be in one place, in the same version"
    for path in ({}, {"PYTHONPATH": "/nowhere"}):
        for argv, code in ((["--version"], 69), (["status"], 69), (["run", "--", "sh", "-c", "exit 5"], 5)):
            done = run(both / "hpctrack", *argv, folder=tmp_path, **path)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
            assert why in done.stderr
    pip(both / "python", "install", "--no-index", wheels[1])
    test_both_are_hpctrack(both, tmp_path)
