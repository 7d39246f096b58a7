"""``hpctrack share`` and ``unshare``: who sees runs of a site besides its choice, and who may say so."""

from __future__ import annotations

import json

import pytest

from hpctrack import Client, errors
from hpctrack.run.audience import Audience


@pytest.fixture
def site(roles):
    """A site that shows runs to their accounts; alice and bob are in lab, and alice has run something."""
    code, _, err = roles.run("owner", "setup", "--runs-visible", "account", "--details-visible", "own")
    assert (code, err) == (0, "")
    for name in ("alice", "bob"):
        roles.query("owner", "INSERT INTO members VALUES ('lab', %s, 'member')", roles.role(name))
    return roles


def sees(roles, name, run) -> tuple[bool, bool]:
    """Return whether somebody sees that a run is there, and its arguments."""
    rows = roles.query(name, "SELECT args FROM run_overview WHERE id = %s", run)
    return bool(rows), bool(rows) and rows[0][0] is not None


def test_a_run_is_shared_with_a_user_and_taken_back(site):
    run = site.submit("alice", "digits")
    reader = site.role("reader")
    assert sees(site, "reader", run) == (False, False)
    code, out, err = site.run("alice", "share", f"r{run}", "--with", reader)
    assert (code, err) == (0, "")
    alice = site.role("alice")
    assert out == f"r{run}: seen by {alice}; details by {alice}; shared with {reader}\n"
    assert sees(site, "reader", run) == (True, True)
    assert sees(site, "bob", run) == (False, False)
    assert len(site.query("reader", "SELECT script FROM submissions")) == 1
    assert site.query("reader", "SELECT name FROM experiments") == [("digits",)]
    told = json.loads(site.run("reader", "share", f"r{run}", "--json")[1])["runs"][0]
    assert [(share["with"], share["by"]) for share in told["shares"]] == [(reader, alice)]
    assert (
        site.run("alice", "unshare", f"r{run}", "--with", "account:lab")[1]
        == f"r{run}: 0 shares taken back\n"
    )
    assert site.run("alice", "unshare", f"r{run}")[1] == f"r{run}: 1 share taken back\n"
    assert sees(site, "reader", run) == (False, False)
    assert site.query("reader", "SELECT name FROM experiments") == []


def test_a_run_is_shared_with_an_account(site):
    run = site.submit("alice")
    code, _, err = site.run("alice", "share", f"r{run}", "--with", "account:guests")
    assert (code, err) == (0, "hpctrack: account guests is none of yours: whoever is in it sees them\n")
    assert sees(site, "reader", run) == (False, False)
    site.query("owner", "INSERT INTO members VALUES ('guests', %s, 'member')", site.role("reader"))
    assert sees(site, "reader", run) == (True, True)


def test_of_an_experiment_ones_own_runs_are_shared_and_no_others(site):
    alices, bobs = site.submit("alice", "digits"), site.submit("bob", "digits")
    # Whoever made it, alice here, does not show bob's runs.
    assert site.run("alice", "share", "-E", "digits", "--with", site.role("reader"))[0] == 0
    later = site.submit("alice", "digits")
    assert [sees(site, "reader", run) for run in (alices, later)] == [(True, True)] * 2
    assert sees(site, "reader", bobs) == (False, False)
    out = site.run("reader", "share", f"r{alices}")[1]
    assert out.endswith(f"shared with {site.role('reader')} (experiment digits)\n")
    assert site.run("bob", "unshare", "-E", "digits")[1] == "experiment digits: 0 shares taken back\n"
    assert site.run("alice", "unshare", "-E", "digits")[1] == "experiment digits: 1 share taken back\n"
    assert sees(site, "reader", alices) == (False, False)


def test_a_run_is_for_fewer_than_the_site_says(site):
    site.run("owner", "setup", "--runs-visible", "account", "--details-visible", "account")
    run = site.submit("alice", account="lab")
    assert sees(site, "bob", run) == (True, True)
    out = site.run("bob", "share", f"r{run}")[1]
    assert out.startswith(f"r{run}: seen by {site.role('alice')} and account lab; details by ")
    assert site.run("alice", "share", f"r{run}", "--only", "own")[0] == 0
    assert sees(site, "bob", run) == (False, False)
    assert sees(site, "alice", run) == (True, True)
    assert site.run("alice", "share", f"r{run}", "--only", "all")[0] == 0
    assert sees(site, "bob", run) == (True, True)
    assert sees(site, "reader", run) == (False, False)


