"""See redelivery.pxd."""

from libc.stdint cimport uint64_t
from zqueue.engine.wire.deaths cimport die, remember_attempt
from zqueue.engine.wire.entities cimport (
    BACKEND,
    IN_TURN,
    MAX_ATTEMPTS,
    NONE,
    SERVICE_TIMEOUT,
    UNSTARTED,
    WORKER_LOST,
    Request,
)
from zqueue.engine.wire.instants cimport earlier
from zqueue.engine.wire.notices cimport RETURNED, WORKER_SET_ASIDE, notice
from zqueue.engine.wire.peers cimport is_gone
from zqueue.engine.wire.requests cimport (
    attempts_at,
    finish,
    has_left,
    leave_behind,
    oldest_open,
    put_in_line,
    request_free,
    take_back,
)
from zqueue.engine.wire.return_addresses cimport remember_lost
from zqueue.engine.wire.workers cimport place_worker, tell_if_drained

cdef enum:
    MOST_SPARED = 255


cdef void worker_lost(Dispatcher* it, Worker* worker) noexcept nogil:
    """What it had not answered goes back to where its age puts it in line, or dies."""
    cdef Request* request
    cdef uint64_t returned = it.counters.returned
    cdef bint begun = True, sent
    while worker.outstanding.first != NULL:
        request = worker.outstanding.first
        sent = has_left(worker, request)
        remember_lost(it, worker, request)
        take_back(it, request)
        if request.over:
            request_free(it, request)
        elif not request.envelope:
            # It may well have been one that is never answered.
            finish(it, request, &it.counters.unanswered)
        else:
            _elsewhere(it, worker, request, begun, sent, WORKER_LOST)
        begun = not worker.strict
    _tell_of_returned(it, worker, it.counters.returned - returned)


cdef int64_t worker_overdue_at(Dispatcher* it, Worker* worker) noexcept nogil:
    """When it will have been at a request for ``service_timeout``; 0 if it is not to be watched."""
    cdef Request* request = worker.outstanding.first
    if not it.settings.service_timeout:
        return 0
    if worker.strict:
        # It works on one after the other. Set aside, it has nothing more that could go elsewhere.
        if request == NULL or worker.aside:
            return 0
        return max(request.since, worker.answered_at) + it.settings.service_timeout
    request = oldest_open(worker)
    return earlier(
        request.since + it.settings.service_timeout if request != NULL else 0,
        worker.tries_at if worker.aside and not worker.tries else 0,
    )


cdef void worker_overdue(Dispatcher* it, Worker* worker) noexcept nogil:
    """It gets nothing more until it answers. What it is late with goes elsewhere or dies; of a REP
    all that it has, for it will come to none of it while it is stuck. A ROUTER or DEALER, which need
    not answer all, gets one request after another ``service_timeout``, and is to answer that."""
    cdef Request* request = worker.outstanding.first if worker.strict else oldest_open(worker)
    cdef Request* after
    cdef uint64_t returned = it.counters.returned
    cdef bint begun = True
    if not worker.strict:
        if request == NULL or request.since + it.settings.service_timeout > it.now:
            worker.tries = True
            place_worker(it, worker)
            return
        worker.tries, worker.tries_at = False, it.now + it.settings.service_timeout
    if not worker.aside:
        worker.aside = True
        notice(
            it.notices, it.now, WORKER_SET_ASIDE, BACKEND, worker.peer.number, worker.peer.name,
            b"", worker.count, it.settings.service_timeout,
        )
    while request != NULL:
        after = request.beside[IN_TURN].next
        if not worker.strict and request.since + it.settings.service_timeout > it.now:
            break
        if not request.over and request.envelope:
            if not leave_behind(it, request):
                take_back(it, request)
            _elsewhere(it, worker, request, begun, True, SERVICE_TIMEOUT)
        begun = not worker.strict
        request = after
    place_worker(it, worker)
    tell_if_drained(it, worker)
    _tell_of_returned(it, worker, it.counters.returned - returned)


cdef void _elsewhere(
    Dispatcher* it, Worker* worker, Request* request, bint begun, bint sent, int cause
) noexcept nogil:
    """To another worker if it may, where its age puts it in line; else it ends here. ``begun``: it may
    have been, if it was ``sent`` at all; what cannot have been is no attempt."""
    cdef int policy = it.settings.redeliver
    if is_gone(request.client):
        finish(it, request, &it.counters.withdrawn)
        return
    if not (begun and sent):
        if request.spared < MOST_SPARED:
            request.spared += 1
        else:
            request.attempts -= 1
    else:
        remember_attempt(it, worker, request, cause)
    if it.settings.max_attempts and attempts_at(request) >= it.settings.max_attempts:
        die(it, request, MAX_ATTEMPTS)
    elif policy == NONE or (policy == UNSTARTED and begun):
        die(it, request, cause)
    else:
        it.counters.returned += 1
        request.suspect = True
        put_in_line(it, request)


cdef void _tell_of_returned(Dispatcher* it, Worker* worker, uint64_t count) noexcept nogil:
    if count:
        notice(
            it.notices, it.now, RETURNED, BACKEND, worker.peer.number, worker.peer.name, b"",
            <int64_t> count, 0,
        )
