"""``hpctrack templates``: job scripts to start from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click

from hpctrack import errors, resources
from hpctrack.cli import common
from hpctrack.cli.terminal import say
from hpctrack.text import nearest


class Template(NamedTuple):
    """A job script of the gallery."""

    name: str
    about: str
    """Its first line of comment."""
    text: str


def gallery() -> list[Template]:
    """Return the job scripts that come with hpctrack, by name."""
    found = []
    for path in sorted((resources.folder("sbatch_templates") / "gallery").glob("*.sh")):
        text = path.read_text(encoding="utf-8")
        about = text.splitlines()[1].removeprefix("# ")
        found.append(Template(path.stem, about, text))
    return found


@click.command()
@click.argument("name", required=False)
@click.option("-o", "--output", type=click.Path(), help="Copy it to this new file, or into this folder.")
@common.json_option
def command(*, name: str | None, output: str | None, as_json: bool) -> None:
    """List the job scripts that come with hpctrack; with a NAME print that one, or copy it.

    \b
      hpctrack templates array -o .
      hpctrack sbatch array.sh
    """
    templates = gallery()
    if name is None:
        if output is not None:
            raise errors.UsageError("which one? hpctrack templates NAME -o FILE")
        _list(templates, as_json=as_json)
        return
    chosen = next((one for one in templates if one.name == name.removesuffix(".sh")), None)
    if chosen is None:
        known = nearest.of_ours(name, (one.name for one in templates))
        raise errors.UsageError(f"no template {name!r}: {known}")
    if output is not None:
        say.out(_copy(chosen, Path(output)))
    elif as_json:
        say.json(chosen._asdict())
    else:
        say.raw(chosen.text)


def _list(templates: list[Template], *, as_json: bool) -> None:
    if as_json:
        say.json({"templates": [one._asdict() for one in templates]})
        return
    width = max(len(one.name) for one in templates)
    for one in templates:
        say.out(f"{one.name:<{width}}  {one.about}")


def _copy(template: Template, target: Path) -> str:
    """Write a template where nothing is overwritten; return the path."""
    path = target / f"{template.name}.sh" if target.is_dir() else target
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template.text)
    except FileExistsError:
        raise errors.UsageError(f"{path} exists already: nothing is overwritten") from None
    except OSError as error:
        raise errors.UsageError(f"{path}: {error.strerror}") from None
    return str(path)
