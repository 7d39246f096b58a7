"""``hpctrack status``: the runs, their states and latest metrics, as PostgreSQL knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from hpctrack import errors, settings
from hpctrack.cli import completers, misspelt, options, sessions
from hpctrack.cli.terminal import listing, render, say, table, waiting
from hpctrack.run import conditions, runids, words
from hpctrack.store.read import filters, lists, queries
from hpctrack.view import columns, jsonable
from hpctrack.view.question import Question, add, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.store.database import Connection


def _where(_ctx: click.Context, _param: click.Parameter, text: str | None) -> conditions.Expression | None:
    return None if text is None else conditions.parse(text)


def _sort(_ctx: click.Context, _param: click.Parameter, text: str | None) -> filters.Sort | None:
    if text is None:
        return None
    return filters.Sort.parse(text)


def _tags(
    _ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[str, str | None], ...]:
    return tuple(map(words.tag, texts))


def _words(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())


def _after(_ctx: click.Context, _param: click.Parameter, text: str | None) -> runids.RunRef | None:
    return None if text is None else options.one_run(text)


def _format(
    ctx: click.Context, _param: click.Parameter, text: str | None
) -> tuple[columns.Column, ...] | None:
    if text is not None and text.strip().lower() == "help":
        say.out(*columns.explain().split("\n"))
        ctx.exit()
    return None if text is None else columns.parse(text)


@click.command()
@options.optional_runs
@click.option("--me", "mine", is_flag=True, help="My runs only; on a site's server this is usual.")
@options.all_users("Everybody's runs that I may see.")
@click.option("--user", "users", multiple=True, callback=_words, metavar="USERS", help="Runs of these users.")
@options.job_states("statuses", "-t", "--state", help="Slurm's states, any case, also compact: --state PD,R.")
@options.job_states("not_statuses", "--not-state", help="Leave these states out.")
@options.experiment("Runs of this experiment.")
@options.tags("Runs with this tag (several: all of them).", callback=_tags)
@click.option("--name", metavar="GLOB", help="Jobs of this name: 'train*'.")
@click.option(
    "-p", "--partition", "partitions", multiple=True, callback=_words, metavar="NAMES",
    help="Runs in these partitions.",
)  # fmt: skip
@options.period("Submitted", "2d, 3h, 30min, 2026-01-31")
@click.option(
    "--where", callback=_where, metavar="CONDITION",
    help="Such as 'args.lr < 0.01 and min.val_loss < 0.3'; fields as in --sort.",
)  # fmt: skip
@click.option(
    "--sort", callback=_sort, metavar="FIELD", shell_complete=completers.fields,
    help="Order by submitted, elapsed, min.val_loss, args.lr ...; -FIELD turns it round.",
)  # fmt: skip
@options.archived
@options.limit("So many lines.", default=50, show_default=True)
@click.option("--after", callback=_after, metavar="RUN", help="The next page, behind the run that ended one.")
@click.option("--all", "everything", is_flag=True, help="No limit; for --csv and --parsable.")
@click.option("-r", "--array", "unfold", is_flag=True, help="A line for each task of a job array.")
@click.option(
    "-o", "--format", "chosen", callback=_format, metavar="COLUMNS", shell_complete=completers.columns,
    help="These columns: run,job,name%20,min.val_loss; help lists them.",
)  # fmt: skip
@options.as_json
@click.option("--csv", "form", flag_value="csv", help="Print CSV, one row for each run.")
@click.option(
    "-P", "--parsable", "form", flag_value="parsable", help="Print cells parted by |, as sacct -P does."
)
@click.option("--count", is_flag=True, help="Just count all runs that match, by state.")
@click.option(
    "-w", "--watch", is_flag=True, help="Redraw until q is pressed, or until all runs asked for have ended."
)
@click.option(
    "--interval", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds between redraws."
)
@options.config_path
def command(
    *,
    chosen: tuple[columns.Column, ...] | None,
    as_json: bool,
    form: str | None,
    count: bool,
    everything: bool,
    watch: bool,
    interval: float,
    unfold: bool,
    mine: bool,
    all_users: bool,
    config_path: str | None,
    **asked: Any,
) -> None:
    """List runs, the newest last; the tasks of a job array in one line.

    RUN is a Slurm job id (14, an array with all its tasks; 14_3, one task), a run's own id (r7), or the
    beginning of its job's name. What is shown comes from PostgreSQL; Slurm is not asked.

    On a site's server these are your own runs, unless you name runs, users (--user), or all of them (-a):

    \b
      hpctrack status -a -t running
    """
    _check_ways({"--json": as_json, f"--{form}": bool(form), "--count": count, "--watch": watch})
    _check_ways({"--me": mine, "--allusers": all_users})
    if everything and form is None:
        raise errors.UsageError("--all is for --csv and --parsable: otherwise raise --limit")
    configuration = settings.load(config_path=config_path)
    question = Question(**asked, mine=mine, unfold=unfold or as_json or bool(form or chosen))
    if not all_users:
        question = question.usual(personal=configuration.personal)
    if watch:
        _watch(configuration, question, interval, chosen)
        return
    with sessions.connected(configuration) as connection:
        if count:
            _print_counts(connection, question)
        elif form:
            _print_rows(connection, question, form, chosen, everything=everything)
        elif as_json:
            _print_json(connection, question, chosen)
        else:
            _print_table(connection, question, chosen)
            waiting.say(configuration, connection)


def _check_ways(ways: dict[str, bool]) -> None:
    given = [name for name, used in ways.items() if used]
    if len(given) > 1:
        raise errors.UsageError(f"{' and '.join(given)} do not go together")


def _watch(
    configuration: settings.Settings,
    question: Question,
    interval: float,
    chosen: tuple[columns.Column, ...] | None,
) -> None:
    from hpctrack.cli import watching

    watching.watch(configuration, question, interval, chosen)


def _print_json(
    connection: Connection, question: Question, chosen: tuple[columns.Column, ...] | None
) -> None:
    besides = columns.besides(chosen)
    answer = ask(connection, question, besides._replace(metrics=besides.metrics | question.metrics))
    say.raw(jsonable.to_json(jsonable.of_answer(answer)) + "\n")
    misspelt.note(connection, question, answer.heads, chosen)


def _print_table(
    connection: Connection, question: Question, chosen: tuple[columns.Column, ...] | None
) -> None:
    output = table.Output()
    answer = ask(connection, question, columns.besides(chosen))
    output.print(*listing.draw(answer, question.nothing, output.width, plain=output.bare, chosen=chosen))
    misspelt.note(connection, question, answer.heads, chosen)


def _print_counts(connection: Connection, question: Question) -> None:
    counts = lists.count_runs(connection, question.filter(connection))
    if not counts:
        misspelt.note(connection, question, ())
    output = table.Output()
    width = len(str(max(counts.values(), default=0)))
    for status, number in counts.items():
        output.print(Text(f"{number:>{width}} ").append_text(render.state(status, plain=output.bare)))


def _print_rows(
    connection: Connection,
    question: Question,
    form: str,
    chosen: tuple[columns.Column, ...] | None,
    *,
    everything: bool,
) -> None:
    """Print runs for programs; a list that is cut says so on stderr."""
    write = columns.csv_lines if form == "csv" else listing.parsable_lines
    shown = chosen or columns.parse(columns.DEFAULT)
    besides = columns.besides(shown)
    if everything:
        now = queries.now(connection)
        runs = add(connection, _all_runs(connection, question), besides)
        table.ForPrograms().writelines(write(shown, runs, now))
        return
    answer = ask(connection, question, besides)
    misspelt.note(connection, question, answer.heads, chosen)
    table.ForPrograms().writelines(write(shown, answer.runs, answer.now))
    if answer.next_page:
        say.note(f"more runs match: --after {answer.next_page} goes on, --all prints all")


def _all_runs(connection: Connection, question: Question) -> Iterator[queries.RunRow]:
    """Return all runs that match, the oldest first where nothing else is asked for."""
    sort = question.sort or filters.Sort(descending=False)
    return lists.iterate_runs(connection, question.filter(connection), sort)
