"""zqueuectl top: what it prints, what is seen at a terminal, and what its keys do."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartZqueued
from tests.crowd import CrowdProcess, assert_undisturbed
from tests.engines import about, on_every_engine, on_libzmq, on_wire
from tests.nobody import command_as_nobody, zqueuectl_as_nobody
from tests.peers import Peers
from tests.terminal import Terminal
from tests.waiting import DEADLINE, wait_for
from tests.zqueued import ONE_QUEUE, Zqueued
from zqueue.cli.top import view
from zqueue.cli.top.follower import Look
from zqueue.cli.top.keyboard import keys_of
from zqueue.cli.top.lists import WORKERS
from zqueue.cli.top.model import Model
from zqueue.cli.top.table import Column, lay_out
from zqueue.control.messages import Peers as Connections
from zqueue.control.messages import QueueStatus, StatusResult, Traffic, Worker

TWO_QUEUES = """
[queues.orders]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
[queues.prices]
frontend = "tcp://127.0.0.1:*"
backend = "tcp://127.0.0.1:*"
"""
OpenTop = Callable[..., Terminal]


@pytest.fixture
def open_top() -> Iterator[OpenTop]:
    """Starts zqueuectl top at terminals of their own."""
    terminals: list[Terminal] = []

    def start(zqueued: Zqueued, *arguments: str, **size: int) -> Terminal:
        command = (sys.executable, "-m", "zqueue.cli.zqueuectl", "-e", zqueued.control, "top")
        terminals.append(Terminal((*command, *arguments), **size))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


# -- printed -----------------------------------------------------------------------------------


@on_every_engine
def test_once_shows_the_true_figures(start_zqueued: StartZqueued, engine: str) -> None:
    zqueued = start_zqueued(TWO_QUEUES)
    crowd = CrowdProcess(zqueued.frontend("orders"), zqueued.backend("orders"), workers=3)
    crowd.wait_ready()
    noticed = crowd.finish()
    assert_undisturbed(noticed)
    wait_for(lambda: zqueued.queue("orders").workers.connected == 0, "the peers to have left")
    done = zqueued.ctl("top", "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert f"pid {zqueued.process.pid}" in done.stdout.splitlines()[0]
    [row] = [line.split() for line in done.stdout.splitlines() if " orders " in line][:1]
    assert row[1:3] == ["orders", "running"]
    assert row[5:7] == [f"{about(engine)}0"] * 2, "waiting, in flight"
    assert row[-3:-1] == ["0", "0"], "workers, clients"
    assert "prices: no worker is connected → workers connect to tcp://127" in done.stdout
    shown = json.loads(zqueued.ctl("top", "--json").stdout)
    assert shown["status"]["queues"][0]["requests"]["messages"] == noticed["replies"]
    assert shown["findings"][0]["queue"] in ("orders", "prices")
    assert shown["workers"] == (None if engine == "libzmq" else [])


@on_wire
def test_the_workers_of_the_queue_that_is_named_are_listed(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(TWO_QUEUES)
    served = [peers.worker(zqueued.backend("prices")) for _ in range(3)]
    for _ in range(4):
        peers.client(zqueued.frontend("prices"), requests=30)
    wait_for(lambda: sum(len(worker.served) for worker in served) == 120, "all to be answered")
    wait_for(lambda: zqueued.queue("prices").replies.messages == 120, "all to be counted")
    shown = zqueued.ctl("top", "prices", "--once").stdout
    assert "WORKERS (w)  CLIENTS (c) of prices: 3, by id" in shown
    rows = re.findall(r"(?m)^[▸ ] +\d+ +(\d+) +(\d+) .* REP ", shown)
    answered = [int(count) for _, count in rows]
    assert [in_flight for in_flight, _ in rows] == ["0"] * 3
    assert sorted(answered) == sorted(len(worker.served) for worker in served)
    assert (
        "WORKERS (w)  CLIENTS (c) of orders\n  no workers"
        in zqueued.ctl("top", "orders", "--once").stdout
    )


@on_wire
def test_its_clients_are_listed_by_a_key(zqueued: Zqueued, peers: Peers, open_top: OpenTop) -> None:
    peers.client(zqueued.frontend(), requests=1)
    wait_for(lambda: zqueued.queue().waiting == 1)
    terminal = open_top(zqueued, columns=120, lines=24)
    terminal.line("WORKERS (w)  CLIENTS (c) of default")
    terminal.type("c")
    terminal.line("CLIENTS (c) of default: 1")
    with zqueued.client() as control:
        [client] = control.clients().clients
    terminal.line(client.peer)
    peers.worker(zqueued.backend())


@on_libzmq
def test_a_queue_whose_workers_are_not_known_says_so(zqueued: Zqueued) -> None:
    shown = zqueued.ctl("top", "--once").stdout
    assert "default: the libzmq engine cannot tell connections apart" in shown
    assert "~ is an estimate" in shown


def test_it_is_printed_as_often_as_wanted(zqueued: Zqueued) -> None:
    shown = zqueued.ctl("top", "-n", "3", "--interval", "10ms").stdout
    assert shown.count("zqueued ") == 3
    assert zqueued.ctl("top", "-n", "3", "--once").stdout.count("zqueued ") == 1
    lines = zqueued.ctl("top", "--json", "-n", "2", "--interval", "10ms").stdout.splitlines()
    assert [json.loads(line)["queue"] for line in lines] == ["default"] * 2


def test_a_terminal_without_utf_8_gets_ascii(zqueued: Zqueued) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = zqueued.ctl("top", "-n", "2", "--interval", "10ms", env=environment)
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "> default" in done.stdout


def test_what_cannot_be_shown_has_its_exit_code(zqueued: Zqueued, tmp_path: Path) -> None:
    assert zqueued.ctl("top", "nobody").returncode == 1
    zqueued.stop()
    assert zqueued.ctl("top", "--once").returncode == 69


# -- at a terminal -------------------------------------------------------------------------------


def test_it_leaves_the_terminal_as_it_was(zqueued: Zqueued, open_top: OpenTop) -> None:
    for leave, code in (("q", 0), ("\x03", 0), (signal.SIGTERM, 128 + signal.SIGTERM)):
        terminal = open_top(zqueued)
        terminal.line("default")
        assert terminal.is_covered
        assert terminal.settings != terminal.before
        if isinstance(leave, str):
            terminal.type(leave)
        else:
            terminal.process.send_signal(leave)
        assert terminal.end() == code
        assert terminal.settings == terminal.before
        assert not terminal.is_covered
        assert "Traceback" not in terminal.received
        assert terminal.received.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")


def test_it_stops_and_goes_on_as_the_shell_says(zqueued: Zqueued, open_top: OpenTop) -> None:
    terminal = open_top(zqueued)
    terminal.line("default")
    terminal.type("\x1a")

    def state() -> str:
        stat = Path(f"/proc/{terminal.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0]

    terminal.wait(lambda: state() == "T", "it to be stopped")
    terminal.wait(lambda: not terminal.is_covered, "the screen to be given back")
    assert terminal.settings == terminal.before
    terminal.process.send_signal(signal.SIGCONT)
    terminal.wait(lambda: terminal.is_covered, "the screen to be taken again")
    terminal.type("?")
    terminal.line("Any key goes back")
    terminal.type("xq")
    assert terminal.end() == 0


def test_it_ends_after_so_many_looks(zqueued: Zqueued, open_top: OpenTop) -> None:
    terminal = open_top(zqueued, "-n", "3", "--interval", "20ms")
    assert terminal.end() == 0
    assert terminal.settings == terminal.before


def test_a_queue_is_steered_once_that_is_confirmed(
    start_zqueued: StartZqueued, open_top: OpenTop, peers: Peers
) -> None:
    zqueued = start_zqueued(TWO_QUEUES)
    terminal = open_top(zqueued)
    terminal.line("▸ orders")
    terminal.type("j")
    terminal.line("▸ prices")
    terminal.type("p")
    terminal.line("pause prices?")
    terminal.type("n")
    terminal.line("not done: pause prices")
    assert zqueued.queue("prices").state == "running"
    terminal.type("py")
    terminal.line("prices: paused")
    assert zqueued.queue("prices").state == "paused"
    assert zqueued.queue("orders").state == "running"
    terminal.line("has paused it → zqueuectl -e ")
    terminal.type("uy")
    terminal.line("prices: running")
    assert zqueued.queue("prices").state == "running"
    terminal.type("\x1b[A")
    terminal.line("▸ orders")
    terminal.type("dy")
    terminal.line("orders: drained")
    assert zqueued.queue("orders").state == "paused"


@on_wire
def test_keys_are_heard_while_a_worker_is_drained(
    zqueued: Zqueued, open_top: OpenTop, peers: Peers
) -> None:
    busy = peers.worker(zqueued.backend(), work=DEADLINE * 2)
    wait_for(lambda: zqueued.queue().workers.connected == 1)
    peers.client(zqueued.frontend(), requests=1)
    wait_for(lambda: zqueued.queue().in_flight == 1, "the request to be at the worker")
    peers.worker(zqueued.backend())
    terminal = open_top(zqueued, "--interval", "100ms")
    terminal.line("WORKERS (w)  CLIENTS (c) of default: 2, by id ▲")
    terminal.type("\t>r")
    terminal.line("by in flight ▼")
    terminal.type("\x1b[H")  # the one with a request
    terminal.type("d")
    question = terminal.line("? it finishes what it has")
    worker = int(question.split()[2])
    terminal.type("y")
    terminal.line("draining")
    with zqueued.client() as control:
        draining = {each.id: each.state == "draining" for each in control.workers().workers}
    assert draining == {each: each == worker for each in draining}
    terminal.type("?")
    terminal.line("Any key goes back")
    terminal.type("x")
    busy._stopping.set()
    terminal.line(f"worker {worker} of default: drained")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_refusal_is_shown(start_zqueued: StartZqueued) -> None:
    zqueued = start_zqueued(ONE_QUEUE, ready=False)
    zqueued.kill()
    for folder in (zqueued.folder, *zqueued.folder.parents):
        if folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    settings = f'endpoint = "{zqueued.control}"\nmode = "0666"\nmay_steer = []\n'
    zqueued.write(f"[control]\n{settings}{ONE_QUEUE}")
    zqueued.process = zqueued.spawn()
    zqueued.wait_ready()
    assert zqueuectl_as_nobody("-e", zqueued.control, "top", "--once").returncode == 0
    terminal = Terminal(command_as_nobody("-e", zqueued.control, "top"))
    try:
        terminal.line("default")
        terminal.type("py")
        nobody = f"{pwd.getpwnam('nobody').pw_uid}/nobody"
        terminal.line(f"pause default: {nobody} may not steer: control.may_steer does not")
        assert zqueued.queue().state == "running"
    finally:
        terminal.close()


@on_wire
def test_a_daemon_that_is_restarted_is_followed(
    zqueued: Zqueued, open_top: OpenTop, peers: Peers
) -> None:
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=500).finish()
    terminal = open_top(zqueued, "--interval", "100ms")
    terminal.line(f"pid {zqueued.process.pid}")
    zqueued.stop()
    assert "trying" in terminal.line("not reachable since ")
    terminal.type("?")
    terminal.line("Any key goes back")
    terminal.type("x")
    zqueued.process = zqueued.spawn()
    terminal.line(f"zqueued was restarted: it is pid {zqueued.process.pid} now")
    assert f"pid {zqueued.process.pid}" in terminal.lines[0]

    def row() -> list[str]:
        return next(line for line in terminal.lines if "▸ default" in line).split()

    terminal.wait(lambda: row()[2] == "running", "the queue to run")
    assert row()[3:5] == ["0.0", "0.0"]
    peers.worker(zqueued.backend())
    clients = [peers.client(zqueued.frontend()) for _ in range(3)]
    terminal.wait(lambda: row()[3] != "0.0", "the rate of the new daemon")
    for client in clients:
        client.stop()


@on_wire
def test_figures_that_are_handed_over_are_no_rate(
    zqueued: Zqueued, open_top: OpenTop, peers: Peers
) -> None:
    def rate() -> float:
        return zqueued.queue().requests.messages_per_second

    peers.worker(zqueued.backend())
    client = peers.client(zqueued.frontend())
    wait_for(lambda: rate() > 0, "the load to be seen")
    replies = len(client.stop())
    wait_for(lambda: rate() == 0, "the load to be over")
    terminal = open_top(zqueued, "--interval", "10ms")
    terminal.line("at most 0.0/s")
    before = zqueued.status().pid
    done = zqueued.upgrade()
    assert done.returncode == 0, done.stderr
    terminal.line("zqueued was restarted")
    assert zqueued.status().pid != before
    assert zqueued.queue().requests.messages == replies
    terminal.type("x")
    terminal.line("q quit")
    assert "at most 0.0/s" in "\n".join(terminal.lines)


def test_a_daemon_that_hangs_holds_up_no_key(zqueued: Zqueued, open_top: OpenTop) -> None:
    terminal = open_top(zqueued, "--interval", "100ms")
    terminal.line("▸ default")
    zqueued.process.send_signal(signal.SIGSTOP)
    try:
        terminal.line("no answer for ")
        terminal.type("?")
        terminal.line("Any key goes back")
        terminal.type("xpy")
        terminal.line("not reachable since ")
        terminal.type("q")
        assert terminal.end() == 0
    finally:
        zqueued.process.send_signal(signal.SIGCONT)


def test_it_fits_the_terminal_also_after_a_change(
    start_zqueued: StartZqueued, open_top: OpenTop
) -> None:
    zqueued = start_zqueued(TWO_QUEUES)
    terminal = open_top(zqueued, columns=80, lines=24)
    terminal.line("q quit")
    assert not any("WORKERS  CLIENTS" in line for line in terminal.lines)
    assert len(terminal.lines) == 24
    terminal.resize(160, 40)
    terminal.line("WORKERS  CLIENTS")
    terminal.wait(lambda: len(terminal.lines) == 40, "all lines to be used")
    terminal.resize(40, 10)
    terminal.wait(lambda: len(terminal.lines) == 10, "only these lines to be used")
    assert max(map(len, terminal.lines)) <= 40
    assert "▸ orders" in "\n".join(terminal.lines)
    terminal.resize(3, 2)
    terminal.line("zq…")


def test_only_what_has_changed_is_drawn(zqueued: Zqueued, open_top: OpenTop) -> None:
    terminal = open_top(zqueued)
    first = terminal.line("up ")
    terminal.line("REQS")
    terminal.wait(lambda: terminal.lines[0] != first, "a second to pass")
    assert terminal.received.count(" quit") == 1


# -- keys, columns, the model --------------------------------------------------------------------


def test_keys() -> None:
    assert keys_of("jk\t") == (["j", "k", "tab"], "")
    assert keys_of("\x1b[A\x1bOB\x1b[5~") == (["up", "down", "pageup"], "")
    assert keys_of("a\x1b[15~\x1b[1;5Cb") == (["a", "b"], ""), "keys that mean nothing here"
    assert keys_of("a\x1b") == (["a"], "\x1b"), "Escape, or the begin of another"
    assert keys_of("\x1b[1") == ([], "\x1b[1")
    assert keys_of("\x1bx") == (["escape", "x"], "")


def test_columns_give_way_by_rank() -> None:
    def column(title: str, rank: int) -> Column:
        return Column(title, lambda row: row[title], lambda row: row[title], rank=rank)

    columns = [column("NAME", 0), column("MUCH", 1), column("LITTLE", 2), column("SOME", 1)]
    rows = [{"NAME": "a", "MUCH": "1", "LITTLE": "2", "SOME": "\x1b[2Jx"}]

    def header(width: int) -> list[str]:
        table = lay_out(columns, rows, width)
        assert max(len(line.plain) for line in (*table.header, *table.rows)) <= max(4, width)
        return table.header[0].plain.split()

    assert header(80) == ["NAME", "MUCH", "LITTLE", "SOME"]
    assert header(25) == ["NAME", "MUCH", "LITTLE", "SOME"], "with less between them"
    assert header(20) == ["NAME", "MUCH", "SOME"]
    assert header(10) == ["NAME", "MUCH"]
    assert header(1) == ["NAME"]
    assert r"\x1b[2Jx" in lay_out(columns, rows, 80).rows[0].plain, "a peer's word is no command"


def test_the_trend() -> None:
    assert view.trend([0.0, None, 1.0, 50.0, 100.0], 80, view.UNICODE.levels) == "▁ ▂▄█"
    assert view.trend([0.0, 0.0], 80, view.ASCII.levels) == "__"
    assert view.trend([9.0, 1.0, 2.0], 2, view.UNICODE.levels) == "▄█"
    assert view.symbols("UTF-8") == view.UNICODE
    assert view.symbols("iso8859-1") == view.ASCII


def _queue(name: str) -> QueueStatus:
    return QueueStatus(
        name=name,
        type="queue",
        engine="wire",
        state="running",
        since=0,
        by="config",
        frontend=(),
        backend=(),
        estimated=False,
        requests=Traffic(messages_per_second=5.0),
        workers=Connections(connected=1),
    )


def _worker(number: int, **figures: Any) -> Worker:
    nothing = ("requests", "replies", "in_flight", "received_bytes", "sent_bytes", "unsent_bytes")
    known: dict[str, Any] = dict.fromkeys(nothing, 0)
    known |= {"peer": "", "identity": "", "type": "REP", "zmtp": "3.1", "state": "ready"}
    known |= {"connected_for": 1, "silent_for": 0, "ahead": 1}
    known |= {"service": None, "p50": None, "p99": None} | figures
    return Worker(id=number, **known)


def _look(queues: int = 3, workers: tuple[Worker, ...] = ()) -> Look:
    status = StatusResult(
        queues=tuple(_queue(f"q{number}") for number in range(queues)),
        name="host",
        version="1",
        pid=1,
        started=0,
        uptime=1,
        config=None,
        control="ipc://c",
        state="running",
        log_level="info",
    )
    return Look(status, "q0" if queues else None, WORKERS, workers, "", due=True, at=1000.0)


def test_the_selected_worker_stays_selected_while_rows_move() -> None:
    model = Model()
    model.see(_look(workers=(_worker(1, p50=0.3), _worker(2), _worker(3, p50=0.1))))
    for key in ("tab", "down"):
        model.press(key)
    assert model.row == 2
    while model.sorted_by.name != "p50":
        model.press(">")
    assert [row.id for row in model.rows()] == [3, 1, 2], "what is not known comes last"
    model.press("r")
    assert [row.id for row in model.rows()] == [1, 3, 2]
    model.press("d")
    model.see(_look(workers=(_worker(1), _worker(2, p50=0.9))))
    asked = model.press("y")
    assert asked is not None
    assert (asked.verb, asked.queue, asked.worker) == ("drain", "q0", 2)
    model.see(_look(workers=(_worker(1),)))
    assert model.row == 1
    model.press("tab")
    model.press("j")
    assert (model.queue, model.rows()) == ("q1", []), "those of q0 are not those of q1"


def test_only_y_does_what_was_asked_for() -> None:
    model = Model()
    model.see(_look())
    for key in ("n", "escape", "enter", "q", "p"):
        model.press("p")
        assert model.question is not None
        assert model.press(key) is None
        assert model.question is None
    assert not model.over
    model.see(_look(queues=0))
    assert (model.queue, model.press("p"), model.question) == (None, None, None)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20, 3), (80, 24), (300, 100)])
@pytest.mark.parametrize("queues", [0, 3, 200])
def test_any_page_fits(width: int, height: int, queues: int) -> None:
    model = Model()
    model.see(_look(queues, tuple(_worker(number) for number in range(100)) if queues else ()))
    model.press("end")
    for key in ("tab", "?", "x", "p"):
        lines = view.page(model, width, height, view.UNICODE, 1000.0)
        assert len(lines) == height
        assert max(len(line.plain) for line in lines) <= max(width, 1)
        model.press(key)
    if height > 20 and queues:
        shown = "\n".join(line.plain for line in lines)
        assert re.search(rf"▸ q{queues - 1}\b", shown), "the selected queue is in sight"
