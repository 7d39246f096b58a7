#!/usr/bin/env python3
"""The Python half of the command ``hpctrack``. The half in sh, beside it, starts it as ``python -I -S``.

The installer (pip, uv) writes the interpreter into the first line, where the half in sh reads it. Packages
come from the installation that this file belongs to: from the interpreter's own folders, or from the folder
beside ``bin`` (``--user``, ``--prefix``, ``--target``); then from PYTHONPATH.
"""

import _signal
import sys

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # no traceback; the command line sets its own handler
if "held" in sys._xoptions:
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])  # the half in sh has blocked it

import os
import resource

# Where files may not grow so large (ulimit -f) Python leaves half a .pyc, over which each later start fails.
sys.dont_write_bytecode = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

HERE = os.path.abspath(__file__)
LINKER = (b"LD_LIBRARY_PATH", b"LD_PRELOAD", b"LD_AUDIT")
NAMES = (b"PYTHONEXECUTABLE", b"__PYVENV_LAUNCHER__")


def main() -> None:
    """Run the command line. If hpctrack can't be imported, the half in sh goes on without it."""
    if not (sys.flags.isolated and sys.flags.no_site):
        os.environb.pop(b"HPCTRACK_GIVEN", None)
        os.execv(sys.executable, [sys.executable, "-I", "-S", HERE, *sys.argv[1:]])
    if sys.argv[1:2] == ["--probe"]:
        probe(sys.argv[-1])  # the arguments before only take up room
        return
    hidden = restore()
    try:
        find_packages()
        run = load(sys.argv[1:])
    except (Exception, SystemExit) as error:  # noqa: BLE001 (the half in sh goes on)
        if not hidden and any(name in os.environb for name in LINKER):
            start_hidden()
        give_up(error)
    run()


def probe(pid: str) -> None:
    """Print how this process's environment differs from the environment that the shell ``pid`` was given."""
    try:
        with open("/proc/" + pid + "/environ", "rb") as file:
            entries = [entry.partition(b"=") for entry in file.read().split(b"\0")]
    except OSError:
        entries = [(name, b"=", value) for name, value in os.environb.items()]
    given = {name: value for name, _, value in entries if name}
    changed = [name + b"=" + value for name, value in given.items() if os.environb.get(name) != value]
    changed += [name for name in os.environb if name not in given]
    sys.stdout.write("given:" + b"\0".join(changed).hex())


def restore() -> bool:
    """Put back variables that the shell dropped or kept from Python; return whether a linker's was kept."""
    environ, hidden = os.environb, False
    for name in (*LINKER, *NAMES):
        value = environ.pop(b"HPCTRACK_GIVEN_" + name, None)
        if value is not None:
            environ[name] = value
            hidden = hidden or name in LINKER
    restore_locale()
    given = environ.pop(b"HPCTRACK_GIVEN", b"").partition(b":")[2]
    for entry in bytes.fromhex(given.decode()).split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals:
            environ[name] = value
        else:
            environ.pop(name, None)
    return hidden


def restore_locale() -> None:
    """Put back LC_CTYPE as this process was given it; in the C locale Python changes it (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = [entry for entry in file.read().split(b"\0") if entry.startswith(b"LC_CTYPE=")]
    except OSError:
        return
    os.environb.pop(b"LC_CTYPE", None)
    if entries:
        os.environb[b"LC_CTYPE"] = entries[0].partition(b"=")[2]


def find_packages() -> None:
    """Append the folders of this installation to ``sys.path``, behind the standard library."""
    import site

    standard = list(sys.path)
    site.main()
    interpreters = [entry for entry in sys.path if entry not in standard]
    for folder in beside():
        site.addsitedir(folder)
    own = [entry for entry in sys.path if entry not in standard and entry not in interpreters]
    sys.path[:] = [*standard, *own, *interpreters]
    if os.environ.get("PYTHONPATH"):
        from hpctrack.process import children

        asked = [entry for entry in children.believed(os.environ["PYTHONPATH"]) if entry not in sys.path]
        sys.path[:] = [*standard, *own, *asked, *interpreters] if own else [*sys.path, *asked]


def beside() -> "Iterator[str]":
    """Yield the folders of this file's installation that may hold its packages."""
    prefix = os.path.dirname(os.path.dirname(HERE))
    version = "python{}.{}{}".format(*sys.version_info[:2], "t" if "t" in sys.abiflags else "")
    for library in ("lib", "lib64"):
        for name in ("site-packages", "dist-packages"):
            folder = os.path.join(prefix, library, version, name)
            if os.path.isdir(folder):
                yield folder
    if os.path.exists(os.path.join(prefix, "hpctrack", "__init__.py")):
        yield prefix


def load(arguments: "Sequence[str]") -> "Callable[[], NoReturn]":
    """Import the modules of a verb, while a failure can still be handed over; return the main function."""
    from hpctrack import __version__  # noqa: F401 (which hpctrack-script brings)
    from hpctrack.cli import main, table_of_verbs

    if arguments[:1] and arguments[0] in table_of_verbs.VERBS:
        __import__("hpctrack.cli.group")
        __import__(table_of_verbs.module(arguments[0]))
    return main.main


def start_hidden() -> "NoReturn":
    """Start this file again, without the dynamic linker's variables."""
    environ = {name: value for name, value in os.environb.items() if name != b"HPCTRACK_GIVEN"}
    for name in (*LINKER, *NAMES):
        if name in environ:
            environ[b"HPCTRACK_GIVEN_" + name] = environ.pop(name)
    os.execve(sys.executable, [sys.executable, "-I", "-S", *ignored(), HERE, *sys.argv[1:]], environ)


def ignored() -> "list[str]":
    """Return the arguments that tell which signals were ignored before Python started."""
    mask = sys._xoptions.get("ignored")
    return ["-X", "ignored=" + str(mask)] if mask else []


def give_up(error: BaseException) -> "NoReturn":
    """Hand over to the half in sh, with signals as they were."""
    mask = int(str(sys._xoptions.get("ignored", "0")), 16)
    for name in ("SIGPIPE", "SIGXFSZ"):  # which Python ignores
        signum = getattr(_signal, name)
        if not mask >> (signum - 1) & 1:
            _signal.signal(signum, _signal.SIG_DFL)
    why = " ".join(f"{type(error).__name__}: {error} ({sys.executable})".split())
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "hpctrack":
        why += "; hpctrack and hpctrack-script have to be in one place, in the same version"
    launcher = os.path.join(os.path.dirname(HERE), "hpctrack")
    os.execv("/bin/sh", ["sh", launcher, "--untracked", why, *sys.argv[1:]])


if __name__ == "__main__":
    main()
