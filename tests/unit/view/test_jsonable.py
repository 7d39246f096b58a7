"""The objects of ``--json``."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from hpctrack.view import jsonable
from tests.support.a_run import NOW, RUN


def test_elapsed_stands_still_when_the_run_has_ended():
    assert RUN.elapsed(NOW) == timedelta(minutes=9)
    assert replace(RUN, time_ended=NOW - timedelta(minutes=4)).elapsed(NOW) == timedelta(minutes=5)
    assert replace(RUN, time_started=None).elapsed(NOW) is None


def test_json_is_json_whatever_the_values_are():
    run = replace(
        RUN,
        last={"a": float("nan"), "b": float("-inf"), "c": 2**70, "d": "x\x1b", "e": None},
        tags={"t": None},
    )
    told = json.loads(jsonable.to_json(jsonable.of_run(run, NOW)), parse_constant=pytest.fail)
    assert told["last"] == {"a": "nan", "b": "-inf", "c": 2**70, "d": "x\x1b", "e": None}
    assert told["run"] == "r7"
    assert told["job_id"] == "14_3"
    assert told["state"] == "RUNNING"
    assert told["elapsed_s"] == 540
    assert told["time_limit_s"] == 3600
    assert told["time_created"] == "2026-01-31T11:50:00+00:00"
    assert told["time_ended"] is None
