"""See deaths.pxd."""

from libc.string cimport memcpy
from zqueue.engine.wire.entities cimport NAME, Attempt
from zqueue.engine.wire.error_replies cimport cause_name, tell_of_death
from zqueue.engine.wire.memory cimport SMALL_SLAB, body_bytes, zeros_new
from zqueue.engine.wire.requests cimport ages_no_more, attempts_at, request_free
from zqueue.engine.wire.slabs cimport piece_give
from zqueue.engine.wire.zmtp cimport frames_of

cdef enum:
    MOST_UNTAKEN = 1024
    MOST_UNTAKEN_BYTES = 64 << 20


cdef void die(Dispatcher* it, Request* request, int cause) noexcept nogil:
    """It must be in no line any more."""
    cdef Death* death = NULL
    it.counters.dead += 1
    it.counters.died[cause] += 1
    ages_no_more(it, request)
    tell_of_death(it, request, cause)
    if it.died_count < MOST_UNTAKEN and it.died_bytes + request.size <= MOST_UNTAKEN_BYTES:
        death = <Death*> zeros_new(&it.pool, sizeof(Death))
    if death == NULL:
        it.counters.unrecorded += 1
        request_free(it, request)
        return
    death.request, death.cause, death.at = request, cause, it.now
    if request.client.peer != NULL:
        memcpy(death.name, request.client.peer.name, NAME)
    if it.died_last != NULL:
        it.died_last.next = death
    else:
        it.died_first = death
    it.died_last = death
    it.died_count += 1
    it.died_bytes += request.size


cdef void remember_attempt(
    Dispatcher* it, Worker* worker, Request* request, int cause
) noexcept nogil:
    """This worker had it in vain. What there is no memory for is not remembered."""
    cdef Attempt* attempt = <Attempt*> zeros_new(&it.pool, sizeof(Attempt))
    if attempt == NULL:
        return
    attempt.worker, attempt.cause = worker.peer.number, cause
    attempt.given_at, attempt.ended_at = request.since, it.now
    memcpy(attempt.name, worker.peer.name, NAME)
    attempt.next = request.history
    request.history = attempt


cdef Death* deaths_take(Dispatcher* it) noexcept nogil:
    """All that died since the last call, the first one first; give them to :c:func:`deaths_free`."""
    cdef Death* first = it.died_first
    it.died_first = it.died_last = NULL
    it.died_count, it.died_bytes = 0, 0
    return first


cdef void deaths_free(Dispatcher* it, Death* first) noexcept nogil:
    cdef Death* death
    while first != NULL:
        death, first = first, first.next
        request_free(it, death.request)
        piece_give(death, SMALL_SLAB)


cdef list deaths_told(Death* first):
    """Each as Python has it; times are those of the monotonic clock, in nanoseconds."""
    cdef Death* death = first
    cdef Attempt* attempt
    cdef Request* request
    gathered = []
    while death != NULL:
        request = death.request
        history = []
        attempt = request.history
        while attempt != NULL:
            history.append({
                "worker": attempt.worker,
                "peer": attempt.name.decode(errors="replace"),
                "given_at": attempt.given_at,
                "ended_at": attempt.ended_at,
                "cause": cause_name(attempt.cause).decode(),
            })
            attempt = attempt.next
        gathered.append({
            "number": request.number,
            "cause": cause_name(death.cause).decode(),
            "received_at": request.received_at,
            "died_at": death.at,
            "attempts": attempts_at(request),
            "history": history[::-1],
            "peer": death.name.decode(errors="replace"),
            "client": (<const char*> request.client.id)[:request.client.id_size],
            "named": bool(request.client.named),
            "frames": frames_of(body_bytes(request.body), request.size),
            "envelope": request.envelope,
        })
        death = death.next
    return gathered
