"""Before sbatch runs: which script is submitted, and what sbatch gets in its place.

Where anything can't be prepared, sbatch gets what the user typed, and the user sees what sbatch says.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpctrack import errors, files, resources
from hpctrack.process import children
from hpctrack.slurm.sbatch import batch_script, isolation, options, site_options, submission
from hpctrack.stream.node import options as node

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from hpctrack.settings import Settings


class Script(NamedTuple):
    """What the user wants to run."""

    text: bytes
    #: Names the job, unless an option does.
    name: str
    #: Original path; empty where there is none.
    path: str
    #: Place in sbatch's arguments; None for ``--wrap`` and standard input.
    place: int | None
    #: It can't be read again: standard input, pipes, what PostgreSQL had kept.
    consumed: bool = False


class Wrapped(NamedTuple):
    """A script that sbatch is given wrapped."""

    script: Script
    #: The file that sbatch is given.
    path: str
    request: options.Request
    #: What the script's ``#HPCTRACK`` lines say.
    own: submission.Own
    #: The script's own.
    arguments: tuple[str, ...]


class Plan(NamedTuple):
    """How to run sbatch."""

    argv: list[str]
    wrapped: Wrapped | None = None
    #: What the user should know if sbatch submits it.
    notes: tuple[str, ...] = ()
    #: ``--quiet``: sbatch will not say which job it made.
    quiet: bool = False
    #: ``--wait``: sbatch ends with the job.
    waits: bool = False


class _Line(NamedTuple):
    """sbatch's arguments, and what they mean."""

    settings: Settings
    argv: Sequence[str]
    read: options.CommandLine
    environ: Mapping[str, str]

    @property
    def wraps(self) -> bool:
        return self.read.has("wrap")

    def block(self, script: Script) -> list[str]:
        """Return the lines in which sbatch looks for directives: in ``--wrap`` commands for none."""
        lines = [] if self.wraps else batch_script.leading_block(script.text)
        return [os.fsdecode(line) for line in lines]

    def waits(self, directives: options.CommandLine) -> bool:
        """Whether sbatch ends with the job."""
        return self.read.has("wait") or directives.has("wait") or "SBATCH_WAIT" in self.environ


def prepare(
    settings: Settings,
    argv: Sequence[str],
    environ: Mapping[str, str],
    folder: Path,
    record: bytes,
    *,
    script: Script | None = None,
) -> Plan:
    """Wrap the script that sbatch is to submit, into a file in ``folder``.

    ``script`` is it, unless it is to be read from where ``argv`` says. ``record`` goes into it if the
    settings say ``key_in = script``. Never raises: a plan without ``wrapped`` runs sbatch on what the user
    typed, and notes say why where sbatch would not.
    """
    plan = Plan(list(argv))
    try:
        if script is not None:
            plan = _put_back(plan, script, folder)
        line = _Line(settings, argv, read_line(settings, argv, environ), environ)
        if line.read.has("help", "usage", "version"):
            return plan
        plan = plan._replace(quiet=line.read.has("quiet"))
        doubt = _doubt(line)
        if doubt:
            return untracked(plan, doubt)
        if script is None and (script := _read_script(line)) is not None:
            plan = _put_back(plan, script, folder)
        if script is None or batch_script.refused(script.text):
            return plan
        return _wrap(plan, line, script, folder, record)
    except Exception as error:  # noqa: BLE001 (nothing of ours may keep a job from being submitted)
        return untracked(plan, str(error) or type(error).__name__)


def untracked(plan: Plan, why: str) -> Plan:
    """Return a plan that tells why it will not be tracked."""
    return plan._replace(notes=(f"submitted untracked: {why}",))


def read_line(settings: Settings, argv: Sequence[str], environ: Mapping[str, str]) -> options.CommandLine:
    """Read an argument list, asking sbatch for its options only where ours do not suffice."""
    listed: dict[str, int] = {}
    for fresh in (False, True):
        if options.unfamiliar(argv, listed):
            with contextlib.suppress(errors.SlurmError):  # sbatch itself will say what is wrong
                listed = site_options.ask(environ, settings.cache, fresh=fresh)
    return options.parse(argv, listed)


def _doubt(line: _Line) -> str:
    """Return why it can't be told what would be wrapped; empty if it can."""
    if line.read.has("external", component=0):
        return "an external job runs no script"
    if line.read.unknown:
        return f"hpctrack does not know sbatch's option {line.read.unknown}"
    place = line.read.doubtful
    if place is not None and (line.read.script is None or _begins_script(_find(line, line.argv[place]))):
        return f"it can't be told whether {line.argv[place - 1]} takes a value: write it with ="
    return "--bbf puts lines into the script" if line.read.has("bbf") else ""


