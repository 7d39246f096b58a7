"""All that hpctrack makes is private, and nothing is believed that somebody else could have put there."""

from __future__ import annotations

import json
import os
import stat
import sys

import pytest

from hpctrack import files
from hpctrack import settings as configuration
from hpctrack.slurm import site as slurm_site
from hpctrack.stream.collector import launch
from hpctrack.stream.disk import folders
from hpctrack.stream.wire import records
from hpctrack.stream.wire.names import Address
from tests.support.requirements import root_only

STRANGER = 65534
#: What we make open to others: nothing. (The user's script in the run folder is executable: 0700.)
EXECUTABLE = "slurm_script"


@pytest.fixture
def server(wheel_server):
    """Which PostgreSQL it is makes no difference here."""
    return wheel_server


def open_to_others(folder) -> dict[str, str]:
    """Return the modes of what is not as private as it should be, in a folder and below."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        mode = os.lstat(path).st_mode
        wanted = 0o700 if stat.S_ISDIR(mode) or path.name == EXECUTABLE else 0o600
        if not stat.S_ISLNK(mode) and mode & 0o777 != wanted:
            found[str(path.relative_to(folder))] = f"{mode & 0o777:04o}"
    return found


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077, 0o777], ids="{:03o}".format)
def test_all_that_the_verbs_make_is_private_whatever_the_umask(stored, umask):
    node = stored.folder / "node"
    node.mkdir()
    node.chmod(0o1777)
    environ = {"HPCTRACK_NODE_DIR": str(node), "HPCTRACK_TRANSPORT": "spool", "HPCTRACK_KEY_IN": "script"}
    log = "import hpctrack; hpctrack.log(step=1, loss=1.0)"

    def run(verb, *words):
        return stored.sbatch(*words, verb=verb, environ=environ, umask=umask)

    script = stored.script()
    assert run("sbatch", script)[0] == 0
    assert run("sbatch", "--unfamiliar-option=1", script)[0] == 0  # sbatch is asked for its options
    assert run("run", "--", sys.executable, "-c", log)[0] == 0
    for words in (["status"], ["doctor"], ["reconcile"], ["sync"], ["show", "r1"], ["rerun", "--yes", "r1"]):
        run(*words)
    data = stored.folder / "data"
    made = {str(path.relative_to(data)) for path in data.rglob("*")}
    assert {"spool/submissions/fake.14.json", "cache/sbatch-options.json", "spool/unregistered"} <= made
    assert [name for name in made if name.endswith((".part", ".journal"))]
    assert open_to_others(data) == {}
    assert [home for home in node.iterdir() if open_to_others(home)] == []


def test_folders_that_were_open_to_a_group_are_mended_and_that_is_said(stored):
    data = stored.folder / "data"
    for name in ("", "spool", "cache"):
        (data / name).mkdir()
        (data / name).chmod(0o775)
    code, out, err = stored.sbatch(stored.script())
    assert (code, out) == (0, "Submitted batch job 14\n")
    assert err.count("was open to others (mode 0775)") == 3 and err.count("\n") == 3
    assert open_to_others(data) == {}
    assert stored.sbatch(stored.script(), environ={"FAKE_STDOUT": "Submitted batch job 15\n"})[2] == ""


@root_only
@pytest.mark.parametrize("verb", ["sbatch", "run"])
@pytest.mark.parametrize("what", ["data", "data/spool", "data/spool/submissions"])
def test_folders_of_somebody_else_are_refused_and_the_job_goes_on(site, what, verb):
    path = site.folder / what
    path.mkdir(parents=True)
    path.chmod(0o777)
    os.chown(path, STRANGER, STRANGER)
    words = [site.script()] if verb == "sbatch" else ["--", "sh", "-c", "exit 0"]
    code, _, err = site.sbatch(*words, verb=verb)
    assert code == 0
    assert f"{path}" in err and f"belongs to another user (id {STRANGER})" in err
    assert not [name for name in path.rglob("*") if name.is_file()]


# ---- what is there already -------------------------------------------------------------------------------


class Home:
    """A user's data folder with everything in it that is read again."""

    def __init__(self, folder) -> None:
        self.above = folder / "home"
        self.above.mkdir()
        self.above.chmod(0o700)
        data = self.above / "data"
        self.settings = configuration.Settings(data_dir=str(data))
        spool = self.settings.spool
        record = records.Record("u-u", "00" * 32, 1.0, "c", 14, None, {}, {})
        records.write(spool, record)
        launch.write_addresses(self.settings, ["evil:1"])
        run = os.path.join(spool, "journals", "c.14.0.abcd")
        folders.make(run)
        folders.write_identity(run, folders.Identity("u-u", -1))
        slurm_site.note_client({"PATH": "/evil"}, self.settings.cache)
        with launch.Lock(self.settings) as lock:
            lock.acquire()
            lock.sign(1)
        self.run = run

    def read(self, thing):
        """Read one thing; return whether what it says was believed."""
        if thing == "cache/slurm-client.json":
            return slurm_site.client_environ({"PATH": "/bin"}, self.settings.cache)["PATH"] == "/evil"
        if thing == "spool/collector":
            return launch.read_addresses(self.settings) == [Address("evil", 1)]
        if thing == "collector.lock":
            return launch.Lock(self.settings).process() == 1
        if thing.endswith("identity.json"):
            return folders.read_identity(self.run) is not None
        try:
            return records.find(self.settings.spool, "c", 14) is not None
        except PermissionError:
            return False


