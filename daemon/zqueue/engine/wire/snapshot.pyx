"""See snapshot.pxd.

The state is ``MAGIC``, the format as a number, the CRC-32 of all that follows, a header in JSON, then
records: of clients and of connections first how many, before each request a 1, and a 0 behind the
last. A record has its length first, a number is 8 bytes, little-endian, bytes have their length
before them. A later version may put more at the end of a record: it finds zeros there in an older
one's, and an older one passes over what it does not know.
Times are those of the monotonic clock, which goes on from one process to the next.
"""

import json
import zlib

from zqueue.engine.wire.support import STATE_FORMAT, STATE_FORMATS

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset, strlen
from zqueue.engine.wire.admission cimport stall
from zqueue.engine.wire.clients cimport CLAIM_LOOKS, absence_begins, client_new
from zqueue.engine.wire.dispatcher cimport (
    know_broker,
    peer_again,
    peer_pulse,
    worker_is_of_kind,
    worker_new,
)
from zqueue.engine.wire.due cimport schedule
from zqueue.engine.wire.entities cimport (
    BACKEND,
    CAUSES,
    FRONTEND,
    IN_TURN,
    LONGEST_ENVELOPE,
    MOST_LOST,
    NAME,
    OF_CLIENT,
    WRITTEN_OFF,
    Absence,
    Attempt,
    Client,
    Dispatcher,
    Line,
    Lost,
    Peer,
    Request,
    Worker,
)
from zqueue.engine.wire.histogram cimport BUCKETS, Histogram
from zqueue.engine.wire.keyed_hash cimport Secret
from zqueue.engine.wire.lines cimport line_append
from zqueue.engine.wire.memory cimport (
    SMALL_SLAB,
    Body,
    Outgoing,
    Segment,
    body_bytes,
    body_drop,
    body_new,
    outgoing_clear,
    outgoing_copy,
    outgoing_refer,
    zeros_new,
)
from zqueue.engine.wire.peers cimport has_arrived, is_gone, is_unused, make_dirty, peer_is_ready
from zqueue.engine.wire.recent cimport RECENT, RECENT_BUCKETS, Recent
from zqueue.engine.wire.requests cimport (
    Waiting,
    ages,
    all_waiting,
    next_waiting,
    put_at_worker,
    put_in_line,
    request_blank,
    request_free,
    waiting_told,
    waits_shortest,
)
from zqueue.engine.wire.return_addresses cimport lost_open, lost_restored
from zqueue.engine.wire.routing_ids cimport MADE_ID, client_with, know_client
from zqueue.engine.wire.session cimport (
    AWAITS_GREETING,
    TALKS,
    Session,
    greeting_fits,
)
from zqueue.engine.wire.slabs cimport piece_give
from zqueue.engine.wire.workers cimport UNLIMITED, place_worker
from zqueue.engine.wire.zmtp cimport (
    GREETING,
    LONGEST_ID,
    MESSAGE,
    NOTHING,
    OTHER_TYPE,
    Scan,
    is_broker_id,
    scan_whole,
)

_MAGIC = b"zqueue wire state\n"

# Nanoseconds that something may take.
cdef double _LONGEST = 1e18

# Nanoseconds: longer than any duration of a config.
cdef uint64_t _FAR = <uint64_t> 10_000_000 * 1_000_000_000

# Nanoseconds, as a PING can tell them.
cdef uint64_t _LONGEST_TTL = <uint64_t> 0xFFFF * 100_000_000


# -- saving --------------------------------------------------------------------------------------


cdef class _Writer:
    cdef char* written
    cdef size_t size
    cdef size_t room
    cdef size_t record

    def __dealloc__(self) -> None:
        free(self.written)

    cdef char* _more(self, size_t size) except NULL:
        cdef size_t room = max(self.size + size, 2 * self.room)
        cdef char* grown
        if self.size + size > self.room:
            grown = <char*> realloc(self.written, room)
            if grown == NULL:
                raise MemoryError
            self.written, self.room = grown, room
        self.size += size
        return self.written + self.size - size

    cdef int number(self, uint64_t value) except -1:
        memcpy(self._more(8), &value, 8)
        return 0

    cdef int data(self, const void* data, size_t size) except -1:
        self.number(size)
        if size:
            memcpy(self._more(size), data, size)
        return 0

    cdef int outgoing(self, Outgoing* out) except -1:
        cdef Segment* segment = out.first
        cdef size_t size
        self.number(out.size)
        while segment != NULL:
            size = segment.end - segment.begin
            memcpy(self._more(size), body_bytes(segment.body) + segment.begin, size)
            segment = segment.next
        return 0

    cdef int begin(self) except -1:
        self.record = self.size
        return self.number(0)

    cdef int end(self) except -1:
        cdef uint64_t size = self.size - self.record - 8
        memcpy(self.written + self.record, &size, 8)
        return 0


