"""launcher/start.py, the Python half of the command: it imports a verb while there is another way."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT

LOAD_ALL = """
import runpy, sys
start = runpy.run_path(sys.argv[1])
from hpctrack.cli import table_of_verbs
for verb in table_of_verbs.VERBS:
    start["load"]([verb, "--help"])
    assert f"hpctrack.cli.verbs.{verb}" in sys.modules, verb
"""


def test_every_verb_is_loaded_from_the_start():
    command = [sys.executable, "-c", LOAD_ALL, ROOT / "launcher" / "start.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
