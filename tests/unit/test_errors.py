"""The exception tree, and how the command line tells of it."""

import inspect
import logging
import shlex
import subprocess
import sys

import click
import pytest

from hpctrack import errors
from hpctrack.cli import group, main
from hpctrack.cli.verbs import status

CLASSES = [
    one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.HpctrackError)
]


@pytest.mark.parametrize("error", CLASSES)
def test_the_docstring_is_the_default_message(error):
    assert str(error()) == error.__doc__
    assert str(error("other words")) == "other words"


@pytest.mark.parametrize("error", CLASSES)
def test_the_exit_code_tells_of_failure_and_is_not_a_signal(error):
    assert 0 < error.exit_code < 128


def test_causes_are_told_in_one_line():
    cause = errors.SlurmError("sbatch failed:\n  no such partition")
    error = errors.HpctrackError("not submitted")
    error.__cause__ = cause
    assert group.describe(error) == "not submitted: sbatch failed: no such partition"


def test_foreign_causes_are_not_told_since_they_may_hold_secrets():
    error = errors.StoreError("PostgreSQL refused")
    error.__cause__ = ValueError("password=hunter2")
    assert group.describe(error) == "PostgreSQL refused"


@pytest.fixture
def verb(monkeypatch):
    """Replace what a verb does; the command line around it stays what it is."""

    def replace(behaviour):
        monkeypatch.setattr(status, "command", click.Command("status", callback=behaviour))

    return replace


def raising(error):
    def behaviour():
        raise error

    return behaviour


@pytest.mark.parametrize(
    "error", [errors.RunNotFound("no run r9"), errors.StoreUnavailable("gone"), errors.SchemaError("old")]
)
def test_an_error_is_one_line_and_its_own_exit_code(verb, capsys, error):
    verb(raising(error))
    assert main.run(["status"]) == error.exit_code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"hpctrack: {error}\n")


def test_a_bug_is_one_line(verb, capsys):
    verb(raising(ZeroDivisionError("division\nby zero")))
    assert main.run(["status"]) == 70
    err = capsys.readouterr().err
    assert (
        err
        == "hpctrack: ZeroDivisionError: division by zero (a bug; set HPCTRACK_DEBUG=1 for the traceback)\n"
    )


def test_debugging_shows_the_traceback(verb, capsys, monkeypatch):
    monkeypatch.setenv("HPCTRACK_DEBUG", "1")
    verb(raising(ZeroDivisionError("division by zero")))
    assert main.run(["status"]) == 70
    logged, _, said = capsys.readouterr().err.rpartition("hpctrack: ")
    assert "Traceback" in logged
    assert said == "ZeroDivisionError: division by zero\n"


def test_a_verb_leaves_the_callers_logging_as_it_was(verb, capsys, monkeypatch):
    monkeypatch.setenv("HPCTRACK_DEBUG", "1")
    handlers, level = logging.getLogger().handlers[:], logging.getLogger("hpctrack").level
    verb(lambda: logging.getLogger("hpctrack").debug("seen"))
    main.run(["status"])
    assert capsys.readouterr().err.endswith("DEBUG seen\n")
    assert (logging.getLogger().handlers, logging.getLogger("hpctrack").level) == (handlers, level)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130_and_silent(verb, capsys, error):
    verb(raising(error))
    assert main.run(["status"]) == 130
    assert capsys.readouterr().err.strip() == ""


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_verb_may_return_its_exit_code(verb, result, code):
    verb(lambda: result)
    assert main.run(["status"]) == code


@pytest.mark.parametrize("arguments", [["stauts"], ["--foo"], ["status", "--foo"], ["completion", "tcsh"]])
def test_a_slip_of_the_pen_is_one_line_that_points_to_help(capsys, arguments):
    assert main.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hpctrack: ")
    assert err.count("\n") == 1
    assert "--help)" in err


def test_a_verb_that_was_probably_meant_is_named(capsys):
    main.run(["stauts"])
    assert "did you mean status? (see hpctrack --help)" in capsys.readouterr().err
    main.run(["frobnicate"])
    assert "did you mean" not in capsys.readouterr().err


def run_with(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = shlex.join([sys.executable, "-m", "hpctrack.cli.main", *arguments])
    return subprocess.run(
        ["sh", "-c", f"{command} {redirection}"], stderr=subprocess.PIPE, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [["--help"], ["completion", "bash"]])
def test_a_full_disk_under_standard_output_is_one_line(arguments):
    done = run_with("> /dev/full", *arguments)
    assert done.stderr == "hpctrack: standard output can't be written: No space left on device\n"
    assert done.returncode == 74


@pytest.mark.parametrize("arguments", [["--help"], ["completion", "bash"]])
def test_a_closed_standard_output_is_as_good_as_none(arguments):
    done = run_with(">&-", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert run_with("2>&-", "stauts").returncode == 2
