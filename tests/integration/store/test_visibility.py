"""Who sees which runs of a site, by every way there is; and what strangers try, to see more."""

from __future__ import annotations

import json

import psycopg
import pytest

from hpctrack.store.read import completions, known_names
from tests.support.roles import PASSWORD

DENIED = psycopg.errors.InsufficientPrivilege
#: In every text of a run that strangers do not get to see.
SECRET = "hush"
_FILL = (
    "INSERT INTO metrics (run_id, step, extra) VALUES (%(run)s, 1, '{\"hush/loss\": 0.5}')",
    "INSERT INTO run_latest (run_id, last) VALUES (%(run)s, '{\"hush/loss\": 0.5}')",
    "INSERT INTO attempts (run_id, attempt, reason, stderr_tail) VALUES (%(run)s, 0, 'hush', 'hush')",
    "INSERT INTO rejected (run_id, journal_id, start_offset, end_offset, reason, payload)"
    " VALUES (%(run)s, 'hush', 0, 1, 'hush', 'hush')",
    "INSERT INTO usage (run_id, attempt, node, time) VALUES (%(run)s, 0, 'hush1', now())",
    "INSERT INTO streams (run_id, journal_id) VALUES (%(run)s, 'hush')",
    "INSERT INTO transitions (run_id, source, reason) VALUES (%(run)s, 'user', 'hush')",
    "INSERT INTO run_relationships VALUES (%(run)s, 'hush', %(run)s)",
    "INSERT INTO experiment_relationships SELECT experiment_id, 'hush', experiment_id FROM runs"
    " WHERE id = %(run)s",
    "UPDATE runs SET comment = 'hush', tags = '{\"hush\": true}', partition = 'hush' WHERE id = %(run)s",
    "UPDATE submissions SET script = 'hush'",
    "UPDATE experiments SET comment = 'hush', tags = '{\"hush\": true}'"
    " WHERE id = (SELECT experiment_id FROM runs WHERE id = %(run)s)",
)


@pytest.fixture
def site(roles):
    """A site with its first choices (runs: account, details: own), and a run of alice's, of account lab."""
    code, _, err = roles.run("owner", "setup", "--runs-visible", "account", "--details-visible", "own")
    assert (code, err) == (0, "")
    return roles


@pytest.fixture
def hidden(site):
    """The run, which is full of the secret word; returns its id."""
    run = site.submit(
        "alice", SECRET, job_name=SECRET, account="lab", args={SECRET: SECRET}, tags={SECRET: SECRET}
    )
    for statement in _FILL:
        site.connect("owner").execute(statement, {"run": run})
    site.submit("bob", "own", job_name="own", account="other")
    return run


def relations(roles) -> list[str]:
    query = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'hpctrack'::regnamespace"
        " AND relkind IN ('r', 'p', 'v') AND relname NOT IN ('run_keys', 'events', 'deletions')"
        " AND has_table_privilege('%s', oid, 'SELECT') ORDER BY 1"
    )
    return [name for (name,) in roles.query("owner", query % roles.role("bob"))]


def telling(roles, name: str) -> set[str]:
    """Return the tables and views in which somebody finds the word."""
    found = set()
    for relation in relations(roles):
        [(count,)] = roles.query(name, f"SELECT count(*) FROM {relation} t WHERE t::text LIKE '%%hush%%'")
        found |= {relation} if count else set()
    return found


def member(roles, name: str, account: str | None, role: str = "member") -> None:
    roles.query("owner", "DELETE FROM members WHERE user_name = %s", roles.role(name))
    roles.query("owner", "INSERT INTO members VALUES (%s, %s, %s)", account, roles.role(name), role)


#: What has details only.
_DETAILS = {"runs", "attempts", "submissions", "rejected"}


def test_each_sees_what_is_theirs_by_every_table_and_view(site, hidden):
    everything = telling(site, "alice")
    # visible_runs and the like have ids alone.
    assert (
        everything
        > {"run_overview", "jobs", "experiments", "metrics", "transitions", "attempt_facts"} | _DETAILS
    )
    assert telling(site, "bob") == set()
    member(site, "bob", "other")
    assert telling(site, "bob") == set()
    member(site, "bob", "lab")
    assert telling(site, "bob") == everything - _DETAILS
    assert site.query("bob", "SELECT args, env FROM run_overview WHERE id = %s", hidden) == [(None, None)]
    for account, role in (("lab", "coordinator"), (None, "operator")):
        member(site, "bob", account, role)
        assert telling(site, "bob") == everything
    member(site, "bob", "other", "coordinator")
    assert telling(site, "bob") == set()
    assert telling(site, "collector") == telling(site, "owner") == everything


