"""Who may import whom (docs/architecture.md), and how little is loaded where that matters."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "hpctrack"
FILES = sorted(PACKAGE.rglob("*.py"))

#: Libraries that only one part may import.
OWNERS = {
    "click": ("cli",),
    "rich": ("cli",),
    "plotext": ("cli",),
    "matplotlib": ("cli.terminal.chart_files",),
    "plotly": ("cli.terminal.chart_files",),
    "psycopg": ("store",),
    "cryptography": ("store.embedded.encryption",),
    "pyslurm": ("slurm",),
    "psutil": ("stream.node.usage", "stream.collector"),
    "pandas": ("api",),
    "pyarrow": ("api",),
}
#: The floors of the house: a part imports what stands on the lines before its own, and itself.
ORDER = """
errors
account backoff limits model resources script text
files
stream.wire
settings process git
run
stream.disk
slurm store stream.node
slurm.sbatch reconcile view
api stream.collector
web integrations
cli.terminal
cli
"""
#: The same inside the store.
STORE = """
embedded statements throttle values
lock_holders schema.sqlfile
schema.migrate
database
rows session refusals psql schema.setup
locked schema metrics
ingest read
write
"""
#: A part that is pure but for one module, which alone imports what stands for the world outside.
RIMS = {("reconcile", "store"): "reconcile.passes", ("reconcile", "slurm"): "reconcile.passes"}
FLOORS = {part: floor for floor, line in enumerate(ORDER.strip().split("\n")) for part in line.split()}
WINGS = {
    f"store.{wing}": floor for floor, line in enumerate(STORE.strip().split("\n")) for wing in line.split()
}
#: What the wheel of hpctrack-script has: all that a script loads that logs, and no more.
[_EXCLUDED] = re.findall(
    r"^exclude = \[(.*?)\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.DOTALL | re.MULTILINE
)
SCRIPT_WHEEL = [name for name in re.findall(r'"/hpctrack/(.*?)"', _EXCLUDED) if name.endswith(".py")]
#: Loaded by the user's Python, which may be old.
SCRIPT_SIDE = (*SCRIPT_WHEEL, "files.py", "resources.py", "importable/hpctrack/__init__.py")
#: ``usage`` looks for psutil in the interpreter's environment.
MAY_NAME_AN_INTERPRETER = ("process.children", "stream.node.usage")


def is_in(name: str, parts) -> bool:
    """Whether a module is one of these parts or inside one."""
    return any(name == part or name.startswith(part + ".") for part in parts)


def name_of(path: Path) -> str:
    """Return a module's name inside hpctrack; the package itself is ``""``."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> set[str]:
    """Return everything that a module imports when it runs, late imports included, as dotted names."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return names


def starts_processes(source: str) -> bool:
    """Whether a module calls what starts a process; types and constants of subprocess are for everyone."""
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    starters = [f"subprocess.{name}" for name in ("Popen", "run", "call", "check_call", "check_output")]
    return not calls.isdisjoint([*starters, "Popen", "os.system", "os.popen", "os.posix_spawn", "os.execvp"])


def names_an_interpreter(source: str) -> list[str]:
    """Return in which lines a module says how Python is to be started, or by what it starts it."""
    told = {"sys.executable", "sys._base_executable", "sys.prefix", "sys.base_prefix", "sys.exec_prefix"}
    nodes = list(ast.walk(ast.parse(source)))
    lines = [node.lineno for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node) in told]
    lines += [node.lineno for node in nodes if isinstance(node, ast.List) and _starts_python(node)]
    starters = ("runpy", "multiprocessing", "concurrent.futures.ProcessPoolExecutor", "venv", "ensurepip")
    return [*map(str, lines), *(name for name in imports(source) if is_in(name, starters))]


def _starts_python(words: ast.List) -> bool:
    texts = [word.value for word in words.elts if isinstance(word, ast.Constant)]
    texts = [text for text in texts if isinstance(text, str)]
    return "-m" in texts or bool(texts and re.fullmatch(r"(.*/)?python[\d.]*", texts[0]))


def scattered_imports(source: str) -> list[int]:
    """Return the lines of imports that stand in a function, but not before its other statements.

    An import in a ``try`` that begins the function, for what may be missing, stands before them, too.
    """
    inside, first = set(), set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside |= {node.lineno for node in ast.walk(function) if isinstance(node, _IMPORTS)}
            body = function.body[ast.get_docstring(function) is not None :]
            if body and isinstance(body[0], ast.Try):
                body = body[0].body
            first |= {
                node.lineno for node in itertools.takewhile(lambda node: isinstance(node, _IMPORTS), body)
            }
    return sorted(inside - first)


def modules(names: set[str], known: frozenset[str]) -> set[str]:
    """Return which modules of hpctrack are meant: ``hpctrack.errors.UsageError`` means ``errors``."""
    inside = (name.removeprefix("hpctrack").lstrip(".") for name in names if is_in(name, ["hpctrack"]))
    return {
        max(
            (module for module in known if name == module or name.startswith(module + ".")),
            key=len,
            default="",
        )
        for name in inside
    }


KNOWN = frozenset(map(name_of, FILES)) - {""}
_IMPORTS = (ast.Import, ast.ImportFrom)
#: What is started or imported from outside stands on no floor.
ENTRANCES = ("", "__main__", "stream", "stream.__main__", "importable.hpctrack")
#: Started by thousands of nodes at once, from a network file system: standard library, and one another.
NODE_SIDE = (
    "account",
    "errors",
    "resources",
    "script",
    "text",
    "files",
    "settings",
    "process",
    "stream",
)


def part_of(module: str, floors: dict[str, int] = FLOORS) -> str:
    """Return the part that a module belongs to."""
    return max((part for part in floors if is_in(module, [part])), key=len, default=module)


def above(module: str, ours: set[str], floors: dict[str, int]) -> list[str]:
    """Return what a module imports although it stands above it, or beside it."""
    here = part_of(module, floors)
    assert here in floors, f"{module} has no place in the order"
    parts = {part_of(name, floors) for name in ours} - {here}
    return [
        f"{here} stands below {part}, or beside it" for part in sorted(parts) if floors[part] >= floors[here]
    ]


def is_on_nodes(module: str) -> bool:
    """Whether compute nodes load it."""
    return module == "" or (is_in(module, NODE_SIDE) and not is_in(module, ["stream.collector"]))


def violations(module: str, source: str, known: frozenset[str] = KNOWN) -> list[str]:
    """Return what a module's imports break, in words."""
    names = imports(source)
    ours = modules(names, known) - {"", module}
    foreign = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"hpctrack"}
    return [
        *_of_libraries(module, foreign),
        *_of_floors(module, ours),
        *_of_nodes(module, ours, foreign),
        *_of_processes(module, source),
    ]


