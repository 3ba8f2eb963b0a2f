"""Requests: in line, at a worker, at their end."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from zqueue.engine.wire.admission cimport unstall_itself
from zqueue.engine.wire.entities cimport (
    BY_AGE,
    BY_ITSELF,
    BY_WAIT,
    IN_TURN,
    LINE_KINDS,
    OF_BROKERS,
    OF_CLIENT,
    OF_CLIENTS,
    WRITTEN_OFF,
    Attempt,
    Body,
    Client,
    Dispatcher,
    Line,
    Lines,
    Neighbours,
    Request,
    Worker,
)
from zqueue.engine.wire.heaps cimport heap_take
from zqueue.engine.wire.linux cimport zq_check
from zqueue.engine.wire.lines cimport line_append, line_remove
from zqueue.engine.wire.matches cimport match_add, match_remove
from zqueue.engine.wire.memory cimport SMALL_SLAB, body_drop, starves
from zqueue.engine.wire.peers cimport is_unused, owe_no_more
from zqueue.engine.wire.slabs cimport piece_give, piece_take
from zqueue.engine.wire.zmtp cimport MORE, REQ

# A place in each line of those that wait; ``told``: those of the heaps that were told of, the latest
# first, which are out of them meanwhile.
cdef struct Waiting:
    Request* in_line[2]
    Request* odd[2]
    Request* told

cdef void put_in_line(Dispatcher* it, Request* request) noexcept nogil
cdef Request* next_waiting(Dispatcher* it, Waiting* at) noexcept nogil
cdef void waiting_told(Dispatcher* it, Waiting* at) noexcept nogil
cdef bint leave_behind(Dispatcher* it, Request* request) noexcept nogil


cdef inline size_t id_frame(Client* client, uint8_t* head) noexcept nogil:
    """The routing id as the first frame of a message; ``head`` has room for ID_FRAME."""
    head[0] = MORE
    head[1] = client.id_size
    memcpy(head + 2, client.id, client.id_size)
    return <size_t> 2 + client.id_size


cdef inline bint is_isolated(Worker* worker, Request* request) noexcept nogil:
    """Whether it may bring down a worker, and what else that has. A REP works on one at a time
    anyhow; others would come to a stand if every request that was once lost were given to them by
    itself. What is over counts at a REP only, which is at it yet; others may never come to it."""
    return request.suspect and (worker.strict or (request.attempts > 2 and not request.over))


cdef inline bint waits_apart(Request* request) noexcept nogil:
    """Whether it is to be isolated at whoever gets it next."""
    return request.suspect and request.attempts >= 2


cdef inline uint32_t attempts_at(Request* request) noexcept nogil:
    """How many workers may have begun it, the one that has it among them."""
    return request.attempts - request.spared


cdef inline bint is_req(Client* client) noexcept nogil:
    """Whether it waits for one reply at a time, and any other breaks it."""
    return client.peer != NULL and client.peer.session.peer_type == REQ


cdef inline void ages(Dispatcher* it, Request* request) noexcept nogil:
    """It is the newest of those that have a deadline."""
    request.ages = True
    line_append(&it.by_age, request, BY_AGE)


cdef inline void ages_no_more(Dispatcher* it, Request* request) noexcept nogil:
    """The deadline is nothing to it any more."""
    if request.ages:
        request.ages = False
        line_remove(&it.by_age, request, BY_AGE)


cdef inline void request_free(Dispatcher* it, Request* request) noexcept nogil:
    cdef Client* client = request.client
    cdef Attempt* attempt
    if request.body != NULL:
        body_drop(&it.pool, request.body)
    if client != NULL:
        zq_check(client.requests > 0)
        client.requests -= 1
        if client.latest == request:
            client.latest = NULL
        if is_unused(client):
            it.clients_out -= 1
            piece_give(client, SMALL_SLAB)
        elif client.absence != NULL:
            owe_no_more(it, client)
    while request.history != NULL:
        attempt = request.history
        request.history = attempt.next
        piece_give(attempt, SMALL_SLAB)
    it.requests_out -= 1
    piece_give(request, SMALL_SLAB)


cdef inline Request* request_blank(Dispatcher* it) noexcept nogil:
    """One that is nothing yet; NULL if there is no memory."""
    cdef Request* request = NULL
    if not starves(&it.pool):
        request = <Request*> piece_take(&it.pool.small, &it.pool.requests, it.request_size)
    if request == NULL:
        return NULL
    # Its neighbours are written when it gets into a line.
    memset(request, 0, sizeof(Request) - LINE_KINDS * sizeof(Neighbours))
    it.requests_out += 1
    return request


cdef inline Request* request_new(
    Dispatcher* it, Client* client, Body* body, size_t size, size_t envelope
) noexcept nogil:
    """A request that is in no line yet; it takes over ``body``. NULL if there is no memory."""
    cdef Request* request = request_blank(it)
    if request == NULL:
        return NULL
    it.requests_made += 1
    request.number = it.requests_made
    request.client = client
    request.body = body
    request.size = size
    request.envelope = <uint32_t> envelope
    request.received_at = it.now
    client.requests += 1
    client.latest = request
    client.forgotten = 0
    if it.settings.deadline:
        ages(it, request)
    return request


cdef inline Request* older_of(Request* one, Request* other) noexcept nogil:
    """Of two, each NULL if it is not there."""
    if one == NULL or (other != NULL and other.number < one.number):
        return other
    return one


cdef inline Request* oldest_in_line(Lines* lines) noexcept nogil:
    """Of those that wait neither apart nor without an envelope; NULL if there is none."""
    return older_of(lines.line.first, lines.returned)


cdef inline Request* oldest_waiting(Dispatcher* it) noexcept nogil:
    """Of all; NULL if there is none."""
    cdef Request* oldest = NULL
    cdef int whose
    for whose in range(2):
        oldest = older_of(oldest, oldest_in_line(&it.waiting[whose]))
        oldest = older_of(oldest, it.waiting[whose].apart)
        oldest = older_of(oldest, it.waiting[whose].odd.first)
    return oldest


cdef inline Waiting all_waiting(Dispatcher* it) noexcept nogil:
    """The beginning of :c:func:`next_waiting`; :c:func:`waiting_told` must come before anything else
    happens to those that wait."""
    cdef Waiting at
    cdef int whose
    for whose in range(2):
        at.in_line[whose] = it.waiting[whose].line.first
        at.odd[whose] = it.waiting[whose].odd.first
    at.told = NULL
    return at


cdef inline Lines* lines_of(Dispatcher* it, Request* request) noexcept nogil:
    return &it.waiting[OF_BROKERS if request.client.broker else OF_CLIENTS]


cdef inline Request** _heap_of(Dispatcher* it, Request* request) noexcept nogil:
    """NULL if it is in a line."""
    if not request.suspect or not request.envelope:
        return NULL
    return &lines_of(it, request).apart if waits_apart(request) else &lines_of(it, request).returned


cdef inline Line* _line_of(Dispatcher* it, Request* request) noexcept nogil:
    return &lines_of(it, request).line if request.envelope else &lines_of(it, request).odd


cdef inline void waits_shortest(Dispatcher* it, Request* request) noexcept nogil:
    """Of those in line it is the last one that began to wait."""
    line_append(&it.by_wait, request, BY_WAIT)


cdef inline void now_waits(Dispatcher* it, Request* request) noexcept nogil:
    """It has just been put in its line."""
    cdef Client* client = request.client
    request.since = it.now
    if it.settings.max_waiting_time:
        waits_shortest(it, request)
    line_append(&client.line, request, OF_CLIENT)
    client.waiting += 1
    client.waiting_bytes += request.size
    it.counters.waiting += 1
    it.counters.waiting_bytes += request.size


cdef inline void queue_last(Dispatcher* it, Request* request) noexcept nogil:
    """Put one that no worker has had yet, the youngest of those, at the end of its line."""
    line_append(_line_of(it, request), request, IN_TURN)
    now_waits(it, request)


cdef inline Request* unqueue(Dispatcher* it, Request* request) noexcept nogil:
    """Take it out of its line."""
    cdef Client* client = request.client
    cdef Request** heap = _heap_of(it, request)
    zq_check(request.worker == NULL and it.counters.waiting > 0 and client.waiting > 0)
    zq_check(it.counters.waiting_bytes >= request.size and client.waiting_bytes >= request.size)
    if heap != NULL:
        heap_take(heap, request)
    else:
        line_remove(_line_of(it, request), request, IN_TURN)
    line_remove(&client.line, request, OF_CLIENT)
    if it.settings.max_waiting_time:
        line_remove(&it.by_wait, request, BY_WAIT)
    client.waiting -= 1
    client.waiting_bytes -= request.size
    it.counters.waiting -= 1
    it.counters.waiting_bytes -= request.size
    if client.peer != NULL and client.peer.stalled == BY_ITSELF:
        unstall_itself(it, client.peer)
    if client.leaving != NULL and client.leaving.stalled == BY_ITSELF:
        unstall_itself(it, client.leaving)
    return request


cdef inline Request* oldest_open(Worker* worker) noexcept nogil:
    """The first that it has to answer yet; NULL if there is none. What is over may be many, and is
    passed but once."""
    while worker.open != NULL and (worker.open.over or not worker.open.envelope):
        worker.open = worker.open.beside[IN_TURN].next
    return worker.open


cdef inline void join_loose(Dispatcher* it, Request* request) noexcept nogil:
    """It is the newest of its kind that ROUTERs and DEALERs have."""
    if request.over:
        line_append(&it.late, request, OF_CLIENT)
        it.late_count += 1
        it.late_bytes += request.envelope
        if it.late_counted == NULL and request.over != WRITTEN_OFF:
            it.late_counted = request
    elif request.envelope:
        line_append(&it.unanswered, request, OF_CLIENT)
        it.unanswered_count += 1
        it.unanswered_bytes += request.size
    else:
        line_append(&it.one_way, request, OF_CLIENT)
        it.one_way_count += 1


cdef inline void leave_loose(Dispatcher* it, Request* request) noexcept nogil:
    if request.over:
        if it.late_counted == request:
            it.late_counted = request.beside[OF_CLIENT].next
        line_remove(&it.late, request, OF_CLIENT)
        it.late_count -= 1
        it.late_bytes -= request.envelope
    elif request.envelope:
        line_remove(&it.unanswered, request, OF_CLIENT)
        it.unanswered_count -= 1
        it.unanswered_bytes -= request.size
    else:
        line_remove(&it.one_way, request, OF_CLIENT)
        it.one_way_count -= 1


cdef inline void put_at_worker(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """It is the newest that this worker has, or what is left of one."""
    request.worker = worker
    line_append(&worker.outstanding, request, IN_TURN)
    if worker.open == NULL:
        worker.open = request
    worker.count += request.over != WRITTEN_OFF
    worker.suspects += is_isolated(worker, request)
    if not request.over:
        it.counters.in_flight += 1
        request.client.in_flight += 1
        if request.envelope:
            worker.live += 1
            it.counters.in_flight_bytes += request.size
        else:
            worker.one_way += 1
    else:
        worker.late_bytes += request.envelope
    if not worker.strict:
        match_add(it, request)
        join_loose(it, request)


cdef inline void hand_to(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """It is given to this worker."""
    request.attempts += 1
    request.since = it.now
    put_at_worker(it, worker, request)
    if not request.envelope:
        ages_no_more(it, request)


cdef inline void _not_in_flight(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    zq_check(it.counters.in_flight > 0 and request.client.in_flight > 0)
    zq_check(worker.live > 0 if request.envelope else worker.one_way > 0)
    zq_check(not request.envelope or it.counters.in_flight_bytes >= request.size)
    it.counters.in_flight -= 1
    request.client.in_flight -= 1
    if request.envelope:
        worker.live -= 1
        it.counters.in_flight_bytes -= request.size
    else:
        worker.one_way -= 1


cdef inline Request* take_back(Dispatcher* it, Request* request) noexcept nogil:
    """It is not its worker's any more."""
    cdef Worker* worker = request.worker
    zq_check(request.over == WRITTEN_OFF or worker.count > 0)
    zq_check(not request.over or worker.late_bytes >= request.envelope)
    if worker.open == request:
        worker.open = request.beside[IN_TURN].next
    line_remove(&worker.outstanding, request, IN_TURN)
    if not worker.strict:
        match_remove(it, request)
        leave_loose(it, request)
    request.worker = NULL
    worker.count -= request.over != WRITTEN_OFF
    worker.suspects -= is_isolated(worker, request)
    if request.over:
        worker.late_bytes -= request.envelope
    else:
        _not_in_flight(it, worker, request)
    return request


cdef inline bint has_left(Worker* worker, Request* request) noexcept nogil:
    """Whether the last of its bytes has gone out to this worker; True where that is not known."""
    cdef uint32_t sent = <uint32_t> worker.peer.sent_bytes
    return not request.end or <int32_t> (sent - request.end) >= 0


cdef inline void finish(Dispatcher* it, Request* request, uint64_t* end) noexcept nogil:
    """It has come to one of its ends, which is counted there. It must be in no line any more."""
    end[0] += 1
    ages_no_more(it, request)
    request_free(it, request)
