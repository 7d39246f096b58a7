"""Slurm's books: what sacct says of jobs, to be compared row by row."""

from __future__ import annotations

from typing import Any

FIELDS = "JobID,JobIDRaw,State,ExitCode,Submit,Start,End,NodeList"
#: And what the run has of it; jobs' names must hold no newline.
MORE = FIELDS + ",ElapsedRaw,TimelimitRaw,Partition,JobName"


def options(fields: str) -> tuple[str, ...]:
    """Return options for one record per execution."""
    return "-n", "-P", "-D", "-X", "-o", fields


OPTIONS = options(FIELDS)


def read(text: str, fields: str = FIELDS) -> list[dict[str, str]]:
    """Read what sacct printed with `options`, times as seconds since the epoch."""
    rows = [dict(zip(fields.split(","), line.split("|"), strict=True)) for line in text.splitlines()]
    # A start that Slurm took back, since not all components of a het job could start, stays so.
    return [row for row in rows if row["State"] != "PENDING" or row["End"] == "Unknown"]


def whole(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Join the rows of each execution in which the job changed its size: each but the last says RESIZING."""
    joined, begun = [], {}
    for row in sorted(rows, key=lambda row: int(row["Submit"])):
        first = begun.setdefault(row["JobIDRaw"], row)
        if row["State"] != "RESIZING":
            joined.append({**row, "Submit": first["Submit"], "Start": first["Start"]})
            del begun[row["JobIDRaw"]]
    return joined


def is_of(row: dict[str, str], job: int, task: int) -> bool:
    """Whether a row is about this task of a job, or -1 for a job without tasks."""
    if task < 0:
        return row["JobIDRaw"] == str(job)
    array, bracket, listed = row["JobID"].partition("_[")
    folded = bracket and array == str(job)
    return row["JobID"] == f"{job}_{task}" or bool(folded and str(task) in _numbers(listed))


def _numbers(listed: str) -> set[str]:
    numbers: set[str] = set()
    for item in listed.rstrip("]").partition("%")[0].split(","):
        first, _, last = item.partition("-")
        numbers |= {str(number) for number in range(int(first), int(last or first) + 1)}
    return numbers


def assert_equal(row: dict[str, str], attempt: dict[str, Any]) -> None:
    """Compare one execution in accounting with the attempt in PostgreSQL."""
    started = row["Start"]
    told = {
        "State": row["State"].split()[0],
        "ExitCode": row["ExitCode"],
        "Submit": int(row["Submit"]),
        "End": int(row["End"]),
        "NodeList": None if row["NodeList"] == "None assigned" else row["NodeList"],
    }
    known = {
        "State": attempt["status"],
        "ExitCode": f"{attempt['slurm_exit_code']}:{attempt['slurm_exit_signal']}",
        "Submit": attempt["time_submitted"].timestamp(),
        "End": attempt["time_ended"].timestamp(),
        "NodeList": attempt["node_list"],
    }
    # Slurm wipes the start of an execution that it requeues; that of its steps remains.
    if told["NodeList"] is None:
        told["Start"], known["Start"] = None, attempt["time_started"]
    elif started != "None":
        told["Start"], known["Start"] = int(started), attempt["time_started"].timestamp()
    assert told == known, f"sacct: {row}; PostgreSQL: {attempt}"
