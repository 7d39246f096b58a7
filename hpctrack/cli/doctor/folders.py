"""Whether there is room for journals where they begin and where they are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpctrack import files
from hpctrack.cli.doctor.check import Check

if TYPE_CHECKING:
    from hpctrack.settings import Settings

#: Bytes that are written to see whether there is room.
_PROBE = 1 << 20


def data_folder(configuration: Settings) -> Check:
    """Try to write where submission records and journals are kept."""
    spool = Path(configuration.spool)
    try:
        files.make_folder(str(spool), within=configuration.data_dir)
        _write(str(spool / f"doctor.{os.getpid()}"))
    except OSError as error:
        return Check(
            "data folder", "broken", f"{error.filename or spool}: {error.strerror}",
            "free space, or set data_dir to a folder of your own that compute nodes see",
        )  # fmt: skip
    exposed = files.exposure(str(spool))
    if exposed:
        return Check(
            "data folder", "note", f"others could swap it: {exposed}; what it remembers is not believed",
            "close that folder to others, or set data_dir to one below a folder of your own",
        )  # fmt: skip
    return Check("data folder", "ok", configuration.data_dir)


def node_folder(configuration: Settings) -> Check:
    """Try to write where journals begin: on a compute node, and with hpctrack run here."""
    from hpctrack.stream.disk import runfolder

    try:
        folder = runfolder.create(configuration.spool, configuration.node_dir, "doctor", 0)
    except FileNotFoundError:
        says = f"{configuration.node_dir} is not there on this host"
        return Check("node folder", "note", says, "nothing, if hosts where jobs run have it")
    except OSError as error:
        return _no_room(error, configuration.node_dir or "the folder for temporary files")
    try:
        _write(str(Path(folder.path) / "probe"))
    except OSError as error:
        return _no_room(error, folder.path)
    finally:
        runfolder.discard(folder.path)
    return Check("node folder", "ok", str(Path(folder.path).parent))


def _no_room(error: OSError, folder: str) -> Check:
    says = f"{error.filename or folder} of this host: {error.strerror}"
    return Check("node folder", "broken", says, "free space there, or set node_dir to another local folder")


def _write(path: str) -> None:
    """Write a file as long as a journal's first minutes, and remove it. Raises OSError.

    An empty one can be made on a full disk, and what the kernel took may still be refused by the disk.
    """
    descriptor = files.create(path)
    try:
        data = os.urandom(_PROBE)
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        Path(path).unlink()