cdef bytes dispatcher_saved(Dispatcher* it, dict more):
    """The state; ``more`` goes into its header. The descriptors that belong to it are those of the
    connections in the order of :attr:`Dispatcher.peers`. Nothing may be dirty or ended."""
    cdef _Writer writer = _Writer()
    cdef Peer* peer = it.peers
    cdef Request* request
    cdef bytes magic = _MAGIC
    cdef size_t begin
    cdef uint64_t check
    clients = _numbered_clients(it)
    counters: dict = it.counters
    header = {
        **more,
        "counters": counters,
        "queueing": _buckets(&it.queueing),
        "queueing_nanoseconds": it.queueing.nanoseconds,
        "service": _buckets(&it.service),
        "service_nanoseconds": it.service.nanoseconds,
        "requests_made": it.requests_made,
        "peers_made": it.peers_made,
        "id_counter": it.id_counter,
        "salt": it.salt,
        "secret": (<char*> &it.secret)[:sizeof(Secret)].hex(),
        "lost_requests": _lost(it),
        "broker_id": it.settings.broker_id.decode(),
    }
    encoded = json.dumps(header).encode()
    memcpy(writer._more(len(magic)), <char*> magic, len(magic))
    writer.number(STATE_FORMAT)
    writer.number(0)
    begin = writer.size
    writer.data(<char*> encoded, len(encoded))
    writer.number(len(clients))
    for address in clients:
        _save_client(writer, <Client*> <uintptr_t> address)
    writer.number(it.peers_out)
    while peer != NULL:
        _save_peer(writer, peer, clients)
        peer = peer.next
    for address in _requests(it):
        request = <Request*> <uintptr_t> address
        writer.number(1)
        _save_request(writer, request, clients)
    writer.number(0)
    check = zlib.crc32((writer.written + begin)[:writer.size - begin])
    memcpy(writer.written + begin - 8, &check, 8)
    return writer.written[:writer.size]


cdef dict _numbered_clients(Dispatcher* it):
    """Every client, by its address: a number. Those that are away come first, in the order in which
    they left, for so they are to be again."""
    cdef Peer* peer = it.peers
    cdef Absence* absence = it.absent_first
    cdef Client* client
    cdef uint32_t slot
    numbered = {}
    while absence != NULL:
        numbered[<uintptr_t> absence.client] = len(numbered)
        absence = absence.next
    for slot in range(it.client_slots):
        client = it.clients[slot]
        while client != NULL:
            numbered.setdefault(<uintptr_t> client, len(numbered))
            client = client.next
    while peer != NULL:  # one whose routing id another has taken over
        if peer.client != NULL:
            numbered.setdefault(<uintptr_t> peer.client, len(numbered))
        peer = peer.next
    for address in _requests(it):
        client = (<Request*> <uintptr_t> address).client
        numbered.setdefault(<uintptr_t> client, len(numbered))
    return numbered


cdef list _requests(Dispatcher* it):
    """The addresses of all, those that wait first, by age, and each worker's in order."""
    cdef Peer* peer = it.peers
    cdef Request* request
    cdef Waiting at = all_waiting(it)
    gathered = []
    while (request := next_waiting(it, &at)) != NULL:
        gathered.append(<uintptr_t> request)
    waiting_told(it, &at)
    while peer != NULL:
        request = peer.worker.outstanding.first if peer.worker != NULL else NULL
        while request != NULL:
            gathered.append(<uintptr_t> request)
            request = request.beside[IN_TURN].next
        peer = peer.next
    return gathered


cdef dict _buckets(Histogram* histogram):
    cdef int place
    return {
        place: histogram.buckets[place] for place in range(BUCKETS) if histogram.buckets[place]
    }


cdef str _lost(Dispatcher* it):
    cdef size_t count = min(it.lost_made, <size_t> MOST_LOST)
    return (<char*> it.lost)[:count * sizeof(Lost)].hex() if count else ""


cdef int _save_client(_Writer writer, Client* client) except -1:
    writer.begin()
    writer.data(client.id, client.id_size)
    writer.number(client.named)
    writer.number(client.lasting)
    writer.number(client.absence != NULL)
    if client.absence != NULL:
        writer.number(client.absence.since)
        writer.number(client.absence.replies)
        writer.outgoing(&client.absence.kept)
    writer.number(client.asked)
    writer.number(client.answered)
    writer.number(client.forgotten)
    writer.number(client.broker)
    writer.number(client.unsent)
    return writer.end()


cdef int _save_peer(_Writer writer, Peer* peer, dict clients) except -1:
    cdef Worker* worker = peer.worker
    cdef uint64_t service
    cdef Segment* first
    writer.begin()
    writer.number(peer.side)
    writer.number(peer.number)
    writer.data(peer.name, NAME)
    writer.data(peer.address, sizeof(peer.address))
    writer.number(peer.opened_at)
    writer.number(<uint64_t> <int64_t> peer.connector)
    writer.number(peer.sends_large)
    writer.number(peer.hung_up)
    writer.number(peer.deaf)
    writer.number(peer.session.stage)
    writer.number(peer.session.peer_type)
    writer.number(peer.session.major)
    writer.number(peer.session.minor)
    writer.data(peer.session.greeting, peer.session.greeted)
    writer.data(
        body_bytes(peer.session.intake.partial) if peer.session.intake.have else NULL,
        peer.session.intake.have,
    )
    writer.outgoing(&peer.session.out)
    writer.number(peer.session.opened_at)
    writer.number(peer.session.heard_at)
    writer.number(peer.session.pinged_at)
    writer.number(peer.session.awaits_pong)
    writer.number(peer.session.ttl)
    if peer.held != NULL:
        writer.data(body_bytes(peer.held) + peer.held_begin, peer.held_end - peer.held_begin)
    else:
        writer.data(NULL, 0)
    writer.number(1 + clients[<uintptr_t> peer.client] if peer.client != NULL else 0)
    writer.number(worker != NULL)
    if worker != NULL:
        memcpy(&service, &worker.service, 8)
        writer.number(worker.credit)
        writer.number(worker.aside)
        writer.number(worker.draining)
        writer.number(worker.told_drained)
        writer.number(worker.given)
        writer.number(worker.answered)
        writer.number(worker.answered_at)
        writer.number(service)
        writer.data(&worker.took, sizeof(Recent))
        writer.data(worker.id, worker.id_size)
    writer.number(peer.received_bytes)
    writer.number(peer.sent_bytes)
    writer.number(peer.leaving)
    if worker != NULL:
        writer.number(worker.tries)
        writer.number(worker.tries_at)
        writer.number(worker.passed)
    else:
        writer.number(0)
        writer.number(0)
        writer.number(0)
    writer.number(peer.spoke)
    writer.number(peer.session.owes_ready)
    if peer.claim != NULL:
        writer.data(peer.claim.id, peer.claim.id_size)
    else:
        writer.data(NULL, 0)
    writer.number(peer.claims_since)
    writer.data(peer.session.peer_broker_id, strlen(peer.session.peer_broker_id))
    writer.number(peer.boundary_lost)
    writer.number(peer.ahead)
    if peer.begun:
        first = peer.session.out.first
        writer.data(body_bytes(first.body) + first.begin - peer.begun, peer.begun)
    else:
        writer.data(NULL, 0)
    writer.number(peer.begun_message)
    writer.number(True)
    return writer.end()


