"""The verbs: all are there, all explain themselves, none is loaded before it is used."""

import importlib

import click
import pytest

from hpctrack import __version__
from hpctrack.cli import main, verbs


@pytest.mark.parametrize("name", verbs.VERBS)
def test_a_verb_is_a_command_that_explains_itself(name, cli):
    module, _, attribute = verbs.VERBS[name].target.partition(":")
    assert isinstance(getattr(importlib.import_module(module), attribute), click.Command)
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: hpctrack {name} ")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["-h", "--help"]])
def test_help_lists_every_verb_with_its_line(cli, arguments):
    code, out, err = cli(*arguments)
    assert (code, err) == (0, "")
    listed = {
        line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line.startswith("  ")
    }
    for name, verb in verbs.VERBS.items():
        assert listed[name] == verb.help


def test_help_fits_80_columns(cli):
    _, out, _ = cli("--help")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(cli, option):
    assert cli(option) == (0, f"hpctrack {__version__}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_our_command(cli, shell):
    code, out, _ = cli("completion", shell)
    assert code == 0
    assert "_HPCTRACK_COMPLETE" in out


def test_completion_knows_the_verbs(monkeypatch, capsys):
    monkeypatch.setenv("_HPCTRACK_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "hpctrack s")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        main.main([])
    words = {line.split(",")[1] for line in capsys.readouterr().out.splitlines()}
    assert words == {name for name in verbs.VERBS if name.startswith("s")}
