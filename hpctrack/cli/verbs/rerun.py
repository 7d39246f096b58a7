"""``hpctrack rerun``: what was submitted, submitted again."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from typing import TYPE_CHECKING

import click

from hpctrack import account, errors, settings
from hpctrack.cli import completers, options, sessions
from hpctrack.cli.terminal import say
from hpctrack.process import inherited
from hpctrack.run import runids
from hpctrack.run import words as reading
from hpctrack.run.words import named
from hpctrack.slurm.sbatch import rerun, submission

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hpctrack.settings import Settings
    from hpctrack.store.read import lookup, queries

#: Bytes of a script that are read: Slurm takes 4 MB unless it is told otherwise (max_script_size).
_LONGEST = 64 << 20


class _Words(click.Command):
    """A command that takes sbatch's options beside its own; the declared ones are for ``--help``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Tell our words from sbatch's."""
        if ctx.resilient_parsing or {"-h", "--help"} & set(args[:1]):
            return super().parse_args(ctx, args)
        refs, changes = read(args)
        ctx.params = {"refs": refs, "changes": changes}
        return []


def read(words: list[str]) -> tuple[tuple[runids.RunRef, ...], rerun.Changes]:
    """Read a command line: the run first, then our options and sbatch's in any order.

    Raises `errors.UsageError`.
    """
    own = submission.Own()
    refs: tuple[runids.RunRef, ...] = ()
    assignments: list[tuple[str, str]] = []
    sbatch_options: list[str] = []
    rest = list(words)
    while rest:
        given, rest = submission.parse_own(rest)
        own = given.over(own)
        if not rest:
            break
        word = rest.pop(0)
        if word == "--set" or word.startswith("--set="):
            assignments.append(_assignment(word, rest))
        elif refs:
            sbatch_options.append(word)
        elif word.startswith("-"):
            raise errors.UsageError(f"RUN comes before options of sbatch's: hpctrack rerun RUN {word} ...")
        else:
            refs = reading.runs(word)
    if not refs:
        raise errors.UsageError("Missing argument 'RUN'")
    return refs, rerun.Changes(own, assignments, sbatch_options)


def _assignment(word: str, rest: list[str]) -> tuple[str, str]:
    """Read ``--set=NAME=VALUE``, or NAME=VALUE as the next word, which is taken off the rest."""
    text = word.removeprefix("--set=") if "=" in word else rest.pop(0) if rest else ""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise errors.UsageError("--set takes NAME=VALUE, such as --set lr=0.1")
    return name.lstrip("-"), value


@click.command(cls=_Words, options_metavar="[HPCTRACK OPTIONS]")
@options.experiment("Experiment.")
@options.tags("One more tag (several: repeat).")
@options.note
@click.option("--set", metavar="NAME=VALUE", help="Another value for an argument of the script.")
@click.argument("refs", metavar="RUN [SBATCH OPTIONS]", shell_complete=completers.runs)
def command(refs: tuple[runids.RunRef, ...], changes: rerun.Changes) -> int:
    """Submit again what a run was submitted as: script, arguments, options.

    The script is the one that was submitted then, in the folder it was submitted from, and with today's
    environment. Where secrets of the script were masked, its file is taken, if that has not changed. Options
    of sbatch's given here are stronger. The new run is linked to the old one.

    \b
    hpctrack rerun 14 --set lr=0.1
    hpctrack rerun 14_3 --time=2:00:00     one task of a job array
    hpctrack rerun 14_[0,3-5]              some of its tasks
    """
    from hpctrack.cli.verbs import sbatch
    from hpctrack.slurm.sbatch import submit

    configuration = settings.load()
    original, uuid = _find(configuration, refs)
    environ = inherited.environ()
    again = rerun.plan(original, changes, _listed(configuration, environ))
    try:
        os.chdir(original.work_dir)
    except OSError as error:
        raise errors.BadInput(
            f"{original.name} was submitted from {original.work_dir}: {error.strerror}"
        ) from None
    environ["PWD"] = original.work_dir
    order = submit.Order(configuration, again.argv, again.own, again.line, environ, again.script, uuid)
    return sbatch.submit_order(order)


def _listed(configuration: Settings, environ: dict[str, str]) -> Mapping[str, int]:
    """Return the options that sbatch lists; none where it lists none. Raises `errors.CommandNotFound`."""
    from hpctrack.slurm.sbatch import site_options

    try:
        return site_options.ask(environ, configuration.cache)
    except errors.CommandNotFound:
        raise
    except errors.SlurmError:
        return {}


def _find(configuration: Settings, refs: tuple[runids.RunRef, ...]) -> tuple[rerun.Original, str]:
    """Return what was submitted, and its UUID; say which runs it is, where they are several."""
    from hpctrack.store.read import lookup, queries

    with sessions.connected(configuration) as connection:
        members = lookup.find_runs(connection, refs)
        ids = sorted({member.id for member in members})
        if not _is_one_submission(members):
            raise errors.AmbiguousRun(f"{named(ids)} were not submitted together: rerun them one by one")
        run = queries.get_run(connection, members[0].id)
        submitted = queries.submission(connection, run.submission)
        mine = lookup.my_names(connection)
    name = refs[0].text if len(refs) == 1 and refs[0].job_id is not None else f"r{run.id}"
    _check_owner(name, run, mine, shown=submitted is not None)
    if submitted is None or submitted.submit_line is None:
        raise errors.BadInput(f"{name} was not submitted by hpctrack")
    if submitted.script is None:
        again = f"cd {shlex.quote(submitted.work_dir or '.')} && {submitted.submit_line}"
        raise errors.UsageError(f"{name} is no job but a command; run it again: {again}")
    if len(ids) > 1:
        say.note(f"submits {named(ids)} again")
    original = rerun.Original(
        name=name,
        line=_words(name, submitted.submit_line),
        script=_script(name, submitted),
        path=submitted.script_path or "",
        work_dir=submitted.work_dir or ".",
        experiment=run.experiment,
        tasks=_tasks(refs, members),
    )
    return original, str(submitted.uuid)


def _is_one_submission(members: list[lookup.Candidate]) -> bool:
    return len({member.submission or member.id for member in members}) == 1


def _check_owner(name: str, run: queries.Run, mine: Collection[str], *, shown: bool) -> None:
    """Raise `errors.StoreDenied` for somebody else's run; ``shown``: whether we see what was submitted."""
    if not shown and run.submission is not None:
        raise errors.StoreDenied(f"what {name} was submitted as is for {run.user_name} alone")
    if run.user_name not in mine:
        raise errors.StoreDenied(
            f"{name} is {run.user_name}'s, and what it was would run as {account.user_name()}: "
            f"read its script (hpctrack show {name} --script), and submit what you trust with hpctrack sbatch"
        )


