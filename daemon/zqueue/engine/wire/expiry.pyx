"""See expiry.pxd. All of it is in lists with the oldest first, so that only that has to be looked at."""

from zqueue.engine.wire.clients cimport absence_over
from zqueue.engine.wire.deaths cimport die
from zqueue.engine.wire.entities cimport DEADLINE, MAX_WAITING_TIME, Request, Worker
from zqueue.engine.wire.instants cimport earlier
from zqueue.engine.wire.peers cimport is_gone
from zqueue.engine.wire.requests cimport finish, leave_behind, take_back, unqueue
from zqueue.engine.wire.workers cimport place_worker


cdef int64_t next_expiry(Dispatcher* it) noexcept nogil:
    """When :c:func:`expire` is to be called next, 0 if there is nothing to wait for."""
    cdef int64_t due = 0
    if it.by_age.first != NULL:
        due = it.by_age.first.received_at + it.settings.deadline
    if it.by_wait.first != NULL:
        due = earlier(due, it.by_wait.first.since + it.settings.max_waiting_time)
    if it.absent_first != NULL:
        due = earlier(due, it.absent_first.since + it.settings.client_grace)
    return due


cdef void expire(Dispatcher* it) noexcept nogil:
    """End what is due."""
    while it.by_age.first != NULL and it.by_age.first.received_at + it.settings.deadline <= it.now:
        _past_deadline(it, it.by_age.first)
    while it.by_wait.first != NULL and (
        it.by_wait.first.since + it.settings.max_waiting_time <= it.now
    ):
        die(it, unqueue(it, it.by_wait.first), MAX_WAITING_TIME)
    while it.absent_first != NULL and (
        it.absent_first.since + it.settings.client_grace <= it.now
    ):
        absence_over(it, it.absent_first)


cdef void _past_deadline(Dispatcher* it, Request* request) noexcept nogil:
    """It is given to nobody any more; a worker that has it may finish it for nothing."""
    cdef Worker* worker = request.worker
    if worker == NULL:
        unqueue(it, request)
    else:
        if not leave_behind(it, request):
            take_back(it, request)
        place_worker(it, worker)
    if is_gone(request.client):
        finish(it, request, &it.counters.withdrawn)
    else:
        die(it, request, DEADLINE)
