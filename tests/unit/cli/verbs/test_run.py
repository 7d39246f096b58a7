"""What `hpctrack run` calls a command, whatever its words hold."""

from __future__ import annotations

import pytest

from hpctrack.cli.verbs import run

WORDS = {
    "a long program": "x = 1  # " + "long " * 100,
    "many slashes": "/" * 5000,
    "a long path": "a/" * 3000,
    "nothing": "",
    "a byte": "\udcff",
    "a file for a folder": "train.py/x",
}


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
def test_a_word_that_can_be_no_path_is_no_script(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    assert run.name_of(("/usr/bin/python3", "-c", word)) == "python3"
    assert run.name_of(("python3", "train.py", word)) == "train.py"
