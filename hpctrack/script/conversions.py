"""What scripts hand to `hpctrack.script.calls`: whether it is one value or has fields, and the value in it.

Loaded in the user's script, in Python 3.8 or newer: standard library only, and little of it.
"""

from __future__ import annotations

import os

from hpctrack.script import journal_lines, trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

#: What dates, durations, paths, decimals and arrays have, and things with fields have not.
_OF_ONE_VALUE = ("item", "isoformat", "total_seconds", "__fspath__", "as_integer_ratio", "encode")


def seconds(value: Any) -> float:
    """Durations of the standard library, pandas and numpy: all of them in seconds."""
    if is_numpys(value, "timedelta64"):
        return float(value / type(value)(1, "s"))  # item() counts in the value's own unit
    return float(value.total_seconds())


def is_numpys(value: Any, name: str) -> bool:
    """Whether it is of numpy's type of this name; numpy itself is not imported."""
    return type(value).__name__ == name and type(value).__module__ == "numpy"


def is_number(value: Any) -> bool:
    """Whether the type alone says what the value becomes, and `struct` takes it: numbers, numpy's scalars."""
    kind = type(value)
    if kind.__name__ in ("timedelta64", "datetime64"):
        return False
    return kind in (float, int, bool) or any(
        base.__name__ == "generic" and base.__module__ == "numpy" for base in kind.__mro__
    )


def item(value: Any) -> Any:
    """Scalars of numpy, torch and their like."""
    if is_numpys(value, "datetime64") or is_numpys(value, "timedelta64"):
        return str(value)  # item() is a number where it counts nanoseconds, or years
    if is_numpys(value, "ndarray") and value.dtype.kind in "mM" and value.size == 1:
        return value.flat[0]
    if type(value).__name__ == "MaskedConstant":
        return float("nan")  # item() is 0
    item = value.item()
    if type(item) is type(value):
        raise TypeError(type(item))
    return item


def text_form(value: Any) -> str:
    """Dates, and paths."""
    return str(value.isoformat()) if hasattr(value, "isoformat") else os.fspath(value)


def number(value: Any) -> float:
    """Decimals, fractions, long doubles. What no float holds keeps its text."""
    if getattr(value, "imag", 0):
        raise TypeError(type(value))
    converted = float(value)
    if abs(converted) == float("inf") and "inf" not in str(value).lower():
        raise OverflowError(type(value))
    return converted


def ordered(values: Iterable[Any]) -> list[Any]:
    """Return the elements of a set in an order that is the same in every process."""
    try:
        return sorted(values)
    except Exception:  # noqa: BLE001 (of several types)
        return sorted(values, key=str)


def fields(value: Any) -> Mapping[str, Any] | None:
    """Return the fields of a namespace, dataclass, named tuple or the like; None for what is one value."""
    if is_named(value) or callable(value) or any(hasattr(value, name) for name in _OF_ONE_VALUE):
        return None
    if hasattr(value, "_asdict"):
        return dict(value._asdict())
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__ if hasattr(value, name)}
    return _attributes(value)


def _attributes(value: Any) -> Mapping[str, Any] | None:
    """Return what an object has; None where that says nothing, and its text does."""
    fields = vars(value) if hasattr(value, "__dict__") else None
    if fields and all(name.startswith("__") for name in fields):  # pandas.NA
        return None
    if not fields and type(value).__module__ not in ("argparse", "types"):
        telling = any({"__str__", "__repr__"} & set(vars(kind)) for kind in type(value).__mro__[:-1])
        return None if telling else fields
    return fields


def of_class(kind: type) -> Mapping[str, Any]:
    """Return what a class used as a configuration sets."""
    return {name: value for name, value in vars(kind).items() if name[:1] != "_" and not callable(value)}


def clean(text: str) -> str:
    """Return a text without NUL, which PostgreSQL has not."""
    return text.replace("\0", "\ufffd")


def variable(name: str, default: int) -> int:
    """Return a variable of the environment that is a number."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


def had(
    values: Any, keys: Iterable[Any], leave_out: Callable[[Any, Exception], None]
) -> Iterator[tuple[Any, Any]]:
    """Yield what can be had of a mapping or a sequence, with its key; ``leave_out`` is told of the others."""
    for key in list(keys):
        try:
            yield key, values[key]
        except Exception as error:  # noqa: BLE001 (OmegaConf's ???, a property that fails)
            leave_out(key, error)


def is_sequence(value: Any) -> bool:
    """Whether it is a list by what it can do, such as OmegaConf's: its elements stand at 0, 1, 2 ..."""
    kind = type(value)
    if isinstance(value, (str, bytes, bytearray, memoryview, range)) or hasattr(kind, "_asdict"):
        return False
    of_a_list = all(hasattr(kind, name) for name in ("__len__", "__getitem__", "index", "count"))
    return of_a_list and not hasattr(kind, "encode")  # UserString


def is_named(value: Any) -> bool:
    """Members of enumerations; functions and classes, whose text may hold an address in memory."""
    return hasattr(type(value), "__members__") or hasattr(value, "__qualname__")


def name(value: Any) -> str:
    """Return what is called so: a member of an enumeration, a function, a class, a generator."""
    if hasattr(value, "__qualname__"):  # generators have no module
        return ".".join(filter(None, (getattr(value, "__module__", None), value.__qualname__)))
    return str(value.name)


def place(
    values: dict[str, Any],
    given: tuple[Any, Any, Any],
    plain: Callable[[str, Any], Any],
    warn: Callable[[str, str], None],
) -> tuple[int | None, float | None, str | None]:
    """Return step, progress and series of a row as a journal holds them; what can't be one is left out.

    What was not ``given`` may stand among the row's values. ``plain`` turns anything into a value; ``warn``
    hears what was left out.
    """
    taken = [values.pop(name, None) if value is None else value for name, value in zip(_PLACE, given)]
    checked: list[Any] = []
    for name, value in zip(_PLACE, taken):
        wanted, check = _CHECKS[name]
        try:
            checked.append(None if value is None else check(plain(name, value)))
        except Exception as error:  # noqa: BLE001 (one bad value must not take the row along)
            trouble.raise_foreign(error)
            warn(name, f"{name} must be {wanted}, not {trouble.shown(value)}; {_INSTEAD[name]}")
            checked.append(None)
    return checked[0], checked[1], checked[2]


def _step(value: Any) -> int:
    if isinstance(value, str) or int(value) != value or int(value) not in journal_lines.INT64:
        raise ValueError(value)
    return int(value)


def _progress(value: Any) -> float:
    number = float(value)
    if number != number:
        raise ValueError(value)
    return number


def _series(value: Any) -> str:
    name = value if isinstance(value, str) else str(value)
    fits = 0 < len(name.encode("utf-8", "replace")) <= journal_lines.MAX_SERIES
    if not fits or isinstance(value, journal_lines.Json):
        raise ValueError(value)
    return name.encode("utf-8", "replace").decode()


_PLACE = ("step", "progress", "series")
_CHECKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "step": ("an integer of 64 bits", _step),
    "progress": ("a number", _progress),
    "series": (f"a name of 1 to {journal_lines.MAX_SERIES} bytes", _series),
}
_INSTEAD = {"step": "the row gets the next one", "progress": "it is left out", "series": "it is left out"}
