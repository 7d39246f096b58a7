"""The window: what to send, what to send again, and when. Pure: no clock, no sockets; see docs/wire.md.

One window serves all journals of a run, since they share one way to the collector. Each journal is a `Stream`
of byte ranges, cut by the caller; each range travels as one `Flight`, or as several parts. Times are seconds
of any clock that never goes back.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from hpctrack.stream.wire import datagrams, layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FIRST_LIMIT = 4
#: What losses leave of the limit at least: they may come from a bad link as well as from congestion.
LEAST_LIMIT = 8
#: Most datagrams on their way, about 1.4 MB of memory.
MAX_LIMIT = 1024
#: By how much each arrival lets the limit grow after the first loss: its double after ten round trips.
GROWTH = 1 / 16
FIRST_TIMEOUT = 0.5
MIN_TIMEOUT = 0.1
MAX_TIMEOUT = 10.0
JITTER = 0.25
#: What was sent so many transmissions before one that arrived is lost (RFC 9002, kPacketThreshold).
REORDERING = 3
#: After so many seconds without any answer only one datagram at a time is sent, to see if anybody is there.
SILENCE = 5.0
#: Seconds after which an answer from before the last one can't be on its way any more.
_STALE = 5.0
_ANY = 1 << 63

# States of a flight.
WAITING = 0  # to be sent, or sent again
FLYING = 1
ARRIVED = 2  # in the collector's memory, which may forget it


class Flight:
    """One datagram's worth of a journal, kept until the watermark has passed it."""

    __slots__ = (
        "content",
        "deadline",
        "end",
        "first_sent",
        "part",
        "parts",
        "sent",
        "start",
        "state",
        "stream",
        "token",
        "tries",
    )

    def __init__(self, stream: Stream, end: int, content: bytes, *, part: int, parts: int) -> None:
        self.stream, self.start, self.end = stream, stream.packed, end
        self.part, self.parts, self.content = part, parts, content
        self.state = WAITING
        self.token = self.tries = 0
        self.sent = self.first_sent = self.deadline = 0.0


class Stream:
    """One journal's way through the window. Read only, but for its `Window`."""

    def __init__(self, journal: bytes, watermark: int, *, first: bool) -> None:
        self.journal = journal
        #: Everything before it is committed.
        self.watermark = watermark
        #: Everything before it has been cut into ranges.
        self.packed = watermark
        #: Where the collector's willingness ends.
        self.credit = _ANY
        #: Whether it goes before all others.
        self.first = first
        self.flights: deque[Flight] = deque()
        #: Heap of what is to be sent, by its place in the journal.
        self.waiting: list[tuple[int, int, int, Flight]] = []
        self.advanced = 0.0
        self.mark = 0  # last token before the watermark moved
        self.newest = 0  # newest token that arrived
        self.tokens: dict[int, tuple[Flight, float]] = {}

    @property
    def is_hungry(self) -> bool:
        """Whether it may add a range: nothing waits to be sent, and the collector takes more."""
        return not self.waiting and (self.packed < self.credit or not self.flights)

    def forget_tokens(self, watermark: int) -> None:
        """Forget when ranges that begin before an offset were sent."""
        self.tokens = {token: sent for token, sent in self.tokens.items() if sent[0].start >= watermark}