cdef int _save_request(_Writer writer, Request* request, dict clients) except -1:
    cdef Attempt* attempt = request.history
    cdef size_t kept = request.envelope if request.over else request.size
    writer.begin()
    writer.number(clients[<uintptr_t> request.client])
    writer.number(request.worker.peer.number if request.worker != NULL else 0)
    writer.number(request.number)
    writer.number(request.size)
    writer.number(request.envelope)
    writer.number(request.attempts)
    writer.number(request.mark)
    writer.number(request.over)
    writer.number(request.suspect)
    writer.number(request.received_at)
    writer.number(request.since)
    writer.number(request.body != NULL)
    writer.data(body_bytes(request.body), kept if request.body != NULL else 0)
    while attempt != NULL:
        writer.number(1)
        writer.number(attempt.worker)
        writer.number(attempt.given_at)
        writer.number(attempt.ended_at)
        writer.number(attempt.cause)
        writer.data(attempt.name, NAME)
        attempt = attempt.next
    writer.number(0)
    writer.number(request.end)
    writer.number(request.spared)
    writer.number(request.probe)
    writer.number(request.numbered)
    writer.number(request.doubts)
    return writer.end()


# -- restoring -----------------------------------------------------------------------------------


class _Damaged(ValueError):
    """What is there cannot be, though its checksum is right."""

    def __init__(self, what: str) -> None:
        super().__init__(f"it is damaged: {what}")


cdef class _Reader:
    """``end`` is where the record ends, ``last`` where everything does. ``now`` is when it is read:
    nothing has happened later than that."""

    cdef const uint8_t* at
    cdef const uint8_t* end
    cdef const uint8_t* last
    cdef int64_t now

    cdef uint64_t number(self) except? 0:
        """0 where an older version has not written it."""
        cdef uint64_t value = 0
        if self.at == self.end and self.end != self.last:
            return 0
        if self.end - self.at < 8:
            raise _Damaged("it ends in the midst of a number")
        memcpy(&value, self.at, 8)
        self.at += 8
        return value

    cdef uint64_t upto(self, uint64_t most, str what) except? 0:
        """One that is not larger than this."""
        cdef uint64_t value = self.number()
        if value > most:
            raise _Damaged(f"{what} is {value}")
        return value

    cdef bint flag(self, str what) except? False:
        return self.upto(1, what)

    cdef int64_t instant(self, str what) except? 0:
        """A time that has been; 0 is never."""
        return <int64_t> self.upto(<uint64_t> self.now, what)

    cdef const uint8_t* data(self, size_t* size) except? NULL:
        cdef const uint8_t* found
        size[0] = self.number()
        if size[0] > <size_t> (self.end - self.at):
            raise _Damaged("bytes are missing")
        found = self.at
        self.at += size[0]
        return found

    cdef int copy(self, void* into, size_t most) except -1:
        cdef size_t size = 0
        cdef const uint8_t* found = self.data(&size)
        if size > most:
            raise _Damaged("there are more bytes than there may be")
        if size:
            memcpy(into, found, size)
        return <int> size

    cdef int begin(self) except -1:
        cdef uint64_t size
        self.end = self.last
        size = self.number()
        if size > <size_t> (self.last - self.at):
            raise _Damaged("it ends too early")
        self.end = self.at + size
        if self.end == self.last:
            # Behind the last record there is a number.
            raise _Damaged("it ends too early")
        return 0

    cdef int finish(self) noexcept:
        self.at = self.end
        self.end = self.last
        return 0


