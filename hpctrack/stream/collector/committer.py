"""The storing side of the collector: batches of datagrams into PostgreSQL, and only then acknowledgements."""

from __future__ import annotations

import functools
import logging
import threading
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import tenacity

from hpctrack import errors, model, reconcile
from hpctrack.store import database, locked
from hpctrack.store.ingest import ingestion, memory
from hpctrack.stream.collector import arrays, reassembly
from hpctrack.stream.collector.reassembly import Key, Range, Reassembly, Verdict
from hpctrack.stream.wire import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hpctrack.settings import Settings
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


class _Waiting(NamedTuple):
    """A complete range that joins a batch."""

    key: Key
    whole: Range


class Storing:
    """Stores in a thread of its own, until nothing more comes."""

    def __init__(
        self,
        settings: Settings,
        sock: BatchSocket,
        intake: Intake,
        keys: Keys,
        ended: Callable[[set[int]], None],
    ) -> None:
        """``ended`` hears of runs whose script has ended."""
        self._settings = settings
        self._socket = sock
        self._intake = intake
        self._keys = keys
        self._ended = ended
        self._reassembly = Reassembly()
        self._connection: database.Connection | None = None
        self._ingestion: ingestion.Ingestion | None = None
        self._stopping = threading.Event()
        self._next_expiry = 0.0
        self.counts: Counter[str] = Counter()
        #: Rows that were set aside, by SQLSTATE.
        self.rejected: Counter[str] = Counter()
        #: Seconds that the last batch took, and all of them.
        self.commit_s = self.commit_total_s = 0.0
        self._memory = memory.Memory()
        self._trouble: str | None = None
        self._refusing: str | None = None

    @property
    def trouble(self) -> str | None:
        """What is wrong with PostgreSQL; None while nothing is."""
        return self._trouble or self._refusing

    def stop(self) -> None:
        """Say that the collector ends: PostgreSQL is not waited for any longer."""
        self._stopping.set()

    @property
    def held(self) -> int:
        """Bytes that are held because something before them is missing."""
        return self._reassembly.size

    @property
    def streams(self) -> int:
        """Journals that are remembered."""
        return len(self._reassembly)

    def watermark(self, run_id: int, journal: str) -> int:
        """Return how far a journal is known to be committed. For any thread."""
        return self._reassembly.watermark((run_id, journal))

    def run(self) -> None:
        """Store until the queue is closed and empty."""
        try:
            while not self._intake.finished:
                datagrams = self._intake.take(BATCH, _IDLE_SECONDS)
                if datagrams:
                    self._take(datagrams)
                if time.monotonic() >= self._next_expiry:
                    self._reassembly.expire(time.monotonic())
                    self._next_expiry = time.monotonic() + _EXPIRE_SECONDS
        except errors.StoreError as error:
            _log.error("ending while PostgreSQL is in trouble; relays keep what is not stored: %s", error)
        finally:
            self._disconnect()

    def _take(self, datagrams: Sequence[Datagram]) -> None:
        keys = [(datagram.run.run_id, datagram.header.journal.hex()) for datagram in datagrams]
        self._learn_watermarks(dict(zip(keys, (datagram.run.user for datagram in datagrams), strict=True)))
        newest: dict[Key, Datagram] = {}
        answers: list[Addressed] = []
        batch: list[_Waiting] = []
        now = time.monotonic()
        for key, datagram in zip(keys, datagrams, strict=True):
            verdict, joined = self._reassembly.arrive(
                key, datagram.header, datagram.body, now, datagram.contents
            )
            self.counts[verdict.name.lower()] += 1
            batch += [_Waiting(key, whole) for whole in joined]
            if verdict is Verdict.JOINED:
                newest[key] = datagram
            elif verdict is not Verdict.IGNORED:
                answers.append(self._answer(key, datagram, verdict))
        self._socket.send(answers)
        while batch:
            self._store(batch)
            self._socket.send([self._acknowledge(key, datagram) for key, datagram in newest.items()])
            # Another collector may have closed a gap.
            batch = [_Waiting(*entry) for entry in self._reassembly.ready(newest)]

    def _learn_watermarks(self, users: Mapping[Key, str]) -> None:
        unknown = self._reassembly.unknown(users)
        if unknown:
            known = self._persistently(lambda store: store.watermarks(unknown))
            for key, watermark in known.items():
                self._reassembly.learn(key, watermark, time.monotonic(), users[key])

    def _store(self, batch: Sequence[_Waiting]) -> None:
        started = time.monotonic()
        pieces = [_piece(key, whole, self._owner(key)) for key, whole in batch]
        outcome = self._persistently(lambda store: store.store(pieces))
        self.commit_s = time.monotonic() - started
        self.commit_total_s += self.commit_s
        self.counts["batches"] += 1
        self.counts.update(outcome.counts)
        self.rejected.update(outcome.rejected)
        if outcome.refusing or outcome.counts["rows"]:
            self._refusing = outcome.refusing
        ranges = {(key, whole.header.start): whole for key, whole in batch}
        for key, _ in ranges:
            # What was not looked at is not waited for any longer, either.
            watermark = outcome.watermarks.get(key, self._reassembly.watermark(key))
            self._reassembly.learn(key, watermark, started)
        for piece in outcome.ahead:
            key = (piece.run_id, piece.journal)
            self._reassembly.hold(key, ranges[key, piece.start])
        if outcome.gone:
            self._keys.forget(outcome.gone)
        if outcome.ended:
            self._ended(outcome.ended)

    def _owner(self, key: Key) -> str:
        """Return whose a journal is; empty in the personal mode, where all are one user's."""
        return "" if self._settings.personal else self._reassembly.user(key)

    def _answer(self, key: Key, datagram: Datagram, verdict: Verdict) -> Addressed:
        """Return what is answered at once."""
        header, secret = datagram.header, datagram.run.key
        credit = self._credit(key)
        if verdict is Verdict.HELD:
            return wire.held(header, secret, self._reassembly.tail(key), credit), datagram.address
        if verdict is Verdict.DROPPED:
            header = header._replace(echo=0)
        return wire.answer(header, secret, self._reassembly.watermark(key), credit), datagram.address

    def _acknowledge(self, key: Key, datagram: Datagram) -> Addressed:
        """Return the answer to the datagram of a journal that arrived last, after the commit."""
        header = datagram.header
        watermark = self._reassembly.watermark(key)
        if header.end > watermark:  # it was not stored after all
            header = header._replace(echo=0)
        return wire.answer(header, datagram.run.key, watermark, self._credit(key)), datagram.address

    def _credit(self, key: Key) -> int:
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
                result = act(self._connected())
        if self._trouble is not None:
            _log.info("PostgreSQL is back")
            self._trouble = None
        return result

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            time.sleep(min(seconds, 0.5))

    def _note_trouble(self, state: tenacity.RetryCallState) -> None:
        error = str(state.outcome.exception() if state.outcome else "")
        if self._trouble != error:
            _log.warning("%s; what arrives is kept, and not acknowledged", error)
        self._trouble = error
        self._disconnect()

    def _connected(self) -> ingestion.Ingestion:
        if self._ingestion is None:
            self._connection = database.connect(
                self._settings,
                autocommit=True,
                idle=_STANDSTILL,
                patience=locked.PATIENCE,
                application=database.COLLECTOR,
            )
            wanted = self._settings.auto_columns
            self._ingestion = ingestion.Ingestion(
                self._connection,
                reconcile.observe,
                auto_columns=self._settings.personal if wanted is None else wanted,
                memory=self._memory,
            )
        return self._ingestion

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._ingestion = None


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


def _piece(key: Key, whole: Range, owner: str) -> model.Piece:
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
