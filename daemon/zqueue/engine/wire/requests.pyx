"""See requests.pxd."""

from libc.string cimport memcpy
from zqueue.engine.wire.entities cimport IN_TURN
from zqueue.engine.wire.lines cimport line_insert, line_replace
from zqueue.engine.wire.matches cimport match_replace
from zqueue.engine.wire.memory cimport body_bytes, body_new


# -- in line -------------------------------------------------------------------------------------


cdef void queue_back(Dispatcher* it, Request* request, Nearby* near) noexcept nogil:
    """Put it where its age puts it in its line, which is near the head.

    ``near`` is where to begin to look in each line, NULL for the head, and then itself: whoever puts
    back several that are about in order looks at few others twice. It must have an envelope.
    """
    cdef Line* line = _line_of(it, request)
    cdef Request** latest = &near.apart if waits_apart(request) else &near.in_line
    cdef Request* after = latest[0] if latest[0] != NULL else line.first
    cdef Request* before
    while after != NULL and after.number < request.number:
        after = after.beside[IN_TURN].next
    while after != NULL:
        before = after.beside[IN_TURN].previous
        if before == NULL or before.number < request.number:
            break
        after = before
    line_insert(line, request, after, IN_TURN)
    latest[0] = request
    _now_waits(it, request)


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
    worker.late_bytes += left.envelope
    request.worker = NULL
    _not_in_flight(it, worker, request)
    return True
