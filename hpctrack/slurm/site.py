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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Seconds that Slurm may take to answer.
SECONDS = 5.0
_CLUSTER_NAME = re.compile(r"^ClusterName\s*=\s*(\S+)", re.MULTILINE)
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
    """Return an environment in which Slurm is reached as it was by the last submission from this host."""
    told = _told(cache)
    kept = {name: value for name, value in environ.items() if not told or name not in _CLIENT}
    return {**kept, **told}


def _told(cache: str) -> dict[str, str]:
    """Return what the last submission from this host said; empty if there was none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        stored = _read(Path(cache) / _CLIENT_FILE)
        if stored["host"] == platform.node():
            return {name: str(value) for name, value in stored["environ"].items() if name in _CLIENT}
    return {}


def cluster_name(environ: Mapping[str, str], cache: str) -> str:
    """Return Slurm's ClusterName, which jobs see as SLURM_CLUSTER_NAME.

    ``cache`` is a folder of the user's. Raises `errors.SlurmError`.
    """

    def ask() -> str:
        text = command.run(["scontrol", "show", "config"], timeout=SECONDS, environ=environ).stdout
        named = _CLUSTER_NAME.search(text)
        if named is None:
            raise errors.SlurmError("scontrol show config names no cluster")
        return named[1]

    return remembered("cluster-name.json", cache, stamp(conf(environ)), ask)


def conf(environ: Mapping[str, str]) -> str:
    """Return the path of slurm.conf, where there is one."""
    return environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf"


def stamp(path: str) -> list[object]:
    """Return what changes whenever a file does."""
    try:
        status = Path(path).stat()
    except OSError:
        return [path]
    return [path, status.st_mtime_ns, status.st_size]


def remembered(name: str, cache: str, key: list[object], ask: Callable[[], _T], *, fresh: bool = False) -> _T:
    """Return the answer that the file ``name`` in ``cache`` holds for this host and key, or ask and store it.

    Where it can't be stored, each call asks; with ``fresh``, this one does.
    """
    path = Path(cache) / name
    # A home may be shared between clusters: the host tells them apart where no file does.
    key = [platform.node(), *key]
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
