"""The control socket: every request is answered, whatever it is, and nobody waits for another."""

from __future__ import annotations

import json
import random
import resource
import signal
import socket
import threading
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.conftest import StartZqueued
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import Zqueued
from zqueue.control import messages
from zqueue.control.client import ControlClient, Refused, Unreachable

STATUS = {"v": 1, "id": "7", "verb": "status"}
# The same in each process of a run: it is part of a test's name.
NOISE = random.Random(7).randbytes(10 << 20)


@pytest.fixture
def caller(zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    dealer = context.socket(zmq.DEALER)
    dealer.connect(zqueued.control)
    return dealer


def answer(caller: zmq.Socket[bytes], *frames: bytes) -> dict[str, Any]:
    caller.send_multipart(frames)
    assert caller.poll(10_000), "no answer"
    reply: dict[str, Any] = json.loads(caller.recv_multipart()[-1])
    TypeAdapter(messages.Reply).validate_python(reply)
    return reply


def dump(**request: Any) -> bytes:
    return json.dumps({"v": 1, "id": "7"} | request).encode()


@pytest.mark.parametrize(
    ("frames", "code", "says"),
    [
        ([b""], "malformed", "0 frames"),
        ([b"x", b"y"], "malformed", "2 frames"),
        ([b"", b"x", b"y"], "malformed", "2 frames"),
        ([b"{"], "malformed", "not JSON"),
        ([b"\xff\xfe"], "malformed", "not JSON"),
        ([b"[1]"], "malformed", "got list"),
        ([b"[" * 100_000], "malformed", "not JSON"),
        ([b"{}"], "version", "got none"),
        ([json.dumps(STATUS | {"v": 2}).encode()], "version", "speaks protocol version 1; got 2"),
        ([json.dumps(STATUS | {"v": True}).encode()], "version", "got true"),
        ([dump(verb="fly")], "unknown_verb", '"fly"; there are: cancel, clients'),
        ([dump()], "unknown_verb", "null"),
        ([dump(verb=["status"])], "unknown_verb", "there are"),
        ([dump(verb="status", wings=2)], "malformed", "wings"),
        ([dump(verb="pause", queues="default")], "malformed", "queues"),
        ([dump(verb="drain", timeout=-1)], "malformed", "timeout"),
        ([dump(verb="drain", timeout="NaN", then="fly")], "malformed", "then"),
        ([dump(verb="pause", queues=["nobody"])], "unknown_queue", "there are: default"),
        ([dump(verb="log-level", level="loud")], "malformed", "level"),
        ([dump(verb="status", id="")], "malformed", "id"),
        ([dump(verb="status", id=7)], "malformed", "id"),
        ([b'{"v": 1, "verb": "status"}'], "malformed", "id"),
        ([NOISE], "malformed", "10485760 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[0][:24]),
)
def test_a_bad_request_gets_a_clear_error(
    frames: list[bytes], code: str, says: str, caller: zmq.Socket[bytes]
) -> None:
    reply = answer(caller, *frames)
    assert (reply["kind"], reply["code"]) == ("error", code)
    assert says in reply["message"]
    assert answer(caller, dump(verb="status"))["kind"] == "result"


def test_a_bad_request_is_told_as_an_event(zqueued: Zqueued, caller: zmq.Socket[bytes]) -> None:
    answer(caller, dump(verb="fly"))
    event = zqueued.wait_event("control.refused", verb="fly")
    assert event["by"] == "0/root"
    for _ in range(200):
        answer(caller, b"rubbish")
    assert len(zqueued.events("control.refused")) < 100, "nobody may fill the log"


def test_a_req_and_a_dealer_are_answered_alike(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    req = context.socket(zmq.REQ)
    req.connect(zqueued.control)
    assert answer(req, dump(verb="version"))["result"]["protocol"] == 1
    dealer = context.socket(zmq.DEALER)
    dealer.connect(zqueued.control)
    dealer.send_multipart([b"", dump(verb="version")])
    assert dealer.recv_multipart()[0] == b""


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    request_=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["v", "id", "verb", "queues", "all", "timeout", "level"]), inner
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_whatever_comes_is_answered_once(request_: bytes, caller: zmq.Socket[bytes]) -> None:
    assert answer(caller, request_)["kind"] == "error"
    assert not caller.poll(0)


def test_many_callers_at_once(zqueued: Zqueued) -> None:
    failures: list[str] = []

    def call() -> None:
        try:
            with zqueued.client(timeout=30) as control:
                for _ in range(5):
                    control.status()
        except Exception as error:
            failures.append(repr(error))

    callers = [threading.Thread(target=call) for _ in range(60)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert failures == []


def test_a_caller_has_only_so_many_requests_at_once(
    zqueued: Zqueued, peers: Peers, caller: zmq.Socket[bytes]
) -> None:
    peers.worker(zqueued.backend(), work=60)
    peers.client(zqueued.frontend(), requests=1)
    wait_for(lambda: zqueued.queue().in_flight == 1)
    for number in range(70):
        caller.send(dump(verb="drain", id=str(number), timeout=60))
    replies = [json.loads(caller.recv()) for _ in range(6)]
    assert {reply["code"] for reply in replies} == {"busy"}
    assert zqueued.ctl("resume").returncode == 0
    ended = [json.loads(caller.recv()) for _ in range(64)]
    assert {reply["result"]["queues"][0]["outcome"] for reply in ended} == {"interrupted"}


class TestEvents:
    def test_are_seen_live(self, zqueued: Zqueued) -> None:
        with zqueued.client() as follower, zqueued.client() as control:
            events = follower.events()
            control.pause()
            control.resume()
            names = []
            for event in events:
                names.append(event.name)
                if event.name == "queue.running":
                    break
            assert names == ["queue.paused", "queue.running"]

    def test_recent_ones_are_remembered(self, zqueued: Zqueued) -> None:
        with zqueued.client() as control:
            recent = list(control.events(recent=100, follow=False))
            assert [event.name for event in recent][:2] == ["daemon.starting", "queue.starting"]
            assert list(control.events("nobody", recent=100, follow=False)) == []

    def test_can_be_cancelled(self, caller: zmq.Socket[bytes]) -> None:
        assert answer(caller, dump(verb="events", id="e", progress=True))["kind"] == "progress"
        caller.send(dump(verb="cancel", request="e"))
        ends = [json.loads(caller.recv()) for _ in range(2)]
        assert [(end["id"], end["kind"]) for end in ends] == [("e", "result"), ("7", "result")]
        assert answer(caller, dump(verb="cancel", request="e"))["result"] == {"cancelled": False}

    def test_a_follower_that_does_not_read_holds_nobody_up(
        self, zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        deaf = context.socket(zmq.DEALER)
        deaf.set_hwm(1)
        deaf.connect(zqueued.control)
        for number in range(60):
            deaf.send(dump(verb="events", id=str(number)))
        with zqueued.client() as control:
            for _ in range(60):
                control.pause()
                control.resume()
            assert control.status().queues[0].state == "running"
        deaf.close(0)
        with zqueued.client() as control:
            control.pause()
            assert control.resume().ok


class TestUnreachable:
    def test_no_socket(self, tmp_path: Any) -> None:
        with pytest.raises(Unreachable, match="no socket is there"):
            ControlClient(f"ipc://{tmp_path}/control.sock")

    def test_a_stale_socket(self, zqueued: Zqueued) -> None:
        zqueued.kill()
        with pytest.raises(Unreachable, match="nobody listens"):
            ControlClient(zqueued.control)

    def test_no_answer_in_time(self, zqueued: Zqueued) -> None:
        zqueued.process.send_signal(signal.SIGSTOP)
        try:
            with (
                ControlClient(zqueued.control, timeout=0.3) as control,
                pytest.raises(Unreachable, match=r"no answer within 0\.3 s"),
            ):
                control.status()
        finally:
            zqueued.process.send_signal(signal.SIGCONT)

    def test_a_daemon_that_ends_in_the_middle(self, zqueued: Zqueued) -> None:
        with zqueued.client() as control:
            events = control.events()
            zqueued.kill()
            with pytest.raises(Unreachable, match="ended before it answered"):
                next(events)
            with pytest.raises(Unreachable):
                control.status()

    def test_no_endpoint_at_all(self) -> None:
        with pytest.raises(Unreachable, match="no endpoint"):
            ControlClient("tcp://127.0.0.1:1")


def test_one_stuck_queue_delays_nobody(start_zqueued: StartZqueued) -> None:
    """A queue whose thread is stopped (SIGSTOP has no thread-wise kin; a ptrace stop is one)."""
    zqueued = start_zqueued("""
[queues.stuck]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
[queues.well]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
""")
    from tests.stuck_thread import stopped_thread

    with stopped_thread(zqueued.process.pid, "zq.stuck"):
        status = zqueued.status()
        assert {queue.name: queue.stale for queue in status.queues} == {
            "stuck": True,
            "well": False,
        }
        with zqueued.client() as control:
            assert control.pause("well").ok
        zqueued.wait_event("daemon.stalled", queues="stuck")
    wait_for(lambda: not zqueued.queue("stuck").stale)


def test_refused_has_a_code(zqueued: Zqueued) -> None:
    with zqueued.client() as control, pytest.raises(Refused) as refused:
        control.pause("nobody")
    assert refused.value.code == "unknown_queue"


def test_an_id_that_no_answer_can_repeat(zqueued: Zqueued, caller: zmq.Socket[bytes]) -> None:
    reply = answer(caller, b'{"v": 1, "id": "\\ud800", "verb": "nope"}')
    assert (reply["code"], reply["id"]) == ("malformed", None)
    assert zqueued.queue().state == "running"


def test_a_slow_follower_is_told_how_much_it_missed(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    slow = context.socket(zmq.DEALER)
    slow.set_hwm(1)
    slow.setsockopt(zmq.RCVBUF, 4096)
    slow.connect(zqueued.control)
    for number in range(40):
        slow.send(dump(verb="events", id=str(number), progress=True))
    with zqueued.client() as control:
        for _ in range(100):
            control.pause()
            control.resume()
    received = dropped = 0
    while slow.poll(500):
        dropped += json.loads(slow.recv()).get("dropped", 0)
        received += 1
    with zqueued.client() as control:
        control.pause()
    while slow.poll(500):
        dropped += json.loads(slow.recv()).get("dropped", 0)
        received += 1
    assert dropped > 0
    assert received < 8000
    assert "never retrieved" not in zqueued.log_path.read_text()


def test_answers_that_nobody_reads_are_counted(
    zqueued: Zqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    slow = context.socket(zmq.DEALER)
    slow.set_hwm(1)
    slow.setsockopt(zmq.RCVBUF, 4096)
    slow.connect(zqueued.control)
    assert zqueued.status().replies_dropped == 0
    asked = 0
    while not zqueued.status().replies_dropped:
        for _ in range(500):
            slow.send(dump(verb="config"))
        asked += 500
        assert asked < 20_000
    dropped = zqueued.status().replies_dropped
    assert f"{dropped} answer" in zqueued.ctl("doctor").stdout
    while slow.poll(500):
        assert json.loads(slow.recv())["kind"] in ("result", "error")
        asked -= 1
    assert asked == zqueued.status().replies_dropped


def test_callers_without_number_do_not_use_up_the_descriptors(
    start_zqueued: StartZqueued,
) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (6144, 6144))

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    zqueued = start_zqueued(preexec_fn=few)
    path = zqueued.control.removeprefix("ipc://")
    crowd = []
    for _ in range(6200):
        one = socket.socket(socket.AF_UNIX)
        try:
            one.connect(path)
        except OSError:
            one.close()
            break
        crowd.append(one)
    zqueued.wait_event("listener.closed_gate", side="control")
    for one in crowd:
        one.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    zqueued.wait_event("listener.opened_gate", side="control")
    assert zqueued.queue().state == "running"
