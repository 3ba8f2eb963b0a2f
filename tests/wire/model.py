"""What a queue on the wire engine has to do, in plain Python and whole messages: slow and obvious.

It is written from ``docs/engines.md`` and the comments of ``etc/zqueue.toml``. ``test_model``
drives it beside the real state machine, which has to send the same bytes to the same peers, to
count the same, and to let the same requests die of the same causes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from tests.wire.fuzz import BACKEND, FRONTEND, frame, handshake, message
from tests.wire.model_entities import (
    BY_ITSELF,
    FLOWS,
    IN_LINE,
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
UNLIMITED = 0x7FFFFFFF
UNANSWERED = 10_000


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
        self.made_ids = 0
        self.given = 0
        self.requests: list[Request] = []
        self.deaths: list[dict[str, Any]] = []
        self.lost: list[tuple[int, bytes, list[bytes]]] = []
        self.forgotten: list[Request] = []
        self.serving = False
        self.quota = 0

    # -- connections -------------------------------------------------------------------------

    def connect(
        self, number: int, side: int, kind: bytes, identity: bytes, version: tuple[int, int]
    ) -> Peer:
        """A peer has come, and its handshake is done."""
        peer = self.peers[number] = Peer(number, side, kind)
        peer.out += handshake(b"ROUTER" if side == FRONTEND else b"DEALER", b"", version)
        peer.out[10] = 3
        if version[0] == 3:
            peer.out[11] = 1
        self.connections["accepted"][side] += 1
        if side == BACKEND:
            strict = kind == b"REP"
            credit = self.settings.prefetch or (1 if strict else UNLIMITED)
            peer.worker = Worker(strict, credit)
            self.place(peer)
        else:
            self.client_arrived(peer, identity)
        if peer.worker or peer.client:
            self.connections["connected"][side] += 1
        self.settle()
        return peer

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
            self.client_left(peer.client, peer.kind)
        if peer in self.stalled:
            self.stalled.remove(peer)

    def settle(self) -> None:
        while True:
            self.turn()
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
        if holder is not None and holder.absence is not None:
            if peer.kind != b"REQ":
                self.client_returned(peer, holder)
                return
            # What came for the one before it, it could not tell from what it will ask for.
            self.absence_over(holder)
            holder = None
        if holder is not None and not self.settings.handover:
            self.end(peer)
            return
        client = Client(identity, named, peer)
        if holder is not None:
            assert holder.peer is not None
            self.end(holder.peer)
            if self.may_return(holder, holder.peer.kind) and peer.kind != b"REQ":
                # It is back before it was known that it had left.
                holder.peer.client, client.peer = client, holder.peer
                client, holder.peer = holder, peer
        peer.client = self.ids[identity] = client

    def may_return(self, client: Client, kind: bytes) -> bool:
        return client.named and kind != b"REQ" and self.settings.client_grace > 0

    def client_returned(self, peer: Peer, client: Client) -> None:
        assert client.absence is not None
        absence, client.absence = client.absence, None
        self.absent.remove(client)
        for request in absence.answered:
            self.counters["kept"] -= 1
            request.fate = ""
            self.finish(request, "replied")
        peer.out += absence.out
        client.peer, peer.client = peer, client

    def client_left(self, client: Client, kind: bytes) -> None:
        client.peer = None
        if self.ids.get(client.id) is client and self.may_return(client, kind):
            client.absence = Absence(self.now)
            self.absent.append(client)
        else:
            self.gone_for_good(client)

    def absence_over(self, client: Client) -> None:
        assert client.absence is not None
        for request in client.absence.answered:
            self.counters["kept"] -= 1
            self.counters["dropped_replies"] += 1
            request.fate = ""
            self.finish(request, "unclaimed")
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
            return "kept"
        assert client.peer is not None
        if len(client.peer.out) > self.settings.client_unsent:
            self.counters["slow_clients"] += 1
            self.end(client.peer)
            return ""
        client.peer.out += raw
        return "sent"

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
            (not most or peer.client.waiting < most)
            and (
                self.settings.when_full != "hold"
                or peer.client.waiting_bytes < self.settings.max_waiting_bytes
            )
            and len(peer.out) < max(self.settings.client_unsent // 4, 1)
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

    def sent(self, peer: Peer, size: int) -> None:
        """So much of what was for it has gone out."""
        del peer.out[:size]
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
                if peer.client:
                    self.asks(peer.client, raw, frames)
                else:
                    self.answers(peer, raw, frames)
        # What it answers though it has nothing tells of another connection.
        if worker and since and worker.answered > answered:
            self.measure(peer, worker, worker.answered - answered, since)

    # -- requests ----------------------------------------------------------------------------

    def asks(self, client: Client, raw: bytes, frames: list[bytes]) -> None:
        request = self.received(client, raw, frames)
        self.quota -= 1
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
        if request.client.peer is not None:
            self.unstall_itself(request.client.peer)
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
        self.deaths.append(
            {
                "number": request.number,
                "cause": cause,
                "received_at": request.received_at,
                "died_at": self.now,
                "attempts": request.attempts,
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
        filled = {"reason": cause.encode(), "attempts": b"%d" % request.attempts}
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
        while (line or odd) and self.in_flight_bytes < self.settings.max_waiting_bytes:
            # The oldest first; one without an envelope is for DEALER and ROUTER only.
            by_age = sorted([*line, *odd[:1]], key=lambda request: request.number)
            if not any(self.given_out(request) for request in by_age):
                return

    def given_out(self, request: Request) -> bool:
        """Give it to a worker. While the first in line has to wait for one that it is alone at,
        REPs get no other, or it would wait for ever; a ROUTER or DEALER need not wait for that."""
        line = self.lines[True]
        if request.envelope and request is not line[0] and not request.suspect:
            worker = self.least_of(False)
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
        rep, other = self.least_of(True), self.least_of(False)
        if rep is None or not request.envelope:
            return self.least_isolating(request)
        assert rep.worker is not None
        if request.suspect:
            # A REP that has nothing else, so that no other request is drawn into what it may do.
            return self.least_isolating(request) if rep.worker.count else rep
        if other is None:
            return rep
        assert other.worker is not None
        turns = [(peer.worker.count, peer.worker.given) for peer in (rep, other) if peer.worker]
        return rep if turns[0] <= turns[1] else other

    def least_isolating(self, request: Request) -> Peer | None:
        """A ROUTER or DEALER; for one that was lost, one that has none that was lost twice; and if
        it was lost twice itself, no other."""
        there = [peer for _, peers in sorted(self.rings[False].items()) for peer in peers]
        if request.suspect:
            apart = [peer for peer in there if peer.worker and not peer.worker.has_isolated]
            if apart or request.attempts >= 2:
                return next(iter(apart), None)
        return next(iter(there), None)

    def least_of(self, strict: bool) -> Peer | None:
        counts = [count for count, peers in self.rings[strict].items() if peers]
        return self.rings[strict][min(counts)][0] if counts else None

    def give(self, peer: Peer, request: Request) -> None:
        worker = peer.worker
        assert worker is not None
        address = self.address(peer, worker, request.client)
        peer.out += frame(1, address) + request.raw
        self.unqueue(request)
        request.attempts += 1
        isolated = request.suspect and (worker.strict or request.attempts > 2)
        worker.tasks.append(Task(request, address, self.now, isolated))
        worker.given += 1
        self.given += 1
        self.counters["in_flight"] += 1
        self.counters["in_flight_bytes"] = self.in_flight_bytes
        if not worker.strict:
            self.forget_unanswered(worker)
        self.unplace(peer)
        self.place(peer)

    def address(self, peer: Peer, worker: Worker, client: Client) -> bytes:
        """What stands in the place of the client's routing id, and is good for this connection."""
        if worker.strict:
            return b"\0" + peer.number.to_bytes(4, "big") + worker.given.to_bytes(4, "big")
        if client.named:
            return client.id
        return b"\0" + peer.number.to_bytes(4, "big") + client.id[1:]

    def forget_unanswered(self, worker: Worker) -> None:
        """It need not answer, and what it does not is not kept for ever."""
        while len(worker.tasks) > UNANSWERED:
            self.forget(worker, worker.tasks[0])
        most = self.settings.max_waiting_bytes // 4
        for task in worker.tasks[:-1]:
            # What is over is still to be known when it is answered; its envelope is kept for that.
            held = worker.late_bytes if task.over else worker.bytes if task.request.envelope else 0
            if held > most:
                self.forget(worker, task)

    def forget(self, worker: Worker, task: Task) -> None:
        worker.tasks.remove(task)
        self.forgotten.append(task.request)
        if not task.over:
            self.not_in_flight()
            self.finish(task.request, "unanswered")

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
            and not worker.aside
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
        tasks, worker.tasks = worker.tasks, []
        for place, task in enumerate(tasks):
            if not worker.strict and task.request.envelope:
                self.lost.append((peer.number, task.request.client.id, task.request.envelope))
            if task.over:
                continue
            self.not_in_flight()
            if task.request.envelope:
                begun = not worker.strict or place == 0
                self.elsewhere(peer, task, begun, "worker_lost")
            else:
                self.finish(task.request, "unanswered")

    def overdue_at(self, worker: Worker) -> int:
        """When it will have been at one request for ``service_timeout``; 0 for never."""
        if not self.settings.service_timeout or not worker.tasks:
            return 0
        if worker.strict:
            # It works on one after the other. Set aside, it has nothing left to be late with.
            began = max(worker.tasks[0].given_at, worker.answered_at)
            return 0 if worker.aside else began + nanoseconds(self.settings.service_timeout)
        given = [task.given_at for task in worker.to_answer if not task.over]
        return min(given) + nanoseconds(self.settings.service_timeout) if given else 0

    def overdue(self, peer: Peer, worker: Worker) -> None:
        """It is set aside. What it is late with goes elsewhere; of a REP all, it will come to none
        of it while it is stuck. It still has it to answer."""
        worker.aside = True
        self.place(peer)
        late = self.now - nanoseconds(self.settings.service_timeout)
        for place, task in enumerate(worker.tasks):
            if task.over or not task.request.envelope:
                continue
            if worker.strict or task.given_at <= late:
                begun = not worker.strict or place == 0
                task.over = True
                self.not_in_flight()
                self.elsewhere(peer, task, begun, "service_timeout")

    def elsewhere(self, peer: Peer, task: Task, begun: bool, cause: str) -> None:
        request, policy = task.request, self.settings.redeliver
        if request.client.is_gone:
            self.finish(request, "withdrawn")
            return
        request.history.append(
            {
                "worker": peer.number,
                "peer": "test",
                "given_at": task.given_at,
                "ended_at": self.now,
                "cause": cause,
            }
        )
        if 0 < self.settings.max_attempts <= request.attempts:
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
        worker.answered += 1
        worker.aside = False
        if task is not None:
            worker.tasks.remove(task)
        if late:
            self.counters["late_replies"] += 1
            self.counters["dropped_replies"] += 1
        else:
            behind = raw[len(raw) - size_of(raw, 1) :]
            self.pass_on(task.request if task else None, routing_id(frames), behind)
        self.place(peer)

    def asked(self, worker: Worker, frames: list[bytes]) -> Task | None:
        """The oldest one that this may be the reply to."""
        for task in worker.tasks:
            if (task.address, task.request.envelope) == (frames[0], envelope_of(frames[1:])):
                return task if len(frames) > 1 else None
        return None

    def is_late(self, peer: Peer, worker: Worker, frames: list[bytes]) -> bool:
        """Whether this, which answers nothing that the worker has, is what one had to answer that
        was lost, and may have come back as this one: the last such connection's."""
        if worker.strict:
            return is_address(frames[0]) and frames[0][1:5] != peer.number.to_bytes(4, "big")
        if len(frames) == 1 or not envelope_of(frames[1:]):
            return False
        of = routing_id(frames), envelope_of(frames[1:])
        lost = [each for each in self.lost if each[0] < peer.number and each[1:] == of]
        if lost:
            self.lost.remove(max(lost, key=lambda each: each[0]))
        return bool(lost)

    def pass_on(self, request: Request | None, id: bytes, behind: bytes) -> None:
        if request is not None:
            self.not_in_flight()
            client = self.who_hears(request.client)
        else:
            client = self.ids.get(id) if behind else None
        sent = self.send(client, behind)
        if not sent:
            self.counters["dropped_replies"] += 1
        if request is None:
            self.counters["extra_replies"] += bool(sent)
        elif sent == "kept":
            assert client is not None
            assert client.absence is not None
            client.absence.answered.append(request)
            self.finish(request, "kept")
        else:
            self.finish(request, "replied" if sent else "unclaimed")

    # -- time --------------------------------------------------------------------------------

    def advance(self, nanoseconds_more: int, died: Sequence[dict[str, Any]] = ()) -> None:
        """Let time pass. Of workers that are overdue at once nobody says which comes first; it is
        told by who ``died`` in the end, in that order."""
        self.now += nanoseconds_more
        last = [each for death in died for each in death["history"][-1:]]
        order = [each["worker"] for each in last if each["ended_at"] == self.now]
        late = [peer for peer, at in self.overdues() if at <= self.now]
        for number in [*dict.fromkeys(order), *(peer.number for peer in late)]:
            peer = self.peers[number]
            if peer in late:
                late.remove(peer)
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
        self.settle()

    def past_deadline(self, request: Request) -> None:
        if request in self.waits:
            self.unqueue(request)
        else:
            for task in self.tasks():
                if task.request is request and not task.over:
                    task.over = True
            self.not_in_flight()
            for peer in self.peers.values():
                self.place(peer)
        if request.client.is_gone:
            self.finish(request, "withdrawn")
        else:
            self.die(request, "deadline")

    @property
    def due(self) -> int:
        """When the next thing happens by itself; 0 for never."""
        ends = (self.overdues(), self.deadlines(), self.waits_end(), self.absences_end())
        return min((at for each in ends for _, at in each), default=0)

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
