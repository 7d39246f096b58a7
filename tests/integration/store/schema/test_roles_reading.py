"""Who may read gets an answer from every command and from Python, about their own runs and others'."""

from __future__ import annotations

import pytest

from hpctrack import Client
from tests.support.paths import SAMPLE

#: Run 2 is of alice's array 1200, run 8 is bob's job 1301.
_COMMANDS = (
    ("status",),
    ("status", "-a"),
    ("status", "--json", "--where", "metrics.val_loss < 2"),
    ("status", "--csv", "--user", "bob", "--tag", "baseline"),
    ("show", "1301"),
    ("show", "1200_1"),
    ("show", "r2", "--json"),
    ("metrics", "r2"),
    ("metrics", "r8", "--last"),
    ("plot", "r2", "r8", "loss"),
    ("experiment", "list"),
    ("experiment", "show", "speech"),
    ("collector", "--status"),
)


@pytest.fixture
def sample(roles):
    """The small site of docs/sql.md, its people being roles here."""
    text = SAMPLE.read_text()
    for name in ("alice", "bob"):
        text = text.replace(f"'{name}'", f"'{roles.role(name)}'")
    roles.connect("owner").execute(text.encode())
    return roles


@pytest.mark.parametrize("name", ["reader", "bob", "collector"])
def test_every_command_that_looks(sample, name):
    for command in _COMMANDS:
        words = [sample.role("bob") if word == "bob" else word for word in command]
        code, out, err = sample.run(name, *words)
        assert (code, err) == (0, ""), (command, err)
        assert out, command


@pytest.mark.parametrize("name", ["reader", "bob"])
def test_the_python_interface(sample, name):
    with Client(settings=sample.of(name)) as client:
        assert len(client.runs(mine=False)) == 12
        assert len(client.runs()) == (0 if name == "reader" else 6)
        metrics = client.run(2).metrics(["loss"])
        assert len(metrics) == 20
        own = client.run(8)
        assert (own.args is None) == (name == "reader")
        assert client.run(2).args is None


def test_others_attempts_are_shown_but_for_their_standard_error(sample):
    failed = {name: sample.run(name, "show", "r1")[1] for name in ("alice", "reader")}
    assert "FloatingPointError" in failed["alice"]
    assert "FloatingPointError" not in failed["reader"]
    code, out, err = sample.run("reader", "show", "1301")
    assert (code, err) == (0, "")
    assert out.partition("Attempts\n")[2].count("PREEMPTED") == 2
