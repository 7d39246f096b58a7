"""From log() to SQL, end to end: every row that log() returned for is there once, bit for bit."""

from __future__ import annotations

import math
import pickle

import pytest

from hpctrack.store.metrics import columns
from tests.support.chain import Chain
from tests.support.journals import bits, metric_columns, stored


@pytest.fixture
def chain(database, connection, tmp_path):
    settings = database._replace(collector_bind="127.0.0.1", auto_columns=True)
    chain = Chain(settings, connection, tmp_path)
    chain.collect()
    yield chain
    chain.close()


def exact(values):
    """Return what tells values apart; a column makes floats of the integers that it holds exactly."""
    return {
        name: bits(float(value) if type(value) is int and abs(value) <= 1 << 53 else value)
        for name, value in values.items()
    }


def check(chain, run_id, expected, rows=None):
    """Compare all of a run with what was logged, by step and progress; ``rows`` were logged in all."""
    stored_rows = stored(chain.connection, run_id)
    assert stored_rows.keys() == expected.keys()
    for key, logged in expected.items():
        assert exact(stored_rows[key]) == exact(logged), key
    assert chain.accounts(run_id) == (len(expected) if rows is None else rows, 0, 0)


NUMBERS = [
    0.0, -0.0, 0.1, 1 / 3, 5e-324, -2.2250738585072011e-308, 2.2250738585072014e-308, 1.7976931348623157e308,
    math.inf, -math.inf, math.nan, 0, -1, 1 << 53, (1 << 53) + 1, (1 << 63) - 1, -(1 << 63), 1 << 63,
    -(1 << 63) - 1, 1 << 80, True, False,
]  # fmt: skip
NAMES = [
    "train/loss", "with space", "a\tb", "üñï", "损失", "\N{ROCKET}", 'quote"d', "it's", "per%cent", "a=b",
    "a,b", "#x", "!x", "back\\slash", "", "{}", "x" * 200, "é" * 100, "y" * 63 + "1", "y" * 63 + "2",
    "é" * 31 + "ab", "é" * 31 + "ac", "Loss", "loss", "LOSS", "run_id", "time", "attempt", "extra", "ctid",
    "xmin", "xmax", "cmin", "cmax", "tableoid", "oid", "select", "null", "true", "nan",
]  # fmt: skip


def test_values_and_names_of_every_kind(chain, tmp_path):
    names = {name: index + 0.5 for index, name in enumerate(NAMES)}
    (tmp_path / "logged").write_bytes(pickle.dumps((NUMBERS, names)))
    run_id = chain.run("""
        import hpctrack, pickle
        numbers, names = pickle.load(open("logged", "rb"))
        for step, value in enumerate(numbers):
            hpctrack.log(step=step, v=value, w=float(step))
            hpctrack.log({"text": "not packed", "v": value}, step=1000 + step)
        for step in (2000, 2001):
            hpctrack.log(names, step=step)
            hpctrack.log({**names, "text": "not packed"}, step=step + 1000)
            hpctrack.log({name: value + step for name, value in names.items()}, step=step, progress=0.5)
    """)
    expected = {}
    for step, value in enumerate(NUMBERS):
        expected[step, 0.0] = {"v": value, "w": float(step)}
        expected[1000 + step, 0.0] = {"text": "not packed", "v": value}
    for step in (2000, 2001):
        # What came without progress is in the row that has one, and was replaced there.
        expected[step, 0.5] = {name: value + step for name, value in names.items()}
        expected[step + 1000, 0.0] = {**names, "text": "not packed"}
    check(chain, run_id, expected, rows=len(expected) + 2)


