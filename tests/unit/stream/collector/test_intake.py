"""Receiving: keys, the queue, and the thread on a real socket."""

from __future__ import annotations

import random
import socket
import threading
import time

import pytest

from hpctrack.stream.collector import intake, keys, mmsg
from hpctrack.stream.wire import bodies, ciphers, datagrams, journal, layout
from hpctrack.stream.wire.names import Address
from tests.support.datagrams import SUBMISSION, header
from tests.support.waiting import eventually

SECRET = bytes(range(32))
RUN = keys.RunKey(7, ciphers.run_key(SECRET, -1))
HERE = Address("127.0.0.1", 0)


# --- keys ---


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def names(count: int, task: int = 0):
    return [(index.to_bytes(16, "big"), task) for index in range(count)]


def test_datagrams_wait_for_the_key_of_their_run():
    cache = keys.Keys(Clock())
    name = (SUBMISSION, -1)
    assert cache.find(name) is None
    assert cache.want(name, (b"datagram", b"from"))
    assert cache.wait(0) == [name]
    cache.learn([name], {name: RUN})
    assert cache.find(name) == RUN
    assert cache.unparked() == [(b"datagram", b"from")]
    assert cache.unparked() == []


def test_a_run_that_does_not_exist_is_asked_for_once_in_a_while():
    clock = Clock()
    cache = keys.Keys(clock)
    (name,) = names(1)
    assert cache.want(name, (b"d", b"f"))
    cache.learn(cache.wait(0), {})
    assert cache.refused == 1
    assert not cache.want(name, (b"d", b"f"))
    assert cache.wait(0) == []
    clock.now += keys.ABSENT.longest
    assert cache.want(name, (b"d", b"f"))
    assert cache.wait(0) == [name]


def test_a_run_that_has_come_to_exist_need_not_send_again():
    cache = keys.Keys(Clock())
    (name,) = names(1)
    assert cache.want(name, (b"d", b"f"))
    cache.learn(cache.wait(0), {})
    assert cache.wait(0) == []
    cache.look_again()
    assert cache.wait(0) == [name]
    cache.learn([name], {name: RUN})
    assert cache.unparked() == [(b"d", b"f")]
    assert cache.want(names(2)[1], (b"d", b"f"))


def test_runs_that_do_not_exist_leave_room_for_others():
    clock = Clock()
    cache = keys.Keys(clock)
    for start in range(0, 5000, 500):
        invented = names(start + 500)[start:]
        assert sum(cache.want(name, (b"d", b"f")) for name in invented) == 500
        cache.learn(cache.wait(0), {})
    cache.look_again()
    looked = cache.wait(0)
    assert 0 < len(looked) <= keys.MAX_WANTED / 2
    assert looked[0] == names(5000)[-1]
    assert cache.want((SUBMISSION, -1), (b"d", b"f"))


def test_whoever_waits_for_runs_hears_others_too():
    cache = keys.Keys(Clock())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        assert cache.wait(60, ours.fileno()) == []


def test_a_flood_of_invented_runs_is_bounded():
    cache = keys.Keys(Clock())
    kept = sum(cache.want(name, (b"d", b"f")) for name in names(5000))
    assert kept == keys.MAX_WANTED
    assert len(cache.wait(0)) == keys.MAX_WANTED
    known = keys.Keys(Clock())
    assert sum(known.want(names(1)[0], (b"d", b"f")) for _ in range(100)) == 4


def test_keys_do_not_show_themselves():
    assert RUN.key.hex() not in repr(RUN)
    assert str(RUN.key) not in repr(RUN)


def test_runs_that_are_gone_are_forgotten():
    cache = keys.Keys(Clock())
    cache.learn([], {})
    cache.learn([(SUBMISSION, -1)], {(SUBMISSION, -1): RUN})
    cache.forget({7})
    assert cache.find((SUBMISSION, -1)) is None


# --- the queue ---


def datagram(size=100) -> intake.Datagram:
    return intake.Datagram(header(), bytes(size), RUN, b"from")


def test_the_queue_is_bounded_in_bytes():
    queue = intake.Intake(10_000)
    assert queue.put([datagram(1000)] * 20) == 13
    assert queue.fill >= 1
    assert len(queue.take(100, 0)) == 7
    assert queue.fill == 0


