"""``hpctrack experiment``: list, show, rename and delete experiments."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from hpctrack import errors, settings
from hpctrack.cli import completers, options, sessions
from hpctrack.cli.terminal import render, say, table
from hpctrack.cli.verbs import delete
from hpctrack.run import words
from hpctrack.run.words import counted
from hpctrack.view import experiments as told
from hpctrack.view import jsonable, notation

if TYPE_CHECKING:
    from hpctrack.store.write.experiments import Experiment

#: Newest runs that ``experiment show`` lists.
_SHOWN = 10
_name_argument = click.argument("name", shell_complete=completers.experiments)


@click.group(invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List, show, rename and delete experiments.

    An experiment is a named group of runs; hpctrack sbatch -E NAME puts runs into it.
    """
    if ctx.invoked_subcommand is None:
        say.raw(ctx.get_help() + "\n")


@command.command("list")
@options.all_users("Everybody's experiments that I may see, with all their runs.")
@click.option("--archived", is_flag=True, help="Archived experiments and runs, too.")
@options.as_json
@options.config_path
def list_(*, all_users: bool, archived: bool, as_json: bool, config_path: str | None) -> None:
    """List experiments, the one with the newest run last.

    On a site's server these are those that you made or have runs in, and your runs there; -a lists all.
    """
    from hpctrack.store.read import lookup
    from hpctrack.store.write import experiments

    configuration = settings.load(config_path=config_path)
    with sessions.connected(configuration) as connection:
        users = None if all_users or configuration.personal else lookup.usual_names(connection)
        listed = experiments.list_all(connection, users, archived=archived)
    if as_json:
        say.raw(jsonable.to_json({"experiments": [_to_object(experiment) for experiment in listed]}) + "\n")
    elif listed:
        output = table.Output()
        output.print(table.build(_columns(listed), output.width))
    else:
        say.out("No experiments yet: hpctrack sbatch -E NAME makes one.")


@command.command()
@_name_argument
@options.archived
@options.as_json
@options.config_path
def show(*, name: str, archived: bool, as_json: bool, config_path: str | None) -> None:
    """Tell about one experiment: its runs by state, its links, its newest runs."""
    from hpctrack.cli.terminal import listing
    from hpctrack.store.read import filters, lists, queries
    from hpctrack.store.write import experiments

    with sessions.connected(settings.load(config_path=config_path)) as connection:
        experiment = experiments.get(connection, name, archived=archived)
        links = experiments.links(connection, experiment)
        rows = experiments.count_rows(connection, experiment)
        which = filters.RunFilter(experiment=name, archived=archived)
        runs = lists.list_runs(connection, which, _SHOWN)[::-1]
        now = queries.now(connection)
    if as_json:
        newest = [jsonable.of_run(run, now) for run in runs]
        more = {"rows": rows, "links": [told.link(link) for link in links], "newest_runs": newest}
        say.raw(jsonable.to_json({**_to_object(experiment), **more}) + "\n")
        return
    output = table.Output()
    title = ("experiment", Text(render.clean(experiment.name), "bold"))
    output.print(table.facts([title, *told.facts(experiment, links, rows)]))
    if runs:
        output.print(Text(), table.build(listing.usual(runs, now, plain=output.bare), output.width))
    if len(runs) < experiment.runs:
        whole_list = f"hpctrack status -E {render.clean(shlex.quote(name))}"
        whole_list += " --archived" if archived else ""
        output.print(Text(f"the newest {len(runs)} of {experiment.runs}: {whole_list}", "dim"))


@command.command()
@_name_argument
@click.argument("new")
@options.config_path
def rename(*, name: str, new: str, config_path: str | None) -> None:
    """Give an experiment another name; scripts that still say the old one begin a new experiment."""
    from hpctrack.store.write import experiments

    if not new.strip():
        raise errors.UsageError("an experiment needs a name")
    with sessions.connected(settings.load(config_path=config_path)) as connection:
        experiments.rename(connection, experiments.get(connection, name), new)
    say.out(f"{render.clean(name)} is {render.clean(new)} now")


@command.command()
@_name_argument
@click.argument("goals", nargs=-1, metavar="[max:METRIC|min:METRIC ...]")
@click.option("--remove", multiple=True, metavar="METRIC", help="Forget what was said of this metric.")
@options.as_json
@options.config_path
def goal(
    *, name: str, goals: tuple[str, ...], remove: tuple[str, ...], as_json: bool, config_path: str | None
) -> None:
    """Say of metrics whether more is better, or less; without any, tell what was said.

    \b
    hpctrack experiment goal digits max:val/acc min:loss
    hpctrack experiment goal digits --remove loss
    """
    from hpctrack.store.write import experiments

    given = dict(map(words.goal, goals))
    with sessions.connected(settings.load(config_path=config_path)) as connection:
        experiment = experiments.get(connection, name)
        if given or remove:
            experiments.set_goals(connection, experiment, given, remove)
            experiment = experiments.get(connection, name)
    if as_json:
        say.json({"experiment": name, "goals": experiment.goals})
    else:
        say.out(f"{render.clean(name)}: {render.clean(told.goals(experiment.goals)) or 'no goals'}")


@command.command("delete")
@_name_argument
@options.yes
@options.force
@options.config_path
def delete_(*, name: str, yes: bool, force: bool, config_path: str | None) -> None:
    """Delete an experiment with all its runs.

    Says what goes, and asks. There is no way back but a back-up of PostgreSQL.
    """
    from hpctrack.store.write import experiments

    configuration = settings.load(config_path=config_path)
    with sessions.connected(configuration) as connection:
        experiment = experiments.get(connection, name)
        experiments.check_rights(connection, experiment)
        ids = experiments.run_ids(connection, experiment, archived=True)
        with delete.clearing(configuration, connection):
            deleted = delete.delete_runs(connection, ids, yes=yes, force=force)
        experiments.delete(connection, experiment)
    say.out(f"deleted {render.clean(name)} with {counted(deleted, 'run')}")


def _columns(listed: list[Experiment]) -> list[table.Column]:
    columns = [
        table.column("experiment", [experiment.name for experiment in listed], least=12),
        table.column("runs", [str(experiment.runs) for experiment in listed], justify="right"),
        table.column("states", map(told.states, listed), least=20),
        table.column("newest", [notation.moment(experiment.newest) for experiment in listed], drop=2),
        table.column("user", [experiment.user_name for experiment in listed], least=6, drop=1),
        table.column("tags", [notation.tags(experiment.tags) for experiment in listed], least=6, drop=3),
    ]
    if any(experiment.goals for experiment in listed):
        shown = [told.goals(experiment.goals) for experiment in listed]
        columns.append(table.column("goals", shown, least=6, drop=4))
    return columns


def _to_object(experiment: Experiment) -> dict[str, Any]:
    return {**jsonable.of_record(experiment), "runs": experiment.runs}
