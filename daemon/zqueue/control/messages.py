"""The messages of the control socket, as both ends validate them.

Transport: a ROUTER on ``ipc://``. A caller is a DEALER or a REQ; each message is one JSON
object in one frame, after the empty delimiter frame that a REQ puts there (a DEALER may leave it
out; the reply comes back the same way). Every message carries the protocol version ``v``; a request
carries an ``id`` that the caller chose and that every reply to it repeats.

A request gets exactly one ``result`` or ``error``. Before it there may be any number of
``progress`` replies, if the request said ``"progress": true``, and to ``events`` any number of
``event`` replies.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

PROTOCOL_VERSION: Literal[1] = 1
_LONGEST_TIMEOUT = 366 * 86400.0
MAX_REQUEST_BYTES = 1 << 20
"""A request longer than this is answered with an error."""

Reason = Literal[
    "max_attempts", "worker_lost", "service_timeout", "deadline", "max_waiting_time", "queue_full"
]
"""Why a request died: ``max_attempts`` workers had it in vain; its worker was lost, or late, and
``redeliver`` let no other have it; it was too old; the queue was full."""


EventLevel = Literal["debug", "info", "warning", "error", "critical"]


class Message(BaseModel):
    """What all messages have in common: frozen. In a reply a key that is not named here is left
    out: it is from a newer zqueued."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# -- requests --------------------------------------------------------------------------------

Pattern = Annotated[str, StringConstraints(max_length=1024)]
"""A condition, or a name with ``*`` in it. To prepare one takes time that grows with the square of
its length, in the thread of a queue."""


class _Strict(Message):
    """A part of a request: a key that is not named here is a mistake, which must not pass for done.

    A caller leaves out what has its default, so that an older zqueued understands it.
    """

    model_config = ConfigDict(extra="forbid")


class _Request(_Strict):
    v: Literal[1] = PROTOCOL_VERSION
    id: str = Field(min_length=1, max_length=128)
    progress: bool = False


class Selection(_Strict):
    """Which queues a verb is for: some by name, or all. With neither: the only one there is."""

    queues: tuple[str, ...] = ()
    all: bool = False


class Status(_Request):
    """State and figures of the daemon and of every queue. Result: :class:`StatusResult`."""

    verb: Literal["status"] = "status"


class _List(_Request, Selection):
    """A list of what is in one queue, on an engine that can tell it apart.

    ``filter``: conditions that all hold, such as ``in_flight>0`` or ``peer=10.0.0.*``: a column,
    one of ``= != < <= > >=``, a value. Text may have ``*`` and ``?`` in it; durations and sizes are
    written as in the config (``age>1s``, ``unsent_bytes>=1MiB``). ``sort``: by this column, from
    the largest with ``-`` before it. The columns are the fields of the rows.
    """

    filter: tuple[Pattern, ...] = Field(default=(), max_length=64)
    sort: Pattern | None = None
    limit: int | None = Field(default=None, ge=0)


class Workers(_List):
    """The workers that are connected. Result: :class:`WorkersResult`."""

    verb: Literal["workers"] = "workers"


class Clients(_List):
    """The clients that are connected. Result: :class:`ClientsResult`."""

    verb: Literal["clients"] = "clients"


class Connections(_List):
    """Every connection, also those in their handshake, and the last 128 that have ended, with why;
    as many again that never were peers. Result: :class:`ConnectionsResult`."""

    verb: Literal["connections"] = "connections"


class Requests(_List):
    """The requests that wait, the oldest first, then those in flight; the 10,000 oldest of each.
    Result: :class:`RequestsResult`."""

    verb: Literal["requests"] = "requests"


ListRequest = Workers | Clients | Connections | Requests


