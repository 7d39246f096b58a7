"""The committer: batches of datagrams into PostgreSQL, and only then acknowledgements.

For each batch from the queue the thread learns how far its journals are in, puts the datagrams in order
(`reassembly`), stores what continues the journals in one transaction (`ingestion`), and acknowledges it.
While PostgreSQL is in trouble it tries the same batch again; meanwhile the queue fills, and relays keep what
is not acknowledged.
"""

from __future__ import annotations

import functools
import logging
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import tenacity

from hpctrack import errors, model, reconcile
from hpctrack.store.ingest import ingestion, memory
from hpctrack.stream.collector import arrays, reassembly
from hpctrack.stream.collector.figures import Stored
from hpctrack.stream.collector.reassembly import Range, Reassembly, Verdict
from hpctrack.stream.collector.worker import Worker, session
from hpctrack.stream.wire import datagrams
from hpctrack.stream.wire.names import JournalKey

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.ingest.batch import Outcome
    from hpctrack.store.ingest.pending import Pending
    from hpctrack.store.session import Session
    from hpctrack.stream.collector.intake import Datagram, Intake
    from hpctrack.stream.collector.keys import Keys
    from hpctrack.stream.collector.mmsg import Addressed, BatchSocket

#: Datagrams of one batch: some 45,000 rows, so that commits come a few times a second under full load.
BATCH = 1600
#: Bytes of a journal that are taken in beyond its watermark, while there is plenty of room.
CREDIT = 8 << 20
#: Share of the memory for datagrams from where on no more credit is given.
_FULL = 0.75
_IDLE_SECONDS = 1.0
_EXPIRE_SECONDS = 5.0
#: Seconds between attempts while PostgreSQL is in trouble, and how long a collector that ends tries on.
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
_LAST_ATTEMPTS = 5.0
#: If this process stands still in mid-batch (its host does, or somebody stopped it), PostgreSQL lets go of
#: its journals after so long: another collector may serve them.
_STANDSTILL = "10s"

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class _Arrived(NamedTuple):
    """What a batch of datagrams comes to."""

    batch: list[tuple[JournalKey, Range]]
    """What joins the next transaction."""
    newest: dict[JournalKey, Datagram]
    """Of each journal in it the datagram that came last: it is acknowledged."""
    answers: list[Addressed]
    """What is answered at once."""


