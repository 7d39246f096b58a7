"""A login node for hpctrack sbatch: a fake sbatch, scontrol and squeue on PATH."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg

from hpctrack import settings as configuration
from hpctrack.stream.wire import records
from tests.support.paths import DATA, ROOT

MAIN = "from hpctrack.cli.main import main; main()"
SECRET = "s3cr3t-Value-42"

PROGRAMS = {
    # Notes down what it got, says what FAKE_STDOUT says, waits for FAKE_UNTIL, and ends with FAKE_EXIT.
    "sbatch": r"""
        case $1 in --help) echo x >> "$FAKE/helps"; cat "$FAKE/help"; exit 0 ;; esac
        for word; do printf '%s\0' "$word"; done > "$FAKE/argv"
        [ -n "$FAKE_BRIEF" ] || env -0 > "$FAKE/environ"
        for word; do
            case $word in */hpctrack-*/*) cp "$word" "$FAKE/script"; printf %s "$word" > "$FAKE/path" ;; esac
        done
        trap 'echo got TERM >&2; exit 42' TERM
        [ -z "$FAKE_STDERR" ] || echo "$FAKE_STDERR" >&2
        printf %b "$FAKE_STDOUT"
        [ -z "$FAKE_SECONDS" ] || sleep "$FAKE_SECONDS"
        [ -z "$FAKE_UNTIL" ] || while [ ! -e "$FAKE_UNTIL" ]; do sleep 0.05; done
        [ -z "$FAKE_SIGNAL" ] || kill -s "$FAKE_SIGNAL" $$
        exit "${FAKE_EXIT:-0}"
    """,
    "scontrol": r"""
        echo x >> "$FAKE/scontrols"
        [ -z "$FAKE_NO_SCONTROL" ] || { echo "slurm_load_ctl_conf error: Unable to contact" >&2; exit 1; }
        printf 'Configuration data\nClusterName             = fake\nX = 1\n'
    """,
    "squeue": r"""
        echo "$*" >> "$FAKE/squeues"
        printf '7 /elsewhere/train.sh\n'
        printf "$FAKE_SQUEUE" "$(cat "$FAKE/path")" "$(cat "$FAKE/path")"
    """,
}


class Site:
    """A host with a fake Slurm, and what its sbatch was given."""

    def __init__(self, folder, database=None):
        self.folder = folder
        self.fake = folder / "fake"
        self.work = folder / "work"
        self.scratch = folder / "scratch"
        for path in (self.fake, self.work, self.scratch, folder / "bin"):
            path.mkdir()
        (self.fake / "help").write_text((DATA / "sbatch-help-22.05.txt").read_text())
        for name, text in PROGRAMS.items():
            program = folder / "bin" / name
            program.write_text(
                "#!/bin/bash -p\n" + textwrap.dedent(text)
            )  # as `sh` may not, it keeps any variable
            program.chmod(0o755)
        self.settings = database or configuration.Settings(dsn={"host": "127.0.0.1", "port": "1"})
        self.settings = self.settings._replace(data_dir=str(folder / "data"))
        self.environ = {
            "PATH": f"{folder}/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "FAKE": str(self.fake),
            "TMPDIR": str(self.scratch),
            "PYTHONPATH": str(ROOT),
            "FAKE_STDOUT": "Submitted batch job 14\n",
            "HPCTRACK_DATA_DIR": self.settings.data_dir,
            "HPCTRACK_NODE_DIR": str(self.scratch),
            **{f"HPCTRACK_DSN_{name.upper()}": value for name, value in self.settings.dsn.items()},
        }

    def start(self, *argv, verb="sbatch", environ=None, **options):
        merged = {**self.environ, **(environ or {})}
        environ = {name: value for name, value in merged.items() if value is not None}
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, verb, *map(str, argv)],
            env=environ,
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "cwd": self.work,
                **options,
            },
        )

    def sbatch(self, *argv, environ=None, given=None, **options):
        """Run hpctrack sbatch, or another verb; return (exit code, stdout, stderr)."""
        if given is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*argv, environ=environ, **options) as process:
            stdout, stderr = process.communicate(given, timeout=60)
        return process.returncode, stdout.decode(), stderr.decode()

    def script(self, text="#!/bin/bash\necho\n", name="train.sh"):
        path = self.work / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    @property
    def argv(self):
        return (self.fake / "argv").read_text().split("\0")[:-1]

    @property
    def submitted(self):
        return (self.fake / "script").read_bytes()

    @property
    def seen(self):
        """The environment of the real sbatch, but for what the shell of the fake one adds."""
        lines = (self.fake / "environ").read_bytes().split(b"\0")[:-1]
        seen = dict(os.fsdecode(line).split("=", 1) for line in lines)
        return {name: value for name, value in seen.items() if name not in ("PWD", "OLDPWD", "SHLVL", "_")}

    def record(self, job_id=14, cluster="fake"):
        return records.find(self.settings.spool, cluster, job_id)

    def waiting(self):
        return [Path(path).name for path in records.unregistered(self.settings.spool)]

    def query(self, statement):
        with psycopg.connect(**self.settings.dsn) as connection:
            connection.execute("SET search_path = hpctrack")
            return connection.execute(statement).fetchall()

    def calls(self, name):
        path = self.fake / name
        return path.read_text().splitlines() if path.exists() else []