cdef dict dispatcher_restore(Dispatcher* it, bytes state):
    """Fill an empty dispatcher; returns the header. Its connections have no descriptors yet, and
    are in the order that these were in.

    A right checksum says only that the state is as it was written. Nothing in it is relied on before
    it was looked at: what a queue cannot come to is refused.

    Raises:
        ValueError: the state cannot be read, and why; ``it`` is of no use then.
        MemoryError
    """
    cdef _Reader reader = _Reader()
    cdef const uint8_t* found
    cdef size_t size = 0
    cdef uint64_t count
    cdef Peer* peer
    reader.now = it.now
    reader.at = <const uint8_t*> <char*> state
    reader.last = reader.end = reader.at + len(state)
    if not state.startswith(_MAGIC) or len(state) < len(_MAGIC) + 16:
        raise ValueError("it is no state of a wire engine's queue")
    reader.at += len(_MAGIC)
    count = reader.number()
    if count not in STATE_FORMATS:
        raise ValueError(f"its format is {count}, and this version reads {STATE_FORMAT}")
    count = reader.number()
    if count != zlib.crc32(memoryview(state)[reader.at - <const uint8_t*> <char*> state:]):
        raise ValueError("it is damaged")
    found = reader.data(&size)
    header = _header((<char*> found)[:size])
    clients = []
    try:
        it.requests_made = _whole(header, "requests_made", _MOST)
        it.peers_made = _whole(header, "peers_made", _MOST)
        it.id_counter = _whole(header, "id_counter", 0xFFFFFFFF)
        it.salt = _whole(header, "salt", 0xFFFFFFFF)
        _restore_buckets(it, &it.queueing, header, "queueing")
        _restore_buckets(it, &it.service, header, "service")
        # An older version has none, and another way to remember what was lost.
        if "secret" in header:
            _restore_secret(it, header["secret"])
            _restore_lost(it, header.get("lost_requests"))
        _restore_all(it, reader, clients)
        _restore_broker_id(it, header.get("broker_id", ""))
        it.counters = _believed(_counters(it), header.get("counters"), _there(it))
    finally:
        _free_unused(it, clients)
    # Whoever was held back is, and has been told of already.
    it.told_congested = True
    peer = it.peers
    while peer != NULL:
        _set_going(it, peer)
        peer = peer.next
    it.told_congested = it.counters.waiting > 0
    return header


# -- the header -----------------------------------------------------------------------------------

_MOST = (1 << 63) - 1


cdef dict _header(bytes encoded):
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError):
        raise _Damaged("its header is no JSON") from None
    if not isinstance(header, dict):
        raise _Damaged("its header is no object")
    return header


cdef object _whole(dict there, str name, most, default=None):
    """A number of the header."""
    value = there.get(name, default)
    if type(value) is not int or not 0 <= value <= most:
        raise _Damaged(f"{name} is no number that it may be")
    return value


cdef dict _counters(Dispatcher* it):
    return it.counters


cdef dict _believed(dict now, object before, dict there):
    """The counters of the header, 0 where an older version had none. They must add up, and be right
    about what is ``there``."""
    if not isinstance(before, dict):
        raise _Damaged("it has no counters")
    counted = {}
    for name, value in now.items():
        if isinstance(value, list):
            values = before.get(name, [0] * len(value))
            if not isinstance(values, list) or len(values) != len(value):
                raise _Damaged(f"{name} are not {len(value)} numbers")
            counted[name] = [_whole({name: each}, name, _MOST) for each in values]
        else:
            counted[name] = _whole(before, name, _MOST, 0)
    for name, value in there.items():
        if counted[name] != value:
            raise _Damaged(f"{name} is {counted[name]}, and {value} are there")
    if counted["received"] != sum([counted[name] for name in _SUM]):
        raise _Damaged("its counters do not add up")
    if counted["dead"] != sum(counted["died"]):
        raise _Damaged("its dead do not add up")
    return counted


# What became of those that were received.
_SUM = (
    *("waiting", "in_flight", "kept", "replied", "unclaimed", "withdrawn", "dead", "rejected"),
    *("malformed", "unanswered"),
)


cdef dict _there(Dispatcher* it):
    """What can be counted."""
    cdef Absence* absence = it.absent_first
    cdef Peer* peer = it.peers
    connected = [0, 0]
    kept = 0
    while absence != NULL:
        kept += absence.replies
        absence = absence.next
    while peer != NULL:
        connected[peer.side] += has_arrived(peer)
        if peer.client != NULL and not peer.leaving:
            kept += peer.client.unsent
        peer = peer.next
    return {
        "waiting": it.counters.waiting,
        "waiting_bytes": it.counters.waiting_bytes,
        "in_flight": it.counters.in_flight,
        "in_flight_bytes": it.counters.in_flight_bytes,
        "kept": kept,
        "connected": connected,
    }


cdef int _restore_buckets(Dispatcher* it, Histogram* histogram, dict header, str name) except -1:
    buckets = header.get(name)
    if not isinstance(buckets, dict):
        raise _Damaged(f"{name} is no histogram")
    for place in buckets:
        if not place.isdecimal() or not place.isascii() or len(place) > 3 or int(place) >= BUCKETS:
            raise _Damaged(f"{name} has a bucket {place[:20]}")
        histogram.buckets[<int> int(place)] = _whole(buckets, place, _MOST)
    histogram.nanoseconds = _whole(header, f"{name}_nanoseconds", _MOST, 0)
    return 0


cdef bytes _from_hex(object text, str what):
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise _Damaged(f"{what} is not in hex") from None


cdef int _restore_secret(Dispatcher* it, object secret) except -1:
    """What of the tables is in the state was put in order by it."""
    cdef bytes saved = _from_hex(secret, "its secret")
    if len(saved) != sizeof(Secret):
        raise _Damaged("its secret has a wrong size")
    memcpy(&it.secret, <char*> saved, sizeof(Secret))
    return 0


