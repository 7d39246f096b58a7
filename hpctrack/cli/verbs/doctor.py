"""``hpctrack doctor``: does everything work, and what is to be done where it does not?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.text import Text

from hpctrack import errors
from hpctrack.cli import options
from hpctrack.cli.doctor import checks
from hpctrack.cli.doctor.check import Check
from hpctrack.cli.terminal import say, table
from hpctrack.text import visible
from hpctrack.view import jsonable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GLYPHS = {"ok": ("✓", "#009e73"), "note": ("○", "#e69f00"), "broken": ("✗", "bold #e04030")}
_NAME, _STATE = 15, 8


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--job", is_flag=True, help="Try it from a compute node, too, by a small job.")
@click.option(
    "--wait", type=click.FloatRange(1), default=120.0, show_default=True, help="Seconds to wait for that job."
)
@click.argument("sbatch_options", nargs=-1, type=click.UNPROCESSED, metavar="[SBATCH OPTIONS]")
@options.as_json
@options.config_path
def command(
    *, job: bool, wait: float, sbatch_options: tuple[str, ...], as_json: bool, config_path: str | None
) -> int:
    """Check that everything works; each line that is not ok says what to do.

    Looks at configuration, PostgreSQL, schema, clocks, collector (by a real echo), Slurm's commands, and what
    waits in the spool. Exits with 1 if something is broken.

    \b
    hpctrack doctor --job -- -A myaccount -p debug
    """
    if sbatch_options and not job:
        words = " ".join(sbatch_options)
        raise errors.UsageError(f"{sbatch_options[0]} is for sbatch: write --job -- {words}")
    examined = checks.examine(config_path)
    if job:
        examined = _try(examined, sbatch_options, wait, config_path)
    told = list(examined) if as_json else _tell(examined)
    broken = sum(check.state == "broken" for check in told)
    if as_json:
        say.raw(jsonable.to_json({"checks": [check._asdict() for check in told], "broken": broken}) + "\n")
    return 1 if broken else 0


def _try(
    examined: Iterator[Check], sbatch_options: tuple[str, ...], wait: float, config_path: str | None
) -> Iterator[Check]:
    from hpctrack.cli.doctor import trial

    return trial.follow(examined, sbatch_options, wait, config_path)


def _tell(examined: Iterable[Check]) -> list[Check]:
    """Print each check as soon as it is done; return them all."""
    output = table.Output()
    told = []
    for check in examined:
        glyph, style = _GLYPHS[check.state]
        word = check.state if output.plain else f"{glyph} {check.state}"
        line = Text(word.ljust(_STATE) + "  ", style).append(check.name.ljust(_NAME), "default not bold")
        output.print(line.append(visible.shown(check.says), "default not bold"))
        if check.do:
            output.print(Text(" " * (_STATE + 2 + _NAME) + f"-> {visible.shown(check.do)}"))
        told.append(check)
    return told
