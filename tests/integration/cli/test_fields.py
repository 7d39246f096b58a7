"""A field of a run is said in one place: a row more in `run.fields`, and all that shows runs knows it."""

import json
import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

#: Runs hpctrack with a field more, which holds what `lost` does; prints what each way to look at a run tells.
PROGRAM = """
import contextlib, importlib.util, io, json, pathlib, sys, types

spec = importlib.util.find_spec("hpctrack.run.fields")
rows, end, rest = pathlib.Path(spec.origin).read_text("utf-8").partition(")  # fmt: skip\\nBY_NAME")
assert end
fields = sys.modules[spec.name] = types.ModuleType(spec.name)
added = 'Field("weather", "made up", "number", "lost"),'
exec(compile(rows + added + end + rest, spec.origin, "exec"), fields.__dict__)

import hpctrack.run
hpctrack.run.fields = fields

from hpctrack import Client
from hpctrack.cli import group

def said(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        group.cli.main(list(arguments), prog_name="hpctrack")
    return out.getvalue()

with Client() as client:
    runs = client.runs(where="weather > 3", sort="-weather")
    told = {
        "where": said("status", "--where", "weather > 3", "--format", "run"),
        "sort": said("status", "--sort", "-weather", "--format", "run"),
        "format": said("status", "--format", "weather"),
        "csv": said("status", "--format", "run,weather", "--csv"),
        "help": said("status", "--format", "help"),
        "json": json.loads(said("status", "--json"))["runs"],
        "show": said("show", "r1"),
        "show json": json.loads(said("show", "r1", "--json")),
        "compare": json.loads(said("compare", "r1", "r2", "--json")),
        "runs": [run.id for run in runs],
        "frame": runs.frame()["weather"].tolist(),
        "notebook": runs[-1]._repr_html_(),
    }
json.dump(told, sys.stdout)
"""


@pytest.fixture
def told(cli, run):
    for lost in (17, 4, 1):
        run(latest={"lost": lost})
    program = [sys.executable, "-c", PROGRAM]
    return json.loads(subprocess.run(program, check=True, capture_output=True, cwd=ROOT, timeout=60).stdout)


def test_a_field_in_one_place_is_seen_everywhere(told):
    assert told["where"].split()[:3] == ["run", "r1", "r2"]
    assert told["sort"].split()[:4] == ["run", "r1", "r2", "r3"]
    assert told["format"].split()[:4] == ["weather", "17", "4", "1"]
    assert told["csv"].splitlines() == ["run,weather", "r1,17", "r2,4", "r3,1"]
    assert re.search(r"^weather +made up", told["help"], re.MULTILINE)
    assert [run["weather"] for run in told["json"]] == [17, 4, 1]
    assert "weather     17" in told["show"]
    assert told["show json"]["weather"] == 17
    assert told["compare"]["differences"]["run"]["weather"] == [17, 4]
    assert told["runs"] == [1, 2]
    assert told["frame"] == [17, 4]
    assert ">weather</td>" in told["notebook"] and ">4</td>" in told["notebook"]
