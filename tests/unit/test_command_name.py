"""What `hpctrack run` calls a command, whatever its words hold."""

from __future__ import annotations

import pytest

from hpctrack.cli import run


@pytest.mark.parametrize(
    "word", ["x = 1  # " + "long " * 100, "/" * 5000, "a/" * 3000, "", "\udcff", "train.py/x"]
)
def test_a_word_that_can_be_no_path_is_no_script(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    assert run.name_of(("/usr/bin/python3", "-c", word)) == "python3"
    assert run.name_of(("python3", "train.py", word)) == "train.py"
