"""What the user's script calls: `log`, `set_args`, `set_tags`, `goal`. Never raises into it, never blocks.

Each call appends one line to its process's journal with one write(2): the page cache keeps it even if the
process is killed the next instant. No thread, no socket, no lock. Runs in any Python from 3.8 on, also where
nothing of hpctrack is installed; standard library only.
"""

from __future__ import annotations

import atexit
import os
import struct
from time import time_ns

from hpctrack.script import conversions, journal_lines, ranks, trouble
from hpctrack.script.writer import Writer, tell_silent

TYPE_CHECKING = False  # the module typing takes longer to load than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

_DEFAULT_CAP = 1 << 30
_MAX_SHAPES = 1024
#: Metrics of a row, however long their names, that fit into a packed line.
_MAX_REMEMBERED = 900
_MAX_TEXT = 1000
_MAX_STRING = 100_000
_MAX_DEPTH = 8
_MAX_ARRAY = 8192
#: Bits of an integer that readers take for one (`journal`): of others they make a float, which is infinite.
_MAX_BITS = 1300
_MIN, _MAX = journal_lines.INT64[0], journal_lines.INT64[-1]
_END = _MAX  # of a list, in a slice


def log(
    values: Mapping[str, Any] | None = None,
    /,
    *,
    step: int | None = None,
    progress: float | None = None,
    series: str | None = None,
    **metrics: Any,
) -> None:
    """Log metrics: ``log(step=3, loss=0.2)`` or ``log({"train/loss": 0.2}, step=3)``.

    Takes numbers, booleans, strings, dates, and everything with ``item()`` (numpy scalars, tensors of one
    element), lists and arrays of up to 64 kB; None is left out, and nested dictionaries get names like
    ``train/loss``. Rows without a step get the next free number. Rows of a ``series`` have steps of their
    own: ``log(series="eval", acc=0.9)``. Outside a tracked run it does nothing. It never raises.
    """
    try:
        try:
            if _put_off:
                _catch_up()
            writer = _state["writer"] if "writer" in _state else _start()
            if writer is None:
                return
            row = metrics if values is None else joined(values, metrics)
            now = time_ns()
            packer = _packers.get((type(step), type(progress), type(series), *row, *map(type, row.values())))
            if packer is None or not _MIN <= step <= _MAX:  # type: ignore[operator]  # the key says int
                line = _line(writer, row, (step, progress, series), now)
            else:
                try:
                    line = f"={step} - {now} {packer[0]}{packer[1](*row.values()).hex()}\n".encode()
                except (struct.error, OverflowError):  # an integer beyond 64 bits
                    line = _line(writer, row, (step, progress, series), now)
            if line:
                writer.append(line, now)
        except Exception as error:  # noqa: BLE001 (tracking never harms the job)
            if _lose_row is not None:  # at its very end Python empties modules, and then calls __del__()
                _lose_row(values, error)
    except RecursionError:
        reserved = {"step": step, "progress": progress, "series": series}
        _put_off[_END:] = [(log, (values,), {**metrics, **reserved})]


def set_args(args: object = None, /, **more: Any) -> None:
    """Store arguments of the run: ``set_args(lr=0.1)`` or ``set_args(parser.parse_args())``.

    Takes dictionaries and whatever has fields: namespaces, dataclasses, named tuples. Later values replace
    earlier ones of the same name. Outside a tracked run it does nothing, and it never raises.
    """
    try:
        try:
            _send("args", {**(_arguments(args) if args is not None else {}), **more})
        except Exception as error:  # noqa: BLE001
            if _pass_over is not None:
                _pass_over("set_args", "set_args() failed", error)
    except RecursionError:
        _put_off[_END:] = [(set_args, (args,), more)]


def set_tags(*tags: Any, **more: Any) -> None:
    """Tag the run: ``set_tags("baseline", "debug", dataset="cifar")``, or lists and dictionaries of such.

    Outside a tracked run it does nothing. It never raises.
    """
    try:
        try:
            _send("tags", {**_tags(tags), **more})
        except Exception as error:  # noqa: BLE001
            if _pass_over is not None:
                _pass_over("set_tags", "set_tags() failed", error)
    except RecursionError:
        _put_off[_END:] = [(set_tags, tags, more)]


def goal(metric: str, better: str) -> None:
    """Say when a metric is better: ``goal("val/acc", "max")``, or ``"min"``. The run's experiment keeps it.

    Outside a tracked run it does nothing. It never raises.
    """
    try:
        try:
            if better in ("max", "min"):
                _send("goal", {_cut(conversions.clean(str(metric))): better})
            else:
                _warn("goal", f'goal() takes "max" or "min", not {trouble.shown(better)}')
        except Exception as error:  # noqa: BLE001
            if _pass_over is not None:
                _pass_over("goal", "goal() failed", error)
    except RecursionError:
        _put_off[_END:] = [(goal, (metric, better), {})]