class Window:
    """Decides what is on its way. The caller cuts journals into ranges, seals and sends."""

    def __init__(self, random: Callable[[], float]) -> None:
        """``random`` returns numbers in [0, 1), for the jitter."""
        self._random = random
        self._streams: dict[bytes, Stream] = {}
        self._turn: deque[Stream] = deque()
        self.limit = float(FIRST_LIMIT)
        self._threshold = float(MAX_LIMIT)
        self._flying = 0
        self._busy = False  # the limit was made use of
        self._token = 0
        self._recovering = 0  # losses of tokens up to this one have been answered for
        self._timeouts = 0  # in a row, without any answer
        self._timed_out = 0.0
        self._answered_at: float | None = None  # or when the first one was sent
        self._silent = False
        self._probe_at = 0.0
        self._round_trip: float | None = None
        self._deviation = 0.0

    # --- streams and their ranges ---

    def open(self, journal: bytes, watermark: int = 0, *, first: bool = False) -> Stream:
        """Take up a journal from a watermark; ``first`` journals go before all others."""
        stream = self._streams[journal] = Stream(journal, watermark, first=first)
        self._turn.append(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """Forget a journal."""
        self._drop(stream, stream.packed)
        del self._streams[stream.journal]
        self._turn.remove(stream)

    def hungry(self) -> Iterator[Stream]:
        """Yield the streams that may add a range now, in the order in which they should."""
        if self._silent:
            return
        for stream in self._in_order():
            if self._flying >= self.limit:
                return
            if stream.is_hungry:
                yield stream

    def add(self, stream: Stream, end: int, contents: Iterable[bytes]) -> None:
        """Add the range from ``stream.packed`` to ``end``, in as many parts as there are contents."""
        pieces = list(contents)
        for part, content in enumerate(pieces):
            flight = Flight(stream, end, content, part=part, parts=len(pieces))
            stream.flights.append(flight)
            self._set_waiting(flight)
        stream.packed = end

    def outstanding(self) -> bool:
        """Whether anything that was added is not committed."""
        return any(stream.flights for stream in self._turn)

    # --- sending ---

    def send(self, now: float) -> Iterator[Flight]:
        """Yield what is to be sent now, each flight with a token of its own for this transmission."""
        self._look_at_clock(now)
        if self._silent:
            yield from self._probe(now)
            return
        for stream in self._in_order():
            while stream.waiting:
                flight = stream.waiting[0][-1]
                if flight.state == WAITING and not self._may_go(flight):
                    break
                heapq.heappop(stream.waiting)
                if flight.state == WAITING:
                    self._launch(flight, now)
                    yield flight
        if self._turn:
            self._turn.rotate(-1)

    def _may_go(self, flight: Flight) -> bool:
        stream = flight.stream
        if flight.tries and flight is stream.flights[0]:
            return True
        head = flight.start == stream.watermark
        return self._flying < self.limit and (head or flight.end <= stream.credit)

    def _launch(self, flight: Flight, now: float) -> None:
        self._token = self._token % 0xFFFFFFFF + 1
        if not flight.tries:
            flight.first_sent = now
        if self._answered_at is None:
            self._answered_at = now
        flight.token, flight.sent, flight.state = self._token, now, FLYING
        flight.stream.tokens[self._token] = flight, now
        flight.deadline = now + self._backed_off()
        flight.tries += 1
        self._flying += 1

    def _set_waiting(self, flight: Flight) -> None:
        if flight.state == FLYING:
            self._flying -= 1
        flight.state = WAITING
        # The address only keeps flights from being compared.
        heapq.heappush(flight.stream.waiting, (flight.start, flight.part, id(flight), flight))

    # --- time-outs ---

    @property
    def timeout(self) -> float:
        """Seconds after which something unanswered is sent again (RFC 6298)."""
        if self._round_trip is None:
            return FIRST_TIMEOUT
        return min(max(self._round_trip + 4 * self._deviation, MIN_TIMEOUT), MAX_TIMEOUT)

    def _backed_off(self) -> float:
        pause = min(self.timeout * (1 + self._timeouts), MAX_TIMEOUT)
        return pause * (1 + JITTER * self._random())

    def _look_at_clock(self, now: float) -> None:
        if self._silent:
            return
        for stream in self._turn:
            flight = _pivot(stream)
            if flight is not None and now >= self._due(flight):
                self._time_out(flight, now)
        if self._timeouts and now - (self._answered_at or 0.0) > SILENCE:
            self._silent = True
            self.limit, self._threshold = float(FIRST_LIMIT), max(self._threshold, MAX_LIMIT / 8)
            self._probe_at = now

    def _due(self, flight: Flight) -> float:
        # What the watermark has just reached may be in the batch that is being committed.
        return max(flight.deadline, flight.stream.advanced + self.timeout)

    def _time_out(self, flight: Flight, now: float) -> None:
        if flight.sent >= self._timed_out:  # what was on its way together is one time-out
            self._timeouts += 1
            self._timed_out = now
        # If the collector has forgotten one that had arrived, then all of them.
        forgotten = flight.state == ARRIVED
        again = 0
        for other in flight.stream.flights:
            if other.state == FLYING and again < LEAST_LIMIT and other.deadline <= now:
                again += 1
                self._set_waiting(other)
            elif other.state == ARRIVED and forgotten:
                self._set_waiting(other)
        self._shrink(self._token)

    def _probe(self, now: float) -> Iterator[Flight]:
        """Yield the one datagram to send now to a collector that has gone silent, if it is time."""
        first = next((stream for stream in self._in_order() if stream.flights), None)
        if first is None or now < self._probe_at:
            return
        flight = first.flights[0]
        if flight.state == FLYING:
            self._flying -= 1
        self._launch(flight, now)
        self._timeouts += 1
        self._probe_at = now + self._backed_off()
        yield flight

    def hurry(self, seconds: float) -> None:
        """Have what is on its way sent again so many seconds after it was sent: little time is left."""
        for stream in self._turn:
            for flight in stream.flights:
                if flight.state == FLYING:
                    flight.deadline = min(flight.deadline, flight.sent + seconds)

    def _in_order(self) -> list[Stream]:
        return sorted(self._turn, key=lambda stream: not stream.first)

    @property
    def timeouts(self) -> int:
        """How many time-outs there were since the last answer."""
        return self._timeouts

    def wakeup(self) -> float | None:
        """Return when something is to be done although nothing arrives; None for never."""
        times = [self._due(flight) for stream in self._turn if (flight := _pivot(stream)) is not None]
        if not times:
            return None
        return self._probe_at if self._silent else min(times)

    def oldest(self) -> float | None:
        """Return when the oldest of what is not committed was first sent; None if there is nothing."""
        times = [stream.flights[0].first_sent for stream in self._turn if stream.flights]
        return min((time for time in times if time), default=None)

    # --- answers ---

    def answered(self, header: datagrams.Header, now: float) -> tuple[Stream, int] | None:
        """Take in an answer whose MAC is right.

        Returns a stream and the offset from where its journal must be cut anew, if that is so.
        """
        stream = self._streams.get(header.journal)
        if stream is None:
            return None
        self._wake(now)
        self._busy = self._flying >= self.limit / 2
        arrived = stream.tokens.get(header.echo)
        if arrived is not None:
            stream.newest = max(stream.newest, header.echo)
        if header.start < stream.watermark:
            # The collector has gone back, unless this is an old answer on a long way.
            if header.echo <= stream.mark and now - stream.advanced < _STALE:
                return None
            return self._cut_anew(stream, header.start, header.end, now)
        if header.kind == layout.HELD:
            self._take_held(stream, header.start, header.end, arrived)
            return None
        return self._take_watermark(stream, header, arrived, now)

    def _wake(self, now: float) -> None:
        """Take in that the collector has answered: time-outs count from 0 again, and probing ends."""
        if self._silent:
            for stream in self._turn:
                flight = _pivot(stream)
                if flight is not None:
                    flight.deadline = min(flight.deadline, now + self.timeout)
        self._timeouts = 0
        self._silent = False
        self._answered_at = now

    def _take_held(
        self, stream: Stream, tail: int, credit: int, arrived: tuple[Flight, float] | None
    ) -> None:
        stream.credit = max(credit, tail)
        for flight in stream.flights:
            if flight.end <= tail or (arrived is not None and flight is arrived[0]):
                self._arrive(flight)
            elif flight.state == FLYING and flight.token + REORDERING <= stream.newest:
                self._lose(flight)

    def _take_watermark(
        self, stream: Stream, header: datagrams.Header, arrived: tuple[Flight, float] | None, now: float
    ) -> tuple[Stream, int] | None:
        watermark = header.start
        stream.credit = max(header.end, watermark)
        if watermark > stream.watermark:
            if arrived is not None and arrived[0].end <= watermark:
                self._measure(now - arrived[1])
            self._drop(stream, watermark)
            stream.watermark, stream.advanced, stream.mark = watermark, now, self._token
            if watermark > stream.packed or (stream.flights and stream.flights[0].start < watermark):
                return self._cut_anew(stream, watermark, header.end, now)
        elif arrived is not None:
            self._arrive(arrived[0])
        self._lose_overtaken(stream, now)
        return None

    def _lose_overtaken(self, stream: Stream, now: float) -> None:
        """Give up flights that later ones have overtaken, once a round trip has passed."""
        patience = self._round_trip or FIRST_TIMEOUT
        for flight in stream.flights:
            is_overtaken = flight.token + REORDERING <= stream.newest
            if flight.state == FLYING and is_overtaken and now - flight.sent >= patience:
                self._lose(flight)

    def _cut_anew(self, stream: Stream, watermark: int, credit: int, now: float) -> tuple[Stream, int]:
        self._drop(stream, stream.packed)
        stream.watermark = stream.packed = watermark
        stream.credit = max(credit, watermark)
        stream.advanced, stream.mark = now, self._token
        return stream, watermark

    def _drop(self, stream: Stream, watermark: int) -> None:
        """Let go of all flights that end at or before an offset."""
        while stream.flights and stream.flights[0].end <= watermark:
            flight = stream.flights.popleft()
            self._arrive(flight)
        if not stream.flights:
            stream.waiting.clear()
            stream.tokens.clear()
        elif len(stream.tokens) > 4 * len(stream.flights) + MAX_LIMIT:
            stream.forget_tokens(watermark)

    def _arrive(self, flight: Flight) -> None:
        if flight.state == FLYING:
            self._flying -= 1
            if self._busy and self.limit < MAX_LIMIT:
                self.limit += 1 if self.limit < self._threshold else GROWTH
        flight.state = ARRIVED

    def _lose(self, flight: Flight) -> None:
        self._set_waiting(flight)
        self._shrink(flight.token)

    def _shrink(self, token: int) -> None:
        """Halve the limit, once for all that was on its way together."""
        if token > self._recovering:
            self.limit = self._threshold = max(self.limit / 2, float(LEAST_LIMIT))
            self._recovering = self._token

    def _measure(self, round_trip: float) -> None:
        if self._round_trip is None:
            self._round_trip, self._deviation = round_trip, round_trip / 2
        else:
            self._deviation += (abs(round_trip - self._round_trip) - self._deviation) / 4
            self._round_trip += (round_trip - self._round_trip) / 8


def _pivot(stream: Stream) -> Flight | None:
    """Return the flight that the watermark waits for: of several parts one that has not arrived."""
    if not stream.flights:
        return None
    head = stream.flights[0]
    for flight in stream.flights:
        if flight.start != head.start:
            break
        if flight.state == FLYING:
            return flight
    return None if head.state == WAITING else head