class Committer(Worker):
    """Stores until the queue is closed and empty."""

    NAME = "store"
    TROUBLES = ()  # `_persistently` is what tries again
    REMARK = "; what arrives is kept, and not acknowledged"
    _session: Session
    #: What stores through the session's connection: it is made anew with it.
    _ingestion: ingestion.Ingestion

    def __init__(
        self,
        settings: Settings,
        sock: BatchSocket,
        intake: Intake,
        keys: Keys,
        ended: Callable[[set[int]], None],
    ) -> None:
        """``ended`` hears of runs whose script has ended."""
        super().__init__(session(settings, opened=self._begin, idle=_STANDSTILL))
        self._settings = settings
        self._socket = sock
        self._intake = intake
        self._keys = keys
        self._ended = ended
        self._reassembly = Reassembly()
        self._next_expiry = 0.0
        self._given_up = False
        #: By the names of `figures.Stored`.
        self.counts: Counter[str] = Counter()
        #: Rows that were set aside, by SQLSTATE.
        self.rejected: Counter[str] = Counter()
        #: Seconds that the last batch took, and all of them.
        self.commit_s = self.commit_total_s = 0.0
        self._memory = memory.Memory()
        #: What PostgreSQL refuses whatever comes for; None while it does not.
        self.refusing: str | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes that are held because something before them is missing."""
        return self._reassembly.size

    @property
    def journals(self) -> int:
        """Journals that are remembered."""
        return len(self._reassembly)

    @property
    def pending(self) -> Pending:
        """What is stored, and statistics do not tell of yet."""
        return self._memory.pending

    def figures(self) -> Stored:
        """Return what this thread has counted."""
        return Stored(**self.counts)

    def watermark(self, key: JournalKey) -> int:
        """Return how far a journal is known to be committed. For any thread."""
        return self._reassembly.watermark(key)

    def step(self) -> float:
        """Store what has arrived, and acknowledge it."""
        try:
            received = self._intake.take(BATCH, _IDLE_SECONDS)
            if received:
                self._take(received)
        except errors.StoreError as error:
            _log.error("ending while PostgreSQL is in trouble; relays keep what is not stored: %s", error)
            self._given_up = True
        if time.monotonic() >= self._next_expiry:
            self._reassembly.expire(time.monotonic())
            self._next_expiry = time.monotonic() + _EXPIRE_SECONDS
        return 0.0

    def is_done(self) -> bool:
        """Whether all is stored and nothing more will come, or PostgreSQL is not waited for any longer."""
        return self._given_up or self._intake.finished

    def _take(self, received: Sequence[Datagram]) -> None:
        arrived = self._arrive(received)
        self._socket.send(arrived.answers)
        batch = arrived.batch
        while batch:
            self._store(batch)
            self._socket.send([self._acknowledge(*newest) for newest in arrived.newest.items()])
            batch = self._reassembly.ready(arrived.newest)  # another collector may have closed a gap

    def _arrive(self, received: Sequence[Datagram]) -> _Arrived:
        """Put datagrams in order."""
        keys = [JournalKey(datagram.run.run_id, datagram.header.journal.hex()) for datagram in received]
        self._learn_watermarks(dict(zip(keys, (datagram.run.user for datagram in received), strict=True)))
        arrived = _Arrived([], {}, [])
        now = time.monotonic()
        for key, datagram in zip(keys, received, strict=True):
            verdict, joined = self._reassembly.arrive(
                key, datagram.header, datagram.body, now, datagram.contents
            )
            self.counts[verdict.name.lower()] += 1
            arrived.batch.extend([(key, whole) for whole in joined])
            if verdict is Verdict.JOINED:
                arrived.newest[key] = datagram
            elif verdict is not Verdict.IGNORED:
                arrived.answers.append(self._answer(key, datagram, verdict))
        return arrived

    def _learn_watermarks(self, users: Mapping[JournalKey, str]) -> None:
        unknown = self._reassembly.unknown(users)
        if unknown:
            known = self._persistently(lambda store: store.watermarks(unknown))
            for key, watermark in known.items():
                self._reassembly.learn(key, watermark, time.monotonic(), users[key])

    def _store(self, batch: Sequence[tuple[JournalKey, Range]]) -> None:
        """Store a batch in PostgreSQL, and take in what became of it."""
        started = time.monotonic()
        pieces = [_piece(key, whole, self._owner(key)) for key, whole in batch]
        outcome = self._persistently(lambda store: store.store(pieces))
        self.commit_s = time.monotonic() - started
        self.commit_total_s += self.commit_s
        self._count(outcome)
        for key in {key: None for key, _ in batch}:
            # What was not looked at is not waited for any longer, either.
            watermark = outcome.watermarks.get(key, self._reassembly.watermark(key))
            self._reassembly.learn(key, watermark, started)
        self._hold(outcome.ahead, batch)
        if outcome.gone:
            self._keys.forget(outcome.gone)
        if outcome.ended:
            self._ended(outcome.ended)

    def _count(self, outcome: Outcome) -> None:
        self.counts["batches"] += 1
        self.counts.update(outcome.counts)
        self.rejected.update(outcome.rejected)
        if outcome.refusing or outcome.counts["rows"]:
            self.refusing = outcome.refusing

    def _hold(self, ahead: Sequence[model.Piece], batch: Sequence[tuple[JournalKey, Range]]) -> None:
        """Hold what turned out to begin beyond the watermark."""
        if not ahead:
            return
        ranges = {(key, whole.header.start): whole for key, whole in batch}
        for piece in ahead:
            key = JournalKey(piece.run_id, piece.journal)
            self._reassembly.hold(key, ranges[key, piece.start])

    def _owner(self, key: JournalKey) -> str:
        """Return whose a journal is; empty in the personal mode, where all are one user's."""
        return "" if self._settings.personal else self._reassembly.user(key)

    def _answer(self, key: JournalKey, datagram: Datagram, verdict: Verdict) -> Addressed:
        """Return what is answered at once."""
        header, run_key = datagram.header, datagram.run.key
        credit = self._credit(key)
        if verdict is Verdict.HELD:
            return datagrams.held(header, run_key, self._reassembly.tail(key), credit), datagram.address
        if verdict is Verdict.DROPPED:
            header = _without_echo(header)
        return datagrams.answer(header, run_key, self._reassembly.watermark(key), credit), datagram.address

    def _acknowledge(self, key: JournalKey, datagram: Datagram) -> Addressed:
        """Return the answer to the datagram of a journal that arrived last, after the commit."""
        header = datagram.header
        watermark = self._reassembly.watermark(key)
        if header.end > watermark:  # it was not stored after all
            header = _without_echo(header)
        return datagrams.answer(header, datagram.run.key, watermark, self._credit(key)), datagram.address

    def _credit(self, key: JournalKey) -> int:
        fill = max(self._intake.fill, self._reassembly.size / reassembly.IN_ALL)
        return self._reassembly.watermark(key) + int(CREDIT * max(0.0, 1 - fill / _FULL))

    # --- PostgreSQL, in good days and bad ones ---

    def _persistently(self, act: Callable[[ingestion.Ingestion], _T]) -> _T:
        """Do something, again and again while PostgreSQL is in trouble, with a new connection each time.

        Raises `errors.StoreError` only when the collector is to end.
        """
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(errors.StoreError),
            wait=tenacity.wait_exponential_jitter(_FIRST_PAUSE, _LAST_PAUSE, jitter=_FIRST_PAUSE),
            stop=_Deadline(self._stopping),
            sleep=self._pause,
            before_sleep=self._note_trouble,
            reraise=True,
        ):
            with attempt:
                self._session.connection()
                result = act(self._ingestion)
        self.note(None)
        return result

    def _begin(self, connection: Connection) -> None:
        """Make what stores through a new connection."""
        self._ingestion = ingestion.Ingestion(
            connection,
            reconcile.observe,
            auto_columns=self._settings.adds_columns,
            memory=self._memory,
        )

    def _note_trouble(self, state: tenacity.RetryCallState) -> None:
        self.note(str(state.outcome.exception() if state.outcome else ""))
        self.drop()

    def note(self, trouble: str | None) -> None:
        """Take in what is wrong with PostgreSQL, or that it works (again)."""
        if self.trouble is not None and trouble is None:
            _log.info("PostgreSQL is back")
        super().note(trouble)

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            time.sleep(min(seconds, 0.5))


