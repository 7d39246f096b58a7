"""Environments that trouble Python or the shell, and environments read back."""

from __future__ import annotations

import os

#: What may stop or change Python, or its libraries, in any release.
TROUBLES = {
    "PYTHONHOME": "/nonexistent",
    "PYTHONPATH": "{old}",
    "PYTHONMALLOC": "garbage",
    "PYTHONINSPECT": "1",
    "PYTHONSTARTUP": "{old}/click.py",
    "PYTHONWARNINGS": "error,nonsense:::::",
    "PYTHONVERBOSE": "2",
    "PYTHONPLATLIBDIR": "nowhere",
    "PYTHONCASEOK": "1",
    "PYTHONEXECUTABLE": "/nonexistent",
    "__PYVENV_LAUNCHER__": "/nonexistent",
    "PYTHONUTF8": "2",
    "PYTHONIOENCODING": "nonsense:garbage",
    "PYTHONHASHSEED": "garbage",
    "PYTHONCOERCECLOCALE": "warn",
    "PYTHONDEVMODE": "1",
    "PYTHONDEBUG": "3",
    "PYTHONOPTIMIZE": "2",
    "PYTHONNOUSERSITE": "1",
    "PYTHONUSERBASE": "{old}",
    "PYTHONTRACEMALLOC": "garbage",
    "PYTHONFAULTHANDLER": "garbage",
    "PYTHONPROFILEIMPORTTIME": "1",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONBREAKPOINT": "nowhere.nothing",
    "PYTHONINTMAXSTRDIGITS": "garbage",
    "PYTHONPYCACHEPREFIX": "/proc/nowhere",
    "PYTHONSAFEPATH": "1",
    "PYTHONDUMPREFS": "1",
    "PYTHON_GIL": "garbage",
    "PYTHON_CPU_COUNT": "garbage",
    "PYTHON_FROZEN_MODULES": "garbage",
    "PYTHONPERFSUPPORT": "garbage",
    "PYTHON_PRESITE": "click",
    "PYTHONNODEBUGRANGES": "1",
    "LD_LIBRARY_PATH": "{libraries}",
    "LD_PRELOAD": "/nonexistent/library.so",
    "LANG": "xx_YY.nonsense",
    "LC_ALL": "tr_TR.ISO-8859-9",
    "TZ": "Nowhere/Nothing",
    "TMPDIR": "/nonexistent",
    "COLUMNS": "garbage",
    "TERM": "nonsense",
    "IFS": "/",
    "ENV": "{old}/env",
    "BASH_ENV": "{old}/env",
    "CDPATH": "/usr",
    "SHELLOPTS": "errexit:nounset",
    "POSIXLY_CORRECT": "1",
    "HPCTRACK_GIVEN": "given:zz",
}
#: Of these, what stops Python itself in some way of its own.
GRAVE = (
    "PYTHONHOME PYTHONPATH PYTHONMALLOC PYTHONINSPECT PYTHONEXECUTABLE PYTHONHASHSEED "
    "PYTHONWARNINGS PYTHON_GIL LD_LIBRARY_PATH LD_PRELOAD LC_ALL TMPDIR"
).split()
#: What a variable of its own kind of shell does with its own value is no matter of ours.
SHELLS = {"SHELLOPTS", "SHLVL", "_", "BASHOPTS"}


def variables(text: bytes) -> dict[bytes, bytes]:
    """Read an environment; to PYTHONPATH the run's own folder is added."""
    entries = (entry.partition(b"=") for entry in text.split(b"\0"))
    return {name: value for name, _, value in entries if name and name != b"PYTHONPATH"}


def given(environ: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Leave out what shells set on their way, and what hpctrack says it adds."""
    left_out = {os.fsencode(name) for name in SHELLS}
    return {
        name: value
        for name, value in environ.items()
        if name not in left_out and not name.startswith(b"HPCTRACK_")
    }
