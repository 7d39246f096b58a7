"""Wrapping: the user's text stays byte for byte, its comment block stays where sbatch looks for it."""

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack import resources
from hpctrack.settings import Settings
from hpctrack.slurm.sbatch import batch_script
from hpctrack.slurm.sbatch.batch_script import Supervision
from hpctrack.stream.node import options

TEMPLATE = (resources.folder("sbatch_templates") / "wrapper.sh").read_bytes()
SUPERVISION = Supervision(
    "/opt/venv/bin/python",
    "/opt/venv/lib/hpctrack",
    options.words(Settings(data_dir="/home/u")),
    "/home/u/train.sh",
)
MARKER = b"${hpctrack_on-exit 126} # hpctrack: the submitted script follows, byte for byte"

bodies = st.binary().filter(lambda data: b"\0" not in data and b"\r\n" not in data)
comments = st.lists(
    st.one_of(
        st.just(b""),
        st.sampled_from(
            [b"  ", b"\t# indented", b"#SBATCH -J x", b"#BB create", b"#DW jobdw", b"#SBATCH hetjob"]
        ),
        st.binary(max_size=20).map(lambda data: b"#" + data.translate(None, b"\n\0\r")),
    )
)


def wrap(text, **options):
    return batch_script.wrap(text, SUPERVISION, TEMPLATE, **options)


def before_marker(wrapped):
    """The wrapper's part, and the number of the line behind its end."""
    lines = wrapped.split(b"\n")
    return lines[: lines.index(MARKER)], lines.index(MARKER) + 2


@given(comments, bodies)
def test_the_users_text_stands_at_the_end_byte_for_byte(block, body):
    text = b"#!/bin/bash\n" + b"".join(line + b"\n" for line in block) + body
    wrapped = wrap(text)
    assert wrapped.endswith(MARKER + b"\n" + text)
    lines, first = before_marker(wrapped)
    assert wrapped.split(b"\n", first - 1)[-1] == text
    constant = re.search(rb"hpctrack_found:-(\d+)}", wrapped)
    assert int(constant[1]) == len(lines) + 1


@given(comments, bodies)
def test_the_comment_block_follows_the_first_line(block, body):
    text = b"#!/bin/bash\n" + b"".join(line + b"\n" for line in block) + b"echo\n" + body
    lines = wrap(text).split(b"\n")
    assert lines[0] == b"#!/bin/bash -p"
    assert lines[1 : len(block) + 1] == block
    assert lines[len(block) + 1].startswith(b"# hpctrack")


@pytest.mark.parametrize(
    ("text", "block"),
    [
        (b"#!/bin/sh", []),
        (b"#!/bin/sh\n#SBATCH -n1\n\n  \t\n # x\n#SBATCH -N1\necho\n#SBATCH -J no\n", 5),
        (b"#!/bin/sh\n#SBATCH -n1", 1),
        (b"#!/bin/sh\necho\n#SBATCH -n1\n", 0),
        (b"#!/bin/sh\n\x0b\x0c\r \n#SBATCH -n1\necho", 2),
        (b"#!/bin/sh\n\xc2\xa0\n#SBATCH -n1\n", 0),
    ],
)
def test_the_block_ends_where_sbatch_stops_looking(text, block):
    lines = text.split(b"\n")[1:]
    assert batch_script.leading_block(text) == (lines[:block] if block else [])


def test_what_only_sbatch_takes_for_white_space_is_no_command_of_the_wrapper():
    lines = wrap(b"#!/bin/sh\n\x0b\x0c\r\n\x0c# comment\n#SBATCH -n1\necho\n").split(b"\n")
    assert lines[1:4] == [b"", b"", b"#SBATCH -n1"]


def test_directives_in_a_wrap_command_stay_none():
    wrapped = wrap(batch_script.from_command(b"\n#SBATCH -J no\necho hi"), directives=False)
    lines, _ = before_marker(wrapped)
    assert not any(line.startswith(b"#SBATCH") for line in lines)
    assert wrapped.endswith(
        b"\n#!/bin/sh\n# This script was created by sbatch --wrap.\n\n\n#SBATCH -J no\necho hi\n"
    )