def _tasks(refs: tuple[runids.RunRef, ...], members: list[lookup.Candidate]) -> str | None:
    """Return the tasks of an array that are meant; None for a whole array, or where there is none."""
    tasks = {member.array_task_id for member in members if member.array_task_id is not None}
    whole = len(tasks) > 1 and all(map(_means_all, refs))
    return runids.ranges(sorted(tasks)) if tasks and not whole else None


def _means_all(ref: runids.RunRef) -> bool:
    """Whether a reference to an array means all of its tasks: by a name, or by its bare job id."""
    return ref.named or (ref.job_id is not None and ref.task is None)


def _words(name: str, line: str) -> list[str]:
    """Return the words of a submit line, which its owner may have changed. Raises `errors.BadInput`."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise errors.BadInput(f"the submit line of {name} is none of a shell's: {error}: {line}") from None


def _read(path: str) -> bytes:
    """Read a file whose path another user may have chosen: no FIFO is waited for, no device read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(_LONGEST)


def _script(name: str, submitted: queries.Submission) -> bytes:
    """Return the script as it was submitted: as stored, or, where secrets were masked, from its file."""
    stored = submitted.script or ""
    if submission.fingerprint(stored) == submitted.script_sha256:
        return stored.encode()
    if submitted.script_path is None:
        raise errors.BadInput(
            f"the script of {name} held secrets, which were not stored, and it came from no file: "
            "submit it with hpctrack sbatch"
        )
    return _from_file(name, submitted.script_path, submitted.script_sha256)


def _from_file(name: str, path: str, fingerprint: str | None) -> bytes:
    """Return the script from its file. Raises `errors.BadInput` if that can't be read, or has changed."""
    try:
        text = _read(path)
    except OSError as error:
        why = f"can't be read: {error.strerror}"
    else:
        if submission.fingerprint(text.decode("utf-8", "surrogateescape")) == fingerprint:
            return text
        why = "has changed since"
    raise errors.BadInput(
        f"the script of {name} held secrets, which were not stored, and {path} {why}: "
        "submit it with hpctrack sbatch"
    )
