"""An environment that the kernel only just takes: sbatch submits wherever it would without us."""

from __future__ import annotations

import errno
import subprocess

import pytest

from tests.support.places import Place

#: What starts no further program: it, too, might not fit.
SBATCH = """\
#!/bin/sh
[ "$1" != --help ] || exit 0
echo x >> "$FAKE/calls"
echo "Submitted batch job 14"
exit "${FAKE_EXIT:-0}"
"""
#: The kernel takes no longer string (execve(2), MAX_ARG_STRLEN).
_LONGEST = 128 << 10
#: A command's own start takes some bytes of it.
_ROOM = (0, 100, 200, 300, 500, 700, 1000, 2000, 4000, 8000, 20_000, 61_000, 90_000, 130_000, 300_000)


@pytest.fixture
def tight(place: Place) -> Place:
    """A place whose sbatch needs little room."""
    path = place.fake.parent / "bin" / "sbatch"
    path.write_text(SBATCH)
    (place.work / "train.sh").write_text("#!/bin/sh\necho hello\n")
    return place


def padding(size: int) -> dict[str, str]:
    """Return variables that take up so many bytes, and their ends."""
    found = {}
    while size > 0:
        name = f"PAD{len(found):03}"
        part = min(size, _LONGEST - 100)
        found[name] = "x" * max(part - len(name) - 2, 0)
        size -= part
    return found


def most(place: Place, command: str, *words: str, environ) -> int:
    """Return with how much more in the environment a command still starts."""
    fits, too_much = 0, 8 << 20
    while too_much - fits > 1:
        size = (fits + too_much) // 2
        try:
            subprocess.run(
                [command, *words], env={**place.environ, **environ, **padding(size)}, cwd=place.work,
                check=True, capture_output=True,
            )  # fmt: skip
            fits = size
        except OSError as error:
            assert error.errno == errno.E2BIG
            too_much = size
    return fits


@pytest.mark.parametrize("room", _ROOM)
@pytest.mark.parametrize(
    "environ", [{}, {"BASH_FUNC_module%%": "() { " + "echo long; " * 2700 + "}"}], ids=["", "odd"]
)
def test_sbatch_submits(tight: Place, environ, room):
    sbatch = str(tight.fake.parent / "bin" / "sbatch")
    size = most(tight, sbatch, "--help", "train.sh", environ=environ)
    try:
        done = tight.run("sbatch", "train.sh", environ={**environ, **padding(size - room), "FAKE_EXIT": "3"})
    except OSError as error:  # as it may not even start
        assert error.errno == errno.E2BIG
        assert room < 500
        return
    assert (done.returncode, done.stdout, tight.calls()) == (3, "Submitted batch job 14\n", 1), done.stderr[
        -2000:
    ]
