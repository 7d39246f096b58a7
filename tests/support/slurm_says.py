"""Executable stand-ins for squeue and sacct, and what they print."""

from __future__ import annotations

import json
import os
import stat
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from hpctrack.slurm import accounting

T0 = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(minutes=10)
#: Prints what the test wrote into a file, in the fields and with the delimiter asked for, and notes the call.
FAKE = """\
#!{python} -IS
import json, os, sys
folder = os.path.dirname(os.path.abspath(__file__))
name = os.path.basename(__file__)
argv = sys.argv[1:]
with open(folder + "/calls", "a") as file:
    print(json.dumps([name, argv, dict(os.environ)]), file=file)
answer = json.load(open(f"{folder}/{name}.json"))
if answer.get("sleep"):
    import time
    time.sleep(answer["sleep"])
if answer.get("stderr"):
    sys.stderr.write(answer["stderr"])
if "--version" in argv:
    print(answer.get("version", "slurm-wlm 22.05.8"))
    sys.exit()
if "--helpformat" in argv:
    print(answer["helpformat"])
    sys.exit()
if answer.get("raw") is not None:
    sys.stdout.write(answer["raw"])
elif name == "squeue":
    fields = [field.split(":", 1) for field in argv[argv.index("-O") + 1].split(",")]
    for line in answer["lines"]:
        sys.stdout.write("".join(line.get(name, "N/A") + end for name, end in fields) + "\\n")
else:
    [end] = [option.partition("=")[2] for option in argv if option.startswith("--delimiter=")]
    jobs = argv[argv.index("-j") + 1].split(",")
    for line in answer["lines"]:
        if {line["JobID"], line["JobID"].partition("_")[0]} & set(jobs):
            names = argv[argv.index("-o") + 1].split(",")
            sys.stdout.write("".join(line.get(name, "") + end for name in names) + "\\n")
sys.exit(answer.get("exit", 0))
"""
HELP = "JobID JobIDRaw State Submit Start End User NodeList ExitCode Cluster JobName Partition"


def epoch(seconds):
    return str(int((T0 + timedelta(seconds=seconds)).timestamp()))


class Slurm:
    """Stand-ins for squeue and sacct on a PATH of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("squeue", "sacct"):
            path = folder / name
            path.write_text(FAKE.replace("{python}", sys.executable))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.says("squeue")
        self.says("sacct")

    def says(self, name, *lines, **answer):
        (self.folder / f"{name}.json").write_text(json.dumps({"lines": lines, "helpformat": HELP, **answer}))

    @property
    def environ(self):
        return {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}

    def calls(self, name=None):
        """Return what the command (or any) was asked about jobs, and forget it."""
        path = self.folder / "calls"
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        asked = [call for call in calls if not {"--helpformat", "--version"} & set(call[1])]
        return [call for call in asked if call[0] == (name or call[0])]

    def backend(self, **options):
        return accounting.CommandLine("mini", self.environ, **options)


def line(job, state="RUNNING", **fields):
    started = {"StartTime": epoch(5), "NodeList": "n1"} if state == "RUNNING" else {}
    return {
        "JobID": str(job), "JobArrayID": str(job), "State": state, "RestartCnt": "0", "SubmitTime": epoch(0),
        "UserName": "alice", "Reason": "None", "Name": "train", "Partition": "main", **started, **fields,
    }  # fmt: skip


def row(job, state="COMPLETED", **fields):
    return {
        "JobID": str(job), "JobIDRaw": str(job), "State": state, "Submit": epoch(0), "Start": epoch(5),
        "End": epoch(50), "User": "alice", "NodeList": "n1", "ExitCode": "0:0", "Cluster": "mini",
        "Partition": "main", **fields,
    }  # fmt: skip
