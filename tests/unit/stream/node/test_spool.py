"""Deliveries from the spool: what happens to the folder where they fail."""

import os
from types import SimpleNamespace

import pytest

from hpctrack import errors
from hpctrack.stream.disk import leftovers
from hpctrack.stream.node import spool
from hpctrack.stream.wire import records
from tests.support.spooled import Left, lines


def test_a_secret_that_this_python_refuses_leaves_the_folder_to_others(tmp_path):
    left = Left(SimpleNamespace(spool=str(tmp_path)))
    left.journal(lines(0, 3))
    [spooled] = spool.pending(str(tmp_path))
    os.unlink(spooled.identity.record)
    records.write(str(tmp_path), left.record._replace(secret="00" * 70))
    for _ in range(2):
        with pytest.raises(errors.WireError):
            spool.ship(spooled, str(tmp_path), list, lambda size: None)
    leftover = leftovers.Leftover(spooled.path, spooled.identity, in_spool=True)
    assert leftover.take()
    leftover.release()