def test_what_a_shell_says(chain):
    """Lines as any language may write them, with numbers in C's grammar."""
    run_id = chain.run(r"""
        import subprocess
        subprocess.run(["sh", "-euc", '''
            echo "step=1 loss=.5 inf=-inf nan=nan zero=-0.0 sub=5e-324 big=9223372036854775807" \
                >> "$HPCTRACK_JOURNAL"
            echo 'step=2 hex=0x1p-3 huge=9223372036854775808 yes=true "a b"=1 word="x \\"y\\"" üñï=1e22' \
                >> "$HPCTRACK_JOURNAL"
            echo "step=3 progress=.25 ctid=1 \\"time\\"=7 Loss=1 loss=2" >> "$HPCTRACK_JOURNAL"
            for i in 4 5 6; do echo "step=$i loss=$i" >> "$HPCTRACK_JOURNAL"; done
        '''], check=True)
    """)
    expected = {
        (1, 0.0): {
            "loss": 0.5, "inf": -math.inf, "nan": math.nan, "zero": -0.0, "sub": 5e-324, "big": (1 << 63) - 1,
        },
        (2, 0.0): {"hex": 0.125, "huge": 1 << 63, "yes": True, "a b": 1, "word": 'x "y"', "üñï": 1e22},
        (3, 0.25): {"ctid": 1, "time": 7, "Loss": 1, "loss": 2},
        **{(step, 0.0): {"loss": step} for step in (4, 5, 6)},
    }  # fmt: skip
    check(chain, run_id, expected)


def test_more_names_than_there_are_columns(chain):
    run_id = chain.run("""
        import hpctrack
        for step in range(3):
            hpctrack.log({f"m{i}": step + i / 2 for i in range(2000)}, step=step)
        for i in range(2000):
            hpctrack.log({f"m{i}": 1}, step=10 + i)
        hpctrack.log({f"many/{i}": float(i) for i in range(8000)}, step=5)
    """)
    expected = {(step, 0.0): {f"m{i}": step + i / 2 for i in range(2000)} for step in range(3)}
    expected |= {(10 + i, 0.0): {f"m{i}": 1} for i in range(2000)}
    expected[5, 0.0] = {f"many/{i}": float(i) for i in range(8000)}
    check(chain, run_id, expected)
    assert len(metric_columns(chain.connection)) == columns.MAX_AUTOMATIC


def test_rows_of_one_step_are_one(chain):
    """In one batch, and in two: the pause lets the first half be committed."""
    run_id = chain.run("""
        import hpctrack, time
        for pause in (0, 1):
            for value in (1, "abc", 2):
                hpctrack.log(step=pause, loss=value, kept=3.5)
                time.sleep(pause)
            for step in range(10, 20):
                hpctrack.log({"train/loss": step + 0.5}, step=step + 100 * pause)
            time.sleep(pause)
            for step in range(10, 20):
                hpctrack.log({"valid/loss": step + 0.25, "note": "x"}, step=step + 100 * pause)
    """)
    expected = {(step, 0.0): {"loss": 2, "kept": 3.5} for step in (0, 1)}
    for step in range(10, 20):
        row = {"train/loss": step + 0.5, "valid/loss": step + 0.25, "note": "x"}
        expected[step, 0.0] = expected[100 + step, 0.0] = row
    check(chain, run_id, expected, rows=46)


PROCESSES = """
import hpctrack, multiprocessing, os, signal, sys, threading

def work(first):
    for step in range(first, first + 100):
        hpctrack.log(step=step, loss=step / 7)

if __name__ == "__main__":
    hpctrack.log(step=-1, loss=-1 / 7)
    if os.fork() == 0:  # right after log()
        work(0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    for method, first in (("fork", 1000), ("spawn", 2000), ("forkserver", 3000)):
        with multiprocessing.get_context(method).Pool(2) as pool:
            pool.map(work, range(first, first + 500, 100), chunksize=1)
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work, args=(first,)) for first in range(4000, 4800, 100)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    child = os.fork()  # beside threads that have logged
    if child == 0:
        if os.fork() == 0:
            work(5000)
            os._exit(0)
        os.wait()
        work(5100)
        os._exit(0)
    os.waitpid(child, 0)
    work(5200)
"""


def test_processes_and_threads_that_all_log(chain):
    run_id = chain.run(PROCESSES)
    steps = [-1, *range(100), *range(4000, 4800), *range(5000, 5300)]
    steps += [step for first in (1000, 2000, 3000) for step in range(first, first + 500)]
    check(chain, run_id, {(step, 0.0): {"loss": step / 7} for step in steps})


def test_rows_without_a_step_keep_their_order(chain):
    run_id = chain.run("""
        import hpctrack
        for value in range(500):
            hpctrack.log(value=value)
    """)
    check(chain, run_id, {(value, 0.0): {"value": value} for value in range(500)})
