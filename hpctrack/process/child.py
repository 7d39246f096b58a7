"""The file that `children` starts: ``python -I -S child.py FOLDER ... -- MODULE:FUNCTION ARGUMENT ...``."""

import os
import resource
import sys

# Where files may not grow so large (ulimit -f) Python leaves half a .pyc, over which each later start fails.
sys.dont_write_bytecode = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def main() -> None:
    """Take over folders and environment, and call the function."""
    end = sys.argv.index("--")
    folders, (target, *arguments) = sys.argv[1:end], sys.argv[end + 1 :]
    sys.path += [folder for folder in folders if folder not in sys.path]
    sys.argv[:] = [target, *arguments]
    _call(target, arguments)


def _call(target: str, arguments: list[str]) -> None:
    """Call ``MODULE:FUNCTION`` in the parent's environment, under a name that says what runs."""
    from hpctrack.process import children, process_name

    children.restore(os.environ)
    module, _, name = target.partition(":")
    verb = arguments[0] if module == "hpctrack.cli.main" else module.rpartition(".")[2]
    process_name.take("hpct-" + verb)
    getattr(__import__(module, fromlist=[name]), name)()


if __name__ == "__main__":
    main()
