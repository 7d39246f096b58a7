#!/usr/bin/env python3
"""Run the commands of a Markdown page for real, and write what they say into it.

    scripts/tour.py docs/tour.md        (make tour)

Commands are the lines that begin with ``$ `` in blocks marked ``console``; all run in one shell, in a home of
their own. What stands below a command is replaced by what it says now, but for names of this machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
_END = "-- the command has ended: "
_COLUMNS = 116


class Shell:
    """One bash that runs command after command, as a user types them."""

    def __init__(self, home: Path) -> None:
        self._home = home
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HPCTRACK_")},
            "HOME": str(home), "COLUMNS": str(_COLUMNS), "LC_ALL": "C.UTF-8", "TZ": "UTC",
            "HPCTRACK_EMBEDDED_LISTEN": "127.0.0.1", "HPCTRACK_COLLECTOR_BIND": "127.0.0.1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "--norc"], cwd=home, env=environ, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command: str) -> Iterator[str]:
        """Run one command and yield its lines; a last one tells an exit code that is not 0."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{{ {command}\n}} < /dev/null; code=$?; echo; echo '{_END}'$code\n")
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            if line.startswith(_END):
                code = line.removeprefix(_END).strip()
                yield from lines[:-1] if lines and not lines[-1] else lines
                if code != "0":
                    yield f"(exit code {code})"
                return
            lines.append(self._clean(line.rstrip()))
        sys.exit(f"the shell ended in: {command}")

    def _clean(self, line: str) -> str:
        """Leave out what is this machine's own."""
        line = line.replace(str(self._home), "/home/alice").replace(str(ROOT), "/home/alice/hpctrack")
        return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "login1", line)

    def end(self) -> None:
        """End it, and the collector that it left; PostgreSQL ends with that."""
        for _ in self.run('kill "$(cut -d" " -f2 ~/.local/share/hpctrack/collector.lock)"'):
            pass
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def refreshed(text: str, shell: Shell) -> str:
    """Return the page with what its commands say now."""

    def block(found: re.Match[str]) -> str:
        commands = [line[2:] for line in found[0].splitlines() if line.startswith("$ ")]
        return "\n".join(_told(shell, command) for command in commands)

    return _BLOCK.sub(block, text)


def _told(shell: Shell, command: str) -> str:
    print(f"$ {command}", flush=True)
    lines = list(shell.run(command))
    return "".join(f"{line}\n" for line in (f"$ {command}", *lines))


def main() -> None:
    """Refresh a page."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page.resolve()
    home = Path(tempfile.mkdtemp(prefix="hpctrack-tour-", dir="/var/tmp"))
    shell = Shell(home)
    try:
        shutil.copytree(ROOT / "examples" / "digits", home / "digits")
        page.write_text(refreshed(page.read_text(), shell))
    finally:
        shell.end()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
