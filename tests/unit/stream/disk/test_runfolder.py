"""Where the run folder goes, and whom it trusts."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys

import pytest

from hpctrack import resources
from hpctrack.stream.disk import runfolder
from hpctrack.stream.wire import journal


def test_create_makes_private_folder_and_shell_journal(tmp_path):
    folder = runfolder.create("/home/a/spool", str(tmp_path), "cluster.14", 2)
    assert folder.name.startswith("cluster.14.2.")
    assert folder.path == str(tmp_path / f"hpctrack-{os.geteuid()}" / folder.name)
    assert folder.spool_path == f"/home/a/spool/journals/{folder.name}"
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
    with open(folder.shell_journal, "rb") as file:
        assert journal.parse_header(file.read()) == journal.Header(attempt=2, rank=0, lost=0)
    assert stat.S_IMODE(os.stat(folder.shell_journal).st_mode) == 0o600


def test_two_attempts_never_share_a_folder(tmp_path):
    first = runfolder.create("/spool", str(tmp_path), "c.1", 0)
    assert runfolder.create("/spool", str(tmp_path), "c.1", 0).path != first.path


def take_name(parent, how):
    """Take the name of this user's folder, as others can in /tmp."""
    home = parent / f"hpctrack-{os.geteuid()}"
    if how == "link":
        (parent / "elsewhere").mkdir(mode=0o700)
        home.symlink_to(parent / "elsewhere")
        return
    home.mkdir(mode=0o700)
    if how == "open":
        home.chmod(0o755)
    elif os.geteuid() != 0:
        pytest.skip("only root can give files away")
    else:
        os.chown(home, 65534, 65534)


@pytest.mark.parametrize("how", ["open", "link", "somebody else's"])
def test_a_name_that_is_taken_is_avoided(tmp_path, how):
    take_name(tmp_path, how)
    path = tmp_path / f"hpctrack-{os.geteuid()}.planted"
    path.mkdir()
    path.chmod(0o777)
    homes = {
        os.path.dirname(runfolder.create("/spool", str(tmp_path), f"c.{job}", 0).path) for job in range(2)
    }
    [home] = homes
    assert re.fullmatch(rf"hpctrack-{os.geteuid()}\.[0-9a-f]{{16}}", os.path.basename(home))
    assert stat.S_IMODE(os.lstat(home).st_mode) == 0o700
    assert runfolder.homes(str(tmp_path)) == [home]


def test_a_missing_parent_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        runfolder.create("/spool", str(tmp_path / "missing"), "c.1", 0)


def test_the_folder_for_scripts_holds_this_package_alone():
    assert [name for name in os.listdir(resources.IMPORTABLE) if name != "__pycache__"] == ["hpctrack"]


COME_AND_GO = """
import sys
from hpctrack import resources
from hpctrack.stream.disk import runfolder
for _ in range(400):
    runfolder.discard(runfolder.create(sys.argv[1], sys.argv[2], "c.1", 0).path)
"""


def test_who_discards_its_folder_takes_no_others_home_away(tmp_path):
    """A run that can't be tracked removes the home of run folders, too, if it is empty."""
    command = [sys.executable, "-c", COME_AND_GO, str(tmp_path / "spool"), str(tmp_path)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert said == [""] * 4
    assert os.listdir(tmp_path) == [], "neither a folder nor a home under another name stays"