cdef int _restore_lost(Dispatcher* it, object lost) except -1:
    cdef bytes saved = _from_hex(lost, "what was lost")
    cdef size_t count
    count = <size_t> len(saved) // sizeof(Lost)
    if count > MOST_LOST or count * sizeof(Lost) != <size_t> len(saved):
        raise _Damaged("what was lost has a wrong size")
    if not count:
        return 0
    if not lost_open(it):
        raise MemoryError
    memcpy(it.lost, <char*> saved, count * sizeof(Lost))
    lost_restored(it, count)
    return 0


# -- the records ----------------------------------------------------------------------------------


cdef int _restore_all(Dispatcher* it, _Reader reader, list clients) except -1:
    cdef Peer* last = NULL
    cdef uint64_t left = reader.number()
    cdef _Requests requests = _Requests()
    while left:
        _restore_client(it, reader, clients)
        left -= 1
    left = reader.number()
    while left:
        last = _restore_peer(it, reader, last, clients, requests)
        left -= 1
    while reader.flag("what comes before a request"):
        _restore_request(it, reader, clients, requests)
    if reader.at != reader.last:
        raise _Damaged("more comes behind its end")
    for _, address in sorted(requests.ageing):
        ages(it, <Request*> <uintptr_t> address)
    it.by_wait.first = it.by_wait.last = NULL
    for *_, address in sorted(requests.waiting):
        waits_shortest(it, <Request*> <uintptr_t> address)
    _put_in_order(&it.unanswered)
    _put_in_order(&it.one_way)
    _put_in_order(&it.late)
    it.late_counted = it.late.first
    while it.late_counted != NULL and it.late_counted.over == WRITTEN_OFF:
        it.late_counted = it.late_counted.beside[OF_CLIENT].next
    return 0


cdef int _put_in_order(Line* line) except -1:
    """What ROUTERs and DEALERs have is by when it was given, or by since when it is over."""
    cdef Request* request = line.first
    gathered = []
    while request != NULL:
        since = request.received_at if request.over else request.since
        gathered.append((since, request.number, <uintptr_t> request))
        request = request.beside[OF_CLIENT].next
    line.first = line.last = NULL
    for *_, address in sorted(gathered):
        line_append(line, <Request*> <uintptr_t> address, OF_CLIENT)
    return 0


cdef int _restore_broker_id(Dispatcher* it, saved) except -1:
    """Whoever is connected knows us by that one. An older version has none."""
    if not isinstance(saved, str):
        raise _Damaged("broker_id is no text")
    encoded: bytes = saved.encode(errors="replace")
    if not encoded:
        return 0
    if not is_broker_id(<const uint8_t*> <char*> encoded, len(encoded)):
        raise _Damaged("broker_id is no name of a broker")
    memset(it.settings.broker_id, 0, sizeof(it.settings.broker_id))
    memcpy(it.settings.broker_id, <char*> encoded, len(encoded))
    return 0


cdef class _Requests:
    """What is known of the requests so far: ``workers`` by number, the numbers of those that were
    there, ``newest`` of those that wait; ``ageing`` and ``waiting`` are put in order in the end."""

    cdef dict workers
    cdef set peers
    cdef set numbers
    cdef uint64_t newest
    cdef list ageing
    cdef list waiting

    def __cinit__(self) -> None:
        self.workers, self.peers, self.numbers = {}, set(), set()
        self.ageing, self.waiting = [], []


cdef int _restore_client(Dispatcher* it, _Reader reader, list clients) except -1:
    cdef size_t size = 0
    cdef const uint8_t* found
    cdef Client* client
    reader.begin()
    found = reader.data(&size)
    if not 0 < size <= LONGEST_ID:
        raise _Damaged(f"a routing id has {size} bytes")
    client = client_new(it, found, size)
    if client == NULL:
        raise MemoryError
    # Held until all is there, see _free_unused.
    client.requests = 1
    clients.append(<uintptr_t> client)
    client.named = reader.flag("a client's named")
    client.lasting = reader.flag("a client's lasting")
    if not client.named and (size != MADE_ID or client.id[0]):
        raise _Damaged("a routing id is not one that is made here")
    if reader.flag("a client's absence"):
        if client_with(it, client.id, client.id_size) != NULL:
            raise _Damaged("two clients have one routing id")
        if not absence_begins(it, client):
            raise MemoryError
        know_client(it, client)
        client.absence.since = reader.instant("when a client left")
        client.absence.replies = reader.number()
        found = reader.data(&size)
        if client.absence.replies > _messages(found, size):
            raise _Damaged("what is kept for a client is not whole messages")
        if size and not outgoing_copy(&it.pool, &client.absence.kept, found, size):
            raise MemoryError
        client.absence.weight += size
        it.absent_bytes += size
    client.asked = reader.number()
    client.answered = reader.number()
    client.forgotten = reader.number()
    client.broker = reader.flag("whether a client is a broker")
    client.unsent = reader.upto(_MOST, "how many replies a client has yet to read")
    reader.finish()
    return 0


cdef uint64_t _messages(const uint8_t* data, size_t size) except? 0:
    """How many messages these bytes are."""
    cdef Scan scan
    cdef size_t at = 0
    cdef uint64_t count = 0
    while at < size:
        if scan_whole(&scan, data + at, size - at) != MESSAGE:
            raise _Damaged("what is kept for a client is not whole messages")
        at += scan.at
        count += 1
    return count


cdef Client* _client(list clients, uint64_t place) except NULL:
    if place >= <uint64_t> len(clients):
        raise _Damaged("there is no such client")
    return <Client*> <uintptr_t> clients[place]


