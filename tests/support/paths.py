"""Where the repository is, and what tests read from it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: Recordings, lists and small programs in C.
DATA = ROOT / "tests" / "data"
#: Statements that fill the small site of docs/sql.md.
SAMPLE = DATA / "sample.sql"
