"""What is submitted again: arguments, options and folder of the old submit line, changed as asked."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack import errors
from hpctrack.cli.verbs import rerun as verb
from hpctrack.run import arguments
from hpctrack.slurm.sbatch import rerun, submission
from hpctrack.slurm.sbatch.rerun import Changes, Original

SCRIPT = b'#!/bin/bash\n#SBATCH --mem=1G\npython train.py "$@"\n'


def plan(
    line, *, options="", script=SCRIPT, path="/home/u/train.sh", folder="/home/u", tasks=None, **changes
):
    original = Original(
        "r7", ["hpctrack", "sbatch", *shlex.split(line)], script, path, folder, "now called", tasks
    )
    return rerun.plan(original, Changes(options=shlex.split(options), **changes), {})


@pytest.mark.parametrize(
    ("line", "options", "expected"),
    [
        ("train.sh", "", "train.sh"),
        ("-t 10 -p gpu train.sh --lr 0.1", "", "-t 10 -p gpu train.sh --lr 0.1"),
        ("-t 10 -p gpu train.sh", "--time=20", "-p gpu --time=20 train.sh"),
        ("--time 10 -p gpu train.sh", "-t20 --hold", "-p gpu -t20 --hold train.sh"),
        ("-Ht10 train.sh", "-t20", "-Ht10 -t20 train.sh"),
        ("--mem=1G -- train.sh -x", "", "--mem=1G train.sh -x"),
        ("--parsable --array=0-3%2 train.sh", "--array=4", "--parsable --array=4 train.sh"),
        ("-D sub train.sh", "", "--chdir=/home/u train.sh"),
        ("-D sub train.sh", "--chdir=/elsewhere", "--chdir=/elsewhere train.sh"),
        ("-n1 : -n2 train.sh", "", "-n1 : -n2 train.sh"),
    ],
)
def test_options_given_anew_replace_the_old_ones(line, options, expected):
    again = plan(line, options=options)
    assert shlex.join(again.argv) == expected
    assert again.argv[again.script.place] == "train.sh"
    assert (again.script.text, again.script.name, again.script.path) == (
        SCRIPT,
        "train.sh",
        "/home/u/train.sh",
    )


def test_a_folder_whose_name_held_a_secret_is_said():
    with pytest.raises(errors.BadInput, match=r"folder of .* held a secret"):
        plan("train.sh", folder="/home/u/***")


def test_a_folder_that_the_script_asks_for_is_not_taken_twice():
    script = SCRIPT.replace(b"--mem=1G", b"--chdir=sub")
    assert plan("train.sh", script=script).argv == ["--chdir=/home/u", "train.sh"]


def test_a_task_of_an_array_is_submitted_alone():
    assert plan("--array=0-3%2 train.sh", tasks="3").argv == ["--array=3", "train.sh"]
    script = SCRIPT + b"#SBATCH --array=0-3"
    assert plan("train.sh", script=script, tasks="1,3").argv == ["--array=1,3", "train.sh"]
    assert plan("train.sh", options="--array=5", tasks="3").argv == ["--array=5", "train.sh"]


@pytest.mark.parametrize(
    ("line", "directive", "tasks", "expected"),
    [
        ("--array=0-99%4", "", "1-3", "1-3%4"),
        ("-a 0-99%4", "--array=0-9%2", "1,3", "1,3%4"),
        ("", "--array=0-99%4", "1,3", "1,3%4"),
        ("--array=0-99", "--array=0-9%2", "1,3", "1,3"),
        ("--array=0-99%x", "", "1,3", "1,3"),
        ("--array=0-99%4", "", "7", "7"),
    ],
)
def test_some_tasks_run_as_few_at_once_as_the_array_did(line, directive, tasks, expected):
    script = f"#!/bin/bash\n#SBATCH {directive}\n".encode() if directive else SCRIPT
    assert plan(f"{line} train.sh", script=script, tasks=tasks).argv == [f"--array={expected}", "train.sh"]


def test_a_script_from_standard_input_and_a_command():
    again = plan("-t 1", path="", options="-t 2")
    assert (again.argv, again.script.name, again.script.place) == (["-t", "2"], "sbatch", None)
    again = plan("--wrap 'echo 1'", script=b"#!/bin/sh\n", path="")
    assert (again.argv, again.script) == (["--wrap", "echo 1"], None)


def test_the_line_can_be_read_again():
    line = "-E old -T a=1 -T b --note 'a remark' -t 1 train.sh --lr 0.1"
    own = submission.Own(tags=("more",))
    again = plan(line, own=own)
    assert again.own == submission.Own("now called", ("a=1", "b", "more"), "a remark")
    assert plan(shlex.join(again.line[2:])).line == again.line
    assert plan(line, own=submission.Own(experiment="other")).own.experiment == "other"


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "value", "expected"),
    [
        ("--lr 0.1 -b 5 data", "lr", "0.2", "--lr 0.2 -b 5 data"),
        ("--lr=0.1 data", "lr", "a b", "'--lr=a b' data"),
        ("-b 5", "b", "6", "-b 6"),
        ("model.lr=0.1 +seed=3", "model.lr", "0.2", "model.lr=0.2 +seed=3"),
        ("model.lr=0.1 +seed=3", "seed", "4", "model.lr=0.1 +seed=4"),
        ("--fast --lr 1", "fast", "false", "--lr 1"),
        ("--fast --lr 1", "fast", "True", "--fast --lr 1"),
        ("--fast", "fast", "2", "--fast=2"),
        ("--lr 1 --lr 2 x", "lr", "3", "--lr 3 x"),
        ("-- --lr 1", "lr", "3", None),
        ("lr", "lr", "3", None),
    ],
)
def test_an_argument_is_replaced_where_it_stands(line, name, value, expected):
    replaced = arguments.replace(shlex.split(line), name, value)
    assert (replaced if replaced is None else shlex.join(replaced)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "--seed=1"),
        ("data", "data --seed=1"),
        ("lr=1", "lr=1 seed=1"),
        ("--lr 1 x=2", "--lr 1 x=2 --seed=1"),
    ],
)
def test_a_new_argument_looks_like_the_others(line, expected):
    assert shlex.join(arguments.add(shlex.split(line), "seed", "1")) == expected


@given(
    st.lists(st.sampled_from(["--a", "--b=1", "-c", "2", "x", "d=3", "+e=4", "--", "--a=5"])),
    st.integers(-99, 99),
)
def test_what_is_replaced_is_read_back(argv, value):
    names = set(arguments.parse_arguments(argv)) - {arguments.POSITIONAL}
    for name in names:
        replaced = arguments.replace(argv, name, str(value))
        assert arguments.parse_arguments(replaced)[name] == value


def test_arguments_are_changed():
    again = plan("-t 1 train.sh --lr 0.1", assignments=[("lr", "0.2"), ("seed", "3")])
    assert again.argv == ["-t", "1", "train.sh", "--lr", "0.2", "--seed=3"]


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "changes", "said"),
    [
        ("train.sh", {"options": "more"}, "'more' is too much"),
        ("train.sh", {"options": "--time=1 more"}, "'more' is too much"),
        ("train.sh", {"options": "--tiem=1"}, "no option --tiem"),
        ("train.sh", {"options": "--time"}, "no option --time, or it lacks its value"),
        ("train.sh", {"options": "--wrap=ls"}, "--wrap is another job"),
        ("-n1 : -n2 train.sh", {"options": "-t 1"}, "heterogeneous"),
        ("--wrap=ls", {"assignments": [("a", "1")]}, "no script with arguments"),
    ],
)
def test_what_can_not_be_done_is_told(line, changes, said):
    with pytest.raises(errors.UsageError, match=said):
        plan(line, **changes)


def test_an_argument_that_nobody_reads_is_refused():
    with pytest.raises(errors.UsageError, match="reads no arguments"):
        plan("train.sh", script=b"#!/bin/bash\npython train.py\n", assignments=[("lr", "1")])
    for script in (b"#!/bin/bash\nx=${1:-2}\n", b"#!/usr/bin/env python3\n"):
        assert plan("train.sh", script=script, assignments=[("lr", "1")]).argv == ["train.sh", "--lr=1"]


def test_a_mask_is_never_an_argument():
    line = "--export=KEY=*** train.sh --token '***' --lr 1"
    with pytest.raises(errors.BadInput, match=r"argument of r7 held a secret, .*\(\*\*\*\)"):
        plan(line)
    with pytest.raises(errors.BadInput, match=r"option of r7 held a secret, .*\(--export=KEY=\*\*\*\)"):
        plan(line, assignments=[("token", "x")])
    again = plan(line, assignments=[("token", "x")], options="--export=KEY=y")
    assert again.argv == ["--export=KEY=y", "train.sh", "--token", "x", "--lr", "1"]


# --- the command line ---------------------------------------------------------------------------------------


def test_our_words_are_told_from_sbatchs():
    words = "-T a 14 --set lr=0.1 --time 5 --set=--seed=x=1 -E e --hold --note n -p gpu"
    (ref,), changes = verb.read(shlex.split(words))
    assert ref.job_id == 14
    assert changes.own == submission.Own("e", ("a",), "n")
    assert changes.assignments == [("lr", "0.1"), ("seed", "x=1")]
    assert changes.options == ["--time", "5", "--hold", "-p", "gpu"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "Missing argument 'RUN'"),
        ("--set a=1", "Missing argument 'RUN'"),
        ("-t 5 14", "RUN comes before"),
        ("14 --set", "NAME=VALUE"),
        ("14 --set lr", "NAME=VALUE"),
        ("14 --set =1", "NAME=VALUE"),
        ("14 -E", "needs a value"),
    ],
)
def test_a_bad_command_line_is_told(words, said):
    with pytest.raises(errors.UsageError, match=said):
        verb.read(shlex.split(words))