class Tap(_Request, Selection):
    """Read what a tap has found: the messages that pass through one queue, each reply with its
    request's ``id``. ``tap`` is a name of the caller's choice; a tap is opened when it is first
    read, and ends when it is not for 5 seconds. The queue's ``tap`` has to allow it.

    ``content``: how many bytes of a message are told. What is wanted, all of it, is said when it is
    opened: ``client`` and ``worker`` (an id, or an address or routing id, which may have ``*`` and
    ``?``), ``smallest`` and ``largest`` (bytes of its frames), ``took`` (seconds from the request's
    receipt to its reply, or more), ``contains`` (text, in the first 64 KiB). A message is told if
    it is so, and with a request its reply; where the reply decides, the request is told with it.
    ``wait``: seconds to wait for something. Result: :class:`TapResult`.
    """

    verb: Literal["tap"] = "tap"
    tap: str = Field(min_length=1, max_length=128)
    content: int = Field(default=256, ge=0, le=1 << 30)
    client: Pattern | None = None
    worker: Pattern | None = None
    smallest: int | None = Field(default=None, ge=0)
    largest: int | None = Field(default=None, ge=0)
    took: float | None = Field(default=None, ge=0)
    contains: str | None = Field(default=None, min_length=1, max_length=1024)
    wait: float = Field(default=0.0, ge=0, le=5)


class Kick(_Request, Selection):
    """End a client's or worker's connection, by its id; it may connect anew. Result:
    :class:`SteerResult`."""

    verb: Literal["kick"] = "kick"
    connection: int


class Pause(_Request, Selection):
    """Give no further request to a worker. With ``wait``, answer when nothing is in flight.

    ``timeout`` (seconds) bounds the wait. Result: :class:`SteerResult`.
    """

    verb: Literal["pause"] = "pause"
    wait: bool = False
    timeout: float | None = Field(default=None, ge=0, le=_LONGEST_TIMEOUT)


class Resume(_Request, Selection):
    """Pass requests again; ends a drain. Result: :class:`SteerResult`."""

    verb: Literal["resume"] = "resume"


class Drain(_Request, Selection):
    """Take no new request, finish what is in flight, then pause or terminate. With ``worker``, the
    id of one, only that worker finishes what it has and gets no more until it connects anew.

    ``timeout`` in seconds; ``None`` is the queue's ``drain_timeout``. Result: :class:`SteerResult`.
    """

    verb: Literal["drain"] = "drain"
    then: Literal["pause", "terminate"] = "pause"
    timeout: float | None = Field(default=None, ge=0, le=_LONGEST_TIMEOUT)
    worker: int | None = None


class Terminate(_Request, Selection):
    """Stop the queue now: its sockets are closed. Result: :class:`SteerResult`."""

    verb: Literal["terminate"] = "terminate"


class Start(_Request, Selection):
    """Start a queue that is stopped or failed. Result: :class:`SteerResult`."""

    verb: Literal["start"] = "start"


class DeadList(_Request):
    """Dead letters of one queue, the oldest first: those with the ids in ``letters``, or all that
    died of one of ``reasons`` (if any are named) and not before ``since`` (seconds since the
    epoch), of these with ``last`` the newest only. ``queue`` may be left out where there is only
    one, or letters are named.

    A page at a time: ask again with ``after`` as the result's ``next`` says, and without ``last``.
    With ``content``, which only those get who may steer, each has the first MiB of what is in it;
    :class:`DeadRead` gets the rest. Result: :class:`DeadListResult`.
    """

    verb: Literal["dead-list"] = "dead-list"
    queue: str | None = None
    letters: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    since: float | None = None
    last: int | None = Field(default=None, ge=1, le=2**63 - 1)
    after: int = Field(default=0, ge=0, le=2**63 - 1)
    content: bool = False


class DeadRead(_Request):
    """What is in a dead letter from ``offset`` on, at most a MiB of it. Result:
    :class:`DeadReadResult`."""

    verb: Literal["dead-read"] = "dead-read"
    letter: str
    offset: int = Field(default=0, ge=0, le=2**31 - 2)


class _SomeLetters(_Strict):
    """Either the ids of dead letters, or ``all`` that died of one of ``reasons`` (if any are named)
    and not before ``since``, of some queues or of every one."""

    letters: tuple[str, ...] = ()
    all: bool = False
    queues: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    since: float | None = None


class DeadRetry(_Request, _SomeLetters):
    """Have requests done that had died, each in its client's name, and remove them from the dead
    letters. Result: :class:`DeadSteerResult`."""

    verb: Literal["dead-retry"] = "dead-retry"


