"""Configuration that can't be believed: no verb waits for it, none follows it, and no job suffers."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from hpctrack.cli.table_of_verbs import VERBS
from tests.support.verbs import EXAMPLES, WITHOUT_CONFIGURATION

STRANGER = 65534
GOOD = "experiment = mine\n"


def _stranger(path, *, link=False):
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(path, STRANGER, STRANGER, follow_symlinks=not link)


def _text(text=GOOD, mode=0o600):
    def make(path):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)

    return make


def _socket(path):
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.getcwd()
        os.chdir(path.parent)  # a socket's name is short
        listening.bind(path.name)
        os.chdir(before)


def _device(path):
    if os.geteuid():
        pytest.skip("only root makes devices")
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))


def _of_stranger(path):
    _text()(path)
    _stranger(path)


def _link_of_stranger(path):
    _text()(path.parent / "mine.conf")
    path.symlink_to("mine.conf")
    _stranger(path, link=True)


def _fifo_behind_a_link(path):
    os.mkfifo(path.parent / "fifo")
    path.symlink_to("fifo")


def _huge(path):
    path.touch()
    os.truncate(path, 1 << 40)


#: What may stand in the place of a configuration file, and what is said of it.
BAD = {
    "a FIFO": (os.mkfifo, "is a FIFO"),
    "a link to a FIFO": (_fifo_behind_a_link, "is a FIFO"),
    "a socket": (_socket, "is a socket"),
    "a device": (_device, "is a device"),
    "a link to /dev/zero": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "a link to /dev/stdin": (lambda path: path.symlink_to("/dev/stdin"), "hpctrack.conf"),
    "a link to nothing": (lambda path: path.symlink_to("missing"), "No such file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "a link of somebody else's": (_link_of_stranger, "is a symbolic link of another user"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "huge": (_huge, "has more than"),
    "somebody else's": (_of_stranger, "belongs to another user"),
    "mode 0666": (_text(mode=0o666), "may be written by others"),
    "mode 0602": (_text(mode=0o602), "may be written by others"),
    "not UTF-8": (_text(b"experiment = \xff\n"), "is not UTF-8"),
    "a NUL": (_text("data_dir = a\0b\n"), "is not UTF-8"),
    "an unknown key": (_text("exprment = x\n"), "unknown key"),
    "a bad value": (_text("flush = soon\n"), "must be a number"),
}
TRACKING = ("sbatch", "run")
VARIABLES = {
    "HPCTRACK_FLUSH": "soon",
    "HPCTRACK_IDLE_EXIT": "1e300",
    "HPCTRACK_JOURNAL_CAP": "9" * 5000,
    "HPCTRACK_COLLECTOR_PORT": "9" * 5000,
    "HPCTRACK_COLLECTOR": "nowhere",
    "HPCTRACK_DATA_DIR": "~nobody-by-this-name/x",
    "HPCTRACK_SCHEMA": b"\xff",
    "HPCTRACK_DSN_HOTS": "x",
}


def call(site, verb, *arguments, environ=None):
    """Run a verb in the work folder; return exit code, output, and the lines of standard error."""
    code, out, err = site.sbatch(*arguments, verb=verb, environ=environ)
    return code, out, err.splitlines()


def track(site, verb, environ=None):
    """Track something that ends well after it has said so, on standard output."""
    if verb == "run":
        return call(site, "run", "--", "sh", "-c", "echo job 14, logs to $HPCTRACK_JOURNAL", environ=environ)
    return call(site, "sbatch", site.script(), environ=environ)


def assert_untracked(site, result, why):
    code, out, [line] = result
    assert (code, out) in ((0, "Submitted batch job 14\n"), (0, "job 14, logs to /dev/null\n"))
    assert line.startswith("hpctrack: ") and "untracked" in line and why in line
    assert not os.path.exists(site.settings.data_dir)


@pytest.mark.parametrize("verb", TRACKING)
@pytest.mark.parametrize("what", BAD)
def test_what_is_submitted_or_run_is_so_untracked(site, what, verb):
    make, why = BAD[what]
    make(site.work / "hpctrack.conf")
    assert_untracked(site, track(site, verb), why)


@pytest.mark.parametrize("verb", TRACKING)
def test_exit_codes_are_those_of_the_command_all_the_same(site, verb):
    os.mkfifo(site.work / "hpctrack.conf")
    if verb == "run":
        code, _, err = call(site, "run", "--", "sh", "-c", "exit 7")
    else:
        code, _, err = call(site, "sbatch", site.script(), environ={"FAKE_EXIT": "7", "FAKE_STDOUT": ""})
    assert (code, len(err)) == (7, 1 if verb == "run" else 0)  # what sbatch refuses is not "submitted"


@pytest.mark.parametrize("what", BAD)
def test_another_verb_says_so_in_one_line(site, what):
    make, why = BAD[what]
    make(site.work / "hpctrack.conf")
    code, out, [line] = call(site, "status")
    assert (code, out) == (78, "")
    assert "hpctrack.conf" in line and why in line


@pytest.mark.parametrize("verb", sorted(set(VERBS) - WITHOUT_CONFIGURATION - set(TRACKING)))
def test_no_verb_waits_for_a_fifo(site, verb):
    os.mkfifo(site.work / "hpctrack.conf")
    code, _, [line] = call(site, verb, *EXAMPLES.get(verb, ()))
    assert code == 78 and "is a FIFO" in line


def test_doctor_and_completion_do_not_wait_either(site):
    os.mkfifo(site.work / "hpctrack.conf")
    code, out, _ = call(site, "doctor")
    assert code and "is a FIFO" in out
    environ = {"_HPCTRACK_COMPLETE": "bash_complete", "COMP_WORDS": "hpctrack show ", "COMP_CWORD": "2"}
    assert call(site, "", environ=environ)[1:] == ("\n", [])


@pytest.mark.parametrize("verb", [*TRACKING, "status"])
@pytest.mark.parametrize("name", VARIABLES)
def test_variables_that_mean_nothing(site, name, verb):
    environ = {name: VARIABLES[name]}
    if verb in TRACKING:
        assert_untracked(site, track(site, verb, environ), name)
    else:
        code, _, [line] = call(site, verb, environ=environ)
        assert code == 78 and line.startswith(f"hpctrack: {name}: ")


@pytest.mark.parametrize("place", ["here", "home", "XDG", "asked for"])
def test_a_file_of_the_usual_places_is_believed_or_not_wherever_it_is(site, place):
    paths = {
        "here": site.work / "hpctrack.conf",
        "home": site.folder / ".config" / "hpctrack" / "hpctrack.conf",
        "XDG": site.folder / "xdg" / "hpctrack" / "hpctrack.conf",
        "asked for": site.folder / "other.conf",
    }
    path = paths[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    _text("flush = soon\n")(path)
    words = ["--config-path", path] if place == "asked for" else []
    environ = {"XDG_CONFIG_HOME": str(site.folder / "xdg")} if place == "XDG" else {}
    [line] = call(site, "status", *words, environ=environ)[2]
    assert f"{path if place != 'here' else path.name}:1: flush must be a number" in line
    path.chmod(0o666)
    assert "may be written by others" in call(site, "status", *words, environ=environ)[2][0]


def test_what_may_not_be_looked_at_is_not_there(site):
    code, _, [line] = call(site, "status", environ={"HOME": "/dev/null"})
    assert code == 69 and "PostgreSQL" in line