cdef Body* _body(Dispatcher* it, const uint8_t* data, size_t size) except NULL:
    cdef Body* body = body_new(&it.pool, max(size, <size_t> 1))
    if body == NULL:
        raise MemoryError
    if size:
        memcpy(body_bytes(body), data, size)
    return body


cdef Peer* _restore_peer(
    Dispatcher* it, _Reader reader, Peer* last, list clients, _Requests requests
) except NULL:
    cdef Peer* peer
    cdef Client* client
    cdef size_t size = 0
    cdef const uint8_t* found
    cdef uint64_t of_client, tries, tries_at, passed
    reader.begin()
    peer = peer_again(it, <int> reader.upto(BACKEND, "the side of a connection"), last)
    if peer == NULL:
        raise MemoryError
    peer.number = <int64_t> reader.upto(<uint64_t> it.peers_made, "the number of a connection")
    if not peer.number or peer.number in requests.peers:
        raise _Damaged(f"two connections have the number {peer.number}")
    requests.peers.add(peer.number)
    reader.copy(peer.name, NAME)
    peer.name[NAME - 1] = 0
    reader.copy(peer.address, sizeof(peer.address))
    peer.opened_at = reader.instant("when a connection was made")
    peer.connector = <int> <int64_t> reader.number()
    peer.sends_large = reader.flag("a connection's sends_large")
    peer.hung_up = reader.flag("a connection's hung_up")
    peer.deaf = reader.flag("a connection's deaf")
    _restore_session(it, reader, peer)
    found = reader.data(&size)
    if size:
        peer.held = _body(it, found, size)
        peer.held_end = size
    of_client = reader.number()
    if reader.flag("whether a connection is a worker"):
        if of_client or peer.side != BACKEND:
            raise _Damaged("a client is a worker")
        if not worker_new(it, peer):
            raise MemoryError
        _restore_worker(it, reader, peer.worker)
        requests.workers[peer.number] = <uintptr_t> peer.worker
    peer.received_bytes = reader.number()
    peer.sent_bytes = reader.number()
    peer.leaving = reader.flag("a connection's leaving")
    tries = reader.flag("whether a worker is tried")
    # It may be in the future, as far as a duration of a config goes.
    tries_at = reader.upto(<uint64_t> reader.now + _FAR, "when a worker is tried")
    passed = reader.instant("when a worker got what it has answered")
    if peer.worker != NULL:
        peer.worker.tries, peer.worker.tries_at, peer.worker.passed = tries, tries_at, passed
    peer.spoke = reader.flag("whether a peer has spoken")
    peer.session.owes_ready = reader.flag("whether READY is owed")
    found = reader.data(&size)
    if size > LONGEST_ID:
        raise _Damaged(f"a routing id has {size} bytes")
    if size:
        peer.claim = client_new(it, found, size)
        if peer.claim == NULL:
            raise MemoryError
    peer.claims_since = reader.instant("since when a routing id is claimed")
    found = reader.data(&size)
    if size:
        if not is_broker_id(found, size):
            raise _Damaged("a connection's name of a broker is none")
        memcpy(peer.session.peer_broker_id, found, size)
    know_broker(it, peer)
    if peer.worker != NULL:
        worker_is_of_kind(it, peer)
    peer.boundary_lost = reader.flag("whether a message's beginning is lost")
    peer.ahead = reader.number()
    found = reader.data(&size)
    if peer.ahead > peer.session.out.size or (size and not peer.ahead):
        raise _Damaged("where a message to a client begins")
    if size:
        _restore_begun(it, peer, found, size)
    peer.begun_message = reader.flag("whether a message has begun")
    # An older version did not know where messages begin.
    peer.boundary_lost = not reader.flag("whether it is known where messages begin") or peer.boundary_lost
    if of_client:
        client = _client(clients, of_client - 1)
        if peer.side != FRONTEND:
            raise _Damaged("a worker is a client")
        if peer.leaving:
            _leaves_still(client, peer)
        elif client.peer != NULL or client_with(it, client.id, client.id_size) != NULL:
            raise _Damaged("two clients have one routing id")
        else:
            client.peer = peer
            know_client(it, client)
        peer.client = client
    if (peer.session.stage == TALKS) != (has_arrived(peer) or peer.claim != NULL):
        raise _Damaged("a handshake is done, and nobody has come, or the other way round")
    if peer.claim != NULL and (peer.client != NULL or peer.side != FRONTEND):
        raise _Damaged("a routing id is claimed by one that has one, or needs none")
    if peer.client == NULL and (peer.leaving or (peer.held != NULL and peer.claim == NULL)):
        raise _Damaged("something is held for a connection that is no client's")
    reader.finish()
    return peer