def _begins_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(2) == b"#!"
    except OSError:
        return False


def _read_script(line: _Line) -> Script | None:
    """Read what is to be run; None where sbatch will refuse."""
    if line.wraps:
        text = batch_script.from_command(os.fsencode(line.read.value("wrap") or ""))
        return Script(text, "wrap", "", None) if line.read.script is None else None
    if line.read.script is None:
        return Script(sys.stdin.buffer.read(), "sbatch", "", None, consumed=True)
    path = _find(line, line.argv[line.read.script])
    try:
        with path.open("rb") as file:
            consumed = not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            return Script(file.read(), path.name, str(path.absolute()), line.read.script, consumed)
    except OSError:
        return None


def _find(line: _Line, name: str) -> Path:
    return find_script(name, line.read.value("chdir"), line.environ.get("PATH", ""))


def find_script(name: str, chdir: str | None, search: str) -> Path:
    """Return the file that sbatch takes for the script (src/common/proc_args.c, search_path).

    A name that begins with neither ``.`` nor ``/`` is looked for in the job's folder first, then along PATH.
    """
    if name.startswith((".", "/")):
        return Path(name)
    for folder in _searched(Path.cwd() / (chdir or ""), search):
        with contextlib.suppress(OSError):  # of a folder that one may not look into
            if (folder / name).exists() and not (folder / name).is_dir():
                return folder / name
    return Path(name)


def _searched(here: Path, search: str) -> Iterator[Path]:
    """Yield the folders in which sbatch looks for a script."""
    yield here
    for entry in search.split(":"):
        if entry:
            yield here / entry if entry.startswith(".") else Path(entry)


def _put_back(plan: Plan, script: Script, folder: Path) -> Plan:
    """Let sbatch read a script from a file where our reading has used it up: standard input, a pipe."""
    if not script.consumed:
        return plan
    path = folder / "unwrapped" / script.name
    files.new_folder(str(path.parent))
    files.replace(str(path), script.text)
    return plan._replace(argv=_with_script(plan.argv, script, path))


def _with_script(argv: Sequence[str], script: Script, path: Path, dropped: Collection[int] = ()) -> list[str]:
    """Return the arguments with another file for the script."""
    words = list(argv)
    if script.place is None:
        return [*(word for place, word in enumerate(words) if place not in dropped), str(path)]
    words[script.place] = str(path)
    return words


def _wrap(plan: Plan, line: _Line, script: Script, folder: Path, record: bytes) -> Plan:
    block = line.block(script)
    directives = read_line(line.settings, options.directives(block), line.environ)
    own, notes = read_own(block)
    wrapped = _wrapped(line, script, record)
    if len(script.text) <= batch_script.MAX_SIZE < len(wrapped):
        return untracked(plan, f"wrapped, the script has more than {batch_script.MAX_SIZE} bytes")
    path = folder / script.name
    files.replace(str(path), wrapped)
    request = options.request(line.read, line.environ, directives)
    arguments = () if script.place is None else tuple(line.argv[script.place + 1 :])
    if line.settings.python_path:
        notes += tuple(isolation.notes(script.text, line.settings.cache))
    return plan._replace(
        argv=_with_script(line.argv, script, path, line.read.places("wrap")),
        wrapped=Wrapped(script, str(path), request, own, arguments),
        notes=notes,
        waits=line.waits(directives),
    )


def _wrapped(line: _Line, script: Script, record: bytes) -> bytes:
    return batch_script.wrap(
        script.text,
        batch_script.Supervision(
            python=children.PYTHON,
            package=resources.PACKAGE,
            options=node.words(line.settings),
            script=script.path,
            python_path=line.settings.python_path,
        ),
        (resources.folder("sbatch_templates") / "wrapper.sh").read_bytes(),
        directives=not line.wraps,
        record=record if line.settings.key_in == "script" else b"",
        have_bash=Path("/bin/bash").exists(),
    )


def read_own(block: Sequence[str]) -> tuple[submission.Own, tuple[str, ...]]:
    """Read the ``#HPCTRACK`` lines of a comment block; also return what is wrong with any."""
    own, notes = submission.Own(), []
    for line in block:
        if not line.startswith("#HPCTRACK") or not line[9:10].isspace():
            continue
        try:
            given, rest = submission.parse_own(list(options.split(line[9:])))
        except (errors.UsageError, ValueError) as error:
            notes.append(f"{line.strip()}: {error}")
            continue
        own = given.over(own)
        notes += [f"{line.strip()}: {rest[0]} is not an option of hpctrack"] if rest else []
    return own, tuple(notes)
