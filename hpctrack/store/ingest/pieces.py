"""Pieces of journals, cut into lines: so that what PostgreSQL refuses is one row, not its datagram. Pure.

A line is a row of metrics, a message, or a block that nobody here knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpctrack import model
from hpctrack.stream.wire import bodies, journal, layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MICROSECONDS = 1e6


def count(contents: model.Contents) -> int:
    """Return the number of lines."""
    return sum(map(_lines, contents.blocks))


def kinds(given: Iterable[model.Piece]) -> set[str]:
    """Return what there is in pieces: ``rows``, ``messages``."""
    blocks = (block for piece in given for block in piece.contents.blocks)
    return {"rows" if isinstance(block, model.MetricBlock) else "messages" for block in blocks}


def cut(contents: model.Contents, begin: int, end: int) -> model.Contents:
    """Return the lines from ``begin`` up to ``end``, without the count of torn ones."""
    blocks: list[model.Block] = []
    position = 0
    for block in contents.blocks:
        size = _lines(block)
        first, last = max(begin - position, 0), min(end - position, size)
        if first < last:
            blocks.append(_rows(block, first, last) if isinstance(block, model.MetricBlock) else block)
        position += size
    return model.Contents(blocks)


def body(contents: model.Contents) -> bytes:
    """Return lines as the body of a datagram (docs/wire.md)."""
    parts = []
    for block in contents.blocks:
        if isinstance(block, model.UnknownBlock):
            parts.append(layout.BLOCK.pack(block.kind, len(block.data)) + block.data)
        elif isinstance(block, model.NodeMessage):
            parts.append(bodies.pack([journal.Message(0, block.kind, block.text)])[0])
        else:
            parts.append(bodies.pack(list(journal_rows(block)), 1 << 30)[0])
    return b"".join(parts)


def _lines(block: model.Block) -> int:
    return block.rows if isinstance(block, model.MetricBlock) else 1


def _rows(block: model.MetricBlock, begin: int, end: int) -> model.MetricBlock:
    rows = slice(begin, end)

    def part(array: Any) -> Any:
        return None if array is None else array[rows]

    columns = (_column(column, begin, end) for column in block.columns)
    return model.MetricBlock(
        end - begin,
        part(block.steps),
        part(block.stepped),
        part(block.progress),
        part(block.times),
        part(block.timed),
        block.names,
        block.matrix[:, rows],
        tuple(column for column in columns if len(column.values)),
        block.series,
    )


def _column(column: model.MetricColumn, begin: int, end: int) -> model.MetricColumn:
    if column.present is None:
        return column._replace(values=column.values[begin:end])
    before, there = (int(np.count_nonzero(column.present[a:b])) for a, b in ((0, begin), (begin, end)))
    values = column.values[before : before + there]
    return column._replace(present=column.present[begin:end], values=values)


def journal_rows(block: model.MetricBlock) -> Iterator[journal.Row]:
    """Yield the rows of a block, one by one."""
    for index in range(block.rows):
        row = _rows(block, index, index + 1)
        values = dict(zip(row.names, row.matrix[:, 0].tolist(), strict=True))
        for column in row.columns:
            value = column.values[0]
            values[column.name] = value if isinstance(value, str | int) else value.item()
        time = _one(row.times, row.timed)
        yield journal.Row.of(
            0,
            _one(row.steps, row.stepped),
            _one(row.progress, None),
            None if time is None else time / _MICROSECONDS,
            values,
            series=block.series,
        )


def _one(array: Any, present: Any) -> Any:
    return None if array is None or (present is not None and not present[0]) else array[0].item()
