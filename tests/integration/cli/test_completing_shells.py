"""Completion in real shells: a name is inserted as it is, or not at all, and nothing in it runs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.terminals import Terminal
from tests.support.waiting import eventually

#: Commands, quotes, patterns, homes, histories, options, colours of prompts.
NAMES = [
    "$(touch pwned)`touch pwned`", "a;touch pwned&touch pwned|touch pwned>pwned", "it's  \"so\" a:b",
    "~root", "*", "[a]?", "-n", "--to=x", "#!!{a}", "=ls",
    "a\\", "\\$(touch pwned)", "%B%F{red}^a^b", "_", "{a,b}", "plain",
]  # fmt: skip
SHELLS = {
    "bash": (["bash", "--norc", "-i"], 'PS1="ready> "; eval "$(hpctrack completion bash)"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'PS1="ready> "; autoload -Uz compinit; compinit -u -D; eval "$(hpctrack completion zsh)"',
    ),
    "fish": (
        ["fish", "--no-config", "-i"],
        'function fish_prompt; echo "ready> "; end; hpctrack completion fish | source',
    ),
}
#: Which of them a shell is not offered: it would insert something else.
LEFT_OUT = {
    "bash": ["a\\", "\\$(touch pwned)"],
    "zsh": ["a\\", "\\$(touch pwned)"],
    "fish": ["~root", "{a,b}"],
}
#: In place of hpctrack: completes, and writes down what it is given.
PROGRAM = """#!{python}
import json, os, sys
if "_HPCTRACK_COMPLETE" in os.environ or sys.argv[1] == "completion":
    os.execv("{hpctrack}", sys.argv)
with open("{told}_", "w") as file:
    json.dump(sys.argv[1:], file)
os.rename("{told}_", "{told}")
"""


@pytest.mark.parametrize("server", ["wheel"], indirect=True)
@pytest.mark.parametrize("shell", list(SHELLS))
def test_a_name_is_inserted_as_it_is_or_not_at_all(database, connection, insert, tmp_path, shell):
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    folder, work, told = tmp_path / "bin", tmp_path / "work", tmp_path / "told"
    folder.mkdir()
    work.mkdir()
    (work / "a").touch()
    program = folder / "hpctrack"
    real = Path(sys.executable).parent / "hpctrack"
    program.write_text(PROGRAM.format(python=sys.executable, hpctrack=real, told=told))
    program.chmod(0o755)
    command, begin = SHELLS[shell]
    environ = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path), "HISTFILE": "/dev/null"}
    screen = Terminal(database, [], 100, command=["env", "-C", str(work), *command], **environ)

    def was_told():
        screen.drain()
        return told.exists()

    try:
        screen.type(begin + "\n")
        screen.read_until(lambda text: text.count("ready> ") >= 2)
        given = {}
        for name in NAMES:
            connection.execute("DELETE FROM experiments")
            insert("experiments", name=name)
            screen.type("hpctrack export -E \t\n")
            eventually(was_told)
            given[name] = json.loads(told.read_text())[2:]
            told.unlink()
    finally:
        screen.close()
    assert given == {name: [] if name in LEFT_OUT[shell] else [name] for name in NAMES}
    assert os.listdir(work) == ["a"]