@pytest.mark.parametrize(
    ("runs", "details", "fellow", "stranger"),
    [("own", "own", (False, False), (False, False)), ("account", "account", (True, True), (False, False)),
     ("all", "own", (True, False), (True, False)), ("all", "account", (True, True), (True, False)),
     ("all", "all", (True, True), (True, True))],
)  # fmt: skip
def test_the_site_chooses(site, hidden, runs, details, fellow, stranger):
    member(site, "bob", "lab")
    code, _, err = site.run("owner", "setup", "--runs-visible", runs, "--details-visible", details)
    assert (code, err) == (0, "")
    for name, expected in (("bob", fellow), ("reader", stranger)):
        found = telling(site, name)
        assert ("run_overview" in found, "runs" in found) == expected
        assert ("metrics" in found, "submissions" in found) == expected
        assert ("experiments" in found) == expected[0]


def test_details_are_not_for_more_than_runs(site):
    code, _, err = site.run("owner", "setup", "--runs-visible", "own", "--details-visible", "all")
    assert (code, err.count("\n")) == (65, 1)
    assert "details can't be seen by more than runs" in err
    code, _, err = site.run("alice", "setup", "--runs-visible", "all")
    assert code == 77


#: Commands that list, count, or say what was probably meant.
_COMMANDS = (
    ("status", "-a"), ("status", "-a", "--json"), ("status", "-a", "--count"),
    ("status", "-a", "--csv", "--all"),
    ("status", "-a", "--sort", "metrics.hus/loss"), ("status", "-a", "--where", "tags.hus = 1"),
    ("status", "-a", "--where", "args.hus = 1 or metrics.hus > 0"), ("status", "-a", "-p", "hus"),
    ("status", "-a", "-T", "hus"), ("status", "-a", "-E", "hus"), ("status", "-a", "--name", "h*"),
    ("status", "--user", "alice_of_tests"), ("experiment", "list", "-a"), ("experiment", "show", "hus"),
    ("experiment", "show", "hush"), ("show", "hus"), ("show", "r1"), ("metrics", "r1"),
    ("compare", "r1", "r2"), ("share", "r1"), ("note", "r1", "x"), ("tag", "r1", "x"),
    ("share", "-E", "hush", "--with", "bob_of_tests"),
    ("collector", "--status"),
)  # fmt: skip


@pytest.mark.parametrize("command", _COMMANDS, ids=" ".join)
def test_no_command_tells_a_stranger(site, hidden, command):
    assert hidden == 1
    _, out, err = site.run("bob", *command)
    # What was typed comes back, and nothing else.
    typed = [word for word in command if SECRET in word]
    told = out + err
    for word in typed:
        told = told.replace(repr(word), "").replace(word, "")
    assert SECRET not in told
    assert site.role("alice") not in told.replace(f"'{site.role('alice')}'", "")
    assert "r1 belongs" not in told


def test_nothing_is_completed_or_known_that_is_not_seen(site, hidden):
    with completions.source(site.of("bob")) as source:
        words = [*source.runs(""), *source.runs("h"), *source.experiments(""), *source.metrics(["r1"], "")]
        words += source.tags(["r1"], "")
    assert [word.text for word in words] == ["r2", "own"]
    assert SECRET not in json.dumps(known_names.of_runs(site.connect("bob")))
    assert known_names.experiments(site.connect("bob")) == ["own"]


_LEAK = (
    "CREATE FUNCTION pg_temp.leak(value text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001"
    " AS $$ BEGIN RAISE NOTICE '%', value; RETURN true; END $$"
)


def noticed(connection) -> list[str]:
    """Return the list that notices come into."""
    seen: list[str] = []
    connection.add_notice_handler(lambda notice: seen.append(notice.message_primary or ""))
    return seen


def test_no_function_in_a_condition_gets_what_is_hidden(site, hidden):
    for name, account in (("bob", "other"), ("reader", "lab")):
        member(site, name, account)
        connection = site.connect(name)
        seen = noticed(connection)
        site.execute(f"GRANT TEMPORARY ON DATABASE {site.settings.dsn['dbname']} TO {site.role(name)}")
        connection.execute(_LEAK)
        for relation in relations(site):
            seen.clear()
            connection.execute(f"SELECT count(*) FROM {relation} t WHERE pg_temp.leak(t::text)").fetchall()
            told = any(SECRET in line for line in seen)
            assert told == (name == "reader" and relation in telling(site, "reader")), (name, relation)
        for condition in ("pg_temp.leak(args::text)", "pg_temp.leak(env::text) OR pg_temp.leak(last::text)"):
            seen.clear()
            connection.execute(
                f"SELECT id FROM run_overview WHERE {condition} ORDER BY id LIMIT 5"
            ).fetchall()
            assert not [line for line in seen if SECRET in line and (name == "bob" or "args" in condition)]


