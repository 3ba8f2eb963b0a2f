"""The data path of one queue as Python has it: its settings, its orders, its figures."""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close, read, write
from zqueue.engine.wire.deaths cimport deaths_free, deaths_take, deaths_told
from zqueue.engine.wire.dispatcher cimport dispatcher_close, dispatcher_mode, dispatcher_open
from zqueue.engine.wire.connections cimport watch_listener
from zqueue.engine.wire.entities cimport (
    BACKEND,
    Counters,
    DRAIN,
    Death,
    Dispatcher,
    FORWARD,
    FRONTEND,
    HOLD,
    Peer,
    Settings,
)
from zqueue.engine.wire.histogram cimport BUCKETS, Histogram
from zqueue.engine.wire.linux cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    EPOLLIN,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    TFD_CLOEXEC,
    TFD_NONBLOCK,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    eventfd,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    socket,
    timerfd_create,
    zq_fence,
    zq_get,
    zq_set,
)
from zqueue.engine.wire.keyed_hash cimport Secret
from zqueue.engine.wire.listing cimport connections_told, listing_clear, requests_told
from zqueue.engine.wire.loop cimport (
    BUFFER,
    CLOSE,
    Connecting,
    DRAIN_WORKER,
    END_PEER,
    FREEZE,
    IS_OWN,
    KEPT_FREE,
    LIST_CONNECTIONS,
    LIST_REQUESTS,
    LONGEST_ADDRESS,
    Listening,
    Loop,
    NUDGE,
    ORDERS,
    Ordered,
    SECOND,
    SET_MODE,
    SUBMIT,
    SocketOptions,
    Submission,
    loop_clock,
    loop_close,
    loop_deaths_read,
    loop_free_deaths,
    loop_run,
    loop_take_up,
)
from zqueue.engine.wire.notices cimport NAME, Notice, next_notice
from zqueue.engine.wire.settings cimport settings_free, settings_from
from zqueue.engine.wire.snapshot cimport dispatcher_restore, dispatcher_saved
from zqueue.engine.wire.tap cimport (
    tap_allow,
    tap_close,
    tap_open,
    tap_skip,
    tap_switch,
    tap_told,
)
from zqueue.engine.wire.zmtp cimport envelope_of, frames_joined, may_be_submitted


cdef int name_into(char* into, str name) except -1:
    """What there is room for of a name, and no half of a letter."""
    cdef bytes cut = name.encode(errors="surrogateescape")[:NAME - 1].decode(errors="ignore").encode()
    memcpy(into, <char*> cut, len(cut))
    into[len(cut)] = 0
    return 0


cdef tuple counted(Histogram* histogram):
    return [histogram.buckets[place] for place in range(BUCKETS)], histogram.nanoseconds


cdef list _connect_endpoints(dict header):
    """Side and name of each that another process had.

    Raises:
        ValueError: that is not what the header has.
    """
    found = header.get("connecting")
    if not isinstance(found, list) or not all(
        [isinstance(each, list) and list(map(type, each)) == [int, str] for each in found]
    ):
        raise ValueError("it is damaged: its connect endpoints are none")
    return found


