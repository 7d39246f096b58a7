"""An installation at work: a home, a folder to stand in, and a fake Slurm that notes what it was given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support import installations

#: Tells what it was given, and does as sbatch does.
SBATCH = """\
#!/bin/bash -p
[ "$*" != --help ] || exit 0
echo x >> "$FAKE/calls"
printf '%s\\0' "$@" > "$FAKE/argv"
cat /proc/$$/environ > "$FAKE/environ"
for word; do [ ! -f "$word" ] || cp "$word" "$FAKE/script"; done
[ $# -gt 0 ] && [ "${!#}" != - ] || cat > "$FAKE/stdin"
case " $* " in *" --parsable "*) echo 14 ;; *) echo "Submitted batch job 14" ;; esac
echo "sbatch says this" >&2
exit "${FAKE_EXIT:-0}"
"""
SCONTROL = """\
#!/bin/sh
case "$*" in *version*) echo slurm-wlm 25.11.7 ;; *) echo "ClusterName = fake" ;; esac
"""


class Place:
    """An installation at work: a home, a folder to stand in, a fake Slurm."""

    def __init__(self, installation: installations.Installation, folder: Path) -> None:
        self.installation = installation
        self.fake = folder / "fake"
        self.home = folder / "home"
        self.work = folder / "work"
        for path in (self.fake, self.home, self.work, folder / "bin"):
            path.mkdir()
        for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        for name in ("squeue", "sacct"):
            (folder / "bin" / name).write_text("#!/bin/sh\n")
            (folder / "bin" / name).chmod(0o755)
        self.environ = {
            "PATH": f"{folder}/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "FAKE": str(self.fake),
            "HPCTRACK_DATA_DIR": str(self.home / "data"),
            "HPCTRACK_DSN_HOST": "127.0.0.1",
            "HPCTRACK_DSN_PORT": "1",
            **installation.environ,
        }

    def run(self, *argv, command=None, environ=None, **options) -> subprocess.CompletedProcess[str]:
        """Run hpctrack, or something else, to its end."""
        return subprocess.run(
            [command or self.installation.command, *argv],
            env={**self.environ, **(environ or {})},
            check=False,
            timeout=120,
            **{
                "cwd": self.work,
                "capture_output": True,
                "text": True,
                "stdin": subprocess.DEVNULL,
                **options,
            },
        )

    def records(self) -> list[Path]:
        """The records of what was submitted, tracked."""
        return list((self.home / "data").glob("**/submissions/*.json"))

    def calls(self) -> int:
        """How often sbatch was called."""
        path = self.fake / "calls"
        return path.read_text().count("x") if path.exists() else 0

    @property
    def argv(self) -> list[str]:
        return os.fsdecode((self.fake / "argv").read_bytes()).split("\0")[:-1]

    @property
    def job_environ(self) -> dict[bytes, bytes]:
        entries = (self.fake / "environ").read_bytes().split(b"\0")
        return {name: value for name, equals, value in (entry.partition(b"=") for entry in entries) if equals}
