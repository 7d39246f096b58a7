"""Array specifications (``sbatch --array``). Pure."""

from __future__ import annotations

import re

#: One more than the greatest task id of any Slurm (slurm.conf, MaxArraySize).
MAX_SIZE = 4_000_001

# strtol() on each part, and brackets are let pass (src/common/slurm_protocol_defs.c, slurm_parse_array_tok).
_PART = re.compile(r"\[?(\d+)\]?(?:-(\d+)\]?(?::(\d+)\]?)?)?(?:%.*)?\Z", re.ASCII)


def expand(spec: str) -> list[int]:
    """Return the task ids of a specification such as ``0-15:4%2`` or ``1,3,5-7``, sorted, each once.

    Raises ValueError for what Slurm refuses.
    """
    tasks: set[int] = set()
    for part in filter(None, spec.split(",")):
        span = _span(part.strip())
        if not span:
            raise ValueError(f"not an array specification: {spec!r}")
        tasks.update(span)
    if not tasks:
        raise ValueError(f"not an array specification: {spec!r}")
    return sorted(tasks)


def _span(part: str) -> range:
    """Return the tasks of a part between commas; an empty range for what Slurm refuses."""
    match = _PART.match(part)
    if match is None:
        return range(0)
    first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
    return range(first, last + 1, step) if last < MAX_SIZE and step > 0 else range(0)
