"""See requests.pxd."""

from libc.stdlib cimport free, malloc
from libc.string cimport memset
from zqueue.engine.wire.admission cimport unstall_itself
from zqueue.engine.wire.entities cimport BY_AGE, BY_ITSELF, BY_WAIT, IN_TURN, OF_CLIENT, Attempt
from zqueue.engine.wire.lines cimport line_append, line_insert, line_remove, line_replace
from zqueue.engine.wire.matches cimport match_add, match_remove, match_replace
from zqueue.engine.wire.memory cimport KEEPS, body_bytes, body_drop, body_new


cdef Request* request_blank(Dispatcher* it) noexcept nogil:
    """One that is nothing yet; NULL if there is no memory."""
    cdef Request* request = it.spare
    if request != NULL:
        it.spare = request.beside[IN_TURN].next
    else:
        request = <Request*> malloc(sizeof(Request))
        if request == NULL:
            return NULL
    memset(request, 0, sizeof(Request))
    it.requests_out += 1
    return request


cdef Request* request_new(
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
    request.envelope = envelope
    request.received_at = it.now
    client.requests += 1
    if it.settings.deadline:
        ages(it, request)
    return request


cdef void ages(Dispatcher* it, Request* request) noexcept nogil:
    """It is the newest of those that have a deadline."""
    request.ages = True
    line_append(&it.by_age, request, BY_AGE)


cdef void ages_no_more(Dispatcher* it, Request* request) noexcept nogil:
    """The deadline is nothing to it any more."""
    if request.ages:
        request.ages = False
        line_remove(&it.by_age, request, BY_AGE)


# -- in line -------------------------------------------------------------------------------------


cdef inline Line* _line_of(Dispatcher* it, Request* request) noexcept nogil:
    return &it.line if request.envelope else &it.odd


cdef void queue_last(Dispatcher* it, Request* request) noexcept nogil:
    """Put it at the end of its line."""
    line_append(_line_of(it, request), request, IN_TURN)
    _now_waits(it, request)


cdef void queue_back(Dispatcher* it, Request* request, Request** near) noexcept nogil:
    """Put it where its age puts it in its line, which is near the head.

    ``near`` is where to begin to look, NULL for the head, and then itself: whoever puts back several
    that are about in order looks at few others twice.
    """
    cdef Line* line = _line_of(it, request)
    cdef Request* after = near[0] if near[0] != NULL else line.first
    cdef Request* before
    while after != NULL and after.number < request.number:
        after = after.beside[IN_TURN].next
    while after != NULL:
        before = after.beside[IN_TURN].previous
        if before == NULL or before.number < request.number:
            break
        after = before
    line_insert(line, request, after, IN_TURN)
    near[0] = request
    _now_waits(it, request)


cdef void _now_waits(Dispatcher* it, Request* request) noexcept nogil:
    cdef Client* client = request.client
    request.waiting_since = it.now
    if it.settings.max_waiting_time:
        waits_shortest(it, request)
    line_append(&client.line, request, OF_CLIENT)
    client.waiting += 1
    client.waiting_bytes += request.size
    it.counters.waiting += 1
    it.counters.waiting_bytes += request.size


cdef void waits_shortest(Dispatcher* it, Request* request) noexcept nogil:
    """Of those in line it is the last one that began to wait."""
    line_append(&it.by_wait, request, BY_WAIT)


cdef Request* unqueue(Dispatcher* it, Request* request) noexcept nogil:
    """Take it out of its line."""
    cdef Client* client = request.client
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
    return request


# -- at a worker ---------------------------------------------------------------------------------


cdef void hand_to(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """It is given to this worker."""
    request.attempts += 1
    request.given_at = it.now
    put_at_worker(it, worker, request)
    if not request.envelope:
        ages_no_more(it, request)


cdef void put_at_worker(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """It is the newest that this worker has, or what is left of one."""
    request.worker = worker
    line_append(&worker.outstanding, request, IN_TURN)
    if request.envelope:
        worker.count += 1
        worker.suspects += is_isolated(worker, request)
    else:
        worker.odd += 1
    if not request.over:
        it.counters.in_flight += 1
        if request.envelope:
            worker.bytes += request.size
            it.counters.in_flight_bytes += request.size
    if not worker.strict:
        match_add(it, request)


cdef Request* take_back(Dispatcher* it, Request* request) noexcept nogil:
    """It is not its worker's any more."""
    cdef Worker* worker = request.worker
    line_remove(&worker.outstanding, request, IN_TURN)
    if not worker.strict:
        match_remove(it, request)
    request.worker = NULL
    if request.envelope:
        worker.count -= 1
        worker.suspects -= is_isolated(worker, request)
    else:
        worker.odd -= 1
    if not request.over:
        _not_in_flight(it, worker, request)
    return request


cdef inline void _not_in_flight(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    it.counters.in_flight -= 1
    if request.envelope:
        worker.bytes -= request.size
        it.counters.in_flight_bytes -= request.size


cdef bint leave_behind(Dispatcher* it, Request* request) noexcept nogil:
    """Take it from its worker, which still has it to answer: what is left there in its place knows
    a late reply, and counts as long as that has not come. False if there is no memory."""
    cdef Worker* worker = request.worker
    cdef Request* left = request_blank(it)
    if left == NULL:
        return False
    left.body = body_new(&it.pool, max(request.envelope, <size_t> 1))
    if left.body == NULL:
        request_free(it, left)
        return False
    memcpy(body_bytes(left.body), body_bytes(request.body), request.envelope)
    left.number, left.envelope, left.given_at = request.number, request.envelope, request.given_at
    left.sequence = request.sequence
    left.attempts, left.suspect = request.attempts, request.suspect
    left.over, left.worker, left.client = True, worker, request.client
    left.client.requests += 1
    line_replace(&worker.outstanding, request, left, IN_TURN)
    if not worker.strict:
        match_replace(it, request, left)
    request.worker = NULL
    _not_in_flight(it, worker, request)
    return True


# -- at their end --------------------------------------------------------------------------------


cdef void finish(Dispatcher* it, Request* request, uint64_t* end) noexcept nogil:
    """It has come to one of its ends, which is counted there. It must be in no line any more."""
    end[0] += 1
    ages_no_more(it, request)
    request_free(it, request)


cdef void request_free(Dispatcher* it, Request* request) noexcept nogil:
    cdef Client* client = request.client
    cdef Attempt* attempt
    if request.body != NULL:
        body_drop(&it.pool, request.body)
    if client != NULL:
        client.requests -= 1
        if not client.requests and client.peer == NULL and client.absence == NULL:
            it.clients_out -= 1
            free(client)
    while request.history != NULL:
        attempt = request.history
        request.history = attempt.next
        free(attempt)
    it.requests_out -= 1
    if KEEPS:
        request.beside[IN_TURN].next = it.spare
        it.spare = request
    else:
        free(request)
