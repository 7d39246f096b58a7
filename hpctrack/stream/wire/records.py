"""Submission records: what `hpctrack sbatch` leaves in the spool for the relay and for PostgreSQL.

A record holds the run's secret, so that folders are 0700, files 0600, and nothing is believed that another
user could have put there. docs/architecture.md, "On disk", lists the keys. Loaded on compute nodes: standard
library only.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack import files

if TYPE_CHECKING:
    from collections.abc import Iterator


#: Begins the line of a batch script that holds its record, with ``key_in = script``.
PREFIX = b"#HPCTRACK_RECORD "
_PLACES = "databases"
_MAX_PLACES = 1 << 20
#: Bytes of the file in which a user's own collector says where it is.
MAX_ADDRESSES = 1 << 14
#: Fields that files call otherwise, as they did from the beginning.
_KEYS = {"base_job_id": "job_id"}
#: Bytes of a record, or of a batch script that holds one.
_MAX_SIZE = 64 << 20


class Record(NamedTuple):
    """One submission. The run's key is ``ciphers.run_key(bytes.fromhex(secret), task)``."""

    uuid: str
    #: 32 bytes in hexadecimal.
    secret: str
    #: When it was submitted, in seconds since the epoch.
    time: float
    #: ClusterName and job id (of an array the array's); None outside Slurm.
    cluster: str | None
    base_job_id: int | None
    #: Array specification; None for the one task `names.TASK_NONE`.
    tasks: str | None
    #: The JSON arguments of ``register_submission()``; secrets are masked.
    submission: dict[str, Any]
    run: dict[str, Any]
    #: What the relay needs of the submitter's settings, as in `hpctrack.settings.Settings`.
    collector: tuple[str, ...] = ()
    transport: str = "auto"
    flush: float = 5.0
    usage_interval: float = 10.0
    journal_cap: int = 1 << 30
    #: The database that it belongs to (`Settings.place`): no other may register it. Empty: any.
    place: str = ""

    def __repr__(self) -> str:
        return f"<Record {self.uuid} of job {self.cluster}.{self.base_job_id}>"  # the secret is for no log


def path(spool: str, record: Record) -> str:
    """Return where a record stands."""
    if record.base_job_id is None:
        return _path(spool, record.uuid)
    return _path(spool, _job(record.cluster, record.base_job_id))


def path_of(spool: str, uuid: str) -> str:
    """Return where the record of a run outside Slurm stands."""
    return _path(spool, uuid)


def write(spool: str, record: Record) -> str:
    """Write a record, marked as unknown to PostgreSQL; return its path.

    Raises OSError where the spool can't be written or is not private.
    """
    target = path(spool, record)
    marker = _marker(target)
    for file in (target, marker):
        files.make_folder(os.path.dirname(file), within=os.path.dirname(spool))
    # The marker first: a record without one would count as registered.
    os.close(files.open_or_create(marker))
    files.replace(target, dumps(record), sync=True)
    return target


def dumps(record: Record) -> bytes:
    """Return a record as one line of JSON."""
    return json.dumps(to_object(record)).encode("ascii")


def to_object(record: Any) -> dict[str, Any]:
    """Return what a record's file says of it, by its keys."""
    return {_KEYS.get(name, name): value for name, value in record._asdict().items()}