def test_no_run_and_no_user_fills_the_queue_alone_while_others_send():
    queue = intake.Intake(100_000)
    for number in range(500):
        run = RUN._replace(run_id=number % 50, user="attacker")
        queue.put([datagram(1000)._replace(run=run)])
    assert queue.put([datagram(1000)._replace(run=RUN._replace(run_id=99, user="victim"))] * 3) == 0
    assert queue.fill < 1
    queue = intake.Intake(100_000)
    queue.put([datagram(1000)._replace(run=RUN._replace(run_id=99))])
    queue.put([datagram(1000)] * 100)
    assert queue.put([datagram(1000)._replace(run=RUN._replace(run_id=99))] * 3) == 0


def test_a_batch_has_a_limit_and_nothing_is_lost():
    queue = intake.Intake()
    queue.put([datagram()] * 5)
    assert [len(queue.take(3, 0)), len(queue.take(3, 0)), len(queue.take(3, 0))] == [3, 2, 0]


def test_a_closed_queue_is_finished_once_it_is_empty():
    queue = intake.Intake()
    queue.put([datagram()])
    queue.close()
    assert not queue.finished
    queue.take(10, 0)
    assert queue.finished


def test_whoever_waits_is_woken():
    queue = intake.Intake()
    taken: list = []
    thread = threading.Thread(target=lambda: taken.extend(queue.take(10, 60)))
    thread.start()
    queue.put([datagram()])
    thread.join(30)
    assert len(taken) == 1


# --- the receiving thread, on a real socket ---


class Running:
    """A receiver, and a socket to send to it from."""

    def __init__(self) -> None:
        self.socket = mmsg.BatchSocket(HERE)
        self.keys = keys.Keys(time.monotonic)
        self.intake = intake.Intake()
        self.receiver = intake.Receiver(self.socket, self.keys, self.intake, lambda _journal: 42)
        self.thread = threading.Thread(target=self.receiver.run)
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.settimeout(10)
        self.client.connect(self.socket.address)
        self.keys.learn([(SUBMISSION, -1)], {(SUBMISSION, -1): RUN})

    def finish(self) -> list[intake.Datagram]:
        """Stop, and return what arrived."""
        self.receiver.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()
        queued = []
        while not self.intake.finished:
            queued += self.intake.take(1000, 0)
        return queued

    def unanswered(self) -> bool:
        self.client.setblocking(False)
        try:
            self.client.recv(2000)
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def running():
    running = Running()
    running.thread.start()
    yield running
    running.receiver.stop()
    running.thread.join(30)
    running.socket.close()
    running.client.close()


def sealed(body=b"body", key=RUN.key, **options) -> bytes:
    return datagrams.seal(key, header(**options), body)


def test_verified_datagrams_are_queued_with_their_run(running):
    for echo in range(1, 301):
        running.client.send(sealed(str(echo).encode(), echo=echo))
    queued = running.finish()
    assert [taken.header.echo for taken in queued] == list(range(1, 301))
    assert queued[0].body == b"1"
    assert queued[0].run == RUN
    assert running.receiver.accepted == 300
    assert running.receiver.datagrams == 300


def test_datagrams_are_decoded_as_they_arrive_and_count_for_what_they_take(running):
    body, _ = bodies.pack([journal.Row.of(0, 3, None, None, {f"n{i}": i for i in range(20)})])
    running.client.send(sealed(body, echo=1))
    running.client.send(sealed(body[:-1], echo=2))
    running.client.send(sealed(body, echo=3, parts=2))
    whole, broken, part = running.finish()
    assert whole.contents.blocks[0].steps.tolist() == [3]
    assert (broken.contents, part.contents) == (None, None)
    assert whole.size > part.size + 20 * 100


def test_a_ping_is_answered_at_once_and_no_longer_than_it_was(running):
    ping = datagrams.seal(RUN.key, header(0, 0, echo=99, kind=layout.PING))
    running.client.send(ping)
    pong = running.client.recv(2000)
    assert len(pong) <= len(ping)
    assert datagrams.verified(RUN.key, pong)
    answer = datagrams.peek(pong)
    assert (answer.kind, answer.echo, answer.start) == (layout.PONG, 99, 42)
    assert running.finish() == []


