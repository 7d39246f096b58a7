"""Putting in order: ranges of journals in any order, twice, in parts, and what may be held of whose."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrack.stream.collector import reassembly
from hpctrack.stream.collector.reassembly import Verdict
from hpctrack.stream.wire.names import JournalKey
from tests.support.datagrams import JOURNAL, header

KEY = JournalKey(7, JOURNAL.hex())


def at(watermark=0, **limits) -> reassembly.Reassembly:
    order = reassembly.Reassembly(**limits)
    order.learn(KEY, watermark, 0.0)
    return order


def arrive(order: reassembly.Reassembly, *args, body=b"x", now=0.0, **options):
    verdict, joined = order.arrive(KEY, header(*args, **options), body, now)
    return verdict, [(whole.header.start, whole.header.end) for whole in joined]


def test_what_continues_a_journal_joins_the_batch():
    order = at(10)
    assert arrive(order, 10, 20) == (Verdict.JOINED, [(10, 20)])
    assert arrive(order, 20, 25) == (Verdict.JOINED, [(20, 25)])
    assert (order.watermark(KEY), order.tail(KEY)) == (10, 25)


def test_what_is_in_or_on_its_way_is_told_apart():
    order = at(10)
    arrive(order, 10, 20)
    assert arrive(order, 0, 10) == (Verdict.COMMITTED, [])
    assert arrive(order, 5, 15) == (Verdict.DROPPED, [])
    assert arrive(order, 10, 20) == (Verdict.IGNORED, [])
    assert arrive(order, 15, 30) == (Verdict.IGNORED, [])


def test_a_closed_gap_lets_all_behind_it_join():
    order = at()
    assert arrive(order, 20, 30) == (Verdict.HELD, [])
    assert arrive(order, 10, 20) == (Verdict.HELD, [])
    assert order.size > 0
    assert arrive(order, 0, 10) == (Verdict.JOINED, [(0, 10), (10, 20), (20, 30)])
    assert order.size == 0


def test_new_journals_do_not_drive_out_those_of_the_same_batch():
    order = at(10, journals=3)
    for number in range(2):
        order.learn(JournalKey(number, "other"), 0, 0.0)
    keys_of_batch = [KEY, JournalKey(9, "new")]
    for key in order.unknown(keys_of_batch):
        order.learn(key, 0, 1.0)
    assert arrive(order, 10, 20) == (Verdict.JOINED, [(10, 20)])
    assert order.unknown([JournalKey(0, "other")]) == [(0, "other")]


def test_parts_join_when_they_are_complete_in_any_order():
    order = at()
    assert arrive(order, 0, 50, part=2, parts=3, body=b"c") == (Verdict.HELD, [])
    assert arrive(order, 0, 50, part=0, parts=3, body=b"a") == (Verdict.HELD, [])
    assert arrive(order, 0, 50, part=0, parts=3, body=b"a") == (Verdict.HELD, [])
    verdict, joined = order.arrive(KEY, header(0, 50, part=1, parts=3), b"b", 0.0)
    assert verdict is Verdict.JOINED
    assert joined[0].body == b"abc"
    assert order.size == 0


def test_parts_beyond_a_gap_are_held_whole():
    order = at()
    arrive(order, 10, 50, part=0, parts=2, body=b"a")
    assert arrive(order, 10, 50, part=1, parts=2, body=b"b") == (Verdict.HELD, [])
    assert arrive(order, 0, 10) == (Verdict.JOINED, [(0, 10), (10, 50)])


def test_what_is_held_is_bounded_for_a_journal_and_in_all():
    order = at(per_journal=2000, in_all=3000)
    other = KEY._replace(run_id=8)
    order.learn(other, 0, 0.0)
    verdicts = [arrive(order, start, start + 5, body=bytes(700))[0] for start in range(10, 60, 5)]
    assert verdicts == [Verdict.HELD] * 2 + [Verdict.DROPPED] * 8
    assert order.arrive(other, header(50, 60), bytes(400), 0.0)[0] is Verdict.HELD
    assert order.arrive(other, header(60, 70), bytes(400), 0.0)[0] is Verdict.DROPPED
    assert order.size <= 3000


def take_in(order, user, run, journal, *spans, body=bytes(700)):
    """Take in ranges of a journal; returns what became of each."""
    key = JournalKey(run, f"{journal:016x}")
    if order.unknown([key]):
        order.learn(key, 0, 0.0, user)
    return [order.arrive(key, header(start, start + 10), body, 0.0)[0] for start in spans]


@pytest.mark.parametrize("attackers", [1, 10])
@pytest.mark.parametrize("runs", [1, 50])
@pytest.mark.parametrize("journals", [1, 50])
def test_whoever_holds_most_gives_way_to_others(attackers, runs, journals):
    order = reassembly.Reassembly(per_journal=100_000, per_run=200_000, per_user=400_000, in_all=800_000)
    for turn in range(1500):
        user = turn % attackers
        run = 1000 * user + turn % runs
        take_in(order, f"u{user}", run, turn % journals, 10 + 10 * turn)
    assert order.size <= 800_000
    # One with a gap, of a range in many parts, and of ten ranges: all are held until the gap closes.
    assert take_in(order, "victim", 7, 1, *range(10, 110, 10)) == [Verdict.HELD] * 10
    key = JournalKey(7, f"{1:016x}")
    for part in range(10):
        parts = header(110, 200, part=part, parts=10)
        assert order.arrive(key, parts, bytes(700), 0.0)[0] is Verdict.HELD
    for turn in range(1500, 2500):  # they go on
        take_in(order, f"u{turn % attackers}", 1000 * (turn % attackers) + turn % runs, 3, 10 + 10 * turn)
    verdict, joined = order.arrive(key, header(0, 10), b"x", 0.0)
    assert verdict is Verdict.JOINED
    assert [whole.header.end for whole in joined] == [*range(10, 111, 10), 200]
    assert order.size <= 800_000


def test_a_run_of_a_user_who_holds_all_that_they_may_gets_room_from_their_others():
    order = reassembly.Reassembly(per_user=200_000)
    for turn in range(1000):
        take_in(order, "alice", 1, turn % 10, 10 + 10 * turn)
    assert take_in(order, "alice", 2, 1, *range(10, 110, 10)) == [Verdict.HELD] * 10
    assert order.size <= 200_000


def test_journals_without_end_of_one_user_push_out_only_their_own():
    order = reassembly.Reassembly(journals=100)
    take_in(order, "victim", 7, 1, 10)
    for number in range(1000):
        take_in(order, "attacker", 8, number)
    assert len(order) <= 101
    assert take_in(order, "victim", 7, 1, 0) == [Verdict.JOINED]
    assert order.size == 0


def test_a_batch_of_more_new_journals_than_anybody_has_is_taken_in():
    order = reassembly.Reassembly(journals=100)
    for number in range(100):
        take_in(order, f"user{number}", number, 1, 0)
    batch = [JournalKey(1000, f"{number:016x}") for number in range(60)]
    for key in order.unknown(batch):
        order.learn(key, 0, 0.0, "a user with a large array")
    assert [order.arrive(key, header(0, 10), b"x", 0.0)[0] for key in batch] == [Verdict.JOINED] * 60
    assert order.unknown([]) == []
    assert len(order) == 100


class Steps:
    """How often numbers and names were looked at."""

    taken = 0


class Number(int):
    """A number that counts how often it is looked up or compared."""

    def __hash__(self):
        Steps.taken += 1
        return int.__hash__(self)

    def __lt__(self, other):
        Steps.taken += 1
        return int.__lt__(self, other)

    def __gt__(self, other):
        Steps.taken += 1
        return int.__gt__(self, other)


class Name(str):
    """A name that counts how often it is looked up."""

    __slots__ = ()

    def __hash__(self):
        Steps.taken += 1
        return str.__hash__(self)


@pytest.mark.parametrize(
    ("users", "runs", "journals", "size"),
    [(1, 8000, 1, 100), (3, 2, 2, 1), (200, 2, 2, 700), (5000, 1, 1, 700)],
    ids=["an array of many tasks", "tiny ranges", "many users", "very many users"],
)
def test_what_others_hold_costs_nobody_time(users, runs, journals, size):
    """However many ranges of whomever are held, one more is a matter of few steps."""
    order = reassembly.Reassembly(per_journal=2 << 20, per_run=2 << 20, per_user=2 << 20, in_all=4 << 20)
    steps = []

    def put(user, run, journal, start, size):
        before = Steps.taken
        take_in(order, Name(user), Number(run), journal, Number(start), body=bytes(size))
        steps.append(Steps.taken - before)

    for turn in range(20_000):
        user, number = turn % users, turn // users
        put(f"u{user}", 100_000 * user + number % runs, number // runs % journals, 10 + 10 * turn, size)
    for turn in range(300):
        put("victim", -1, turn % 20, 10 + 10 * turn, 1300)
    assert max(steps[-1300:]) < 1000
    assert order.size <= 4 << 20


def test_what_is_charged_is_given_back():
    order, rng = reassembly.Reassembly(in_all=50_000, per_user=30_000, journals=20), random.Random(0)
    for _ in range(5000):
        user = rng.randrange(4)
        take_in(order, f"u{user}", 10 * user + rng.randrange(3), rng.randrange(4), 10 * rng.randrange(30))
        order.expire(rng.choice((0.0, 0.0, 0.0, 100.0)) if rng.random() < 0.01 else 0.0)
        assert order.size == sum(journal.size for journal in order._journals.values()) <= 50_000
    order.expire(1000.0)
    assert (order.size, bool(order._users), order._runs, order._held) == (0, False, {}, {})


def test_a_watermark_that_moved_elsewhere_is_taken_over():
    order = at()
    arrive(order, 10, 20)
    arrive(order, 20, 30)
    arrive(order, 40, 50)
    order.learn(KEY, 20, 1.0)
    assert [(whole.header.start, whole.header.end) for _, whole in order.ready([KEY])] == [(20, 30)]
    assert order.tail(KEY) == 30
    order.learn(KEY, 60, 1.0)
    assert order.size == 0


def test_a_batch_that_was_not_stored_may_come_again():
    order = at()
    arrive(order, 0, 10)
    order.learn(KEY, 0, 1.0)
    assert arrive(order, 0, 10) == (Verdict.JOINED, [(0, 10)])


def test_what_nobody_asks_for_any_more_is_forgotten():
    order = at()
    arrive(order, 10, 20, now=100.0)
    order.expire(130.0)
    assert order.size > 0
    order.expire(200.0)
    assert (order.size, len(order)) == (0, 0)
    assert order.unknown([KEY]) == [KEY]


@given(st.integers(0, 1 << 32), st.floats(0, 0.7))
@settings(max_examples=100, deadline=None)
def test_every_byte_joins_once_and_in_order_whatever_the_network_does(seed, loss):
    rng = random.Random(seed)
    order, tail, journal = at(), 0, []
    while tail < 200:
        end = tail + rng.randint(1, 20)
        parts = rng.choice([1, 1, 3])
        journal += [(tail, end, part, parts) for part in range(parts)]
        tail = end
    stored, pending = 0, []
    for _ in range(10_000):
        if stored == tail:
            break
        for start, end, part, parts in rng.sample(journal, min(len(journal), 8)):
            if rng.random() >= loss:
                pending += order.arrive(KEY, header(start, end, part=part, parts=parts), b"x", 0.0)[1]
        if rng.random() < 0.3:
            for whole in pending:
                assert whole.header.start == stored
                stored = whole.header.end
            pending = []
            order.learn(KEY, stored, 0.0)
    assert stored == tail