class DeadDrop(_Request, _SomeLetters):
    """Throw dead letters away. Result: :class:`DeadSteerResult`."""

    verb: Literal["dead-drop"] = "dead-drop"


class Reload(_Request):
    """Read the config again and apply the difference. Result: :class:`ReloadResult`."""

    verb: Literal["reload"] = "reload"


class Shutdown(_Request):
    """End the daemon: drain every queue first, or with ``now`` at once.

    Result: :class:`ShutdownResult`.
    """

    verb: Literal["shutdown"] = "shutdown"
    now: bool = False


class Upgrade(_Request):
    """Start the zqueued that is installed now, hand over to it every connection and request, and
    end. Not under systemd, where a restart does the same. Result: :class:`UpgradeResult`.
    """

    verb: Literal["upgrade"] = "upgrade"


class LogLevel(_Request):
    """Tell the log level, or change it. Result: :class:`LogLevelResult`."""

    verb: Literal["log-level"] = "log-level"
    level: Literal["debug", "info", "warning", "error"] | None = None


class Events(_Request):
    """Send events that happened before, in the order of their time, then with ``follow`` each as it
    happens, until ``cancel`` or the caller leaves.

    Of those before: with ``since`` (seconds since the epoch) those since then, with ``recent`` the
    newest so many, with both the newest so many of those since then, with neither none. ``queue``,
    ``level`` (at least that) and ``names`` (of which ``*`` may be a part) choose among all.

    With ``progress``, one :class:`Progress` tells that from here on none is missed, and what is
    ``remembered``. Replies: :class:`EventReply`. Result: :class:`EventsResult`.
    """

    verb: Literal["events"] = "events"
    queue: str | None = None
    level: EventLevel = "debug"
    names: tuple[Annotated[str, StringConstraints(max_length=64)], ...] = Field(
        default=(), max_length=64
    )
    since: float | None = None
    recent: int | None = Field(default=None, ge=0)
    follow: bool = True


class Cancel(_Request):
    """End the ``events`` request whose id is ``request``. Result: :class:`CancelResult`."""

    verb: Literal["cancel"] = "cancel"
    request: str


class Config(_Request):
    """The config in force, and where each value came from. Result: :class:`ConfigResult`."""

    verb: Literal["config"] = "config"


class Version(_Request):
    """Version and pid of the daemon. Result: :class:`VersionResult`."""

    verb: Literal["version"] = "version"


Request = Annotated[
    Status
    | Workers
    | Clients
    | Connections
    | Requests
    | Kick
    | Tap
    | Pause
    | Resume
    | Drain
    | Terminate
    | Start
    | DeadList
    | DeadRead
    | DeadRetry
    | DeadDrop
    | Reload
    | Shutdown
    | Upgrade
    | LogLevel
    | Events
    | Cancel
    | Config
    | Version,
    Field(discriminator="verb"),
]
"""Any request, told apart by its ``verb``."""

MAY_BE_ASKED_AGAIN = (
    *(Status, Config, Version, Workers, Clients, Connections, Requests, DeadList, DeadRead),
    *(Pause, Resume, Start, Terminate),
)
"""What may be asked again of the daemon's successor, if it ends before it has answered. A daemon
that
has handed over leaves them to that one."""

# -- results ---------------------------------------------------------------------------------
#
# Where a word is one of some, a newer zqueued may have others: ``| str``.


RATED_OVER = 2.0
"""How many seconds back rates go."""


class Traffic(Message):
    """What has passed one way since the queue was configured; rates are per second, over the last
    ``RATED_OVER`` seconds."""

    messages: int = 0
    frames: int = 0
    bytes: int = 0
    messages_per_second: float = 0.0
    bytes_per_second: float = 0.0


class Peers(Message):
    """Connections of one side: now, and counted since the queue was configured."""

    connected: int = 0
    accepted: int = 0
    disconnected: int = 0
    rejected: int = 0


