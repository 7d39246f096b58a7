"""The folder on this host for lock and socket; if it can't be used, all commands agree on another one.

It is in /tmp, where every user may make files: the data folder may be on a network file system, where Unix
sockets don't work well and there may be no locks; XDG_RUNTIME_DIR is removed at logout, which the server
survives; and the path of a Unix socket has at most 107 bytes (unix(7)). Its name is random, and is stored in
``hosts/<host>.<number>``, beside the data folder; the greatest number counts. If the folder can't be used any
more (a cleaner of /tmp removed it and another user took its name, or the file system is full), a file with
the next number names another. link(2) lets only one command create that file: so all agree.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpctrack import files

if TYPE_CHECKING:
    from hpctrack.store.embedded.cluster_folder import Place

_PARENTS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (a private folder inside)
#: Folders that one call names at most. Each has another parent than the one before.
_MAX_NAMES = 2 * len(_PARENTS)
_MAX_ATTEMPTS = 100
_MAX_BYTES = 4096


def make(place: Place, host: str) -> Path:
    """Return the folder of this host, made if it is missing. Raises OSError if none can be made."""
    files.make_folder(str(place.hosts), within=str(place.base))
    failure: OSError | None = None
    names = 0
    for _ in range(_MAX_ATTEMPTS):
        number, path = _latest(place, host)
        if path is not None:
            try:
                return _use(path)
            except FileNotFoundError as error:
                failure = error
                if path.parent.is_dir():
                    continue  # another command has removed it just now
            except OSError as error:
                failure = error
        if names == _MAX_NAMES:
            break
        _name_next(place, host, number)
        names += 1
    raise failure or FileNotFoundError("no folder for the socket of PostgreSQL")


def current(place: Place, host: str) -> Path | None:
    """Return the path that is named as this host's folder; None if none is yet. Changes nothing."""
    return _latest(place, host)[1]


def _latest(place: Place, host: str) -> tuple[int, Path | None]:
    numbers = _numbers(place, host)
    while numbers:
        number = numbers.pop()
        with contextlib.suppress(FileNotFoundError):  # another command has named a greater one
            named = os.fsdecode(files.read(str(place.hosts / f"{host}.{number}"), _MAX_BYTES).strip())
            return number, Path(named) if str(Path(named).parent) in _PARENTS else None
        numbers = _numbers(place, host)
    return 0, None


def _numbers(place: Place, host: str) -> list[int]:
    try:
        parts = [entry.name.rpartition(".") for entry in place.hosts.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(number) for name, _, number in parts if name == host and number.isdecimal())


def _use(path: Path) -> Path:
    """Make a folder, or check that only this user can enter it. Raises OSError."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent}")
    if os.path.lexists(path) and not files.is_private(str(path)):
        raise PermissionError(f"{path} is not a private folder of this user")
    return Path(files.make_folder(str(path)))


def _name_next(place: Place, host: str, number: int) -> None:
    """Name another folder, unless another command has done so; remove the earlier names."""
    parent = _PARENTS[number % len(_PARENTS)]
    path = f"{parent}/hpctrack-{os.geteuid()}-{os.urandom(8).hex()}"
    files.create_whole(str(place.hosts / f"{host}.{number + 1}"), os.fsencode(path) + b"\n")
    for older in _numbers(place, host):
        if older <= number:
            (place.hosts / f"{host}.{older}").unlink(missing_ok=True)
