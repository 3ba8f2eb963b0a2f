"""See requests.pxd."""

from libc.string cimport memcpy
from zqueue.engine.wire.entities cimport IN_TURN, OVER
from zqueue.engine.wire.heaps cimport heap_put, heap_take
from zqueue.engine.wire.lines cimport line_replace
from zqueue.engine.wire.matches cimport match_replace
from zqueue.engine.wire.memory cimport body_bytes, body_new


# -- in line -------------------------------------------------------------------------------------


cdef void put_in_line(Dispatcher* it, Request* request) noexcept nogil:
    """Put it where its age puts it: behind all others, or among those that were returned."""
    cdef Request** heap = _heap_of(it, request)
    if heap == NULL:
        queue_last(it, request)
        return
    heap_put(heap, request)
    now_waits(it, request)


cdef Request* next_waiting(Dispatcher* it, Waiting* at) noexcept nogil:
    """The oldest that was not yet told of; NULL if there is none."""
    cdef Request* heaped = NULL
    cdef Request* lined = NULL
    cdef int whose
    for whose in range(2):
        heaped = older_of(heaped, older_of(it.waiting[whose].returned, it.waiting[whose].apart))
        lined = older_of(lined, older_of(at.in_line[whose], at.odd[whose]))
    if lined != NULL and older_of(lined, heaped) == lined:
        for whose in range(2):
            if lined == at.in_line[whose]:
                at.in_line[whose] = lined.beside[IN_TURN].next
            elif lined == at.odd[whose]:
                at.odd[whose] = lined.beside[IN_TURN].next
        return lined
    if heaped != NULL:
        heap_take(_heap_of(it, heaped), heaped)
        heaped.beside[IN_TURN].next = at.told
        at.told = heaped
    return heaped


cdef void waiting_told(Dispatcher* it, Waiting* at) noexcept nogil:
    """All is as it was before :c:func:`all_waiting`."""
    cdef Request* request
    # The youngest first: each then is the oldest there, above all others.
    while at.told != NULL:
        request = at.told
        at.told = request.beside[IN_TURN].next
        heap_put(_heap_of(it, request), request)


# -- at a worker ---------------------------------------------------------------------------------


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
    left.number, left.envelope, left.since = request.number, request.envelope, request.since
    left.mark, left.numbered, left.doubts = request.mark, request.numbered, request.doubts
    left.attempts, left.suspect = request.attempts, request.suspect
    left.tapped, left.received_at = request.tapped, it.now
    left.over, left.worker, left.client = OVER, worker, request.client
    left.client.requests += 1
    line_replace(&worker.outstanding, request, left, IN_TURN)
    if worker.open == request:
        worker.open = left
    if not worker.strict:
        match_replace(it, request, left)
        leave_loose(it, request)
        join_loose(it, left)
    worker.suspects -= is_isolated(worker, request)
    worker.suspects += is_isolated(worker, left)
    worker.late_bytes += left.envelope
    request.worker = NULL
    _not_in_flight(it, worker, request)
    return True