class Ends(Message):
    """How requests have ended, each in one way. With those ``waiting``, ``in_flight``, ``kept`` and
    ``lost`` they add up to every request received.

    ``replied``: the reply went to the client. ``unclaimed``: it was answered, and the client had
    left. ``withdrawn``: the client left before. ``dead``: it was given up, and event
    ``request.dead`` says why. ``rejected``: the queue was full. ``malformed``: it has no empty
    frame before its body, and there are only REPs, which would discard it. ``unanswered``: it was
    given to a ROUTER or DEALER, which need not answer.
    """

    replied: int = 0
    unclaimed: int = 0
    withdrawn: int = 0
    dead: int = 0
    rejected: int = 0
    malformed: int = 0
    unanswered: int = 0


class Died(Message):
    """The requests that died, by why; see :data:`Reason`."""

    max_attempts: int = 0
    worker_lost: int = 0
    service_timeout: int = 0
    deadline: int = 0
    max_waiting_time: int = 0
    queue_full: int = 0


class Incidents(Message):
    """What else was counted; none of it is an end.

    ``returned``: requests that a worker gave back when it was lost or late. ``retried``: dead
    letters that were asked again, which are ``received`` once more. Replies: ``late``, to a request
    that had been given up; ``dropped``, with no client to go to, late ones among them; ``extra``,
    passed on though no request was open for them; ``error``, made by the broker for a request that
    died. ``unrecorded``: dead requests of which no dead letter could be kept.
    """

    returned: int = 0
    retried: int = 0
    late_replies: int = 0
    dropped_replies: int = 0
    extra_replies: int = 0
    error_replies: int = 0
    unrecorded: int = 0


class KeptLetters(Message):
    """The dead letters of one queue, in a file (``path``) or in memory: how many, and how many
    bytes they take.

    ``evicted``: those that have gone since the start because of ``dead_letters_max`` or
    ``dead_letters_max_bytes``. ``unwritten``: those that could not be written yet, for the reason
    in ``failure``; they are tried again.
    """

    path: str | None = None
    kept: int = 0
    bytes: int = 0
    evicted: int = 0
    unwritten: int = 0
    failure: str = ""


class Latency(Message):
    """Seconds: half of the requests took at most ``p50``, 99 of 100 at most ``p99``, as long as the
    queue runs or ran last; all since the queue was configured took ``seconds`` together.

    ``counts``: how many of these took at most each of a row of steps and more than the one before,
    and the last: longer than all steps. The steps are ``zqueue.engine.LATENCY_BOUNDS``.
    """

    p50: float
    p99: float
    seconds: float
    counts: tuple[int, ...]


class QueueStatus(Message):
    """One queue. Times are seconds since the epoch; those from before the machine's clock was set
    are told as if it had been right. ``uptime`` is seconds.

    With ``estimated`` the counts of messages, ``waiting``, ``in_flight`` and ``lost`` are
    estimates, since libzmq's proxy counts frames; frames and bytes are exact. ``None``: the engine
    cannot know.
    ``kept`` are requests that were answered while their client was away, which may come back.
    ``engine_reason`` says why ``engine = "auto"`` did not take the wire engine. ``queueing`` is how
    long requests waited for a worker, ``service`` how long a worker had them; ``None`` like
    ``ends``, ``died`` and ``incidents`` where the engine cannot know. ``not_promised`` is what the
    other engine would do and this one cannot. ``not_connected``: endpoints to connect to that do
    not come up, and why. ``stale``: the queue did not answer in time, and these are its last known
    figures.
    """

    name: str
    type: Literal["queue", "forwarder", "streamer"] | str
    engine: Literal["libzmq", "wire"] | str
    engine_reason: str = ""
    not_promised: tuple[str, ...] = ()
    state: Literal["starting", "running", "paused", "draining", "stopped", "failed"] | str
    since: float
    by: str
    reason: str = ""
    frontend: tuple[str, ...]
    backend: tuple[str, ...]
    capture: str | None = None
    control: str | None = None
    uptime: float = 0.0
    restarts: int = 0
    last_activity: float | None = None
    requests: Traffic = Traffic()
    replies: Traffic = Traffic()
    waiting: int | None = None
    in_flight: int | None = None
    kept: int = 0
    lost: int | None = 0
    ends: Ends | None = None
    died: Died | None = None
    incidents: Incidents | None = None
    dead_letters: KeptLetters = KeptLetters()
    queueing: Latency | None = None
    service: Latency | None = None
    estimated: bool = True
    clients: Peers = Peers()
    workers: Peers = Peers()
    not_connected: dict[str, str] = {}
    stale: bool = False

    @property
    def tells_peers_apart(self) -> bool:
        """Whether its engine can list connections and requests."""
        return self.engine == "wire"


