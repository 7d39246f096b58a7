"""Jobs of several nodes: whose ranks log, and how what they say on other nodes reaches the run's one relay.

The mini cluster's nodes share one machine. What is local to a node is taken away from tasks on other nodes by
a mount namespace: they find an empty folder where the first node has its run folders, and share the home.
"""

from __future__ import annotations

import pytest

from tests.support.requirements import skip_or_fail

pytestmark = pytest.mark.cluster

STEPS = 20
#: Start a task as on a node with disks of its own.
ON_NODE = """\
#!/bin/bash
[ "$SLURMD_NODENAME" = "$FIRST_NODE" ] && exec "$@"
exec unshare --user --map-root-user --mount sh -euc '
    mount -t tmpfs -o mode=700 none "$1"
    [ ! -e "$HPCTRACK_RUN_DIR" ]
    shift
    exec "$@"' on-node "${HPCTRACK_RUN_DIR%/*}" "$@"
"""
WORK = f"""\
#!/usr/bin/python3
import os, sys
import hpctrack
rank = int(os.environ.get("RANK", os.environ["SLURM_PROCID"]))
for step in range({STEPS}):
    hpctrack.log(step=step, loss=step + rank / 16)
with open(f"task.{{rank}}", "w") as file:
    file.write(os.environ["SLURMD_NODENAME"])
"""
#: What torchrun does on one node: workers with ranks of their own under one task.
LAUNCH = """\
#!/usr/bin/python3
import os, subprocess, sys
workers = [
    subprocess.Popen(sys.argv[1:], env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "8"})
    for rank in range(8)
]
sys.exit(max(worker.wait() for worker in workers))
"""


@pytest.fixture
def submit(alice):
    """Submit a job of four nodes that runs the work as a line says; return what is shown of the ended run."""
    probe = alice.run("unshare", "--user", "--map-root-user", "--mount", "true", check=False)
    if probe.returncode:
        skip_or_fail(f"users may not make mount namespaces: {probe.stderr}")
    programs = {"NODE": ON_NODE, "WORK": WORK, "LAUNCH": LAUNCH}
    paths = {name: alice.write(f"{name.lower()}.py", text) for name, text in programs.items()}

    def run(line: str, rows: int, **environ: str) -> dict:
        alice.run("sh", "-c", "rm -f task.*")
        job = alice.write(
            "nodes.sh",
            "#!/bin/bash\nset -e\nexport FIRST_NODE=$SLURMD_NODENAME\n"
            + "".join(f"{name}={path}\n" for name, path in paths.items())
            + line
            + '\nls "$HPCTRACK_SPOOL_DIR"/*.log.journal 2>/dev/null | wc -l > spooled\n',
        )
        size = ("-N4", "--ntasks-per-node=2", "--mem=100", "-t5")
        number = alice.sbatch(*size, "-o", "nodes.out", job, env=environ)
        shown = alice.ended(number, rows=rows)
        output = (alice.home / "nodes.out").read_text()
        assert (shown["state"], shown["rows"], shown["lost"]) == ("COMPLETED", rows, 0), output
        return shown

    return run


def logged(alice, shown) -> dict[int, dict[str, float]]:
    """Return what is stored of a run, by step."""
    found = alice.sql(f"SELECT to_jsonb(m) FROM metrics m WHERE run_id = {shown['id']}")
    assert len({row["step"] for [row] in found}) == len(found)
    return {
        row["step"]: {name: value for name, value in {**row, **(row["extra"] or {})}.items()
                      if name.startswith("loss") and value is not None}
        for [row] in found
    }  # fmt: skip


def nodes(alice) -> list[str]:
    """Return the node of each rank that did the work."""
    return [path.read_text() for path in sorted(alice.home.glob("task.*"))]


def spooled(alice) -> int:
    """Return how many journals stood in the spool when the work was done."""
    return int((alice.home / "spooled").read_text())


def of_ranks(ranks) -> dict[int, dict[str, float]]:
    return {step: {f"loss@{rank}": step + rank / 16 for rank in ranks} for step in range(STEPS)}


def test_rank_0_logs(alice, submit):
    shown = submit("srun $NODE $WORK", STEPS)
    assert logged(alice, shown) == {step: {"loss": step} for step in range(STEPS)}
    assert len(nodes(alice)) == 8 and len(set(nodes(alice))) == 4
    assert spooled(alice) == 1, "for the nodes that don't see the run folder one of them tells of its rank"
    told = alice.sql(
        f"SELECT raw FROM transitions WHERE run_id = {shown['id']} AND raw LIKE '%logs nothing%'"
    )
    assert len(told) == 2


def test_every_rank_logs_if_told_so(alice, submit):
    shown = submit("srun $NODE $WORK", 8 * STEPS, HPCTRACK_RANKS="all")
    assert logged(alice, shown) == of_ranks(range(8))
    assert len(set(nodes(alice))) == 4 and spooled(alice) == 6, "two ranks run on the first node"


def test_rank_0_on_another_node(alice, submit):
    shown = submit("srun --relative=2 -N1 -n2 $NODE $WORK", STEPS)
    assert logged(alice, shown) == {step: {"loss": step} for step in range(STEPS)}
    assert nodes(alice) == ["n3", "n3"] and spooled(alice) == 2, "what rank 0 logs, and that rank 1 does not"


def test_a_shell_on_every_node(alice, submit):
    line = """srun -n4 --ntasks-per-node=1 $NODE sh -euc '
        echo "step=$SLURM_PROCID loss=.$SLURM_PROCID" >> "$HPCTRACK_JOURNAL"'"""
    shown = submit(line, 4)
    assert logged(alice, shown) == {rank: {"loss": rank / 10} for rank in range(4)}


@pytest.mark.parametrize("ranks", ["0", "all"])
def test_eight_workers_under_one_task(alice, submit, ranks):
    writers = 8 if ranks == "all" else 1
    shown = submit("srun --relative=1 -N1 -n1 $NODE $LAUNCH $WORK", STEPS * writers, HPCTRACK_RANKS=ranks)
    plain = {step: {"loss": step} for step in range(STEPS)}
    assert logged(alice, shown) == (of_ranks(range(8)) if ranks == "all" else plain)
    silent = ranks != "all"  # one of the others tells of it
    assert nodes(alice) == ["n2"] * 8 and spooled(alice) == writers + silent


def test_what_the_nodes_wrote_is_cleared_away(alice, submit, await_until):
    submit("srun $NODE $WORK", 8 * STEPS, HPCTRACK_RANKS="all")
    journals = alice.home / ".local/share/hpctrack/spool/journals"
    # Processes of other nodes can't be seen: the collector waits until the run has been over for two minutes.
    await_until(lambda: not list(journals.glob("*")), 240, "nothing is left behind")
