"""The embedded PostgreSQL is never there twice, whoever dies and whichever hosts share its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import psycopg
import pytest

from hpctrack import errors
from hpctrack.store import embedded
from hpctrack.store.embedded import asking, owner, postmaster
from hpctrack.store.embedded.cluster_folder import Place
from hpctrack.store.embedded.owner import Host
from tests.support.embedded_servers import (
    ELSEWHERE,
    HERE,
    ask,
    grow_old,
    kill_9,
    parent,
    postmaster_pid,
    postmasters,
)


def test_it_recovers_from_kill_9(settings):
    with psycopg.connect(**embedded.ensure(settings)) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    for then in (None, embedded.stop, None):  # a stop of what is dead must not lock the next start out
        before = kill_9(settings)
        if then:
            assert not then(settings)
        assert ask(embedded.ensure(settings), "SELECT count(*) FROM kept") == 0
        assert postmasters(settings) == [postmaster_pid(settings)] != [before]


def test_an_orphan_of_a_killed_server_is_waited_for(settings):
    connection = psycopg.connect(**embedded.ensure(settings))
    orphan = connection.info.backend_pid
    os.kill(orphan, signal.SIGSTOP)  # as one stuck in the kernel: it does not see its parent's end
    kill_9(settings)
    started = []
    starter = threading.Thread(target=lambda: started.append(embedded.ensure(settings)))
    starter.start()
    time.sleep(1.5)
    too_early = list(started), postmaster.processes(Place.of(settings).data)
    os.kill(orphan, signal.SIGCONT)
    starter.join()
    connection.close()
    assert too_early == ([], [orphan])
    assert ask(started[0]) == "hpctrack"


def test_a_record_of_an_older_boot_is_taken_over_whatever_its_pid_is_now(settings):
    place = Place.of(settings)
    embedded.ensure(settings)
    kill_9(settings)
    while postmaster.processes(place.data):
        time.sleep(0.02)
    # As after a reboot: the pid is in use again, by a process that only the boot id tells from a postmaster.
    other = subprocess.Popen(["sleep", "60"], cwd=place.data)
    dead = owner.read(place.owner_file)
    started = postmaster.start_time(other.pid)
    owner.replace(place.owner_file, dead._replace(boot_id="older", pid=other.pid, pid_start=started))
    lines = place.postmaster_pid.read_text().splitlines()
    place.postmaster_pid.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
    try:
        assert ask(embedded.ensure(settings)) == "hpctrack"
    finally:
        other.kill()
        other.wait()
    assert owner.read(place.owner_file).boot_id == HERE.boot_id


def test_another_host_uses_the_owners_server(settings):
    params = embedded.ensure(settings, HERE)
    there = embedded.ensure(settings, ELSEWHERE)
    assert there["host"] == "127.0.0.1"
    assert params["host"].startswith("/tmp/hpctrack-")
    assert ask(there) == ask(params) == "hpctrack"
    assert embedded.running(settings, ELSEWHERE) == there
    assert not embedded.stop(settings, ELSEWHERE)  # only its own host ends it
    assert postmasters(settings) == [postmaster_pid(settings)]


def test_a_server_gone_elsewhere_is_never_replaced_unasked(settings):
    embedded.ensure(settings, ELSEWHERE)
    place = Place.of(settings)
    with pytest.raises(errors.OwnedElsewhere, match="still answers"):
        embedded.take_over(settings, HERE, fence_seconds=0)
    grow_old(settings)
    kill_9(settings)
    while postmaster.processes(place.data):
        time.sleep(0.02)
    for _ in range(2):
        with pytest.raises(errors.OwnedElsewhere, match=r"login2 .*take-over") as caught:
            embedded.ensure(settings, HERE)
        assert "\n" not in str(caught.value)
    assert embedded.running(settings, HERE) is None
    assert postmaster.processes(place.data) == []
    assert "login2" in embedded.take_over(settings, HERE, fence_seconds=0)
    assert ask(embedded.ensure(settings, HERE)) == "hpctrack"
    assert owner.read(place.owner_file).host == HERE.name


def test_a_server_that_only_does_not_answer_is_not_taken_over(settings):
    embedded.ensure(settings, ELSEWHERE)
    place = Place.of(settings)
    running = owner.read(place.owner_file)
    asking.publish(place, asking.Reach(running.token, 1, ("127.0.0.1",), (), ""))  # as behind a firewall
    grow_old(settings)
    os.kill(parent(running.pid), signal.SIGSTOP)  # its keeper, who would mend that
    try:
        for attempt in (lambda: embedded.ensure(settings, HERE), lambda: embedded.take_over(settings, HERE)):
            with pytest.raises(errors.OwnedElsewhere):
                attempt()
        place.owner_file.unlink()  # and even without any record: the lock that it holds speaks for it
        with pytest.raises(errors.OwnedElsewhere):
            embedded.ensure(settings, HERE)
        assert postmasters(settings) == [running.pid]
    finally:
        os.kill(parent(running.pid), signal.SIGCONT)


@pytest.mark.parametrize("pid", [True, False])
def test_a_server_that_another_host_is_starting_is_waited_for(settings, pid):
    embedded.ensure(settings, ELSEWHERE)
    path = Place.of(settings).owner_file
    complete = owner.read(path)
    owner.replace(path, complete._replace(token="new", pid=complete.pid if pid else None))
    started = []
    waiting = threading.Thread(target=lambda: started.append(embedded.ensure(settings, HERE)))
    waiting.start()
    waiting.join(0.5)
    too_early = list(started)
    owner.replace(path, complete)
    waiting.join()
    assert too_early == []
    assert [ask(params) for params in started] == ["hpctrack"]


@pytest.mark.parametrize("fresh", [True, False])
def test_two_hosts_at_once_never_start_two_servers(settings, fresh):
    if not fresh:
        embedded.ensure(settings)
        embedded.stop(settings)
    gate = threading.Barrier(6)
    results, seen, over = [], [], threading.Event()

    def watch():
        while not over.is_set():
            seen.append(len(postmasters(settings)))

    def start(host):
        gate.wait()
        try:
            results.append(ask(embedded.ensure(settings, host)))
        except errors.OwnedElsewhere as error:
            results.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    hosts = [HERE, ELSEWHERE, Host("login3", "b3")] * 2
    threads = [threading.Thread(target=start, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    watcher.join()
    assert results == ["hpctrack"] * 6
    assert max(seen) == 1
    assert len(postmasters(settings)) == 1
