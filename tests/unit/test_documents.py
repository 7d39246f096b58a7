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
IMPORT_RULES = ROOT / "tests" / "unit" / "test_imports.py"
PACKAGE = ROOT / "hpctrack"
DEVELOPER_PAGES = ("CONTRIBUTING.md", "docs/architecture.md", "tests/README.md", "benchmarks/README.md")
PAGES = sorted({*DEVELOPER_PAGES, "README.md", *(f"docs/{path.name}" for path in DOCS.glob("*.md"))})
_INLINE_CODE = re.compile(r"`([^`]+)`")
#: A dotted name that is a file's.
_FILE = r".*\.(?:conf|json|log|md|py|sql|toml)"


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


def _text(page: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(
        r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def _quoted(page: str, pattern: str) -> list[str]:
    return [name for name in _INLINE_CODE.findall(_text(page)) if re.fullmatch(pattern, name)]


def _is_there(path: str, folder: Path) -> bool:
    """Whether the repository has a path; ``folder``: the page's. Modules need no ``.py``."""
    return any((place / f"{path}{end}").exists() for place in (ROOT, folder, PACKAGE) for end in ("", ".py"))


@pytest.mark.parametrize("page", PAGES)
def test_the_paths_that_pages_name_exist(page):
    """A relative path is the repository's; one of a run is written with its folder: `<spool>/refused/`."""
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", _text(page))
    paths = _quoted(page, r"\w[\w.-]*/[\w./-]*")
    assert [link for link in links if not (folder / link).exists()] == []
    assert [path for path in paths if not _is_there(path, folder)] == []


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_headings_that_exist():
    links = [
        (page, ROOT / page if not target else (ROOT / page).parent / target, anchor)
        for page in PAGES
        for target, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", _text(page))
    ]
    assert len(links) > 3
    assert [(page, anchor) for page, target, anchor in links if anchor not in _anchors(target)] == []


def _is_defined(name: str) -> bool:
    """Whether a dotted name is a module's, or of something in one; True for names of no module of ours."""
    *parts, last = name.split(".")
    if _is_there("/".join((*parts, last)), PACKAGE):
        return True
    modules = list(PACKAGE.rglob(f"{parts[-1]}.py"))
    defined = re.compile(rf"^(?:(?:def|class) {last}\b|{last}\b.*=)", re.MULTILINE)
    return not modules or any(defined.search(path.read_text(encoding="utf-8")) for path in modules)


@pytest.mark.parametrize("page", DEVELOPER_PAGES)
def test_the_dotted_names_in_pages_for_developers_exist(page):
    names = _quoted(page, rf"(?!{_FILE}$)[a-z_]+(?:\.\w+)+")
    assert [name for name in names if not _is_defined(name)] == []


def test_the_targets_of_make_that_pages_name_exist():
    pages = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    targets = set(re.findall(r"(?:^    |`)make ([a-z-]+)", pages, re.MULTILINE))
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(targets) > 10
    assert targets <= set(known)


def test_the_order_of_imports_in_the_page_is_the_one_that_is_checked():
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    orders = re.findall(
        r"^```\n(.*?)^```", page.partition("## Who may import whom")[2], re.DOTALL | re.MULTILINE
    )
    checked = re.findall(
        r'^(?:ORDER|STORE) = """\n(.*?)^"""',
        IMPORT_RULES.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    for told, held in zip(orders, checked, strict=True):
        assert [set(re.findall(r"[\w.]+", floor)) for floor in told.split("<")] == [
            set(floor.split()) for floor in held.splitlines()
        ]


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
    return {f"{name} {sub}": nested for sub, nested in command.commands.items()}


def test_what_json_prints_is_described_of_every_command_that_has_it():
    text = (DOCS / "json.md").read_text(encoding="utf-8")
    described = re.findall(r"^## `hpctrack ([a-z]+(?: [a-z]+)?)\b.*--json`$", text, re.MULTILINE)
    commands = {name: command for verb in table_of_verbs.VERBS for name, command in _commands(verb).items()}
    having = [name for name, command in commands.items() if any(p.name == "as_json" for p in command.params)]
    assert sorted(described) == sorted(having)
