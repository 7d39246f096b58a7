"""hpctrack doctor: what it says of a site that works, and of each thing that may not."""

from __future__ import annotations

import json
import socket
import sys
import uuid

import pytest

from hpctrack.cli import main
from hpctrack.cli.doctor import folders, postgresql
from hpctrack.store import database as store
from hpctrack.store.write import collectors
from hpctrack.stream.wire import records
from tests.support.disks import fill
from tests.support.waiting import eventually

SLURM = """\
#!{python} -IS
import json, os, sys
name = os.path.basename(sys.argv[0])
said = json.load(open(os.path.dirname(os.path.abspath(__file__)) + "/says")).get(name)
if said:
    sys.exit(said)
print({"sbatch": "slurm 22.05.8", "scontrol": "ClusterName = mini"}.get(name, "7"))
"""


@pytest.fixture
def settings(database):
    return database._replace(collector_bind="127.0.0.1")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm on PATH whose commands fail with what they are told to say."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
        (folder / name).write_text(SLURM.replace("{python}", sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))

    def says(**errors):
        (folder / "says").write_text(json.dumps(errors))

    says()
    return says


@pytest.fixture
def doctor(settings, slurm, monkeypatch, capsys, tmp_path):
    """Run hpctrack doctor; returns exit code and the checks by name."""
    monkeypatch.chdir(tmp_path)
    for name, value in settings.dsn.items():
        monkeypatch.setenv(f"HPCTRACK_DSN_{name.upper()}", value)
    monkeypatch.setenv("HPCTRACK_DATA_DIR", settings.data_dir)
    monkeypatch.setenv("HPCTRACK_NODE_DIR", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()

    def call(*arguments):
        code = main.run(["doctor", "--json", *arguments])
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert err == ""
        assert code == (1 if told["broken"] else 0)
        assert all(check["do"] for check in told["checks"] if check["state"] != "ok")
        return code, {check["name"]: (check["state"], check["says"]) for check in told["checks"]}

    return call


@pytest.fixture
def collector(collect, settings):
    """A collector that PostgreSQL knows of."""
    collecting = collect("--reconcile")
    host, port = collecting.address()
    with store.connect(settings, autocommit=True) as connection:
        eventually(lambda: [row for row in collectors.fetch(connection) if row.live])
    return f"{host}:{port}"


def test_all_is_well(doctor, collector, connection, capsys):
    code, told = doctor()
    assert code == 0
    assert {state for state, _ in told.values()} == {"ok"}
    assert list(told) == [
        "configuration", "data folder", "node folder", "PostgreSQL", "schema", "clock", "collector",
        "submitting", "echo", "Slurm", "squeue", "sacct", "reconciler", "accounts",
        "spool",
    ]  # fmt: skip
    assert told["echo"][1].startswith(f"{collector} answers in ")
    assert told["Slurm"][1] == "slurm 22.05.8, cluster mini"
    assert main.run(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ok        spool          nothing waits"
    for table in ("runs", "submissions", "run_keys", "experiments"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), "it cleans up"


def test_without_a_collector(doctor):
    code, told = doctor()
    assert code == 1
    assert told["collector"] == ("broken", "none has told PostgreSQL lately that it lives")
    assert told["echo"] == ("broken", "no address of a collector is known")


def test_a_collector_that_is_not_reached(doctor, collector, connection, monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setenv("HPCTRACK_COLLECTOR", address)
        code, told = doctor()
        assert code == 1
        assert told["echo"] == ("broken", f"no answer from {address} within 3 s")
        monkeypatch.setenv("HPCTRACK_COLLECTOR", f"{address} {collector}")
        assert doctor()[0] == 0, "relays try one after the other"
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_a_postgresql_that_is_away(doctor, monkeypatch):
    monkeypatch.setenv("HPCTRACK_DSN_PORT", "1")
    code, told = doctor()
    assert code == 1
    assert told["PostgreSQL"][0] == "broken"
    assert "schema" not in told
    assert told["squeue"][0] == told["spool"][0] == "ok"
    monkeypatch.setenv("HPCTRACK_DSN_PORT", "none")
    assert doctor()[1]["PostgreSQL"][0] == "broken"


def test_a_wrong_password(doctor, monkeypatch):
    monkeypatch.setenv("HPCTRACK_DSN_PASSWORD", "horse battery")
    code, told = doctor()
    assert code == 1
    assert "refused the login" in told["PostgreSQL"][1]
    assert "horse" not in str(told)


def test_a_schema_that_is_not_there(doctor, monkeypatch):
    monkeypatch.setenv("HPCTRACK_SCHEMA", "elsewhere")
    code, told = doctor()
    assert code == 1
    assert told["schema"][0] == "broken"
    assert "hpctrack setup" in told["schema"][1]
    assert "echo" not in told


def test_a_configuration_that_does_not_parse(doctor, tmp_path):
    path = tmp_path / "hpctrack.conf"
    path.write_text("flush = soon\n")
    code, told = doctor()
    assert code == 1
    assert told == {"configuration": ("broken", told["configuration"][1])}
    assert "hpctrack.conf:1: flush" in told["configuration"][1]


def test_a_data_folder_that_can_not_be_written(doctor, settings, tmp_path):
    (tmp_path / "data").write_text("")
    code, told = doctor()
    assert code == 1
    assert told["data folder"] == ("broken", f"{settings.data_dir}: is a regular file, not a folder")


@pytest.mark.parametrize(
    ("says", "name", "state", "words"),
    [
        ({"squeue": "Unable to contact slurm controller"}, "squeue", "broken", "Unable to contact"),
        ({"sacct": "Connection refused"}, "sacct", "broken", "Connection refused"),
        ({"sacct": "Slurm accounting storage is disabled"}, "sacct", "note", "keeps no accounts"),
        ({"sbatch": "fatal: no config"}, "Slurm", "broken", "no config"),
    ],
)
def test_what_slurms_commands_say(doctor, slurm, collector, says, name, state, words):
    slurm(**says)
    code, told = doctor()
    assert (told[name][0], code) == (state, 1 if state == "broken" else 0)
    assert words in told[name][1]


def test_a_pyslurm_that_does_not_fit(doctor, collector, monkeypatch, tmp_path):
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "pyslurm.py").write_text("__version__ = '24.5.0'")
    monkeypatch.syspath_prepend(str(tmp_path / "stub"))
    for wanted, state in (("auto", None), ("pyslurm", "broken")):
        monkeypatch.setenv("HPCTRACK_SLURM_BACKEND", wanted)
        code, told = doctor()
        assert (code, told.get("slurm_backend", (None,))[0]) == (1 if state else 0, state)
    assert "slurm_backend = pyslurm: pyslurm 24.5.0 is not for Slurm" in told["slurm_backend"][1]


def test_without_slurm_only_a_note(doctor, collector, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    code, told = doctor()
    assert code == 0
    assert told["Slurm"][0] == "note"
    assert "squeue" not in told


def test_slurm_is_silent_for_the_reconciler(doctor, collector, insert):
    insert("clusters", name="mini", unreachable_since="2026-01-01", error="squeue: no")
    assert doctor()[1]["reconciler"][0] == "ok", "no run waits for its word"
    experiment, name = insert("experiments", name="e"), uuid.uuid4()
    insert("submissions", uuid=name, user_name="u", cluster="mini", time="2026-01-01")
    run = {"experiment_id": experiment, "status": "RUNNING", "submission": name, "task": -1}
    insert("runs", **run, cluster="mini", slurm_job_id=14)
    code, told = doctor()
    assert code == 1
    assert told["reconciler"][0] == "broken"
    assert "has not answered since" in told["reconciler"][1]


def test_nobody_asks_slurm(doctor, connection, collect, insert):
    """Every collector was started with --no-reconcile."""
    eventually(collect().address)
    eventually(lambda: collectors.fetch(connection))
    for checked in (None, "1999-01-01"):
        connection.execute("DELETE FROM clusters")
        insert("clusters", name="mini", time_checked=checked)
        code, told = doctor()
        assert (code, told["reconciler"][0]) == (1, "broken")
        assert "nobody asks Slurm" in told["reconciler"][1]
    connection.execute("UPDATE clusters SET time_checked = now()")
    assert doctor()[1]["reconciler"][0] == "ok", "somebody calls hpctrack reconcile"


def test_what_waits_in_the_spool_is_a_note(doctor, settings, monkeypatch):
    monkeypatch.setenv("HPCTRACK_DSN_PORT", "1")
    for job in (1, 2):
        records.write(settings.spool, records.Record(str(job), "00", 0.0, "c", job, None, {}, {}))
    _, told = doctor()
    assert told["spool"] == ("note", "2 submissions wait to be delivered")


def test_a_reader_may_not_submit_and_a_user_may(roles, slurm):
    reader = roles.of("reader")
    with store.connect(roles.settings, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO collectors (id, host, pid, addresses)"
            " VALUES (gen_random_uuid(), 'h', 1, '{127.0.0.1:9}')"
        )
    code, out, err = roles.run("reader", "doctor", "--json")
    told = {check["name"]: check for check in json.loads(out)["checks"]}
    assert (code, err) == (1, "")
    assert told["submitting"]["state"] == "broken"
    assert "--grant-user" in told["submitting"]["do"]
    assert told["PostgreSQL"]["says"].endswith(f"as {reader.dsn['user']}")
    code, out, _ = roles.run("alice", "doctor", "--json")
    told = {check["name"]: check for check in json.loads(out)["checks"]}
    assert (told["submitting"]["state"], told["echo"]["says"]) == ("ok", "nobody listens at 127.0.0.1:9")
    for table in ("runs", "submissions", "experiments"):
        assert roles.query("owner", f"SELECT count(*) FROM {table}") == [(0,)], "she may clean up, too"


@pytest.mark.parametrize(
    ("skew", "state", "says"),
    [
        (0.01, "ok", "differ by 0.01 s"),
        (-1.9, "ok", "differ by 1.90 s"),
        (2.5, "note", "2.5 s ahead of"),
        (-61, "broken", "61.0 s behind"),
    ],
)
def test_clocks(skew, state, says):
    check = postgresql.judge_clock(skew)
    assert (check.state, bool(check.do)) == (state, state != "ok")
    assert says in check.says


def test_options_of_sbatchs_need_the_job(capsys):
    assert main.run(["doctor", "-p", "debug"]) == 2
    assert "write --job -- -p debug" in capsys.readouterr().err


def test_a_full_disk_is_told(small_disk, settings):
    full = settings._replace(data_dir=str(small_disk / "data"))
    small_disk.chmod(0o700)
    assert folders.data_folder(full).state == "ok"
    fill(small_disk)
    check = folders.data_folder(full)
    assert (check.state, "No space left" in check.says) == ("broken", True)
    assert not list((small_disk / "data").rglob("doctor.*"))


def test_a_full_folder_of_the_node_is_told(small_disk, settings):
    full = settings._replace(node_dir=str(small_disk))
    assert folders.node_folder(full).state == "ok"
    fill(small_disk)
    check = folders.node_folder(full)
    assert (check.state, "No space left" in check.says) == ("broken", True)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    assert folders.node_folder(settings._replace(node_dir="/nowhere")).state == "note"


def test_a_client_that_says_nothing_is_named(doctor, collector, connection, insert):
    insert("experiments", name="e")
    user = connection.info.user
    for kind, minutes in (("client", 20), ("client", 1), ("batch", 20)):
        insert("runs", experiment_id=1, status="RUNNING", kind=kind, user_name=user)
        connection.execute(
            "UPDATE runs SET time_updated = now() - %s * interval '1 minute'"
            " WHERE id = (SELECT max(id) FROM runs)",
            [minutes],
        )
    insert("runs", experiment_id=1, status="RUNNING", user_name="somebody", time_updated="2026-01-01Z")
    code, checks = doctor()
    assert checks["clients"][0] == "note"
    assert checks["clients"][1].startswith("r1: RUNNING, and not heard from")
    connection.execute("UPDATE runs SET status = 'FAILED' WHERE id IN (1)")
    assert "clients" not in doctor()[1]
    assert code == 0
