"""The relay under a real supervisor: what it tells, and how it reads what others write."""

from __future__ import annotations

import contextlib
import socket

import pytest

from hpctrack.stream.wire import datagrams
from tests.support.relayed_job import LOG


def test_everything_that_was_said_arrives_once_and_nothing_is_left(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    script = LOG.replace("#!/bin/sh\n", '#!/bin/sh\necho "step=-1 loss=.5 # note" >> "$HPCTRACK_JOURNAL"\n'
                         'echo "step=-2 loss=.5 name=$MY_TOKEN" >> "$HPCTRACK_JOURNAL"\n')  # fmt: skip
    job.run(script, MY_TOKEN="abcdef123456", LAST="20000", REST="1.5")
    assert sorted(collector.steps()) == [-2, *range(20_000)]
    assert collector.torn() == 1 and collector.forged == 0
    (hello,), (start,), (fin,) = (collector.messages(kind) for kind in ("hello", "start", "fin"))
    assert (
        hello.items()
        >= {"attempt": 0, "node": "n1", "job_id": 14, "array_job_id": None, "cluster": "c"}.items()
    )
    assert (
        start["env"]["MY_TOKEN"] == "***"
        and start["env"]["SLURM_JOB_ID"] == "14"
        and "SAME" not in start["env"]
    )
    assert start["stdout"] == str(job.folder / "out") and start["stderr"] == str(job.folder / "err")
    assert (
        fin["exit_code"] == 0
        and fin["exit_signal"] is None
        and fin["lost"] == {}
        and fin["stderr_tail"] is None
    )
    assert collector.messages("args") == [{"lr": 0.1, "password": "***"}]
    assert len(collector.messages("usage")) >= 2
    assert not any(b"abcdef123456" in body for bodies in collector.bodies.values() for body in bodies)
    assert job.run_folders() == [] and job.spooled() == []


def texts(value) -> set[bytes]:
    """Return the strings anywhere in a JSON value that are long enough not to occur by chance."""
    if isinstance(value, dict):
        return texts(list(value)) | texts(list(value.values()))
    if isinstance(value, list):
        return set().union(*map(texts, value))
    return {value.encode()} if isinstance(value, str) and len(value) > 7 else set()


def test_who_listens_reads_nothing_but_metrics(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    script = """#!/bin/sh
        "$PYTHON" -c 'import hpctrack
hpctrack.set_args({"optimiser": {"name": "adam with weight decay"}})
hpctrack.set_tags(colour="nearly green")
for step in range(500): hpctrack.log(step=step, accuracy=1.0)'
        echo 'step=501 accuracy=.5 stage=warmup' >> "$HPCTRACK_JOURNAL"
        echo 'the end of standard error' >&2
        sleep 1; exit 3
    """
    job.run(script, NOTES="between us", LONG="long variable " * 500)
    kinds = ("hello", "start", "usage", "event", "args", "tags", "fin")
    told = {kind: collector.messages(kind) for kind in kinds}
    said = texts([told[kind] for kind in kinds])
    assert {b"between us", b"adam with weight decay", b"nearly green", str(job.folder).encode()} <= said
    assert any(b"the end of standard error" in text for text in said)
    assert [text for text in said if text in collector.seen] == []
    assert sorted(set(collector.steps())) == [*range(500), 501] and b"accuracy" in collector.seen


def test_before_the_first_answer_only_ids_are_sent(job):
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    silent.setblocking(False)
    job.submit()
    job.find_collector_at(f"127.0.0.1:{silent.getsockname()[1]}")
    job.run(LOG, REST="3", MY_TOKEN="abcdef123456")
    received = []
    with contextlib.suppress(BlockingIOError):
        while True:
            received.append(silent.recv(2000))
    silent.close()
    assert received and len(received) < 30
    bodies = {datagrams.body(job.key, datagram) for datagram in received}
    assert all(b"hello" in body or b"fin" in body for body in bodies)
    assert len(bodies) <= 2


def test_a_failure_tells_the_end_of_its_standard_error(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    script = '#!/bin/sh\nyes filler | head -c 20000 >&2\necho "key is $MY_TOKEN" >&2\nkill -SEGV $$\n'
    job.run(script, MY_TOKEN="abcdef123456")
    (fin,) = collector.messages("fin")
    assert (fin["exit_code"], fin["exit_signal"]) == (None, 11)
    assert fin["stderr_tail"].endswith("key is ***\n") and 4000 < len(fin["stderr_tail"]) <= 4096


def test_secrets_of_the_job_are_in_nothing_that_is_told(job, collector):
    """Those of its environment, script and arguments, wherever they stand."""
    job.submit()
    job.find_collector_at(collector.address)
    secrets = [f"q7Xv-9z{n}Kw2mB" for n in range(3)]
    script = f"""#!/bin/sh
        export API_KEY={secrets[1]}
        "$PYTHON" -c 'import hpctrack, os
for text in os.environ["MY_TOKEN"], os.environ["API_KEY"], "{secrets[2]}":
    hpctrack.set_args({{"a": {{text: [text, {{"b": text}}]}}, "password": "train"}})
    hpctrack.set_tags(note=text, **{{text: True}})'
        echo "step=1 name={secrets[0]}" >> "$HPCTRACK_JOURNAL"
        yes "filler" | head -c 30000 >&2
        echo "no: {" ".join(secrets)}" >&2
        exit 1
    """
    job.run(script, "--token", secrets[2], MY_TOKEN=secrets[0], SLURM_JOB_NAME=f"x-{secrets[0]}")
    (start,), (fin,) = collector.messages("start"), collector.messages("fin")
    told = b"".join(body for bodies in collector.bodies.values() for body in bodies)
    assert not any(secret.encode() in told for secret in secrets)
    assert start["job_name"] == "x-***" and fin["stderr_tail"].endswith("no: *** *** ***\n")
    assert {"note": "***", "***": True} in collector.messages("tags")


def test_a_script_that_is_over_at_once_has_not_ended_before_it_began(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run("#!/bin/sh\n")
    (hello,), (fin,) = collector.messages("hello"), collector.messages("fin")
    assert 0 <= fin["time"] - hello["time"] < 60


def test_a_line_is_delivered_though_its_writer_was_killed_at_once(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run(
        "#!/bin/sh\n"
        "\"$PYTHON\" -c 'import hpctrack, os; hpctrack.log(step=7, a=1.0); os.kill(os.getpid(), 9)'\n"
    )
    assert collector.steps() == [7]


def test_a_line_longer_than_a_datagram(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run("""#!/bin/sh
        "$PYTHON" -c 'print("step=1 text=" + "x" * 100_000)' >> "$HPCTRACK_JOURNAL"
        "$PYTHON" -c 'print("step=2 text=" + "y" * 2_000_000)' >> "$HPCTRACK_JOURNAL"
        "$PYTHON" -c 'print("step=4 " + " ".join(f"{i}=1" for i in range(100_000)))' >> "$HPCTRACK_JOURNAL"
        echo "step=3 loss=1" >> "$HPCTRACK_JOURNAL"
    """)  # fmt: skip
    assert collector.steps() == [1, 3] and collector.torn() == 2
    told = {event["name"].partition(":")[0] for event in collector.messages("event")}
    assert told == {
        "a line can't be read, it is longer than 1,048,576 bytes",
        "a line can't be sent, it is too large (100000 values)",
    }


def test_an_unfinished_last_line_is_counted_not_read(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run('#!/bin/sh\nprintf "step=1 loss=1\\nstep=2 loss=0.12" >> "$HPCTRACK_JOURNAL"\n')
    assert collector.steps() == [1] and collector.torn() == 1 and job.run_folders() == []


def test_the_shell_journal_of_a_job_with_several_nodes_is_on_the_shared_home(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    script = """#!/bin/sh -eu
for step in 1 2 3; do echo "step=$step a=1" >> "$HPCTRACK_JOURNAL"; done
case $HPCTRACK_JOURNAL in "${HPCTRACK_SPOOL_DIR%/journals/*}"/*) ;; *) exit 9 ;; esac
sleep 1
"""
    process = job.start(script, SLURM_JOB_NUM_NODES="2")
    assert process.wait(60) == 0
    assert sorted(collector.steps()) == [1, 2, 3]
    # Its relay can't see whether a process of the other node goes on; PostgreSQL learns it of Slurm.
    assert [file.kind for file in job.spooled()] == ["shell"] and job.run_folders() == []
    assert job.sync(collector) == [False]
    assert job.sync(collector, ended=True) == [True]
    assert sorted(collector.steps()) == [1, 2, 3] and list(job.spool.glob("journals/*")) == []


def test_processes_on_other_nodes_write_to_the_spool_and_the_relay_ships_that(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run('#!/bin/sh\nHPCTRACK_RUN_DIR=/not/on/this/node "$PYTHON" -c "\nimport hpctrack, time\n'
            'for step in range(50): hpctrack.log(step=step, a=1.0)\ntime.sleep(2)"\n')  # fmt: skip
    assert sorted(collector.steps()) == list(range(50))
    assert list(job.spool.glob("journals/*")) == []


def test_a_journal_that_was_emptied_goes_on_under_another_name(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run('#!/bin/sh\nfor i in 1 2 3; do echo "step=$i loss=1" >> $HPCTRACK_JOURNAL; done; sleep 1\n'
            'echo "step=4 loss=1" > $HPCTRACK_JOURNAL; sleep 1\n')  # fmt: skip
    assert collector.steps() == [1, 2, 3, 4]


def test_lost_lines_are_told_at_the_end(job, collector):
    job.submit()
    job.find_collector_at(collector.address)
    job.run('#!/bin/sh\nexec "$PYTHON" -c "\nimport hpctrack, resource\nhpctrack.log(step=0, a=1.0)\n'
            'resource.setrlimit(resource.RLIMIT_FSIZE, (80, -1))\n'
            'for step in range(1, 11): hpctrack.log(step=step, a=1.0)"\n')  # fmt: skip
    (fin,) = collector.messages("fin")
    assert sum(fin["lost"].values()) == 10 and collector.steps() == [0]


@pytest.mark.parametrize("transport", ["auto", "spool"])
def test_numbers_of_other_tongues_are_told_once_with_their_line(job, collector, transport):
    job.record = job.record._replace(transport=transport)
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start(
        '#!/bin/sh\nfor i in 1 2 3; do echo "step=$i loss=0,25 acc=93.5%" >> $HPCTRACK_JOURNAL; done\n'
        "printf '\\357\\273\\277step=4 loss=0.5\\n' >> $HPCTRACK_JOURNAL\n"
    )
    process.wait(60)
    job.sync(collector)
    assert sorted(set(collector.steps())) == [1, 2, 3, 4]
    assert [event["name"] for event in collector.messages("event")] == [
        "loss is text, since 0,25 is no number: step=1 loss=0,25 acc=93.5%",
        "acc is text, since 93.5% is no number: step=1 loss=0,25 acc=93.5%",
    ]


@pytest.mark.parametrize("transport", ["auto", "spool"])
def test_torn_lines_are_told_with_their_reason(job, collector, transport):
    job.record = job.record._replace(transport=transport)
    job.submit()
    job.find_collector_at(collector.address)
    process = job.start("""#!/bin/sh
echo "step=3, loss=1" >> $HPCTRACK_JOURNAL
echo "step=4 token=hf_abcdefghijklmnopqrstuvwxyzABCDEFGH step=4" >> $HPCTRACK_JOURNAL
""")
    process.wait(60)
    job.sync(collector)
    assert collector.torn() == 2
    first, second = (event["name"] for event in collector.messages("event"))
    assert first == "a line can't be read, a comma follows step: step=3, loss=1"
    assert "step stands twice" in second and "abcdefgh" not in second
