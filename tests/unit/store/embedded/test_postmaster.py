"""The processes of the embedded PostgreSQL: what can't be seen is not gone."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from hpctrack.store.embedded import postmaster

HERE = os.getpid()
QUESTIONS = {
    "when it started": lambda: postmaster.start_time(HERE),
    "whether it is the postmaster": lambda: postmaster.is_postmaster(HERE, None, Path.cwd()),
    "which processes there are": lambda: postmaster.processes(Path.cwd()),
    "its children": lambda: postmaster.children(HERE),
    "what it calls itself": lambda: postmaster.title(HERE),
    "whether it has waited": lambda: postmaster.switches(HERE),
}


@pytest.fixture
def no_descriptors():
    """Leave this process no descriptor to open anything with (EMFILE)."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    os.close(lowest)


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_without_descriptors_nobody_is_taken_for_gone(ask, no_descriptors):
    """A server that counts as gone would be started a second time, or its lock be removed."""
    with pytest.raises(OSError, match="Too many open files"):
        ask()


def test_who_is_gone_is_gone():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    assert postmaster.start_time(pid) is None and not postmaster.works_in(pid, Path.cwd())
    assert (postmaster.children(pid), postmaster.title(pid), postmaster.switches(pid)) == ([], "", "")
