"""The state machine of a queue against a model of it in plain Python, driven by hypothesis.

The model says, to the byte, what each peer is sent, every counter, every death and when something
is due. Beside it stands what must hold whatever the model says: the sum, to whom a reply goes and
how often, what a REP is given, who gets nothing, and that nothing is left.

The normal suite takes some ten thousand steps, a few thousand a second. For a long run set how
many, and a seed to vary it::

    ZQUEUE_MODEL_STEPS=1000000 pytest tests/wire/test_model.py --hypothesis-seed=7
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zqueue.engine.wire import support

if support.missing():
    pytest.skip(f"no wire engine: {support.missing()}", allow_module_level=True)

from tests.wire.fuzz import BACKEND, CAUSES, ENDS, FRONTEND, LONG, Reader, handshake, message
from tests.wire.model import DRAIN, FORWARD, HOLD, Model
from tests.wire.model_entities import FLOWS, Peer, Request, Settings
from zqueue.engine.wire.exchange import Exchange
from zqueue.engine.wire.reports import WORKER_ANSWERS_AGAIN, WORKER_SET_ASIDE

STEPS_EACH = 60
STEPS = int(os.environ.get("ZQUEUE_MODEL_STEPS", "40000"))
pytestmark = pytest.mark.timeout(300 + STEPS // 100)

PICK = st.integers(0, 1 << 16)
CUTS = st.lists(st.integers(1, 200), max_size=3)
SIZES = st.sampled_from([0, 1, 20, 300, 1030, 3000, 5000, 70_000])
# Each begins with a mark by which whoever gets it knows it.
ERROR_REPLIES = (
    (),
    ((b"!", "reason", b" after ", "attempts"),),
    ((b"!",), (), ("reason",), (b"{attempts} ", "attempts", b"x" * 300)),
)
SETTINGS = st.builds(
    Settings,
    max_waiting=st.sampled_from([1, 2, 5, 40, 100_000, 100_000, 100_000]),
    max_waiting_bytes=st.sampled_from([1, 400, 1 << 30, 1 << 30]),
    client_waiting=st.sampled_from([0, 0, 1, 3]),
    client_unsent=st.sampled_from([100, 64 << 20, 64 << 20]),
    prefetch=st.sampled_from([0, 0, 1, 2, 10]),
    max_attempts=st.sampled_from([0, 1, 2, 3]),
    redeliver=st.sampled_from(["all", "all", "unstarted", "none"]),
    when_full=st.sampled_from(["hold", "hold", "reject", "oldest"]),
    deadline=st.sampled_from([0.0, 0.0, 3.0, 10.0]),
    max_waiting_time=st.sampled_from([0.0, 0.0, 2.0]),
    service_timeout=st.sampled_from([0.0, 1.0, 4.0]),
    client_grace=st.sampled_from([0.0, 5.0]),
    keep_for_gone_clients=st.booleans(),
    error_reply=st.sampled_from(ERROR_REPLIES),
    handover=st.booleans(),
)


class Speaker:
    """One of the peers, as whoever drives it sees it."""

    def __init__(self, peer: Peer, kind: bytes) -> None:
        self.peer = peer
        self.kind = kind
        self.reader = Reader()
        self.unsaid = bytearray()
        # A client's: the tokens of its requests; a REQ's: how many were answered.
        self.sent: list[bytes] = []
        self.replies = 0
        # A worker's: what it was given and has to answer, of a connection before this one first.
        self.given: list[list[bytes]] = []

    @property
    def number(self) -> int:
        return self.peer.number

    def hears_a_reply(self) -> None:
        """A REQ takes one to each of its requests."""
        self.replies = min(self.replies + 1, len(self.sent))


class Queue(RuleBasedStateMachine):
    @initialize(
        given=SETTINGS,
        clients=st.lists(st.sampled_from([b"", b"", b"a", b"b"]), max_size=3),
        workers=st.lists(st.sampled_from([b"REP", b"REP", b"DEALER"]), max_size=2),
    )
    def open(self, given: Settings, clients: list[bytes], workers: list[bytes]) -> None:
        self.exchange = Exchange(**vars(given))
        self.model = Model(given)
        self.settings = given
        self.clients: list[Speaker] = []
        self.workers: list[Speaker] = []
        self.asked: list[tuple[bytes, list[bytes]]] = []
        self.owners: dict[bytes, bytes] = {}
        self.answers: Counter[bytes] = Counter()
        self.may_answer: Counter[bytes] = Counter()
        self.submitted: set[bytes] = set()
        self.given_to: dict[bytes, set[int]] = {}
        self.not_to_go_on: set[bytes] = set()
        self.aside: dict[int, int] = {}
        self.died: list[dict[str, Any]] = []
        self.in_flight_when_held: int | None = None
        self.in_vain = 0
        self.cut_off: list[tuple[bytes, list[list[bytes]]]] = []
        self.tells_apart_by_envelope_alone = False
        for identity in clients:
            self.come(FRONTEND, b"DEALER", identity, (3, 1), 20)
        for kind in workers:
            self.come(BACKEND, kind, b"", (3, 1), 20)

    # -- coming and going --------------------------------------------------------------------

    @precondition(lambda self: len(self.clients) < 5)
    @rule(
        kind=st.sampled_from([b"REQ", b"DEALER", b"DEALER", b"ROUTER"]),
        identity=st.sampled_from([b"", b"", b"a", b"a", b"b", b"c" * 255, bytes(9)]),
        version=st.sampled_from([(3, 1), (3, 0), (2, 0)]),
        cut=PICK,
    )
    def client_comes(
        self, kind: bytes, identity: bytes, version: tuple[int, int], cut: int
    ) -> None:
        self.come(FRONTEND, kind, identity, version, cut)

    @precondition(lambda self: self.model.absent)
    @rule(kind=st.sampled_from([b"DEALER", b"DEALER", b"REQ"]), who=PICK)
    def client_comes_back(self, kind: bytes, who: int) -> None:
        client = self.model.absent[who % len(self.model.absent)]
        self.come(FRONTEND, kind, client.id, (3, 1), 20)

    @precondition(lambda self: self.settings.client_grace and self.named())
    @rule(who=PICK)
    def client_leaves_for_a_while(self, who: int) -> None:
        named = self.named()
        self.leaves(named[who % len(named)])

    def named(self) -> list[Speaker]:
        return [each for each in self.clients if each.peer.client and each.peer.client.named]

    @precondition(lambda self: len(self.workers) < 5)
    @rule(
        kind=st.sampled_from([b"REP", b"REP", b"REP", b"DEALER", b"ROUTER"]),
        version=st.sampled_from([(3, 1), (3, 0), (2, 0)]),
        cut=PICK,
    )
    def worker_comes(self, kind: bytes, version: tuple[int, int], cut: int) -> None:
        self.come(BACKEND, kind, b"", version, cut)

    @precondition(lambda self: self.cut_off and len(self.workers) < 5)
    @rule()
    def worker_comes_back(self) -> None:
        """Its connection is another one, on which it sends what it still had to answer."""
        kind, given = self.cut_off.pop()
        self.come(BACKEND, kind, b"", (3, 1), 20).given = given
        self.tells_apart_by_envelope_alone = self.tells_apart_by_envelope_alone or kind != b"REP"

    def come(
        self, side: int, kind: bytes, identity: bytes, version: tuple[int, int], cut: int
    ) -> Speaker:
        opening = handshake(kind, identity, version)
        number = self.exchange.connect(side)
        cut = 1 + cut % (len(opening) - 1)
        self.exchange.feed(number, opening[:cut])
        self.model.settle()
        self.exchange.feed(number, opening[cut:])
        peer = self.model.connect(number, side, kind, identity, version)
        speaker = Speaker(peer, kind)
        (self.clients if side == FRONTEND else self.workers).append(speaker)
        if self.model.claims:
            # One that comes with a routing id that is in use waits so long whether that gets free.
            self.passes(60_000_000)
        return speaker

    @precondition(lambda self: self.clients or self.workers)
    @rule(what=st.sampled_from(["leaves", "leaves", "drains", "speaks unasked"]), who=PICK)
    def something_happens(self, what: str, who: int) -> None:
        everybody = self.clients + self.workers
        speaker = everybody[who % len(everybody)]
        if what == "leaves":
            self.leaves(speaker)
        elif speaker.peer.worker is None:
            self.exchange.drain_worker(speaker.number)
        elif what == "drains":
            self.exchange.drain_worker(speaker.number)
            self.model.drain_worker(speaker.peer)
            self.model.settle()
        else:
            self.say(speaker, [b"a", b"unasked", b"", b"stray"])
            self.feed(speaker, [], True)

    def leaves(self, speaker: Speaker) -> None:
        self.has_begun(speaker.peer)
        if speaker.given:
            self.cut_off.append((speaker.kind, speaker.given))
        self.exchange.close(speaker.number)
        self.model.end(speaker.peer)
        self.model.settle()

    def has_begun(self, peer: Peer) -> None:
        """It is about to be lost: with ``redeliver = "unstarted"`` what it may have begun is to go
        to no other worker."""
        if peer.worker is None or not peer.worker.tasks:
            return
        first = peer.worker.tasks[:1] if peer.worker.strict else peer.worker.tasks
        for task in first:
            if not task.over:
                self.not_to_go_on.add(token_of(task.request.frames))

    # -- speaking ----------------------------------------------------------------------------

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
            times = 1 if speaker.replies >= len(speaker.sent) else 0
        for _ in range(times):
            token = b"#%d." % (len(self.asked) + 1)
            body = token + bytes(size if times == 1 else 0)
            assert speaker.peer.client is not None
            frames = {
                "delimiter": [b"", body],
                "tagged": [token, b"", body],
                "deep": [b"x", b"y" * 300, b"", body],
                "none": [body],
                "last": [body, b""],
                "double": [b"", b"", body],
            }[envelope]
            self.owners[token] = speaker.peer.client.id
            self.asked.append((speaker.peer.client.id, frames))
            self.may_answer[token] = 1
            speaker.sent.append(token)
            self.say(speaker, frames)
        self.feed(speaker, cuts, all_of_it)

    @precondition(lambda self: self.asked)
    @rule(which=PICK, elsewhere=st.sampled_from([False, False, True]))
    def an_operator_submits(self, which: int, elsewhere: bool) -> None:
        id, frames = self.asked[-1 - which % min(len(self.asked), 10)]
        token = token_of(frames)
        if elsewhere:  # for somebody whom nobody knows
            id, token = b"z", b"#%d." % (len(self.asked) + 1)
            frames = [b"", token]
            self.asked.append((id, frames))
            self.owners[token] = id
        self.submitted.add(token)
        self.may_answer[token] += 1
        self.exchange.submit(id, frames)
        self.model.submit(id, frames)

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
        # A REP should keep the order, and if it does not it answers the right ones all the same.
        request = speaker.given[0 if strict and which % 8 else which % len(speaker.given)]
        # Nobody could tell apart what one client asked in equal envelopes: of those, the oldest.
        request = next(given for given in speaker.given if asker(given) == asker(request))
        # A measured worker's answers must each be taken at once, or they are measured in two.
        size = size if self.settings.prefetch else min(size, 3000)
        if how == "wrong":
            self.say(speaker, [request[0], b"envelope", b"", b"stray"])
        elif how == "to another":
            self.say(speaker, [b"nobody", *request[1:-1], b"stray"])
        elif how == "bare":
            self.say(speaker, [b"stray"])
        else:
            speaker.given.remove(request)
            self.answer(speaker, request, size, flags if strict else 0)
            if how == "twice" and not strict and b"" in request[2:-1] and request[1][:1] == b"#":
                self.may_answer[token_of(request)] += 1
                self.answer(speaker, request, size, 0)
        self.feed(speaker, cuts, all_of_it)

    def answer(self, speaker: Speaker, request: list[bytes], size: int, flags: int) -> None:
        said = b"re:" + token_of(request) + speaker.kind + b"." + bytes(size)
        # The last frame is the body, or what stands for it where the empty frame is the last.
        answer = [*request[:-1], said]
        if not request[-1] and len(request) == 3:
            answer = [request[0], said]
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
        got = self.exchange.output(speaker.number, most)
        assert got == bytes(speaker.peer.out[:most])
        if got:
            self.model.sent(speaker.peer, len(got))
        self.model.settle()
        for frames in speaker.reader.feed(got):
            if speaker.peer.worker is not None:
                self.is_given(speaker, frames)
            else:
                self.is_told(speaker, frames)
        return bool(got)

    # -- what is heard -----------------------------------------------------------------------

    def is_given(self, speaker: Speaker, frames: list[bytes]) -> None:
        token = token_of(frames)
        if speaker.kind == b"REP" or len(self.owners[token]) == 5:
            size = 9 if speaker.kind == b"REP" else 13
            assert (len(frames[0]), frames[0][0]) == (size, 0), "no return address"
        else:
            assert self.owners[token] == frames[0], "another client's routing id"
        if speaker.kind == b"REP":
            assert b"" in frames[1:-1], "a REP would discard it in silence"
        speaker.given.append(frames)
        self.given_to.setdefault(token, set()).add(speaker.number)
        if self.settings.redeliver == "none" and token not in self.submitted:
            assert len(self.given_to[token]) == 1, "it was given to two workers"

    def is_told(self, speaker: Speaker, frames: list[bytes]) -> None:
        if frames[-1] == b"stray":
            return
        assert speaker.peer.client is not None
        if any(part.startswith(b"!") for part in frames):
            self.is_told_of_a_death(speaker, frames)
            return
        token = token_of(frames)
        assert self.owners[token] == speaker.peer.client.id, "a reply to somebody else's request"
        if speaker.kind == b"REQ":
            # A ROUTER or DEALER may say to it what it likes.
            if b".REP" in frames[-1] and not self.is_asked_for(speaker):
                assert token == speaker.sent[-1], "a reply to another question"
            if speaker.sent[-1:] == [token]:
                speaker.hears_a_reply()
        self.is_answered(token)

    def is_told_of_a_death(self, speaker: Speaker, frames: list[bytes]) -> None:
        assert any(cause.encode() in part for part in frames for cause in CAUSES)
        if speaker.kind == b"REQ":
            speaker.hears_a_reply()
            if not self.is_asked_for(speaker):
                self.is_answered(speaker.sent[-1])
        elif frames[0].startswith(b"#"):
            self.is_answered(frames[0])

    def is_asked_for(self, speaker: Speaker) -> bool:
        """Whether an operator has asked something in its place, of which it knows nothing."""
        assert speaker.peer.client is not None
        return any(self.owners[token] == speaker.peer.client.id for token in self.submitted)

    def is_answered(self, token: bytes) -> None:
        self.answers[token] += 1
        if self.can_be_told_apart(token):
            assert self.answers[token] <= self.may_answer[token], "it was answered twice"

    def can_be_told_apart(self, token: bytes) -> bool:
        """Else a reply to it may be taken for another's: one that a DEALER was given before what it
        has forgotten, or, of a client with a routing id of its own, before it was cut off. One that
        is forgotten after it has died is answered once more, if it is."""
        _, frames = self.asked[int(token[1:-1]) - 1]
        if frames[0] == token and b"" in frames[1:-1]:
            return all(token_of(each.frames) != token for each in self.model.forgotten)
        forgotten = self.model.forgotten or self.model.counters["unanswered"]
        named = len(self.owners[token]) != 5
        return not (forgotten or (named and self.tells_apart_by_envelope_alone))

    # -- steering and time -------------------------------------------------------------------

    @rule(mode=st.sampled_from([FORWARD, FORWARD, HOLD, DRAIN]))
    def steer(self, mode: int) -> None:
        self.steers(mode)

    def steers(self, mode: int) -> None:
        self.exchange.steer(mode)
        self.model.mode = mode
        self.model.settle()
        self.in_flight_when_held = None

    @rule()
    def another_process_goes_on(self) -> None:
        before = self.exchange
        self.exchange = Exchange(**vars(self.settings))
        self.exchange.now = before.now
        self.exchange.steer(self.model.mode)
        self.exchange.restore(before.snapshot())
        self.model.hand_over()

    @rule(microseconds=st.sampled_from([1, 20, 300, 5000, 500_000, 1_000_000, 3_000_000]))
    def time_passes(self, microseconds: int) -> None:
        self.passes(microseconds * 1000)

    @precondition(lambda self: self.exchange.due)
    @rule(early=st.sampled_from([0, 0, 0, 1]))
    def something_is_due(self, early: int) -> None:
        due = self.exchange.due
        self.in_vain += not early and due != self.model.due
        self.passes(due - early - self.exchange.now)

    def passes(self, nanoseconds: int) -> None:
        for speaker in self.workers:
            worker = speaker.peer.worker
            if worker is not None and 0 < self.model.overdue_at(worker) <= (
                self.model.now + nanoseconds
            ):
                self.has_begun_and_is_late(speaker.peer, self.model.now + nanoseconds)
        looks = self.exchange.looks
        self.exchange.now += nanoseconds
        self.exchange.advance(0)
        died = self.exchange.deaths()
        self.died += died
        self.model.advance(nanoseconds, died, looks)

    def has_begun_and_is_late(self, peer: Peer, now: int) -> None:
        assert peer.worker is not None
        tasks = peer.worker.tasks[:1]
        if not peer.worker.strict:
            timeout = int(self.settings.service_timeout * 1e9)
            tasks = [task for task in peer.worker.tasks if task.given_at + timeout <= now]
        for task in tasks:
            if not task.over and task.request.envelope:
                self.not_to_go_on.add(token_of(task.request.frames))

    # -- what must hold ----------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "exchange"):
            self.is_as_the_model_says()
            self.adds_up()
            self.no_worker_has_more_than_its_credit()
            self.nothing_is_given_while_held()
            self.nothing_is_given_to_who_is_set_aside()
            self.suspects_are_alone()
            self.only_what_cannot_have_begun_goes_on()

    def is_as_the_model_says(self) -> None:
        model = self.model
        assert self.exchange.now == model.now
        assert self.exchange.peers == sorted(model.peers)
        assert self.exchange.counters == counted(model)
        self.died += self.exchange.deaths()
        assert self.died == model.deaths
        self.died.clear()
        model.deaths.clear()
        model.untaken.clear()
        # Nothing is owed any more to a client whose last request that was.
        self.exchange.advance(0)
        model.settle()
        self.is_due_as_the_model_says()
        self.clients = [speaker for speaker in self.clients if not speaker.peer.ended]
        self.workers = [speaker for speaker in self.workers if not speaker.peer.ended]
        for speaker in self.workers:
            worker = speaker.peer.worker
            assert worker is not None
            assert self.exchange.outstanding(speaker.number) == worker.count
            assert self.exchange.credit(speaker.number) == worker.credit

    def is_due_as_the_model_says(self) -> None:
        """Never too late; it may be looked at too early, though not for ever."""
        due = self.exchange.due
        assert not due or due > self.exchange.now
        assert not self.model.due or 0 < due <= self.model.due
        assert self.in_vain <= self.model.given + self.model.counters["late_replies"]

    def adds_up(self) -> None:
        counted = self.exchange.counters
        at_hand = counted["waiting"] + counted["in_flight"]
        ended = sum(counted[end] for end in ENDS)
        assert counted["received"] == at_hand + counted["kept"] + ended
        live = self.exchange.live
        assert live["requests"] == at_hand + sum(task.over for task in self.model.tasks())
        assert live["clients"] == len(self.model.clients())

    def no_worker_has_more_than_its_credit(self) -> None:
        if not self.settings.prefetch:
            return  # a measured credit may shrink below what a worker has
        for speaker in self.workers:
            worker = speaker.peer.worker
            assert worker is not None
            assert self.exchange.outstanding(speaker.number) <= self.settings.prefetch

    def nothing_is_given_while_held(self) -> None:
        if self.model.mode != HOLD:
            return
        in_flight = self.exchange.counters["in_flight"]
        if self.in_flight_when_held is not None:
            assert in_flight <= self.in_flight_when_held
        self.in_flight_when_held = in_flight

    def nothing_is_given_to_who_is_set_aside(self) -> None:
        for kind, number, _ in self.exchange.notices():
            if kind == WORKER_SET_ASIDE and number in self.exchange.peers:
                self.aside[number] = self.exchange.outstanding(number)
            elif kind == WORKER_ANSWERS_AGAIN:
                self.aside.pop(number, None)
        assert set(self.aside) & set(self.model.peers) == {
            number
            for number, peer in self.model.peers.items()
            if peer.worker is not None and peer.worker.aside
        }
        for number in set(self.aside) & set(self.exchange.peers):
            worker = self.model.peers[number].worker
            assert worker is not None
            # Others than a REP are tried with one request at a time.
            assert worker.strict or len(worker.live) <= max(1, self.aside[number])
            assert not worker.strict or self.exchange.outstanding(number) <= self.aside[number]
            self.aside[number] = self.exchange.outstanding(number)

    def suspects_are_alone(self) -> None:
        for speaker in self.workers:
            worker = speaker.peer.worker
            if worker is not None and worker.strict and worker.has_isolated:
                assert self.exchange.outstanding(speaker.number) == 1

    def only_what_cannot_have_begun_goes_on(self) -> None:
        if self.settings.redeliver != "unstarted":
            return
        for request in [*self.model.waits, *(t.request for t in self.model.tasks() if not t.over)]:
            token = token_of(request.frames)
            assert token not in self.not_to_go_on or token in self.submitted

    # -- the end -----------------------------------------------------------------------------

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
        self.who_is_there_was_answered()
        for speaker in self.clients + self.workers:
            self.leaves(speaker)
        self.passes(1 << 40)
        self.is_as_the_model_says()
        assert not any(self.exchange.live.values()), self.exchange.live
        assert not self.exchange.due

    def who_is_there_was_answered(self) -> None:
        fates: dict[bytes, list[Request]] = {}
        for request in self.model.requests:
            fates.setdefault(token_of(request.frames), []).append(request)
        lost = {"dead", "rejected", "malformed", "unanswered"}
        for speaker in self.clients:
            for token in speaker.sent:
                if not self.answers[token] and self.can_be_told_apart(token):
                    assert any(each.fate in lost for each in fates[token]), (token, fates[token])

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


def counted(model: Model) -> dict[str, Any]:
    """The model's counters as an exchange has them."""
    names = (
        *("received", "waiting", "waiting_bytes", "in_flight", "in_flight_bytes", "kept"),
        *ENDS,
        *("unrecorded", "error_replies", "returned", "retried", "late_replies", "extra_replies"),
        *("dropped_replies", "request_frames", "request_bytes", "reply_messages", "reply_frames"),
        *("reply_bytes", "protocol_errors", "slow_clients"),
    )
    of_connections = ("accepted", "connected", "disconnected", "turned_away")
    return {
        **{name: model.counters[name] for name in names},
        "died": [model.died[cause] for cause in CAUSES],
        **{name: model.connections[name] for name in of_connections},
    }


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
