"""The verbs: all are there, all explain themselves, none is loaded before it is used."""

import importlib
import os
import subprocess
import sys

import click
import pytest
from click import shell_completion

from hpctrack import __version__
from hpctrack.cli import group, main, table_of_verbs


@pytest.mark.parametrize("name", table_of_verbs.VERBS)
def test_a_verb_is_a_command_that_explains_itself(name, command_line):
    assert isinstance(importlib.import_module(table_of_verbs.module(name)).command, click.Command)
    code, out, err = command_line(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: hpctrack {name} ")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["-h", "--help"]])
def test_help_lists_every_verb_with_its_line(command_line, arguments):
    code, out, err = command_line(*arguments)
    assert (code, err) == (0, "")
    listed = {
        line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line.startswith("  ")
    }
    for name, verb in table_of_verbs.VERBS.items():
        assert listed[name] == verb.help


def test_help_fits_80_columns(command_line):
    _, out, _ = command_line("--help")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(command_line, option):
    assert command_line(option) == (0, f"hpctrack {__version__}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_our_command(command_line, shell):
    code, out, _ = command_line("completion", shell)
    assert code == 0
    assert "_HPCTRACK_COMPLETE" in out


def test_completion_knows_the_verbs(monkeypatch, capsys):
    monkeypatch.setenv("_HPCTRACK_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "hpctrack s")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        main.main([])
    words = {line.split(",")[1] for line in capsys.readouterr().out.splitlines()}
    assert words == {name for name in table_of_verbs.VERBS if name.startswith("s")}


def _commands(command, path=()):
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from _commands(command.get_command(click.Context(command), name), (*path, name))


def test_the_tab_key_prints_nothing_but_words_behind_any_option(capsys, monkeypatch):
    monkeypatch.setenv("HPCTRACK_DSN_HOST", "/nonexistent")
    source = shell_completion.ShellComplete(group.cli, {}, "hpctrack", "_HPCTRACK_COMPLETE")
    for path, command in _commands(group.cli):
        source.get_completions(list(path), "")
        source.get_completions(list(path), "-")
        for option in (option for param in command.params for option in param.opts if option[:1] == "-"):
            source.get_completions([*path, option], "")
            source.get_completions([*path, option, "x"], "")
    assert capsys.readouterr() == ("", "")


def test_a_group_alone_prints_its_help(capsys):
    for path, command in _commands(group.cli):
        if isinstance(command, click.Group):
            assert main.run(list(path)) == 0
            out, err = capsys.readouterr()
            assert out.startswith("Usage: hpctrack") and err == ""


@pytest.mark.parametrize("zone", ["UTC+25", "UTC-24", "XXX+167"])
def test_a_time_zone_of_a_day_is_told_and_times_are_in_utc(zone, tmp_path):
    environ = {
        **os.environ,
        "TZ": zone,
        "HPCTRACK_DATA_DIR": str(tmp_path),
        "HPCTRACK_DSN_HOST": "/nonexistent",
    }
    done = subprocess.run(
        [sys.executable, "-m", "hpctrack", "status", "--since", "2026-01-31"],
        env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 69, done.stderr
    assert done.stderr.startswith(f"hpctrack: TZ={zone} is no time zone")
    assert "a bug" not in done.stderr