@pytest.mark.parametrize(
    ("first", "have_bash", "shell"),
    [
        (b"#!/bin/bash", True, b"#!/bin/bash -p"),
        (b"#!/bin/bash -l", True, b"#!/bin/bash -p"),
        (b"#! /usr/local/bin/bash -e", False, b"#!/usr/local/bin/bash -p"),
        (b"#!/bin/sh", True, b"#!/bin/sh"),
        (b"#!/bin/sh -e", True, b"#!/bin/sh"),
        (b"#!/usr/bin/env python3", True, b"#!/bin/bash -p"),
        (b"#!/usr/bin/env python3", False, b"#!/bin/sh"),
        (b"#!/usr/bin/env bash", True, b"#!/bin/bash -p"),
        (b"#!/bin/csh -f", True, b"#!/bin/bash -p"),
        (b"#!", True, b"#!/bin/bash -p"),
    ],
)
def test_the_shell_of_the_wrapper(first, have_bash, shell):
    assert wrap(first + b"\n:\n", have_bash=have_bash).split(b"\n")[0] == shell


def test_identical_jobs_have_identical_scripts_without_secrets():
    text = b"#!/bin/sh\necho\n"
    assert wrap(text) == wrap(text)
    assert b"HPCTRACK_RECORD" not in wrap(text)


def test_with_key_in_script_the_record_comes_before_the_users_own_lines():
    wrapped = wrap(b"#!/bin/sh\n#HPCTRACK_RECORD {old}\n#SBATCH -n1\n:\n", record=b'{"uuid": "x"}')
    assert wrapped.split(b"\n")[1:4] == [
        b'#HPCTRACK_RECORD {"uuid": "x"}',
        b"#HPCTRACK_RECORD {old}",
        b"#SBATCH -n1",
    ]
    assert b'--record "$0"' in wrapped


def supervise(wrapped):
    """The arguments of ``supervise`` in the wrapper, as the shell reads them."""
    text = wrapped.decode().replace("\\\n", " ")
    words = shlex.split(re.search(r"supervise (.*) -- ", text)[1])
    return dict(zip(words[::2], words[1::2], strict=False)), words


def test_what_the_supervisor_is_told():
    told, words = supervise(wrap(b"#!/bin/sh\n"))
    assert told == {
        "--spool": "/home/u/spool",
        "--ranks": "0",
        "--journal-cap": str(1 << 30),
        "--flush": "5",
        "--script-line": "$hpctrack_line",
    }
    assert "--no-python-path" not in words
    assert b"export HPCTRACK_SCRIPT=/home/u/train.sh\n" in wrap(b"#!/bin/sh\n")


def test_every_setting_reaches_the_supervisor():
    settings = Settings(
        data_dir="/home/u/it's a @MAIN@ folder",
        node_dir="/local",
        python_path=False,
        ranks="all",
        journal_cap=5,
        flush=0.5,
    )
    changed = SUPERVISION._replace(options=options.words(settings), script="")
    wrapped = batch_script.wrap(b"#!/bin/sh\n", changed, TEMPLATE)
    words = supervise(wrapped)[1]
    assert words[-2:] == ["--script-line", "$hpctrack_line"]
    read = options.parse(["supervise", *words[:-2]])
    assert (read.spool, read.node_dir, read.python_path) == (settings.spool, "/local", False)
    assert (read.ranks, read.journal_cap, read.flush) == ("all", 5, 0.5)


def test_a_path_with_a_line_break_does_not_move_the_script():
    changed = SUPERVISION._replace(script="/home/u/a\nb/train.sh")
    wrapped = batch_script.wrap(b"#!/bin/sh\n:\n", changed, TEMPLATE)
    marker = int(re.search(rb"hpctrack_found:-(\d+)}", wrapped)[1])
    assert wrapped.split(b"\n")[marker - 1] == MARKER


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (b"#!/bin/sh\n", False),
        (b"", True),
        (b"  \n", True),
        (b"echo\n", True),
        (b"\n#!/bin/sh\n", True),
        (b"#!/bin/sh\n\0", True),
        (b"#!/bin/sh\r\n", True),
        (b"#!/bin/sh\n\r\r", False),
        (b"\xef\xbb\xbf#!/bin/sh\n", True),
    ],
)
def test_what_sbatch_refuses(text, refused):
    assert batch_script.refused(text) is refused


def test_the_template_is_plain_and_short():
    assert len(TEMPLATE.splitlines()) < 130
    assert all(len(line) <= 120 for line in TEMPLATE.splitlines())
    assert set(re.findall(rb"@([A-Z_]+)@", TEMPLATE)) == {
        b"MARKER_LINE",
        b"PYTHON",
        b"MAIN",
        b"OPTIONS",
        b"SCRIPT",
        b"IMPORTABLE",
        b"SAME_SHELL",
    }
    assert Path(resources.folder("sbatch_templates")).is_dir()
