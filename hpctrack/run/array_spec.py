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
    parts = [part for part in spec.split(",") if part]
    for part in parts:
        match = _PART.match(part.strip())
        if match is None:
            raise ValueError(f"not an array specification: {spec!r}")
        first = int(match[1])
        last = int(match[2] or first)
        step = int(match[3] or 1)
        if not first <= last < MAX_SIZE or step < 1:
            raise ValueError(f"not an array specification: {spec!r}")
        tasks.update(range(first, last + 1, step))
    if not tasks:
        raise ValueError(f"not an array specification: {spec!r}")
    return sorted(tasks)
