"""What verbs are tried with, by tests that try every verb."""

from __future__ import annotations

#: Arguments with which a verb does its work; a verb that is not here needs none.
EXAMPLES = {
    "rerun": ["r1"], "cancel": ["r1"], "show": ["r1"], "metrics": ["r1"], "export": ["r1", "-o", "x.csv"],
    "plot": ["r1"], "logs": ["r1"], "compare": ["r1", "r2"], "tag": ["r1", "a"], "untag": ["r1", "a"],
    "note": ["r1", "a"], "link": ["r1", "continues", "r2"], "archive": ["r1"], "unarchive": ["r1"],
    "share": ["r1"], "unshare": ["r1"],
    "experiment": ["list"], "delete": ["--yes", "r1"],
    "prune": ["--yes", "--older-than", "1d"],
}  # fmt: skip
#: They need no configuration, or tell of a bad one in a table.
WITHOUT_CONFIGURATION = {"templates", "completion", "doctor"}
