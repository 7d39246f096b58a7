"""Scripts that keep PYTHONPATH from a Python that they start, told once: there ``import hpctrack`` may fail.

Only the text of the script is looked at. Scripts that import nothing of ours there lose nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from hpctrack import files, resources

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How lines look that do so, by what they do.
_WAYS = {
    "python -I, -E": rb"\bpython[\d.]*[ \t]+(?:-\w+[ \t]+)*-[A-Za-z]*[IE]",
    "env -i": rb"\benv[ \t]+(?:-i\b|-[ \t]|--ignore-environment)",
    "a container": rb"\b(?:apptainer|singularity)[ \t]+(?:\S+[ \t]+)*?(?:exec|run)\b"
    rb"|\b(?:docker|podman)[ \t]+run\b|--container-image\b",
    "PYTHONPATH=": rb"\bPYTHONPATH=(?![^\n;]*\$\{?PYTHONPATH)",
}
_COMMENT = re.compile(rb"^[ \t]*#[^\n]*", re.MULTILINE)


def ways(text: bytes) -> list[str]:
    """Return in which ways a script keeps PYTHONPATH from a Python."""
    commands = _COMMENT.sub(b"", text)
    return [way for way, pattern in _WAYS.items() if re.search(pattern, commands)]


def notes(text: bytes, cache: str) -> Iterator[str]:
    """Yield what to tell about a script, each thing once: ``cache`` is where that is noted."""
    for way in ways(text):
        with contextlib.suppress(OSError):  # FileExistsError: told before
            files.make_folder(cache)
            os.close(files.create(os.path.join(cache, "told-" + re.sub(r"\W+", "-", way))))  # noqa: PTH118
            yield (
                f"this script uses {way}: `import hpctrack` works behind that only where hpctrack-script is "
                f"installed, or with {resources.IMPORTABLE} on PYTHONPATH "
                "(told once; docs/submission.md)"
            )
