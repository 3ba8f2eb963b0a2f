"""The state machine of one queue in Python's hands, without sockets: for tests and the fuzzer."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from zqueue.engine.wire.deaths cimport deaths_free, deaths_take, deaths_told
from zqueue.engine.wire.dispatcher cimport (
    dispatcher_close,
    dispatcher_due,
    dispatcher_mode,
    dispatcher_open,
    dispatcher_pulse,
    dispatcher_turn,
    peer_close,
    peer_hung_up,
    peer_moved,
    peer_open,
    peer_reads,
    peer_room,
    peer_sent,
    peer_take,
)
from zqueue.engine.wire.entities cimport BACKEND, Death, FLOWS, FRONTEND, Dispatcher, Peer, Settings
from zqueue.engine.wire.keyed_hash cimport Secret
from zqueue.engine.wire.linux cimport CHECKED
from zqueue.engine.wire.listing cimport (
    BOTH_SIDES,
    Listing,
    connections_told,
    list_connections,
    list_requests,
    requests_told,
)
from zqueue.engine.wire.memory cimport body_bytes, pool_judge, pool_mapped, pool_unmap
from zqueue.engine.wire.notices cimport Notice, Notices, next_notice
from zqueue.engine.wire.peers cimport leave_dirty, leave_ready, peer_end, peer_numbered
from zqueue.engine.wire.receiving cimport submit
from zqueue.engine.wire.settings cimport settings_free, settings_from
from zqueue.engine.wire.snapshot cimport dispatcher_restore, dispatcher_saved
from zqueue.engine.wire.tap cimport Tap, tap_allow, tap_close, tap_open, tap_skip, tap_switch, tap_told
from zqueue.engine.wire.workers cimport worker_drain
from zqueue.engine.wire.zmtp cimport envelope_of, frames_joined, may_be_submitted


cdef class Exchange:
    """The state machine of one queue, to be driven by hand: bytes in, bytes out, a clock to move.

    The settings are those of ``settings.pyx``; sizes are bytes, durations seconds. ``handshake`` and
    ``heartbeat`` are for both sides.
    """

    cdef Dispatcher _it
    cdef Notices* _notices
    cdef dict _moved
    cdef Tap _tap

    def __cinit__(self, *, double handshake=0, double heartbeat=0, **given) -> None:
        cdef Settings settings
        cdef Secret secret = Secret(1, 2)
        settings_from(&settings, given)
        for side in (FRONTEND, BACKEND):
            settings.handshake[side] = <int64_t> (handshake * 1e9)
            settings.heartbeat[side].interval = <int64_t> (heartbeat * 1e9)
            settings.heartbeat[side].timeout = <int64_t> (heartbeat * 1e9)
        self._notices = <Notices*> calloc(1, sizeof(Notices))
        if self._notices == NULL or not dispatcher_open(
            &self._it, &settings, self._notices, 0, secret
        ):
            raise MemoryError
        self._it.now = 1
        self._moved = {}

    def __dealloc__(self) -> None:
        while self._it.peers != NULL:
            peer_close(&self._it, self._it.peers)
        dispatcher_close(&self._it)
        settings_free(&self._it.settings)
        tap_close(&self._tap)
        free(self._notices)

    cdef Peer* _peer(self, int number) except NULL:
        cdef Peer* peer = peer_numbered(&self._it, number)
        if peer == NULL:
            raise KeyError(number)
        return peer

    def connect(self, int side) -> int:
        """A new connection, 0 of the frontend, 1 of the backend; its number.

        Raises:
            MemoryError: there is none for it.
        """
        cdef Peer* peer = peer_open(&self._it, side, b"test")
        if peer == NULL:
            raise MemoryError
        return peer.number

    def feed(self, int number, const uint8_t[::1] data not None) -> None:
        """Bytes came from it."""
        cdef Peer* peer = self._peer(number)
        cdef size_t size = data.shape[0], at = 0, missing
        cdef uint8_t* room = NULL
        # As the loop does it: the rest of a large frame goes to where it belongs at once.
        while at < size:
            missing = min(peer_room(&self._it, peer, &room), size - at)
            if peer.stalled != FLOWS or peer.claim != NULL:
                raise BlockingIOError("it is held back")
            if missing:
                memcpy(room, &data[at], missing)
                peer_take(&self._it, peer, room, missing)
                at += missing
            else:
                peer_take(&self._it, peer, &data[at], size - at)
                at = size
        self._settle()

    def held_back(self, int number) -> bool:
        """Whether nothing may be read from it now."""
        return not peer_reads(&self._it, self._peer(number))

    def output(self, int number, size_t most=1 << 62) -> bytes:
        """Take what is to be sent to it, at most so much."""
        cdef Peer* peer = self._peer(number)
        cdef size_t size
        gathered = bytearray()
        while peer.session.out.first != NULL and <size_t> len(gathered) < most:
            size = peer.session.out.first.end - peer.session.out.first.begin
            size = min(size, most - <size_t> len(gathered))
            gathered += (
                <char*> body_bytes(peer.session.out.first.body) + peer.session.out.first.begin
            )[:size]
            peer_sent(&self._it, peer, size)
        self._settle()
        return bytes(gathered)

    def hang_up(self, int number) -> None:
        """It has ended at the peer's side. What it sent before may still be fed, then it is closed."""
        cdef Peer* peer = self._peer(number)
        peer.hung_up = True
        self._settle()

    def close(self, int number) -> None:
        """It has left."""
        peer_end(&self._it, self._peer(number), NULL)
        self._settle()

    def steer(self, int mode) -> None:
        """0 forward, 1 hold, 2 drain."""
        dispatcher_mode(&self._it, mode)
        self._settle()

    def drain_worker(self, int number) -> None:
        """Give it nothing more."""
        cdef Peer* peer = self._peer(number)
        if peer.worker != NULL:
            worker_drain(&self._it, peer.worker)
            self._settle()

    def submit(self, const uint8_t[::1] id not None, list frames not None) -> None:
        """Ask in the name of the client with this routing id.

        Raises:
            ValueError: that is no routing id, or no message that a client could have sent.
        """
        may_be_submitted(bytes(id), frames)
        joined = frames_joined(frames)
        cdef const uint8_t[::1] data = joined
        if not submit(
            &self._it, &id[0], id.shape[0], &data[0], data.shape[0], envelope_of(frames),
            len(frames), sum(map(len, frames)),
        ):
            raise MemoryError
        self._settle()

    def deaths(self) -> list[dict]:
        """The requests that died since the last call; times are nanoseconds."""
        cdef Death* first = deaths_take(&self._it)
        told = deaths_told(first)
        deaths_free(&self._it, first)
        return told

    def tap(self, bint on, uint64_t most=1 << 62) -> None:
        """Begin or end to copy what passes, ``most`` bytes of a message.

        Raises:
            MemoryError: there is none for it.
        """
        if self._tap.ring == NULL:
            if not tap_open(&self._tap):
                raise MemoryError
            self._it.tap = &self._tap
        tap_switch(&self._tap, on, self._it.now, most, False)

    def allow_tap(self, uint64_t exchanges) -> None:
        """Let it copy so many more requests, each with its replies."""
        tap_allow(&self._tap, exchanges)

    def tapped(self, int most=1 << 30) -> list[dict]:
        """Up to ``most`` messages that were copied, as :meth:`DataPath.tapped` has them."""
        return tap_told(&self._tap, most)

    def skip_tapped(self) -> int:
        """Leave out those that were copied; returns how many."""
        return tap_skip(&self._tap) if self._tap.ring != NULL else 0

    @property
    def tap_missed(self) -> int:
        """How many messages were not copied."""
        return self._tap.missed

    def connections(self, int side=BOTH_SIDES) -> list[dict]:
        """The connections of a side, or all and those that have ended of late; see ``rows.pxd``."""
        cdef Listing listing
        memset(&listing, 0, sizeof(listing))
        list_connections(&self._it, side, &listing)
        return connections_told(&listing)

    def requests(self) -> tuple[list[dict], int]:
        """The requests that wait or are in flight, see ``rows.pxd``, and how many there are."""
        cdef Listing listing
        memset(&listing, 0, sizeof(listing))
        list_requests(&self._it, &listing)
        return requests_told(&listing)

    @property
    def due(self) -> int:
        """When something is due, in nanoseconds on its own clock; 0 for never."""
        return dispatcher_due(&self._it)

    @property
    def looks(self) -> list[int]:
        """The connections that are looked at by themselves, the next one first."""
        return [
            number
            for _, number in sorted(
                (self._it.due[place].due, self._it.due[place].number)
                for place in range(self._it.due_count)
            )
        ]

    @property
    def now(self) -> int:
        """Its own clock, in nanoseconds."""
        return self._it.now

    @now.setter
    def now(self, int64_t value) -> None:
        self._it.now = value

    def advance(self, double seconds) -> None:
        """Let time pass."""
        cdef Peer* peer
        self._it.now += <int64_t> (seconds * 1e9)
        while (peer := dispatcher_pulse(&self._it)) != NULL:
            delivered, unsent, edge = self._moved.get(peer.number, (0, 0, 0))
            peer_moved(&self._it, peer, delivered, unsent, edge)
        self._settle()

    def moved(self, int number, int delivered, int unsent, int edge=0) -> None:
        """What the kernel is to say of what was sent to a peer: so many bytes are delivered, so many not,
        and up to ``edge`` it has room."""
        self._moved[number] = (delivered, unsent, edge)

    def snapshot(self) -> bytes:
        """All of its state."""
        return dispatcher_saved(&self._it, {})

    def restore(self, bytes state not None) -> None:
        """Take up the state of another; this one must be new, and its clock set.

        Raises:
            ValueError: the state cannot be read; this one is of no use then.
        """
        dispatcher_restore(&self._it, state)
        self._settle()

    def _settle(self) -> None:
        cdef Peer* peer
        while True:
            dispatcher_turn(&self._it)
            while self._it.dirty != NULL:
                leave_dirty(&self._it, self._it.dirty)
            while self._it.ready != NULL:
                peer = self._it.ready
                leave_ready(&self._it, peer)
                if peer.leaving and not peer.hung_up and peer.held == NULL:
                    # Here nothing is left in the kernel.
                    peer_end(&self._it, peer, NULL)
            peer = self._it.peers
            while peer != NULL:
                if peer.hung_up and not peer_reads(&self._it, peer):
                    peer_hung_up(&self._it, peer)
                peer = peer.next
            if self._it.ended == NULL and self._it.let_go == NULL:
                return
            while self._it.ended != NULL:
                peer = self._it.ended
                self._it.ended = peer.ended_next
                peer_close(&self._it, peer)

    @property
    def peers(self) -> list[int]:
        """The numbers of the connections that there are."""
        cdef Peer* peer = self._it.peers
        numbers = []
        while peer != NULL:
            numbers.append(peer.number)
            peer = peer.next
        return sorted(numbers)

    def outstanding(self, int number) -> int:
        """How many requests a worker has."""
        cdef Peer* peer = self._peer(number)
        return peer.worker.count if peer.worker != NULL else 0

    def credit(self, int number) -> int:
        """How many requests a worker may have."""
        cdef Peer* peer = self._peer(number)
        return peer.worker.credit if peer.worker != NULL else 0

    @property
    def counters(self) -> dict:
        return self._it.counters

    @property
    def live(self) -> dict[str, int]:
        """How many of each thing there are; all 0 when everybody has left and nothing waits."""
        return {
            "peers": self._it.peers_out,
            "clients": self._it.clients_out,
            "requests": self._it.requests_out,
            "bodies": self._it.pool.bodies_out,
            "segments": self._it.pool.segments_out,
        }

    @property
    def block_bytes(self) -> int:
        """The size of all blocks of memory that are held."""
        return self._it.pool.bytes_out

    @property
    def mapped_bytes(self) -> int:
        """What it has of the kernel for requests and blocks; 0 if it has them of the C library."""
        return pool_mapped(&self._it.pool)

    def judge_memory(self) -> None:
        """See what nobody has needed since the last call, as the loop does each second."""
        pool_judge(&self._it.pool)

    def unmap(self) -> bool:
        """Give back a part of that, as the loop does a hundred times a second; whether there is more."""
        return pool_unmap(&self._it.pool)

    def starve(self, double share, uint64_t seed) -> bool:
        """Have there be no memory in this share of the times when some is asked for; False if this is
        no debug build."""
        self._it.pool.starved = <uint32_t> (share * 0xFFFFFFFF)
        self._it.pool.dice = seed
        return CHECKED

    def notices(self) -> list[tuple[int, int, str]]:
        """What there was to tell since the last call: kind, connection, detail."""
        cdef Notice told
        gathered = []
        while next_notice(self._notices, &told):
            gathered.append((told.kind, told.number, told.detail.decode()))
        return gathered
