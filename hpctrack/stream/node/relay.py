"""The relay: beside the script, it reads the journals and ships them until everything is acknowledged.

A forked child of the supervisor, which calls `main` with a connected SOCK_SEQPACKET socket. On it go small
JSON objects, one a packet. From the supervisor: ``{"script_pid": N, "group_pid": N}``; ``{"event": {...}}``,
to be told as it is; ``{"fin": {"exit_code", "exit_signal", "time", ...}}`` when the script has ended.
From the relay: ``{"flushed": true}`` when it has nothing more to do, at most the flush cap and two seconds
later. The end of the channel means that the supervisor is dead: the relay stays while the script lives.

A relay goes through three phases. It searches for the submission record, which says whose the journals are
(no `Voyage` yet). It ships (`Voyage`), first to a collector that has not answered, then to one that has. When
the script has ended (`Ending`) it waits for the last acknowledgements, and copies what is left to the spool.
In each round, `_round`, it does what is due by then; its `Timetable` says what is.

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
from hpctrack.stream.node.ending import Ending
from hpctrack.stream.node.own_journal import OwnJournal
from hpctrack.stream.node.timetable import Timetable
from hpctrack.stream.node.voyage import Voyage
from hpctrack.stream.wire import doubts, messages

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from hpctrack.stream.disk.tail import Tail
    from hpctrack.stream.node.options import Config
    from hpctrack.stream.node.outbox import Outbox
    from hpctrack.text import redact

#: Seconds between two looks at the journals: while something happens, when nothing has for long, at the end.
_BUSY, _QUIET, _ENDING = 0.1, 0.5, 0.02
#: The pause between two looks grows by this share of the time since something happened.
_PATIENCE = 1 / 8
#: Seconds between two looks for the submission record: the first, by how much each is longer, the longest.
#: No `backoff.Backoff`, which would be one more file for each node to load.
_SEARCH, _SEARCH_GROWTH, _SEARCH_MOST = 0.05, 1.5, 5.0
#: Seconds without an acknowledgement after which journals are copied to the spool, and bytes in one go.
_STUCK_AFTER = 30.0
_COPY_BYTES = 4 << 20
#: Seconds until a spool that could not be written is tried again.
_SPOOL_TROUBLE = 60.0
_HOUSEKEEPING = 1.0
#: Seconds after which there is time for what others have left.
_ADOPT_AFTER = 5.0
#: Seconds between two signs of life in the folders.
_LEASE = 30.0
#: Seconds between two samples of usage while the submission record, which says it, is not there.
_USAGE_INTERVAL = 10.0
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


class _Supervisor:
    """The process at the other end of the channel, and the script that it has started."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._script: tuple[int, str] | None = None  # its process id, and when it started
        self._stops = signals.Stops(os.getppid())
        self.lives = True

    def fileno(self) -> int:
        """Return what to poll while it lives."""
        return self._channel.fileno()

    def receive(self) -> dict[str, Any] | None:
        """Return its next message; None when it is dead."""
        try:
            packet = self._channel.recv(1 << 16)
        except ConnectionError:
            packet = b""
        self.lives = bool(packet)
        return json.loads(packet) if packet else None

    def note_script(self, pid: int, group: int) -> tuple[int, str]:
        """Take in which process the script is; return it with the time when it started."""
        self._script = pid, folders.started_at(pid)
        self._stops.pass_on_to(pid, group)
        return self._script

    def pass_on_stops(self) -> None:
        """Stop and continue the script as the supervisor was."""
        if self.lives:
            self._stops.look()

    def left_script_behind(self) -> bool:
        """Whether it is dead and the script still there: where nobody reaps it, a zombie keeps its place."""
        return self._script is not None and folders.started_at(self._script[0]) == self._script[1] != ""