cdef int _restore_session(Dispatcher* it, _Reader reader, Peer* peer) except -1:
    cdef Session* session = &peer.session
    cdef size_t size = 0
    cdef const uint8_t* found
    cdef Scan scan
    session.stage = <int> reader.upto(TALKS, "the stage of a handshake")
    session.peer_type = <int> reader.upto(OTHER_TYPE, "a socket type")
    session.major = <int> reader.upto(3, "a version of ZMTP")
    session.minor = <int> reader.upto(255, "a version of ZMTP")
    session.greeted = reader.copy(session.greeting, GREETING)
    if not greeting_fits(session):
        raise _Damaged("a handshake cannot be where it says")
    found = reader.data(&size)
    if size:
        if session.stage == AWAITS_GREETING or scan_whole(&scan, found, size) != NOTHING:
            raise _Damaged("what has come of a message is no beginning of one")
        # What there is of a message is looked at again when more comes.
        session.intake.partial = _body(it, found, size)
        session.intake.have = size
    found = reader.data(&size)
    if size and not outgoing_copy(&it.pool, &session.out, found, size):
        raise MemoryError
    session.opened_at = reader.instant("when a session began")
    session.heard_at = reader.instant("when a peer was heard")
    session.pinged_at = reader.instant("when a peer was pinged")
    session.awaits_pong = reader.flag("whether a PONG is awaited")
    session.ttl = <int64_t> reader.upto(_LONGEST_TTL, "the TTL of a PING")
    return 0


cdef int _restore_worker(Dispatcher* it, _Reader reader, Worker* worker) except -1:
    cdef uint64_t service, credit
    cdef uint32_t total = 0
    cdef int place
    credit = reader.upto(UNLIMITED, "how many requests a worker may have")
    if not it.settings.prefetch and worker.strict:
        worker.credit = <uint32_t> max(credit, <uint64_t> 1)
    worker.aside = reader.flag("whether a worker is aside")
    worker.draining = reader.flag("whether a worker is drained")
    worker.told_drained = reader.flag("whether that was told")
    worker.given = reader.number()
    worker.answered = reader.number()
    worker.answered_at = reader.instant("when a worker answered")
    service = reader.number()
    memcpy(&worker.service, &service, 8)
    if not 0 <= worker.service <= _LONGEST:
        raise _Damaged("how long a worker takes is no time")
    if reader.copy(&worker.took, sizeof(Recent)) not in (0, <int> sizeof(Recent)):
        raise _Damaged("how long a worker took has a wrong size")
    for place in range(RECENT_BUCKETS):
        total += worker.took.counts[place]
    if total != worker.took.total or total >= RECENT:
        raise _Damaged("how long a worker took does not add up")
    worker.id_size = <uint8_t> reader.copy(worker.id, LONGEST_ID)
    return 0


cdef int _restore_begun(Dispatcher* it, Peer* peer, const uint8_t* begun, size_t size) except -1:
    """Put before what a peer is yet to be sent how that began."""
    cdef Segment* segment = peer.session.out.first
    cdef Outgoing out = Outgoing(NULL, NULL, 0)
    cdef size_t rest = peer.session.out.size
    cdef Body* body = body_new(&it.pool, size + rest)
    cdef bint taken
    if body == NULL:
        raise MemoryError
    memcpy(body_bytes(body), begun, size)
    memcpy(body_bytes(body) + size, body_bytes(segment.body) + segment.begin, rest)
    taken = outgoing_refer(&it.pool, &out, body, size, size + rest)
    body_drop(&it.pool, body)
    if not taken:
        raise MemoryError
    outgoing_clear(&it.pool, &peer.session.out)
    peer.session.out = out
    peer.begun = size
    return 0


cdef void _leaves_still(Client* client, Peer* peer) noexcept:
    """Behind those of its connections that were there before this one."""
    cdef Peer** place = &client.leaving
    while place[0] != NULL and place[0].number < peer.number:
        place = &place[0].leaving_next
    peer.leaving_next = place[0]
    place[0] = peer


cdef int _restore_request(
    Dispatcher* it, _Reader reader, list clients, _Requests requests
) except -1:
    cdef Client* client
    cdef Request* request
    cdef Worker* worker = NULL
    cdef size_t size = 0
    cdef const uint8_t* found
    cdef uint64_t number
    cdef int64_t since
    cdef bint has_body
    reader.begin()
    client = _client(clients, reader.number())
    number = reader.number()
    if number:
        if number not in requests.workers:
            raise _Damaged(f"a request is at worker {number}, which is not there")
        worker = <Worker*> <uintptr_t> requests.workers[number]
    request = request_blank(it)
    if request == NULL:
        raise MemoryError
    request.client = client
    client.requests += 1
    try:
        request.number = reader.upto(it.requests_made, "the number of a request")
        request.size = reader.number()
        request.envelope = <uint32_t> reader.upto(LONGEST_ENVELOPE, "an envelope")
        request.attempts = <uint32_t> reader.upto(0xFFFFFFFF, "how often a request was tried")
        request.mark = <uint32_t> reader.upto(0xFFFFFFFF, "the mark of a request")
        request.over = <uint8_t> reader.upto(WRITTEN_OFF, "whether a request is over")
        request.suspect = reader.flag("whether a request is suspect")
        request.received_at = reader.instant("when a request came")
        since = reader.instant("since when a request is where it is")
        has_body = reader.flag("whether a request has its bytes")
        found = reader.data(&size)
        _must_be_in_order(request, worker, since, requests)
        _must_be_whole(request, worker, found, size, has_body)
        if worker == NULL and is_gone(client) and client.leaving == NULL:
            raise _Damaged("a request waits for nobody")
        if has_body:
            request.body = _body(it, found, size)
        _restore_history(it, reader, request)
        _restore_rest(it, reader, worker, request)
        reader.finish()
    except BaseException:
        request_free(it, request)
        raise
    if worker != NULL:
        put_at_worker(it, worker, request)
    else:
        put_in_line(it, request)
    request.since = since
    if not request.over and (client.latest == NULL or client.latest.number < request.number):
        client.latest = request
    if worker == NULL and it.settings.max_waiting_time:
        requests.waiting.append((since, request.number, <uintptr_t> request))
    if it.settings.deadline and not request.over and (worker == NULL or request.envelope):
        requests.ageing.append((request.number, <uintptr_t> request))
    return 0