Phase = Literal["starting", "running", "stopping"]


class StatusResult(Message):
    """The daemon and its queues. ``log`` is where its log is to be read: ``journal``, the path of a
    file, or nothing where only whoever reads its stderr knows; ``log_lines_lost``: how many events
    it could not write there. ``slow_subscribers``: how often a subscriber of ``[events]
    publish`` read so slowly that it began to miss events, of which nobody knows how many;
    ``replies_dropped``: how many answers a caller of the control socket did not read. All since
    this process was started."""

    queues: tuple[QueueStatus, ...]
    name: str
    version: str
    pid: int
    started: float
    uptime: float
    config: str | None
    control: str
    state: Phase | str
    log_level: str
    log: str = ""
    log_lines_lost: int = 0
    slow_subscribers: int = 0
    replies_dropped: int = 0


class _Peer(Message):
    """What is known of every peer.

    ``id``: the connection's, which events have as well, and ``kick`` and ``drain --worker`` take.
    ``peer``: its address, ``identity``: the routing id, in hex, that a client gave itself or was
    given, or what a worker calls itself. ``type``: its socket's, ``zmtp``: the protocol's version.
    ``connected_for`` and ``silent_for`` (since something was heard of it) are seconds.
    ``received_bytes`` have come from it, ``sent_bytes`` have gone to it, ``unsent_bytes`` are to
    go. ``broker``: which queue of a zqueued it is; empty if it is none.
    """

    id: int
    peer: str
    identity: str
    type: str
    zmtp: str
    connected_for: float
    silent_for: float
    requests: int
    replies: int
    in_flight: int
    received_bytes: int
    sent_bytes: int
    unsent_bytes: int
    broker: str = ""


class Worker(_Peer):
    """One connected worker. ``requests`` were given to it, ``replies`` came back.

    ``state``: ``ready``; ``draining``: it gets no more; ``aside``: it is at one request for longer
    than ``service_timeout``, and gets no more until it answers. ``ahead`` is how many requests it
    may have at once, ``None`` for no limit. Seconds: ``service``, what a request takes it of late,
    ``p50`` and ``p99``, what half of its latest thousands took, and 99 of 100; ``None``: not known
    yet. ``unasked``: its messages that answered nothing and were dropped, since this process has
    its connection.
    """

    state: Literal["ready", "draining", "aside"] | str
    ahead: int | None
    service: float | None
    p50: float | None
    p99: float | None
    unasked: int = 0


class Client(_Peer):
    """One connected client. ``requests`` have come from it, ``waiting`` of them wait for a worker,
    ``replies`` went to it.

    ``state``: ``ready``; ``held``: nothing is read from it, because it does not read its replies or
    as much waits as may.
    """

    state: Literal["ready", "held"] | str
    waiting: int


class Connection(_Peer):
    """One connection, of a client (``side`` is ``frontend``) or a worker (``backend``), or in its
    ``handshake``, or ``closed`` for ``closed_for`` seconds for this ``reason``; nothing, if the
    peer simply left. The others as in :class:`Worker` and :class:`Client`."""

    side: Literal["frontend", "backend"] | str
    state: Literal["handshake", "ready", "held", "draining", "aside", "closed"] | str
    waiting: int
    ahead: int | None
    service: float | None
    p50: float | None
    p99: float | None
    closed_for: float | None
    reason: str
    unasked: int = 0


