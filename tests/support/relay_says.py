"""What relays say of runs, as a collector passes it on."""

from __future__ import annotations

from hpctrack import reconcile
from hpctrack.model import RelayMessage


def say(connection, run_id, kind, attempt=0, **body):
    with connection.transaction():
        return reconcile.observe(connection, [RelayMessage(run_id, attempt, kind, body)])
