"""What the wrapper starts on a compute node: ``python -I -S .../hpctrack/stream/__main__.py MODE ...``.

Isolated (``-I``) and without ``site`` (``-S``) the start reads few files and nothing of the user's; so the
package's own folder has to be put on the path here.
"""

import os
import resource
import sys

# Python leaves a part of a .pyc where a file may not grow as large (ulimit -f), and fails over it ever after.
sys.dont_write_bytecode = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def main(arguments: "list[str]") -> int:
    """Run ``--probe``, ``supervise`` (a batch script) or ``command`` (for ``hpctrack run``)."""
    # What Python could not start with is the script's all the same.
    for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__"):
        if "HPCTRACK_GIVEN_" + name in os.environ:
            os.environ[name] = os.environ.pop("HPCTRACK_GIVEN_" + name)
    if arguments == ["--probe"]:
        from hpctrack.stream import untracked

        if untracked.stack_is_short():
            return 3
        from hpctrack.stream import relay, supervisor  # noqa: F401 (what a start needs must be there)

        return 0
    from hpctrack import process_name

    process_name.take("hpct-supervisor")
    from hpctrack.stream import supervisor

    return supervisor.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
