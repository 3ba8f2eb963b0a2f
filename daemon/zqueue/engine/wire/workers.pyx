"""See workers.pxd."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from zqueue.engine.wire.entities cimport BACKEND, IN_TURN, Peer, Request
from zqueue.engine.wire.notices cimport WORKER_DRAINED, notice
from zqueue.engine.wire.requests cimport finish, has_left, take_back

cdef enum:
    DEEPEST = 4096
    MILLISECOND = 1_000_000


cdef bint ring_reaches(Ring* ring, int place) noexcept nogil:
    """Make room in the ring for workers with so many requests; False if there is no memory."""
    cdef int size = max(64, ring.size)
    cdef Worker** lists
    if place < ring.size:
        return True
    while size <= place:
        size *= 2
    lists = <Worker**> realloc(ring.first, size * sizeof(Worker*))
    if lists == NULL:
        return False
    ring.first = lists
    memset(lists + ring.size, 0, (size - ring.size) * sizeof(Worker*))
    lists = <Worker**> realloc(ring.last, size * sizeof(Worker*))
    if lists == NULL:
        return False
    ring.last = lists
    memset(lists + ring.size, 0, (size - ring.size) * sizeof(Worker*))
    ring.size = size
    return True


cdef void ring_free(Ring* ring) noexcept nogil:
    free(ring.first)
    free(ring.last)


cdef void measure_worker(Dispatcher* it, Worker* worker, uint64_t answers, int64_t since) noexcept nogil:
    """Learn from some answers how long a request takes, and how many to send ahead for that."""
    cdef double each = <double> max(it.now - since, <int64_t> 1000) / answers
    cdef double weight = min(1.0, answers / 8.0)
    cdef double ahead
    worker.answered_at = it.now
    if not worker.strict or it.settings.prefetch:
        return
    worker.service = each if not worker.service else worker.service + weight * (each - worker.service)
    ahead = MILLISECOND / worker.service + 0.5
    worker.credit = 1 + <uint32_t> min(ahead, <double> (DEEPEST - 1))
    if it.settings.worker_ahead:
        worker.credit = min(worker.credit, it.settings.worker_ahead)
    place_worker(it, worker)


cdef void worker_drain(Dispatcher* it, Worker* worker) noexcept nogil:
    """Give it nothing more; a notice tells when it has answered all."""
    if not worker.draining:
        worker.draining = True
        place_worker(it, worker)
        finish_one_way(it, worker)
        tell_if_drained(it, worker)


cdef void finish_one_way(Dispatcher* it, Worker* worker) noexcept nogil:
    """Wait no more for answers to what has no envelope and has gone out to it: it may be answered or
    not."""
    cdef Request* request = worker.outstanding.first
    cdef Request* following
    while request != NULL and worker.one_way:
        following = request.beside[IN_TURN].next
        if not request.envelope and has_left(worker, request):
            finish(it, take_back(it, request), &it.counters.unanswered)
        request = following


cdef void tell_if_drained(Dispatcher* it, Worker* worker) noexcept nogil:
    cdef Peer* peer = worker.peer
    if worker.draining and not worker.told_drained and not worker.live and not worker.one_way:
        worker.told_drained = True
        notice(it.notices, it.now, WORKER_DRAINED, BACKEND, peer.number, peer.name, b"", 0, 0)
