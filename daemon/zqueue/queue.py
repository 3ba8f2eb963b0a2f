"""One queue: its thread, its state, its PAIR.

The thread steers the engine and never touches a message. It is itself steered by words on a PAIR:
the daemon's end of it is inproc, and a config may bind a second one for scripts written for
``zmq_proxy_steerable``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import zmq

from zqueue.clocks import moment_of, monotonic_of
from zqueue.config import QueueConfig
from zqueue.control.messages import QueueStatus
from zqueue.dead_letters import DeadLetters
from zqueue.deaths import WORDS, Deaths
from zqueue.drain import Drain
from zqueue.engine import Engine, Plan, Report, Side, Snapshot
from zqueue.errors import DeadLettersError
from zqueue.figures import Figures
from zqueue.handover import QueueState
from zqueue.letter_id import NoSuchLetter
from zqueue.lists import LISTS, UnknownColumn, listed
from zqueue.plan import Claims
from zqueue.repeats import Repeats
from zqueue.script_pair import ScriptPair
from zqueue.states import AT_WORK, FOLLOWS, Standing, State, StateMachine
from zqueue.taps import Taps
from zqueue.threads import name_this_thread

Emit = Callable[..., None]
Keep = Literal["none", "stored", "all"]

_TICK = 0.25
_SETTLING_TICK = 0.02
_FRESH_WITHIN = 0.1
_FLUSH = 1.0
_FIRST_RETRY = 1.0
_LONGEST_RETRY = 60.0
_WORDS_A_TURN = 100


class Refused(Exception):
    """A word that this queue cannot follow in its present state."""

    code = "refused"


class Queue:
    """A queue and its thread. All methods and properties here may be used from any thread.

    At ``steer_address`` is the PAIR. On it go ``[word, id, by, JSON arguments]``; back come
    ``[id, JSON answer]``, and ``[b"", b"changed"]`` after each change worth a look.

    Words: ``PAUSE``, ``RESUME``, ``TERMINATE``, ``START`` (``{"paused": bool}``), ``STATISTICS``
    (answered once :attr:`status` is fresh), ``DRAIN`` (``{"timeout": seconds, "then": "pause" |
    "terminate"}``, answered when it has ended, with its ``outcome``), those of
    :data:`zqueue.lists.LISTS`, ``DRAIN_WORKER`` (``{"worker": id}``), ``KICK`` (``{"connection":
    id}``), ``TAP`` (see :meth:`zqueue.taps.Taps.read`), those of :data:`zqueue.deaths.WORDS`,
    ``TAKE_UP`` (what is in :attr:`offered`, before the first ``START``), ``FREEZE``
    (``{"connections": bool}``), after which :attr:`left` is for whoever takes the queue up,
    ``THAW``, and ``END`` (``{"reason": str, "keep": "none" | "stored" | "all"}``), after which the
    thread is no more; ``keep`` says which listening sockets go on: those that systemd keeps, or
    all, which another process or queue has by then.

    A queue that has taken up what another left is frozen after its ``START``, until ``THAW``. The
    thread starts with :meth:`begin`.
    """

    def __init__(
        self,
        claims: Claims,
        letters: DeadLetters,
        make_engine: Callable[[Plan], Engine],
        emit: Emit,
        context: zmq.Context[zmq.Socket[bytes]],
    ) -> None:
        self.name = claims.name
        self.claims = claims
        self.alive_at = time.monotonic()
        address = f"inproc://queue-{id(self)}"
        self._inner: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self._inner.set_hwm(0)
        self._inner.linger = 0
        self._inner.bind(address)
        self.steer_address = address
        self._context = context
        self._make_engine = make_engine
        self._emit: Emit = lambda name, **fields: emit(name, queue=self.name, **fields)
        self._machine = StateMachine(self._state_changed)
        self.offered: QueueState | None = None
        """What ``TAKE_UP`` is about."""
        self._taken_up: QueueState | None = None
        self._figures = Figures(None)
        self._frozen = False
        self.left: QueueState | None = None
        self._deaths = Deaths(letters, self._emit)
        self._taps = Taps()
        self._repeats = Repeats(self._emit)
        self._engine: Engine | None = None
        self._engine_name, self._engine_reason = "libzmq", ""
        self._not_promised: tuple[str, ...] = ()
        self._outer: ScriptPair | None = None
        self._drain: Drain | None = None
        self._retry_at: float | None = None
        self._stays_paused = False
        self._retry_after = _FIRST_RETRY
        self._opened_at = 0.0
        self._restarts = -1
        self._lost_at_stop: int | None = 0
        self.flush_until = 0.0
        self._hurried = False
        self._asked: list[tuple[float, Callable[[], None]]] = []
        self._ended = False
        self._next_tick = 0.0
        self.status = self._make_status()
        self._thread = threading.Thread(target=self._run, name=f"zq.{self.name}", daemon=True)

    def begin(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: this process may have no more threads.
        """
        self._thread.start()

    def discard(self) -> None:
        """Close what a queue has that has not begun."""
        self._inner.close(0)

    @property
    def config(self) -> QueueConfig:
        return self.claims.config

    def reconfigure(self, config: QueueConfig) -> None:
        """Take a config that differs only in what needs no new sockets."""
        self.claims.config = config

    def hurry(self) -> None:
        """Do not wait any more for what has been handed out to get out."""
        self._hurried = True
        self.flush_until = 0.0

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end after ``END``; False if it has not in time."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread: one turn after the other -------------------------------------------------

    def _run(self) -> None:
        name_this_thread(self._thread.name)
        while not self._ended:
            try:
                self._turn()
            except Exception as error:  # a queue that fails must not take the others down
                self._fail(f"{type(error).__name__}: {error}")
                time.sleep(_SETTLING_TICK)  # should the cause be there each turn
        self._inner.close(0)

    def _turn(self) -> None:
        self._wait()
        if self._engine is None or self._frozen or self._engine.responds:
            self.alive_at = time.monotonic()
        self._follow_words()
        if not self._frozen:
            self._follow_script()
            self._hear_engine()
            self._deaths.keep_up(self.config)
            self._keep_time()
        self._answer_the_asked()

    def _wait(self) -> None:
        poller = zmq.Poller()
        poller.register(self._inner, zmq.POLLIN)
        pause = self._next_tick - time.monotonic()
        if self._frozen:
            pause = _TICK
        else:
            if self._outer is not None:
                for end in self._outer.pollables():
                    poller.register(end, zmq.POLLIN)
            if self._engine is not None:
                for sock in self._engine.pollables():
                    poller.register(sock, zmq.POLLIN)
        if self._taps:
            pause = min(pause, self._taps.looked_at_in)
        if self._asked or (self._engine is not None and self._engine.settling):
            pause = min(pause, _SETTLING_TICK)
        poller.poll(math.ceil(max(0, pause) * 1000))

    # -- words ---------------------------------------------------------------------------------

    def _follow_words(self) -> None:
        while not self._ended:  # a START behind its END would open what nobody closes
            try:
                word, number, by, arguments = self._inner.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                if self._frozen and word not in (b"STATISTICS", b"THAW", b"END"):
                    raise Refused("the queue is being handed over")
                if word == b"STATISTICS":
                    self._ask(functools.partial(self._answer, number, {"ok": True}))
                    continue
                if word in LISTS:
                    with _engine_may_refuse():
                        found = listed(word, self._engine, **json.loads(arguments))
                    self._answer(number, {"ok": True} | found)
                    continue
                if word in WORDS:
                    found = self._deaths.obey(word, self._submit, json.loads(arguments))
                    self._answer(number, {"ok": True} | found)
                    continue
                if word == b"TAP":
                    self._tap(number, **json.loads(arguments))
                    continue
                if word == b"DRAIN":
                    self._begin_to_drain(number, by.decode(), **json.loads(arguments))
                    continue
                changed = self._follow(word.decode(), by.decode(), json.loads(arguments))
            except (Refused, NoSuchLetter, DeadLettersError) as error:
                refusal = {"ok": False, "detail": str(error), "code": error.code}
                self._answer(number, refusal)
            except Exception as error:
                mistake = f"{type(error).__name__}: {error}"
                self._answer(number, {"ok": False, "detail": mistake})
                if word not in (*LISTS, *WORDS, b"TAP"):
                    raise
                # To look changes nothing: the queue need not be started again for it.
                self._emit("daemon.error", error=f"{word.decode()}: {mistake}")
            else:
                self._answer(number, {"ok": True, "changed": changed})

    def _answer(self, number: bytes, answer: dict[str, Any]) -> None:
        if self._engine is not None and not self._frozen:
            self._see(self._engine)  # what was done for this answer has changed what is counted
        self.status = self._make_status()
        answer |= {"state": self.status.state}
        self._inner.send_multipart([number, json.dumps(answer).encode()], zmq.DONTWAIT)

    def _follow_script(self) -> None:
        """Words from a script on the PAIR that the config bound; they mean what libzmq's manual
        says, and only STATISTICS is answered."""
        if self._outer is None:
            return
        self._say(self._outer.reports())
        for frames in self._outer.words(_WORDS_A_TURN):
            word = frames[0].bytes if len(frames) == 1 else b""
            by = _caller_on_pair(frames[0])
            if word == b"STATISTICS":
                self._ask(self._answer_script)
                continue
            try:
                if word not in (b"PAUSE", b"RESUME", b"TERMINATE"):
                    raise Refused("the words are PAUSE, RESUME, TERMINATE and STATISTICS")
                self._follow(word.decode(), by, {})
            except Refused as error:
                shown = frames[0].bytes[:32].decode("ascii", "backslashreplace")
                self._emit("queue.steering_refused", by=by, word=shown, error=str(error))

    def _answer_script(self) -> None:
        if self._outer is not None:
            self._outer.answer([struct.pack("=Q", counter) for counter in self._figures.words()])

    def _ask(self, answer: Callable[[], None]) -> None:
        """Call ``answer`` once the counters are fresh, or cannot be had soon."""
        self._asked.append((time.monotonic(), answer))
        if self._engine is not None:
            self._engine.refresh()

    def _answer_the_asked(self) -> None:
        if not self._asked:
            return
        now = time.monotonic()
        taken_at = self._engine.statistics.taken_at if self._engine is not None else now
        waiting = []
        for asked_at, answer in self._asked:
            if taken_at >= asked_at or now - asked_at > _FRESH_WITHIN:
                answer()
            else:
                waiting.append((asked_at, answer))
        self._asked = waiting
        if waiting and self._engine is not None:
            self._engine.refresh()

    # -- what each word does: true if it changed anything ----------------------------------------

    def _follow(self, word: str, by: str, arguments: dict[str, Any]) -> bool:
        if word == "PAUSE":
            return self._pause(by)
        if word == "RESUME":
            return self._resume(by)
        if word == "TERMINATE":
            self.flush_until = 0.0  # now, whatever a drain before it would have waited for
            return self._terminate(by, arguments.get("reason", ""))
        if word == "START":
            self._retry_after = _FIRST_RETRY
            return self._start(by, arguments.get("paused", self.config.start == "paused"))
        if word == "DRAIN_WORKER":
            worker = arguments["worker"]
            with _engine_may_refuse():
                self._running_engine().drain_worker(worker)
            return True
        if word == "KICK":
            connection = arguments["connection"]
            with _engine_may_refuse():
                self._running_engine().kick(connection)
            self._emit("peer.kicked", by=by, id=connection)
            return True
        if word == "TAKE_UP":
            self._take_up()
            return True
        if word == "FREEZE":
            self._freeze(**arguments)
            return True
        if word == "THAW":
            return self._thaw()
        if word == "END":
            self._end(by, **arguments)
            return True
        raise Refused(f'there is no word "{word}"')

    def _pause(self, by: str) -> bool:
        state = self._machine.state
        if state is State.PAUSED:
            return False
        self._must_be_able(State.PAUSED)
        with _engine_may_refuse():
            self._running_engine().hold()
        self._machine.change(State.PAUSED, by)
        self._answer_drain("interrupted")
        return True

    def _resume(self, by: str) -> bool:
        if self._machine.state is State.RUNNING:
            return False
        self._must_be_able(State.RUNNING)
        with _engine_may_refuse():
            self._running_engine().forward()
        self._machine.change(State.RUNNING, by)
        self._answer_drain("interrupted")
        return True

    def _begin_to_drain(self, number: bytes, by: str, timeout: float, then: str) -> None:
        if self._machine.state is State.STOPPED:
            self._answer(number, {"ok": True, "changed": False, "outcome": "done"})
            return
        if self._drain is not None:
            self._drain.join(number, timeout, then)
            return
        self._must_be_able(State.DRAINING)
        with _engine_may_refuse():
            self._running_engine().drain()
        self._drain = Drain([number], by, timeout, then)
        self._machine.change(State.DRAINING, by)

    def _submit(self, client: bytes, frames: Sequence[bytes]) -> None:
        """Ask again for what has died; see :meth:`zqueue.engine.Engine.submit`."""
        self._must_be_able(State.DRAINING)  # that is: it runs or is paused
        try:
            self._running_engine().submit(client, frames)
        except LookupError as error:
            # BlockingIOError is no refusal: the caller waits for room and goes on.
            raise Refused(str(error)) from error

    def _terminate(self, by: str, reason: str) -> bool:
        if self._machine.state is State.STOPPED:
            return False
        self._stop(by, reason)
        self.claims.release()
        return True

    def _start(self, by: str, paused: bool) -> bool:
        if self._machine.state not in (State.STOPPED, State.FAILED):
            return False
        self._machine.change(State.STARTING, by)
        self._retry_at = None
        self._stays_paused = paused
        taken_up, self._taken_up = self._taken_up, None
        snapshot = taken_up.snapshot if taken_up is not None else None
        if taken_up is not None and snapshot is not None:
            paused = taken_up.standing.state is State.PAUSED
        try:
            self._deaths.open(self.config)
            self.claims.claim()
            self._open_script_pair()
            engine = self._open_engine(paused, snapshot)
        except Exception as error:
            self.claims.release()
            self._failed(str(error))
            raise Refused(str(error)) from error
        self._engine_name, self._engine_reason = engine.name, engine.because
        self._not_promised = engine.not_promised
        if engine.because:
            self._emit("queue.engine_chosen", engine=engine.name, reason=engine.because)
        if taken_up is not None and snapshot is not None:
            self._taken_up, self._frozen = taken_up, True
            return True
        self._opened_at = time.monotonic()
        self._restarts += 1
        self._machine.change(State.PAUSED if paused else State.RUNNING, by)
        return True

    def _open_engine(self, hold: bool, snapshot: Snapshot | None = None) -> Engine:
        engine = self._make_engine(self.claims.plan())
        engine.open(hold=hold, taken_up=snapshot, frozen=snapshot is not None)
        self._engine = engine
        return engine

    def _take_up(self) -> None:
        """Go on as the queue did whose state is :attr:`offered`."""
        before, self.offered = self.offered, None
        assert before is not None
        self._taken_up = before
        self._figures = Figures(before.totals)
        self._restarts = before.restarts
        if before.standing.state is State.STOPPED:
            self._machine = StateMachine(self._state_changed, before.standing)
            self._open_letters()  # it may not be started for long

    def _freeze(self, connections: bool) -> None:
        """Stand still, with all there is in :attr:`left`; without ``connections`` only tell what
        there is beside them."""
        engine, snapshot = self._engine, None
        self._taps.let_readers_go()
        if self._outer is not None:
            self._outer.let_in()
        if connections and engine is not None:
            with _engine_may_refuse():
                snapshot = engine.freeze()
            self._frozen = True
            self._hear_engine()
        elif engine is not None:
            # What is lost with its connections is counted before the counters go on elsewhere.
            self._lost_at_stop = self._close_engine()
        # A file of dead letters is for one process at a time.
        self._deaths.close()
        drain = self._drain
        self.left = QueueState(
            name=self.name,
            standing=self._machine.standing,
            totals=self._figures.earlier() if snapshot else self._figures.totals(),
            restarts=self._restarts,
            opened_at=moment_of(self._opened_at),
            opened_monotonic=self._opened_at,
            drain=drain.left() if drain is not None else None,
            snapshot=snapshot,
        )

    def _thaw(self) -> bool:
        if not self._frozen and self.left is None:
            return False
        if self._frozen:
            self._running_engine().thaw()
        elif self._engine is None and self._machine.state in AT_WORK:
            self._open_engine(hold=self._machine.state is not State.RUNNING)
        if self.left is not None:
            self._open_letters()
        self._frozen, self.left = False, None
        taken_up, self._taken_up = self._taken_up, None
        if taken_up is not None:
            self._go_on(taken_up)
        return True

    def _open_letters(self) -> None:
        """Where that cannot be, those that die from now on wait to be written."""
        try:
            self._deaths.open(self.config)
        except DeadLettersError as error:
            self._emit("dead_letters.failed", error=str(error), unwritten=0)

    def _go_on(self, before: QueueState) -> None:
        """What was taken up is this queue's own now: it is again what it was."""
        self._hear_engine()
        self._figures.go_on(before.totals.last_activity, before.totals.active_at)
        figures, standing = self._figures, before.standing
        self._emit(
            "queue.taken_up",
            clients=figures.peers(Side.FRONTEND).connected,
            workers=figures.peers(Side.BACKEND).connected,
            waiting=figures.waiting,
            in_flight=figures.in_flight,
            kept=figures.kept,
        )
        opened_at = before.opened_monotonic
        self._opened_at = monotonic_of(before.opened_at) if opened_at is None else opened_at
        state = State.PAUSED if standing.state is State.PAUSED else State.RUNNING
        self._machine.become(replace(standing, state=state))
        if before.drain is not None:
            drain = before.drain
            self._running_engine().drain()
            self._drain = Drain([], drain.by, drain.timeout, drain.then)
            self._machine.change(State.DRAINING, drain.by)

    def _end(self, by: str, reason: str, keep: Keep) -> None:
        if self._frozen:
            self._leave()
        elif self._machine.state is not State.STOPPED:
            self._stop(by, reason)
        if keep == "stored":
            self.claims.let_go()
        elif keep == "all":
            self.claims.leave()
        self._deaths.close()
        if self._outer is not None:
            self._outer.close()
            self._outer = None
        self._ended = True

    def _tap(self, number: bytes, tap: str, wait: float, **wish: Any) -> None:
        def answer(found: dict[str, Any]) -> None:
            self._answer(number, {"ok": True} | found)

        if not self.config.tap:
            raise Refused(f"queues.{self.name}.tap does not allow it")
        with _engine_may_refuse():
            self._taps.read(self._running_engine(), tap, wait, answer, **wish)

    def _must_be_able(self, state: State) -> None:
        if state not in FOLLOWS[self._machine.state]:
            hint = "" if self._engine else "; start it first"
            raise Refused(f"the queue is {self._machine.state}{hint}")

    def _running_engine(self) -> Engine:
        if self._engine is None:
            raise Refused(f"the queue is {self._machine.state}; start it first")
        return self._engine

    def _open_script_pair(self) -> None:
        listener = self.claims.pair
        if listener is not None and self._outer is None:
            self._outer = ScriptPair(self._context, listener)

    def _say(self, reports: Iterable[Report]) -> None:
        now = time.monotonic()
        for report in reports:
            self._repeats.say(report, now)

    # -- the engine ------------------------------------------------------------------------------

    def _hear_engine(self) -> None:
        engine = self._engine
        if engine is None:
            return
        self._say(engine.reports())
        self._take_deaths(engine)
        if self._taps:
            self._taps.take(engine)
        self._see(engine)
        if engine.failure is not None:
            self._fail(engine.failure)

    def _see(self, engine: Engine) -> None:
        self._figures.see(engine.statistics, engine.connection_counts(), engine.peers())

    def _take_deaths(self, engine: Engine) -> None:
        self._deaths.take(engine.deaths(), told=bool(self.config.error_reply))

    def _fail(self, reason: str) -> None:
        if self._engine is not None:
            if time.monotonic() - self._opened_at > _LONGEST_RETRY:
                self._retry_after = _FIRST_RETRY
            self._close_engine()
        if State.FAILED in FOLLOWS[self._machine.state]:
            self._failed(reason)

    def _failed(self, reason: str) -> None:
        self._retry_at = time.monotonic() + self._retry_after
        self._retry_after = min(2 * self._retry_after, _LONGEST_RETRY)
        self._machine.change(State.FAILED, "zqueued", reason)
        self._answer_drain("failed")

    def _stop(self, by: str, reason: str) -> None:
        if self._engine is not None:
            self._lost_at_stop = self._close_engine()
        elif not self.left:  # then it was closed with what it left
            self._lost_at_stop = 0
        self._retry_at = None
        self._machine.change(State.STOPPED, by, reason)
        self._answer_drain("interrupted")

    def _leave(self) -> None:
        """Whoever took the queue up has duplicates of its connections, which go on."""
        engine, self._engine = self._engine, None
        assert engine is not None
        self._frozen = False
        try:
            engine.close(0)
        except Exception as error:
            self._emit("queue.engine_stuck", error=f"{type(error).__name__}: {error}")
        self._answer_drain("interrupted")

    def _close_engine(self) -> int | None:
        """Returns how many requests were lost with it, if that can be known."""
        engine, self._engine = self._engine, None
        self._taps.forget()
        assert engine is not None
        left_over: int | None = None if self._figures.estimated else 0
        try:
            self._say(engine.reports())
            self._take_deaths(engine)
            flush = max(_FLUSH, self.flush_until - time.monotonic())
            left_over = engine.close(flush, self._stay_alive)
        except Exception as error:  # the queue is to be stopped all the same
            self._emit("queue.engine_stuck", error=f"{type(error).__name__}: {error}")
        self._repeats.tell_all(time.monotonic())
        self._see(engine)
        lost = left_over
        if lost is not None:
            lost += (self._figures.in_flight or 0) + self._figures.kept
        self._figures.end_of_run(lost)
        return lost

    def _stay_alive(self) -> bool:
        """It waits, and does not hang. False if it should no more."""
        self.alive_at = time.monotonic()
        return not self._hurried

    # -- time ------------------------------------------------------------------------------------

    def _keep_time(self) -> None:
        now = time.monotonic()
        if self._retry_at is not None and now >= self._retry_at:
            self._retry()
        if self._drain is not None and self._engine is not None:
            self._watch_drain(self._drain)
        settling = self._engine is not None and self._engine.settling
        if now < self._next_tick and not settling:
            return
        if self._engine is not None:
            self._say(self._engine.tick())
        if now >= self._next_tick:
            self._figures.sample()
            self._repeats.tell(now)
            self.status = self._make_status()
            self._next_tick = now + (_SETTLING_TICK if self._drain else _TICK)

    def _retry(self) -> None:
        try:
            self._start("zqueued", self._stays_paused)
        except Refused:  # said already, and tried again later
            return

    def _watch_drain(self, drain: Drain) -> None:
        engine = self._running_engine()
        if drain.is_over(engine.held and engine.dry, self._figures, engine.orphans):
            # What it has handed out may take what is left of its time to get out at a close.
            self.flush_until = drain.deadline
            self._end_drain(drain, "done", "drained")
        elif time.monotonic() >= drain.deadline:
            self._end_drain(drain, "timed_out", "the drain's time was up")

    def _end_drain(self, drain: Drain, outcome: str, reason: str) -> None:
        seconds = round(time.monotonic() - drain.began, 3)
        figures, self._drain = self._figures, None
        engine = self._running_engine()
        self._say(
            engine.write_off_orphans("a worker left, and a drain waited for its answers in vain")
        )
        left = {"waiting": figures.waiting, "in_flight": figures.in_flight}
        estimated = figures.estimated
        engine.hold()
        if drain.then == "terminate":
            self._terminate(drain.by, reason)
            if self.config.type == "streamer" and self._lost_at_stop is None:
                outcome = "timed_out"
        else:
            self._machine.change(State.PAUSED, drain.by, reason)
        if outcome == "done":
            self._emit("queue.drained", by=drain.by, seconds=seconds)
        else:
            self._emit("queue.drain_timed_out", by=drain.by, estimated=estimated, **left)
        for number in drain.numbers:
            self._answer(number, {"ok": True, "changed": True, "outcome": outcome} | left)

    def _answer_drain(self, outcome: str) -> None:
        """The drain under way, if there is one, has been ended by something else."""
        drain, self._drain = self._drain, None
        if drain is not None:
            for number in drain.numbers:
                self._answer(number, {"ok": True, "changed": True, "outcome": outcome})

    # -- telling -----------------------------------------------------------------------------------

    def _state_changed(self, old: Standing, new: Standing) -> None:
        fields: dict[str, Any] = {"by": new.by}
        if new.state in (State.RUNNING, State.PAUSED):
            self._stays_paused = new.state is State.PAUSED
        if new.state is State.RUNNING:
            fields |= {
                "type": self.config.type,
                "engine": self._engine_name,
                "frontend": ", ".join(self.claims.endpoints(Side.FRONTEND)),
                "backend": ", ".join(self.claims.endpoints(Side.BACKEND)),
            }
        elif new.state is State.PAUSED:
            fields |= {"reason": new.reason}
        elif new.state is State.STOPPED:
            fields |= {"reason": new.reason, "lost": self._lost_at_stop}
            if self._lost_at_stop:
                fields["level"] = "warning"
        elif new.state is State.DRAINING and self._drain is not None:
            fields |= {"timeout": self._drain.timeout}
        elif new.state is State.FAILED:
            retry_in = max(0.0, (self._retry_at or 0.0) - time.monotonic())
            fields = {"reason": new.reason, "retry_in": round(retry_in, 1)}
        self._emit(f"queue.{new.state}", **fields)
        self.status = self._make_status()
        self._inner.send_multipart([b"", b"changed"], zmq.DONTWAIT)

    def _make_status(self) -> QueueStatus:
        standing, config, figures = self._machine.standing, self.config, self._figures
        return QueueStatus(
            name=self.name,
            type=config.type,
            engine=self._engine_name,
            engine_reason=self._engine_reason,
            not_promised=self._not_promised,
            state=standing.state.value,
            since=standing.told_since,
            by=standing.by,
            reason=standing.reason,
            not_connected=self._engine.not_connected if self._engine is not None else {},
            frontend=self.claims.endpoints(Side.FRONTEND),
            backend=self.claims.endpoints(Side.BACKEND),
            capture=config.capture,
            control=config.control,
            uptime=round(time.monotonic() - self._opened_at, 3) if self._engine else 0.0,
            restarts=max(0, self._restarts),
            last_activity=figures.last_activity,
            requests=figures.traffic("requests"),
            replies=figures.traffic("replies"),
            waiting=figures.waiting,
            in_flight=figures.in_flight,
            kept=figures.kept,
            lost=figures.lost,
            ends=figures.ends,
            died=figures.died,
            incidents=figures.incidents(self._deaths.unrecorded),
            dead_letters=self._deaths.kept,
            queueing=figures.queueing,
            service=figures.service,
            estimated=figures.estimated,
            clients=figures.peers(Side.FRONTEND),
            workers=figures.peers(Side.BACKEND),
        )


@contextlib.contextmanager
def _engine_may_refuse() -> Iterator[None]:
    """What the engine cannot do, or not now, is refused to whoever asked for it."""
    try:
        yield
    except (LookupError, TimeoutError, BlockingIOError, UnknownColumn) as error:
        raise Refused(str(error)) from error


def _caller_on_pair(frame: zmq.Frame) -> str:
    try:
        _, uid, _, pid = str(frame.get("Peer-Address")).split(":")
    except (zmq.ZMQError, KeyError, ValueError):
        return "pair"
    return f"pair uid={uid} pid={pid}"