class OpenRequest(Message):
    """A request that waits or is in flight, for ``state_for`` seconds; it came ``age`` seconds ago.

    ``attempts`` is how many workers have had it, ``size`` its bytes. ``client`` and ``worker`` are
    the ids of connections; ``None`` if the client has left, or no worker has it.
    """

    id: int
    state: Literal["waiting", "in_flight"] | str
    age: float
    state_for: float
    attempts: int
    size: int
    client: int | None
    client_peer: str
    client_identity: str
    worker: int | None
    worker_peer: str


class TappedMessage(Message):
    """A message that has passed. ``at`` is seconds since the epoch.

    ``id`` is its request's; ``None`` for a reply that no request was open for. A reply says how
    many seconds its request ``waited``, and how long its worker had it: ``service``. It has so many
    ``frames`` behind the client's routing id, of these ``sizes``; ``bodies`` are in base64, as far
    as they were asked for. ``client_identity`` is the routing id, in hex. In a reply without ``id``
    it is the first frame, whatever that is, as far as it was asked for; ``identity_size`` is how
    many bytes the frame has, ``None`` from a zqueued that does not tell.
    """

    way: Literal["request", "reply"] | str
    id: int | None
    at: float
    waited: float | None
    service: float | None
    client: int | None
    client_peer: str
    client_identity: str
    identity_size: int | None = None
    worker: int | None
    worker_peer: str
    frames: int
    sizes: tuple[int, ...]
    bodies: tuple[str, ...]


class TapResult(Message):
    """``dropped``: how many messages could not be kept since the last time, wanted or not."""

    queue: str
    messages: tuple[TappedMessage, ...]
    dropped: int


class ListResult(Message):
    """``total`` is how many there are, whatever was chosen of them."""

    queue: str
    total: int


class WorkersResult(ListResult):
    workers: tuple[Worker, ...]


class ClientsResult(ListResult):
    clients: tuple[Client, ...]


class ConnectionsResult(ListResult):
    connections: tuple[Connection, ...]


class RequestsResult(ListResult):
    requests: tuple[OpenRequest, ...]


LISTS: dict[str, type[ListResult]] = {
    "workers": WorkersResult,
    "clients": ClientsResult,
    "connections": ConnectionsResult,
    "requests": RequestsResult,
}
"""The result of each verb that lists."""


Outcome = Literal["pending", "done", "timed_out", "interrupted", "failed"]


class Steered(Message):
    """What became of one queue.

    ``outcome``: ``pending`` (in a :class:`Progress`); ``done``; ``timed_out`` (a drain or a wait,
    with what is left); ``interrupted`` (somebody steered it elsewhere meanwhile); ``failed``
    (``detail`` tells).
    """

    queue: str
    state: str
    changed: bool
    outcome: Outcome | str
    detail: str = ""
    waiting: int | None = None
    in_flight: int | None = None
    estimated: bool = True


class SteerResult(Message):
    queues: tuple[Steered, ...]

    @property
    def ok(self) -> bool:
        return all(queue.outcome == "done" for queue in self.queues)


class DeadAttempt(Message):
    """A worker that had a request in vain. Times are seconds since the epoch."""

    worker: int
    peer: str
    given_at: float
    ended_at: float
    reason: Literal["worker_lost", "service_timeout"] | str


class DeadLetter(Message):
    """A request that died. Times are seconds since the epoch.

    ``id`` is good over restarts and among brokers; ``broker`` is the one at which it died.
    ``client`` is the routing id of whoever sent it, in hex, which it gave itself if ``named``;
    ``peer`` its address if it was connected then. ``told``: an ``error_reply`` was sent for it.
    ``attempts`` is how many workers had it, ``history`` those that were lost or late: a request
    that died by its deadline may have been at one more.

    It has frames of these ``sizes``, ``size`` bytes together; the first ``envelope`` of them are
    its envelope, the empty frame the last of these. ``content`` is the frames, one after the other,
    in base64, or the first MiB of them; ``None`` where it was not asked for.
    """

    id: str
    queue: str
    broker: str
    reason: Reason | str
    received_at: float
    died_at: float
    client: str
    named: bool
    peer: str
    told: bool
    attempts: int
    history: tuple[DeadAttempt, ...]
    envelope: int
    sizes: tuple[int, ...]
    size: int
    content: str | None = None


