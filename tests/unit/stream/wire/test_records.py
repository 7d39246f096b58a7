"""Submission records: found by cluster and job id, private, never half written."""

import json
import os
import stat

import pytest

from hpctrack.stream.wire import records
from tests.support.requirements import root_only


def make(**changes):
    record = records.Record(
        uuid="2f1c7f34-8a4e-4a5e-9d43-0c2c6d6a2f10",
        secret="ab" * 32,
        time=1700000000.25,
        cluster="hpc",
        base_job_id=14,
        tasks=None,
        submission={"script": "#!/bin/sh\necho 'café' \udcff\n"},
        run={"experiment": "default", "args": {"lr": 0.1}},
        collector=("10.0.0.1:7000",),
        transport="spool",
        flush=2.5,
        usage_interval=1.0,
        journal_cap=1 << 20,
    )
    return record._replace(**changes)


@pytest.fixture
def spool(tmp_path):
    return str(tmp_path / "data" / "spool")


#: As records were always written: jobs that an older version submitted may start any time.
WRITTEN = """{"uuid": "2f1c7f34-8a4e-4a5e-9d43-0c2c6d6a2f10", "secret": "SECRET", "time": 1700000000.25,
 "cluster": "hpc", "job_id": 14, "tasks": null,
 "submission": {"script": "#!/bin/sh\\necho 'caf\\u00e9' \\udcff\\n"},
 "run": {"experiment": "default", "args": {"lr": 0.1}}, "collector": ["10.0.0.1:7000"], "transport": "spool",
 "flush": 2.5, "usage_interval": 1.0, "journal_cap": 1048576, "place": ""}""".replace("SECRET", "ab" * 32)


def test_a_record_is_written_and_read_as_ever(spool):
    assert records.dumps(make()).decode() == WRITTEN.replace("\n", "")
    path = records.write(spool, make())
    with open(path, "w") as file:
        file.write(WRITTEN)
    assert records.find(spool, "hpc", 14) == make()


def test_a_record_comes_back_as_it_was(spool):
    record = make()
    assert records.read(records.write(spool, record)) == record
    assert records.find(spool, "hpc", 14) == record


def test_a_run_outside_slurm_is_found_by_its_uuid(spool):
    record = make(cluster=None, base_job_id=None)
    path = records.write(spool, record)
    assert os.path.basename(path) == record.uuid + ".json"
    assert records.read(path) == record


def test_nothing_of_it_is_open_to_others(spool):
    mask = os.umask(0)
    try:
        path = records.write(spool, make())
    finally:
        os.umask(mask)
    marker = os.path.join(spool, "unregistered", "hpc.14.json")
    assert {os.stat(name).st_mode & 0o777 for name in (path, marker)} == {0o600}
    for folder in (spool, os.path.dirname(path), os.path.dirname(marker)):
        assert os.stat(folder).st_mode & 0o777 == 0o700
    assert sorted(os.listdir(os.path.dirname(path))) == ["hpc.14.json"]


def test_no_record_yet(spool):
    assert records.find(spool, "hpc", 14) is None
    records.write(spool, make(base_job_id=15))
    assert records.find(spool, "hpc", 14) is None
    assert records.find(spool, "other", 15) is None


def test_without_a_cluster_only_an_unambiguous_job_id_is_found(spool):
    records.write(spool, make())
    assert records.find(spool, None, 14) == make()
    assert records.find(spool, None, 4) is None
    records.write(spool, make(cluster="other"))
    assert records.find(spool, None, 14) is None


def test_a_job_id_that_comes_again_replaces_the_record(spool):
    records.write(spool, make())
    records.write(spool, make(time=1.0))
    assert records.find(spool, "hpc", 14) == make(time=1.0)


def test_marked_until_postgresql_knows_it(spool):
    assert list(records.unregistered(spool)) == []
    first, second = records.write(spool, make()), records.write(spool, make(base_job_id=9))
    assert set(records.unregistered(spool)) == {first, second}
    records.set_registered(first)
    records.set_registered(first)
    assert list(records.unregistered(spool)) == [second]
    assert records.read(first) == make()


def test_a_marker_without_a_record_is_passed_over(spool):
    os.unlink(records.write(spool, make()))
    assert list(records.unregistered(spool)) == []


def test_a_spool_that_others_may_enter_is_closed_to_them(spool, capsys):
    os.makedirs(spool)
    os.chmod(spool, 0o755)
    records.write(spool, make())
    assert stat.S_IMODE(os.stat(spool).st_mode) == 0o700
    assert f"{spool} was open to others (mode 0755)" in capsys.readouterr().err


def test_links_and_writable_files_are_not_believed(spool, tmp_path):
    path = records.write(spool, make())
    os.chmod(path, 0o620)
    with pytest.raises(PermissionError):
        records.find(spool, "hpc", 14)
    os.chmod(path, 0o600)
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(OSError):
        records.find(spool, "hpc", 14)


@root_only
def test_another_users_file_is_not_believed(spool):
    path = records.write(spool, make())
    os.chown(path, 65534, 65534)
    with pytest.raises(PermissionError):
        records.find(spool, "hpc", 14)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "{}", json.dumps({"uuid": "x"})])
def test_what_is_no_record_is_a_value_error(spool, text):
    path = records.write(spool, make())
    with open(path, "w") as file:
        file.write(text)
    with pytest.raises(ValueError):
        records.find(spool, "hpc", 14)


def test_keys_of_a_later_version_are_ignored(spool):
    path = records.write(spool, make())
    with open(path) as file:
        value = json.load(file)
    with open(path, "w") as file:
        json.dump({**value, "later": 1}, file)
    assert records.find(spool, "hpc", 14) == make()


def test_the_secret_shows_in_no_representation():
    assert make().secret not in repr(make()) + str(make()) + f"{make()}"


def test_a_write_that_fails_leaves_no_draft(spool):
    records.write(spool, make())
    with pytest.raises(TypeError):
        records.write(spool, make(run={"args": object()}))
    assert os.listdir(os.path.join(spool, "submissions")) == ["hpc.14.json"]
    assert records.find(spool, "hpc", 14) == make()


def test_a_record_in_a_batch_script(tmp_path):
    script = tmp_path / "slurm_script"
    script.write_bytes(
        b"#!/bin/sh\n#SBATCH -n1 \xff\n" + records.PREFIX + records.dumps(make()) + b"\n: \xe9\n"
    )
    script.chmod(0o700)
    assert records.read(str(script)) == make()
    script.write_bytes(b"#!/bin/sh\n:\n")
    with pytest.raises(ValueError, match="not a submission record"):
        records.read(str(script))
