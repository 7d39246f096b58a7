"""What README.md and docs/ name exists, and what there is to be named stands there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest

from hpctrack import settings
from hpctrack.cli import group, table_of_verbs
from hpctrack.run import fields
from tests.support.paths import DOCS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
_INLINE_CODE = re.compile(r"`([^`]+)`")


def test_the_tests_of_faults_exist():
    text = (DOCS / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)*test_\w+)(?:::(test_\w+))?`", text)
    assert len(named) > 40
    for module, function in named:
        (path,) = (ROOT / "tests" / "integration").glob(f"**/{module}.py")
        source = path.read_text(encoding="utf-8")
        assert not function or f"def {function}(" in source, f"{module}::{function}"
    for path in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / path).exists(), path


def test_documents_that_code_and_documents_send_people_to_exist():
    sources = [ROOT / "README.md", *(ROOT / "hpctrack").rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"docs/(\w+\.md)", path.read_text("utf-8"))}
    named |= {
        name for path in DOCS.glob("*.md") for name in re.findall(r"\]\((\w+\.md)\)", path.read_text("utf-8"))
    }
    assert len(named) > 8
    assert not {name for name in named if not (DOCS / name).exists()}


def test_every_document_can_be_reached_from_the_readme():
    assert {path.name for path in DOCS.glob("*.md")} == set(re.findall(r"\(docs/(\w+\.md)\)", README))


def test_the_readme_lists_every_verb():
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", README, re.MULTILINE)
    assert {name for row in rows for name in _INLINE_CODE.findall(row)} == set(table_of_verbs.VERBS)


def test_the_module_map_names_every_module_once():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = text.partition("## Module map")[2].partition("\n## ")[0].splitlines()
    named: list[str] = []
    for row in rows:
        folder = ""
        for name in _INLINE_CODE.findall(row.split("|")[1] if "|" in row else ""):
            folder = name.rpartition("/")[0] if "/" in name else folder
            named.append(f"{folder}/{name.rpartition('/')[2]}".lstrip("/"))
    modules = {
        path.relative_to(ROOT / "hpctrack").with_suffix("").as_posix()
        for path in (ROOT / "hpctrack").rglob("*.py")
        if path.name != "__init__.py" and "cli" not in path.parts
    }
    assert sorted(named) == sorted(modules | {"cli/"})


def test_the_page_of_tests_names_every_module_that_they_share():
    page = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    support = page.partition("## Support")[2].partition("\n## ")[0]
    named = {
        "fixtures": re.findall(r"^\| `fixtures/(\w+)` \|", page, re.MULTILINE),
        "support": _INLINE_CODE.findall(support),
    }
    for folder, names in named.items():
        assert sorted(names) == sorted(path.stem for path in (ROOT / "tests" / folder).glob("*.py"))


def _is_there(path: str, folder: Path) -> bool:
    return any(place.exists() for place in (ROOT / path, folder / path, folder / f"{path}.py"))


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "tests/README.md"])
def test_what_pages_for_developers_name_exists(page):
    text, folder = (ROOT / page).read_text(encoding="utf-8"), (ROOT / page).parent
    links = re.findall(r"\]\(([\w./]+)\)", text)
    assert [link for link in links if not (folder / link).exists()] == []
    paths = [name for name in _INLINE_CODE.findall(text) if re.fullmatch(r"[\w.]+/[\w./]*", name)]
    assert [path for path in paths if not _is_there(path, folder)] == []
    targets = re.findall(r"^(?:    | *`)make ([a-z-]+)", text, re.MULTILINE)
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets and set(targets) <= set(known)


def test_every_setting_stands_in_the_configuration_page():
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(set(settings.Settings._fields) - {"dsn"})


def test_the_defaults_in_the_configuration_page_are_the_defaults():
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE)
    environ = {f"HPCTRACK_{name.upper()}": default for name, default in told}
    read, defaults = (settings.load(environ=given, config_path=os.devnull) for given in (environ, {}))
    assert read == defaults


def test_the_page_about_json_names_every_field_of_a_run():
    text = (DOCS / "json.md").read_text(encoding="utf-8")
    lists = text.partition("Each run:")[2].partition("\n## ")[0]
    whole = text.partition("## `hpctrack show RUN --json`")[2].partition("\n## ")[0]
    for part, is_whole in ((lists, False), (whole, True)):
        rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
        named = {name for row in rows for name in _INLINE_CODE.findall(row)}
        keys = {field.json for field in fields.FIELDS if field.json and field.whole is is_whole}
        assert named >= keys if is_whole else named == keys


def _commands(name: str) -> dict[str, click.Command]:
    command = group.cli.get_command(click.Context(group.cli), name)
    assert command is not None
    if not isinstance(command, click.Group):
        return {name: command}
    return {f"{name} {sub}": found for sub, found in command.commands.items()}


def test_what_json_prints_is_described_of_every_command_that_has_it():
    text = (DOCS / "json.md").read_text(encoding="utf-8")
    described = re.findall(r"^## `hpctrack ([a-z]+(?: [a-z]+)?)\b.*--json`$", text, re.MULTILINE)
    commands = {name: command for verb in table_of_verbs.VERBS for name, command in _commands(verb).items()}
    having = [name for name, command in commands.items() if any(p.name == "as_json" for p in command.params)]
    assert sorted(described) == sorted(having)
