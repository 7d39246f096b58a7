"""What is completed without a database."""

import pytest

from hpctrack.cli import completers


@pytest.mark.parametrize(
    ("complete", "typed", "offered"),
    [
        (completers.fields, "el", ["elapsed"]),
        (completers.fields, "-sta", ["-state", "-started"]),
        (completers.fields, "cpu", []),
        (completers.columns, "cpu", ["cpus", "cputime", "cpueff"]),
        (completers.columns, "run,rem", ["run,remarks"]),
        (completers.states, "PD,suspen", ["PD,SUSPENDED"]),
    ],
)
def test_the_rest_of_a_word_is_offered(complete, typed, offered):
    assert [item.value for item in complete(None, None, typed)] == offered
