"""The algorithms of the wire: how a run's key is made and used. Standard library only. See docs/wire.md.

There are two suites. BLAKE2b with SHAKE-128 is the faster one, and needs nothing that OpenSSL has. Where
Python refuses either (FIPS mode, a Python built without them) HMAC-SHA-256 serves for all. The submitter
chooses the suite, once, and the submission's secret says which: 32 random bytes, and one more, 1, for the
second suite. Keys of runs are told apart in the same way; nothing else says of which suite a datagram is.
"""

from __future__ import annotations

import functools
import os
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack import errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import blake2b, shake_128
else:
    # Not hashlib and hmac: those load OpenSSL into every relay.
    try:
        from _blake2 import blake2b
    except (ImportError, ValueError):
        blake2b = None
    try:
        from _sha3 import shake_128
    except (ImportError, ValueError):  # a Python that was built without it: Fedora's, and its relatives'
        try:
            from hashlib import shake_128
        except (ImportError, ValueError):
            shake_128 = None

MAC_SIZE = 16
_SIZE = 32
_HMAC_SHA_256 = b"\1"
"""At the end of secrets and keys of the second suite."""


def mint() -> bytes:
    """Return a new secret, for the first suite if this Python has it."""
    return os.urandom(_SIZE) + (b"" if _has_first() else _HMAC_SHA_256)


@functools.cache
def _has_first() -> bool:
    """Whether this Python lets us use the first suite: in FIPS mode it may refuse with the call."""
    try:
        return len(blake2b(b"", key=b"key", digest_size=16).digest() + shake_128(b"").digest(1)) == 17
    except Exception:  # noqa: BLE001 (whatever it says, there is the other one)
        return False


class Keys(NamedTuple):
    """What a run's key is used for: no two purposes share a key."""

    mac: bytes
    cipher: bytes


def run_key(secret: bytes, task: int) -> bytes:
    """Return the key of one run, derived from its submission's secret: 32 bytes, or 33 of the second suite.

    Raises `errors.WireError` for what is no secret, or one of the first suite where Python refuses that.
    """
    content = struct.pack("<i", task)
    if _is_second(secret):
        return _hmac(secret[:_SIZE], b"hpctrack run key" + content) + _HMAC_SHA_256
    if not _has_first():
        raise errors.WireError("this Python refuses BLAKE2b or SHAKE-128, which the submission was made with")
    try:
        return blake2b(content, key=secret, digest_size=_SIZE, person=b"hpctrack run key").digest()
    except ValueError as error:
        raise errors.WireError(f"a secret of {len(secret)} bytes: {error}") from None


@functools.lru_cache(maxsize=8192)
def keys(key: bytes) -> Keys:
    """Return the keys that are made of a run's key."""
    if _is_second(key):
        return Keys(*(_hmac(key[:_SIZE], label) for label in (b"MAC", b"cipher")))
    return Keys(*(blake2b(label, key=key, digest_size=_SIZE).digest() for label in (b"MAC", b"cipher")))


def mac(key: bytes, content: bytes) -> bytes:
    """Return the MAC of a datagram's header and content (`MAC_SIZE` bytes)."""
    if _is_second(key):
        return _hmac(keys(key).mac, content)[:MAC_SIZE]
    return blake2b(content, key=keys(key).mac, digest_size=MAC_SIZE).digest()


def keystream(key: bytes, nonce: bytes, size: int) -> bytes:
    """Return so many bytes for a nonce; of the second suite, HMACs of the nonce and a counter."""
    if _is_second(key):
        blocks = range((size + _SIZE - 1) // _SIZE)
        cipher = keys(key).cipher
        return b"".join(_hmac(cipher, nonce + struct.pack("<I", block)) for block in blocks)[:size]
    return shake_128(keys(key).cipher + nonce).digest(size)


def _is_second(key: bytes) -> bool:
    return len(key) == _SIZE + 1 and key[-1:] == _HMAC_SHA_256


def _hmac(key: bytes, content: bytes) -> bytes:
    return bytes(_digest()(key, content, "sha256"))


@functools.cache
def _digest() -> Callable[..., Any]:
    from hmac import digest  # late: it loads OpenSSL

    return digest
