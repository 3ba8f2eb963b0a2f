"""Dead letters of a real daemon: requests die of every cause, and are done after all."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.waiting import DEADLINE, wait_for
from tests.wire.test_workers import workers
from tests.zqueued import Zqueued
from zqueue.control.client import Refused
from zqueue.control.letters import frames, imported
from zqueue.control.messages import DeadLetter, Ends, Incidents

Socket = zmq.Socket[bytes]
Connect = Callable[..., Socket]


def config(more: str = "", name: str = "default", head: str = "") -> str:
    return (
        f'{head}\n[queues.{name}]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
        f"{more}\n"
    )


BROKER = '[daemon]\nname = "broker-1"\n'
OLD = 'max_waiting_time = "50ms"'
"""With it and without a worker every request dies at once."""


@pytest.fixture
def connect(context: zmq.Context[Socket]) -> Connect:
    """Makes sockets that last until the end of the test."""
    made = []

    def connect(kind: int, endpoint: str, routing_id: bytes = b"") -> Socket:
        socket = context.socket(kind)
        socket.rcvtimeo = int(DEADLINE * 1000)
        if routing_id:
            socket.routing_id = routing_id
        socket.connect(endpoint)
        made.append(socket)
        return socket

    return connect


def letters(zqueued: Zqueued, *queues: str, **wanted: Any) -> list[DeadLetter]:
    with zqueued.client() as control:
        return list(control.dead_list(*queues, **wanted))


def wait_until_kept(zqueued: Zqueued, count: int) -> None:
    def enough() -> bool:
        return sum(each.dead_letters.kept for each in zqueued.status().queues) >= count

    wait_for(enough, f"{count} dead letters")


def wait_for_letters(zqueued: Zqueued, count: int) -> list[DeadLetter]:
    wait_until_kept(zqueued, count)
    found = letters(zqueued, content=True)
    assert len(found) == count
    return found


def bodies(found: list[DeadLetter]) -> list[bytes]:
    return [frames(letter)[-1] for letter in found]


def ends(zqueued: Zqueued) -> Ends:
    found = zqueued.queue().ends
    assert found is not None
    return found


def incidents(zqueued: Zqueued) -> Incidents:
    found = zqueued.queue().incidents
    assert found is not None
    return found


def drops_out(zqueued: Zqueued, worker: Socket) -> str:
    """A worker takes a request and leaves; its address."""
    [peer] = workers(zqueued)
    worker.recv_multipart()
    worker.close(0)
    wait_for(lambda: peer not in workers(zqueued))
    return peer


# -- how they die ----------------------------------------------------------------------------------


def test_max_attempts(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config("max_attempts = 2", head=BROKER))
    client = connect(zmq.DEALER, zqueued.frontend(), b"me")
    client.send_multipart([b"7", b"", b"poison", b"\xff"])
    lost = []
    for _ in range(2):
        worker = connect(zmq.REP, zqueued.backend())
        wait_for(lambda: workers(zqueued))
        lost.append(drops_out(zqueued, worker))
    [letter] = wait_for_letters(zqueued, 1)
    assert (letter.reason, letter.attempts) == ("max_attempts", 2)
    assert [(attempt.peer, attempt.reason) for attempt in letter.history] == [
        (peer, "worker_lost") for peer in lost
    ]
    given = [(attempt.given_at, attempt.ended_at) for attempt in letter.history]
    assert letter.received_at <= given[0][0] <= given[0][1] <= given[1][0] <= letter.died_at
    assert (letter.client, letter.named, letter.told) == (b"me".hex(), True, False)
    assert letter.peer.startswith("tcp://127.0.0.1:")
    assert frames(letter) == [b"7", b"", b"poison", b"\xff"]
    assert letter.envelope == 2
    event = zqueued.wait_event("request.dead", reason="max_attempts", attempts=2)
    assert event["id"] == letter.id
    assert letter.id.startswith("broker-1/default/")
    died = zqueued.queue().died
    assert died is not None
    assert died.max_attempts == 1


def test_worker_lost(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config('redeliver = "none"'))
    worker = connect(zmq.REP, zqueued.backend())
    wait_for(lambda: workers(zqueued))
    connect(zmq.REQ, zqueued.frontend()).send(b"x")
    peer = drops_out(zqueued, worker)
    [letter] = wait_for_letters(zqueued, 1)
    assert (letter.reason, letter.attempts, letter.named) == ("worker_lost", 1, False)
    assert [(attempt.peer, attempt.reason) for attempt in letter.history] == [(peer, "worker_lost")]


def test_service_timeout(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config('redeliver = "none"\nservice_timeout = "100ms"'))
    worker = connect(zmq.REP, zqueued.backend())
    wait_for(lambda: workers(zqueued))
    [peer] = workers(zqueued)
    connect(zmq.REQ, zqueued.frontend()).send(b"x")
    [letter] = wait_for_letters(zqueued, 1)
    assert (letter.reason, letter.attempts) == ("service_timeout", 1)
    assert [(attempt.peer, attempt.reason) for attempt in letter.history] == [
        (peer, "service_timeout")
    ]
    worker.send(worker.recv())
    wait_for(lambda: incidents(zqueued).late_replies)


def test_deadline(start_zqueued: StartZqueued, connect: Connect) -> None:
    """One that a worker has, and one that waits."""
    zqueued = start_zqueued(config('deadline = "200ms"\nprefetch = 1'))
    worker = connect(zmq.REP, zqueued.backend())
    wait_for(lambda: workers(zqueued))
    client = connect(zmq.DEALER, zqueued.frontend())
    for body in (b"given", b"waiting"):
        client.send_multipart([b"", body])
    found = wait_for_letters(zqueued, 2)
    assert {body: letter.attempts for body, letter in zip(bodies(found), found, strict=True)} == {
        b"given": 1,
        b"waiting": 0,
    }
    assert {letter.reason for letter in found} == {"deadline"}
    assert all(letter.history == () for letter in found)
    assert all(letter.died_at - letter.received_at >= 0.2 for letter in found)
    shown = zqueued.ctl("dead", "show", found[0].id).stdout
    assert "attempts  1, the last of which had not failed yet" in shown
    worker.close(0)


def test_max_waiting_time(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config(OLD))
    connect(zmq.REQ, zqueued.frontend()).send(b"x")
    [letter] = wait_for_letters(zqueued, 1)
    assert (letter.reason, letter.attempts, letter.history) == ("max_waiting_time", 0, ())


def test_queue_full(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config('max_waiting = 2\nwhen_full = "oldest"'))
    client = connect(zmq.DEALER, zqueued.frontend())
    for body in (b"1", b"2", b"3"):
        client.send_multipart([b"", body])
    found = wait_for_letters(zqueued, 1)
    assert (bodies(found), found[0].reason) == ([b"1"], "queue_full")


def test_a_request_without_envelope(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config(OLD))
    worker = connect(zmq.DEALER, zqueued.backend())
    wait_for(lambda: workers(zqueued))
    zqueued.ctl("pause")
    connect(zmq.DEALER, zqueued.frontend()).send_multipart([b"bare"])
    found = wait_for_letters(zqueued, 1)
    assert (found[0].envelope, frames(found[0])) == (0, [b"bare"])
    zqueued.ctl("resume")
    assert zqueued.ctl("dead", "retry", found[0].id).returncode == 0
    assert worker.recv_multipart()[1:] == [b"bare"]


def test_a_poison_request_ends_there_and_the_innocent_are_answered(
    start_zqueued: StartZqueued, connect: Connect
) -> None:
    """It kills every worker that it meets."""
    zqueued = start_zqueued(config("max_attempts = 3"))
    client = connect(zmq.DEALER, zqueued.frontend())
    innocent = [b"%d" % number for number in range(30)]
    for body in (*innocent[:10], b"poison", *innocent[10:]):
        client.send_multipart([body, b"", body])
    poller = zmq.Poller()
    hired: list[Socket] = []

    def hire() -> None:
        hired.append(connect(zmq.REP, zqueued.backend()))
        poller.register(hired[-1], zmq.POLLIN)

    hire()
    hire()
    killed = 0
    answered: list[bytes] = []
    poller.register(client, zmq.POLLIN)

    def all_over() -> bool:
        nonlocal killed
        for socket, _ in poller.poll(20):
            if socket is client:
                identity, _, reply = client.recv_multipart()
                assert identity == reply
                answered.append(reply)
            elif (body := socket.recv()) == b"poison":
                poller.unregister(socket)
                socket.close(0)
                killed += 1
                hire()
            else:
                socket.send(body)
        return len(answered) == len(innocent) and killed == 3

    wait_for(all_over, "the poison to kill three, and all others to be answered")
    assert sorted(answered) == sorted(innocent)
    [letter] = wait_for_letters(zqueued, 1)
    assert (bodies([letter]), letter.reason, letter.attempts) == ([b"poison"], "max_attempts", 3)
    assert len({attempt.worker for attempt in letter.history}) == 3


# -- retry -----------------------------------------------------------------------------------------


def test_a_retry_reaches_a_dealer_that_is_there(
    start_zqueued: StartZqueued, connect: Connect
) -> None:
    zqueued = start_zqueued(config(OLD))
    client = connect(zmq.DEALER, zqueued.frontend())
    client.send_multipart([b"7", b"", b"x"])
    [letter] = wait_for_letters(zqueued, 1)
    worker = connect(zmq.REP, zqueued.backend())
    done = zqueued.ctl("dead", "retry", letter.id)
    assert (done.returncode, done.stdout) == (0, "default: 1 retried\n")
    assert worker.recv() == b"x"
    worker.send(b"y")
    assert client.recv_multipart() == [b"7", b"", b"y"]
    assert zqueued.queue().dead_letters.kept == len(letters(zqueued)) == 0
    assert (incidents(zqueued).retried, zqueued.queue().requests.messages) == (1, 2)
    zqueued.wait_event("dead_letters.retried", letters=1, by="0/root")


def test_a_retry_reaches_a_req_that_waits_still(
    start_zqueued: StartZqueued, connect: Connect
) -> None:
    zqueued = start_zqueued(config(OLD))
    client = connect(zmq.REQ, zqueued.frontend())
    client.send(b"x")
    [letter] = wait_for_letters(zqueued, 1)
    worker = connect(zmq.REP, zqueued.backend())
    with zqueued.client() as control:
        assert control.dead_retry(letter.id).ok
    worker.send(worker.recv() + b"y")
    assert client.recv() == b"xy"


def test_a_retry_is_done_though_its_client_has_left(
    start_zqueued: StartZqueued, connect: Connect
) -> None:
    zqueued = start_zqueued(config(OLD))
    client = connect(zmq.REQ, zqueued.frontend())
    client.send(b"x")
    [letter] = wait_for_letters(zqueued, 1)
    client.close(0)
    wait_for(lambda: not zqueued.queue().clients.connected)
    worker = connect(zmq.REP, zqueued.backend())
    assert zqueued.ctl("dead", "retry", letter.id).returncode == 0
    worker.send(worker.recv())
    wait_for(lambda: ends(zqueued).unclaimed == 1)


def test_a_retry_reaches_a_client_that_came_back_with_its_routing_id(
    start_zqueued: StartZqueued, connect: Connect
) -> None:
    zqueued = start_zqueued(config(OLD))
    client = connect(zmq.DEALER, zqueued.frontend(), b"me")
    client.send_multipart([b"", b"x"])
    [letter] = wait_for_letters(zqueued, 1)
    client.close(0)
    wait_for(lambda: not zqueued.queue().clients.connected)
    client = connect(zmq.DEALER, zqueued.frontend(), b"me")
    wait_for(lambda: zqueued.queue().clients.connected)
    worker = connect(zmq.REP, zqueued.backend())
    assert zqueued.ctl("dead", "retry", letter.id).returncode == 0
    worker.send(worker.recv())
    assert client.recv_multipart() == [b"", b"x"]


def test_a_req_that_was_told_gets_no_second_reply(
    start_zqueued: StartZqueued, connect: Connect
) -> None:
    """It would take it for the reply to what it asks by then."""
    zqueued = start_zqueued(config(OLD + '\nerror_reply = "dead: {reason}"'))
    client = connect(zmq.REQ, zqueued.frontend())
    client.send(b"first")
    assert client.recv() == b"dead: max_waiting_time"
    [letter] = wait_for_letters(zqueued, 1)
    assert letter.told
    worker = connect(zmq.REP, zqueued.backend())
    wait_for(lambda: workers(zqueued))
    zqueued.ctl("dead", "retry", letter.id)
    assert worker.recv() == b"first"
    client.send(b"second")
    worker.send(b"to the first")
    assert worker.recv() == b"second"
    worker.send(b"to the second")
    assert client.recv() == b"to the second"
    assert ends(zqueued).unclaimed == 1


def test_what_dies_again_is_a_letter_again(start_zqueued: StartZqueued, connect: Connect) -> None:
    """And is not retried twice by one --all."""
    zqueued = start_zqueued(config(OLD))
    client = connect(zmq.DEALER, zqueued.frontend())
    for number in range(200):
        client.send_multipart([b"", b"%d" % number])
    before = wait_for_letters(zqueued, 200)
    done = zqueued.ctl("dead", "retry", "--all")
    assert (done.returncode, done.stdout) == (0, "default: 200 retried\n")
    after = wait_for_letters(zqueued, 200)
    assert sorted(bodies(after)) == sorted(bodies(before))
    assert not {letter.id for letter in after} & {letter.id for letter in before}


def test_a_retry_of_many_keeps_to_the_bound_on_what_waits(
    start_zqueued: StartZqueued, connect: Connect, peers: Peers
) -> None:
    zqueued = start_zqueued(config(OLD + "\nmax_waiting = 1000"))
    client = connect(zmq.DEALER, zqueued.frontend())
    for number in range(300):
        client.send_multipart([b"", b"%d" % number])
    wait_for_letters(zqueued, 300)
    zqueued.write(config("max_waiting = 20"))
    zqueued.ctl("pause")
    with zqueued.client() as control:
        assert control.reload().rebound == ("default",)
        assert zqueued.queue().dead_letters.kept == 300, "also those in memory outlive a reload"
        result = control.dead_retry(all=True)
        [queue] = result.queues
        assert not result.ok
        assert "the queue is full (max_waiting" in queue.detail
        assert (queue.done, queue.left) == (20, 280)
        assert zqueued.queue().waiting == 20
        assert zqueued.queue().dead_letters.kept == 280
        control.resume()
        peers.worker(zqueued.backend())
        assert control.dead_retry(all=True).ok
    wait_for(lambda: ends(zqueued).replied + ends(zqueued).unclaimed == 300)


@pytest.mark.parametrize(
    ("verb", "says"), [("terminate", "the queue is stopped; start it first"), ("drain", "draining")]
)
def test_a_queue_that_takes_no_request_refuses_and_removes_nothing(
    verb: str, says: str, start_zqueued: StartZqueued, connect: Connect
) -> None:
    zqueued = start_zqueued(config('max_attempts = 1\ndrain_timeout = "1m"'))
    for _ in range(2):
        connect(zmq.REQ, zqueued.frontend()).send(b"x")
    worker = connect(zmq.REP, zqueued.backend())
    wait_for(lambda: workers(zqueued))
    drops_out(zqueued, worker)
    [letter] = wait_for_letters(zqueued, 1)
    with zqueued.client() as control:
        if verb == "terminate":
            control.terminate()
        else:
            control._send(_drain(control))
            wait_for(lambda: zqueued.queue().state == "draining")
    done = zqueued.ctl("dead", "retry", letter.id)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(letters(zqueued)) == 1, "they can be looked at, too"
    if verb == "drain":
        zqueued.ctl("resume")
        return
    assert zqueued.ctl("dead", "drop", letter.id).returncode == 0, "and dropped"
    assert letters(zqueued) == []
    zqueued.ctl("start")


def _drain(control: Any) -> Any:
    from zqueue.control import messages

    return messages.Drain(id=control._next())


def test_libzmq_refuses_and_removes_nothing(
    start_zqueued: StartZqueued, connect: Connect, tmp_path: Path
) -> None:
    """What the wire engine has left can be looked at there."""
    path = tmp_path / "dead.db"
    zqueued = start_zqueued(config(f'engine = "auto"\n{OLD}\ndead_letters = "{path}"'))
    connect(zmq.REQ, zqueued.frontend()).send(b"x")
    before = wait_for_letters(zqueued, 1)
    # For auto a reason to take libzmq.
    sides = zqueued.path.read_text().replace(
        'frontend = "tcp://127.0.0.1:*"',
        'frontend = { bind = "tcp://127.0.0.1:*", reply_high_water_mark = 9 }',
    )
    zqueued.path.write_text(sides)
    zqueued.ctl("reload")
    assert zqueued.queue().engine == "libzmq"
    done = zqueued.ctl("dead", "retry", "--all")
    assert done.returncode == 1
    assert "default: 0 retried: the libzmq engine cannot ask in a client's name" in done.stderr
    assert letters(zqueued, content=True) == before
    zqueued.stop()


def test_letters_that_are_not_there(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config(OLD, head=BROKER))
    connect(zmq.REQ, zqueued.frontend()).send(b"x")
    [letter] = wait_for_letters(zqueued, 1)
    for verb in ("retry", "drop"):
        for other, says in (
            ("broker-1/default/1", "there is no dead letter broker-1/default/1 any more"),
            (letter.id.replace("broker-1", "broker-2"), "there is no dead letter broker-2/default"),
            ("nobody/1", 'there is no queue "nobody"; there are: default'),
            ("rubbish", '"rubbish" is no id of a dead letter: BROKER/QUEUE/NUMBER'),
        ):
            done = zqueued.ctl("dead", verb, letter.id, other)
            assert done.returncode == 1
            assert says in done.stderr
        assert zqueued.ctl("dead", verb).returncode == 2
        assert zqueued.ctl("dead", verb, letter.id, "--all").returncode == 2
    assert len(letters(zqueued)) == 1, "all or nothing"
    assert "no dead letter default/1 any" in zqueued.ctl("dead", "show", "default/1").stderr
    with zqueued.client() as control, pytest.raises(Refused) as refused:
        control.dead_show("default/1")
    assert refused.value.code == "unknown_letter"


# -- drop, show, export ----------------------------------------------------------------------------


def test_a_drop(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config(OLD) + config(OLD, name="other"))
    for queue in ("default", "other"):
        client = connect(zmq.DEALER, zqueued.frontend(queue))
        for body in (b"1", b"2"):
            client.send_multipart([b"", body])
    wait_for_letters(zqueued, 4)
    [one, _] = letters(zqueued, "default")
    short = "/".join(one.id.split("/")[-2:])
    assert zqueued.ctl("dead", "drop", short).stdout == "default: 1 dropped\n"
    assert bodies(letters(zqueued, "default", content=True)) == [b"2"]
    assert zqueued.ctl("dead", "drop", "--all", "--reason", "deadline").returncode == 0
    assert len(letters(zqueued)) == 3
    assert "other: 2 dropped" in zqueued.ctl("dead", "drop", "--all", "-q", "other").stdout
    assert bodies(letters(zqueued, content=True)) == [b"2"]
    assert zqueued.ctl("dead", "drop", "--all").stdout == "default: 1 dropped\nother: 0 dropped\n"
    zqueued.wait_event("dead_letters.dropped", queue="other", letters=2)
    assert [each.dead_letters.kept for each in zqueued.status().queues] == [0, 0]


def test_what_is_shown(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config(OLD, head=BROKER))
    client = connect(zmq.DEALER, zqueued.frontend(), b"teller-7")
    client.send_multipart([b"", "grüße\n\x1b[31m".encode(), b"\xff\0\x01", b"x" * 5000])
    [letter] = wait_for_letters(zqueued, 1)
    listed = zqueued.ctl("dead", "list").stdout
    for text in (letter.id, "max_waiting_time", letter.peer):
        assert text in listed
    shown = zqueued.ctl("dead", "show", letter.id).stdout
    for text in (
        letter.id,
        'client    "teller-7", from tcp://',
        "envelope  frame 1 of 4, 0 bytes",
        "  grüße\n  \\x1b[31m",
        "00000000  ff 00 01",
        "… 904 more characters; --json shows all",
    ):
        assert text in shown
    assert "\x1b" not in shown, "what a client sent does not steer the terminal"
    assert "67 72 c3 bc c3 9f 65" in zqueued.ctl("dead", "show", letter.id, "--hex").stdout
    as_json = json.loads(zqueued.ctl("dead", "show", letter.id, "--json").stdout)
    assert as_json["body"] == ["grüße\n\x1b[31m", {"base64": "/wAB"}, "x" * 5000]
    assert as_json["envelope"] == [""]
    listed_json = json.loads(zqueued.ctl("dead", "list", "--json").stdout)["letters"]
    assert [(each["id"], each["sizes"]) for each in listed_json] == [(letter.id, [0, 13, 3, 5000])]
    assert "content" not in listed_json[0]
    assert "1 dead letter: zqueuectl dead list default" in zqueued.ctl("status").stdout
    assert "dead letters 1 of " in zqueued.ctl("stats").stdout
    assert ": max_waiting_time 1" in zqueued.ctl("stats", "--explain").stdout


def test_a_list_is_of_the_newest_and_can_be_narrowed(
    start_zqueued: StartZqueued, connect: Connect
) -> None:
    zqueued = start_zqueued(config(OLD) + config(OLD, name="other"))
    for number in range(6):
        queue = "default" if number % 2 else "other"
        connect(zmq.REQ, zqueued.frontend(queue)).send(b"%d" % number)
        wait_for_letters(zqueued, number + 1)

    def listed(*options: str) -> list[tuple[str, int]]:
        found = json.loads(zqueued.ctl("dead", "list", "--json", *options).stdout)["letters"]
        return [(each["queue"], each["died_at"]) for each in found]

    everything = listed()
    assert [queue for queue, _ in everything] == ["other", "default"] * 3
    assert everything == sorted(everything, key=lambda letter: letter[1])
    assert listed("--limit", "3") == everything[-3:]
    assert listed("--limit", "0") == everything
    assert listed("other") == everything[::2]
    assert listed("--since", "1h") == everything
    assert listed("--since", "0s") == []
    assert listed("--reason", "deadline", "--reason", "queue_full") == []
    assert listed("--reason", "deadline", "--reason", "max_waiting_time") == everything
    assert zqueued.ctl("dead", "list", "nobody").returncode == 1
    assert zqueued.ctl("dead", "list", "--reason", "boredom").returncode == 2


def test_an_export_is_complete(
    start_zqueued: StartZqueued, connect: Connect, tmp_path: Path
) -> None:
    zqueued = start_zqueued(config(OLD) + config(OLD, name="other"))
    for queue in ("default", "other"):
        client = connect(zmq.DEALER, zqueued.frontend(queue))
        for number in range(20):
            client.send_multipart([b"%d" % number, b"", os.urandom(number), "ü".encode()])
    found = wait_for_letters(zqueued, 40)
    file = tmp_path / "letters.jsonl"
    done = zqueued.ctl("dead", "export", str(file))
    assert (done.returncode, done.stdout) == (0, f"40 exported to {file}\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [imported(line) for line in file.read_bytes().splitlines()] == found
    to_pipe = zqueued.ctl("dead", "export", "other", "-").stdout.splitlines()
    assert [imported(line) for line in to_pipe] == [each for each in found if each.queue == "other"]
    assert len(letters(zqueued)) == 40, "they stay"
    nowhere = zqueued.ctl("dead", "export", str(tmp_path / "none" / "x"))
    assert nowhere.returncode == 1
    assert "No such file or directory; 0 were written" in nowhere.stderr


def test_ten_thousand_letters(start_zqueued: StartZqueued, connect: Connect, peers: Peers) -> None:
    zqueued = start_zqueued(config(OLD))
    client = connect(zmq.DEALER, zqueued.frontend())
    client.sndhwm = 0
    # Not faster than they are taken: what dies faster than it is read is counted as unrecorded.
    for batch in range(20):
        for number in range(500):
            client.send_multipart([b"", b"%d" % (batch * 500 + number)])
        wait_until_kept(zqueued, 500 * (batch + 1))
    found = letters(zqueued)
    assert len({letter.id for letter in found}) == 10_000
    assert json.loads(zqueued.ctl("dead", "list", "--limit", "0", "--json").stdout)["letters"]
    peers.worker(zqueued.backend())
    zqueued.write(config())
    zqueued.ctl("reload")
    done = zqueued.ctl("dead", "retry", "--all")
    assert (done.returncode, done.stdout) == (0, "default: 10000 retried\n")
    wait_for(lambda: zqueued.queue().waiting == zqueued.queue().in_flight == 0)


def test_a_letter_of_many_mib(
    start_zqueued: StartZqueued, connect: Connect, tmp_path: Path
) -> None:
    """As large as it may be; a larger one is not kept, and counted."""
    zqueued = start_zqueued(config(OLD + '\ndead_letters_max_bytes = "64MiB"'))
    client = connect(zmq.DEALER, zqueued.frontend())
    body = os.urandom(1 << 20) * 63
    client.send_multipart([b"", body])
    found = wait_for_letters(zqueued, 1)
    assert bodies(found) == [body]
    done = zqueued.ctl("dead", "export", str(tmp_path / "x"))
    assert done.returncode == 0, done.stderr
    assert frames(imported((tmp_path / "x").read_text())) == [b"", body]
    worker = connect(zmq.REP, zqueued.backend())
    assert zqueued.ctl("dead", "retry", found[0].id).returncode == 0
    assert worker.recv() == body
    worker.send(b"")
    assert client.recv_multipart() == [b"", b""]
    worker.close(0)
    wait_for(lambda: not zqueued.queue().workers.connected)
    client.send_multipart([b"", body + body])
    wait_for(lambda: incidents(zqueued).unrecorded == 1)
    assert letters(zqueued) == []
    assert "1 request died of which no dead letter could be kept" in zqueued.ctl("status").stdout


# -- bounds and files ------------------------------------------------------------------------------


def test_past_the_bounds_the_oldest_go(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config(OLD + "\ndead_letters_max = 3"))
    client = connect(zmq.DEALER, zqueued.frontend())
    for number in range(5):
        client.send_multipart([b"", b"%d" % number])
        wait_until_kept(zqueued, min(number + 1, 3))
    wait_for(lambda: zqueued.queue().dead_letters.evicted == 2)
    assert bodies(letters(zqueued, content=True)) == [b"2", b"3", b"4"]
    zqueued.wait_event("dead_letters.full", kept=3)
    assert len(zqueued.events("dead_letters.full")) == 1


def test_none_are_kept_where_none_may_be(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config(OLD + "\ndead_letters_max = 0"))
    connect(zmq.REQ, zqueued.frontend()).send(b"x")
    assert "id" not in zqueued.wait_event("request.dead")
    assert letters(zqueued) == []
    assert zqueued.queue().dead_letters.evicted == 0


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_letters_in_a_file_outlive_the_daemon(
    end: str, start_zqueued: StartZqueued, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "dead.db"
    zqueued = start_zqueued(config(f'{OLD}\ndead_letters = "{path}"', head=BROKER))
    connect(zmq.REQ, zqueued.frontend(), b"me").send(b"x")
    before = wait_for_letters(zqueued, 1)
    zqueued.stop(signal.Signals[end])
    zqueued.process = zqueued.spawn()
    zqueued.wait_ready()
    assert letters(zqueued, content=True) == before
    assert zqueued.queue().dead_letters.path == str(path)
    client = connect(zmq.DEALER, zqueued.frontend())
    client.send_multipart([b"", b"y"])
    assert len(wait_for_letters(zqueued, 2)) == 2
    worker = connect(zmq.REP, zqueued.backend())
    assert zqueued.ctl("dead", "retry", before[0].id).returncode == 0
    assert worker.recv() == b"x"
    worker.send(b"")


def test_two_queues_in_one_file(
    start_zqueued: StartZqueued, connect: Connect, tmp_path: Path
) -> None:
    more = f'{OLD}\ndead_letters = "{tmp_path}/dead.db"'
    zqueued = start_zqueued(config(more) + config(more, name="other"))
    for queue in ("default", "other"):
        client = connect(zmq.DEALER, zqueued.frontend(queue))
        for number in range(50):
            client.send_multipart([b"", b"%s %d" % (queue.encode(), number)])
    found = wait_for_letters(zqueued, 100)
    for queue in ("default", "other"):
        mine = [each for each in found if each.queue == queue]
        assert all(body.startswith(queue.encode()) for body in bodies(mine))
        assert len(mine) == zqueued.queue(queue).dead_letters.kept == 50
    assert zqueued.events("dead_letters.failed") == []


def test_two_daemons_do_not_share_a_file(start_zqueued: StartZqueued, tmp_path: Path) -> None:
    more = f'dead_letters = "{tmp_path}/dead.db"'
    one = start_zqueued(config(more))
    other = start_zqueued(config(more), ready=False)
    assert other.process.wait(DEADLINE) == 1
    assert (
        f"zqueued: queues.default: dead_letters: {tmp_path}/dead.db: another zqueued "
        f"(pid {one.process.pid}) has it: each zqueued needs a file of its own"
    ) in other.log_path.read_text()


def test_a_file_that_cannot_be_had_stops_a_start_and_refuses_a_reload(
    start_zqueued: StartZqueued, connect: Connect, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.write_text("no database, but some notes" * 100)
    bad = config(f'{OLD}\ndead_letters = "{notes}"')
    failed = start_zqueued(bad, ready=False)
    assert failed.process.wait(DEADLINE) == 1
    assert (
        f"queues.default: dead_letters: {notes}: this is no SQLite" in failed.log_path.read_text()
    )
    zqueued = start_zqueued(config(OLD))
    zqueued.write(bad)
    done = zqueued.ctl("reload")
    assert done.returncode == 1
    assert f"dead_letters: {notes}: this is no SQLite database" in done.stderr
    connect(zmq.REQ, zqueued.frontend()).send(b"x")
    wait_for_letters(zqueued, 1)
    assert zqueued.queue().dead_letters.path is None


def test_a_reload_applies_the_keys_without_new_sockets(
    start_zqueued: StartZqueued, connect: Connect, tmp_path: Path
) -> None:
    zqueued = start_zqueued(config(OLD))
    client = connect(zmq.DEALER, zqueued.frontend())
    for number in range(4):
        client.send_multipart([b"", b"%d" % number])
    wait_for_letters(zqueued, 4)
    path = tmp_path / "dead.db"
    more = f'dead_letters = "{path}"\ndead_letters_max = 3\ndead_letters_sync = "full"'
    zqueued.write(config(f"{OLD}\n{more}\ndead_letters_max_bytes = 10000"))
    with zqueued.client() as control:
        result = control.reload()
    assert result.rebound == ()
    assert set(result.changed["default"]) == {
        "dead_letters",
        "dead_letters_max",
        "dead_letters_max_bytes",
        "dead_letters_sync",
    }
    wait_for(lambda: zqueued.queue().dead_letters.path == str(path))
    assert bodies(letters(zqueued, content=True)) == [b"1", b"2", b"3"], "they come along"
    assert zqueued.queue().clients.disconnected == 0


def test_a_lock_is_an_event_and_requests_pass_on(
    start_zqueued: StartZqueued, connect: Connect, peers: Peers, tmp_path: Path
) -> None:
    path = tmp_path / "dead.db"
    zqueued = start_zqueued(config(f'max_attempts = 1\ndead_letters = "{path}"'))
    connect(zmq.REQ, zqueued.frontend()).send(b"x")
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        worker = connect(zmq.REP, zqueued.backend())
        worker.recv()
        worker.close(0)
        event = zqueued.wait_event("dead_letters.failed", unwritten=1)
        assert "another program keeps it locked" in event["error"]
        assert zqueued.queue().dead_letters.unwritten == 1
        assert "1 dead letter is not written" in zqueued.ctl("status").stdout
        peers.worker(zqueued.backend())
        assert len(peers.client(zqueued.frontend(), requests=20).finish()) == 20
        other.execute("ROLLBACK")
    zqueued.wait_event("dead_letters.written")
    assert len(letters(zqueued)) == 1


def test_a_stopped_queue_keeps_its_letters(start_zqueued: StartZqueued, connect: Connect) -> None:
    zqueued = start_zqueued(config(OLD))
    connect(zmq.REQ, zqueued.frontend()).send(b"x")
    before = wait_for_letters(zqueued, 1)
    zqueued.ctl("terminate")
    assert letters(zqueued, content=True) == before
    zqueued.ctl("start")
    assert letters(zqueued, content=True) == before
