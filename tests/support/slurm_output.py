"""What squeue and sacct print, recorded or composed, and the facts that it is read as."""

from __future__ import annotations

from datetime import datetime, timezone

from hpctrack.slurm import parse
from tests.support.paths import DATA

RECORDINGS = DATA / "slurm-22.05.8"
RECORDED = "\x1f#\x1f"
DELIMITER = "\x1fd3adb33f\x1f"
NOW = datetime(2026, 11, 21, tzinfo=timezone.utc)
FIELDS = parse.sacct_fields((RECORDINGS / "sacct-helpformat.txt").read_text())
#: What squeue was asked for when it was recorded.
QUEUE_FIELDS = [field for field in parse.SQUEUE_FIELDS if field not in ("TimeUsed", "SLUID")]

QUEUED = {
    "JobID": "12", "JobArrayID": "12", "HetJobID": "N/A", "HetJobOffset": "N/A", "State": "RUNNING",
    "RestartCnt": "0", "SubmitTime": "1795223351", "StartTime": "1795223352", "EndTime": "N/A",
    "exit_code": "0", "UserName": "alice", "Partition": "main", "Account": "lab", "QOS": "normal",
    "TimeLimit": "1-02:03:04", "TimeUsed": "1-00:00:10", "BatchHost": "n1", "NodeList": "n[1-2]",
    "Reason": "None", "SLUID": "s955M8JB3T1200", "Name": "train",
}  # fmt: skip
ROW = {
    "JobID": "12", "JobIDRaw": "12", "Cluster": "mini", "State": "COMPLETED", "Submit": "1795223351",
    "Start": "1795223352", "End": "1795223362", "ExitCode": "0:0", "DerivedExitCode": "0:0",
    "User": "alice", "Partition": "main", "Account": "lab", "QOS": "normal", "TimelimitRaw": "60",
    "NodeList": "n1", "ElapsedRaw": "10", "TotalCPU": "00:01.500", "MaxRSS": "",
    "ReqTRES": "billing=1,cpu=1,mem=250M,node=1", "AllocTRES": "", "ConsumedEnergyRaw": "",
    "Restarts": "", "JobName": "train",
}  # fmt: skip


def at(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc)


def queue_text(*lines):
    records = [QUEUED | line for line in lines]
    return "".join("".join(record[f] + DELIMITER for f in parse.SQUEUE_FIELDS) + "\n" for record in records)


def queued(*lines):
    return parse.squeue(queue_text(*lines), DELIMITER, "mini", NOW)


def row_text(*rows):
    return "".join("".join((ROW | row)[f] + DELIMITER for f in FIELDS) + "\n" for row in rows)


def accounted(*rows):
    return parse.sacct(row_text(*rows), DELIMITER, FIELDS, NOW, {1000: "carol"}.get)


def recorded_rows():
    text = (RECORDINGS / "sacct.txt").read_text()
    return parse.sacct(text, RECORDED, FIELDS, NOW, lambda uid: f"user{uid}")
