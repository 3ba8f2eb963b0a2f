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

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy
from zqueue.engine.wire.admission cimport stall
from zqueue.engine.wire.clients cimport CLAIM_LOOKS, absence_begins, client_new
from zqueue.engine.wire.dispatcher cimport peer_again, peer_pulse, worker_new
from zqueue.engine.wire.due cimport schedule
from zqueue.engine.wire.entities cimport (
    FRONTEND,
    IN_TURN,
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
    Body,
    Outgoing,
    Segment,
    body_bytes,
    body_new,
    outgoing_copy,
)
from zqueue.engine.wire.peers cimport is_unused, make_dirty
from zqueue.engine.wire.recent cimport Recent
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
from zqueue.engine.wire.session cimport TALKS
from zqueue.engine.wire.workers cimport place_worker
from zqueue.engine.wire.zmtp cimport GREETING, LONGEST_ID

_MAGIC = b"zqueue wire state\n"


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


cdef int _restore_secret(Dispatcher* it, str secret) except -1:
    """What of the tables is in the state was put in order by it."""
    cdef bytes saved = bytes.fromhex(secret)
    if len(saved) != sizeof(Secret):
        raise ValueError("it is damaged")
    memcpy(&it.secret, <char*> saved, sizeof(Secret))
    return 0