THINGS = (
    "cache/slurm-client.json", "spool/collector", "collector.lock", "spool/submissions/c.14.json",
    "spool/journals/c.14.0.abcd/identity.json",
)  # fmt: skip


def _link(path):
    os.rename(path, f"{path}.target")
    os.symlink(f"{path}.target", path)


def _fifo(path):
    os.unlink(path)
    os.mkfifo(path)


def _endless(path):
    os.unlink(path)
    os.symlink("/dev/zero", path)


SWAPS = {
    "somebody else's": lambda path: os.chown(path, STRANGER, STRANGER),
    "0666": lambda path: os.chmod(path, 0o666),
    "0620": lambda path: os.chmod(path, 0o620),
    "a link": _link,
    "a FIFO": _fifo,
    "endless": _endless,
    "huge": lambda path: os.truncate(path, 1 << 40),
}


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077, 0o777], ids="{:03o}".format)
def test_each_of_them_is_private_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        home = Home(tmp_path)
    finally:
        os.umask(before)
    assert open_to_others(home.above / "data") == {}


@root_only
@pytest.mark.parametrize("thing", THINGS)
def test_what_is_ours_is_believed(tmp_path, thing):
    assert Home(tmp_path).read(thing)


@root_only
@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("thing", THINGS)
def test_a_file_that_somebody_else_could_have_written_is_not_believed(tmp_path, thing, swap):
    home = Home(tmp_path)
    SWAPS[swap](os.path.join(home.settings.data_dir, thing))
    assert not home.read(thing)


def _open_above(home):
    home.above.chmod(0o775)


def _foreign_above(home):
    os.chown(home.above, STRANGER, STRANGER)


def _open_cache(home):
    os.chmod(home.settings.cache, 0o775)


@root_only
@pytest.mark.parametrize("expose", [_open_above, _foreign_above, _open_cache])
def test_what_decides_which_programs_run_is_believed_only_where_nobody_can_swap_it(tmp_path, expose):
    home = Home(tmp_path)
    expose(home)
    assert not home.read("cache/slurm-client.json")
    assert home.read("spool/collector") and home.read("spool/submissions/c.14.json")


def test_an_answer_that_could_have_been_swapped_is_asked_for_anew(stored):
    assert stored.sbatch(stored.script())[0] == 0
    cache = stored.folder / "data" / "cache" / "cluster-name.json"
    answer = json.loads(cache.read_text())
    cache.write_text(json.dumps({**answer, "answer": "evil"}))
    cache.chmod(0o666)
    stored.sbatch(stored.script(), environ={"FAKE_STDOUT": "Submitted batch job 15\n"})
    assert stored.query("SELECT DISTINCT cluster FROM submissions") == [("fake",)]
    assert files.read(str(cache), 1 << 20) == json.dumps(answer).encode()
    assert len(stored.calls("scontrols")) == 2
