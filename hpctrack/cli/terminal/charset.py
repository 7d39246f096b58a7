"""What stands for signs of ours where the terminal's encoding lacks them (Latin-1, EUC-JP, ASCII).

Text of others keeps its width: a question mark stands for each cell.
"""

from __future__ import annotations

import codecs
import unicodedata
from types import MappingProxyType

#: Signs of cut text, glyphs of states, frames, dots and blocks of charts.
_SIGNS = MappingProxyType(
    {
        **dict(zip("…✓✗●○⊘◆━─│", "+vx*o%*--|", strict=True)),
        **dict.fromkeys("┌┐└┘├┤┬┴┼", "+"),
        **dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True)),
        "\u2800": " ",
    }
)


def _stand_in(char: str) -> str:
    if "\u2800" < char <= "\u28ff":  # dots of Braille
        return "*"
    return _SIGNS.get(char) or ("??" if unicodedata.east_asian_width(char) in "WF" else "?")


def lacking(error: UnicodeError) -> tuple[str, int]:
    """Handle what can't be encoded, as `codecs.register_error` has it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_stand_in, error.object[error.start : error.end])), error.end


def register() -> str:
    """Make the handler known; return the name to give to ``errors=``."""
    codecs.register_error("hpctrack.lacking", lacking)
    return "hpctrack.lacking"