cdef int _restore_lost(Dispatcher* it, str lost) except -1:
    cdef bytes saved = bytes.fromhex(lost)
    cdef size_t count = min(<size_t> len(saved) // sizeof(Lost), <size_t> MOST_LOST)
    if not saved:
        return 0
    if not lost_open(it):
        raise MemoryError
    memcpy(it.lost, <char*> saved, count * sizeof(Lost))
    lost_restored(it, count)
    return 0


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
    return writer.end()


cdef int _save_peer(_Writer writer, Peer* peer, dict clients) except -1:
    cdef Worker* worker = peer.worker
    cdef uint64_t service
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


cdef class _Reader:
    """``end`` is where the record ends, ``last`` where everything does."""

    cdef const uint8_t* at
    cdef const uint8_t* end
    cdef const uint8_t* last

    cdef uint64_t number(self) noexcept:
        """0 where an older version has not written it."""
        cdef uint64_t value = 0
        if self.end - self.at >= 8:
            memcpy(&value, self.at, 8)
            self.at += 8
        else:
            self.at = self.end
        return value

    cdef const uint8_t* data(self, size_t* size) except? NULL:
        cdef const uint8_t* found
        size[0] = self.number()
        if size[0] > <size_t> (self.end - self.at):
            raise ValueError("it is damaged")
        found = self.at
        self.at += size[0]
        return found

    cdef int copy(self, void* into, size_t most) except -1:
        cdef size_t size = 0
        cdef const uint8_t* found = self.data(&size)
        if size > most:
            raise ValueError("it is damaged")
        if size:
            memcpy(into, found, size)
        return <int> size

    cdef int begin(self) except -1:
        cdef uint64_t size
        self.end = self.last
        if self.last - self.at < 8:
            raise ValueError("it ends too early")
        size = self.number()
        if size > <size_t> (self.last - self.at):
            raise ValueError("it ends too early")
        self.end = self.at + size
        return 0

    cdef int finish(self) noexcept:
        self.at = self.end
        self.end = self.last
        return 0


cdef dict dispatcher_restore(Dispatcher* it, bytes state):
    """Fill an empty dispatcher; returns the header. Its connections have no descriptors yet, and
    are in the order that these were in.

    Raises:
        ValueError: the state cannot be read; ``it`` is of no use then.
        MemoryError
    """
    cdef _Reader reader = _Reader()
    cdef const uint8_t* found
    cdef size_t size = 0
    cdef uint64_t count
    cdef Peer* peer
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
    header = json.loads((<char*> found)[:size])
    clients = []
    try:
        # An older version has none, and another way to remember what was lost.
        if "secret" in header:
            _restore_secret(it, header["secret"])
            _restore_lost(it, header["lost_requests"])
        _restore_all(it, reader, clients)
        it.counters = {**_counters(it), **_known(header["counters"], _counters(it))}
        _restore_buckets(&it.queueing, header["queueing"])
        it.queueing.nanoseconds = header.get("queueing_nanoseconds", 0)
        _restore_buckets(&it.service, header["service"])
        it.service.nanoseconds = header.get("service_nanoseconds", 0)
        it.requests_made, it.peers_made = header["requests_made"], header["peers_made"]
        it.id_counter, it.salt = header["id_counter"], header["salt"]
    except (KeyError, TypeError, OverflowError):
        raise ValueError("it is damaged") from None
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


cdef int _restore_all(Dispatcher* it, _Reader reader, list clients) except -1:
    cdef Peer* last = NULL
    for _ in range(reader.number()):
        _restore_client(it, reader, clients)
    workers = {}
    for _ in range(reader.number()):
        last = _restore_peer(it, reader, last, clients, workers)
    ageing = []
    waiting = []
    while reader.number():
        _restore_request(it, reader, clients, workers, ageing, waiting)
    for _, address in sorted(ageing):
        ages(it, <Request*> <uintptr_t> address)
    it.by_wait.first = it.by_wait.last = NULL
    for *_, address in sorted(waiting):
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


cdef dict _counters(Dispatcher* it):
    return it.counters


cdef dict _known(dict counters, dict known):
    return {name: value for name, value in counters.items() if name in known}


cdef int _restore_buckets(Histogram* histogram, dict buckets) except -1:
    for place, count in buckets.items():
        if not 0 <= int(place) < BUCKETS:
            raise ValueError("it is damaged")
        histogram.buckets[<int> int(place)] = count
    return 0


cdef int _restore_client(Dispatcher* it, _Reader reader, list clients) except -1:
    cdef size_t size = 0
    cdef const uint8_t* found
    cdef Client* client
    reader.begin()
    found = reader.data(&size)
    if not 0 < size <= LONGEST_ID:
        raise ValueError("it is damaged")
    client = client_new(it, found, size)
    if client == NULL:
        raise MemoryError
    clients.append(<uintptr_t> client)
    client.named = reader.number()
    client.lasting = reader.number()
    if reader.number():
        if client_with(it, client.id, client.id_size) != NULL or not absence_begins(it, client):
            raise ValueError("it is damaged, or there is no memory")
        know_client(it, client)
        client.absence.since = reader.number()
        client.absence.replies = reader.number()
        found = reader.data(&size)
        if size and not outgoing_copy(&it.pool, &client.absence.kept, found, size):
            raise MemoryError
    client.asked = reader.number()
    client.answered = reader.number()
    client.forgotten = reader.number()
    reader.finish()
    return 0


cdef Client* _client(list clients, uint64_t place) except NULL:
    if place >= <uint64_t> len(clients):
        raise ValueError("it is damaged")
    return <Client*> <uintptr_t> clients[place]


cdef Body* _body(Dispatcher* it, const uint8_t* data, size_t size) except NULL:
    cdef Body* body = body_new(&it.pool, max(size, <size_t> 1))
    if body == NULL:
        raise MemoryError
    if size:
        memcpy(body_bytes(body), data, size)
    return body


cdef Peer* _restore_peer(
    Dispatcher* it, _Reader reader, Peer* last, list clients, dict workers
) except NULL:
    cdef Peer* peer
    cdef Client* client
    cdef size_t size = 0
    cdef const uint8_t* found
    cdef uint64_t service, place, of_client, tries, tries_at, passed
    reader.begin()
    peer = peer_again(it, <int> (reader.number() & 1), last)
    if peer == NULL:
        raise MemoryError
    peer.number = reader.number()
    reader.copy(peer.name, NAME)
    peer.name[NAME - 1] = 0
    reader.copy(peer.address, sizeof(peer.address))
    peer.opened_at = reader.number()
    peer.connector = <int> <int64_t> reader.number()
    peer.sends_large = reader.number()
    peer.hung_up = reader.number()
    peer.deaf = reader.number()
    peer.session.stage = <int> reader.number()
    peer.session.peer_type = <int> reader.number()
    peer.session.major = <int> reader.number()
    peer.session.minor = <int> reader.number()
    peer.session.greeted = reader.copy(peer.session.greeting, GREETING)
    found = reader.data(&size)
    if size:
        # What there is of a message is looked at again when more comes.
        peer.session.intake.partial = _body(it, found, size)
        peer.session.intake.have = size
    found = reader.data(&size)
    if size and not outgoing_copy(&it.pool, &peer.session.out, found, size):
        raise MemoryError
    peer.session.opened_at = reader.number()
    peer.session.heard_at = reader.number()
    peer.session.pinged_at = reader.number()
    peer.session.awaits_pong = reader.number()
    peer.session.ttl = reader.number()
    found = reader.data(&size)
    if size:
        peer.held = _body(it, found, size)
        peer.held_end = size
    of_client = reader.number()
    if reader.number():
        if of_client or not worker_new(it, peer):
            raise ValueError("it is damaged, or there is no memory")
        workers[peer.number] = <uintptr_t> peer.worker
        place = reader.number()
        if not it.settings.prefetch and peer.worker.strict:
            peer.worker.credit = <uint32_t> place
        peer.worker.aside = reader.number()
        peer.worker.draining = reader.number()
        peer.worker.told_drained = reader.number()
        peer.worker.given = reader.number()
        peer.worker.answered = reader.number()
        peer.worker.answered_at = reader.number()
        service = reader.number()
        memcpy(&peer.worker.service, &service, 8)
        reader.copy(&peer.worker.took, sizeof(Recent))
        peer.worker.id_size = <uint8_t> reader.copy(peer.worker.id, LONGEST_ID)
    peer.received_bytes = reader.number()
    peer.sent_bytes = reader.number()
    peer.leaving = reader.number()
    tries, tries_at, passed = reader.number(), reader.number(), reader.number()
    if peer.worker != NULL:
        peer.worker.tries, peer.worker.tries_at, peer.worker.passed = tries, tries_at, passed
    peer.spoke = reader.number()
    peer.session.owes_ready = reader.number()
    found = reader.data(&size)
    if size > LONGEST_ID:
        raise ValueError("it is damaged")
    if size:
        peer.claim = client_new(it, found, size)
        if peer.claim == NULL:
            raise MemoryError
    peer.claims_since = reader.number()
    if of_client:
        client = _client(clients, of_client - 1)
        if peer.leaving:
            _leaves_still(client, peer)
        elif client.peer != NULL or client_with(it, client.id, client.id_size) != NULL:
            raise ValueError("it is damaged")
        else:
            client.peer = peer
            know_client(it, client)
        peer.client = client
    if (peer.session.stage == TALKS) != (
        peer.client != NULL or peer.worker != NULL or peer.claim != NULL
    ) or (peer.leaving and peer.client == NULL) or (
        peer.claim != NULL and (peer.client != NULL or peer.side != FRONTEND)
    ):
        raise ValueError("it is damaged")
    reader.finish()
    return peer


cdef void _leaves_still(Client* client, Peer* peer) noexcept:
    """Behind those of its connections that were there before this one."""
    cdef Peer** place = &client.leaving
    while place[0] != NULL and place[0].number < peer.number:
        place = &place[0].leaving_next
    peer.leaving_next = place[0]
    place[0] = peer


cdef int _restore_request(
    Dispatcher* it, _Reader reader, list clients, dict workers, list ageing, list waiting
) except -1:
    cdef Client* client
    cdef Request* request
    cdef Worker* worker = NULL
    cdef size_t size = 0
    cdef const uint8_t* found
    cdef uint64_t number
    cdef int64_t since
    reader.begin()
    client = _client(clients, reader.number())
    number = reader.number()
    if number:
        worker = <Worker*> <uintptr_t> workers[number]
    request = request_blank(it)
    if request == NULL:
        raise MemoryError
    request.client = client
    client.requests += 1
    request.number = reader.number()
    request.size = reader.number()
    request.envelope = <uint32_t> reader.number()
    request.attempts = <uint32_t> reader.number()
    request.mark = <uint32_t> reader.number()
    request.over = min(reader.number(), <uint64_t> WRITTEN_OFF)
    request.suspect = reader.number()
    request.received_at = reader.number()
    since = reader.number()
    number = reader.number()
    found = reader.data(&size)
    if request.over and worker == NULL:
        number = 0
    if number:
        try:
            request.body = _body(it, found, size)
        except MemoryError:
            request_free(it, request)
            raise
    if (worker == NULL and not number) or request.envelope > size or (
        number and not request.over and size != request.size
    ):
        request_free(it, request)
        raise ValueError("it is damaged")
    try:
        _restore_history(reader, request)
        _restore_rest(it, reader, worker, request)
    except (MemoryError, ValueError):
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
        waiting.append((since, request.number, <uintptr_t> request))
    if it.settings.deadline and not request.over and (worker == NULL or request.envelope):
        ageing.append((request.number, <uintptr_t> request))
    reader.finish()
    return 0


cdef int _restore_rest(Dispatcher* it, _Reader reader, Worker* worker, Request* request) except -1:
    request.end = <uint32_t> reader.number()
    request.spared = <uint8_t> reader.number()
    request.probe = reader.number() > 0
    request.numbered = reader.number() > 0
    request.doubts = <uint8_t> reader.number()
    if request.numbered and worker != NULL and (
        worker.strict or request.client.named or request.client.id_size != MADE_ID
    ):
        raise ValueError("it is damaged")
    if request.over and not request.received_at:
        request.received_at = it.now  # an older version does not say since when
    return 0


cdef int _restore_history(_Reader reader, Request* request) except -1:
    cdef Attempt** place = &request.history
    while reader.number():
        place[0] = <Attempt*> calloc(1, sizeof(Attempt))
        if place[0] == NULL:
            raise MemoryError
        place[0].worker = reader.number()
        place[0].given_at = reader.number()
        place[0].ended_at = reader.number()
        place[0].cause = <int> reader.number()
        reader.copy(place[0].name, NAME)
        place[0].name[NAME - 1] = 0
        place = &place[0].next
    return 0


cdef int _free_unused(Dispatcher* it, list clients) except -1:
    """Those that nothing else came of."""
    cdef Client* client
    for address in clients:
        client = <Client*> <uintptr_t> address
        if is_unused(client):
            it.clients_out -= 1
            free(client)
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
    if peer.session.out.size:
        make_dirty(it, peer)
    return 0
