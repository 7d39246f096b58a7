"""What verbs share: options, and the words that people write for times and states."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from hpctrack import errors
from hpctrack.cli import completers
from hpctrack.run import runids, words
from hpctrack.run import states as states_
from hpctrack.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from hpctrack.model import RunStatus
    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection
    from hpctrack.store.session import Session

counted, named = words.counted, words.named

config_option = click.option(
    "-c",
    "--config-path",
    type=click.Path(dir_okay=False),
    help="Configuration file, instead of the usual ones.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON (keys: docs/json.md).")


def since(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime | None:
    """Read a time: ``2d``, ``3h`` ago, or an ISO date and time (local unless it names a zone)."""
    return None if text is None else words.time(text)


def states(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> tuple[RunStatus, ...]:
    """Read job states as Slurm writes them, several joined by commas, any case: ``running``, ``PD,R``."""
    return states_.parse_lists(texts)


def _run_refs(
    _ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]
) -> tuple[runids.RunRef, ...]:
    return tuple(ref for text in texts for ref in words.runs(text))


def _run_ref(_ctx: click.Context, _param: click.Parameter, text: str) -> runids.RunRef:
    return one_run(text)


def _some_refs(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[runids.RunRef, ...]:
    return words.runs(text)


#: One run.
run_argument = click.argument("ref", callback=_run_ref, metavar="RUN", shell_complete=completers.runs)
#: One word that may mean several runs, such as an array.
some_runs_argument = click.argument(
    "refs", callback=_some_refs, metavar="RUN", shell_complete=completers.runs
)
#: At least one run.
runs_argument = click.argument(
    "refs", nargs=-1, required=True, callback=_run_refs, metavar="RUN...", shell_complete=completers.runs
)
#: Any number of runs, also none.
optional_runs_argument = click.argument(
    "refs", nargs=-1, callback=_run_refs, metavar="[RUN ...]", shell_complete=completers.runs
)


def one_run(text: str) -> runids.RunRef:
    """Read what names one run. Raises `errors.AmbiguousRun` for a word that names several."""
    ref, *more = words.runs(text)
    if more:
        raise errors.AmbiguousRun(f"{text.strip()} means {len(more) + 1} runs: name one of them")
    return ref


def confirm(question: str, *, yes: bool) -> None:
    """Ask unless ``yes`` answers already. Raises `click.Abort` for a no, `errors.UsageError` for nobody."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise errors.UsageError("nobody to ask: say --yes")
    sys.stdout.flush()
    click.confirm(visible.shown(question), abort=True, err=True)


@contextlib.contextmanager
def connected(configuration: Settings) -> Iterator[Connection]:
    """Connect for reading, as `connect` does, and close the connection at the end."""
    with contextlib.closing(connect(configuration)) as connection:
        yield connection


def connect(configuration: Settings) -> Connection:
    """Connect for reading: each statement its own transaction, so that nothing is held while we draw."""
    return session(configuration).connection()


def session(configuration: Settings) -> Session:
    """Return a session for reading, for verbs that ask again and again.

    Submissions of this user that PostgreSQL does not know yet are registered first, so that who asks for a
    job right after sbatch finds it.
    """
    from hpctrack.store.write import registration

    return registration.session(configuration)
