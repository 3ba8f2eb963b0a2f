"""Workers by how much they have to do: who gets the next request, and how many ahead."""

from libc.stdint cimport int64_t, uint64_t
from zqueue.engine.wire.entities cimport Dispatcher, Ring, Worker

# ``UNANSWERED``: what a ROUTER or DEALER may have to answer.
cdef enum:
    UNANSWERED = 10_000
    UNLIMITED = 0x7FFFFFFF
    WORKER_UNSENT = 256 << 10

cdef bint ring_reaches(Ring* ring, int place) noexcept nogil
cdef void ring_free(Ring* ring) noexcept nogil
cdef void worker_drain(Dispatcher* it, Worker* worker) noexcept nogil
cdef void finish_one_way(Dispatcher* it, Worker* worker) noexcept nogil
cdef void tell_if_drained(Dispatcher* it, Worker* worker) noexcept nogil
cdef void measure_worker(
    Dispatcher* it, Worker* worker, uint64_t answers, int64_t since
) noexcept nogil


cdef inline uint64_t late_at_most(Dispatcher* it) noexcept nogil:
    """How many bytes of envelopes of requests that are over are kept for a REP, and for all ROUTERs and
    DEALERs together."""
    return it.settings.max_waiting_bytes // 4


cdef inline bint are_timed(Dispatcher* it) noexcept nogil:
    """Whether what a ROUTER or DEALER does not answer ends by itself."""
    return it.settings.deadline > 0 or it.settings.service_timeout > 0


cdef inline Ring* ring_of_kind(Dispatcher* it, Worker* worker) noexcept nogil:
    """Where those of its kind are."""
    if worker.strict:
        return &it.strict
    return &it.brokers if worker.broker else &it.loose


cdef inline bint _is_clean(Worker* worker) noexcept nogil:
    """Whether nothing is known by which a request that it gets might be lost again."""
    return not worker.suspects and not worker.aside


cdef inline bint _is_able(Dispatcher* it, Worker* worker) noexcept nogil:
    return (
        not worker.draining
        and (not worker.aside or (worker.tries and not worker.live))
        and not (worker.strict and worker.suspects)
        and not worker.peer.ended
        and not worker.peer.deaf
        and worker.count < worker.credit
        and worker.peer.session.out.size < WORKER_UNSENT
        and not (worker.strict and worker.late_bytes > late_at_most(it))
    )


cdef inline void unplace_worker(Dispatcher* it, Worker* worker) noexcept nogil:
    cdef Ring* ring = ring_of_kind(it, worker)
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
    ring.clean -= worker.clean


cdef inline void place_worker(Dispatcher* it, Worker* worker) noexcept nogil:
    """Put it among those with as many requests as it has, at the end, if it can take another."""
    cdef Ring* ring = ring_of_kind(it, worker)
    cdef bint able = _is_able(it, worker)
    cdef int place = <int> worker.count
    if worker.place >= 0:
        if able and worker.place == place:
            ring.clean += _is_clean(worker) - worker.clean
            worker.clean = _is_clean(worker)
            return
        unplace_worker(it, worker)
    if not able or (place >= ring.size and not ring_reaches(ring, place)):
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
    worker.clean = _is_clean(worker)
    ring.clean += worker.clean


cdef inline Worker* least_of(Ring* ring) noexcept nogil:
    if not ring.able:
        return NULL
    # Looked for here and not when one leaves its place: most come back next to where they were.
    while ring.first[ring.low] == NULL:
        ring.low += 1
    return ring.first[ring.low]


cdef inline Worker* least_of_both(Worker* one, Worker* other) noexcept nogil:
    """Which of two, each NULL if it is not there, has less to do; equal ones take turns."""
    if one == NULL or (other != NULL and other.count < one.count):
        return other
    if other == NULL or one.count < other.count:
        return one
    return other if other.given < one.given else one