def _tags(tags: tuple[Any, ...]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for tag in tags:
        if hasattr(tag, "keys"):
            given.update(_members(tag, 0))
        else:
            words = tag if isinstance(tag, (list, tuple, set, frozenset)) else [tag]
            given.update({str(word): True for word in words})
    return given


def _send(kind: str, contents: Mapping[str, Any]) -> None:
    if _put_off:
        _catch_up()
    writer = _state["writer"] if "writer" in _state else _start()
    if writer is None or not contents:
        return
    given = jsonable(contents)
    line = journal_lines.format_message(kind, given)
    if len(line) <= journal_lines.MAX_LINE:
        writer.append(line, time_ns())
        return
    for name, value in given.items():  # one by one: what is too long takes nothing else along
        line = journal_lines.format_message(kind, {name: value})
        if len(line) <= journal_lines.MAX_LINE:
            writer.append(line, time_ns())
        else:
            _warn("long " + kind, f"{name[:60]}: {len(line)} bytes of {kind} are too many; it is left out")
            writer.lose()


# --- trouble ---


def _lose_row(values: Any, error: Exception) -> None:
    """Count the row of a call that failed, and say why."""
    if values is None or trouble.is_mapping(values):
        _pass_over("log", "log() failed, and a row is lost", error)
    else:
        trouble.raise_foreign(error)
        said = f"log() takes a dictionary or keyword arguments, not {type(values).__name__}"
        _warn("log", f"{said}: a row is lost")
    writer = _state.get("writer")
    if writer is not None:
        writer.lose()


def _pass_over(kind: str, what: str, error: Exception) -> None:
    """Say what went wrong, unless it is not ours: tracking never harms the job."""
    trouble.raise_foreign(error)
    _warn(kind, f"{what}: {trouble.shown(error)}")


def _warn(kind: str, message: str) -> None:
    """Say something on standard error, once."""
    trouble.warn(_warned, kind, message)


def _catch_up() -> None:
    """Make the calls for which there was no room on the stack, if there is now."""
    if not trouble.is_deep():
        calls, _put_off[:] = _put_off[:], []
        for function, arguments, more in calls:
            function(*arguments, **more)


# --- values ---


def joined(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return both in one; of values that can't be had each is left out alone, with a warning."""
    try:
        return {**values, **more}
    except Exception as error:
        if not trouble.is_mapping(values):
            raise
        trouble.raise_foreign(error)
        row = {**dict(conversions.had(values, _keys(values), _leave_out)), **more}
        if not row:
            raise
        return row


def _keys(values: Mapping[str, Any]) -> list[Any]:
    try:
        return list(values.keys())
    except Exception as error:  # noqa: BLE001
        _leave_out("a dictionary", error)
        return []


def flat_values(values: Mapping[str, Any]) -> dict[str, journal_lines.Value]:
    """Return names and plain values, as `log` stores them; what can't be had is left out with a warning."""
    flat: dict[str, journal_lines.Value] = {}
    for name, value in _flat("", values, 0):
        if name in flat:
            _warn(f"twice {name}", f"{name} stands twice in one row: the last of its values is stored")
        flat[name] = value
    return flat


def _line(writer: Writer, metrics: Mapping[str, Any], place: tuple[Any, Any, Any], now: int) -> bytes:
    """Format any row, and remember how to format others like it; its place: step, progress, series."""
    left_out = _left_out[0]
    values = flat_values(metrics)
    step, progress, series = conversions.place(values, place, _plain, _warn)
    if not values and step is None:
        if _left_out[0] > left_out:  # of this row nothing is left
            writer.lose()
        return b""
    values = {name + writer.suffix: value for name, value in values.items()}
    packer, line = _packer(metrics, values) if series is None else None, b""
    if packer is not None:
        line = journal_lines.format_packed(packer[0], packer[1](*values.values()), step, progress, now)
    if packer is None or len(line) > journal_lines.MAX_LINE:
        line = journal_lines.format_row(values, step, progress, now / 1e9, series)
    if len(line) > journal_lines.MAX_LINE:
        _warn("long row", f"a row of {len(line)} bytes is too long; it is left out")
        writer.lose()
        return b""
    return line


def _packer(
    metrics: Mapping[str, Any], values: Mapping[str, journal_lines.Value]
) -> tuple[str, Callable[..., bytes]] | None:
    """Return how to pack a row, and remember it for others like it; ``values`` is what ``metrics`` became."""
    codes = journal_lines.codes(values)
    packer = None if codes is None else journal_lines.packer(values, codes)
    is_flat_and_short = len(metrics) == len(values) <= _MAX_REMEMBERED
    if packer is not None and is_flat_and_short and all(map(conversions.is_number, metrics.values())):
        _remember(metrics, packer)
    return packer


def _remember(metrics: Mapping[str, Any], packer: tuple[str, Callable[..., bytes]]) -> None:
    if len(_packers) >= _MAX_SHAPES:
        _packers.clear()
    _packers.setdefault((int, type(None), type(None), *metrics, *map(type, metrics.values())), packer)


def _flat(prefix: str, values: Mapping[str, Any], depth: int) -> Iterator[tuple[str, journal_lines.Value]]:
    """Yield names and plain values; what can't be had is left out with a warning."""
    for key, value in values.items():
        name = prefix + trouble.shown(key, str)
        try:
            name = conversions.clean(prefix + str(key))
            if value is None:
                continue
            if hasattr(value, "items") and hasattr(value, "keys") and depth < _MAX_DEPTH:
                yield from _flat(name + "/", joined(value, {}), depth + 1)
            else:
                yield _cut(name), _plain(name, value)
        except Exception as error:  # noqa: BLE001 (one bad value must not take the others along)
            _leave_out(name, error)


def _leave_out(name: Any, error: Exception) -> None:
    _left_out[0] += 1
    named = conversions.clean(trouble.shown(name, str))
    _pass_over(f"value {named}", f"{named} is left out", error)


def _cut(name: str) -> str:
    """Return a name that fits."""
    encoded = name.encode("utf-8", "replace")
    if len(encoded) <= journal_lines.MAX_NAME - 16:
        return name
    _warn("long name", f"names of metrics are cut to {journal_lines.MAX_NAME - 16} bytes: {name[:60]}...")
    return encoded[: journal_lines.MAX_NAME - 16].decode("utf-8", "ignore")


def _plain(name: str, value: Any) -> journal_lines.Value:
    """Turn anything into what a journal holds."""
    if isinstance(value, str):
        if len(value) > _MAX_STRING:
            _warn("string " + name, f"{name}: strings are cut to {_MAX_STRING} characters")
        return conversions.clean(str(value[:_MAX_STRING]))
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() <= _MAX_BITS:
            return int(value)
        _warn("integer " + name, f"{name}: an integer of {value.bit_length()} bits is stored as infinite")
        return float("-inf" if value < 0 else "inf")
    if isinstance(value, float):
        return float(value)
    for convert in (conversions.seconds, conversions.item, conversions.text_form, conversions.number):
        try:
            return _plain(name, convert(value))
        except Exception as error:  # noqa: BLE001 (an array of many elements, a property that fails)
            trouble.raise_foreign(error)
    parts = _with_parts(value, 0)
    if parts is not None:
        return _json(name, parts)
    _warn(f"type {type(value)}", f"{name} is of type {type(value).__name__}: stored as text")
    return conversions.clean(str(value)[:_MAX_TEXT])


def _json(name: str, parts: Any) -> journal_lines.Value:
    """Return a list or a dictionary as JSON; one that is too long is cut, and text."""
    import json  # late: most scripts log numbers alone

    text = json.dumps(parts, separators=(",", ":"))
    if len(text) <= journal_lines.MAX_JSON:
        return journal_lines.Json(text)
    most = f"lists and dictionaries have at most {journal_lines.MAX_JSON >> 10} kB of JSON"
    _warn("JSON " + name, f"{name}: {most}: the beginning is stored as text")
    return text[:_MAX_TEXT]


def jsonable(value: Any, depth: int = 0) -> Any:
    """Turn anything into what JSON and PostgreSQL's jsonb hold."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (str, int, float)):
        value = _plain("", value)
        return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
    parts = _with_parts(value, depth) if depth < _MAX_DEPTH else None
    if parts is not None:
        return parts
    if conversions.is_named(value):
        return conversions.name(value)
    return jsonable(_plain("a value", value), depth)


def _with_parts(value: Any, depth: int) -> Any:
    """Return a dictionary or list for what has parts; None for what is one value."""
    if hasattr(value, "items") and hasattr(value, "keys"):
        return dict(_members(value, depth))
    if isinstance(value, (set, frozenset)):
        value = conversions.ordered(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_asdict"):
        return [_element(item, depth) for item in value]
    if conversions.is_sequence(value):
        had = dict(conversions.had(value, range(len(value)), _leave_out))
        return [_element(had.get(place), depth) for place in range(len(value))]
    fields = conversions.fields(value)
    return _of_array(value, depth) if fields is None else jsonable(fields, depth + 1)


def _of_array(value: Any, depth: int) -> Any:
    """Return an array of a few elements as a list; None for anything else."""
    if not 1 < getattr(value, "size", 0) <= _MAX_ARRAY or not hasattr(value, "tolist"):
        return None
    if getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M"):
        return [_element(item, depth) for item in value]  # tolist() may give bare numbers
    return jsonable(value.tolist(), depth + 1)


def _members(values: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    """Yield what can be had of a dictionary; one value that can't takes no other along."""
    for key in list(values.keys()):
        name = conversions.clean(str(key))
        try:
            yield name, jsonable(values[key], depth + 1)
        except Exception as error:  # noqa: BLE001 (OmegaConf's ???, a property that fails)
            _leave_out(name, error)


def _element(value: Any, depth: int) -> Any:
    try:
        return jsonable(value, depth + 1)
    except Exception as error:  # noqa: BLE001
        _pass_over("an element", "an element of a list is null", error)
        return None


def _arguments(args: Any) -> Mapping[str, Any]:
    """Return what was given as arguments; of a class, its attributes."""
    if hasattr(args, "keys"):
        return dict(_members(args, 0))
    fields = conversions.of_class(args) if isinstance(args, type) else conversions.fields(args)
    if fields is None:
        said = "a dictionary, an object with fields, or keyword arguments"
        _warn("set_args", f"set_args() takes {said}, not {type(args).__name__}")
    return fields or {}


# --- this process's journal ---

#: ``writer``, once the first call has found out; None where nothing is to be logged.
_state: dict[str, Writer | None] = {}
#: How to pack rows that are like one before, by the types of step, progress and series (an integer, none and
#: none), the names of the metrics and their types.
_packers: dict[tuple[object, ...], tuple[str, Callable[..., bytes]]] = {}
_warned: set[str] = set()
#: How many values were left out of rows and arguments.
_left_out = [0]
#: Calls for which the stack had no room: signal handlers that piled up, a deep recursion. Nothing can be
#: called there, so they are noted without a call; the next one, or the program's end, makes up for them.
_put_off: list[tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]] = []


def _start() -> Writer | None:
    """Open this process's journal, or find that there is nothing to do."""
    environ = os.environ
    job = environ.get("HPCTRACK_JOB_ID")
    # A script may well unset all that is Slurm's: it is no other job for that.
    if job is None or (environ.get("SLURM_JOB_ID") or job) != job:
        if job is not None:
            _warn("untracked", "this job is not tracked (HPCTRACK_* are of another): nothing is logged")
        return _state.setdefault("writer", None)
    rank, variable = ranks.find(environ)
    every_rank = environ.get("HPCTRACK_RANKS") == "all"
    run_dir, spool_dir = environ.get("HPCTRACK_RUN_DIR", ""), environ.get("HPCTRACK_SPOOL_DIR", "")
    if rank and not every_rank:
        tell_silent(run_dir, spool_dir, conversions.variable("HPCTRACK_ATTEMPT", 0), rank, variable)
        return _state.setdefault("writer", None)
    try:
        writer = Writer(
            run_dir,
            spool_dir,
            attempt=conversions.variable("HPCTRACK_ATTEMPT", 0),
            rank=rank,
            cap=conversions.variable("HPCTRACK_JOURNAL_CAP", _DEFAULT_CAP),
            suffix=f"@{rank}" if every_rank else "",
            warn=lambda message: _warn("journal", message),
        )
    except OSError as error:
        trouble.raise_foreign(error)
        _warn("no journal", f"can't create a journal, nothing is logged: {error}")
        return _state.setdefault("writer", None)
    first = _state.setdefault("writer", writer)
    if first is not writer:  # another thread was faster
        writer.discard()
    return first


def _after_fork() -> None:
    """A child opens a journal of its own, and leaves to its parent what that has put off."""
    _put_off.clear()
    writer = _state.get("writer")
    if writer is not None:
        del _state["writer"]
        _packers.clear()  # they hold the names, which may end with another rank now
        writer.close()


def _at_exit() -> None:
    """Make up for what was put off, and stay able to log while Python takes itself apart."""
    _catch_up()
    writer = _state.get("writer")
    if writer is not None:
        writer.settle()
    _outlast()


def _outlast() -> None:
    from hpctrack.script import outlast  # late: it is for the end alone

    outlast.outlast()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
