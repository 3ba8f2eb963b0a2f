"""See requests.pxd."""

from libc.string cimport memcpy
from zqueue.engine.wire.entities cimport IN_TURN
from zqueue.engine.wire.lines cimport line_insert, line_replace
from zqueue.engine.wire.matches cimport match_replace
from zqueue.engine.wire.memory cimport body_bytes, body_new


# -- in line -------------------------------------------------------------------------------------


cdef void queue_back(Dispatcher* it, Line* returned) noexcept nogil:
    """Put each where its age puts it in its line, which is near the head. They must have envelopes, and
    ``returned``, in which they are IN_TURN, is of no use any more.

    They are put in order before: a worker may have had them in any, and each would be looked for
    past all that others had.
    """
    cdef Request* request = _by_age(returned.first)
    cdef Request* younger
    cdef Request* at_line = it.line.first
    cdef Request* at_apart = it.apart.first
    cdef Request** at
    while request != NULL:
        younger = request.beside[IN_TURN].next
        at = &at_apart if waits_apart(request) else &at_line
        while at[0] != NULL and at[0].number < request.number:
            at[0] = at[0].beside[IN_TURN].next
        line_insert(_line_of(it, request), request, at[0], IN_TURN)
        _now_waits(it, request)
        request = younger


cdef Request* _by_age(Request* request) noexcept nogil:
    """Put in order all that follow each other; the oldest, from which the others follow."""
    # At each place 2 to the power of that many, in order.
    cdef Request* sorted_ones[64]
    cdef Request* following
    cdef int place
    for place in range(64):
        sorted_ones[place] = NULL
    while request != NULL:
        following = request.beside[IN_TURN].next
        request.beside[IN_TURN].next = NULL
        place = 0
        while sorted_ones[place] != NULL:
            request = _merged(sorted_ones[place], request)
            sorted_ones[place] = NULL
            place += 1
        sorted_ones[place] = request
        request = following
    for place in range(64):
        request = _merged(sorted_ones[place], request)
    return request


cdef Request* _merged(Request* one, Request* other) noexcept nogil:
    cdef Request* first = NULL
    cdef Request** end = &first
    while one != NULL and other != NULL:
        if one.number < other.number:
            end[0] = one
            one = one.beside[IN_TURN].next
        else:
            end[0] = other
            other = other.beside[IN_TURN].next
        end = &end[0].beside[IN_TURN].next
    end[0] = one if one != NULL else other
    return first


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
    left.mark = request.mark
    left.attempts, left.suspect = request.attempts, request.suspect
    left.tapped = request.tapped
    left.over, left.worker, left.client = True, worker, request.client
    left.client.requests += 1
    line_replace(&worker.outstanding, request, left, IN_TURN)
    if worker.open == request:
        worker.open = left
    if not worker.strict:
        match_replace(it, request, left)
    worker.suspects -= is_isolated(worker, request)
    worker.suspects += is_isolated(worker, left)
    worker.late_bytes += left.envelope
    request.worker = NULL
    _not_in_flight(it, worker, request)
    return True
