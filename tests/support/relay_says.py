"""What relays say of runs, as a collector passes it on."""

from __future__ import annotations

import json

from hpctrack import reconcile
from hpctrack.stream.wire import messages


def said(run_id, kind, attempt=0, **body) -> messages.RunMessage:
    """Return a message as it is read from what a node sends."""
    message = messages.read(kind, json.dumps(body))
    assert message is not None
    return messages.RunMessage(run_id, attempt, message)


def say(connection, run_id, kind, attempt=0, **body):
    with connection.transaction():
        return reconcile.observe(connection, [said(run_id, kind, attempt, **body)])
