"""What a queue on the wire engine has to do, in plain Python and whole messages: slow and obvious.

It is written from ``docs/engines.md`` and the comments of ``etc/zqueue.toml``. ``test_model``
drives it beside the real state machine, which has to send the same bytes to the same peers, to
count the same, and to let the same requests die of the same causes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from tests.wire.fuzz import BACKEND, FRONTEND, command, frame, handshake, message
from tests.wire.model_entities import (
    BY_ITSELF,
    FLOWS,
    IN_LINE,
    NUMBERED_ADDRESS,
    Absence,
    Client,
    Peer,
    Request,
    Settings,
    Task,
    Worker,
    envelope_of,
    is_address,
    nanoseconds,
    routing_id,
    shown_id,
    size_of,
)

FORWARD, HOLD, DRAIN = range(3)
TURN = 16
WORKER_UNSENT = 256 << 10
PONGS_UNSENT = 16 << 10
UNLIMITED = 0x7FFFFFFF
UNANSWERED = 10_000
SPARED_AT_ONCE = 4
SEVERAL = 16
ONE_WAY = 10.0


class Model:
    """One queue. ``counters`` has every counter under its own name."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 1
        self.mode = FORWARD
        self.counters: Counter[str] = Counter()
        self.died: Counter[str] = Counter()
        self.connections: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.lines: dict[bool, list[Request]] = {True: [], False: []}
        self.waits: list[Request] = []
        self.rings: dict[bool, dict[int, list[Peer]]] = {
            True: defaultdict(list),
            False: defaultdict(list),
        }
        self.stalled: list[Peer] = []
        self.ended: list[Peer] = []
        self.peers: dict[int, Peer] = {}
        self.ids: dict[bytes, Client] = {}
        self.absent: list[Client] = []
        self.claims: list[Peer] = []
        self.untaken: list[Request] = []
        self.made_ids = 0
        self.given = 0
        self.requests: list[Request] = []
        self.deaths: list[dict[str, Any]] = []
        self.lost: dict[tuple[bytes, tuple[bytes, ...]], list[int]] = {}
        # What ROUTERs and DEALERs have: to answer, without an envelope, over.
        self.unanswered: list[Task] = []
        self.one_way: list[Task] = []
        self.late: list[Task] = []
        self.forgotten: list[Request] = []
        self.serving = False
        self.quota = 0

    # -- connections -------------------------------------------------------------------------

    def connect(
        self, number: int, side: int, kind: bytes, identity: bytes, version: tuple[int, int]
    ) -> Peer:
        """A peer has come, and its handshake is done."""
        peer = self.peers[number] = Peer(number, side, kind, version)
        peer.out += handshake(b"ROUTER" if side == FRONTEND else b"DEALER", b"", version)
        peer.out[10] = 3
        if version[0] == 3:
            peer.out[11] = 1
        self.connections["accepted"][side] += 1
        if side == BACKEND:
            strict = kind == b"REP"
            credit = self.settings.prefetch or (1 if strict else UNLIMITED)
            if self.is_timed and not strict:
                credit = min(credit, UNANSWERED)
            peer.worker = Worker(strict, credit)
            self.place(peer)
        else:
            self.client_arrived(peer, identity)
        if peer in self.claims and version[0] == 3:
            # It hears nothing of READY.
            del peer.out[64:]
        if peer.worker or peer.client:
            self.connections["connected"][side] += 1
        self.settle()
        return peer

    def leaves(self, peer: Peer) -> None:
        """Another has its routing id. What it sent before is read as there is room, or at once if
        nobody is to hear of it."""
        client = peer.client
        assert client is not None
        peer.leaving = True
        client.leaving.append(peer)
        self.is_away(client, peer)
        self.unstall_itself(peer)

    def end(self, peer: Peer) -> None:
        """Its connection has ended, or has to: it is closed once this turn's work is done."""
        if not peer.ended:
            peer.ended = True
            self.ended.insert(0, peer)
            self.place(peer)

    def close(self, peer: Peer) -> None:
        del self.peers[peer.number]
        if peer.client or peer.worker:
            self.connections["connected"][peer.side] -= 1
            self.connections["disconnected"][peer.side] += 1
        else:
            self.connections["turned_away"][peer.side] += 1
        if peer.worker is not None:
            self.worker_lost(peer, peer.worker)
            self.unplace(peer)
        if peer.client is not None:
            self.client_left(peer)
        if peer in self.stalled:
            self.stalled.remove(peer)

    def settle(self) -> None:
        while True:
            self.turn()
            for peer in self.peers.values():
                if peer.leaving and not peer.fed and not peer.ended:
                    self.end(peer)
            if not self.ended:
                return
            while self.ended:
                self.close(self.ended.pop(0))

    # -- clients -----------------------------------------------------------------------------

    def client_arrived(self, peer: Peer, identity: bytes) -> None:
        # One that looks like a return address could not be told from that.
        named = bool(identity) and not is_address(identity)
        if not named:
            identity = b""
        while not named and (not identity or identity in self.ids):
            self.made_ids += 1
            identity = b"\0" + self.made_ids.to_bytes(4, "big")
        holder = self.ids.get(identity)
        if holder is not None and holder.peer is not None:
            if not self.settings.handover:
                # It waits whether that leaves, too, which is asked for a sign of life.
                self.claims.append(peer)
                if holder.peer.version == (3, 1) and len(holder.peer.out) < PONGS_UNSENT:
                    self.say(holder.peer, command(b"PING", bytes(2)), False)
                return
            self.leaves(holder.peer)
            holder = self.ids.get(identity)
        if holder is not None and holder.absence is not None:
            if peer.kind != b"REQ":
                self.client_returned(peer, holder)
                return
            # What came for the one before it, it could not tell from what it will ask for.
            self.absence_over(holder)
            holder = None
        client = Client(identity, named, peer)
        peer.client = self.ids[identity] = client
        peer.parts = [(len(peer.out), bytes(peer.out), False)]

    def say(self, peer: Peer, raw: bytes, is_message: bool) -> None:
        peer.out += raw
        peer.parts.append((len(raw), raw, is_message))

    def may_return(self, client: Client, kind: bytes) -> bool:
        return client.named and kind != b"REQ" and self.settings.client_grace > 0

    def client_returned(self, peer: Peer, client: Client) -> None:
        assert client.absence is not None
        absence, client.absence = client.absence, None
        self.absent.remove(client)
        peer.parts = [(len(peer.out), bytes(peer.out), False)]
        for raw in absence.messages:
            self.say(peer, raw, True)
        client.unsent = absence.answered
        client.peer, peer.client = peer, client

    def client_left(self, peer: Peer) -> None:
        client = peer.client
        assert client is not None
        if not peer.leaving:
            self.is_away(client, peer)
            return
        client.leaving.remove(peer)
        for each in (*client.leaving[:1], client.peer):
            if each is not None:
                self.unstall_itself(each)

    def is_away(self, client: Client, peer: Peer) -> None:
        """What is not written to its end is kept whole if the client may be back for it."""
        client.peer = None
        unsent, client.unsent = client.unsent, []
        if self.ids.get(client.id) is client and self.may_return(client, peer.kind):
            whole = [raw for _, raw, is_message in peer.parts if is_message]
            if whole or self.has_asked(client):
                client.absence = Absence(self.now)
                client.absence.out += b"".join(whole)
                client.absence.messages = whole
                client.absence.weight += sum(map(len, whole))
                if whole:
                    client.absence.answered, unsent = unsent, []
                self.absent.append(client)
        peer.parts.clear()
        peer.out.clear()
        self.not_claimed(unsent)
        if client.absence is None:
            self.gone_for_good(client)

    def has_asked(self, client: Client) -> bool:
        """Whether something is to come for it yet, or may be."""
        asked = [*self.waits, *(task.request for task in self.tasks()), *self.untaken]
        return bool(client.leaving) or any(request.client is client for request in asked)

    def not_claimed(self, answered: list[Request]) -> None:
        for request in answered:
            self.counters["kept"] -= 1
            self.counters["dropped_replies"] += 1
            request.fate = ""
            self.finish(request, "unclaimed")

    def tidy(self) -> None:
        """Nobody is remembered to whom nothing is owed, nor all if they take too much memory."""
        for client in list(self.absent):
            assert client.absence is not None
            if not client.absence.out and not self.has_asked(client):
                self.absence_over(client)
        while len(self.absent) > 1 and self.settings.max_waiting_bytes < sum(
            client.absence.weight for client in self.absent if client.absence
        ):
            self.absence_over(self.absent[0])

    def absence_over(self, client: Client) -> None:
        assert client.absence is not None
        self.not_claimed(client.absence.answered)
        client.absence = None
        self.absent.remove(client)
        self.gone_for_good(client)

    def gone_for_good(self, client: Client) -> None:
        if self.ids.get(client.id) is client:
            del self.ids[client.id]
        client.lasting = self.settings.keep_for_gone_clients
        for request in [request for request in self.waits if request.client is client]:
            if not client.lasting:
                self.finish(self.unqueue(request), "withdrawn")
        if not client.lasting:
            # What they sent needs no room any more.
            for peer in client.leaving:
                if peer in self.stalled:
                    self.stalled.remove(peer)
                peer.stalled = FLOWS

    def who_hears(self, client: Client) -> Client | None:
        """Of what this one asked for: itself; else, as with a ROUTER, whoever has its routing id by
        now, unless that is a REQ, which would take it for the answer to its own question."""
        if client.can_be_told:
            return client
        other = self.ids.get(client.id)
        if other is not None and other.peer is not None and other.peer.kind == b"REQ":
            return None
        return other

    def send(self, client: Client | None, raw: bytes) -> str:
        """What becomes of it: ``sent``, ``kept`` until the client is back, or nothing."""
        if client is None or not client.can_be_told:
            return ""
        if client.absence is not None:
            if len(client.absence.out) > self.settings.client_unsent:
                return ""
            client.absence.out += raw
            client.absence.messages.append(raw)
            client.absence.weight += len(raw) + 128
            return "kept"
        assert client.peer is not None
        if len(client.peer.out) > self.settings.client_unsent:
            self.counters["slow_clients"] += 1
            self.end(client.peer)
            return ""
        self.say(client.peer, raw, True)
        return "kept" if self.may_return(client, client.peer.kind) else "sent"

    # -- admission ---------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return (
            self.counters["waiting"] >= self.settings.max_waiting
            or self.counters["waiting_bytes"] >= self.settings.max_waiting_bytes
        )

    def has_room(self) -> bool:
        return self.mode != DRAIN and (self.settings.when_full != "hold" or not self.is_full)

    def has_room_itself(self, peer: Peer) -> bool:
        assert peer.client is not None
        most = self.settings.client_waiting
        return (
            peer.client.leaving[:1] in ([], [peer])
            and (not most or peer.client.waiting < most)
            and (
                self.settings.when_full != "hold"
                or peer.client.waiting_bytes < self.settings.max_waiting_bytes
            )
            and len(peer.out) < max(self.settings.client_unsent // 4, 1)
        )

    def admitted(self, peer: Peer) -> bool:
        if peer.leaving and peer.client is not None and peer.client.is_gone:
            return True
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

    def sent(self, peer: Peer, size: int) -> None:
        """So much of what was for it has gone out."""
        del peer.out[:size]
        peer.sent += size
        if peer.client is not None:
            self.is_written(peer, peer.client, size)
        self.unstall_itself(peer)
        if peer.worker is not None:
            if self.mode == DRAIN or peer.worker.draining:
                self.finish_one_way(peer)
            if peer.worker.place is None:
                self.place(peer)

    def is_written(self, peer: Peer, client: Client, size: int) -> None:
        """What is written whole counts as replied."""
        whole = 0
        while size:
            left, raw, is_message = peer.parts[0]
            taken = min(size, left)
            size -= taken
            if taken < left:
                peer.parts[0] = (left - taken, raw, is_message)
            else:
                del peer.parts[0]
                whole += is_message
        for request in client.unsent[: whole if peer.out else None]:
            self.counters["kept"] -= 1
            request.fate = ""
            self.finish(request, "replied")
            client.unsent.remove(request)

    def drain_worker(self, peer: Peer) -> None:
        assert peer.worker is not None
        if not peer.worker.draining:
            peer.worker.draining = True
            self.place(peer)
            self.finish_one_way(peer)

    def finish_one_way(self, peer: Peer) -> None:
        """What may need no answer, and has gone out, is waited for no more."""
        for task in list(self.one_way):
            if task.peer is peer and task.has_left:
                self.take_back(task)
                self.finish(task.request, "unanswered")

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
        """Bytes came from it: deal with whole messages, as far as they are admitted."""
        worker = peer.worker
        answered = worker.answered if worker else 0
        since = 0
        if worker and worker.tasks:
            since = max(worker.answered_at, worker.tasks[0].given_at)
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
                probes = frames == [b""] and not peer.spoke
                if peer.client:
                    self.asks(peer.client, raw, frames, probes)
                elif worker and probes and not worker.strict:
                    self.counters["reply_messages"] += 1
                    self.counters["reply_frames"] += 1
                else:
                    self.answers(peer, raw, frames)
                peer.spoke = True
        # What it answers though it has nothing tells of another connection.
        if worker and since and worker.answered > answered:
            self.measure(peer, worker, worker.answered - answered, since)

    # -- requests ----------------------------------------------------------------------------

    def asks(self, client: Client, raw: bytes, frames: list[bytes], probes: bool) -> None:
        request = self.received(client, raw, frames)
        request.probes = probes
        self.quota -= 1
        if client.is_gone:
            self.finish(request, "withdrawn")
            return
        if self.settings.when_full != "hold" and self.is_full and self.mode != HOLD:
            # None is turned away while workers are idle.
            self.give_all()
        if self.settings.when_full == "reject" and self.is_full:
            self.tell(request, "queue_full")
            self.finish(request, "rejected")
            return
        while self.settings.when_full == "oldest" and self.is_full and self.waits:
            oldest = min(self.waits, key=lambda request: request.number)
            self.die(self.unqueue(oldest), "queue_full")
        self.queue(request)

    def submit(self, id: bytes, frames: list[bytes]) -> None:
        """Asked again by an operator in the name of a client, which need not be there any more."""
        client = self.ids.get(id)
        is_req = client is not None and client.peer is not None and client.peer.kind == b"REQ"
        if client is not None and is_req and (client.named or self.settings.error_reply):
            # A REQ hears the answer only if it can be waiting for nothing else: this is the
            # connection that asked, its question died, and it was not told.
            client = None
        if client is None:
            made = len(id) == 5 and not id[0]
            client = Client(id, named=not made, lasting=True)
        self.counters["retried"] += 1
        self.queue(self.received(client, message(frames), frames))
        self.settle()

    def received(self, client: Client, raw: bytes, frames: list[bytes]) -> Request:
        self.counters["received"] += 1
        self.counters["request_frames"] += len(frames) + 1
        self.counters["request_bytes"] += len(client.id) + sum(map(len, frames))
        request = Request(self.counters["received"], client, frames, raw, self.now)
        self.requests.append(request)
        client.latest, client.forgotten = request, None
        return request

    def queue(self, request: Request) -> None:
        """It waits where its age puts it."""
        line = self.lines[bool(request.envelope)]
        place = len(line)
        while place and line[place - 1].number > request.number:
            place -= 1
        line.insert(place, request)
        self.waits.append(request)
        request.waiting_since = self.now
        request.client.waiting += 1
        request.client.waiting_bytes += len(request.raw)
        self.counters["waiting"] += 1
        self.counters["waiting_bytes"] += len(request.raw)

    def unqueue(self, request: Request) -> Request:
        self.lines[bool(request.envelope)].remove(request)
        self.waits.remove(request)
        request.client.waiting -= 1
        request.client.waiting_bytes -= len(request.raw)
        self.counters["waiting"] -= 1
        self.counters["waiting_bytes"] -= len(request.raw)
        for peer in (request.client.peer, *request.client.leaving[:1]):
            if peer is not None:
                self.unstall_itself(peer)
        return request

    # -- their ends --------------------------------------------------------------------------

    def finish(self, request: Request, fate: str) -> None:
        assert not request.fate
        request.fate = fate
        self.counters[fate] += 1

    def die(self, request: Request, cause: str) -> None:
        self.finish(request, "dead")
        self.died[cause] += 1
        self.tell(request, cause)
        client = request.client
        self.untaken.append(request)
        self.deaths.append(
            {
                "number": request.number,
                "cause": cause,
                "received_at": request.received_at,
                "died_at": self.now,
                "attempts": request.attempts - request.spared,
                "history": request.history,
                "peer": "" if client.peer is None else "test",
                "client": client.id,
                "named": client.named,
                "frames": request.frames,
                "envelope": len(request.raw_envelope),
            }
        )

    def tell(self, request: Request, cause: str) -> None:
        """The error reply, behind the envelope as the client wrote it."""
        filled = {"reason": cause.encode(), "attempts": b"%d" % (request.attempts - request.spared)}
        frames = [
            b"".join(part if isinstance(part, bytes) else filled[part] for part in parts)
            for parts in self.settings.error_reply
        ]
        told = request.raw_envelope + message(frames)
        if frames and self.send(self.who_hears(request.client), told):
            self.counters["error_replies"] += 1

    # -- giving out --------------------------------------------------------------------------

    def turn(self) -> None:
        while True:
            self.tidy()
            for task in list(self.one_way):
                over = task.given_at + nanoseconds(ONE_WAY) <= self.now
                if over or (self.mode == DRAIN and task.has_left):
                    self.take_back(task)
                    self.finish(task.request, "unanswered")
                    self.place(task.peer)
            for peer in self.peers.values():
                if peer.leaving and peer.client is not None and peer.client.is_gone:
                    self.take(peer)
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
        while line or odd:
            # The oldest first; one without an envelope is for DEALER and ROUTER only.
            by_age = sorted([*line, *odd[:1]], key=lambda request: request.number)
            if not any(self.given_out(request) for request in by_age):
                return

    def given_out(self, request: Request) -> bool:
        """Give it to a worker. While the first in line has to wait for one that it is alone at,
        REPs get no other, or it would wait for ever; a ROUTER or DEALER need not wait for that."""
        line = self.lines[True]
        if request.envelope and request is not line[0] and not request.suspect:
            worker = self.least_other()
        else:
            worker = self.least(request)
        if worker is not None:
            self.give(worker, request)
        return worker is not None

    @property
    def in_flight_bytes(self) -> int:
        return sum(peer.worker.bytes for peer in self.peers.values() if peer.worker)

    def least(self, request: Request) -> Peer | None:
        """Who has the least to do; equal ones take turns."""
        rep, other = self.least_rep(), self.least_other()
        if not request.envelope:
            return self.least_of(False)
        if request.suspect:
            # A REP that has nothing else, so that no other request is drawn into what it may do.
            rep = self.least_of(True)
            free = rep is not None and rep.worker is not None and not rep.worker.count
            return rep if free else self.least_isolating(request)
        if rep is None or other is None:
            return rep or other
        assert rep.worker is not None
        assert other.worker is not None
        turns = [(peer.worker.count, peer.worker.given) for peer in (rep, other) if peer.worker]
        return rep if turns[0] <= turns[1] else other

    def least_isolating(self, request: Request) -> Peer | None:
        """A ROUTER or DEALER; for one that was lost, one that has none that was lost twice; and if
        it was lost twice itself, no other."""
        there = [peer for _, peers in sorted(self.rings[False].items()) for peer in peers]
        if self.least_other() is None:
            return None
        if request.suspect:
            workers = [(peer, peer.worker) for peer in there if peer.worker]
            for peer, worker in workers:
                if not worker.has_isolated and not worker.aside:
                    return peer
            if request.attempts >= 2 and workers[0][1].has_isolated:
                return None
        return next(iter(there), None)

    def least_rep(self) -> Peer | None:
        """One that has nothing may always be given a request."""
        least = self.least_of(True)
        full = self.in_flight_bytes >= self.settings.max_waiting_bytes
        return None if least and least.worker and least.worker.count and full else least

    def least_other(self) -> Peer | None:
        least = self.least_of(False)
        full = self.is_timed and self.unanswered_bytes >= self.settings.max_waiting_bytes // 2
        return None if least and least.worker and least.worker.count and full else least

    @property
    def is_timed(self) -> bool:
        """Whether what a ROUTER or DEALER does not answer ends by itself."""
        return self.settings.deadline > 0 or self.settings.service_timeout > 0

    @property
    def unanswered_bytes(self) -> int:
        return sum(len(task.request.raw) for task in self.unanswered)

    def least_of(self, strict: bool) -> Peer | None:
        counts = [count for count, peers in self.rings[strict].items() if peers]
        return self.rings[strict][min(counts)][0] if counts else None

    def give(self, peer: Peer, request: Request) -> None:
        worker = peer.worker
        assert worker is not None
        address = self.address(peer, worker, request.client)
        isolated = request.suspect and (worker.strict or request.attempts > 1)
        task = Task(request, peer, address, self.now, isolated, 0)
        if not worker.strict and request.client.named:
            self.settle_doubts(task)
        peer.out += frame(1, address) + request.raw
        task.end = peer.sent + len(peer.out)
        self.unqueue(request)
        request.attempts += 1
        worker.tasks.append(task)
        worker.given += 1
        self.given += 1
        self.counters["in_flight"] += 1
        self.counters["in_flight_bytes"] = self.in_flight_bytes
        if not worker.strict:
            (self.unanswered if request.envelope else self.one_way).append(task)
            self.forget_unanswered(task)
        if worker.tries:
            worker.tries, worker.tries_at = False, self.now + self.service_timeout
        self.unplace(peer)
        self.place(peer)

    @property
    def service_timeout(self) -> int:
        return nanoseconds(self.settings.service_timeout)

    def address(self, peer: Peer, worker: Worker, client: Client) -> bytes:
        """What stands in the place of the client's routing id, and is good for this connection."""
        connection, number = peer.number.to_bytes(4, "big"), worker.given.to_bytes(4, "big")
        if worker.strict:
            return b"\0" + connection + number
        if client.named:
            return client.id
        return b"\0" + connection + client.id[1:] + number

    def settle_doubts(self, task: Task) -> None:
        """Of those that look like it at its worker nobody waits for the oldest, and a reply was
        taken for one before that: it was its own, unless the worker is only late."""
        worker = task.worker
        alike = [each for each in worker.tasks if each.is_like(task)]
        while alike and alike[0].doubts and (alike[0].over or task.request.client.is_req):
            oldest = alike[0]
            to_do = [each for each in worker.tasks if not each.written_off]
            alone = len(to_do) <= SEVERAL and all(each in alike for each in to_do)
            if worker.passed <= oldest.given_at and not alone:
                return
            del alike[0]
            if alike:
                alike[0].doubts += oldest.doubts - 1
            self.take_back(oldest)
            if not oldest.over:
                self.finish(oldest.request, "unclaimed")

    def forget_unanswered(self, newest: Task) -> None:
        """They need not answer, and what they do not is not kept for ever: of all that they have
        the oldest is forgotten."""
        kinds = [peer.worker.strict for peer in self.peers.values() if peer.worker]
        most = UNANSWERED * kinds.count(False)
        while (
            sum(len(task.request.raw_envelope) for task in self.late)
            > self.settings.max_waiting_bytes // 4
            or len(self.late) > most
        ):
            self.forget(self.late[0])
        if not newest.request.envelope:
            if newest.request.probes:
                self.forget(newest)
            while len(self.one_way) > most:
                self.forget(self.one_way[0])
            return
        spared = 0
        while not self.is_timed and (
            len(self.unanswered) > most
            or self.unanswered_bytes > self.settings.max_waiting_bytes // 2
        ):
            oldest = self.unanswered[0]
            if oldest is newest:
                return
            if len(oldest.worker.live) > 1:
                self.forget(oldest)
                continue
            # It may be at it now.
            spared += 1
            if spared > SPARED_AT_ONCE:
                return
            self.unanswered.append(self.unanswered.pop(0))

    def forget(self, task: Task) -> None:
        client = task.request.client
        if client.latest is task.request and not task.over:
            client.forgotten = task.peer.number, task.address
        self.take_back(task)
        self.forgotten.append(task.request)
        if not task.over:
            self.finish(task.request, "unanswered")
        self.place(task.peer)

    def take_back(self, task: Task) -> None:
        """Its worker has it no more."""
        task.worker.tasks.remove(task)
        for line in (self.unanswered, self.one_way, self.late):
            if task in line:
                line.remove(task)
        if not task.over:
            self.not_in_flight()

    def is_over(self, task: Task) -> None:
        """Its worker has it to answer yet, and nobody waits for that."""
        task.over, task.over_at = True, self.now
        if task in self.unanswered:
            self.unanswered.remove(task)
            self.late.append(task)
        self.not_in_flight()

    def not_in_flight(self) -> None:
        self.counters["in_flight"] -= 1
        self.counters["in_flight_bytes"] = self.in_flight_bytes

    # -- workers -----------------------------------------------------------------------------

    def place(self, peer: Peer) -> None:
        worker = peer.worker
        if worker is None:
            return
        count = worker.count
        able = (
            not worker.draining
            and (not worker.aside or (worker.tries and not worker.live))
            and not (worker.strict and worker.has_isolated)
            and not peer.ended
            and count < worker.credit
            and len(peer.out) < WORKER_UNSENT
            and not (worker.strict and worker.late_bytes > self.settings.max_waiting_bytes // 4)
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
        if not worker.strict or self.settings.prefetch:
            return
        weight = min(1.0, answers / 8.0)
        worker.service += (weight if worker.service else 1.0) * (each - worker.service)
        worker.credit = 1 + int(min(1e6 / worker.service + 0.5, 4095.0))
        self.place(peer)

    def worker_lost(self, peer: Peer, worker: Worker) -> None:
        """Its connection has ended: what it had not answered goes elsewhere or dies."""
        for place, task in enumerate(list(worker.tasks)):
            if not worker.strict and task.request.envelope:
                self.is_lost(peer, task)
            self.take_back(task)
            if task.over:
                continue
            if task.request.envelope:
                begun = not worker.strict or place == 0
                self.elsewhere(peer, task, begun, "worker_lost", task.has_left)
            else:
                self.finish(task.request, "unanswered")

    def is_lost(self, peer: Peer, task: Task) -> None:
        """Should it be answered later, that is too late; what looks alike counts from the first
        connection that was lost with such a one."""
        of = task.address, tuple(task.request.envelope)
        self.lost.setdefault(of, [peer.number, 0])[1] += 1

    def overdue_at(self, worker: Worker) -> int:
        """When it will have been at one request for ``service_timeout``, or may try again; 0 for
        never."""
        if not self.settings.service_timeout or (
            not worker.tasks and not (worker.aside and not worker.strict)
        ):
            return 0
        if worker.strict:
            # It works on one after the other. Set aside, it has nothing left to be late with.
            began = max(worker.tasks[0].given_at, worker.answered_at)
            return 0 if worker.aside else began + self.service_timeout
        times = [task.given_at + self.service_timeout for task in worker.live]
        if worker.aside and not worker.tries:
            times.append(worker.tries_at)
        return min(times, default=0)

    def overdue(self, peer: Peer, worker: Worker) -> None:
        """It is set aside. What it is late with goes elsewhere; of a REP all, it will come to none
        of it while it is stuck. It still has it to answer. Others try again in time."""
        late = self.now - self.service_timeout
        if not worker.strict:
            if not any(task.given_at <= late for task in worker.live):
                worker.tries = True
                self.place(peer)
                return
            worker.tries, worker.tries_at = False, self.now + self.service_timeout
        worker.aside = True
        for place, task in enumerate(worker.tasks):
            if task.over or not task.request.envelope:
                continue
            if worker.strict or task.given_at <= late:
                begun = not worker.strict or place == 0
                self.is_over(task)
                self.elsewhere(peer, task, begun, "service_timeout", True)
        self.place(peer)

    def elsewhere(self, peer: Peer, task: Task, begun: bool, cause: str, sent: bool) -> None:
        """``begun``: it may have been, if it was ``sent``; what cannot have been is no attempt."""
        request, policy = task.request, self.settings.redeliver
        if request.client.is_gone:
            self.finish(request, "withdrawn")
            return
        if begun and sent:
            request.history.append(
                {
                    "worker": peer.number,
                    "peer": "test",
                    "given_at": task.given_at,
                    "ended_at": self.now,
                    "cause": cause,
                }
            )
        else:
            request.spared += 1
        if 0 < self.settings.max_attempts <= request.attempts - request.spared:
            self.die(request, "max_attempts")
        elif policy == "none" or (policy == "unstarted" and begun):
            self.die(request, cause)
        else:
            self.counters["returned"] += 1
            request.suspect = True
            self.queue(request)

    # -- replies -----------------------------------------------------------------------------

    def answers(self, peer: Peer, raw: bytes, frames: list[bytes]) -> None:
        worker = peer.worker
        assert worker is not None
        self.counters["reply_messages"] += 1
        self.counters["reply_frames"] += len(frames)
        task = self.asked(worker, frames)
        self.counters["reply_bytes"] += sum(map(len, frames[1:])) + len(
            shown_id(worker, task, frames)
        )
        late = task.over if task is not None else self.is_late(peer, worker, frames)
        if worker.strict and task is None and not late:
            self.counters["protocol_errors"] += 1
            self.end(peer)
            return
        if task is None and not late and not worker.strict:
            task = self.open_elsewhere(frames)
        worker.answered += 1
        worker.aside = worker.tries = False
        if task is not None:
            if not worker.strict:
                self.pass_doubts(task)
                task.worker.passed = max(task.worker.passed, task.given_at)
            self.take_back(task)
        behind = raw[len(raw) - size_of(raw, 1) :]
        if late:
            self.counters["late_replies"] += 1
            self.counters["dropped_replies"] += 1
        elif task is not None:
            self.pass_on(task.request, behind)
        else:
            self.pass_on_unasked(peer, frames, behind)
        self.place(peer)
        if task is not None:
            self.place(task.peer)

    def asked(self, worker: Worker, frames: list[bytes]) -> Task | None:
        """The oldest one that this may be the reply to."""
        if len(frames) == 1:
            return None
        tasks = worker.tasks
        if not worker.strict and len(frames[0]) == NUMBERED_ADDRESS and not frames[0][0]:
            # It is known also if it comes over another connection of the same worker.
            tasks = [task for task in self.tasks() if not task.worker.strict]
        envelope = envelope_of(frames[1:])
        for task in tasks:
            if (task.address, task.request.envelope) == (frames[0], envelope):
                return task
        return None

    def open_elsewhere(self, frames: list[bytes]) -> Task | None:
        """What a REQ with a routing id of its own waits for, if it comes over another connection
        of its worker."""
        client = self.ids.get(routing_id(frames)) if len(frames) > 1 else None
        if client is None or not client.is_req or not client.named:
            return None
        for task in self.tasks():
            same = task.request.envelope == envelope_of(frames[1:])
            if task.request is client.latest and not task.over and not task.worker.strict and same:
                return task
        return None

    def pass_doubts(self, task: Task) -> None:
        """A reply to nobody was taken for this one. If somebody waits for one that looks like it at
        that worker, it may have been for that."""
        alike = [each for each in task.worker.tasks if each.is_like(task) and each is not task]
        if not alike or not task.request.client.named:
            return
        younger = task.worker.tasks.index(alike[0]) > task.worker.tasks.index(task)
        assert younger or not task.over
        in_vain = task.over or self.who_hears(task.request.client) is None
        alike = alike[sum(each.given_at < task.given_at for each in alike) :]
        if alike:
            alike[0].doubts += task.doubts + (in_vain and not alike[-1].over)

    def is_late(self, peer: Peer, worker: Worker, frames: list[bytes]) -> bool:
        """Whether this, which answers nothing that the worker has, is what one had to answer that
        was lost, and may have come back as this one."""
        if worker.strict:
            return is_address(frames[0]) and frames[0][1:5] != peer.number.to_bytes(4, "big")
        if len(frames) == 1 or not envelope_of(frames[1:]):
            return False
        of = frames[0], tuple(envelope_of(frames[1:]))
        lost = self.lost.get(of)
        if lost is None or lost[0] >= peer.number:
            return False
        lost[1] -= 1
        if not lost[1]:
            del self.lost[of]
        return True

    def pass_on(self, request: Request, behind: bytes) -> None:
        client = self.who_hears(request.client)
        sent = self.send(client, behind)
        if not sent:
            self.counters["dropped_replies"] += 1
        if sent == "kept":
            assert client is not None
            answered = client.absence.answered if client.absence else client.unsent
            answered.append(request)
            self.finish(request, "kept")
        else:
            self.finish(request, "replied" if sent else "unclaimed")

    def pass_on_unasked(self, peer: Peer, frames: list[bytes], behind: bytes) -> None:
        """To whoever it is for; to a REQ only if it is the reply that it waits for."""
        client = self.ids.get(routing_id(frames)) if behind else None
        if client is not None and client.is_req:
            numbered = len(frames[0]) == NUMBERED_ADDRESS
            forgotten = client.forgotten
            if forgotten is None or forgotten[numbered] != (frames[0] if numbered else peer.number):
                client = None
            else:
                client.forgotten = None
        kind = "extra_replies" if self.send(client, behind) else "dropped_replies"
        self.counters[kind] += 1

    # -- time --------------------------------------------------------------------------------

    def advance(
        self,
        nanoseconds_more: int,
        died: Sequence[dict[str, Any]],
        looks: Sequence[int],
    ) -> None:
        """Let time pass. Nobody says in which order workers are looked at that are overdue by now,
        nor in which those end that have waited equally long: that is told by ``looks``, the numbers
        of connections, and by who ``died``."""
        self.now += nanoseconds_more
        for peer in self.claims:
            # Whoever has the routing id has not left.
            self.end(peer)
        self.claims.clear()
        late = [peer for peer, at in self.overdues() if at <= self.now]
        for peer in sorted(late, key=lambda peer: looks.index(peer.number)):
            assert peer.worker is not None
            self.overdue(peer, peer.worker)
        for request, at in list(self.deadlines()):
            if at <= self.now:
                self.past_deadline(request)
        place = {death["number"]: place for place, death in enumerate(died)}
        shed = [request for request, at in self.waits_end() if at <= self.now]
        for request in sorted(shed, key=lambda each: (each.waiting_since, place[each.number])):
            self.die(self.unqueue(request), "max_waiting_time")
        for client, at in list(self.absences_end()):
            if at <= self.now:
                self.absence_over(client)
        for task, at in list(self.late_ends()):
            if at <= self.now:
                task.written_off = True
                self.place(task.peer)
        self.settle()

    def past_deadline(self, request: Request) -> None:
        if request in self.waits:
            self.unqueue(request)
        else:
            for task in list(self.tasks()):
                if task.request is request and not task.over:
                    self.is_over(task)
            for peer in self.peers.values():
                self.place(peer)
        if request.client.is_gone:
            self.finish(request, "withdrawn")
        else:
            self.die(request, "deadline")

    @property
    def due(self) -> int:
        """When the next thing happens by itself; 0 for never."""
        ends: tuple[Iterator[tuple[Any, int]], ...] = (
            self.overdues(),
            self.deadlines(),
            self.waits_end(),
            self.absences_end(),
            self.late_ends(),
        )
        return min((at for each in ends for _, at in each), default=0)

    def late_ends(self) -> Iterator[tuple[Task, int]]:
        """When a ROUTER or DEALER is taken to be free of what it is late with."""
        span = nanoseconds(max(self.settings.deadline, self.settings.service_timeout))
        for task in self.late:
            if not task.written_off:
                yield task, task.over_at + span

    def overdues(self) -> Iterator[tuple[Peer, int]]:
        for peer in self.peers.values():
            at = self.overdue_at(peer.worker) if peer.worker else 0
            if at:
                yield peer, at

    def deadlines(self) -> Iterator[tuple[Request, int]]:
        """The oldest first. One without an envelope has none once a worker has it: nobody can know
        whether it is to be answered."""
        if self.settings.deadline:
            given = (t.request for t in self.tasks() if t.request.envelope and not t.over)
            for request in sorted([*self.waits, *given], key=lambda request: request.number):
                yield request, request.received_at + nanoseconds(self.settings.deadline)

    def waits_end(self) -> Iterator[tuple[Request, int]]:
        if self.settings.max_waiting_time:
            for request in self.waits:
                yield request, request.waiting_since + nanoseconds(self.settings.max_waiting_time)

    def absences_end(self) -> Iterator[tuple[Client, int]]:
        for client in self.absent:
            assert client.absence is not None
            yield client, client.absence.since + nanoseconds(self.settings.client_grace)

    # -- hand-over ---------------------------------------------------------------------------

    def hand_over(self) -> None:
        """Another process goes on with all of this. Where nobody can say any more who came first,
        the newest connection does."""
        peers = sorted(self.peers.values(), key=lambda peer: -peer.number)
        self.stalled.clear()
        self.unanswered.sort(key=lambda task: (task.given_at, task.request.number))
        self.one_way.sort(key=lambda task: (task.given_at, task.request.number))
        self.late.sort(key=lambda task: (task.over_at, task.request.number))
        for ring in self.rings.values():
            ring.clear()
        for peer in peers:
            if peer.worker is not None:
                peer.worker.place = None
                self.place(peer)
            peer.stalled = FLOWS
            if peer.client is not None and peer.fed:
                self.stall(peer)
        self.settle()

    # -- what there is -----------------------------------------------------------------------

    def tasks(self) -> Iterator[Task]:
        for peer in self.peers.values():
            if peer.worker is not None:
                yield from peer.worker.tasks

    def clients(self) -> set[Client]:
        """Also those that have left, as long as there is something of theirs."""
        asked = [*self.waits, *(task.request for task in self.tasks())]
        here = (peer.client for peer in self.peers.values() if peer.client)
        return {*here, *self.absent, *(request.client for request in asked)}
