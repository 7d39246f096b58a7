"""Adoption: a relay copies journals that ended runs left on this node to the spool, for delivery.

Processes that outlive their command may log after its relay has ended, and a killed relay leaves its
journals. On a compute node only the relays of later jobs can find them: each relay adopts once, piece by
piece, beside its own work. Adoption needs no collector, and skips folders that a process may still write to.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from hpctrack.stream.disk import folders, leftovers, mirror, removal, tail

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Folders that one relay looks at, and bytes of one that it copies, at most; ``hpctrack sync`` has no bounds.
_MOST_FOLDERS = 64
_MOST_BYTES = 64 << 20
_PIECE = 1 << 20


def pieces(spool: str, run_dir: str) -> Iterator[None]:
    """Adopt the run folders beside a relay's own; each step of the iterator copies one piece."""
    for path in folders.others(os.path.dirname(run_dir), run_dir)[:_MOST_FOLDERS]:
        with contextlib.suppress(OSError):  # it stays as it is
            yield from _adopt(spool, path)
        yield


def _adopt(spool: str, path: str) -> Iterator[None]:
    """Copy a folder's journals to the spool; delete it once the spool's disk has them. Raises OSError."""
    place = os.path.join(spool, "journals", os.path.basename(path))
    leftover = _leftover(spool, path, place)
    if leftover is None or not leftover.take():
        return
    journals = leftovers.tails_of([leftover])
    copies = mirror.Mirror(place, leftover.identity)
    try:
        for journal in journals:
            while (
                not journal.is_blank and copies.end(journal) < journal.end and copies.copy(journal, 0, _PIECE)
            ):
                yield
        _clear(leftover, journals, copies)
    finally:
        for journal in journals:
            journal.close()
        with contextlib.suppress(OSError):
            copies.close(over=False, prove=lambda _: None)  # processes of other nodes may write there
        leftover.release()


def _leftover(spool: str, path: str, place: str) -> leftovers.Leftover | None:
    """Return the folder to adopt; None if it is another spool's, too large, or may still grow.

    Also None while ``place`` has files of an earlier relay that are not delivered yet.
    """
    identity = folders.read_identity(path)
    if identity is None or not folders.is_of(spool, identity) or tail.find(place):
        return None
    leftover = leftovers.Leftover(path, identity, in_spool=False)
    size = sum(os.lstat(file.path).st_size for file in leftover.files)
    return leftover if size <= _MOST_BYTES and leftover.is_over else None


def _clear(leftover: leftovers.Leftover, journals: list[tail.Tail], copies: mirror.Mirror) -> None:
    """Delete the journals that the spool's disk has."""
    safe = {
        journal.files[0].path: (journal, journal.end if journal.is_blank else copies.synced(journal))
        for journal in journals
    }

    def prove(file: tail.File) -> removal.Proof | None:
        if file.path not in safe:
            return None
        journal, end = safe[file.path]
        return removal.Proof(journal.descriptor(file), file.base, end)

    leftover.clear(prove)