def fields_of(kind: Any, value: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a kind of record that a file has a key for."""
    keys = {name: _KEYS.get(name, name) for name in kind._fields}
    return {name: value[key] for name, key in keys.items() if key in value}


def read(target: str) -> Record:
    """Read one record: a file of its own, or a batch script that holds it.

    Raises FileNotFoundError, PermissionError for a file that is not this user's own, ValueError for one that
    is no record.
    """
    data = files.read(target, _MAX_SIZE)
    try:
        value = json.loads(_line(data) if data.startswith(b"#!") else data)
        fields = fields_of(Record, value)
        return Record(**{**fields, "collector": tuple(value.get("collector", ()))})
    except (TypeError, AttributeError, ValueError, RecursionError):
        raise ValueError(f"{target} is not a submission record") from None


def find(spool: str, cluster: str | None, base_job_id: int) -> Record | None:
    """Return the record of a job; None while there is none: the job may start before it is written.

    ``cluster`` None finds the job of any cluster, if only one has it. Raises as `read` does.
    """
    folder = os.path.join(spool, "submissions")
    try:
        # Opening the folder makes a network file system look again for what was not there before.
        names = os.listdir(folder)
    except FileNotFoundError:
        return None
    wanted = [_job(cluster, base_job_id) + ".json"]
    if cluster is None:
        wanted = [name for name in names if name.endswith(f".{base_job_id}.json")]
    if len(wanted) != 1:
        return None
    try:
        return read(os.path.join(folder, wanted[0]))
    except FileNotFoundError:
        return None


def unregistered(spool: str) -> Iterator[str]:
    """Yield the paths of records that PostgreSQL does not know yet."""
    try:
        names = sorted(os.listdir(os.path.join(spool, "unregistered")))
    except FileNotFoundError:
        return
    for name in names:
        target = os.path.join(spool, "submissions", name)
        try:
            os.stat(target)
        except FileNotFoundError:  # it could not be written
            continue
        except OSError:  # reading it says why
            pass
        yield target


def is_registered(target: str) -> bool:
    """Whether PostgreSQL was told of the record at this path. Raises OSError if that can't be told."""
    return not (_stands(_marker(target)) or _stands(_refusal(target)))


def _stands(path: str) -> bool:
    """Whether a path exists. Raises OSError where that can't be told: it may well exist."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def known_places(spool: str) -> dict[str, str]:
    """Return what databases, by the names of `Settings.place`, said of themselves when they were asked."""
    try:
        places = json.loads(files.read(os.path.join(spool, _PLACES), _MAX_PLACES))
        return {str(name): str(identity) for name, identity in places.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def note_place(spool: str, name: str, identity: str) -> None:
    """Remember which database a name means: an administrator may give it another. Raises OSError."""
    known = known_places(spool)
    if known.get(name) == identity or not os.path.isdir(spool):
        return
    files.replace(os.path.join(spool, _PLACES), json.dumps({**known, name: identity}).encode())


def fingerprint(record: Record) -> bytes:
    """Return the digest by which PostgreSQL recognises a deleted submission. Raises ValueError."""
    import hashlib  # late: it loads OpenSSL

    return hashlib.sha256(bytes.fromhex(str(record.secret))).digest()


def registered_before(spool: str, time: float) -> Iterator[tuple[str, str, bytes]]:
    """Yield path, UUID and `fingerprint` of records that PostgreSQL was told of, made before a time."""
    try:
        names = sorted(os.listdir(os.path.join(spool, "submissions")))
    except FileNotFoundError:
        return
    for name in names:
        target = os.path.join(spool, "submissions", name)
        with contextlib.suppress(OSError, ValueError):
            if name.endswith(".json") and is_registered(target):
                record = read(target)
                if record.time < time:
                    yield target, record.uuid, fingerprint(record)


def remove(target: str) -> bool:
    """Remove the record at this path; False if it is gone already."""
    try:
        os.unlink(target)
    except FileNotFoundError:
        return False
    return True


def set_registered(target: str) -> None:
    """Remember that PostgreSQL knows the record at this path."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_marker(target))


def set_unregistered(target: str) -> None:
    """Have the record at this path wait for registration, unless it was refused. Raises OSError."""
    if is_registered(target):
        os.close(files.open_or_create(_marker(target)))


def set_refused(target: str, reason: str) -> str:
    """Set a record that PostgreSQL refuses apart; return where the reason stands. Raises OSError."""
    files.make_folder(os.path.dirname(_refusal(target)))
    files.replace(_refusal(target), f"{reason}\n".encode("utf-8", "replace"))
    set_registered(target)
    return _refusal(target)


def refused(spool: str) -> Iterator[tuple[str, str]]:
    """Yield paths of records that were set apart, and why."""
    folder = os.path.join(spool, "refused")
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            reason = files.read(os.path.join(folder, name), _MAX_SIZE).decode("utf-8", "replace")
            yield os.path.join(spool, "submissions", name), reason[:4096].strip()


def try_refused_again(spool: str) -> None:
    """Have records that were set apart wait for registration again. Raises OSError."""
    for target, _ in list(refused(spool)):
        os.close(files.open_or_create(_marker(target)))
        os.unlink(_refusal(target))


def _line(script: bytes) -> bytes:
    """Return the record in a batch script: the first, for the user's own comments come behind it."""
    start = script.find(b"\n" + PREFIX) + 1
    return script[start + len(PREFIX) :].split(b"\n", 1)[0] if start else b""


def _job(cluster: str | None, base_job_id: int) -> str:
    return f"{cluster or ''}.{base_job_id}".replace("/", "_")


def _path(spool: str, name: str) -> str:
    return os.path.join(spool, "submissions", name + ".json")


def _refusal(target: str) -> str:
    folder, name = os.path.split(target)
    return os.path.join(os.path.dirname(folder), "refused", name)


def _marker(target: str) -> str:
    folder, name = os.path.split(target)
    return os.path.join(os.path.dirname(folder), "unregistered", name)
