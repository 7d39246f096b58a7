"""What sacctmgr prints about accounts, read as members."""

from __future__ import annotations

import stat

import pytest

from hpctrack import errors
from hpctrack.model import Member
from hpctrack.slurm import members

#: sacctmgr -nP show assoc format=User,Account: accounts have no user; there is a row for each cluster.
ASSOCIATIONS = "|root\nroot|root\n|lab\nalice|lab\nalice|lab\nbob|lab\n|guests\nbob|guests\n"
#: sacctmgr -nP show user withcoord format=User,AdminLevel,Coordinators
USERS = "alice|None|lab,lab_gpu\nanna|Operator|\nbob|None|\nroot|Administrator|\n"


def test_everybody_is_the_most_that_they_are():
    assert set(members.parse(ASSOCIATIONS, USERS)) == {
        Member("root", "root", "member"), Member("alice", "lab", "coordinator"),
        Member("alice", "lab_gpu", "coordinator"), Member("bob", "lab", "member"),
        Member("bob", "guests", "member"), Member("anna", None, "operator"), Member("root", None, "operator"),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "\n", "nonsense", "a|b|c|d|e", "|", "||"])
def test_what_is_no_row_is_left_out(text):
    assert members.parse(text, text) == []


def sacctmgr(folder, associations, users=USERS, code=0):
    """Make one that prints this; return the environment in which it is found."""
    path = folder / "sacctmgr"
    lines = f"case $3 in assoc) printf '%s' '{associations}';; user) printf '%s' '{users}';; esac"
    path.write_text(f"#!/bin/sh\n{lines}\n[ {code} = 0 ] || echo 'slurmdbd: error' >&2\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_two_commands_tell_all(tmp_path):
    assert len(members.fetch(sacctmgr(tmp_path, ASSOCIATIONS))) == 7


@pytest.mark.parametrize("associations", ["", "|root\n|lab\n"])
def test_that_nothing_is_shown_is_no_evidence(tmp_path, associations):
    with pytest.raises(errors.SlurmError, match="operator's rights"):
        members.fetch(sacctmgr(tmp_path, associations))


def test_an_error_is_an_error(tmp_path):
    with pytest.raises(errors.SlurmError, match="slurmdbd: error"):
        members.fetch(sacctmgr(tmp_path, ASSOCIATIONS, code=1))
    with pytest.raises(errors.CommandNotFound):
        members.fetch({"PATH": str(tmp_path / "nowhere")})
