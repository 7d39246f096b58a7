"""``hpctrack link``: a link from one run to another."""

from __future__ import annotations

import click

from hpctrack import errors, settings
from hpctrack.cli import completers, options, sessions
from hpctrack.cli.terminal import render, say


@click.command()
@click.argument("origin", metavar="FROM", shell_complete=completers.runs)
@click.argument("kind")
@click.argument("target", metavar="TO", shell_complete=completers.runs)
@click.option("--remove", is_flag=True, help="Remove the link.")
@options.config_path
def command(*, origin: str, kind: str, target: str, remove: bool, config_path: str | None) -> None:
    """Link a run to another; KIND says in your words what the link means.

    \b
    hpctrack link r8 evaluates r7
    """
    from hpctrack.store.read import lookup
    from hpctrack.store.write import changes

    kind = " ".join(kind.split())
    if not kind:
        raise errors.UsageError("KIND says what the link means: hpctrack link r8 evaluates r7")
    refs = options.one_run(origin), options.one_run(target)
    with sessions.connected(settings.load(config_path=config_path)) as connection:
        from_id, to_id = (lookup.find_one(connection, ref) for ref in refs)
        if not remove:
            changes.link(connection, from_id, kind, to_id)
        elif not changes.unlink(connection, from_id, kind, to_id):
            raise errors.UsageError(
                f"no link r{from_id} {kind} r{to_id}: hpctrack show r{from_id} tells them"
            )
    say.out(f"r{from_id} {render.clean(kind)} r{to_id}" + (": removed" if remove else ""))
