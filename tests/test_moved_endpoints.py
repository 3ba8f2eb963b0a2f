"""From every set of endpoints to every other, in every way in which a config comes into force."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import zmq

from tests.conftest import StartZqueued
from tests.descriptor_store import Store
from tests.test_handover import upgrade
from tests.waiting import wait_for
from tests.zqueued import Zqueued, free_port, has_ipv6
from zqueue.config import load
from zqueue.handover import socket_state
from zqueue.inherited import Inherited, Wish
from zqueue.plan import Claims, wishes

P, Q, R = (free_port() for _ in range(3))

QUEUE = """
[queues.{name}]
[queues.{name}.frontend]
bind = "{front}"
{more}
[queues.{name}.backend]
bind = "{back}"
"""


def queue(front: str, back: str, name: str = "default", more: str = "") -> str:
    return QUEUE.format(name=name, front=front, back=back, more=more)


CONFIGS: dict[str, tuple[str, set[str]]] = {
    "any": (queue(f"tcp://*:{P}", f"tcp://*:{Q}"), {f"0.0.0.0:{P}", f"0.0.0.0:{Q}"}),
    "one address": (
        queue(f"tcp://127.0.0.1:{P}", f"tcp://localhost:{Q}"),
        {f"127.0.0.1:{P}", f"127.0.0.1:{Q}"},
    ),
    "swapped": (
        queue(f"tcp://127.0.0.1:{Q}", f"tcp://127.0.0.1:{P}"),
        {f"127.0.0.1:{P}", f"127.0.0.1:{Q}"},
    ),
    "renamed": (
        queue(f"tcp://127.0.0.1:{P}", f"tcp://*:{Q}", name="orders"),
        {f"127.0.0.1:{P}", f"0.0.0.0:{Q}"},
    ),
    "both families": (
        queue(f"tcp://*:{P}", f"tcp://*:{Q}", more="ipv6 = true"),
        {f"::{P}", f"0.0.0.0:{Q}"},
    ),
    "of another": (
        f'[metrics]\nlisten = "127.0.0.1:{P}"\n[events]\npublish = "tcp://127.0.0.1:{Q}"\n'
        + queue("ipc://{folder}/a", "ipc://{folder}/b"),
        {f"127.0.0.1:{P}", f"127.0.0.1:{Q}"},
    ),
    "paths": (
        queue("ipc://{folder}/b", "ipc://{folder}/a", name="orders")
        + queue(f"tcp://127.0.0.1:{R}", f"tcp://127.0.0.2:{R}"),
        {f"127.0.0.1:{R}", f"127.0.0.2:{R}"},
    ),
}
"""A config, and what listens with it on the three ports."""


def listening(pid: int) -> set[str]:
    """What listens on the three ports."""
    found = set()
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            local, state = (line.split()[place] for place in (1, 3))
            address, _, port = local.partition(":")
            if state == "0A" and int(port, 16) in (P, Q, R):
                words = [bytes.fromhex(address[n : n + 8])[::-1] for n in range(0, len(address), 8)]
                host = socket.inet_ntop(family, b"".join(words))
                found.add(f"{host}:{int(port, 16)}" if host != "::" else f"::{int(port, 16)}")
    return found


def by_reload(zqueued: Zqueued, store: Store) -> None:
    done = zqueued.ctl("reload")
    assert done.returncode == 0, done.stderr


def by_restart(zqueued: Zqueued, store: Store) -> None:
    zqueued.stop()
    zqueued.process = zqueued.spawn(**store.how())
    zqueued.wait_ready()


def by_crash(zqueued: Zqueued, store: Store) -> None:
    zqueued.stop(signal.SIGKILL)
    zqueued.process = zqueued.spawn(**store.how())
    zqueued.wait_ready()


def by_upgrade(zqueued: Zqueued, store: Store) -> None:
    upgrade(zqueued)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(tmp_path / "notify")) as store:
        yield store


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
@pytest.mark.parametrize("way", [by_reload, by_restart, by_crash, by_upgrade])
def test_what_the_config_says_is_what_listens(
    way: Callable[[Zqueued, Store], None],
    start_zqueued: StartZqueued,
    store: Store,
    tmp_path: Path,
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    text, _ = CONFIGS["any"]
    how = {} if way is by_upgrade else store.how()
    zqueued = start_zqueued(text.format(folder=tmp_path), **how)
    before = "any"
    for now in ("one address", "both families", "of another", "renamed", "any"):
        text, expected = CONFIGS[now]
        zqueued.write(text.format(folder=tmp_path))
        way(zqueued, store)
        about = f"from {before} to {now}"
        status = zqueued.status()
        assert listening(status.pid) == expected, about
        if way is not by_upgrade:
            wait_for(partial(keeps, store, len(expected)), f"{about}: {expected} to be kept")
        for each in status.queues:
            assert_serves(context, each.frontend[0], each.backend[0], about)
        before = now


def keeps(store: Store, count: int) -> bool:
    return len(store.read()) == count


def assert_serves(
    context: zmq.Context[zmq.Socket[bytes]], frontend: str, backend: str, about: str
) -> None:
    with context.socket(zmq.REQ) as req, context.socket(zmq.REP) as rep:
        for sock, endpoint in ((req, frontend), (rep, backend)):
            sock.linger = 0
            sock.ipv6 = True
            sock.connect(endpoint.replace("*", "127.0.0.1"))
        req.send(b"question")
        assert rep.poll(20_000), about
        rep.send(rep.recv())
        assert req.poll(20_000), about


# -- every pair, of what is opened -----------------------------------------------------------------


class Run:
    """What a zqueued with this config opens, of what a run before has kept or hands over."""

    def __init__(self, text: str, folder: Path, kept: dict[str, socket.socket]) -> None:
        path = folder / "zqueue.toml"
        path.write_text(text.format(folder=folder))
        self.config = load(path).config
        self.kept = kept
        passed = [(name, each.dup()) for name, each in kept.items()]
        self.inherited = Inherited(passed, self._store, lambda name: kept.pop(name).close())
        self.claims = [
            Claims(name, queue, self.inherited) for name, queue in self.config.queues.items()
        ]

    def _store(self, name: str, descriptor: int) -> None:
        assert name not in self.kept
        self.kept[name] = socket.socket(fileno=os.dup(descriptor))

    def start(self) -> None:
        of_services = {
            "metrics": self.config.metrics.listen and f"tcp://{self.config.metrics.listen}",
            "publish": self.config.events.publish,
        }
        self.services = [Wish(name, each) for name, each in of_services.items() if each]
        of_queues = [wish for each in self.claims for wish in wishes(each.name, each.config)]
        self.inherited.expect(of_queues + self.services)
        self.listeners = [self.inherited.open(wish, 10) for wish in self.services]
        for each in self.claims:
            each.claim()

    def end(self) -> None:
        for listener in self.listeners:
            listener.let_go()
        for each in self.claims:
            each.let_go()

    def close(self) -> None:
        """End, and nothing is kept either."""
        self.end()
        for each in self.kept.values():
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def leave(self) -> None:
        """End; another process has all of it."""
        for listener in self.listeners:
            listener.leave()
        for each in self.claims:
            each.leave()
        for kept in self.kept.values():
            kept.close()

    def hand_over(self, to: Inherited) -> None:
        sockets = [
            socket_state(wish.name, listener)
            for wish, listener in zip(self.services, self.listeners, strict=True)
        ]
        for each in self.claims:
            sockets += each.sockets()
        to.add(replace(each, descriptor=os.dup(each.descriptor)) for each in sockets)


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
@pytest.mark.parametrize("way", ["kept", "handed over", "refused"])
@pytest.mark.parametrize(("before", "now"), [*itertools.permutations(CONFIGS, 2)])
def test_from_each_to_each(way: str, before: str, now: str, tmp_path: Path) -> None:
    old = Run(CONFIGS[before][0], tmp_path, {})
    old.start()
    old.inherited.settle()
    assert listening(os.getpid()) == CONFIGS[before][1]
    if way == "kept":
        old.end()
        new = Run(CONFIGS[now][0], tmp_path, old.kept)
    else:
        new = Run(CONFIGS[now][0], tmp_path, {})
        old.hand_over(new.inherited)
    new.start()
    if way == "refused":
        new.close()
        assert listening(os.getpid()) == CONFIGS[before][1], "the old one goes on"
        old.close()
        return
    new.inherited.settle()
    if way == "handed over":
        old.leave()
    new.inherited.close_the_rest()
    assert listening(os.getpid()) == CONFIGS[now][1]
    if way == "kept":
        assert len(new.kept) == len(CONFIGS[now][1])
    new.close()
