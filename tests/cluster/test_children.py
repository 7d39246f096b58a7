"""Children of a tracked job by plain sbatch: none dies of what it inherits, and none is changed."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.cluster

CHILD = """\
#!/bin/bash
#SBATCH --export=ALL,OWN=1
set -eu
[ -z "${{SBATCH_EXPORT:-}}" ]
for i in 7 8 9; do echo "step=$i child=1" >> "${{HPCTRACK_JOURNAL:-/dev/null}}"; done
echo "${{OWN:-}}${{A:-}} ${{HPCTRACK_JOURNAL:+inherited}}" > {name}.child
"""
#: Start the script once more as on a node with disks of its own.
AWAY = """\
#!/bin/bash
exec unshare --user --map-root-user --mount sh -euc '
    mount --rbind "$HOME" /mnt
    mount -t tmpfs -o mode=1777 none /var/tmp
    mount -t tmpfs -o mode=1777 none /tmp
    mkdir /var/tmp/hpctrack-nodes
    mkdir -p "$HOME"
    mount --rbind /mnt "$HOME"
    cd "$HOME"
    exec "$@"' away bash {path}
"""
#: By the options of their sbatch: what stands in the child's environment.
CHILDREN = {
    "plain": ("", "1 inherited"),
    "none": ("--export=NONE", " "),
    "chosen": ("--export=ALL,A=2", "2 inherited"),
    "away": ("", " inherited"),
}


@pytest.fixture
def nodes(alice):
    """A folder on the nodes in which others can't make links: /var/tmp, as protected_symlinks is on most."""
    path = "/var/tmp/hpctrack-nodes"
    alice.run("mkdir", "-p", path)
    configuration = alice.home / ".config/hpctrack/hpctrack.conf"
    before = configuration.read_text()
    alice.write(".config/hpctrack/hpctrack.conf", f"{before}node_dir = {path}\n", 0o600)
    yield path
    alice.write(".config/hpctrack/hpctrack.conf", before, 0o600)
    alice.run("rm", "-r", path)


@pytest.fixture(autouse=True)
def _clean_node(alice):
    """Remove what was set aside: nothing of ours does for a month."""
    yield
    alice.run("sh", "-c", "rm -f /tmp/hpctrack-$(id -u).*.journal /var/tmp/hpctrack-$(id -u).*.journal")


def _write_children(alice) -> str:
    """Write the children; return the lines of a script that submits them."""
    lines = []
    for name, (options, _) in CHILDREN.items():
        path = alice.write(f"{name}.sh", CHILD.format(name=name))
        if name == "away":
            path = alice.write("going.sh", AWAY.format(path=path))
        lines.append(f"sbatch --parsable {options} $held -o {name}.out {path} >> children.id\n")
    return "".join(lines)


@pytest.mark.parametrize(
    ("when", "where"),
    [("while it runs", "nodes"), ("after its end", "nodes"), ("after its end, all removed", "anywhere")],
)
def test_plain_children_append_and_live(alice, await_until, request, when, where):
    late = when != "while it runs"
    if where == "nodes":
        request.getfixturevalue(where)
    alice.run("sh", "-c", "rm -f *.child children.id")
    waiting = "held=-H\n" if late else "held=\n"
    parent = alice.write(
        "parent.sh",
        "#!/bin/bash\nset -eu\n"
        + waiting
        + _write_children(alice)
        + 'echo "step=1 parent=1" >> "$HPCTRACK_JOURNAL"\n'
        + ("" if late else f"until [ $(ls *.child | wc -l) = {len(CHILDREN)} ]; do sleep 0.2; done\n"),
    )
    job = alice.sbatch("-o", "parent.out", parent)
    if late:
        alice.ended(job, rows=1)

    def submitted() -> list[str]:
        ids = alice.run("cat", "children.id", check=False).stdout.split()
        return ids if len(ids) == len(CHILDREN) else []

    children = await_until(submitted, 60, "the children")
    if "removed" in when:
        alice.run("sh", "-c", "rm -rf /tmp/hpctrack-$(id -u)* /var/tmp/hpctrack-$(id -u)*")
    if late:
        alice.run("scontrol", "release", ",".join(children))
    for child in children:
        await_until(
            lambda child=child: [r for r in alice.accounted(child) if r["State"] == "COMPLETED"], 60, child
        )
    found = {name: (alice.home / f"{name}.child").read_text().rstrip("\n") for name in CHILDREN}
    assert found == {name: seen for name, (_, seen) in CHILDREN.items()}
    shown = alice.ended(job, rows=1)
    assert shown["state"] == "COMPLETED"
    if late:
        assert (shown["rows"], shown["last"]) == (1, {"parent": 1})
        alice.hpctrack("sync")  # once they are at rest
        await_until(
            lambda: "lines were appended after the end" in alice.hpctrack("show", str(job)).stdout, 90
        )
        assert alice.shown(job)["rows"] == 1


def test_a_script_that_submits_itself_again_appends_and_lives(alice, await_until):
    """Its second run is no execution of the first: what it appends is told with the first one's run."""
    script = alice.write(
        "again.sh",
        '#!/bin/bash\nset -eu\necho "step=1 turn=${TURN:-1}" >> "$HPCTRACK_JOURNAL"\n'
        'if [ -z "${TURN:-}" ]; then TURN=2 sbatch --parsable -d afterany:$SLURM_JOB_ID -o /dev/null'
        ' "$HPCTRACK_SCRIPT" > again.id; fi\n',
    )
    job = alice.sbatch("-o", "again.out", script)
    shown = alice.ended(job, rows=1)
    assert shown["state"] == "COMPLETED", (alice.home / "again.out").read_text()
    again = (alice.home / "again.id").read_text().strip()
    await_until(lambda: [r for r in alice.accounted(again) if r["State"] == "COMPLETED"], 60, "the second")
    assert alice.shown(job)["last"] == {"turn": 1}