cdef class DataPath:
    """The sockets of one queue and the loop that works on them.

    Everything but :meth:`run` is for one other thread, which polls :meth:`fileno` and then reads
    :meth:`notices` and :meth:`deaths`. The settings are those of ``settings.pyx``; durations are
    seconds, sizes bytes; 0 is no limit. ``descriptors`` is the number of a descriptor from which on
    no more connections are accepted, of clients ``descriptors_for_clients``; of ``max_connections``
    so many as are ``reserved_for_workers`` are not for clients, and the other way round.
    """

    cdef Loop* _loop
    cdef readonly bint ended
    cdef readonly dict left_behind
    cdef list _connecting

    def __cinit__(
        self,
        *,
        uint64_t max_connections,
        uint64_t max_connections_per_address,
        int descriptors,
        uint32_t first_id,
        int descriptors_for_clients=0,
        uint64_t reserved_for_workers=0,
        uint64_t reserved_for_clients=0,
        bytes secret not None=bytes(16),
        **given,
    ) -> None:
        cdef Settings settings
        cdef Secret hidden
        cdef Loop* loop = <Loop*> calloc(1, sizeof(Loop))
        if loop == NULL:
            raise MemoryError
        self._loop = loop
        loop.epoll = loop.wake = loop.timer = loop.told = -1
        pthread_mutex_init(&loop.lock, NULL)
        settings_from(&settings, given)
        loop.connections = max_connections
        loop.connections_an_address = max_connections_per_address
        loop.descriptors[FRONTEND] = descriptors_for_clients or descriptors
        loop.descriptors[BACKEND] = descriptors
        loop.reserved[FRONTEND] = reserved_for_clients
        loop.reserved[BACKEND] = reserved_for_workers
        if len(secret) != sizeof(Secret):
            raise ValueError("a secret is 16 bytes")
        memcpy(&hidden, <char*> secret, sizeof(Secret))
        loop.hosts[FRONTEND].secret = loop.hosts[BACKEND].secret = hidden
        if not dispatcher_open(&loop.dispatcher, &settings, &loop.notices, first_id, hidden):
            raise MemoryError
        loop.buffer = <uint8_t*> malloc(BUFFER)
        if loop.buffer == NULL:
            raise MemoryError
        loop.epoll = epoll_create1(EPOLL_CLOEXEC)
        loop.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        loop.told = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        loop.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if min(loop.epoll, loop.wake, loop.told, loop.timer) < 0:
            raise OSError(errno, "no descriptors for a queue")
        self._watch_own(loop.wake)
        self._watch_own(loop.timer)
        self.left_behind = {}
        self._connecting = []

    cdef int _watch_own(self, int fd) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = IS_OWN
        if epoll_ctl(self._loop.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "a descriptor cannot be watched")
        return 0

    def __dealloc__(self) -> None:
        if self._loop == NULL:
            return
        if not self.ended:
            loop_close(self._loop)
            loop_free_deaths(self._loop)
            dispatcher_close(&self._loop.dispatcher)
        settings_free(&self._loop.dispatcher.settings)
        free(self._loop.listening)
        free(self._loop.connecting)
        free(self._loop.buffer)
        listing_clear(&self._loop.listing)
        tap_close(&self._loop.tap)
        for fd in (self._loop.epoll, self._loop.wake, self._loop.told, self._loop.timer):
            if fd >= 0:
                close(fd)
        free(self._loop)

    def side(
        self,
        int side,
        *,
        double handshake_timeout,
        double heartbeat,
        double heartbeat_timeout,
        int keepalive,
        int keepalive_interval=0,
        int keepalive_count=0,
        int send_buffer,
        int receive_buffer,
        double reconnect,
        double reconnect_max,
    ) -> None:
        """How connections of a side (0 frontend, 1 backend) are made. ``keepalive``: seconds until the
        first probe, 0 as the kernel does, -1 never; ``keepalive_interval``: seconds between probes;
        ``keepalive_count``: how many are not answered before it ends; 0 as the kernel does."""
        cdef Settings* settings = &self._loop.dispatcher.settings
        cdef SocketOptions* options = &self._loop.options[side]
        settings.handshake[side] = <int64_t> (handshake_timeout * SECOND)
        settings.heartbeat[side].interval = <int64_t> (heartbeat * SECOND)
        settings.heartbeat[side].timeout = <int64_t> (heartbeat_timeout * SECOND)
        options.keepalive = keepalive
        options.keepalive_interval = keepalive_interval
        options.keepalive_count = keepalive_count
        options.send_buffer, options.receive_buffer = send_buffer, receive_buffer
        options.reconnect = <int64_t> (reconnect * SECOND)
        options.reconnect_max = <int64_t> (reconnect_max * SECOND)

    def sockets(
        self,
        listening: list[tuple[int, int, str]],
        connecting: list[tuple[int, str]],
    ) -> None:
        """Where to accept, ``(side, descriptor, name)``, and where to connect, ``(side, name)``,
        once :meth:`connect_to` has told an address. The descriptors are this object's from now on;
        it is called once.

        Raises:
            OSError: one cannot be watched.
        """
        cdef Loop* loop = self._loop
        cdef Listening* listener
        cdef Connecting* connector
        loop.listening = <Listening*> calloc(len(listening) + 1, sizeof(Listening))
        loop.connecting = <Connecting*> calloc(len(connecting) + 1, sizeof(Connecting))
        if loop.listening == NULL or loop.connecting == NULL:
            raise MemoryError
        for side, fd, name in listening:
            listener = &loop.listening[loop.listening_count]
            loop.listening_count += 1
            listener.side, listener.fd = side, fd
            name_into(listener.name, name)
        for place in range(loop.listening_count):
            if not watch_listener(loop, &loop.listening[place]):
                raise OSError(errno, "a listening socket cannot be watched")
        for side, name in connecting:
            connector = &loop.connecting[loop.connecting_count]
            loop.connecting_count += 1
            connector.side, connector.fd = side, -1
            connector.pause = loop.options[<int> side].reconnect
            connector.next_at = loop.connect_at = 1
            name_into(connector.name, name)
        self._connecting = [[side, name] for side, name in connecting]

    def connect_to(self, int place, bytes address not None) -> None:
        """The address of a connect endpoint, a ``struct sockaddr``; heeded at the next attempt."""
        cdef Connecting* connector = &self._loop.connecting[place]
        if len(address) > LONGEST_ADDRESS or place >= self._loop.connecting_count:
            raise ValueError("no such address")
        pthread_mutex_lock(&self._loop.lock)
        connector.address_size = len(address)
        memcpy(connector.address, <char*> address, len(address))
        pthread_mutex_unlock(&self._loop.lock)

    def run(self, int mode) -> str | None:
        """Move messages until :meth:`close` or :meth:`freeze`; why it ended if it did so by itself.

        ``mode`` is 0 to forward, 1 to hold requests, 2 to drain.
        """
        dispatcher_mode(&self._loop.dispatcher, mode)
        zq_set(&self._loop.mode_done, <uint64_t> mode)
        with nogil:
            loop_run(self._loop)
        failure = None if self._loop.failure == NULL else self._loop.failure.decode()
        if not self._loop.frozen:
            self.give_back()
        return failure

    def freeze(self) -> None:
        """End :meth:`run` and leave everything as it is: :meth:`run` may be called again, or
        :meth:`snapshot` and then :meth:`give_back`."""
        self._order(FREEZE, 0)

    def snapshot(self) -> tuple[bytes, tuple[int, ...]]:
        """The whole state, and the descriptors of its connections, which still are this object's;
        only after :meth:`freeze` has ended :meth:`run`."""
        cdef Peer* peer = self._loop.dispatcher.peers
        descriptors = []
        while peer != NULL:
            descriptors.append(peer.fd)
            peer = peer.next
        state = dispatcher_saved(&self._loop.dispatcher, {"connecting": self._connecting})
        return state, tuple(descriptors)

    def restore(self, bytes state not None, descriptors: Sequence[int]) -> None:
        """Begin with the connections and requests of another; after :meth:`sockets`, and before
        :meth:`run`. The descriptors are this object's from now on.

        Raises:
            ValueError: the state cannot be read; this object is of no use then, and the descriptors
                are still the caller's.
        """
        cdef Loop* loop = self._loop
        cdef Peer* peer
        loop.dispatcher.now = loop_clock()
        header = dispatcher_restore(&loop.dispatcher, state)
        connecting = _connect_endpoints(header)
        if len(descriptors) != loop.dispatcher.peers_out:
            raise ValueError(
                f"it has {loop.dispatcher.peers_out} connections, and {len(descriptors)} came with it"
            )
        peer = loop.dispatcher.peers
        for fd in descriptors:
            if not loop_take_up(loop, peer, fd):
                self._let_go_of_descriptors()
                raise ValueError("one of its connections cannot be watched")
            peer.connector = self._connector(connecting, peer.connector)
            peer = peer.next
        loop.published = loop.dispatcher.counters

    cdef int _connector(self, list before, int place) except -2:
        """The connect endpoint that a connection is of, if there still is such a one."""
        cdef Connecting* connector
        if not 0 <= place < len(before):
            return -1
        side, name = before[place]
        for place in range(self._loop.connecting_count):
            connector = &self._loop.connecting[place]
            # Another version has cut the name: to 63 bytes.
            there = name in (self._connecting[place][1], connector.name.decode())
            if connector.side == side and there and not connector.up:
                connector.up = True
                connector.next_at = 0
                return place
        return -1

    def _let_go_of_descriptors(self) -> None:
        cdef Peer* peer = self._loop.dispatcher.peers
        while peer != NULL:
            peer.fd = -1
            peer = peer.next

    def give_back(self) -> None:
        """Close and free everything; what could not be accounted for is in ``left_behind``."""
        cdef Dispatcher* it = &self._loop.dispatcher
        loop_close(self._loop)
        loop_free_deaths(self._loop)
        dispatcher_close(it)
        self.ended = True
        self.left_behind = {
            "peers": it.peers_out,
            "clients": it.clients_out,
            "requests": it.requests_out,
            "bodies": it.pool.bodies_out,
            "segments": it.pool.segments_out,
        }

    def fileno(self) -> int:
        """Readable when there are notices."""
        return self._loop.told

    cdef int _order(self, int what, int64_t argument) except -1:
        """Have the loop do something in its next turn.

        Raises:
            BlockingIOError: there are too many orders before it; it is not given.
        """
        cdef uint64_t one = 1
        cdef bint taken
        # Where it has to end or stand still there is room in any case.
        cdef int most = ORDERS if what in (CLOSE, FREEZE, SET_MODE) else ORDERS - KEPT_FREE
        cdef Ordered* last
        pthread_mutex_lock(&self._loop.lock)
        last = &self._loop.orders[self._loop.ordered - 1] if self._loop.ordered else NULL
        if last != NULL and last.what == what and what in (FREEZE, SET_MODE):
            taken = True
            last.argument = argument
        else:
            taken = self._loop.ordered < most
            if taken:
                self._loop.orders[self._loop.ordered].what = what
                self._loop.orders[self._loop.ordered].argument = argument
                self._loop.ordered += 1
                self._loop.orders_given += 1
        pthread_mutex_unlock(&self._loop.lock)
        write(self._loop.wake, &one, sizeof(one))
        if not taken:
            raise BlockingIOError("too many orders at once")
        return 0

    def forward(self) -> None:
        self._order(SET_MODE, FORWARD)

    def hold(self) -> None:
        self._order(SET_MODE, HOLD)

    def drain(self) -> None:
        self._order(SET_MODE, DRAIN)

    def drain_worker(self, int64_t number) -> None:
        """Give it nothing more."""
        self._order(DRAIN_WORKER, number)

    def ask_for_connections(self, int side) -> None:
        """Have :meth:`connections` brought up to date; it is once :attr:`obeyed` says so. ``side`` is
        0 for the frontend's, 1 for the backend's, -1 for all and those that have ended of late."""
        self._order(LIST_CONNECTIONS, side)

    def connections(self) -> list[dict]:
        """The connections as they were when :meth:`ask_for_connections` was obeyed; see ``rows.pxd``.
        ``age``, ``silent_for`` and ``closed_for`` are nanoseconds."""
        return connections_told(&self._loop.listing)

    def ask_for_requests(self) -> None:
        """Have :meth:`requests` brought up to date; it is once :attr:`obeyed` says so."""
        self._order(LIST_REQUESTS, 0)

    def requests(self) -> tuple[list[dict], int]:
        """The requests that waited or were in flight when :meth:`ask_for_requests` was obeyed, see
        ``rows.pxd`` and ``listing.pxd``, and how many there were. ``age`` and ``for`` are
        nanoseconds."""
        return requests_told(&self._loop.listing)

    def end_peer(self, int64_t number) -> None:
        """Close its connection."""
        self._order(END_PEER, number)

    def close(self, double flush) -> None:
        """End :meth:`run`, once what is on its way out is out or ``flush`` seconds are up."""
        self._order(CLOSE, <int64_t> (flush * SECOND))

    def nudge(self) -> None:
        """Have memory given back that is not needed; and it shows, by :attr:`obeyed`, that the loop
        still comes round."""
        self._order(NUDGE, 0)

    @property
    def obeyed(self) -> bool:
        """Whether every order has been carried out."""
        return zq_get(&self._loop.orders_done) >= self._loop.orders_given

    @property
    def mode(self) -> int:
        """The mode that is in force: 0 forward, 1 hold, 2 drain."""
        return <int> zq_get(&self._loop.mode_done)

    @property
    def counters(self) -> dict:
        """Counters that add up, as they were at the end of the last turn."""
        cdef Counters counters
        cdef uint64_t before
        while True:
            before = zq_get(&self._loop.version)
            if not before & 1:
                counters = self._loop.published
                zq_fence()
                if zq_get(&self._loop.version) == before:
                    return counters

    @property
    def queueing(self) -> tuple[list[int], int]:
        """How many requests waited how long, by bucket (see ``histogram.bucket_bounds``), and how
        many nanoseconds all of them together."""
        return counted(&self._loop.dispatcher.queueing)

    @property
    def service(self) -> tuple[list[int], int]:
        """How many requests took a worker how long, as :attr:`queueing` has it."""
        return counted(&self._loop.dispatcher.service)

    def notices(self) -> list[dict]:
        """What there was to tell since the last call, with names and details as text."""
        cdef Notice told
        cdef uint64_t value
        gathered = []
        read(self._loop.told, &value, sizeof(value))
        while next_notice(&self._loop.notices, &told):
            shown: dict = told
            shown["name"] = told.name.decode(errors="replace")
            shown["detail"] = told.detail.decode(errors="replace")
            gathered.append(shown)
        return gathered

    def deaths(self) -> list[dict]:
        """The requests that died since the last call; times are nanoseconds of the monotonic clock."""
        cdef Death* first
        pthread_mutex_lock(&self._loop.lock)
        first, self._loop.deaths = self._loop.deaths, NULL
        pthread_mutex_unlock(&self._loop.lock)
        told = deaths_told(first)
        if first != NULL:
            loop_deaths_read(self._loop, first)
        if self._loop.frozen:
            first = deaths_take(&self._loop.dispatcher)
            told += deaths_told(first)
            deaths_free(&self._loop.dispatcher, first)
        return told

    def submit(self, bytes id not None, list frames not None) -> None:
        """Ask again in the name of the client with this routing id; nobody is told of a reply if it
        has left.

        Raises:
            ValueError: that is no routing id, or no message that a client could have sent.
            BlockingIOError: there are too many orders before it.
            MemoryError
        """
        may_be_submitted(id, frames)
        joined = frames_joined(frames)
        cdef Submission* asked = <Submission*> calloc(1, sizeof(Submission) + len(joined))
        if asked == NULL:
            raise MemoryError
        asked.id_size = <uint8_t> len(id)
        memcpy(asked.id, <char*> id, asked.id_size)
        asked.size, asked.envelope = len(joined), envelope_of(frames)
        asked.frames, asked.payload = len(frames), sum(map(len, frames))
        memcpy(asked + 1, <char*> joined, asked.size)
        try:
            self._order(SUBMIT, <int64_t> asked)
        except BlockingIOError:
            free(asked)
            raise

    def tap(self, bint on, uint64_t most, bint wakes) -> None:
        """Begin or end to copy what passes, ``most`` bytes of a message. With ``wakes``
        :meth:`fileno` is readable when there is something. Only the first call needs memory.

        Raises:
            MemoryError: there is none for it.
        """
        if self._loop.tap.ring == NULL:
            if not tap_open(&self._loop.tap):
                raise MemoryError
            self._loop.dispatcher.tap = &self._loop.tap
        tap_switch(&self._loop.tap, on, loop_clock(), most, wakes)

    def allow_tap(self, uint64_t exchanges) -> None:
        """Let it copy so many more requests, each with its replies; see ``tap.pxd``."""
        tap_allow(&self._loop.tap, exchanges)

    def tapped(self, int most) -> list[dict]:
        """Up to ``most`` messages that were copied; see ``tap.pxd``. ``sizes`` and ``bodies`` are of
        its frames, the client's routing id first, as far as they were copied."""
        return tap_told(&self._loop.tap, most)

    def skip_tapped(self) -> int:
        """Leave out those that were copied; returns how many."""
        return tap_skip(&self._loop.tap)

    @property
    def tap_missed(self) -> int:
        """How many messages were not copied, because the reader was too slow."""
        return self._loop.tap.missed

    @property
    def notices_lost(self) -> int:
        """How many notices there was no room for."""
        return self._loop.notices.lost