class Relay:
    """One run's relay on one node."""

    def __init__(self, config: Config, channel: socket.socket, log: _Log, stderr: report.Stderr) -> None:
        self._config, self._log, self._stderr = config, log, stderr
        self._supervisor = _Supervisor(channel)
        self._identity = folders.identity(config, os.getppid())
        self._journals = Journals(config, self._identity, self._watermark)
        self._own = OwnJournal(config, self._journals)
        #: None while the submission record is searched for.
        self._voyage: Voyage | None = None
        #: None while the script runs.
        self._ending: Ending | None = None
        self._timetable = Timetable()
        self._search_pause = _SEARCH
        #: When the relay began, and when something was last written, by the monotonic clock.
        self._began = self._active = time.monotonic()
        self._redactor: redact.Redactor | None = None
        self._doubts = doubts.Doubts()
        self._sampler: usage.Sampler | None = None
        self._oom_kills = report.oom_kills()
        self._adoption: Iterator[None] | None = None

    # --- the loop ---

    def run(self) -> None:
        """Work until the script has ended and its journals are shipped or kept."""
        self._attempt(self._journals.open)
        self._attempt(self._own.append, report.hello(self._config, os.environ))
        at_once = False
        while self._ending is None or not (self._ending.done or self._ending.last_moment < time.monotonic()):
            self._wait(at_once=at_once)
            at_once = bool(self._attempt(self._round, time.monotonic()))
        self._own.close()
        self._attempt(self._journals.close, self._safe)
        if self._voyage is not None:
            self._voyage.close()

    def _attempt(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Do something and return its result; None if it fails, which is logged. There is a next round."""
        try:
            return act(*arguments)
        except Exception:  # noqa: BLE001 (the journals are still there)
            self._log.write_trace()
            time.sleep(_BUSY)
            return None

    def _wait(self, *, at_once: bool) -> None:
        """Wait until something arrives or is due; ``at_once`` only takes what has arrived."""
        pause = 0 if at_once else self._pause(time.monotonic())
        for descriptor, _ in self._poll().poll(pause * 1000):
            if descriptor == self._supervisor.fileno():
                self._attempt(self._hear)

    def _poll(self) -> select.poll:
        """Return what waits for the supervisor and the collector."""
        poll = select.poll()
        for descriptor in self._voyage.filenos() if self._voyage is not None else ():
            poll.register(descriptor, select.POLLIN)
        if self._supervisor.lives:
            poll.register(self._supervisor, select.POLLIN)
        return poll

    def _pause(self, now: float) -> float:
        """Return for how many seconds there is nothing to do if nothing arrives."""
        pause = min(max((now - self._active) * _PATIENCE, _BUSY), _QUIET)
        if self._ending is not None:
            pause = _ENDING
        wakeup = self._voyage.outbox.wakeup() if self._voyage is not None else None
        return pause if wakeup is None else min(pause, max(wakeup - now, 0.001))

    def _hear(self) -> None:
        """Take in one message of the supervisor."""
        message = self._supervisor.receive()
        if message is None:
            self._own.append_event("supervisor lost")
            return
        if "script_pid" in message:
            script = self._supervisor.note_script(message["script_pid"], message.get("group_pid", 0))
            self._attempt(self._journals.note_script, *script)
        if "event" in message:
            self._own.append(messages.Event(**message["event"]))
        if "fin" in message:
            self._conclude(messages.Fin(**message["fin"]))

    def _conclude(self, ending: messages.Fin) -> None:
        """Tell how the script ended, after all that it had to say."""
        self._ending = Ending(self._config, self._began, time.monotonic())
        if self._sampler is not None:
            self._attempt(self._sample)
        self._take_up()
        self._journals.end_lines()
        lost = self._journals.lost()
        self._own.append(report.fin(ending, lost, self._stderr, self._mask(), self._oom_kills))
        self._tell_removed()

    def _round(self, now: float) -> bool:
        """Do what is due; whether there is more that can be sent at once."""
        if self._ending is None:
            self._supervisor.pass_on_stops()
        if self._voyage is None and self._timetable.take_turn("search", now, self._search_pause):
            self._search()
        self._take_up()
        at_once = self._voyage is not None and self._ship(self._voyage, now)
        if self._timetable.take_turn("housekeeping", now, _HOUSEKEEPING):
            self._keep_house(now)
        if self._ending is not None:
            self._finish(self._ending, now)
        elif not (self._supervisor.lives or self._supervisor.left_script_behind()):
            self._conclude(messages.Fin(time.time()))  # nobody saw how
        return at_once

    # --- whose journals ---

    def _search(self) -> None:
        """Look for the submission record: the job may have started before it was written."""
        self._search_pause = min(self._search_pause * _SEARCH_GROWTH, _SEARCH_MOST)
        record = folders.find_record(self._config.spool, self._identity)
        if record is None:
            return
        self._voyage = Voyage(record, self._config)
        self._identity = self._identity._replace(uuid=record.uuid)
        for tail in [*self._journals.identify(record.uuid), *self._journals]:
            self._add(tail)

    def _take_up(self) -> None:
        for tail in self._journals.new():
            self._add(tail)

    def _add(self, tail: Tail) -> None:
        """Ship a journal. Before the first answer only the relay's own goes, which then holds ids only."""
        voyage = self._voyage
        if voyage is None or voyage.outbox.holds(tail):
            return
        if voyage.answered or (tail.kind == "relay" and tail in self._journals.here()):
            tail.redactor = self._mask()
            tail.doubts = self._doubts
            voyage.outbox.add(tail, first=tail.kind == "relay")

    def _mask(self) -> redact.Redactor:
        """Return the redactor, which knows the secrets in the job's environment and script."""
        if self._redactor is None:
            self._redactor = runfolder.redactor(self._config.run_dir)
        return self._redactor

    def _outbox_of(self, tail: Tail) -> Outbox | None:
        """Return the outbox if a journal is on its way in it."""
        return self._voyage.outbox if self._voyage is not None and self._voyage.outbox.holds(tail) else None

    def _carries(self, tail: Tail) -> bool:
        return self._outbox_of(tail) is not None

    def _watermark(self, tail: Tail) -> int:
        outbox = self._outbox_of(tail)
        return tail.files[0].base if outbox is None else outbox.watermark(tail)

    def _safe(self, tail: Tail) -> int:
        outbox = self._outbox_of(tail)
        return 0 if outbox is None else outbox.safe(tail)

    # --- shipping ---

    def _ship(self, voyage: Voyage, now: float) -> bool:
        """Read, receive and send; whether there is more that can be sent at once."""
        if voyage.outbox.look():
            self._active = now
        if voyage.receive(now):
            self._introduce(voyage)
        return voyage.send(now)

    def _introduce(self, voyage: Voyage) -> None:
        """Tell the collector more than ids, now that its answer has shown that it knows the key."""
        for tail in self._journals:
            self._add(tail)
        self._tell_start(voyage)

    def _tell_start(self, voyage: Voyage) -> None:
        """Tell once where and how the script runs: to a collector that answered, or the user's spool."""
        if self._own.is_news("start"):
            submitted = voyage.record.submission.get("env") or {}
            self._own.append(report.start(self._config, os.environ, submitted, self._mask()))

    # --- once a second ---

    def _keep_house(self, now: float) -> None:
        by_spool = self._voyage is not None and self._voyage.by_spool
        detours = by_spool or self._is_stuck(now)
        if self._timetable.take_turn("lease", now, _LEASE):
            self._attempt(self._journals.refresh)
        if detours and self._timetable.is_due("copy", now):
            self._tell_detour()
            self._copy(now)
        self._tell_removed()
        self._tell_doubts()
        self._journals.keep_house(in_spool_for_good=by_spool)
        self._journals.clear(self._safe)
        if self._ending is None:
            self._look_around(now, is_sampling=detours or self._has_answer())

    def _look_around(self, now: float, *, is_sampling: bool) -> None:
        """Adopt leftovers and sample usage, which is done only while the script runs."""
        if now - self._began > _ADOPT_AFTER:
            self._attempt(self._adopt)
        interval = self._voyage.record.usage_interval if self._voyage is not None else _USAGE_INTERVAL
        if is_sampling and self._timetable.take_turn("sample", now, interval):
            self._sample()

    def _adopt(self) -> None:
        """Bring a piece of what ended runs have left on this node to the spool."""
        from hpctrack.stream.disk import late  # (late: many a job has ended by now)

        if self._adoption is None:
            run_dir = self._config.run_dir
            self._adoption = iter(())
            late.tell(self._config.spool, os.path.dirname(os.path.dirname(run_dir)))
            if folders.others(os.path.dirname(run_dir), run_dir):
                self._adoption = self._pieces()
        next(self._adoption, None)

    def _has_answer(self) -> bool:
        return self._voyage is not None and self._voyage.answered

    def _pieces(self) -> Iterator[None]:
        from hpctrack.stream.disk import adoption  # late: hardly ever is there anything

        return adoption.pieces(self._config.spool, self._config.run_dir)

    def _is_stuck(self, now: float) -> bool:
        """Whether something has waited for its acknowledgement for long."""
        if self._voyage is None or not self._voyage.answered:
            return now - self._began > _STUCK_AFTER
        oldest = self._voyage.outbox.oldest()
        return oldest is not None and now - oldest > _STUCK_AFTER

    def _tell_detour(self) -> None:
        """Say why the run's metrics come late."""
        if self._voyage is None or not self._voyage.by_spool:
            self._own.append_event_once(_DETOUR)

    def _tell_removed(self) -> None:
        """Say that somebody has cut a journal, or taken the run folder away."""
        if self._journals.cuts or (self._voyage is not None and self._voyage.outbox.cuts):
            self._own.append_event_once(journal_lines.CUT)
        if self._journals.removed:
            self._own.append_event_once(_REMOVED)

    def _tell_doubts(self) -> bool:
        """Say once of a metric in the timeline that what looks like a number is none; whether any is."""
        untold = self._doubts.take()
        for text in untold:
            self._own.append_event(text)
        return bool(untold)

    def _copy(self, now: float) -> int:
        """Copy to the spool and return how many bytes; if that fails, not again for a while."""
        if self._voyage is not None:
            self._tell_start(self._voyage)
        self._journals.look()
        try:
            copied = self._journals.copy(_COPY_BYTES, self._carries)
            self._tell_removed()
            return copied
        except OSError as error:
            self._timetable.put_off("copy", now + _SPOOL_TROUBLE)
            self._log.write(f"the spool can't be written: {error}")
            return 0

    def _sample(self) -> None:
        if self._sampler is None:
            environ = os.environ
            # In a plain job that holds several tracked commands, the job's cgroup is not ours alone.
            job_id = None if self._config.record else self._config.job_id
            mark = ("HPCTRACK_RUN_DIR", self._config.run_dir)
            sluid = environ.get("SLURM_JOB_SLUID", "")
            self._sampler = usage.Sampler(report.node(environ), job_id, mark, sluid)
            if self._sampler.lacks_cgroup:
                self._own.append_event_once(usage.NOT_FOUND)
        self._own.append(self._sampler.sample())

    # --- the end ---

    def _finish(self, ending: Ending, now: float) -> None:
        """The script has ended: wait for the last acknowledgements, then keep the rest in the spool."""
        if self._is_delivered():
            ending.done = not self._tell_doubts()
        elif ending.is_over(self._voyage, now):
            self._keep_rest(ending, now)
            ending.done = True

    def _keep_rest(self, ending: Ending, now: float) -> None:
        """Copy to the spool what nobody has acknowledged."""
        if self._has_answer() or now - self._began > _WORTH_TELLING:
            self._tell_detour()
        while time.monotonic() < ending.last_moment and self._copy(now):
            pass

    def _is_delivered(self) -> bool:
        """Whether everything is acknowledged. What can't be seen now may be had a moment later."""
        voyage = self._voyage
        return voyage is not None and (
            voyage.answered and self._journals.trouble is None and voyage.outbox.drained()
        )
