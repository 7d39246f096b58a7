"""hpctrack, installed in each of the ways in which people install it."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.process import children
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

SITE = Path(sysconfig.get_path("purelib"))
BASE = Path(getattr(sys, "_base_executable", sys.executable))
VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
#: What hpctrack imports, without itself and pyslurm.
LIBRARIES = [name for name in children.OURS if name not in ("hpctrack", "pyslurm")]
_WHICH = "import venv, sys; print(sys.executable, *sys.version_info[:2], sep='\\n')"
WAYS = ("venv", "editable", "user", "python_path")


def interpreter(version: str) -> str | None:
    """Return a Python of this version: this one, one on PATH, or one that pyenv keeps."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return str(BASE)
    kept = glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python"))
    candidates = [shutil.which(f"python{version}"), *kept]
    for candidate in filter(None, candidates):
        told = subprocess.run(
            [candidate, "-I", "-c", _WHICH],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        path, *numbers = told.stdout.split("\n")
        if told.returncode == 0 and ".".join(numbers).strip(".") == version:
            return path
    return None


class Installation(NamedTuple):
    command: Path
    #: What it needs in the environment.
    environ: dict[str, str]
    #: Where an installed package would be, or its parent where each has a folder of its own.
    packages: Path
    apart: bool = False

    @contextlib.contextmanager
    def module(self, name: str, text: str) -> Iterator[dict[str, str]]:
        """Install one more module for a while; gives the environment that it needs."""
        folder = self.packages / name if self.apart else self.packages
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.py"
        path.write_text(text)
        yield {"PYTHONPATH": f"{self.environ['PYTHONPATH']}:{folder}"} if self.apart else {}
        path.unlink()


def link(name: str, folder: Path) -> None:
    """Install a library that these tests themselves use."""
    for pattern in (name, f"{name}.py", f"{name}.libs", f"{name}.*.so"):
        for path in SITE.glob(pattern):
            if path.name.partition(".")[0] == name:
                (folder / path.name).symlink_to(path)


def pip(
    *arguments: object, python: Path = Path(sys.executable), environ: dict[str, str] | None = None
) -> None:
    command = [python, "-I", "-m", "pip", *arguments]
    if arguments[0] == "install" and "--user" in arguments:
        command.remove("-I")  # which would know no folder of the user's
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **(environ or {})}
    environ.pop("PYTHONPATH", None)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr


def install(way: str, wheels: list[Path], folder: Path) -> Installation:
    """Install hpctrack from both of its wheels into a folder, in one of `WAYS`."""
    return {"venv": _venv, "editable": _venv, "user": _user, "python_path": _apart}[way](
        wheels if way != "editable" else [], folder
    )


def _venv(wheels: list[Path], folder: Path) -> Installation:
    environment = folder / "an environment"  # with a blank
    subprocess.run([BASE, "-I", "-m", "venv", "--without-pip", environment], check=True)
    what = wheels or ["-e", ROOT]
    pip("--python", environment / "bin" / "python", "install", "--no-deps", "-q", *what)
    packages = environment / "lib" / VERSION / "site-packages"
    for name in LIBRARIES:
        link(name, packages)
    return Installation(environment / "bin" / "hpctrack", {}, packages)


def _user(wheels: list[Path], folder: Path) -> Installation:
    environ = {"PYTHONUSERBASE": str(folder / "local"), "HOME": str(folder), "PIP_BREAK_SYSTEM_PACKAGES": "1"}
    pip("install", "--user", "--no-deps", "--no-index", "-q", *wheels, python=BASE, environ=environ)
    packages = folder / "local" / "lib" / VERSION / "site-packages"
    for name in LIBRARIES:
        if not (packages / name).exists():
            link(name, packages)
    return Installation(folder / "local" / "bin" / "hpctrack", {}, packages)


def _apart(wheels: list[Path], folder: Path) -> Installation:
    """Every package but our two in a folder of its own, all of them on PYTHONPATH, as EasyBuild does it."""
    environ = {"PIP_BREAK_SYSTEM_PACKAGES": "1"}
    prefix = folder / "hpctrack"
    pip("install", f"--prefix={prefix}", "--no-deps", "--no-index", "--ignore-installed", "-q", *wheels,
        python=BASE, environ=environ)  # fmt: skip
    [command] = prefix.glob("**/bin/hpctrack")
    [package] = prefix.glob("**/*-packages/hpctrack")
    places = [package.parent]
    for name in LIBRARIES:
        (folder / name).mkdir()
        link(name, folder / name)
        places.append(folder / name)
    return Installation(command, {"PYTHONPATH": ":".join(map(str, places))}, folder, apart=True)


#: Names that a project may well have for its own files, or somebody hostile for theirs.
HOSTILE = (
    "hpctrack random queue logging click struct psycopg subprocess sitecustomize usercustomize site json "
    "numpy tenacity signal socket typing pathlib contextlib encodings os re resources main child children"
).split()


def hostile_folder(folder: Path, mark: Path) -> Path:
    """Make a folder full of modules and packages that leave a mark where one of them runs."""
    text = f"import os\nos.close(os.open({str(mark)!r}, os.O_CREAT | os.O_WRONLY))\nraise SystemExit(97)\n"
    folder.mkdir()
    for name in HOSTILE:
        (folder / f"{name}.py").write_text(text)
    for name in ("hpctrack", "click", "psycopg", "rich"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
        (folder / name / "__main__.py").write_text(text)
    return folder
