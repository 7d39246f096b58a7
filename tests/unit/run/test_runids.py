"""How runs are named."""

import pytest

from hpctrack import errors
from hpctrack.run import runids, words
from hpctrack.run.runids import RunRef


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("14", RunRef("14", job_id=14)),
        ("14_3", RunRef("14_3", job_id=14, task=3)),
        ("14_0", RunRef("14_0", job_id=14, task=0)),
        ("14+1", RunRef("14+1", job_id=14)),
        ("r7", RunRef("r7", run_id=7)),
        (" r7 ", RunRef("r7", run_id=7)),
    ],
)
def test_an_id_is_read(text, expected):
    assert runids.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s469M8HEPKNM00", "s469M8HEPKNM00"),
        ("S469m8hepknmoO", "s469M8HEPKNM00"),
        ("s4i9l8hepknm00", "s41918HEPKNM00"),
        ("s469M8HEPKNM0", None),
        ("s469M8HEPKNMU0", None),
        ("s469M8HEPKNM00x", None),
        ("s0000000000000", None),
    ],
)
def test_a_sluid_is_read_as_slurm_reads_it(text, expected):
    assert runids.sluid(text) == expected


@pytest.mark.parametrize(
    "text",
    ["r", "14_", "_3", "14_3_1", "14_[1-3]", "-1", "14.batch", "R7", "rr7", "٣", "9" * 30, "14 15", "14x"],
)
def test_anything_else_is_a_name(text):
    ref = runids.parse(text)
    assert ref == RunRef(text)
    assert ref.named


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("14_[0-2,7]", ["14_0", "14_1", "14_2", "14_7"]),
        ("14_[0-4:2%3]", ["14_0", "14_2", "14_4"]),
        ("14_[5]", ["14_5"]),
        ("r3-5", ["r3", "r4", "r5"]),
        ("r3-r5", ["r3", "r4", "r5"]),
        ("r3,5-6,9", ["r3", "r5", "r6", "r9"]),
        ("r3,r5,", ["r3", "r5"]),
        ("14,15_2,r7", ["14", "15_2", "r7"]),
        ("14_[0,2],r7,9", ["14_0", "14_2", "r7", "9"]),
        ("train,r7", ["train,r7"]),
        ("train,", ["train,"]),
        ("r3,5…", ["r3,5…"]),
        ("r3,5,...", ["r3,5,..."]),
        ("r5000000-5000001", ["r5000000", "r5000001"]),
        ("14", ["14"]),
        ("14_3", ["14_3"]),
        ("train[1]", ["train[1]"]),
    ],
)
def test_what_lists_fold_can_be_written_as_it_stands_there(text, expected):
    assert words.runs(text) == tuple(map(runids.parse, expected))


@pytest.mark.parametrize("text", ["14_[0-999999999]", "r1-999999999999", "14_[5-3]", "14_[1-2-3]", "14_[1-]"])
def test_what_is_no_handful_of_runs_is_refused(text):
    with pytest.raises(errors.UsageError, match="is not 1 to 100,000 runs"):
        words.runs(text)


@pytest.mark.parametrize("text", ["", "  ", "a\0b"])
def test_what_can_be_no_name_is_refused_with_what_to_write(text):
    with pytest.raises(errors.UsageError, match=r"write a Slurm job id \(14, 14_3\), a run's id \(r14\) or"):
        runids.parse(text)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((17, 14, 3), "14_3"),
        ((None, 14, 0), "14_0"),
        ((14, None, None), "14"),
        ((None, None, None), None),
    ],
)
def test_a_job_is_written_as_slurm_writes_it(ids, expected):
    assert runids.job_text(*ids) == expected