def test_an_experiment_is_for_fewer_by_the_word_of_whoever_made_it(site):
    run = site.submit("alice", "digits", account="lab")
    own = site.submit("bob", "digits", account="lab")
    assert site.run("bob", "share", "-E", "digits", "--only", "own")[0] == errors.StoreDenied.exit_code
    assert site.run("alice", "share", "-E", "digits", "--only", "own")[0] == 0
    assert sees(site, "bob", run) == (False, False)
    assert sees(site, "bob", own) == (True, True)
    assert site.run("alice", "share", "-E", "digits", "--only", "account")[0] == 0
    assert sees(site, "bob", run) == (True, False)
    assert site.run("alice", "share", "-E", "digits", "--only", "all")[0] == 0
    assert site.query("owner", "SELECT * FROM experiment_scopes") == []


def test_what_is_shared_by_whoever_may_not_is_refused(site):
    run = site.submit("alice", account="lab")
    for arguments, code, said in (
        (
            ("share", f"r{run}", "--with", site.role("reader")),
            errors.StoreDenied.exit_code,
            "only they may change it",
        ),
        (("share", f"r{run}", "--only", "own"), errors.StoreDenied.exit_code, "only they may change it"),
        (("unshare", f"r{run}"), errors.StoreDenied.exit_code, "only they may change it"),
        (("share",), 2, "name runs, or an experiment"),
        (("share", f"r{run}", "--with", "account:"), 2, "nobody to share with"),
        (("share", f"r{run}", "--only", "friends"), 2, "friends"),
    ):
        found, out, err = site.run("bob", *arguments)
        assert (found, out, err.count("\n")) == (code, "", err.count("\n")), arguments
        assert said in err, arguments
    code, _, err = site.run("alice", "share", f"r{run}", "--with", site.role("bob")[:-1])
    assert (code, err.count("\n")) == (2, 1)
    assert f"did you mean '{site.role('bob')}'" in err
    assert site.query("owner", "SELECT * FROM shares") == []


def test_in_the_personal_mode_nobody_else_is_there(cli, run):
    run("COMPLETED", account="lab")
    code, out, _ = cli("share", "r1")
    assert (code, out.endswith("shared with nobody\n")) == (0, True)


def test_python_shares_too(site):
    run = site.submit("alice")
    with Client(settings=site.of("alice")) as client:
        client.run(run).share(site.role("reader"), "account:guests", only="own")
        told = {str(share.audience) for share in client.run(run).shares()}
        assert told == {"account:guests", site.role("reader")}
        assert sees(site, "reader", run) == (True, True)
        assert client.run(run).unshare(site.role("reader")) == 1
        assert client.run(run).unshare() == 1
        with pytest.raises(errors.UsageError, match="only is one of"):
            client.run(run).share(only="me")
        with pytest.raises(errors.UsageError, match="no user 'nobodys'"):
            client.run(run).share("nobodys")


def test_one_owner_fills_nobodys_lists_with_shares(site):
    """Policies ask the shares with somebody in each of their queries."""
    site.submit("alice")
    more = "INSERT INTO runs (experiment_id) SELECT experiment_id FROM runs, generate_series(1, 1001)"
    site.query("alice", more)
    many = "INSERT INTO shares (run_id, user_name) SELECT id, 'bob' FROM runs ORDER BY id LIMIT %s"
    assert site.query("alice", many, 1000) == 1000
    code, _, err = site.run("alice", "share", "r1002", "--with", site.role("bob"))
    assert (code, err) == (0, "")
    with pytest.raises(Exception, match="shares 1000 things with bob already"):
        site.query("alice", "INSERT INTO shares (run_id, user_name) VALUES (1001, 'bob')")


@pytest.mark.parametrize("text", ["bob", "account:lab", "account:a b", "x:y"])
def test_whom_is_written_as_it_is_read(text):
    assert str(Audience.parse(text)) == text
