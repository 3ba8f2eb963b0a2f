"""See workers.pxd."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memset
from zqueue.engine.wire.entities cimport BACKEND, Peer
from zqueue.engine.wire.notices cimport WORKER_DRAINED, notice

cdef enum:
    WORKER_UNSENT = 256 << 10
    DEEPEST = 4096
    MILLISECOND = 1_000_000


cdef inline bint _is_able(Worker* worker) noexcept nogil:
    return (
        not worker.draining
        and not worker.aside
        and not (worker.strict and worker.suspects)
        and not worker.peer.ended
        and not worker.peer.deaf
        and worker.count < worker.credit
        and worker.peer.session.out.size < WORKER_UNSENT
    )


cdef void place_worker(Dispatcher* it, Worker* worker) noexcept nogil:
    """Put it among those with as many requests as it has, at the end, if it can take another."""
    cdef Ring* ring = &it.strict if worker.strict else &it.loose
    cdef bint able = _is_able(worker)
    cdef int place = <int> worker.count
    if worker.place >= 0:
        if able and worker.place == place:
            return
        unplace_worker(it, worker)
    if not able or not ring_reaches(ring, place):
        return
    worker.place = place
    worker.next = NULL
    worker.previous = ring.last[place]
    if worker.previous != NULL:
        worker.previous.next = worker
    else:
        ring.first[place] = worker
    ring.last[place] = worker
    if not ring.able or place < ring.low:
        ring.low = place
    ring.able += 1


cdef void unplace_worker(Dispatcher* it, Worker* worker) noexcept nogil:
    cdef Ring* ring = &it.strict if worker.strict else &it.loose
    if worker.place < 0:
        return
    if worker.next != NULL:
        worker.next.previous = worker.previous
    else:
        ring.last[worker.place] = worker.previous
    if worker.previous != NULL:
        worker.previous.next = worker.next
    else:
        ring.first[worker.place] = worker.next
    worker.place = -1
    ring.able -= 1
    while ring.able and ring.first[ring.low] == NULL:
        ring.low += 1


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


cdef Worker* least_of(Ring* ring) noexcept nogil:
    return ring.first[ring.low] if ring.able else NULL


cdef Worker* least_of_all(Dispatcher* it) noexcept nogil:
    cdef Worker* strict = least_of(&it.strict)
    cdef Worker* loose = least_of(&it.loose)
    if strict == NULL or (loose != NULL and loose.count < strict.count):
        return loose
    if loose == NULL or strict.count < loose.count:
        return strict
    return loose if loose.given < strict.given else strict


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
        tell_if_drained(it, worker)


cdef void tell_if_drained(Dispatcher* it, Worker* worker) noexcept nogil:
    cdef Peer* peer = worker.peer
    if worker.draining and not worker.told_drained and worker.outstanding.first == NULL:
        worker.told_drained = True
        notice(it.notices, it.now, WORKER_DRAINED, BACKEND, peer.number, peer.name, b"", 0, 0)
