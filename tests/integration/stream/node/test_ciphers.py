"""Pythons that refuse the first suite: everything is sent, verified and stored by HMAC-SHA-256."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrack import errors
from hpctrack.stream.wire import ciphers, datagrams, records
from tests.support.commands import PROGRAM
from tests.support.paths import ROOT
from tests.support.waiting import eventually

#: How a Python refuses: modules that can't be imported, or that complain of each call, as in FIPS mode.
REFUSALS = {
    "no _blake2": "sys.modules['_blake2'] = None",
    "no _blake2, no SHAKE": "sys.modules['_blake2'] = None; sys.modules['_sha3'] = None;"
    " import hashlib; del hashlib.shake_128",
    "keyed BLAKE2b": """
import _blake2
def refuse(*args, **options): raise ValueError('[digital envelope routines] unsupported')
_blake2.blake2b = refuse""",
    "SHAKE": """
import _sha3
def refuse(*args, **options): raise ValueError('[digital envelope routines] unsupported')
_sha3.shake_128 = refuse""",
}


def ask(refusal: str, code: str) -> str:
    program = f"import sys\nsys.path.append({str(ROOT)!r})\n{refusal}\n{code}"
    argv = [sys.executable, "-I", "-c", program]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


EXCHANGE = """
from hpctrack.stream.wire import ciphers, datagrams, layout
secret = ciphers.mint()
key = ciphers.run_key(secret, 3)
header = datagrams.Header(layout.DATA, b's' * 16, 3, 0, b'j' * 8, 0, 5)
body = layout.BLOCK.pack(layout.MESSAGE, 6) + b'\\4hello'
sealed = datagrams.seal(key, header, body)
assert b'hello' not in sealed
assert datagrams.verified(key, sealed) and not datagrams.verified(ciphers.run_key(secret, 4), sealed)
assert datagrams.body(key, sealed) == body
print(secret.hex(), sealed.hex())
"""


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_a_python_seals_that_refuses_blake2b_any_other_reads(refusal):
    secret, sealed = map(bytes.fromhex, ask(REFUSALS[refusal], EXCHANGE).split())
    assert (len(secret), secret[-1]) == (33, 1)
    key = ciphers.run_key(secret, 3)
    assert datagrams.verified(key, sealed)
    assert datagrams.body(key, sealed).endswith(b"\4hello")
    damaged = sealed[:-1] + bytes((sealed[-1] ^ 1,))
    assert not datagrams.verified(key, damaged)


def test_what_it_can_not_read_it_says():
    code = "from hpctrack import errors\nfrom hpctrack.stream.wire import ciphers, datagrams, layout\n"
    code += "try: ciphers.run_key(b's' * 32, 1)\nexcept errors.WireError as error: print(error)"
    assert "refuses BLAKE2b" in ask(REFUSALS["no _blake2"], code)
    with pytest.raises(errors.WireError):
        ciphers.run_key(b"s" * 65, 1)


def test_both_suites_use_different_keys_for_each_purpose():
    for secret in (os.urandom(32), os.urandom(32) + b"\1"):
        key = ciphers.run_key(secret, 1)
        assert len(key) == len(secret)
        assert len({key[:32], secret[:32], *ciphers.keys(key), ciphers.run_key(secret, 2)[:32]}) == 5
        assert ciphers.keystream(key, b"n" * 16, 100)[:64] == ciphers.keystream(key, b"n" * 16, 64)
        assert ciphers.keystream(key, b"m" * 16, 64) != ciphers.keystream(key, b"n" * 16, 64)


def test_a_run_of_the_second_suite_arrives(settings, collect, track, connection):
    """Who submits has no BLAKE2b; relay and collector learn from the secret which suite it is."""
    collect().address()
    program = f"import sys\n{REFUSALS['no _blake2']}\n{PROGRAM}"
    run = track(20, 1000, program=program)
    assert run.wait() == 0
    (record,) = Path(settings.spool).glob("submissions/*.json")
    assert len(bytes.fromhex(records.read(str(record)).secret)) == 33
    eventually(lambda: run.run_id(connection))
    run.check()


def test_a_secret_that_is_none_is_its_runs_trouble_alone(settings, collect, track, connection, register):
    """Whoever registers may bring anything."""
    collect().address()
    register(7)
    connection.execute("UPDATE run_keys SET secret = %s", [b"s" * 100])
    run = track(20, 1000)
    assert run.wait() == 0
    run.check()
