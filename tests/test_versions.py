"""zqueuectl and zqueued of different versions: what one of 0.1 said and heard is recorded in
``recorded/control-0.1.jsonl``, each request of every verb with its replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from click.testing import CliRunner, Result

from tests.conftest import StartZqueued
from tests.engines import on_wire
from zqueue.cli.zqueuectl import main
from zqueue.control.client import ControlClient

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "recorded/control-0.1.jsonl").read_text().splitlines()
]
_MAPS = ("fields", "changed", "failed", "forgotten", "not_connected", "value")
"""Their keys are names; and the value of a setting, which may be anything."""

_WORDS = ("type", "engine", "state", "side", "way", "reason", "outcome", "level")


def newer(value: Any) -> Any:
    """The same from a zqueued that has more keys, and more words where there is a choice."""
    if isinstance(value, list):
        return [newer(each) for each in value]
    if not isinstance(value, dict):
        return value
    told = {
        key: each
        if key in _MAPS
        else "later"
        if key in _WORDS and isinstance(each, str)
        else newer(each)
        for key, each in value.items()
    }
    return told | {"of_later": {"key": [1]}}


class Recording:
    """Answers each verb as it was answered when it was recorded, from a newer zqueued if asked."""

    def __init__(self, folder: Path, later: bool) -> None:
        self.endpoint = f"ipc://{folder}/recorded.sock"
        self.replies = {each["request"]["verb"]: each["replies"] for each in RECORDED}
        # The last of these verbs is an error, or is about a queue that cannot tell.
        for each in RECORDED:
            if each["request"]["verb"] in ("pause", "workers") and "orders" in str(each["request"]):
                self.replies[each["request"]["verb"]] = each["replies"]
        self._later = later
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(self.endpoint)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            if not self._router.poll(50):
                continue
            caller, frame = self._router.recv_multipart()
            request = json.loads(frame)
            if self._later:
                hint = {"v": 1, "id": request["id"], "kind": "hint", "text": "of later"}
                self._router.send_multipart([caller, json.dumps(hint).encode()])
            for reply in self.replies[request["verb"]]:
                told = (newer(reply) if self._later else reply) | {"id": request["id"]}
                self._router.send_multipart([caller, json.dumps(told).encode()])

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._context.destroy(linger=0)


@pytest.fixture(params=[False, True], ids=["older", "newer"])
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recording]:
    recording = Recording(tmp_path, later=request.param)
    yield recording
    recording.close()


def test_zqueuectl_understands_an_older_and_a_newer_zqueued(
    recording: Recording, tmp_path: Path
) -> None:
    def ctl(*words: str) -> Result:
        done: Result = CliRunner().invoke(main, ("-e", recording.endpoint, *words))
        assert not done.exception or isinstance(done.exception, SystemExit), (words, done.exception)
        assert "another protocol" not in done.output, words
        return done

    for words in (
        *("status", "status orders", "queues", "stats", "stats --explain", "top --once"),
        *("watch --count 1", "workers orders", "clients orders", "connections orders"),
        *("requests orders", "events -n 3", "log-level", "config show", "version"),
        *("dead list orders", "resume orders", "start orders", "reload"),
        *("tap orders --count 1", "shutdown --no-wait"),
    ):
        plain = ctl(*words.split())
        assert plain.exit_code in (0, 1), (words, plain.output)
        assert ctl("--json", *words.split()).exit_code == plain.exit_code, words
    assert "orders" in ctl("status").output
    assert ctl("dead", "export", "orders", str(tmp_path / "letters")).exit_code == 0
    assert "REP" in ctl("workers", "orders").output
    for words in ("pause orders --wait", "drain orders", "dead drop --all", "kick 1", "doctor"):
        ctl(*words.split())


def test_the_client_understands_them(recording: Recording) -> None:
    with ControlClient(recording.endpoint) as zqueued:
        assert [queue.name for queue in zqueued.status().queues] == ["orders", "prices"]
        assert len(zqueued.connections("orders").connections) == 2
        assert len(list(zqueued.events(recent=3, follow=False))) == 3
        assert zqueued.reload().added == ("more",)
        assert zqueued.version().version == "0.1.0"
        assert next(iter(zqueued.tap("orders"))).messages
        assert zqueued.drain("orders").queues[0].queue == "orders"


def assert_still_there(was: Any, now: Any, where: str) -> None:
    """Every key that there was is there, and what it has is of the same kind."""
    if was is None or now is None:
        return
    if isinstance(was, dict):
        assert isinstance(now, dict), where
        for key, value in was.items():
            assert key in now, f"{where}.{key} is gone"
            if key not in _MAPS:
                assert_still_there(value, now[key], f"{where}.{key}")
    elif isinstance(was, list):
        assert isinstance(now, list), where
        for each in now if was else ():
            assert_still_there(was[0], each, where)
    else:
        assert isinstance(now, type(was)) or {type(was), type(now)} == {int, float}, where


@on_wire
def test_zqueued_understands_an_older_zqueuectl(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    zqueued = start_zqueued(
        f"""
        [queues.orders]
        frontend = "ipc://{tmp_path}/f"
        backend = "ipc://{tmp_path}/b"
        tap = true
        [queues.prices]
        type = "forwarder"
        frontend = "ipc://{tmp_path}/pf"
        backend = "ipc://{tmp_path}/pb"
        """
    )
    caller = context.socket(zmq.DEALER)
    caller.connect(zqueued.control)
    about_one = ("dead-read", "dead-retry", "workers")  # which is not here, or tells no workers
    for each in RECORDED:
        request, verb = each["request"], each["request"]["verb"]
        caller.send(json.dumps(request).encode())
        while True:
            assert caller.poll(20_000), f"no answer to {verb}"
            reply = json.loads(caller.recv())
            recorded = next(old for old in each["replies"] if old["kind"] in ("result", "error"))
            if reply["kind"] == recorded["kind"]:
                assert_still_there(recorded, reply, verb)
                break
            if reply["kind"] == "error":
                assert verb in about_one, reply
                break


def test_what_is_left_out_of_a_request_has_its_default(tmp_path: Path) -> None:
    """So that a zqueued that does not know it yet does not refuse it."""
    heard: list[dict[str, Any]] = []
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.ROUTER) as router:
        router.bind(f"ipc://{tmp_path}/heard.sock")

        def answer() -> None:
            for _ in range(2):
                caller, frame = router.recv_multipart()
                heard.append(json.loads(frame))
                reply = {"v": 1, "id": heard[-1]["id"], "kind": "result", "result": {"queues": []}}
                router.send_multipart([caller, json.dumps(reply).encode()])

        answering = threading.Thread(target=answer)
        answering.start()
        with ControlClient(f"ipc://{tmp_path}/heard.sock") as zqueued:
            zqueued.resume("orders")
            zqueued.drain("orders", timeout=3)
        answering.join()
    without_id = [{key: value for key, value in each.items() if key != "id"} for each in heard]
    assert without_id == [
        {"v": 1, "verb": "resume", "queues": ["orders"]},
        {"v": 1, "verb": "drain", "queues": ["orders"], "timeout": 3.0, "progress": True},
    ]