class _Deadline:
    """Stops attempts some time after the collector was told to end."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._until: float | None = None

    def __call__(self, _state: tenacity.RetryCallState) -> bool:
        if not self._stopping.is_set():
            return False
        if self._until is None:
            self._until = time.monotonic() + _LAST_ATTEMPTS
        return time.monotonic() >= self._until


def _without_echo(header: datagrams.Header) -> datagrams.Header:
    """Return the header of a datagram that is not kept: its echo would say that it is."""
    return header._replace(echo=0)


def _piece(key: JournalKey, whole: Range, owner: str) -> model.Piece:
    """Decode a range, if need be. What can't be decoded is set aside: sent again, it would be no better."""
    header, body, contents = whole
    fault = None
    if contents is None:
        try:
            contents = arrays.decode(body)
        except errors.WireError as error:
            contents, fault = model.Contents([]), f"can't be decoded: {error}"
    return model.Piece(
        *key,
        header.attempt,
        header.start,
        header.end,
        contents,
        body,
        fault,
        submission=_submission(header.submission),
        task=header.task,
        owner=owner,
    )


@functools.lru_cache(maxsize=4096)
def _submission(name: bytes) -> uuid.UUID:
    """Return what PostgreSQL calls a submission. Its datagrams share it."""
    return uuid.UUID(bytes=name)
