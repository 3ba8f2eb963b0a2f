"""What is in a queue is listed with its true numbers, and connections can be kicked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.engines import on_wire
from tests.peers import Peers
from tests.waiting import wait_for
from tests.wire import raw
from tests.zqueued import Zqueued
from zqueue.control.client import ControlClient, Refused

pytestmark = on_wire


@pytest.fixture
def control(zqueued: Zqueued) -> Iterator[ControlClient]:
    with zqueued.client() as client:
        yield client


def test_the_lists_tell_what_the_load_has_counted(
    zqueued: Zqueued, peers: Peers, control: ControlClient
) -> None:
    workers = [peers.worker(zqueued.backend(), f"w{number}") for number in range(2)]
    wait_for(lambda: zqueued.queue().workers.connected == 2)
    clients = [peers.client(zqueued.frontend(), f"c{number}", 10 + number) for number in range(3)]
    [client.finish() for client in clients]
    seen = control.workers()
    assert sorted(worker.replies for worker in seen.workers) == sorted(
        len(worker.served) for worker in workers
    )
    assert sum(worker.requests for worker in seen.workers) == 33
    assert all(worker.in_flight == 0 and worker.state == "ready" for worker in seen.workers)
    connections = control.connections(filter=["side=frontend", "state=closed"]).connections
    assert sorted(each.requests for each in connections) == [10, 11, 12]
    assert all(each.replies == each.requests for each in connections)
    assert all(each.closed_for is not None and each.reason == "" for each in connections)


def test_bytes_are_those_of_the_connection(zqueued: Zqueued, control: ControlClient) -> None:
    with (
        raw.RawPeer(zqueued.frontend(), "REQ", identity=b"me") as client,
        raw.RawPeer(zqueued.backend(), "REP", identity=b"a worker") as worker,
    ):
        client.send(b"", b"x" * 100)
        worker.serve(1)
        client.receive()
        [seen] = control.clients().clients
        handshake = len(raw.hello("REQ", identity=b"me"))
        assert seen.received_bytes == handshake + len(raw.message([b"", b"x" * 100]))
        assert (seen.requests, seen.replies, seen.waiting, seen.in_flight) == (1, 1, 0, 0)
        assert bytes.fromhex(seen.identity) == b"me"
        assert (seen.type, seen.zmtp, seen.unsent_bytes) == ("REQ", "3.1", 0)
        [seen_worker] = control.workers().workers
        assert bytes.fromhex(seen_worker.identity) == b"a worker"
        # What it was given has 9 bytes in the place of the routing id; see return_addresses.
        given = len(raw.message([b"i" * 9, b"", b"x" * 100]))
        assert seen_worker.sent_bytes - seen.sent_bytes == given - len(
            raw.message([b"", b"x" * 100])
        ) + (len(raw.ready("DEALER")) - len(raw.ready("ROUTER")))


def test_requests_are_seen_where_they_are(
    zqueued: Zqueued, control: ControlClient, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    client, worker = context.socket(zmq.DEALER), context.socket(zmq.REP)
    client.set(zmq.ROUTING_ID, b"asker")
    client.connect(zqueued.frontend())
    worker.connect(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected)
    for number in range(5):
        client.send_multipart([b"", b"x" * (number + 1)])
    wait_for(lambda: zqueued.queue().waiting == 4)
    found = control.requests()
    assert (found.total, len(found.requests)) == (5, 5)
    assert [each.state for each in found.requests] == ["waiting"] * 4 + ["in_flight"]
    [me], [it] = control.clients().clients, control.workers().workers
    assert (me.waiting, me.in_flight, me.requests) == (4, 1, 5)
    flying = found.requests[-1]
    assert (flying.client, flying.client_peer, flying.worker) == (me.id, me.peer, it.id)
    assert (flying.attempts, bytes.fromhex(flying.client_identity)) == (1, b"asker")
    assert [each.worker for each in found.requests[:4]] == [None] * 4
    ages = [each.age for each in found.requests[:4]]
    assert ages == sorted(ages, reverse=True)
    # Chosen from, sorted, cut short.
    sizes = [each.size for each in control.requests(sort="-size", limit=2).requests]
    assert sizes == sorted((each.size for each in found.requests), reverse=True)[:2]
    assert [each.id for each in control.requests(filter=["state=in_*"]).requests] == [flying.id]
    assert not control.requests(filter=["state=waiting", "worker>0"]).requests
    worker.close(0)
    wait_for(lambda: zqueued.queue().waiting == 5)
    [first, *_] = control.requests().requests
    assert (first.id, first.attempts, first.state) == (flying.id, 1, "waiting")


def test_requests_that_were_lost_are_listed_among_the_others_by_age(
    zqueued: Zqueued, control: ControlClient
) -> None:
    with raw.RawPeer(zqueued.frontend(), "DEALER") as client:
        for number in range(2):
            client.send(b"", b"%d" % number)
        for given in (3, 4):
            client.send(b"", b"younger")
            with raw.RawPeer(zqueued.backend(), "DEALER") as worker:
                for _ in range(given):
                    worker.receive()
        wait_for(lambda: zqueued.queue().waiting == 4)
        seen = control.requests().requests
        assert [each.id for each in seen] == [1, 2, 3, 4]
        assert [each.attempts for each in seen] == [2, 2, 2, 1]


def test_what_is_not_there_is_refused(zqueued: Zqueued, control: ControlClient) -> None:
    for choice, why in (
        ({"sort": "colour"}, 'there is no column "colour"; there are: id, '),
        ({"filter": ["colour=red"]}, 'there is no column "colour"'),
        ({"filter": ["in_flight"]}, '"in_flight" is no condition'),
        ({"filter": ["in_flight>many"]}, '"many" is nothing that in_flight can be compared with'),
        ({"filter": ["connected_for>5"]}, '"5" is nothing that connected_for'),
    ):
        with pytest.raises(Refused, match=why):
            control.clients(**choice)
    done = zqueued.ctl("clients", "--sort", "colour")
    assert (done.returncode, "there is no column" in done.stderr) == (1, True)
    assert zqueued.queue().state == "running"


def test_durations_and_sizes_are_written_as_in_the_config(
    zqueued: Zqueued, control: ControlClient
) -> None:
    with raw.RawPeer(zqueued.frontend(), "DEALER") as client:
        client.send(b"", b"x" * 2048)
        wait_for(lambda: zqueued.queue().waiting == 1)
        for condition, holds in (
            ("received_bytes>2KiB", True),
            ("received_bytes>1MiB", False),
            ("connected_for<1h", True),
            ("connected_for>1h", False),
            ("type!=REQ", True),
            ("type!=DEA*", False),
        ):
            assert len(control.clients(filter=[condition]).clients) == holds, condition


def test_those_that_never_were_peers_are_told_of(zqueued: Zqueued, control: ControlClient) -> None:
    with raw.RawPeer(zqueued.frontend(), "REQ", shake=False) as silent:
        [shaking] = wait_for(lambda: control.connections(filter=["state=handshake"]).connections)
        assert (shaking.side, shaking.peer) == ("frontend", silent.name)
    with raw.RawPeer(zqueued.frontend(), "REP", shake=False) as wrong:
        wrong.say(raw.hello("REP"))
        wrong.farewell()
    ended = wait_for(lambda: control.connections(filter=["reason=it is a REP*"]).connections)
    assert ended[0].state == "closed"
    assert zqueued.queue().clients.connected == 0
    shown = zqueued.ctl("connections").stdout
    assert "it is a REP" in shown
    assert not control.clients().clients


def test_one_that_is_kicked_comes_back(
    zqueued: Zqueued, peers: Peers, control: ControlClient
) -> None:
    peers.worker(zqueued.backend())
    client = peers.client(zqueued.frontend())
    wait_for(lambda: client.replies)
    [worker] = control.workers().workers
    done = zqueued.ctl("kick", str(worker.id))
    assert (done.returncode, done.stdout) == (0, f"default: ended connection {worker.id}\n")
    zqueued.wait_event("peer.kicked", id=worker.id)
    again = wait_for(lambda: control.workers(filter=[f"id!={worker.id}"]).workers)
    assert again[0].peer != worker.peer
    [gone] = control.connections(filter=[f"id={worker.id}"]).connections
    assert (gone.state, gone.reason) == ("closed", "an operator sent it away")
    assert len(client.stop()) == client.asked
    done = zqueued.ctl("kick", str(worker.id))
    assert (done.returncode, done.stderr) == (
        1,
        f"zqueuectl: there is no connection {worker.id}\n",
    )


def test_they_are_true_while_somebody_attacks(
    zqueued: Zqueued, peers: Peers, control: ControlClient
) -> None:
    enough = threading.Event()

    def attack() -> None:
        while not enough.is_set():
            with raw.RawPeer(zqueued.frontend(), "REQ", shake=False) as peer:
                peer.say(b"GET / HTTP/1.1\r\n\r\n")

    attackers = [threading.Thread(target=attack) for _ in range(3)]
    for attacker in attackers:
        attacker.start()
    try:
        peers.worker(zqueued.backend())
        for number in range(3):
            peers.client(zqueued.frontend(), f"c{number}", 50).finish()
        wait_for(lambda: zqueued.queue().clients.rejected > 500)
        ended = control.connections(filter=["side=frontend", "requests>0"]).connections
        assert [each.requests for each in ended] == [50] * 3, "the attackers do not push them out"
        all_ended = control.connections(filter=["state=closed"]).connections
        assert len(all_ended) == 3 + 128
        assert sum(worker.replies for worker in control.workers().workers) == 150
        assert zqueued.ctl("doctor").returncode == 0
        assert zqueued.ctl("top", "--once").returncode == 0
    finally:
        enough.set()
        for attacker in attackers:
            attacker.join()


def test_a_client_that_does_not_read_is_held(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued(
        '[queues.default]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
        "max_waiting = 3\n"
    )
    client = context.socket(zmq.DEALER)
    client.connect(zqueued.frontend())
    for _ in range(10):
        client.send_multipart([b"", b"x"])
    wait_for(lambda: zqueued.queue().waiting == 3)
    with zqueued.client() as control:
        [seen] = wait_for(lambda: control.clients(filter=["state=held"]).clients)
    assert (seen.waiting, seen.requests) == (3, 3)


def test_a_hand_over_keeps_what_was_counted(
    zqueued: Zqueued, peers: Peers, control: ControlClient
) -> None:
    peers.worker(zqueued.backend(), work=0.01)
    client = peers.client(zqueued.frontend(), requests=20)
    wait_for(lambda: len(client.replies) == 20)
    [before] = control.workers().workers
    assert before.p50 is not None
    assert before.p50 > 0.01 * 15 / 16
    assert zqueued.upgrade().returncode == 0
    with zqueued.client() as successor:
        [after] = successor.workers().workers
    kept = {"id", "peer", "requests", "replies", "received_bytes", "sent_bytes", "p50", "p99"}
    assert after.model_dump(include=kept) == before.model_dump(include=kept)


def test_a_slow_request_is_told_with_its_path_in_time(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(
        '[queues.default]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
        'slow_request = "200ms"\n'
    )
    peers.worker(zqueued.backend(), work=0.25)
    peers.client(zqueued.frontend(), "one", 1).finish()
    told = zqueued.wait_event("request.slow")
    assert told["took"] >= 0.25
    assert told["service"] >= 0.25
    assert told["took"] == pytest.approx(told["waited"] + told["service"], abs=1e-5)
    assert (told["attempts"], told["unsent"] > 0, told["size"] > 0) == (1, True, True)
    with zqueued.client() as control:
        [worker] = control.workers().workers
    assert told["worker"] == worker.peer


def test_json_has_all_and_watching_shows_it_again(zqueued: Zqueued, peers: Peers) -> None:
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=1).finish()
    for verb in ("workers", "clients", "connections", "requests"):
        whole = json.loads(zqueued.ctl(verb, "--json").stdout)
        assert whole["queue"] == "default"
        assert len(whole[verb]) == whole["total"]
        assert zqueued.ctl(verb).returncode == 0
    [worker] = json.loads(zqueued.ctl("workers", "--json").stdout)["workers"]
    assert worker["replies"] == 1