cdef int _must_be_in_order(
    Request* request, Worker* worker, int64_t since, _Requests requests
) except -1:
    """Those that wait come by age, those of a worker as it got them, and each once."""
    cdef Request* before = worker.outstanding.last if worker != NULL else NULL
    if not request.number:
        raise _Damaged("a request has no number")
    if not request.over:
        if request.number in requests.numbers:
            raise _Damaged(f"request {request.number} is there twice")
        requests.numbers.add(request.number)
    if worker == NULL:
        if request.number <= requests.newest:
            raise _Damaged("those that wait are not in order")
        requests.newest = request.number
    elif not request.attempts:
        raise _Damaged("a worker has what none was given")
    elif before != NULL and (before.since > since or (
        worker.strict and <int32_t> (request.mark - before.mark) <= 0
    )):
        raise _Damaged("those that a worker has are not in order")
    elif worker.strict and <int32_t> (<uint32_t> worker.given - request.mark) <= 0:
        raise _Damaged("a worker has more than it was given")
    # Of one that is over it is since when it is.
    if not request.over and request.received_at > since:
        raise _Damaged("a request was somewhere before it came")
    return 0


cdef int _restore_rest(Dispatcher* it, _Reader reader, Worker* worker, Request* request) except -1:
    request.end = <uint32_t> reader.upto(0xFFFFFFFF, "where a request ends")
    request.spared = <uint8_t> reader.upto(min(request.attempts, <uint32_t> 255), "what was spared")
    request.probe = reader.flag("whether a request is a probe")
    request.numbered = reader.flag("whether a request is numbered")
    request.doubts = <uint8_t> reader.upto(255, "the doubts about a request")
    if request.numbered and worker != NULL and (worker.strict or request.client.named):
        raise _Damaged("a request is numbered that cannot be")
    if request.over and not request.received_at:
        request.received_at = it.now  # an older version does not say since when
    return 0


cdef int _must_be_whole(
    Request* request, Worker* worker, const uint8_t* data, size_t size, bint has_body
) except -1:
    """Its bytes are one message, or the envelope of one that is over."""
    cdef Scan scan
    if not has_body:
        # One that need not be answered, and is not given to anybody else.
        if worker == NULL or worker.strict or request.over or request.envelope or size:
            raise _Damaged("the bytes of a request are missing")
        return 0
    if request.over:
        if (
            worker == NULL
            or not request.envelope
            or size != request.envelope
            or scan_whole(&scan, data, size) != NOTHING
            or scan.at != size
            or scan.envelope != size
        ):
            raise _Damaged("what is left of a request is no envelope")
        return 0
    if (
        size != request.size
        or scan_whole(&scan, data, size) != MESSAGE
        or scan.at != size
        or scan.envelope != request.envelope
    ):
        raise _Damaged("a request is not one message with its envelope")
    if worker != NULL and worker.strict and not request.envelope:
        raise _Damaged("a REP has what it cannot answer")
    return 0


cdef int _restore_history(Dispatcher* it, _Reader reader, Request* request) except -1:
    cdef Attempt** place = &request.history
    cdef int64_t later = reader.now
    cdef uint32_t count = 0
    while reader.flag("what comes before an attempt"):
        count += 1
        if count > request.attempts:
            raise _Damaged("a request was tried more often than it says")
        place[0] = <Attempt*> zeros_new(&it.pool, sizeof(Attempt))
        if place[0] == NULL:
            raise MemoryError
        place[0].worker = <int64_t> reader.upto(<uint64_t> it.peers_made, "whom a request was given to")
        place[0].given_at = reader.instant("when a request was given")
        place[0].ended_at = reader.instant("when that had ended")
        if not place[0].given_at <= place[0].ended_at <= later:
            raise _Damaged("a request was at two workers at once")
        later = place[0].given_at
        place[0].cause = <int> reader.upto(CAUSES - 1, "why that had ended")
        reader.copy(place[0].name, NAME)
        place[0].name[NAME - 1] = 0
        place = &place[0].next
    return 0


cdef int _free_unused(Dispatcher* it, list clients) except -1:
    """All are let go of, and those that nothing else came of end."""
    cdef Client* client
    for address in clients:
        client = <Client*> <uintptr_t> address
        client.requests -= 1
        if is_unused(client):
            it.clients_out -= 1
            piece_give(client, SMALL_SLAB)
    return 0


cdef int _set_going(Dispatcher* it, Peer* peer) except -1:
    # For as long as nobody listened it could not be heard.
    peer.session.heard_at = it.now
    if peer.session.awaits_pong:
        peer.session.pinged_at = it.now
    if peer.claim != NULL:
        schedule(it, peer, it.now + CLAIM_LOOKS)
    else:
        peer_pulse(it, peer)
    if peer.worker != NULL:
        place_worker(it, peer.worker)
    if peer.held != NULL and peer.client != NULL:
        stall(it, peer)
    if peer.deaf:
        # Nothing more need come of it, and then its descriptor does not say that it is to be read.
        peer.readable = True
        if peer.held == NULL:
            peer_is_ready(it, peer)
    if peer.session.out.size:
        make_dirty(it, peer)
    return 0
