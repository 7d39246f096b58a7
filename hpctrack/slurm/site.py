"""What there is to know of the site's Slurm: asked once, then remembered in the user's data folder."""

from __future__ import annotations

import contextlib
import json
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hpctrack import errors, files
from hpctrack.slurm import command
from hpctrack.slurm.sbatch import options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SECONDS = 5.0
_CLUSTER_NAME = re.compile(r"^ClusterName\s*=\s*(\S+)", re.MULTILINE)
_DEFAULT_CONF = "/etc/slurm/slurm.conf"
#: What decides which Slurm commands are found, and which cluster they ask.
_CLIENT = ("PATH", "LD_LIBRARY_PATH", "SLURM_CONF")
_CLIENT_FILE = "slurm-client.json"
#: Of what is remembered.
_MAX_BYTES = 1 << 20
_T = TypeVar("_T")


def note_client(environ: Mapping[str, str], cache: str) -> None:
    """Note how this user reaches Slurm from this host, for a collector that was started without knowing it.

    ``cache`` is a folder of the user's. Raises OSError.
    """
    told = {name: environ[name] for name in _CLIENT if name in environ}
    _write(Path(cache) / _CLIENT_FILE, {"host": platform.node(), "environ": told})


def client_environ(environ: Mapping[str, str], cache: str) -> dict[str, str]:
    """Return an environment in which Slurm is reached as who submitted last from this host reached it."""
    told: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        stored = _read(Path(cache) / _CLIENT_FILE)
        if stored["host"] == platform.node():
            told = {name: str(value) for name, value in stored["environ"].items() if name in _CLIENT}
    kept = {name: value for name, value in environ.items() if not told or name not in _CLIENT}
    return {**kept, **told}


def cluster_name(environ: Mapping[str, str], cache: str) -> str:
    """Return Slurm's ClusterName, which jobs see as SLURM_CLUSTER_NAME.

    ``cache`` is a folder of the user's. Raises `errors.SlurmError`.
    """

    def ask() -> str:
        text = command.run(["scontrol", "show", "config"], timeout=_SECONDS, environ=environ).stdout
        found = _CLUSTER_NAME.search(text)
        if found is None:
            raise errors.SlurmError("scontrol show config names no cluster")
        return found[1]

    # A home may be shared between clusters: the host tells them apart where no file does.
    key = [platform.node(), *_stamp(environ.get("SLURM_CONF") or _DEFAULT_CONF)]
    return _remembered(Path(cache) / "cluster-name.json", key, ask)


def sbatch_options(environ: Mapping[str, str], cache: str, *, fresh: bool = False) -> dict[str, int]:
    """Return the options in ``sbatch --help``, plugins' ones included; see `options.parse_help`.

    Remembered until sbatch or the configuration of plugins changes, or until ``fresh`` asks anew. Raises
    `errors.SlurmError`.
    """

    def ask() -> dict[str, int]:
        text = command.run(["sbatch", "--help"], timeout=_SECONDS, environ=environ).stdout
        return options.parse_help(text)

    conf = environ.get("SLURM_CONF") or _DEFAULT_CONF
    plugins = str(Path(conf).parent / "plugstack.conf")
    key = [platform.node(), *_stamp(command.find("sbatch", environ)), *_stamp(plugins)]
    return _remembered(Path(cache) / "sbatch-options.json", key, ask, fresh=fresh)


def _stamp(path: str) -> list[object]:
    """Return what changes whenever a file does."""
    try:
        found = Path(path).stat()
    except OSError:
        return [path]
    return [path, found.st_mtime_ns, found.st_size]


def _remembered(path: Path, key: list[object], ask: Callable[[], _T], *, fresh: bool = False) -> _T:
    """Return what is stored under this key, or ask and store it; where that can't be, ask each time."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored = _read(path)
        if stored["key"] == key and not fresh:
            answer: _T = stored["answer"]
            return answer
    answer = ask()
    with contextlib.suppress(OSError):
        _write(path, {"key": key, "answer": answer})
    return answer


def _read(path: Path) -> Any:
    """Read what was remembered: it decides which programs run. Raises OSError, ValueError."""
    exposed = files.exposure(str(path.parent))
    if exposed:
        raise errors.Untrusted(exposed)
    return json.loads(files.read(str(path), _MAX_BYTES))


def _write(path: Path, contents: object) -> None:
    files.make_folder(str(path.parent), within=str(path.parent.parent))
    files.replace(str(path), json.dumps(contents).encode("ascii"))
