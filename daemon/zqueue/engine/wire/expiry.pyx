"""See expiry.pxd. All of it is in lists with the oldest first, so that only that has to be looked at."""

from zqueue.engine.wire.clients cimport absence_over
from zqueue.engine.wire.deaths cimport die
from zqueue.engine.wire.entities cimport (
    DEADLINE,
    DRAIN,
    MAX_WAITING_TIME,
    OF_CLIENT,
    WRITTEN_OFF,
    Request,
    Worker,
)
from zqueue.engine.wire.instants cimport earlier
from zqueue.engine.wire.peers cimport is_gone
from zqueue.engine.wire.requests cimport finish, has_left, leave_behind, take_back, unqueue
from zqueue.engine.wire.workers cimport place_worker, tell_if_drained

# Nanoseconds.
cdef int64_t ONE_WAY = 10_000_000_000


cdef int64_t next_expiry(Dispatcher* it) noexcept nogil:
    """When :c:func:`expire` is to be called next, 0 if there is nothing to wait for."""
    cdef int64_t due = 0
    if it.by_age.first != NULL:
        due = it.by_age.first.received_at + it.settings.deadline
    if it.by_wait.first != NULL:
        due = earlier(due, it.by_wait.first.since + it.settings.max_waiting_time)
    if it.absent_first != NULL:
        due = earlier(due, it.absent_first.since + it.settings.client_grace)
    if it.late_counted != NULL:
        due = earlier(due, it.late_counted.received_at + _late_span(it))
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
    while it.late_counted != NULL and it.late_counted.received_at + _late_span(it) <= it.now:
        _write_off(it, it.late_counted)


cdef inline int64_t _late_span(Dispatcher* it) noexcept nogil:
    """For how long what a ROUTER or DEALER is late with counts among what it has to do."""
    return max(it.settings.deadline, it.settings.service_timeout)


cdef void _write_off(Dispatcher* it, Request* request) noexcept nogil:
    """It is hardly ever answered any more. That it is, is known all the same."""
    request.over = WRITTEN_OFF
    it.late_counted = request.beside[OF_CLIENT].next
    request.worker.count -= 1
    place_worker(it, request.worker)


cdef void expire_one_way(Dispatcher* it) noexcept nogil:
    """What has no envelope may need no answer, and is not waited for for long; while the queue is
    drained, not at all, once it has gone out. This is called in each turn, and has no time of its own:
    it matters to nobody when it is."""
    cdef Request* request = it.one_way.first
    cdef Request* following
    while request != NULL and (it.mode == DRAIN or request.since + ONE_WAY <= it.now):
        following = request.beside[OF_CLIENT].next
        if request.since + ONE_WAY <= it.now or has_left(request.worker, request):
            _finish_one_way(it, request)
        request = following


cdef void _finish_one_way(Dispatcher* it, Request* request) noexcept nogil:
    cdef Worker* worker = request.worker
    finish(it, take_back(it, request), &it.counters.unanswered)
    place_worker(it, worker)
    tell_if_drained(it, worker)


cdef void _past_deadline(Dispatcher* it, Request* request) noexcept nogil:
    """It is given to nobody any more; a worker that has it may finish it for nothing."""
    cdef Worker* worker = request.worker
    if worker == NULL:
        unqueue(it, request)
    else:
        if not leave_behind(it, request):
            take_back(it, request)
        place_worker(it, worker)
        tell_if_drained(it, worker)
    if is_gone(request.client):
        finish(it, request, &it.counters.withdrawn)
    else:
        die(it, request, DEADLINE)
