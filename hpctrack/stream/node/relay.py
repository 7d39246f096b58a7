"""The relay: beside the script, it reads the journals and ships them until everything is acknowledged.

A forked child of the supervisor, which calls `main` with a connected SOCK_SEQPACKET socket. On it go small
JSON objects, one a packet. From the supervisor: ``{"script_pid": N, "group_pid": N}``; ``{"event": {...}}``,
to be told as it is; ``{"fin": {"exit_code", "exit_signal", "time", ...}}`` when the script has ended.
From the relay: ``{"flushed": true}`` when it has nothing more to do, at most the flush cap and two seconds
later. The end of the channel means that the supervisor is dead: the relay stays while the script lives.

Nothing that happens here may touch the script: failures go to ``relay.log`` in the run folder, and what could
not be shipped stays, in the spool or on the node, for a later relay or ``hpctrack sync``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import time
from typing import TYPE_CHECKING, Any

from hpctrack import files
from hpctrack.script import journal_lines
from hpctrack.stream.disk import folders, runfolder
from hpctrack.stream.disk.journals import Journals
from hpctrack.stream.node import report, signals, usage
from hpctrack.stream.node.outbox import BURST, Link, Outbox, Run
from hpctrack.stream.wire import doubts, records

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from hpctrack.stream.disk.tail import Tail
    from hpctrack.stream.node.options import Config
    from hpctrack.stream.wire.records import Record
    from hpctrack.text import redact

#: Seconds between two looks at the journals: while something happens, when nothing has for long, at the end.
_BUSY, _QUIET, _ENDING = 0.1, 0.5, 0.02
#: Of the time since something happened: who has waited so long for a line may wait for this much more.
_PATIENCE = 1 / 8
_SEARCH_PAUSE = 5.0
#: Seconds without an acknowledgement after which journals are copied to the spool.
_MIRROR_AFTER = 30.0
_MIRROR_BYTES = 4 << 20
_SPOOL_TROUBLE = 60.0
#: Seconds between two looks for an address while there is none.
_TURN_PAUSE = 0.5
#: Seconds that the end of a job waits for a first answer, of a command while it is not registered yet and
#: once it is; between two attempts to get one; and for its submission record.
_FIRST_ANSWER, _REGISTRATION, _REGISTERED, _HURRY = 1.0, 2.0, 0.6, 0.15
_RECORD_AT_END = 3.0
#: Seconds of copying to the spool after the flush cap; the supervisor waits for two.
_COPY_AT_END = 1.5
_HOUSEKEEPING = 1.0
#: Seconds after which there is time for what others have left.
_ADOPT_AFTER = 5.0
_LEASE = 30.0
_MAX_LOG = 1 << 16
#: Seconds of silence that are worth a word: a collector that was started with the job takes about two.
_WORTH_TELLING = 2.5
_REMOVED = "the run folder was removed: lines that had not been read by then are lost"
_DETOUR = "no answer from the collector: journals go through the spool"


def main(config: Config, channel: socket.socket, stderr: report.Stderr) -> None:
    """Do the relay's work; return when it is done. Never raises.

    ``stderr`` is the script's, held since before this process let go of its own.
    """
    log = _Log(config.run_dir)
    os.umask(0o077)  # the script's own may be anything
    try:
        # What is loaded by now stays; rows are many small objects without cycles.
        gc.freeze()
        gc.set_threshold(20_000)
        Relay(config, channel, log, stderr).run()
    except Exception:  # noqa: BLE001 (the script goes on, the journals stay)
        log.write_trace()
    with contextlib.suppress(OSError):
        channel.send(json.dumps({"flushed": True}).encode())


class _Log:
    """The relay's log file, bounded."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "relay.log")
        self._left = _MAX_LOG

    def write_trace(self) -> None:
        """Write the exception that is being handled."""
        import traceback  # late: five modules that a relay without trouble never needs

        self.write(traceback.format_exc())

    def write(self, text: str) -> None:
        """Write a few lines, if there is room."""
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text.rstrip()}\n"
        self._left -= len(line)
        if self._left > 0 and os.path.isdir(os.path.dirname(self._path)):
            with contextlib.suppress(OSError):
                descriptor = files.open_or_create(self._path, os.O_WRONLY | os.O_APPEND)
                with open(descriptor, "a", encoding="utf-8") as file:
                    file.write(line)