#: By what a stranger puts something of his own beside what is hidden, to see it or to learn that it is there.
_ATTEMPTS = (
    "INSERT INTO runs (experiment_id) VALUES (%(experiment)s)",
    "UPDATE runs SET experiment_id = %(experiment)s WHERE user_name = session_user",
    "INSERT INTO shares (run_id, user_name) VALUES (%(run)s, session_user)",
    "INSERT INTO shares (owner, run_id, user_name) VALUES (%(alice)s, %(run)s, session_user)",
    "INSERT INTO shares (experiment_id, user_name) VALUES (%(experiment)s, session_user)",
    "INSERT INTO run_links SELECT id, 'x', %(run)s FROM runs WHERE user_name = session_user",
    "INSERT INTO run_links SELECT %(run)s, 'x', id FROM runs WHERE user_name = session_user",
    "INSERT INTO experiment_links SELECT id, 'x', %(experiment)s FROM experiments"
    " WHERE user_name = session_user",
    "INSERT INTO experiment_scopes VALUES (%(experiment)s, 'own')",
    "INSERT INTO members VALUES ('lab', session_user, 'member')",
    "INSERT INTO members VALUES (NULL, session_user, 'operator')",
    "UPDATE members SET role = 'operator', account = NULL",
    "INSERT INTO site VALUES ('runs_visible', 'all')",
    "UPDATE shares SET user_name = session_user",
    "INSERT INTO run_facts SELECT * FROM run_facts",
    "SELECT * FROM run_facts FOR UPDATE",
    "TRUNCATE shares",
)


def test_nobody_gets_beside_what_is_hidden(site, hidden):
    member(site, "bob", "other")
    [(experiment,)] = site.query("owner", "SELECT experiment_id FROM runs WHERE id = %s", hidden)
    # Of what is not there he is told the same.
    for run, group in ((hidden, experiment), (9999, 9999)):
        names = {"run": run, "experiment": group, "alice": site.role("alice")}
        for statement in _ATTEMPTS:
            with pytest.raises(DENIED) as caught:
                site.connect("bob").execute(statement, names)
            assert SECRET not in str(caught.value)
    assert telling(site, "bob") == set()
    site.query("bob", "UPDATE runs SET account = 'lab'")
    assert telling(site, "bob") == set()
    assert site.query("owner", "SELECT count(*) FROM runs WHERE experiment_id = %s", experiment) == [(1,)]


def test_a_name_is_shared_and_tells_of_itself_only(site, hidden):
    """Experiments have one space of names, as in SQLTrack's tables: whoever knows one may submit into it."""
    with pytest.raises(psycopg.errors.UniqueViolation):
        site.query("bob", "INSERT INTO experiments (name) VALUES ('hush')")
    assert telling(site, "bob") == set()
    run = site.submit("bob", SECRET, job_name="own")
    assert telling(site, "bob") == {
        "experiments",
        "experiment_relationships",
        "experiment_links",
        "jobs",
        "run_overview",
    }
    assert site.query("bob", "SELECT id FROM run_overview WHERE experiment = 'hush'") == [(run,)]


def test_an_experiments_deletion_says_nothing_of_hidden_runs(site):
    site.submit("bob", "joint", job_name="own")
    run = site.submit("alice", "joint", job_name=SECRET, account="lab")
    with pytest.raises(DENIED) as caught:
        site.query("bob", "DELETE FROM experiments WHERE name = 'joint'")
    assert site.role("alice") not in str(caught.value)
    assert f"r{run}" not in str(caught.value)


def test_by_itself_a_list_is_of_ones_own(site, hidden):
    member(site, "bob", "lab")

    def listed(*arguments: str) -> list[int]:
        code, out, err = site.run("bob", "status", "--json", *arguments)
        assert (code, err) == (0, "")
        return [run["id"] for run in json.loads(out)["runs"]]

    assert listed() == listed("--me") == [2]
    assert listed("-a") == listed("--allusers") == [1, 2]
    assert listed("r1") == listed("--user", site.role("alice")) == [1]
    assert listed("-a", "-l", "1", "--after", "r2") == [1]
    assert site.run("bob", "status", "-a", "--me")[0] == 2
    names = [line.split()[0] for line in site.run("bob", "experiment", "list")[1].splitlines()[1:]]
    assert names == ["own"]
    assert SECRET in site.run("bob", "experiment", "list", "-a")[1]
    code, out, _ = site.run("reader", "status")
    assert (code, out.startswith("No runs yet."), "--allusers" in out) == (0, True, True)
    code, out, _ = site.run("owner", "status", "--json")
    assert [run["id"] for run in json.loads(out)["runs"]] == [1, 2]


def test_an_owner_that_is_a_superuser_shows_no_more(database, connection, server):
    """Views are of whoever asks: it does not matter who owns them."""
    role = f"stranger_{database.dsn['dbname']}"
    server.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    connection.execute(f"GRANT USAGE ON SCHEMA hpctrack TO {role}".encode())
    connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA hpctrack TO {role}".encode())
    connection.execute("INSERT INTO experiments (name) VALUES ('hush')")
    connection.execute("INSERT INTO runs (experiment_id, job_name) SELECT id, 'hush' FROM experiments")
    dsn = {**database.dsn, "user": role, "password": PASSWORD}
    with psycopg.connect(**dsn, options="-c search_path=hpctrack") as stranger:
        for relation in ("run_overview", "run_facts", "runs", "jobs", "experiments"):
            assert stranger.execute(f"SELECT * FROM {relation}".encode()).fetchall() == [], relation
    connection.execute(f"DROP OWNED BY {role}".encode())
    server.execute(f"DROP ROLE {role}")
