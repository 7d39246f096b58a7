"""What is written where the terminal's encoding lacks signs of ours."""

from __future__ import annotations

import io

import pytest

from hpctrack.cli.terminal import charset, chart, render
from hpctrack.run.states import RunStatus
from hpctrack.store.metrics.curves import Bucket, Curve


def written(text, encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding, charset.register())
    file.write(text)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "euc-jp", "koi8-r"])
def test_no_sign_of_ours_becomes_a_question_mark(encoding):
    buckets = tuple(Bucket(x, 1, x, x) for x in range(9))
    line = chart.Line("r1", Curve("loss", "step", 9, 0, 0, 8, 0, 8, buckets))
    lines = (line, line)
    states = [render.state(status).plain for status in RunStatus]
    signs = [*chart.draw(chart.Chart("loss", lines), 60), *chart.draw(chart.Chart("x", lines[:1]), 60)]
    text = "\n".join([*signs, *states, "0.06…", "▁▂▃▄▅▆▇█"])
    assert "?" not in written(text, encoding)


def test_names_keep_their_width():
    assert written("日本 å …", "ascii") == "???? ? +"