FORGED = {
    "wrong MAC": sealed(key=bytes(32)),
    "another run's key": sealed(key=ciphers.run_key(SECRET, 3)),
    "a bit changed": bytes([*sealed()[:60], sealed()[60] ^ 1, *sealed()[61:]]),
    "cut short": sealed()[:-1],
    "too short": sealed()[:40],
    "too long": sealed() + bytes(1500),
    "empty": b"",
    "wrong magic": b"XX" + sealed()[2:],
    "wrong version": b"HT\x63" + sealed()[3:],
    "random": random.Random(1).randbytes(700),
    "an acknowledgement": datagrams.seal(RUN.key, header(kind=layout.ACK)),
    "an unknown run": sealed(task=5),
    "an empty range": sealed(start=10, end=10),
    "a part too many": sealed(part=2, parts=2),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_is_wrong_changes_only_a_counter_and_is_not_answered(running, forged):
    running.client.send(forged)
    running.client.send(datagrams.seal(RUN.key, header(0, 0, kind=layout.PING)))
    assert datagrams.peek(running.client.recv(2000)).kind == layout.PONG
    assert running.unanswered()
    waited = len(running.keys.wait(0))
    assert running.finish() == []
    receiver = running.receiver
    assert receiver.refused.total() + receiver.overflow + waited == 1


def test_a_flood_is_looked_at_in_samples_and_who_knows_the_key_gets_through(running):
    receiver, sent = running.receiver, 0
    while not receiver.refused["flood"]:
        assert sent < 30_000
        for _ in range(300):
            running.client.send(FORGED["wrong MAC"])
        sent += 300
        eventually(lambda sent=sent: receiver.datagrams == sent)
    assert receiver.refused["flood"] + receiver.refused["wrong MAC"] == sent
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as neighbour:
        neighbour.sendto(sealed(b"neighbour"), running.socket.address)
        eventually(lambda: receiver.accepted == 1)
    for _ in range(40):  # from the address that floods: one of sixteen, then all
        running.client.send(sealed(b"same address"))
    eventually(lambda: receiver.datagrams == sent + 41)
    assert receiver.accepted >= 1 + 40 - 16


def test_a_new_runs_first_datagram_is_not_lost(running):
    key = keys.RunKey(9, ciphers.run_key(SECRET, 4))
    running.client.send(datagrams.seal(key.key, header(task=4), b"hello"))
    wanted = running.keys.wait(10)
    running.keys.learn(wanted, {(SUBMISSION, 4): key})
    queued = running.intake.take(10, 10)
    assert [(taken.body, taken.run.run_id) for taken in queued] == [(b"hello", 9)]


def test_drops_by_the_kernel_are_counted():
    sock = mmsg.BatchSocket(HERE, buffer=5000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(sock.address)
        for _ in range(200):
            client.send(bytes(1400))
        while sock.receive():
            pass
        client.send(b"one more")
        assert sock.receive()[0][0] == b"one more"
    assert 0 < sock.dropped < 200
    sock.close()


def test_answers_go_where_they_should_in_batches():
    sock = mmsg.BatchSocket(HERE)
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    for number, client in enumerate(clients):
        client.settimeout(10)
        client.connect(sock.address)
        client.send(b"from %d" % number)
    arrived = []
    while len(arrived) < 3 and sock.wait(10):
        arrived += sock.receive()
    answers = [(b"to " + data[5:], address) for data, address in arrived for _ in range(100)]
    assert sock.send(answers) == 300
    for number, client in enumerate(clients):
        assert {client.recv(100) for _ in range(100)} == {b"to %d" % number}
        client.close()
    sock.close()


def test_a_vanished_client_keeps_no_answer_from_the_others():
    sock = mmsg.BatchSocket(HERE)
    gone, there = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for client in (gone, there):
        client.connect(sock.address)
        client.send(b"hello")
    arrived = []
    while len(arrived) < 2 and sock.wait(10):
        arrived += sock.receive()
    gone.close()
    there.settimeout(10)
    for _ in range(3):
        sock.send([(b"answer", address) for _, address in arrived])
        sock.receive()
        assert there.recv(100) == b"answer"
    there.close()
    sock.close()