class _OwnJournal:
    """The journal of the relay itself."""

    def __init__(self, config: Config, journals: Journals) -> None:
        self._places = [config.run_dir, config.spool_dir]
        self._attempt = config.attempt
        self._journals = journals
        self._removed = 0
        self._descriptor = -1

    def append(self, kind: str, contents: dict[str, Any]) -> None:
        """Append a message; on a full disk to a new journal in the next place, else raise OSError."""
        line = journal_lines.format_message(kind, contents)
        removed = self._journals.stay()
        if removed > self._removed and len(self._places) > 1:
            self._removed = removed
            self.close()  # who reads it may have come too late
        while True:
            with contextlib.suppress(OSError):
                if self._descriptor < 0:
                    self._create()
                if os.write(self._descriptor, line) == len(line):
                    return
            if len(self._places) == 1:
                raise OSError(f"no space for the relay's own {kind}")
            self.close()
            del self._places[0]

    def _create(self) -> None:
        path = runfolder.create_journal(self._places[0], "relay", self._attempt, 0)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of it: nobody deletes a journal that somebody has open for writing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Relay:
    """One run's relay on one node."""

    def __init__(self, config: Config, channel: socket.socket, log: _Log, stderr: report.Stderr) -> None:
        self._config, self._channel, self._log, self._stderr = config, channel, log, stderr
        self._identity = folders.identity(config, os.getppid())
        self._journals = Journals(config, self._identity, self._watermark)
        self._own = _OwnJournal(config, self._journals)
        self._record: Record | None = None
        self._outbox: Outbox | None = None
        self._link = Link(self._addresses)
        self._redactor: redact.Redactor | None = None
        self._doubts = doubts.Doubts()
        self._sampler: usage.Sampler | None = None
        now = time.monotonic()
        self._started = self._active = now
        self._next_turn = self._next_search = self._next_look = self._next_refresh = 0.0
        self._next_sample = self._spool_again = 0.0
        self._search_pause = 0.05
        self._first_sent: float | None = None
        self._answered = self._introduced = self._more = self._done = False
        self._told: set[str] = set()
        self._registered: float | None = None  # when that was seen
        self._supervised = True
        self._adoption: Iterator[None] | None = None
        self._script: tuple[int, str] | None = None  # its process id, and when it started
        self._stops = signals.Stops(os.getppid())
        self._oom_kills = report.oom_kills()
        #: When the flush cap is reached; None while the script runs.
        self._deadline: float | None = None

    # --- the loop ---

    def run(self) -> None:
        """Work until the script has ended and its journals are shipped or kept."""
        self._attempt(self._journals.open)
        self._attempt(self._own.append, "hello", report.hello(self._config, os.environ))
        while not self._done:
            self._wait()
            self._attempt(self._round, time.monotonic())
            if self._deadline is not None and time.monotonic() > self._deadline + _COPY_AT_END:
                break
        self._own.close()
        self._attempt(self._journals.close, self._safe)
        self._link.close()

    def _attempt(self, act: Callable[..., None], *arguments: Any) -> None:
        """Do something. What goes wrong is logged; the journals are still there, and so is the next round."""
        try:
            act(*arguments)
        except Exception:  # noqa: BLE001
            self._log.write_trace()
            self._more = False
            time.sleep(_BUSY)

    def _wait(self) -> None:
        """Wait until something arrives or is due."""
        now = time.monotonic()
        pause = min(max((now - self._active) * _PATIENCE, _BUSY), _QUIET)
        if self._deadline is not None:
            pause = _ENDING
        wakeup = self._outbox.wakeup() if self._outbox is not None else None
        if wakeup is not None:
            pause = min(pause, max(wakeup - now, 0.001))
        poll = select.poll()
        for descriptor in self._link.filenos():
            poll.register(descriptor, select.POLLIN)
        if self._supervised:
            poll.register(self._channel, select.POLLIN)
        for descriptor, _ in poll.poll(0 if self._more else pause * 1000):
            if descriptor == self._channel.fileno():
                self._attempt(self._hear)

    def _hear(self) -> None:
        """Take in one message of the supervisor."""
        try:
            packet = self._channel.recv(1 << 16)
        except ConnectionError:
            packet = b""
        if not packet:
            self._supervised = False
            self._own.append("event", {"time": time.time(), "name": "supervisor lost"})
            return
        message = json.loads(packet)
        if "script_pid" in message:
            self._script = message["script_pid"], folders.started_at(message["script_pid"])
            self._attempt(self._journals.note_script, *self._script)
            self._stops.pass_on_to(message["script_pid"], message.get("group_pid", 0))
        if "event" in message:
            self._own.append("event", message["event"])
        if "fin" in message:
            self._conclude(message["fin"])

    def _conclude(self, ending: dict[str, Any]) -> None:
        """Tell how the script ended, after all that it had to say."""
        self._deadline = time.monotonic() + self._config.flush
        if self._sampler is not None:
            self._attempt(self._sample)
        self._take_up()
        self._journals.end_lines()
        told = report.fin(ending, self._journals.lost(), self._stderr, self._mask(), self._oom_kills)
        self._own.append("fin", told)
        self._tell_removed()

    def _round(self, now: float) -> None:
        if self._supervised and self._deadline is None:
            self._stops.look()
        if self._record is None and now >= self._next_search:
            self._search(now)
        self._take_up()
        if self._outbox is not None and self._record is not None:
            if self._outbox.look():
                self._active = now
            self._ship(self._outbox, self._record, now)
        if now >= self._next_look:
            self._next_look = now + _HOUSEKEEPING
            self._keep_house(now)
        if self._deadline is not None:
            self._finish(now, self._deadline)
        elif not self._supervised and not self._script_lives():
            self._conclude({"exit_code": None, "exit_signal": None, "time": time.time()})  # nobody saw how

    def _script_lives(self) -> bool:
        """Whether the script is still there: where nobody reaps it, a zombie keeps its place."""
        return self._script is not None and folders.started_at(self._script[0]) == self._script[1] != ""

    # --- whose journals ---

    def _search(self, now: float) -> None:
        """Look for the submission record: the job may have started before it was written."""
        self._next_search = now + self._search_pause
        self._search_pause = min(self._search_pause * 1.5, _SEARCH_PAUSE)
        record = folders.find_record(self._config.spool, self._identity)
        if record is None:
            return
        self._outbox = Outbox(Run.of(record, self._config.task))
        self._record = record
        self._identity = self._identity._replace(uuid=record.uuid)
        for one in [*self._journals.identify(record.uuid), *self._journals]:
            self._add(one)

    def _take_up(self) -> None:
        for one in self._journals.new():
            self._add(one)

    def _add(self, one: Tail) -> None:
        """Ship a journal. Before the first answer only the relay's own goes, which then holds ids only."""
        if self._outbox is None or self._outbox.holds(one):
            return
        if self._answered or (one.kind == "relay" and one in self._journals.here()):
            one.redactor = self._mask()
            one.doubts = self._doubts
            self._outbox.add(one, first=one.kind == "relay")

    def _mask(self) -> redact.Redactor:
        """Return the redactor, which knows the secrets in the job's environment and script."""
        if self._redactor is None:
            self._redactor = runfolder.redactor(self._config.run_dir)
        return self._redactor

    def _watermark(self, one: Tail) -> int:
        if self._outbox is None or not self._outbox.holds(one):
            return one.files[0].base
        return self._outbox.watermark(one)

    def _sends(self, one: Tail) -> bool:
        return self._outbox is not None and self._outbox.holds(one)

    def _safe(self, one: Tail) -> int:
        return self._outbox.safe(one) if self._outbox is not None and self._outbox.holds(one) else 0

    # --- shipping ---

    def _addresses(self) -> list[str]:
        if self._record is not None and self._record.collector:
            return list(self._record.collector)
        path = os.path.join(self._config.spool, "collector")
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return files.read(path, records.MAX_ADDRESSES).decode("ascii").split()
        return []

    def _ship(self, box: Outbox, record: Record, now: float) -> None:
        for datagram in self._link.receive():
            box.receive(datagram, now)
        if record.transport == "spool":
            return
        if box.heard is not None and not self._answered:
            self._introduce(record)
        self._link.watch(box)
        if not self._link.ready and now >= self._next_turn:
            self._next_turn = now + _TURN_PAUSE
            self._link.turn()
        if not self._link.ready:
            return
        sent = 0
        for datagram in box.datagrams(now):
            self._link.send(datagram)
            sent += 1
        if sent and self._first_sent is None:
            self._first_sent = now
        self._more = sent >= BURST

    def _introduce(self, record: Record) -> None:
        """The collector knows the key: it is told more than ids."""
        self._answered = True
        self._tell_start(record)
        for one in self._journals:
            self._add(one)

    def _tell_start(self, record: Record) -> None:
        """Tell once where and how the script runs, to who has answered or the user's own spool."""
        if not self._introduced:
            self._introduced = True
            submitted = record.submission.get("env") or {}
            self._own.append("start", report.start(self._config, os.environ, submitted, self._mask()))

    # --- once a second ---

    def _keep_house(self, now: float) -> None:
        if now >= self._next_refresh:
            self._next_refresh = now + _LEASE
            self._attempt(self._journals.refresh)
        by_spool = self._record is not None and self._record.transport == "spool"
        if (by_spool or self._is_stuck(now)) and now >= self._spool_again:
            self._tell_detour()
            self._copy(now, _MIRROR_BYTES)
        self._tell_removed()
        self._tell_doubts()
        self._journals.keep_house(in_spool_for_good=by_spool)
        self._journals.clear(self._safe)
        if self._deadline is None and now - self._started > _ADOPT_AFTER:
            self._attempt(self._adopt)
        if (
            self._deadline is None
            and now >= self._next_sample
            and (self._answered or by_spool or self._is_stuck(now))
        ):
            self._next_sample = now + (self._record.usage_interval if self._record is not None else 10.0)
            self._sample()

    def _adopt(self) -> None:
        """Bring a piece of what ended runs have left on this node to the spool."""
        if self._adoption is None:
            from hpctrack.stream.disk import late  # (late: many a job has ended by now)

            run_dir = self._config.run_dir
            self._adoption = iter(())
            late.tell(self._config.spool, os.path.dirname(os.path.dirname(run_dir)))
            if folders.others(os.path.dirname(run_dir), run_dir):
                from hpctrack.stream.disk import adoption  # late: hardly ever is there anything

                self._adoption = adoption.pieces(self._config.spool, run_dir)
        next(self._adoption, None)

    def _is_stuck(self, now: float) -> bool:
        """Whether something has waited for its acknowledgement for long."""
        if not self._answered:
            return now - self._started > _MIRROR_AFTER
        oldest = self._outbox.oldest() if self._outbox is not None else None
        return oldest is not None and now - oldest > _MIRROR_AFTER

    def _tell_once(self, name: str) -> None:
        """Say something in the run's timeline, if it was not said yet."""
        if name not in self._told:
            self._told.add(name)
            self._own.append("event", {"time": time.time(), "name": name})

    def _tell_detour(self) -> None:
        """Say why the run's metrics come late."""
        if self._record is None or self._record.transport != "spool":
            self._tell_once(_DETOUR)

    def _tell_removed(self) -> None:
        """Say that somebody has cut a journal, or taken the run folder away."""
        if self._journals.cuts or (self._outbox is not None and self._outbox.cuts):
            self._tell_once(journal_lines.CUT)
        if self._journals.removed:
            self._tell_once(_REMOVED)

    def _tell_doubts(self) -> bool:
        """Say once of a metric in the timeline that what looks like a number is none; whether any is."""
        untold = self._doubts.take()
        for text in untold:
            self._own.append("event", {"time": time.time(), "name": text})
        return bool(untold)

    def _copy(self, now: float, limit: int) -> int:
        """Copy to the spool; if that fails, not again for a while."""
        if self._record is not None:
            self._tell_start(self._record)
        self._journals.look()
        try:
            copied = self._journals.copy(limit, self._sends)
            self._tell_removed()
            return copied
        except OSError as error:
            self._spool_again = now + _SPOOL_TROUBLE
            self._log.write(f"the spool can't be written: {error}")
            return 0

    def _sample(self) -> None:
        if self._sampler is None:
            environ = os.environ
            # In a plain job that holds several tracked commands, the job's cgroup is not ours alone.
            job_id = None if self._config.record else self._config.raw_job_id
            mark = ("HPCTRACK_RUN_DIR", self._config.run_dir)
            sluid = environ.get("SLURM_JOB_SLUID", "")
            self._sampler = usage.Sampler(report.node(environ), job_id, mark, sluid)
            if self._sampler.lacks_cgroup:
                self._tell_once(usage.NOT_FOUND)
        self._own.append("usage", self._sampler.sample())

    # --- the end ---

    def _finish(self, now: float, deadline: float) -> None:
        """The script has ended: wait for the last acknowledgements, then keep the rest in the spool."""
        seen = self._journals.trouble is None  # what can't be seen now may be had a moment later
        if self._answered and seen and self._outbox is not None and self._outbox.drained():
            self._done = not self._tell_doubts()
        elif now >= min(deadline, self._patience(deadline)):
            if self._answered or now - self._started > _WORTH_TELLING:
                self._tell_detour()
            while time.monotonic() < deadline + _COPY_AT_END and self._copy(now, _MIRROR_BYTES):
                pass
            self._done = True

    def _patience(self, deadline: float) -> float:
        """Return until when to wait for somebody who may not be there at all."""
        if self._record is None:
            return self._started + _RECORD_AT_END
        if self._record.transport == "spool":
            return 0.0
        if self._answered:
            return deadline
        return self._first_answer(time.monotonic())

    def _first_answer(self, now: float) -> float:
        """Return until when to wait for it. A command begins before it is registered, and may end before."""
        if self._outbox is not None:
            self._outbox.hurry(_HURRY)
        begin = self._started if self._first_sent is None else self._first_sent
        if not self._config.record or self._first_sent is None:
            return begin + _FIRST_ANSWER
        with contextlib.suppress(OSError):  # it may be; the time below is enough for most
            if self._registered is None and records.is_registered(self._config.record):
                self._registered = now
        if self._registered is None:
            return begin + _REGISTRATION
        return max(begin + _FIRST_ANSWER, self._registered + _REGISTERED)
