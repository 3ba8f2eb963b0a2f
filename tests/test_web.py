"""The HTTP that zqueued serves: who gets what, and what bad or too many callers do not do."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.conftest import StartZqueued
from tests.engines import on_every_engine
from tests.http import SERVED, address, ask, say
from tests.peers import Peers, wait_for_more
from tests.stuck_thread import stopped_thread
from tests.waiting import DEADLINE, wait_for
from tests.zqueued import ONE_QUEUE, TWO_QUEUES, Zqueued, free_port
from zqueue.web import hosts


@pytest.fixture
def served(start_zqueued: StartZqueued) -> Zqueued:
    return start_zqueued(SERVED + TWO_QUEUES)


# -- paths -------------------------------------------------------------------------------------


def test_nothing_is_served_where_the_config_does_not_say_so(zqueued: Zqueued) -> None:
    assert zqueued.events("metrics.listening") == []
    check = "import sys, zqueue.daemon; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0  # nor waited for


@on_every_engine
def test_the_api_says_what_zqueuectl_says(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(SERVED + TWO_QUEUES)
    peers.worker(zqueued.backend("orders"))
    peers.client(zqueued.frontend("orders"), requests=20).finish()
    wait_for(lambda: zqueued.queue("orders").replies.messages == 20, "all to be counted")
    status = ask(zqueued, "/api/v1/status").json
    ours = zqueued.status().model_dump(mode="json")
    changing = ("uptime", "since", "last_activity")

    def steady(queue: dict[str, object]) -> dict[str, object]:
        left = {key: value for key, value in queue.items() if key not in changing}
        for way in ("requests", "replies"):
            left[way] = {k: v for k, v in queue[way].items() if "per_second" not in k}  # type: ignore[attr-defined]
        return left

    assert status.keys() == ours.keys()
    for queue, our in zip(status["queues"], ours["queues"], strict=True):
        assert steady(queue) == steady(our)
    assert status["queues"][0]["requests"]["messages"] == 20
    assert ask(zqueued, "/api/v1/stats").json.keys() == {"queues"}
    assert ask(zqueued, "/api/v1/version").json["pid"] == zqueued.process.pid
    answer = ask(zqueued, "/api/v1/workers?queue=orders")
    if zqueued.engine == "wire":
        assert [each["replies"] for each in answer.json["workers"]] == [20]
        of_them = ask(zqueued, "/api/v1/clients?queue=orders&filter=requests>0,state=ready&limit=1")
        assert len(of_them.json["clients"]) <= 1
        ended = ask(zqueued, "/api/v1/connections?queue=orders&sort=-requests&filter=side=frontend")
        assert ended.json["connections"][0]["requests"] == 20
        assert ask(zqueued, "/api/v1/requests?queue=orders").json["total"] == 0
    else:
        assert (answer.status, answer.json["error"]["code"]) == (409, "refused")


def test_the_api_says_what_is_wrong(served: Zqueued) -> None:
    for path, status, code in (
        ("/api/v1/workers", 400, "ambiguous"),
        ("/api/v1/workers?queue=none", 404, "unknown_queue"),
        ("/api/v1/clients?queue=orders&limit=few", 400, "malformed"),
        ("/api/v1/shutdown", 404, "unknown"),
    ):
        answer = ask(served, path)
        assert (answer.status, answer.json["error"]["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/json"


def test_every_answer_may_be_kept_by_nobody_and_load_nothing(served: Zqueued) -> None:
    for path in ("/", "/metrics", "/healthz", "/page.js", "/api/v1/status", "/none"):
        answer = ask(served, path)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_head_is_an_answer_without_its_body(served: Zqueued) -> None:
    answer = ask(served, "/healthz", "HEAD")
    assert (answer.status, answer.text, answer.headers["content-length"]) == (200, "", "3")


def test_the_page(served: Zqueued) -> None:
    served.ctl("pause", "orders")
    answer = ask(served, "/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Look at this" in answer.text
    assert f"zqueuectl -e {served.control} resume orders" in answer.text
    assert '<noscript><meta http-equiv="refresh"' in answer.text
    # All that it loads is its own.
    loaded = re.findall(r'(?:src|href)="([^"]*)"', answer.text)
    assert all(path.startswith("/") for path in loaded)
    for path in loaded:
        assert ask(served, path).status in (200, 503)
    assert "url(" not in ask(served, "/page.css").text
    assert "<script>" not in answer.text
    assert "style=" not in answer.text


# -- health ------------------------------------------------------------------------------------


def test_ready_in_each_state(served: Zqueued) -> None:
    assert (ask(served, "/readyz").status, ask(served, "/readyz").text) == (200, "ok\n")
    for verb, state in (("pause", "paused"), ("drain", "paused"), ("terminate", "stopped")):
        served.ctl(verb, "orders")
        answer = ask(served, "/readyz")
        assert answer.status == 503
        assert answer.text.startswith(f"orders: {state} by {os.geteuid()}/")
        assert ask(served, "/healthz").status == 200
        served.ctl("start", "orders")
        served.ctl("resume", "orders")
        assert ask(served, "/readyz").status == 200


def test_not_ready_while_it_drains_and_then_stops(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(SERVED + '[daemon]\ndrain_timeout = "1m"\n' + ONE_QUEUE)
    worker = peers.worker(zqueued.backend(), work=DEADLINE * 2)
    client = peers.client(zqueued.frontend(), requests=1)
    wait_for(lambda: zqueued.queue().in_flight == 1, "the request to be at the worker")
    zqueued.process.send_signal(signal.SIGTERM)
    zqueued.wait_event("queue.draining")
    answer = ask(zqueued, "/readyz")
    assert answer.status == 503
    assert answer.text.startswith("zqueued is stopping\ndefault: draining by shutdown")
    assert ask(zqueued, "/healthz").status == 200
    worker._stopping.set()  # it answers now
    client.finish()
    assert zqueued.process.wait(DEADLINE) == 0


def test_a_queue_that_hangs_is_told_and_holds_up_nothing(served: Zqueued, peers: Peers) -> None:
    peers.worker(served.backend("other"))
    client = peers.client(served.frontend("other"))
    with stopped_thread(served.process.pid, "zq.orders"):
        served.wait_event("daemon.stalled", queues="orders")
        answer = ask(served, "/healthz")
        assert (answer.status, answer.text) == (503, "orders: its thread does not answer\n")
        assert "orders: does not answer" in ask(served, "/readyz").text
        assert 'zqueue_queue_stale{queue="orders"} 1.0' in ask(served, "/metrics").text
        assert 'zqueue_queue_stale{queue="other"} 0.0' in ask(served, "/metrics").text
        wait_for_more([client], 10)
    wait_for(lambda: ask(served, "/healthz").status == 200, "the queue to answer again")
    client.stop()


# -- bad callers -------------------------------------------------------------------------------


ASKED = b" HTTP/1.1\r\nHost: localhost\r\n"
BAD = [
    (b"GET /none" + ASKED + b"\r\n", 404),
    (b"GET /../../etc/passwd" + ASKED + b"\r\n", 404),
    (b"GET /page%2ecss/.." + ASKED + b"\r\n", 404),
    (b"POST /" + ASKED + b"Content-Length: 3\r\n\r\nabc", 405),
    (b"DELETE /api/v1/status" + ASKED + b"\r\n", 405),
    (b"GET http://elsewhere/" + ASKED + b"\r\n", 421),
    (b"GET https://localhost/" + ASKED + b"\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\n\r\n", 505),
    (b"GET /" + ASKED + b": nameless\r\n\r\n", 400),
    (b"GET /" + ASKED + b"no colon\r\n\r\n", 400),
    (b"GET /" + ASKED + b"a\x00b: c\r\n\r\n", 400),
    (b"GET /" + ASKED + b"a b: c\r\n\r\n", 400),
    (b"GET /" + ASKED + b"a: b\x00\r\n\r\n", 400),
    (b"GET /" + ASKED + b"Host: localhost\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
    (b"GET / HTTP/1.1\r\nHost: localhost.evil.example:9560\r\n\r\n", 421),
    (b"GET //[" + ASKED + b"\r\n", 404),
    (b"GET /?" + b"a=1&" * 99 + ASKED + b"\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    (b"\xff\xff\xff \xff \xff\r\n\r\n", 400),
    (b"GET /" + b"a" * 40_000 + ASKED + b"\r\n", 431),
    (b"GET /" + ASKED + b"a: b\r\n" * 9_000 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\n", 408),
]


def test_only_this_machine_is_asked(served: Zqueued) -> None:
    """A web site that has a browser ask this address under the site's name reads nothing."""
    own = os.uname().nodename
    for host in ("127.0.0.1", "10.1.2.3:9560", "[::1]:9560", "localhost", "LOCALHOST.:80", own):
        answered = say(served, b"GET /healthz HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode())
        assert answered.startswith(b"HTTP/1.1 200 "), (host, answered)
        date = re.search(rb"\r\nDate: (.*)\r\n", answered)
        assert date is not None
        assert abs(parsedate_to_datetime(date[1].decode()).timestamp() - time.time()) < 60
    absolute = b"GET http://127.0.0.1:1/healthz?a" + ASKED + b"\r\n"
    for said in (b"GET /healthz HTTP/1.0\r\n\r\n", absolute):
        assert say(served, said).startswith(b"HTTP/1.1 200 "), said
    for path in ("/", "/metrics", "/api/v1/clients", "/healthz", "/page.js"):
        refused = ask(served, path, Host="rebound.example")
        assert refused.status == 421
        assert refused.text.splitlines()[1].endswith('[metrics] hosts = ["rebound.example"]')


def test_which_names_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_HOSTS", tmp_path / "hosts")
    monkeypatch.setattr(hosts, "_RESOLVER", tmp_path / "resolv.conf")
    short = os.uname().nodename.lower().partition(".")[0]
    assert not hosts.is_ours("alias", ())
    assert not hosts.is_ours(f"{short}.corp.example", ())
    (tmp_path / "hosts").write_text("# comment\n127.0.1.1 Alias alias.example # more\n")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\nsearch corp.example. lan\n")
    for host in ("alias", "alias.example", f"{short}.corp.example", f"{short}.lan", "::1", short):
        assert hosts.is_ours(host, ()), host
    for host in ("comment", "more", "corp.example", "nameserver", f"x.{short}.lan", "1.2.3", ""):
        assert not hosts.is_ours(host, ()), host
    assert hosts.is_ours("metrics.example.com", ("Metrics.example.com",))


def test_what_is_answered_to_what_is_no_good(served: Zqueued) -> None:
    for said, status in BAD:
        answered = say(served, said)
        assert answered.startswith(b"HTTP/1.1 %d " % status), said[:60]
        if status == 405:
            assert b"\r\nAllow: GET, HEAD\r\n" in answered
    assert ask(served, "/healthz").status == 200
    assert served.events("daemon.error") == []


def test_silent_connections_keep_nobody_out(served: Zqueued, peers: Peers) -> None:
    peers.worker(served.backend("orders"))
    client = peers.client(served.frontend("orders"))
    before = len(os.listdir(f"/proc/{served.process.pid}/fd"))
    silent = [socket.create_connection(address(served)) for _ in range(300)]
    try:
        for _ in range(5):
            assert "zqueue_ready 1.0\n" in ask(served, "/metrics").text
        wait_for_more([client], 10)
        assert len(os.listdir(f"/proc/{served.process.pid}/fd")) < before + 100
        assert len(served.status().queues) == 2
    finally:
        for each in silent:
            each.close()
    client.stop()


def test_one_who_does_not_read_keeps_nobody_out(served: Zqueued) -> None:
    greedy = []
    for _ in range(100):
        sock = socket.create_connection(address(served))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sock.sendall(b"GET /metrics" + ASKED + b"\r\n")
        greedy.append(sock)
    try:
        wait_for(lambda: ask(served, "/healthz").status == 200, "an answer")
    finally:
        for sock in greedy:
            sock.close()


# -- where it listens --------------------------------------------------------------------------


def test_a_unix_socket(start_zqueued: StartZqueued, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    zqueued = start_zqueued(f'[metrics]\nlisten = "{path}"\n{ONE_QUEUE}')
    assert zqueued.wait_event("metrics.listening")["url"] == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"GET /healthz" + ASKED + b"\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert zqueued.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_hosts(start_zqueued: StartZqueued, host: str) -> None:
    zqueued = start_zqueued(f'[metrics]\nlisten = "{host}:*"\n{ONE_QUEUE}')
    assert ask(zqueued, "/healthz").status == 200
    assert zqueued.events("daemon.open_to_anyone") == []


def test_a_port_in_use_is_told_with_its_holder(start_zqueued: StartZqueued) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        zqueued = start_zqueued(f'[metrics]\nlisten = "127.0.0.1:{port}"\n{ONE_QUEUE}', ready=False)
        assert zqueued.process.wait(DEADLINE) == 1
    said = zqueued.log_path.read_text()
    assert f"metrics.listen: tcp://127.0.0.1:{port}: port {port} is in use by " in said
    assert f"(pid {os.getpid()})" in said


def test_a_reload_moves_it(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(ONE_QUEUE)
    peers.worker(zqueued.backend())
    client = peers.client(zqueued.frontend())

    def reload(metrics: str) -> None:
        zqueued.write(metrics + ONE_QUEUE)
        done = zqueued.ctl("reload")
        assert done.returncode == 0, done.stderr
        assert "needs a restart" not in done.stdout

    first, second = free_port(), free_port()
    for number, listen in enumerate(
        (f"127.0.0.1:{first}", f"127.0.0.1:{second}", f"*:{second}", f"127.0.0.1:{second}"), 1
    ):
        reload(f'[metrics]\nlisten = "{listen}"\n')
        zqueued.wait_events("metrics.listening", number)
        assert ask(zqueued, "/healthz").status == 200
    assert len(zqueued.events("daemon.open_to_anyone")) == 1
    where = address(zqueued)
    reload("")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)
    wait_for_more([client], 10)
    client.stop()


def test_a_reload_that_is_refused_moves_nothing(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(SERVED + ONE_QUEUE)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port, free = other.getsockname()[1], free_port()
        zqueued.write(f'[metrics]\nlisten = "127.0.0.1:{port}"\n{ONE_QUEUE}')
        done = zqueued.ctl("reload")
        assert done.returncode == 1
        assert f"metrics.listen: tcp://127.0.0.1:{port}: port {port} is in use" in done.stderr
        taken = ONE_QUEUE.replace("127.0.0.1:*", f"127.0.0.1:{port}", 1)
        zqueued.write(f'[metrics]\nlisten = "127.0.0.1:{free}"\n{taken}')
        assert zqueued.ctl("reload").returncode == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", free))
    assert ask(zqueued, "/healthz").status == 200


def test_it_is_handed_over(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(SERVED + ONE_QUEUE)
    before, where = zqueued.process.pid, address(zqueued)
    assert zqueued.upgrade().returncode == 0
    wait_for(lambda: before not in zqueued.pids(), "the old process to be gone")
    assert address(zqueued) == where
    assert [ask(zqueued, "/api/v1/version").json["pid"]] == zqueued.pids()
