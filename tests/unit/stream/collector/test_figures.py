"""What a collector counts, from its heartbeat to the page and to Prometheus."""

from __future__ import annotations

import dataclasses
import io
import json
from contextlib import redirect_stdout
from datetime import datetime, timezone
from uuid import UUID

import pytest

from hpctrack.cli.terminal import collectors as page
from hpctrack.cli.terminal import table
from hpctrack.store.ingest import progress
from hpctrack.store.write.collectors import CollectorRow
from hpctrack.stream.collector import exporter, figures, reassembly
from hpctrack.stream.collector.figures import Figures, Program, Received, Stored

WHOLE = Figures(
    uptime_s=205.8, unknown_runs=1, kernel_drops=0, waiting=0, lag_s=0.0, streams=59, held_bytes=0,
    commit_s=0.01, commit_total_s=16.7, received=Received(1119, 256036, 1104, 1, 0, {"wrong MAC": 14}),
    stored=Stored(batches=719, rows=1051, messages=1, joined=1047), rejected={"22003": 2}, slurm_passes=12,
    slurm_interval_s=60.0, slurm_commands={"sacct": Program(10, 0, 2.704, 0.347)}, reconciling=True,
)  # fmt: skip


def shown(stats: object) -> list[str]:
    now = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
    row = CollectorRow(UUID(int=1), "head1", 2707, ("h:1",), now, now, stats, 2.0, True)
    out = io.StringIO()
    with redirect_stdout(out):
        table.Output().print(*page.draw(row))
    return out.getvalue().splitlines()


def samples(told: Figures) -> dict[str, float]:
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in exporter._Exporter(lambda: told).collect()
        for sample in family.samples
    }


def test_json_has_them_all():
    assert Figures.from_json(json.loads(json.dumps(WHOLE.to_json()))) == WHOLE
    assert Figures.from_json(Figures().to_json()) == Figures()


def test_json_is_as_it_was():
    told = WHOLE.to_json()
    assert told["received"] == {
        "datagrams": 1119, "bytes": 256036, "accepted": 1104, "pings": 1, "overflow": 0, "wrong MAC": 14,
    }  # fmt: skip
    assert told["stored"] == {"batches": 719, "rows": 1051, "messages": 1, "joined": 1047}
    assert told["slurm_commands"] == {
        "sacct": {"commands": 10, "failures": 0, "seconds": 2.704, "longest_s": 0.347}
    }
    assert (told["trouble"], told["slurm_trouble"], told["reconciling"]) == (None, None, True)
    assert told.keys() >= {"uptime_s", "unknown_runs", "kernel_drops", "waiting", "held_bytes", "commit_s"}


@pytest.mark.parametrize(
    "stats",
    [
        None, 3, [], {"received": None, "stored": [], "slurm_commands": [1]},
        {"uptime_s": "long", "trouble": 3},
        {"received": {"datagrams": True, "pings": None}, "slurm_commands": {"sacct": 7}, "reconciling": 1},
        {"stored": {"rows": float("inf"), "batches": -1}, "rejected": {"x": "y"}, "later": {"a": 1}},
    ],
)  # fmt: skip
def test_what_another_version_or_anybody_wrote_does_no_harm(stats):
    Figures.from_json(stats)
    assert shown(stats)[0] == "head1, process 2707: live, reconciles"


def test_what_is_counted_elsewhere_has_a_figure_here():
    counted = {*progress.COUNTED, "pieces", "messages", "duplicates", "malformed", "homeless", "put_off"}
    counted |= {"refusals", "batches", *(verdict.name.lower() for verdict in reassembly.Verdict)}
    assert {field.name for field in dataclasses.fields(Stored)} == counted


def test_each_figure_has_a_name_of_its_own_in_prometheus():
    families = [family.name for family in exporter._Exporter(lambda: WHOLE).collect()]
    assert len(families) == len(set(families))
    assert {"hpctrack_stored_rows", "hpctrack_open_streams", "hpctrack_slurm_seconds"} <= set(families)


def test_a_figure_that_is_added_in_one_place_is_everywhere(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class More(Stored):
        mended: int | None = figures.counter(
            "Lines that were mended", figures.Line("mended", "lines of journals")
        )

    monkeypatch.setattr(figures, "Stored", More)
    told = dataclasses.replace(WHOLE, stored=More(rows=5, mended=3))
    stats = json.loads(json.dumps(told.to_json()))
    assert stats["stored"]["mended"] == 3
    assert Figures.from_json(stats) == told
    assert "  mended      3 lines of journals" in shown(stats)
    assert samples(told)["hpctrack_stored_mended_total"] == 3
