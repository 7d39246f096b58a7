"""Whether a collector is there, and answers under a key that PostgreSQL has."""

from __future__ import annotations

import contextlib
import time
import uuid
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from hpctrack import account, errors
from hpctrack.cli.doctor.check import ASK_FOR_RIGHTS, Check
from hpctrack.stream.wire import names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.write.collectors import CollectorRow

#: Seconds that collectors have to answer.
_ECHO_SECONDS = 3.0


def look(configuration: Settings, connection: Connection) -> Iterator[Check]:
    """Yield what is found of collectors; in the personal mode the user's own is started first."""
    from hpctrack.store.write import collectors

    failure = _start(configuration) if configuration.personal else None
    if failure is not None:
        yield failure
        return
    live = [row for row in collectors.fetch(connection) if row.live]
    yield _heartbeats(configuration, live)
    if configuration.transport == "spool":
        yield Check("echo", "ok", "transport = spool: nothing is sent, journals go through the data folder")
        return
    yield from _echoes(connection, _addresses(configuration, live))


def _start(configuration: Settings) -> Check | None:
    """Start the user's own collector if it does not run; return why it can't be started."""
    from hpctrack.stream.collector import launch

    try:
        if launch.ensure_running(configuration):
            launch.wait_for_addresses(configuration)
    except errors.HpctrackError as error:
        return Check("collector", "broken", str(error), f"see {launch.log_path(configuration)}")
    return None


def _addresses(configuration: Settings, live: list[CollectorRow]) -> list[names.Address]:
    """Return where relays would look for a collector."""
    from hpctrack.stream.collector import launch

    if configuration.collector or configuration.personal:
        return list(configuration.collector) or launch.read_addresses(configuration)
    return names.Address.known(address for row in live for address in row.addresses)


def _heartbeats(configuration: Settings, live: list[CollectorRow]) -> Check:
    if live:
        says = ", ".join(f"{row.host}, process {row.pid}" for row in live)
        return Check("collector", "ok", says)
    if configuration.personal:  # started just now: its first heartbeat may be to come
        return Check("collector", "ok", "starts")
    return Check(
        "collector", "broken", "none has told PostgreSQL lately that it lives",
        "have it started on the head node: hpctrack collector (docs/site.md); until then journals wait",
    )  # fmt: skip


def _echoes(connection: Connection, addresses: list[names.Address]) -> Iterator[Check]:
    """Ask each address for an echo under a key that is there for as long as that takes."""
    from hpctrack.stream.wire import ciphers

    if not addresses:
        yield Check(
            "echo", "broken", "no address of a collector is known",
            f"start one (hpctrack collector), or set collector = {names.ADDRESS}",
        )  # fmt: skip
        return
    name, secret = uuid.uuid4(), ciphers.mint()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_submitted(connection, name, secret))
        except errors.HpctrackError as error:
            yield Check("submitting", "broken", str(error), ASK_FOR_RIGHTS)
            return
        yield Check("submitting", "ok", "a submission can be registered")
        answers = [_echo(address, name.bytes, secret) for address in addresses]
    if any(check.state == "ok" for check in answers):  # relays try one after the other
        answers = [check._replace(state="note") if check.state == "broken" else check for check in answers]
    yield from answers


def _submitted(
    connection: Connection, name: uuid.UUID, secret: bytes
) -> contextlib.AbstractContextManager[None]:
    """Return what registers a submission without a run, and takes it away again."""
    from hpctrack.store.write import registration
    from hpctrack.stream.wire import records

    now = time.time()
    submission = {
        "uuid": str(name), "user_name": account.user_name(), "submit_line": "hpctrack doctor",
        "time": datetime.fromtimestamp(now, timezone.utc).isoformat(),
    }  # fmt: skip
    record = records.Record(str(name), secret.hex(), now, None, None, None, submission, {})
    return registration.trial(connection, record)


def _echo(address: names.Address, submission: bytes, secret: bytes) -> Check:
    from hpctrack.stream.node import echo

    try:
        seconds = echo.ping(address, submission, secret, _ECHO_SECONDS)
    except errors.CollectorUnavailable as error:
        return Check("echo", "broken", str(error), "is the collector there? hpctrack collector --status")
    if seconds is None:
        return Check(
            "echo", "broken", f"no answer from {address} within {_ECHO_SECONDS:g} s",
            f"let {names.CARRIER} through to it, or name another address: collector = {names.ADDRESS}",
        )  # fmt: skip
    return Check("echo", "ok", f"{address} answers in {1000 * seconds:.1f} ms")