class DeadListResult(Message):
    """``next`` is what to say as ``after`` for more; ``None`` if there are no more."""

    letters: tuple[DeadLetter, ...]
    next: int | None = None


class DeadReadResult(Message):
    """``data`` is base64; it is empty at the end."""

    data: str


class DeadSteered(Message):
    """What became of the dead letters of one queue: ``done`` were retried or dropped; ``left`` were
    not, for the reason in ``detail``."""

    queue: str
    done: int
    left: int = 0
    detail: str = ""


class DeadSteerResult(Message):
    queues: tuple[DeadSteered, ...]

    @property
    def ok(self) -> bool:
        return not any(queue.detail for queue in self.queues)


class ReloadResult(Message):
    """Names of queues; ``changed`` maps a queue to the keys that changed, ``rebound`` are those
    whose sockets had to be made anew; ``settings`` are changed keys outside queues, and
    ``needs_restart`` those of them that only a restart applies. ``failed`` maps a queue that could
    not be started to the reason; it is tried again."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: dict[str, tuple[str, ...]] = {}
    rebound: tuple[str, ...] = ()
    failed: dict[str, str] = {}
    unchanged: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class ShutdownResult(Message):
    """The daemon has begun to stop; it answers no more once it has."""

    drain_timeout: float


class UpgradeResult(Message):
    """The zqueued that has taken up all, with how many connections, and for how many seconds
    nothing moved."""

    pid: int
    version: str
    connections: int
    paused: float


class LogLevelResult(Message):
    level: str


class Remembered(Message):
    """What there is of the events that were asked for. Times are seconds since the epoch.

    ``begins``: nothing is remembered from before then; it is when zqueued started, or the first of
    those that handed over to it. ``forgotten``: kinds of which some would have been sent that had
    to make room for newer ones, each with the time of the last of these.
    """

    begins: float
    forgotten: dict[str, float] = {}


class EventsResult(Message):
    """No more events follow. ``remembered`` tells of those before; ``None`` after a ``cancel``."""

    remembered: Remembered | None = None


class CancelResult(Message):
    cancelled: bool


class ConfigValue(Message):
    key: str
    value: Any
    origin: str


class ConfigResult(Message):
    path: str | None
    values: tuple[ConfigValue, ...]


class VersionResult(Message):
    version: str
    protocol: int
    pid: int
    libzmq: str
    pyzmq: str
    python: str


# -- replies ---------------------------------------------------------------------------------


class _Reply(Message):
    v: Literal[1] = PROTOCOL_VERSION
    id: str | None
    """The request's id; ``None`` in an error about a request whose id could not be read."""


class Result(_Reply):
    kind: Literal["result"] = "result"
    result: dict[str, Any]


class Progress(_Reply):
    """How far a drain or a wait has come; or, with no queues, that a reload or an upgrade goes on,
    or that events are followed from here on."""

    kind: Literal["progress"] = "progress"
    queues: tuple[Steered, ...] = ()
    remembered: Remembered | None = None


class Happened(Message):
    """One event, as it is published. ``time`` is seconds since the epoch."""

    name: str
    level: str
    time: float
    queue: str | None
    message: str
    fields: dict[str, Any]


class EventReply(Happened, _Reply):
    """One event. ``dropped`` counts those that this caller missed because it read too slowly."""

    kind: Literal["event"] = "event"
    dropped: int = 0


class Error(_Reply):
    """A refusal. ``code`` is for scripts, ``message`` for people.

    Codes: ``malformed`` (frames, JSON, types), ``version`` (protocol), ``unknown_verb``,
    ``unknown_queue``, ``unknown_letter``, ``unknown_event``, ``ambiguous`` (which queue?),
    ``forbidden``, ``config`` (a refused reload), ``refused`` (not in this state), ``failed``,
    ``busy`` (too many requests at once).
    """

    kind: Literal["error"] = "error"
    code: str
    message: str


Reply = Annotated[Result | Progress | EventReply | Error, Field(discriminator="kind")]
"""Any reply, told apart by its ``kind``."""
