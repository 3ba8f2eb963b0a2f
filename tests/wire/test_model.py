"""The state machine of a queue against a model of it in plain Python, driven by hypothesis.

The model says, to the byte, what each peer is sent, and every counter. Beside it stands what must
hold whatever the model says: the sum, to whom a reply goes and how often, what a REP is given.

The normal suite takes some thousand steps. For a long run set how many, and a seed to vary it::

    ZQUEUE_MODEL_STEPS=1000000 pytest tests/wire/test_model.py --hypothesis-seed=7 --timeout=0
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zqueue.engine.wire import support

if support.missing():
    pytest.skip(f"no wire engine: {support.missing()}", allow_module_level=True)

from tests.wire.fuzz import BACKEND, ENDS, FRONTEND, LONG, Reader, frame, handshake, message
from zqueue.engine.wire.exchange import Exchange

FORWARD, HOLD, DRAIN = range(3)
FLOWS, IN_LINE, BY_ITSELF = range(3)
TURN = 16
WORKER_UNSENT = 256 << 10
UNLIMITED = 0x7FFFFFFF
UNANSWERED = 10_000
STEPS_EACH = 60
STEPS = int(os.environ.get("ZQUEUE_MODEL_STEPS", "12000"))


# -- the model -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Client:
    peer: Peer | None
    id: bytes
    waiting: int = 0
    waiting_bytes: int = 0


@dataclass(eq=False)
class Request:
    number: int
    client: Client
    frames: list[bytes]
    raw: bytes
    attempts: int = 0
    given_at: int = 0
    suspect: bool = False
    fate: str = ""

    @property
    def envelope(self) -> list[bytes]:
        """Up to the delimiter, which is among them; empty if there is none."""
        if b"" not in self.frames[:-1]:
            return []
        return self.frames[: self.frames.index(b"") + 1]


@dataclass(eq=False)
class Worker:
    strict: bool
    credit: int
    outstanding: list[Request] = field(default_factory=list)
    place: int | None = None
    draining: bool = False
    given: int = 0
    answered: int = 0
    answered_at: int = 0
    service: float = 0.0

    @property
    def count(self) -> int:
        """How many it has that it has to answer."""
        return sum(1 for request in self.outstanding if request.envelope)

    @property
    def alone(self) -> bool:
        """Whether it has one that may have been why another worker was lost."""
        return self.strict and any(request.suspect for request in self.outstanding)

    @property
    def bytes(self) -> int:
        return sum(len(request.raw) for request in self.outstanding if request.envelope)


@dataclass(eq=False)
class Peer:
    number: int
    side: int
    client: Client | None = None
    worker: Worker | None = None
    out: bytearray = field(default_factory=bytearray)
    items: list[tuple[bytes, list[bytes]]] = field(default_factory=list)
    have: int = 0
    fed: int = 0
    stalled: int = FLOWS
    ended: bool = False


class Model:
    """What the engine has to do with whole messages."""

    def __init__(self, **limits: int) -> None:
        self.limits = limits
        self.counters: Counter[str] = Counter()
        self.now = 1
        self.mode = FORWARD
        self.lines: dict[bool, list[Request]] = {True: [], False: []}
        self.rings: dict[bool, dict[int, list[Peer]]] = {
            True: defaultdict(list),
            False: defaultdict(list),
        }
        self.stalled: list[Peer] = []
        self.ended: list[Peer] = []
        self.peers: dict[int, Peer] = {}
        self.ids: dict[bytes, Client] = {}
        self.made_ids = 0
        self.requests: list[Request] = []
        self.serving = False
        self.quota = 0

    # -- coming and going --

    def connect(
        self, number: int, side: int, kind: bytes, identity: bytes, version: tuple[int, int]
    ) -> Peer:
        peer = self.peers[number] = Peer(number, side)
        own = b"ROUTER" if side == FRONTEND else b"DEALER"
        peer.out += handshake(own, b"", version)
        peer.out[10] = 3
        if version[0] == 3:
            peer.out[11] = 1
        if side == BACKEND:
            strict = kind == b"REP"
            credit = self.limits["prefetch"] or (1 if strict else UNLIMITED)
            peer.worker = Worker(strict, credit)
            self.place(peer)
        else:
            self.name(peer, identity)
        self.settle()
        return peer

    def name(self, peer: Peer, identity: bytes) -> None:
        if not identity:
            self.made_ids += 1
            identity = b"\0" + self.made_ids.to_bytes(4, "big")
        holder = self.ids.get(identity)
        if holder is not None:
            assert holder.peer is not None
            if not self.limits["handover"]:
                self.end(peer)
                return
            self.end(holder.peer)
        peer.client = self.ids[identity] = Client(peer, identity)

    def end(self, peer: Peer) -> None:
        if not peer.ended:
            peer.ended = True
            self.ended.insert(0, peer)
            self.place(peer)

    def close(self, peer: Peer) -> None:
        del self.peers[peer.number]
        if peer.worker is not None:
            self.worker_gone(peer.worker)
            self.unplace(peer)
        if peer.client is not None:
            client = peer.client
            if self.ids.get(client.id) is client:
                del self.ids[client.id]
            client.peer = None
            for line in self.lines.values():
                for request in [request for request in line if request.client is client]:
                    self.finish(self.unqueue(request), "withdrawn")
        if peer in self.stalled:
            self.stalled.remove(peer)

    def worker_gone(self, worker: Worker) -> None:
        attempts = self.limits["max_attempts"]
        for request in reversed(worker.outstanding):
            self.counters["in_flight"] -= 1
            if request.client.peer is None:
                self.finish(request, "withdrawn")
            elif not request.envelope:
                self.finish(request, "unanswered")
            elif attempts and request.attempts >= attempts:
                self.finish(request, "dead")
            else:
                self.counters["returned"] += 1
                request.suspect = True
                line = self.lines[True]
                older = [each for each in line if each.number < request.number]
                self.queue(request, len(older))
        worker.outstanding.clear()

    def settle(self) -> None:
        while True:
            self.turn()
            if not self.ended:
                return
            while self.ended:
                self.close(self.ended.pop(0))

    # -- admission --

    def has_room(self) -> bool:
        return (
            self.mode != DRAIN
            and self.counters["waiting"] < self.limits["max_waiting"]
            and self.counters["waiting_bytes"] < self.limits["max_waiting_bytes"]
        )

    def has_room_itself(self, peer: Peer) -> bool:
        assert peer.client is not None
        most = self.limits["client_waiting"]
        return (
            (not most or peer.client.waiting < most)
            and peer.client.waiting_bytes < self.limits["max_waiting_bytes"]
            and len(peer.out) < self.limits["client_unsent"] // 4
        )

    def admitted(self, peer: Peer) -> bool:
        if self.quota <= 0 if self.serving else self.stalled:
            return False
        return self.has_room() and self.has_room_itself(peer)

    def reads(self, peer: Peer) -> bool:
        if peer.ended or peer.stalled != FLOWS:
            return False
        if peer.client is None or peer.have or self.admitted(peer):
            return True
        self.stall(peer)
        return False

    def stall(self, peer: Peer) -> None:
        peer.stalled = BY_ITSELF
        self.unstall_itself(peer)

    def unstall_itself(self, peer: Peer) -> None:
        if peer.stalled == BY_ITSELF and self.has_room_itself(peer):
            peer.stalled = IN_LINE
            self.stalled.append(peer)

    def place_again(self, peer: Peer) -> None:
        """Some of what was for it has gone out."""
        self.unstall_itself(peer)
        if peer.worker is not None and peer.worker.place is None:
            self.place(peer)

    def serve_stalled(self) -> bool:
        received = self.counters["received"]
        for _ in range(len(self.stalled)):
            if not self.stalled or not self.has_room():
                break
            peer = self.stalled.pop(0)
            peer.stalled = FLOWS
            if not peer.ended:
                self.serving, self.quota = True, TURN
                self.take(peer)
                self.serving = False
        return self.counters["received"] > received

    def take(self, peer: Peer) -> None:
        worker = peer.worker
        answered = worker.answered if worker else 0
        since = 0
        if worker and worker.outstanding:
            since = max(worker.answered_at, worker.outstanding[0].given_at)
        while peer.fed and not peer.ended:
            if peer.client and not peer.have and not self.admitted(peer):
                self.stall(peer)
                break
            raw, frames = peer.items[0]
            size = min(peer.fed, len(raw) - peer.have)
            peer.fed -= size
            peer.have += size
            if peer.have == len(raw):
                peer.have = 0
                del peer.items[0]
                if peer.client:
                    self.request(peer.client, raw, frames)
                else:
                    self.reply(peer, raw, frames)
        if worker and worker.answered > answered:
            self.measure(peer, worker, worker.answered - answered, since)

    # -- requests --

    def request(self, client: Client, raw: bytes, frames: list[bytes]) -> None:
        self.counters["received"] += 1
        self.quota -= 1
        request = Request(self.counters["received"], client, frames, raw)
        self.requests.append(request)
        self.queue(request)

    def queue(self, request: Request, place: int | None = None) -> None:
        line = self.lines[bool(request.envelope)]
        line.insert(len(line) if place is None else place, request)
        request.client.waiting += 1
        request.client.waiting_bytes += len(request.raw)
        self.counters["waiting"] += 1
        self.counters["waiting_bytes"] += len(request.raw)

    def unqueue(self, request: Request) -> Request:
        self.lines[bool(request.envelope)].remove(request)
        request.client.waiting -= 1
        request.client.waiting_bytes -= len(request.raw)
        self.counters["waiting"] -= 1
        self.counters["waiting_bytes"] -= len(request.raw)
        if request.client.peer is not None:
            self.unstall_itself(request.client.peer)
        return request

    def finish(self, request: Request, fate: str) -> None:
        assert not request.fate
        request.fate = fate
        self.counters[fate] += 1

    # -- giving out --

    def turn(self) -> None:
        while True:
            if self.mode != HOLD:
                self.give_all()
            if not (self.stalled and self.has_room() and self.serve_stalled()):
                return

    def give_all(self) -> None:
        line, odd = self.lines[True], self.lines[False]
        kinds = {peer.worker.strict for peer in self.peers.values() if peer.worker}
        if kinds == {True}:
            while odd:
                self.finish(self.unqueue(odd[0]), "malformed")
        while (line or odd) and self.in_flight_bytes() < self.limits["max_waiting_bytes"]:
            # The older one first; one without an envelope is for DEALER and ROUTER only.
            for request in sorted([*line[:1], *odd[:1]], key=lambda request: request.number):
                worker = self.least(request)
                if worker is not None:
                    self.give(worker, request)
                    break
            else:
                return

    def in_flight_bytes(self) -> int:
        return sum(peer.worker.bytes for peer in self.peers.values() if peer.worker)

    def least(self, request: Request) -> Peer | None:
        """Who has the least to do; equal ones take turns."""
        found: list[tuple[int, int, bool, Peer]] = []
        for strict, ring in self.rings.items():
            counts = [count for count, peers in ring.items() if peers]
            if strict and request.suspect and counts and min(counts):
                continue  # it is to be alone
            if counts and (request.envelope or not strict):
                peer = ring[min(counts)][0]
                assert peer.worker is not None
                found.append((min(counts), peer.worker.given, not strict, peer))
        return min(found, key=lambda entry: entry[:3])[3] if found else None

    def give(self, peer: Peer, request: Request) -> None:
        worker = peer.worker
        assert worker is not None
        peer.out += frame(1, request.client.id) + request.raw
        self.unqueue(request)
        request.attempts += 1
        request.given_at = self.now
        worker.outstanding.append(request)
        worker.given += 1
        self.counters["in_flight"] += 1
        if not worker.strict:
            while worker.outstanding[0] is not request and (
                len(worker.outstanding) > UNANSWERED
                or worker.bytes > self.limits["max_waiting_bytes"] // 4
            ):
                self.counters["in_flight"] -= 1
                self.finish(worker.outstanding.pop(0), "unanswered")
        self.unplace(peer)
        self.place(peer)

    def place(self, peer: Peer) -> None:
        worker = peer.worker
        if worker is None:
            return
        count = worker.count
        able = (
            not worker.draining
            and not worker.alone
            and not peer.ended
            and count < worker.credit
            and len(peer.out) < WORKER_UNSENT
        )
        if able and worker.place == count:
            return
        self.unplace(peer)
        if able:
            worker.place = count
            self.rings[worker.strict][count].append(peer)

    def unplace(self, peer: Peer) -> None:
        assert peer.worker is not None
        if peer.worker.place is not None:
            self.rings[peer.worker.strict][peer.worker.place].remove(peer)
            peer.worker.place = None

    def measure(self, peer: Peer, worker: Worker, answers: int, since: int) -> None:
        each = max(self.now - since, 1000) / answers
        worker.answered_at = self.now
        if not worker.strict or self.limits["prefetch"]:
            return
        weight = min(1.0, answers / 8.0)
        worker.service += (weight if worker.service else 1.0) * (each - worker.service)
        worker.credit = 1 + int(min(1e6 / worker.service + 0.5, 4095.0))
        self.place(peer)

    # -- replies --

    def reply(self, peer: Peer, raw: bytes, frames: list[bytes]) -> None:
        worker = peer.worker
        assert worker is not None
        self.counters["reply_messages"] += 1
        id, rest = frames[0], frames[1:]
        request = self.asked(worker, id, rest)
        if worker.strict and request is None:
            self.counters["protocol_errors"] += 1
            self.end(peer)
            return
        if request is not None:
            worker.outstanding.remove(request)
            self.counters["in_flight"] -= 1
        client = self.ids.get(id) if rest else None
        if request is not None and request.client.peer is not None:
            client = request.client if not request.client.peer.ended else client
        behind = raw[len(id) + (9 if raw[0] & LONG else 2) :]
        to = client.peer if client is not None else None
        if to is not None and not to.ended and self.deliver(to, behind):
            if request is not None:
                self.finish(request, "replied")
            else:
                self.counters["extra_replies"] += 1
        else:
            self.counters["dropped_replies"] += 1
            if request is not None:
                self.finish(request, "unclaimed")
        worker.answered += 1
        self.place(peer)

    def asked(self, worker: Worker, id: bytes, rest: list[bytes]) -> Request | None:
        """The request that this is the reply to."""
        envelope = rest[: rest.index(b"") + 1] if b"" in rest[:-1] else []
        for request in worker.outstanding[: 1 if worker.strict else None]:
            if request.client.id == id and request.envelope == envelope and rest:
                return request
        return None

    def deliver(self, peer: Peer, raw: bytes) -> bool:
        if len(peer.out) > self.limits["client_unsent"]:
            self.counters["slow_clients"] += 1
            self.end(peer)
            return False
        peer.out += raw
        return True


# -- the machine ---------------------------------------------------------------------------------

PICK = st.integers(0, 1 << 16)
CUTS = st.lists(st.integers(1, 200), max_size=3)
SIZES = st.sampled_from([0, 1, 20, 300, 1030, 3000, 5000, 70_000])


class Speaker:
    """One of the peers, as whoever drives it sees it."""

    def __init__(self, peer: Peer, kind: bytes) -> None:
        self.peer = peer
        self.kind = kind
        self.reader = Reader()
        self.unsaid = bytearray()
        # A client's: the tokens of its requests. A worker's: what it was given and has to answer.
        self.sent: list[bytes] = []
        self.given: list[list[bytes]] = []


class Queue(RuleBasedStateMachine):
    @initialize(
        max_waiting=st.sampled_from([1, 2, 5, 40, 100_000]),
        max_waiting_bytes=st.sampled_from([1, 400, 1 << 30]),
        client_waiting=st.sampled_from([0, 0, 1, 3]),
        client_unsent=st.sampled_from([100, 64 << 20]),
        prefetch=st.sampled_from([0, 0, 1, 2, 10]),
        max_attempts=st.sampled_from([0, 1, 3]),
        handover=st.booleans(),
        clients=st.integers(0, 3),
        workers=st.lists(st.sampled_from([b"REP", b"DEALER"]), max_size=2),
    )
    def open(self, handover: bool, clients: int, workers: list[bytes], **limits: int) -> None:
        self.exchange = Exchange(handover=handover, **limits)
        self.model = Model(handover=handover, **limits)
        self.clients: list[Speaker] = []
        self.workers: list[Speaker] = []
        self.tokens = 0
        self.owners: dict[bytes, bytes] = {}
        self.answers: Counter[bytes] = Counter()
        self.may_answer: Counter[bytes] = Counter()
        self.in_flight_when_held: int | None = None
        for _ in range(clients):
            self.come(FRONTEND, b"DEALER", b"", (3, 1), 20)
        for kind in workers:
            self.come(BACKEND, kind, b"", (3, 1), 20)

    # -- coming and going --

    @precondition(lambda self: len(self.clients) < 5)
    @rule(
        kind=st.sampled_from([b"REQ", b"DEALER", b"DEALER", b"ROUTER"]),
        identity=st.sampled_from([b"", b"", b"a", b"b", b"c" * 255]),
        version=st.sampled_from([(3, 1), (3, 0), (2, 0)]),
        cut=PICK,
    )
    def client_comes(
        self, kind: bytes, identity: bytes, version: tuple[int, int], cut: int
    ) -> None:
        self.come(FRONTEND, kind, identity, version, cut)

    @precondition(lambda self: len(self.workers) < 5)
    @rule(
        kind=st.sampled_from([b"REP", b"REP", b"DEALER", b"ROUTER"]),
        version=st.sampled_from([(3, 1), (3, 0), (2, 0)]),
        cut=PICK,
    )
    def worker_comes(self, kind: bytes, version: tuple[int, int], cut: int) -> None:
        self.come(BACKEND, kind, b"", version, cut)

    def come(
        self, side: int, kind: bytes, identity: bytes, version: tuple[int, int], cut: int
    ) -> None:
        opening = handshake(kind, identity, version)
        number = self.exchange.connect(side)
        cut = 1 + cut % (len(opening) - 1)
        self.exchange.feed(number, opening[:cut])
        self.model.settle()
        self.exchange.feed(number, opening[cut:])
        peer = self.model.connect(number, side, kind, identity, version)
        (self.clients if side == FRONTEND else self.workers).append(Speaker(peer, kind))

    @precondition(lambda self: self.clients or self.workers)
    @rule(what=st.sampled_from(["leaves", "leaves", "drains", "speaks unasked"]), who=PICK)
    def something_happens(self, what: str, who: int) -> None:
        everybody = self.clients + self.workers
        speaker = everybody[who % len(everybody)]
        if what == "leaves":
            self.leaves(speaker)
        elif speaker.peer.worker is None:
            self.exchange.drain_worker(speaker.peer.number)
        elif what == "drains":
            self.exchange.drain_worker(speaker.peer.number)
            speaker.peer.worker.draining = True
            self.model.place(speaker.peer)
        else:
            self.say(speaker, [b"a", b"unasked", b"", b"stray"])
            self.feed(speaker, [], True)

    def leaves(self, speaker: Speaker) -> None:
        self.exchange.close(speaker.peer.number)
        self.model.end(speaker.peer)
        self.model.settle()

    # -- speaking --

    @precondition(lambda self: self.clients)
    @rule(
        who=PICK,
        size=SIZES,
        envelope=st.sampled_from(
            ["delimiter", "delimiter", "tagged", "tagged", "deep", "none", "last", "double"]
        ),
        times=st.sampled_from([1, 1, 1, 2, 20, 20]),
        cuts=CUTS,
        all_of_it=st.booleans(),
    )
    def client_asks(
        self, who: int, size: int, envelope: str, times: int, cuts: list[int], all_of_it: bool
    ) -> None:
        speaker = self.clients[who % len(self.clients)]
        if speaker.kind == b"REQ":
            envelope = "delimiter"
            times = 1 if all(self.answers[token] for token in speaker.sent) else 0
        for _ in range(times):
            self.tokens += 1
            token = b"#%d." % self.tokens
            body = token + bytes(size if times == 1 else 0)
            assert speaker.peer.client is not None
            self.owners[token] = speaker.peer.client.id
            self.may_answer[token] = 1
            speaker.sent.append(token)
            self.say(
                speaker,
                {
                    "delimiter": [b"", body],
                    "tagged": [token, b"", body],
                    "deep": [b"x", b"y" * 300, b"", body],
                    "none": [body],
                    "last": [body, b""],
                    "double": [b"", b"", body],
                }[envelope],
            )
        self.feed(speaker, cuts, all_of_it)

    @precondition(lambda self: self.clients or self.workers)
    @rule(who=PICK, cuts=CUTS)
    def speak_on(self, who: int, cuts: list[int]) -> None:
        everybody = self.clients + self.workers
        self.feed(everybody[who % len(everybody)], cuts, True)

    @precondition(lambda self: self.clients or self.workers)
    @rule(who=PICK, most=st.sampled_from([1, 100, 5000, 1 << 40, 1 << 40, 1 << 40]))
    def hear(self, who: int, most: int) -> None:
        everybody = self.clients + self.workers
        self.hears(everybody[who % len(everybody)], most)

    @precondition(lambda self: any(worker.given for worker in self.workers))
    @rule(
        who=PICK,
        which=PICK,
        how=st.sampled_from([*6 * ["right"], "wrong", "twice", "to another", "bare"]),
        size=SIZES,
        flags=st.sampled_from([0, 0, LONG]),
        cuts=CUTS,
        all_of_it=st.booleans(),
    )
    def worker_answers(
        self,
        who: int,
        which: int,
        how: str,
        size: int,
        flags: int,
        cuts: list[int],
        all_of_it: bool,
    ) -> None:
        able = [worker for worker in self.workers if worker.given]
        speaker = able[who % len(able)]
        strict = speaker.kind == b"REP"
        request = speaker.given[0 if strict else which % len(speaker.given)]
        # Nobody could tell apart what one client asked in equal envelopes: of those, the oldest.
        request = next(given for given in speaker.given if asker(given) == asker(request))
        # A measured worker's answers must each be taken at once, or they are measured in two.
        size = size if self.model.limits["prefetch"] else min(size, 3000)
        if how == "wrong":
            self.say(speaker, [request[0], b"envelope", b"", b"stray"])
        elif how == "to another":
            self.say(speaker, [b"nobody", *request[1:-1], b"stray"])
        elif how == "bare":
            self.say(speaker, [b"stray"])
        else:
            speaker.given.remove(request)
            self.answer(speaker, request, size, flags if strict else 0)
            if how == "twice" and not strict and request[1].startswith(b"#"):
                self.may_answer[token_of(request)] += 1
                self.answer(speaker, request, size, 0)
        self.feed(speaker, cuts, all_of_it)

    def answer(self, speaker: Speaker, request: list[bytes], size: int, flags: int) -> None:
        # The last frame is the body, or what stands for it where the empty frame is the last.
        answer = [*request[:-1], b"re:" + token_of(request) + bytes(size)]
        if not request[-1] and len(request) == 3:
            answer = [request[0], b"re:" + token_of(request)]
        self.say(speaker, answer, flags)

    def say(self, speaker: Speaker, frames: list[bytes], flags: int = 0) -> None:
        raw = message(frames, flags)
        speaker.unsaid += raw
        speaker.peer.items.append((raw, frames))

    def feed(self, speaker: Speaker, cuts: list[int], all_of_it: bool) -> None:
        """Some of what it has to say, in pieces, for as long as it is read from."""
        for size in [*cuts, len(speaker.unsaid)] if all_of_it else cuts:
            peer = speaker.peer
            if not speaker.unsaid or peer.ended:
                return
            assert self.exchange.held_back(peer.number) is not self.model.reads(peer)
            if peer.stalled != FLOWS:
                return
            piece = bytes(speaker.unsaid[:size])
            del speaker.unsaid[:size]
            self.exchange.feed(peer.number, piece)
            peer.fed += len(piece)
            self.model.take(peer)
            self.model.settle()

    def hears(self, speaker: Speaker, most: int) -> bool:
        got = self.exchange.output(speaker.peer.number, most)
        assert got == bytes(speaker.peer.out[:most])
        if got:
            del speaker.peer.out[:most]
            self.model.place_again(speaker.peer)
        self.model.settle()
        for frames in speaker.reader.feed(got):
            if speaker.peer.worker is not None:
                self.is_given(speaker, frames)
            else:
                self.is_answered(speaker, frames)
        return bool(got)

    def is_given(self, speaker: Speaker, frames: list[bytes]) -> None:
        token = token_of(frames)
        assert self.owners[token] == frames[0], "another client's routing id"
        if speaker.kind == b"REP":
            assert b"" in frames[1:-1], "a REP would discard it in silence"
        speaker.given.append(frames)

    def is_answered(self, speaker: Speaker, frames: list[bytes]) -> None:
        if frames[-1] == b"stray":
            return
        token = token_of(frames)
        assert speaker.peer.client is not None
        assert self.owners[token] == speaker.peer.client.id, "a reply to somebody else's request"
        self.answers[token] += 1
        assert self.answers[token] <= self.may_answer[token], "a request was answered twice"

    # -- steering and time --

    @rule(mode=st.sampled_from([FORWARD, FORWARD, HOLD, DRAIN]))
    def steer(self, mode: int) -> None:
        self.steers(mode)

    def steers(self, mode: int) -> None:
        self.exchange.steer(mode)
        self.model.mode = mode
        self.model.settle()
        self.in_flight_when_held = None

    @rule(microseconds=st.sampled_from([1, 20, 300, 5000, 1_000_000]))
    def pass_time(self, microseconds: int) -> None:
        self.exchange.advance(microseconds / 1e6)
        self.model.now += int(microseconds / 1e6 * 1e9)
        self.model.settle()

    # -- what must hold --

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "exchange"):
            self.is_as_the_model_says()
            self.adds_up()
            self.no_worker_has_more_than_its_credit()
            self.nothing_is_given_while_held()

    def is_as_the_model_says(self) -> None:
        model = self.model
        assert self.exchange.peers == sorted(model.peers)
        counted = self.exchange.counters
        for name in (*ENDS, "received", "waiting", "waiting_bytes", "in_flight", "returned"):
            assert counted[name] == model.counters[name], (name, counted, model.counters)
        for name in ("extra_replies", "dropped_replies", "protocol_errors", "slow_clients"):
            assert counted[name] == model.counters[name], (name, counted, model.counters)
        self.clients = [speaker for speaker in self.clients if not speaker.peer.ended]
        self.workers = [speaker for speaker in self.workers if not speaker.peer.ended]
        for speaker in self.workers:
            worker = speaker.peer.worker
            assert worker is not None
            assert self.exchange.outstanding(speaker.peer.number) == len(worker.outstanding)
            assert self.exchange.credit(speaker.peer.number) == worker.credit

    def adds_up(self) -> None:
        self.exchange.deaths()
        counted = self.exchange.counters
        open_ones = counted["waiting"] + counted["in_flight"]
        assert counted["received"] == open_ones + sum(counted[end] for end in ENDS)
        assert self.exchange.live["requests"] == open_ones

    def no_worker_has_more_than_its_credit(self) -> None:
        if not self.model.limits["prefetch"]:
            return  # a measured credit may shrink below what a worker has
        for speaker in self.workers:
            worker = speaker.peer.worker
            assert worker is not None
            odd = len(worker.outstanding) - worker.count
            outstanding = self.exchange.outstanding(speaker.peer.number)
            assert outstanding - odd <= self.model.limits["prefetch"]

    def nothing_is_given_while_held(self) -> None:
        if self.model.mode != HOLD:
            return
        in_flight = self.exchange.counters["in_flight"]
        if self.in_flight_when_held is not None:
            assert in_flight <= self.in_flight_when_held
        self.in_flight_when_held = in_flight

    # -- the end --

    def teardown(self) -> None:
        if not hasattr(self, "exchange"):
            return
        self.steers(FORWARD)
        for kind in (b"REP", b"DEALER"):
            self.come(BACKEND, kind, b"", (3, 1), 20)
        while self.all_do_what_they_should():
            self.is_as_the_model_says()
        counted = self.exchange.counters
        assert counted["waiting"] == counted["in_flight"] == 0, counted
        lost = ("dead", "malformed", "unanswered")
        fates = {token_of(request.frames): request.fate for request in self.model.requests}
        for speaker in self.clients:
            for token in speaker.sent:
                assert self.answers[token] or fates[token] in lost, (
                    token,
                    fates[token],
                    speaker.kind,
                )
        for speaker in self.clients + self.workers:
            self.leaves(speaker)
        assert not any(self.exchange.live.values()), self.exchange.live

    def all_do_what_they_should(self) -> bool:
        """True if there was anything to do."""
        did = False
        for speaker in self.clients + self.workers:
            if speaker.peer.ended:
                continue
            for request in speaker.given:
                self.answer(speaker, request, 0, 0)
            speaker.given.clear()
            before = len(speaker.unsaid)
            self.feed(speaker, [], True)
            did = len(speaker.unsaid) != before or did
            if not speaker.peer.ended:
                did = self.hears(speaker, 1 << 40) or bool(speaker.given) or did
        return did


def asker(frames: list[bytes]) -> list[bytes]:
    """The routing id and the envelope of what a worker was given."""
    return frames[: frames.index(b"", 1) + 1] if b"" in frames[1:-1] else frames[:1]


def token_of(frames: list[bytes]) -> bytes:
    """What marks a request, and the reply to it."""
    (token,) = {
        part.removeprefix(b"re:").partition(b".")[0] + b"."
        for part in frames
        if part.removeprefix(b"re:").startswith(b"#")
    }
    return token


Queue.TestCase.settings = settings(
    max_examples=max(1, STEPS // STEPS_EACH),
    stateful_step_count=STEPS_EACH,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestQueue = Queue.TestCase
