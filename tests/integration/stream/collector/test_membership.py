"""Who belongs to which account: learnt from Slurm or from Unix groups, by collectors and by setup."""

from __future__ import annotations

import grp
import os
import stat
import threading
import uuid

import pytest

from hpctrack import errors
from hpctrack.store.write import collectors
from hpctrack.stream.collector import membership
from hpctrack.stream.collector.reconciler import Reconciler, Slurm
from tests.support.waiting import eventually

_MEMBERS = "SELECT user_name, account, role FROM members ORDER BY 1, 2"


@pytest.fixture
def sacctmgr(slurm, roles):
    """Make a sacctmgr that knows who is in which account; returns what says so."""

    def says(associations, users, code=0):
        cases = f"case $3 in assoc) printf '{associations}';; user) printf '{users}';; esac"
        for name, text in (("sacctmgr", f"{cases}\nexit {code}"), ("scontrol", "echo 'ClusterName = mini'")):
            path = slurm.folder / name
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return says


def renew(roles, slurm, source="sacctmgr", **how):
    return membership.renew(roles.connect("collector"), source, "mini", slurm.environ, **how)


def test_what_slurm_says_takes_the_place_of_what_it_said(roles, slurm, sacctmgr):
    sacctmgr(r"alice|lab\nbob|lab\n", r"alice|None|lab\nanna|Operator|\n")
    assert renew(roles, slurm) is None
    before = [("alice", "lab", "coordinator"), ("anna", None, "operator"), ("bob", "lab", "member")]
    assert roles.query("owner", _MEMBERS) == before
    sacctmgr(r"alice|lab\nbob|other\n", r"alice|None|\n")
    assert renew(roles, slurm) is None
    after = [("alice", "lab", "member"), ("bob", "other", "member")]
    assert roles.query("owner", _MEMBERS) == after
    for what in (("", "", 1), ("", "", 0), (r"|lab\n", r"alice|None|\n", 0)):
        sacctmgr(*what)
        assert renew(roles, slurm) is not None
        assert roles.query("owner", _MEMBERS) == after
    [(told, checked)] = roles.query(
        "reader", "SELECT members_error, members_checked IS NOT NULL FROM clusters"
    )
    assert ("operator" in told, checked) == (True, True)
    sacctmgr(r"alice|lab\n", "")
    assert renew(roles, slurm) is None
    assert roles.query("reader", "SELECT members_error FROM clusters") == [(None,)]


def test_names_that_postgresql_does_not_take_harm_nobody(roles, slurm, sacctmgr):
    sacctmgr(r"alice|lab\nbob|" + "x" * 300 + r"\n\\303|lab\n", "")
    assert renew(roles, slurm) is None
    assert ("alice", "lab", "member") in roles.query("owner", _MEMBERS)


def test_a_collector_without_the_lease_changes_nothing(roles, slurm, sacctmgr):
    sacctmgr(r"alice|lab\n", "")
    with pytest.raises(errors.LeaseLost):
        renew(roles, slurm, lease=uuid.uuid4())
    assert roles.query("owner", _MEMBERS) == []


def test_unix_groups_tell_where_there_is_no_accounting(roles, slurm):
    login = roles.make_role("root")
    assert login != "root"
    roles.execute("DO $$ BEGIN CREATE ROLE root LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    assert renew(roles, slurm, "groups") is None
    groups = {grp.getgrgid(number).gr_name for number in os.getgrouplist("root", 0)}
    assert {account for user, account, _ in roles.query("owner", _MEMBERS) if user == "root"} == groups


def test_the_collector_that_leads_asks_by_itself(roles, slurm, sacctmgr):
    sacctmgr(r"alice|lab\n", "")
    name = uuid.uuid4()
    identity = {"host": "h", "pid": os.getpid(), "addresses": [], "stats": {}}
    with roles.connect("collector").transaction():
        assert collectors.beat(roles.connect("collector"), name, **identity)
    asked = Slurm("mini", slurm.backend(timeout=5), None, slurm.environ)
    worker = Reconciler(roles.of("collector"), name, lambda: asked, lambda: True)
    failed = threading.Event()
    worker.start(lambda why: failed.set())
    try:
        assert eventually(lambda: roles.query("owner", _MEMBERS)) == [("alice", "lab", "member")]
    finally:
        worker.stop()
        worker.join(10)
    assert not failed.is_set()


def test_setup_asks_too_and_says_why_it_can_not(roles, slurm, sacctmgr, monkeypatch):
    monkeypatch.setenv("PATH", str(slurm.folder), prepend=os.pathsep)
    sacctmgr(r"alice|lab\n", "")
    code, _, err = roles.run("owner", "setup")
    assert (code, err) == (0, "")
    assert roles.query("owner", _MEMBERS) == [("alice", "lab", "member")]
    sacctmgr("", "", 1)
    code, _, err = roles.run("owner", "setup")
    assert (code, err.count("\n")) == (0, 1)
    assert "who belongs to which account stays as it was known" in err