def _of_libraries(module: str, foreign: set[str]) -> Iterator[str]:
    for library, owners in OWNERS.items():
        if library in foreign and not is_in(module, owners):
            yield f"only {', '.join(owners)} may import {library}"


def _of_floors(module: str, ours: set[str]) -> Iterator[str]:
    if module not in ENTRANCES:
        yield from above(module, ours, FLOORS)
        rims = {RIMS.get((part_of(module), part_of(name)), module) for name in ours} - {module}
        yield from (f"only {rim} may import that" for rim in sorted(rims))
    if module.startswith("store."):
        yield from above(module, {name for name in ours if name.startswith("store.")}, WINGS)


def _of_nodes(module: str, ours: set[str], foreign: set[str]) -> Iterator[str]:
    if is_on_nodes(module):
        elsewhere = {name for name in ours if not is_on_nodes(name)} | (foreign - {"psutil"})
        yield from (f"the node side may not import {name}" for name in sorted(elsewhere))


def _of_processes(module: str, source: str) -> Iterator[str]:
    if is_in(module, ["slurm"]) and module != "slurm.command" and starts_processes(source):
        yield "only slurm.command starts Slurm's commands"
    if module not in MAY_NAME_AN_INTERPRETER and (places := names_an_interpreter(source)):
        yield f"only process.children says how Python is started: {', '.join(places)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_it_may(path):
    assert violations(name_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_late_import_stands_first_in_the_function_that_needs_it(path):
    assert scattered_imports(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "body",
    [
        "x = 1\n    import json",
        "if x:\n        import json",
        "import re\n    x = 1\n    import json",
        "try:\n        x = 1\n        import json\n    finally:\n        pass",
        "with x:\n        import json",
        "def inside():\n        x = 1\n        import json",
    ],
)
def test_a_scattered_import_is_noticed(body):
    assert len(scattered_imports(f"def function(x):\n    'About it.'\n    {body}\n")) == 1


@pytest.mark.parametrize(
    "body",
    [
        "import json, re\n    x = 1",
        "try:\n        import json\n    except ImportError:\n        x = 1",
        "return x",
    ],
)
def test_a_late_import_that_stands_first_is_not_complained_about(body):
    assert scattered_imports(f"import os\n\ndef function(x):\n    'About it.'\n    {body}\n") == []


@pytest.mark.parametrize("name", SCRIPT_SIDE)
def test_the_script_side_is_python_3_8(name):
    ast.parse((PACKAGE / name).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_newer_syntax_is_noticed():
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n    case 1: pass", feature_version=(3, 8))


BAD = {
    "stream.node.relay": "import psycopg",
    "api": "import click",
    "store.read.queries": "from rich.text import Text",
    "slurm.parse": "import subprocess\nsubprocess.run(['squeue'])",
    "stream.node.window": "import numpy",
    "stream.wire.journal": "def late():\n    from hpctrack.stream.collector import arrays",
    "stream.wire.records": "from hpctrack.stream.node import outbox",
    "errors": "from hpctrack import settings",
    "model": "from hpctrack.run import runids",
    "": "import click",
    "store.write.reconciled": "from hpctrack.slurm import parse",
    "store.metrics.curves": "from hpctrack.store.read import queries",
    "store.database": "def late():\n    from hpctrack.store import locked",
    "slurm.native": "from hpctrack.store.database import connect",
    "store.ingest.ingestion": "from hpctrack.stream.node.relay import Relay",
    "reconcile.plan": "from hpctrack.store.read import queries",
    "slurm.site": "from hpctrack.slurm.sbatch import options",
    "reconcile.inquiry": "from hpctrack.store.write import reconciled",
    "settings": "from hpctrack.cli.main import main",
    "stream.node.supervisor": "if True:\n    import hpctrack.slurm.command",
    "text.secret_patterns": "try:\n    import re2\nexcept ImportError:\n    pass",
    "run.states": "from hpctrack.store import database",
    "api.client": "from hpctrack.stream.collector import launch",
    "view.story": "from rich.text import Text",
    "view.question": "import click",
    "cli.terminal.table": "from hpctrack.cli import sessions",
    "cli.verbs.run": "import sys\nargv = [sys.executable, '-c', 'pass']",
    "cli.doctor.trial": "argv = ['/usr/bin/python3', '-c', 'pass']",
    "cli.verbs.sync": "def argv(python): return [python, '-m', 'hpctrack']",
    "stream.collector.launch": "from concurrent.futures import ProcessPoolExecutor",
    "cli.verbs.doctor": "import multiprocessing",
}


@pytest.mark.parametrize(("module", "source"), BAD.items(), ids=BAD)
def test_a_violation_is_found(module, source):
    assert violations(module, source, KNOWN) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("api", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import psycopg, click"),
        ("reconcile.passes", "from hpctrack.store.read import queries\nfrom hpctrack.run import states"),
        ("stream.collector", "from hpctrack import store\nfrom hpctrack.stream.wire import datagrams"),
        ("store.ingest.ingestion", "import numpy, psycopg\nfrom hpctrack.stream.wire import journal"),
        ("stream.node.usage", "def sample():\n    import psutil"),
        ("slurm.submit", "import subprocess\nPIPE = subprocess.PIPE"),
        ("cli.status", "import click, rich\nfrom hpctrack.store.read import queries"),
    ],
)
def test_what_is_allowed_is_not_complained_about(module, source):
    assert violations(module, source) == []


def test_a_relative_import_is_refused():
    with pytest.raises(AssertionError, match="relative"):
        imports("from . import wire")


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement loads into a fresh interpreter, as it is started on a node."""
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, *{sys.path!r}]; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return set(run.stderr.split())


def test_import_hpctrack_loads_the_standard_library_only():
    loaded = {name.partition(".")[0] for name in loaded_by("import hpctrack")}
    assert loaded == {"hpctrack"}


def test_a_script_that_imports_all_names_gets_those_of_the_script_side():
    loaded = loaded_by("from hpctrack import *; log")
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"hpctrack"}
    assert "hpctrack.api" not in loaded


def test_the_api_loads_pandas_and_pyarrow_when_they_are_used():
    assert not loaded_by("from hpctrack import Client") & {"pandas", "pyarrow", "click", "rich"}


def test_names_of_columns_are_completed_without_psycopg():
    loaded = loaded_by("from hpctrack.view import columns; columns.names()")
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"hpctrack"}


def test_the_first_log_loads_nothing_large():
    loaded = loaded_by("import hpctrack; hpctrack.log(step=1, loss=0.5)")
    assert "hpctrack.script.writer" in loaded
    assert not loaded & {"re", "json", "typing", "contextlib", "functools", "enum", "importlib", "threading"}


def test_a_script_loads_what_the_wheel_for_scripts_has():
    """`outlast` takes them out of `sys.modules`, hence in the midst of it."""
    calls = "hpctrack.set_args(a=1); hpctrack.set_tags('b'); hpctrack.goal('a', 'max')"
    calls += "; hpctrack.log(step=1, loss=0.5)"
    statement = f"import hpctrack, hpctrack.script.outlast; {calls}"
    loaded = {name for name in loaded_by(statement) if is_in(name, ["hpctrack"])}
    assert loaded == {f"hpctrack.{name_of(PACKAGE / name)}".rstrip(".") for name in SCRIPT_WHEEL}


def test_a_relay_loads_little():
    """Each module is a file more that thousands of nodes open at once."""
    loaded = loaded_by("from hpctrack.stream.node import relay, supervisor")
    ours = {name for name in loaded if is_in(name, ["hpctrack"])}
    assert len(ours) <= 47
    assert not ours & {
        "hpctrack.script.calls",
        "hpctrack.script.writer",
        "hpctrack.settings",
        "hpctrack.model",
    }


def test_help_loads_hardly_anything():
    loaded = loaded_by("from hpctrack.cli.main import run; run(['--help'])")
    ours = {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names}
    assert ours == {"hpctrack", "hpctrack.cli", "hpctrack.cli.main", "hpctrack.cli.table_of_verbs"}
    assert not loaded & {"re", "typing", "contextlib", "functools", "enum", "importlib", "logging"}


def test_a_verbs_help_loads_click_and_nothing_else_of_others():
    statement = "from hpctrack.cli.main import run; run(['templates', '--help'])"
    loaded = {name.partition(".")[0] for name in loaded_by(statement)}
    assert {name for name in loaded - sys.stdlib_module_names if not name.startswith("_")} == {
        "hpctrack",
        "click",
    }
