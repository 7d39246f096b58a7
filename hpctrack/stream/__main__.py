"""What the wrapper starts on a compute node: ``python -I -S .../hpctrack/stream/__main__.py MODE ...``.

Isolated (``-I``) and without ``site`` (``-S``) the start reads few files and nothing of the user's; so the
package's own folder has to be put on the path here.
"""

import os
import resource
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Python leaves a part of a .pyc where a file may not grow as large (ulimit -f), and fails over it ever after.
sys.dont_write_bytecode = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def main(arguments: "list[str]") -> int:
    """Run ``--probe``, ``supervise`` (a batch script) or ``command`` (for ``hpctrack run``)."""
    # What Python could not start with is the script's all the same.
    for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__"):
        if "HPCTRACK_GIVEN_" + name in os.environ:
            os.environ[name] = os.environ.pop("HPCTRACK_GIVEN_" + name)
    return _probe() if arguments == ["--probe"] else _supervise(arguments)


def _probe() -> int:
    """Return 0 if a supervisor would start: the stack suffices, and what a start needs is there."""
    from hpctrack.stream.node import untracked

    if untracked.stack_is_short():
        return 3
    _load()
    return 0


def _load() -> None:
    from hpctrack.stream.node import relay, supervisor  # noqa: F401


def _supervise(arguments: "list[str]") -> int:
    """Become the supervisor; what can't be loaded gives the job back."""
    try:
        from hpctrack.process import process_name
        from hpctrack.stream.node import supervisor
    except Exception as error:  # noqa: BLE001 (a file system that fails now and then; a damaged file)
        go_without(arguments, error)
    process_name.take("hpct-supervisor")
    return supervisor.main(arguments)


def go_without(arguments: "list[str]", error: Exception) -> "NoReturn":
    """Give the job back, since nothing of ours can be loaded: the wrapper of a script does without Python."""
    with open("/proc/self/environ", "rb") as file:
        entries = [entry.partition(b"=") for entry in file.read().split(b"\0")]
    environ = {name.removeprefix(b"HPCTRACK_GIVEN_"): value for name, equals, value in entries if equals}
    command = arguments[arguments.index("--") + 1 :]
    if arguments[0] == "supervise":
        environ[b"HPCTRACK_FAILED"] = b"1"
    else:
        environ[b"HPCTRACK_JOURNAL"] = os.fsencode(os.devnull)
        os.unlink(arguments[arguments.index("--record") + 1])  # nobody would ever say how it ended
        os.write(2, f"hpctrack: this command runs untracked: {type(error).__name__}: {error}\n".encode())
    mask = int(str(sys._xoptions.get("ignored", "0")), 16)
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        if not mask >> (signum - 1) & 1:
            signal.signal(signum, signal.SIG_DFL)
    os.execvpe(command[0], command, environ)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
