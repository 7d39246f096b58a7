"""Datagrams: header, content and MAC, sealed and opened. Pure, but for the nonces. See docs/wire.md.

A datagram is ``header | content | MAC``, at most `layout.MAX_DATAGRAM` bytes. Only DATA has a content: a body
that holds metrics alone in clear, every other body encrypted. Answers have none, so that they are never
longer than their questions. The MAC covers
header and content under the run's own key; the kind in the header names the direction, so that nothing can be
reflected. Every DATA datagram names the half-open byte range of the journal that it covers and can be decoded
alone.

A sender calls `contents` once for a body and `sign` for each transmission. A receiver calls `peek` to find
the key, then `verified`, and only then believes the header and calls `body`.
"""

from __future__ import annotations

import os

# Not hmac: it loads OpenSSL into every relay.
from _operator import _compare_digest
from typing import NamedTuple

from hpctrack import errors
from hpctrack.script import journal_lines
from hpctrack.stream.wire import ciphers, layout

#: Bytes of a DATA datagram at least, by the first byte of its content.
_LEAST = {
    layout.CLEAR[0]: layout.HEADER_SIZE + 1 + layout.MAC_SIZE,
    layout.SHAKE_128[0]: layout.HEADER_SIZE + 1 + layout.NONCE_SIZE + layout.MAC_SIZE,
}


class Header(NamedTuple):
    """Header of a datagram.

    For DATA, ``start`` and ``end`` are the range of the journal; a range that needs more than one datagram
    travels as ``parts`` slices of its body, numbered by ``part``. For ACK and PONG, ``start`` is the
    committed watermark, for HELD the end of what has arrived without a gap; ``end`` is the credit: up to
    which offset the collector is willing to take more. ``echo`` is the sender's token, given back unchanged;
    an answer has the version of its question.
    """

    kind: int
    submission: bytes  # 16 bytes, a UUID
    task: int
    attempt: int
    journal: bytes  # 8 bytes
    start: int
    end: int
    echo: int = 0
    part: int = 0
    parts: int = 1
    version: int = layout.VERSION


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "little") ^ int.from_bytes(right, "little")).to_bytes(len(left), "little")


def contents(key: bytes, body: bytes) -> list[bytes]:
    """Return what DATA carries of a body: one content, or one for each part that it needs.

    To be made once for what is sent several times.
    """
    pieces = [body[i : i + layout.MAX_BODY] for i in range(0, len(body), layout.MAX_BODY)] or [b""]
    public = _is_public(body)
    return [layout.CLEAR + piece if public else _conceal(key, piece) for piece in pieces]


def _is_public(body: bytes) -> bool:
    """Whether a body has nothing but metrics, which may cross the network in clear."""
    position, size = 0, len(body)
    while position + layout.BLOCK.size <= size:
        kind, length = layout.BLOCK.unpack_from(body, position)
        if kind not in layout.METRICS:
            return False
        position += layout.BLOCK.size + length
    return position == size


def _conceal(key: bytes, piece: bytes) -> bytes:
    nonce = os.urandom(layout.NONCE_SIZE)
    return layout.SHAKE_128 + nonce + _xor(piece, ciphers.keystream(key, nonce, len(piece)))


def seal(key: bytes, header: Header, body: bytes = b"") -> bytes:
    """Return the datagram. ``body`` is for DATA only and must fit: at most `MAX_BODY` bytes."""
    if header.kind != layout.DATA:
        return sign(key, header, b"")
    return sign(key, header, contents(key, body)[0])


def sign(key: bytes, header: Header, content: bytes) -> bytes:
    """Return the datagram with one of the `contents`, or none."""
    head = layout.HEADER.pack(
        layout.MAGIC,
        header.version,
        header.kind,
        header.submission,
        header.task,
        header.attempt,
        header.part,
        header.parts,
        header.journal,
        header.start,
        header.end,
        header.echo,
    )
    content = head + content
    return content + ciphers.mac(key, content)


def peek(datagram: bytes) -> Header:
    """Read the header of a datagram that is not verified yet: good for finding its key, for nothing else.

    Raises `errors.WireError` for what can't be a datagram of ours.
    """
    if not layout.HEADER_SIZE + layout.MAC_SIZE <= len(datagram) <= layout.MAX_DATAGRAM:
        raise errors.WireError("wrong size")
    magic, version, kind, submission, task, attempt, part, parts, name, start, end, echo = (
        layout.HEADER.unpack_from(datagram)
    )
    if magic != layout.MAGIC:
        raise errors.WireError("wrong magic")
    if version not in layout.VERSIONS:
        raise errors.WireError("wrong version")
    if part >= parts or parts > layout.MAX_PARTS:
        raise errors.WireError("wrong part")
    if kind == layout.DATA and not start < end < journal_lines.INT64.stop:
        raise errors.WireError("wrong range")
    if kind == layout.DATA and len(datagram) < _LEAST.get(
        datagram[layout.HEADER_SIZE], layout.MAX_DATAGRAM + 1
    ):
        raise errors.WireError("wrong cipher")
    return Header(kind, submission, task, attempt, name, start, end, echo, part, parts, version)


def verified(key: bytes, datagram: bytes) -> bool:
    """Whether the datagram's MAC is right, compared in constant time."""
    return _compare_digest(ciphers.mac(key, datagram[: -layout.MAC_SIZE]), datagram[-layout.MAC_SIZE :])


def body(key: bytes, datagram: bytes) -> bytes:
    """Return the body of a DATA datagram that `peek` took and that is `verified`, or its part of one."""
    if datagram[layout.HEADER_SIZE] == layout.CLEAR[0]:
        return datagram[layout.HEADER_SIZE + 1 : -layout.MAC_SIZE]
    begin = layout.HEADER_SIZE + 1 + layout.NONCE_SIZE
    hidden = datagram[begin : -layout.MAC_SIZE]
    return _xor(hidden, ciphers.keystream(key, datagram[layout.HEADER_SIZE + 1 : begin], len(hidden)))


def answer(question: Header, key: bytes, watermark: int, credit: int) -> bytes:
    """Return the acknowledgement of a DATA datagram, or the PONG of a PING."""
    kind = layout.ACK if question.kind == layout.DATA else layout.PONG
    return seal(key, question._replace(kind=kind, start=watermark, end=credit, part=0, parts=1))


def held(question: Header, key: bytes, tail: int, credit: int) -> bytes:
    """Return the answer to a DATA datagram that is kept in memory until ranges before it arrive.

    ``tail`` is the end of what has arrived without a gap, committed or not. It promises nothing.
    """
    return seal(key, question._replace(kind=layout.HELD, start=tail, end=credit, part=0, parts=1))
