"""Signals and locale that Python changes for itself: what it starts for the user finds them as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

LOOK = "grep -E 'Sig(Blk|Ign)' /proc/self/status; env | grep -a ^LC_; :"
TRAPS = ["", "PIPE", "XFSZ", "PIPE XFSZ INT HUP"]
UNTRACKED = [{}, {"HPCTRACK_DATA_DIR": "/dev/null/no"}]
LOCALES = [{}, {"LC_CTYPE": "C"}, {"LC_CTYPE": "UTF-8"}, {"LC_CTYPE": "xx", "LANG": "C"}, {"LC_ALL": "C"}]


def under(trap: str, *argv: object) -> tuple[str, ...]:
    """Return a command that begins with these signals ignored."""
    return ("-c", f'[ -z "{trap}" ] || trap "" {trap}; exec "$@"', "sh", *map(str, argv))


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("untracked", UNTRACKED, ids=["tracked", "untracked"])
def test_commands(place, trap, untracked):
    for locale in LOCALES:
        plain = place.run(*under(trap, "sh", "-c", LOOK), command="sh", environ=locale)
        command = (place.installation.command, "run", "--", "sh", "-c", LOOK)
        done = place.run(*under(trap, *command), command="sh", environ={**locale, **untracked})
        assert done.stdout == plain.stdout, locale
        assert ("untracked" in done.stderr) == bool(untracked)


@pytest.mark.parametrize("untracked", UNTRACKED, ids=["tracked", "untracked"])
def test_a_command_starts_or_does_not_as_from_a_shell(place, untracked):
    """A text without ``#!`` is one of sh; what is no program ends with 126 or 127."""
    for name, mode in (("text", 0o755), ("data", 0o644)):
        (place.work / name).write_text("echo ran $# $1\nexit 4\n")
        (place.work / name).chmod(mode)
    for program in ("./text", "text", "./data", "/tmp", "./nothing", "nothing"):
        environ = {**untracked, "PATH": f"{place.environ['PATH']}:{place.work}"}
        plain = place.run("-c", 'exec "$@"', "sh", program, "a b", command="bash", environ=environ)
        done = place.run("run", "--", program, "a b", environ=environ)
        assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout), program


@pytest.mark.parametrize("trap", [TRAPS[0], TRAPS[-1]])  # Popen restores both signals or none
@pytest.mark.parametrize("long", ["", "x" * 600], ids=["", "a long name that sh can't hold"])
def test_sbatch(place, trap, long):
    sbatch = Path(place.environ["PATH"].partition(":")[0], "sbatch")
    sbatch.write_text(f"#!/bin/bash -p\n{LOOK}\n")
    (place.work / "train.sh").write_text("#!/bin/sh\n")
    environ = {"LC_CTYPE": "C", **({"BASH_FUNC_x%%": f"() {{ {long}\n}}"} if long else {})}
    plain = place.run(*under(trap, sbatch, "train.sh"), command="sh", environ=environ)
    done = place.run(
        *under(trap, place.installation.command, "sbatch", "train.sh"), command="sh", environ=environ
    )
    assert done.stdout == plain.stdout
    assert "LC_CTYPE=C\n" in done.stdout
