"""``hpctrack templates``: job scripts to start from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click

from hpctrack import errors, resources
from hpctrack.cli import options
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
    templates = []
    for path in sorted((resources.folder("sbatch_templates") / "gallery").glob("*.sh")):
        text = path.read_text(encoding="utf-8")
        about = text.splitlines()[1].removeprefix("# ")
        templates.append(Template(path.stem, about, text))
    return templates


@click.command()
@click.argument("name", required=False)
@click.option("-o", "--output", type=click.Path(), help="Copy it to this new file, or into this folder.")
@options.as_json
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
    template = _find(templates, name)
    if output is not None:
        say.out(_copy(template, Path(output)))
    elif as_json:
        say.json(template._asdict())
    else:
        say.raw(template.text)


def _find(templates: list[Template], name: str) -> Template:
    """Return the template of a name. Raises `errors.UsageError`, which names one that was probably meant."""
    by_name = {template.name: template for template in templates}
    template = by_name.get(name.removesuffix(".sh"))
    if template is None:
        raise errors.UsageError(f"no template {name!r}: {nearest.of_ours(name, by_name)}")
    return template


def _list(templates: list[Template], *, as_json: bool) -> None:
    if as_json:
        say.json({"templates": [template._asdict() for template in templates]})
        return
    width = max(len(template.name) for template in templates)
    for template in templates:
        say.out(f"{template.name:<{width}}  {template.about}")


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
