"""Options and arguments that several verbs take, each declared once, and how the words for them are read.

A verb puts them over its ``command`` as decorators, and gets runs, times and states, not words. What can't be
read is refused before the verb begins, with `errors.UsageError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpctrack import errors
from hpctrack.cli import completers
from hpctrack.run import runids, states, words
from hpctrack.run.audience import Audience
from hpctrack.script import journal_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from hpctrack.run.states import RunStatus

_Command = TypeVar("_Command", bound="Callable[..., Any]")


# --- how words are read -------------------------------------------------------------------------------------


def read_time(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime | None:
    """Read a time: ``2d``, ``3h`` ago, or an ISO date and time (local unless it names a zone)."""
    return None if text is None else words.time(text)


def read_states(
    _ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]
) -> tuple[RunStatus, ...]:
    """Read job states as Slurm writes them, several joined by commas, any case: ``running``, ``PD,R``."""
    return states.parse_lists(texts)


def one_run(text: str) -> runids.RunRef:
    """Read what names one run. Raises `errors.AmbiguousRun` for a word that names several."""
    ref, *more = words.runs(text)
    if more:
        raise errors.AmbiguousRun(f"{text.strip()} means {len(more) + 1} runs: name one of them")
    return ref


def _read_run(_ctx: click.Context, _param: click.Parameter, text: str) -> runids.RunRef:
    return one_run(text)


def _read_runs(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[runids.RunRef, ...]:
    return words.runs(text)


def _read_all_runs(
    _ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]
) -> tuple[runids.RunRef, ...]:
    return tuple(ref for text in texts for ref in words.runs(text))


def _read_steps(
    _ctx: click.Context, _param: click.Parameter, text: str | None
) -> tuple[int | None, int | None]:
    """Read a range of steps: ``100:200``, ``100:``, ``:200``, or one step."""
    if text is None:
        return None, None
    first, colon, last = text.partition(":")
    bounds = _bound(first, text), _bound(last if colon else first, text)
    if bounds == (None, None):
        raise _no_steps(text)
    return bounds


def _bound(word: str, text: str) -> int | None:
    """Read one end of the range that ``text`` is; None where it is left open."""
    if not word.strip():
        return None
    try:
        bound = int(word)
    except ValueError:
        raise _no_steps(text) from None
    if bound not in journal_lines.INT64:
        raise _no_steps(text)
    return bound


def _no_steps(text: str) -> errors.UsageError:
    return errors.UsageError(f"{text!r} is no range of steps: write 100:200, 100: or :200")


def check_runs_or_experiment(refs: Sequence[runids.RunRef], experiment: str | None) -> None:
    """Raise `errors.UsageError` unless either runs or an experiment are named."""
    if bool(refs) == (experiment is not None):
        raise errors.UsageError("name runs, or an experiment with --experiment")


# --- arguments ----------------------------------------------------------------------------------------------

#: One run.
run = click.argument("ref", callback=_read_run, metavar="RUN", shell_complete=completers.runs)
#: One word that may mean several runs, such as an array.
some_runs = click.argument("refs", callback=_read_runs, metavar="RUN", shell_complete=completers.runs)
#: At least one run.
runs = click.argument(
    "refs", nargs=-1, required=True, callback=_read_all_runs, metavar="RUN...", shell_complete=completers.runs
)
#: Any number of runs, also none.
optional_runs = click.argument(
    "refs", nargs=-1, callback=_read_all_runs, metavar="[RUN ...]", shell_complete=completers.runs
)

# --- options ------------------------------------------------------------------------------------------------

_CONFIG = click.Path(dir_okay=False)
_CONFIG_HELP = "Configuration file, instead of the usual ones."
config_path = click.option("-c", "--config-path", type=_CONFIG, help=_CONFIG_HELP)
#: The same for a verb whose ``-c`` is another program's.
long_config_path = click.option("--config-path", type=_CONFIG, help=_CONFIG_HELP)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON (keys: docs/json.md).")
yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
force = click.option(
    "-f", "--force", is_flag=True, help="Also runs that are not over; tasks of an array that lives come back."
)
archived = click.option("--archived", is_flag=True, help="Archived runs, too.")
note = click.option("--note", metavar="TEXT", help="A remark.")
series = click.option(
    "--series",
    metavar="NAME",
    shell_complete=completers.series,
    help="Rows of this series: log(series=NAME).",
)
all_attempts = click.option("--all-attempts", is_flag=True, help="Also rows that a later attempt superseded.")
steps = click.option(
    "--steps", callback=_read_steps, metavar="FROM:TO", help="Only these steps: 100:200, 100:, :200."
)


def all_users(help: str) -> Callable[[_Command], _Command]:
    """``-a``: not the caller's own alone, as squeue and sacct have it."""
    return click.option("-a", "--allusers", "all_users", is_flag=True, help=help)


def _read_audiences(
    _ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]
) -> tuple[Audience, ...]:
    return tuple(map(Audience.parse, texts))


def audiences(help: str) -> Callable[[_Command], _Command]:
    """``--with``, given once for each user or account."""
    return click.option(
        "--with", "audiences", multiple=True, callback=_read_audiences, metavar="WHOM",
        shell_complete=completers.audiences, help=help,
    )  # fmt: skip


def experiment(help: str) -> Callable[[_Command], _Command]:
    """``-E``: an experiment, and what it is to the verb."""
    return click.option(
        "-E", "--experiment", metavar="NAME", shell_complete=completers.experiments, help=help
    )


def tags(help: str, metavar: str = "NAME[=VALUE]", **more: Any) -> Callable[[_Command], _Command]:
    """``-T``, given once for each tag."""
    return click.option("-T", "--tag", "tags", multiple=True, metavar=metavar, help=help, **more)


def job_states(name: str, *flags: str, help: str) -> Callable[[_Command], _Command]:
    """States of Slurm's, several joined by commas."""
    return click.option(
        *flags, name, multiple=True, callback=read_states, metavar="STATES",
        shell_complete=completers.states, help=help,
    )  # fmt: skip


def limit(help: str, **more: Any) -> Callable[[_Command], _Command]:
    """``-l``: how many lines or rows at most."""
    return click.option("-l", "--limit", type=click.IntRange(1), help=help, **more)


def period(what: str, examples: str) -> Callable[[_Command], _Command]:
    """``--since`` and ``--until``: when it was that ``what`` happened."""
    since = click.option("--since", callback=read_time, metavar="TIME", help=f"{what} since: {examples}.")
    until = click.option("--until", callback=read_time, metavar="TIME", help=f"{what} before.")
    return lambda command: since(until(command))


#: The period of metrics.
logged = period("Logged", "2h, 2026-01-31T12:00")
