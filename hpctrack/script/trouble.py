"""Trouble in the script's calls: what is said of it, and what the script must hear of itself.

Whatever scripts hand over may fail when it is asked, or shown: nothing of that reaches the script. Loaded in
the user's script, in Python 3.8 or newer: standard library only, and little of it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Kinds of trouble that are told; so many kinds are bounded, for some are named after metrics.
MOST = 100
_SHOWN = 300  # characters


def warn(warned: set[str], kind: str, message: str) -> None:
    """Say something on standard error, once for each kind; ``warned`` are those of which it was said."""
    if kind in warned or len(warned) > MOST:
        return
    warned.add(kind)
    if len(warned) > MOST:
        message = "what else goes wrong in this process is not told any more"
    text = f"hpctrack: {message}\n"
    try:
        try:
            descriptor = sys.stderr.fileno()
        except (AttributeError, OSError):
            sys.stderr.write(text)
        else:
            # Nothing may stay in a buffer that can't be flushed: Python would exit with 120.
            os.write(descriptor, text.encode("utf-8", "replace"))
    except Exception:  # noqa: BLE001, S110 (it may be closed, or not be a file at all)
        pass


def shown(value: Any, how: Callable[[Any], str] = repr) -> str:
    """Return what can be shown of anything, by ``repr`` or ``str``."""
    try:
        return how(value)[:_SHOWN]
    except Exception as error:  # noqa: BLE001
        raise_foreign(error)
        return f"<{type(value).__name__}>"


def is_mapping(value: Any) -> bool:
    """Whether a value has keys; one that fails when it is asked counts as one without."""
    try:
        return hasattr(value, "keys")
    except Exception as error:  # noqa: BLE001
        raise_foreign(error)
        return False


def raise_foreign(error: Exception) -> None:
    """Raise what the script must hear of.

    That is what its signal handlers raise, which may happen in the midst of any call; and, for the calls of
    `hpctrack.script.calls`, that the stack is full.
    """
    if _is_of_a_handler(error) or (isinstance(error, RecursionError) and is_deep()):
        raise error


def _is_of_a_handler(error: BaseException) -> bool:
    """Whether an exception comes from a signal handler, a Python function."""
    signal = sys.modules.get("signal")  # the script has imported it if it has handlers
    if signal is None:
        return False
    handlers = [signal.getsignal(number) for number in range(1, signal.NSIG)]
    codes = [
        getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
        for handler in handlers
        if callable(handler)
    ]
    passed = error.__traceback__
    while passed is not None:
        if passed.tb_frame.f_code in codes:
            return True
        passed = passed.tb_next
    return False


def is_deep() -> bool:
    """Whether half of the stack is in use; what finds no room on less of it will never find any."""
    try:
        sys._getframe(sys.getrecursionlimit() // 2)
    except ValueError:
        return False
    return True
