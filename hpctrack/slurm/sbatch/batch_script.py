"""Batch scripts, and how a tracked one is wrapped. Pure: bytes in, bytes out.

What is submitted is a line ``#!`` for the wrapper, the leading comment block of the user's script, the
wrapper (``sbatch_templates/wrapper.sh``), and the user's script, byte for byte. The shell never reads that
far: the wrapper ends by becoming something else. It holds no key, id or time, so that identical jobs have
identical scripts in Slurm's accounting, unless ``key_in = script`` asks for it.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

from hpctrack.stream.wire import records

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What slurmctld takes unless the site says otherwise (slurm.conf, SchedulerParameters, max_script_size).
MAX_SIZE = 4 << 20

_PLACEHOLDER = re.compile(rb"@([A-Z_]+)@")
_SPACE = b" \t\n\v\f\r"  # isspace() in the C locale


class Supervision(NamedTuple):
    """What the wrapper passes on to the supervisor; see docs/architecture.md."""

    #: The submitter's interpreter and our package, as paths that are good on the nodes too.
    python: str
    package: str
    #: Its own options (`hpctrack.stream.node.options.words`).
    options: Sequence[str]
    #: Original path of the script; empty for one that has none (``--wrap``, standard input).
    script: str = ""
    #: Whether the script is to find ``import hpctrack`` by PYTHONPATH.
    python_path: bool = True


def refused(text: bytes) -> bool:
    """Whether sbatch itself refuses a script (src/sbatch/sbatch.c, _get_script_buffer)."""
    return not text.startswith(b"#!") or b"\0" in text or b"\r\n" in text


def from_command(command: bytes) -> bytes:
    """Return the script that sbatch makes of ``--wrap`` (src/sbatch/sbatch.c, _script_wrap)."""
    return b"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n" + command + b"\n"


def leading_block(text: bytes) -> list[bytes]:
    """Return the lines in which sbatch looks for directives, without the first: up to the first command.

    Blank lines among them are part of it (src/sbatch/opt.c, _opt_batch_script).
    """
    block = []
    for line in text.split(b"\n")[1:]:
        if line.strip(_SPACE)[:1] not in (b"", b"#"):
            break
        block.append(line)
    return block


def wrap(
    text: bytes,
    supervision: Supervision,
    template: bytes,
    *,
    directives: bool = True,
    record: bytes = b"",
    have_bash: bool = True,
) -> bytes:
    """Return what is submitted instead of a script.

    ``directives`` False leaves the comment block out: sbatch does not look for any in ``--wrap`` commands.
    ``record`` (JSON without line breaks) is what ``key_in = script`` puts into it. ``have_bash`` says whether
    nodes have /bin/bash.
    """
    head = [_shell(text, have_bash)]
    if record:
        head.append(records.PREFIX + record)  # first, since the block may hold one of an earlier submission
    if directives:
        head += map(_as_comment, leading_block(text))
    before = b"\n".join(head) + b"\n"
    values = _values(supervision, record=bool(record), same_shell=_is_same_shell(text, head[0]))
    marker = (before + _fill(template, values, 0)).count(b"\n")
    return before + _fill(template, values, marker) + text


def _as_comment(line: bytes) -> bytes:
    """Return a line of the block as one that a shell passes over, to which a form feed is no white space."""
    return line if line.strip(b" \t")[:1] in (b"", b"#") else b""


def _shell(text: bytes, have_bash: bool) -> bytes:
    r"""Return the wrapper's own first line.

    dash, the /bin/sh of Debian, drops variables whose names it can't hold, such as the functions that bash
    exports (``BASH_FUNC_module%%``). bash passes them on; with ``-p`` it neither imports functions nor runs
    ``$BASH_ENV``. Only for a script of /bin/sh itself that makes no difference.
    """
    words = text[2:].split(b"\n", 1)[0].split()
    interpreter = words[0] if words else b""
    if interpreter.endswith(b"/bash"):
        return b"#!" + interpreter + b" -p"
    return b"#!/bin/bash -p" if have_bash and interpreter != b"/bin/sh" else b"#!/bin/sh"


def _is_same_shell(text: bytes, shell: bytes) -> bool:
    """Whether the wrapper's shell would run the script as well as the script's own, which has no options."""
    return text.split(b"\n", 1)[0].rstrip(b" \t") == shell.removesuffix(b" -p")


def _values(supervision: Supervision, *, record: bool, same_shell: bool) -> dict[bytes, str]:
    """Return what stands for each ``@NAME@`` of the template but the number of its last line."""
    return {
        b"PYTHON": shlex.quote(supervision.python),
        b"MAIN": shlex.quote(f"{supervision.package}/stream/__main__.py"),
        b"SCRIPT": shlex.quote(supervision.script),
        b"IMPORTABLE": shlex.quote(f"{supervision.package}/importable" if supervision.python_path else ""),
        b"OPTIONS": shlex.join(supervision.options) + (' --record "$0"' if record else ""),
        b"SAME_SHELL": "yes" if same_shell else "''",
    }


def _fill(template: bytes, values: dict[bytes, str], marker: int) -> bytes:
    """Fill in the template's ``@NAME@``; ``marker`` is the number of its last line in what is submitted."""
    filled = {**values, b"MARKER_LINE": str(marker)}
    return _PLACEHOLDER.sub(lambda match: os.fsencode(filled[match[1]]), template)
