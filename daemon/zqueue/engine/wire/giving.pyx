"""See giving.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from zqueue.engine.wire.due cimport schedule_by
from zqueue.engine.wire.entities cimport BACKEND, FRONTEND, HOLD, IN_TURN, Peer, Request, Worker
from zqueue.engine.wire.histogram cimport record
from zqueue.engine.wire.linux cimport zq_check
from zqueue.engine.wire.memory cimport body_drop, outgoing_copy, outgoing_share
from zqueue.engine.wire.notices cimport MALFORMED, NO_WORKERS, notice
from zqueue.engine.wire.peers cimport make_dirty, peer_end
from zqueue.engine.wire.requests cimport (
    finish,
    hand_to,
    older_of,
    oldest_in_line,
    oldest_open,
    request_free,
    take_back,
    unqueue,
    waits_apart,
)
from zqueue.engine.wire.return_addresses cimport address_frame
from zqueue.engine.wire.workers cimport (
    late_at_most,
    least_of,
    least_of_all,
    place_worker,
    unplace_worker,
)
from zqueue.engine.wire.zmtp cimport ID_FRAME

cdef enum:
    UNANSWERED = 10_000


cdef void give_all(Dispatcher* it) noexcept nogil:
    """The oldest request to the worker with the least to do, again and again."""
    cdef Request* request
    cdef Worker* worker
    if it.odd.first != NULL and not it.loose.connected and it.strict.connected:
        _drop_malformed(it)
    while (request := _next(it, &worker)) != NULL:
        if not _give(it, worker, request):
            return
    if it.counters.waiting:
        _tell_if_bereft(it)


cdef bint can_give(Dispatcher* it) noexcept nogil:
    """Whether something waits, and a worker can take it."""
    cdef Worker* worker = NULL
    return _next(it, &worker) != NULL


cdef Request* _next(Dispatcher* it, Worker** worker) noexcept nogil:
    """What comes next, and to whom: the oldest that somebody can take; NULL if there is none."""
    cdef Request* older = older_of(oldest_in_line(it), it.apart)
    cdef Request* odd = it.odd.first if it.loose.able else NULL
    cdef Request* younger
    if it.mode == HOLD or it.counters.in_flight_bytes >= it.settings.max_waiting_bytes:
        return NULL
    worker[0] = NULL
    if older != NULL and older_of(older, odd) == older:
        worker[0] = _for(it, older)
        if worker[0] != NULL:
            return older
        # While it has to wait for one that it is alone at, REPs get no other, or it would wait for
        # ever; those that answer in any order, or not at all, have not to wait for that. What is
        # behind it in its own line would have to wait as it has.
        younger = oldest_in_line(it) if older == it.apart else it.apart
        if younger != NULL and it.loose.able and older_of(younger, odd) == younger:
            worker[0] = _loose_for(it, younger)
            if worker[0] != NULL:
                return younger
    if odd != NULL:
        worker[0] = least_of(&it.loose)
    return odd


cdef inline Worker* _for(Dispatcher* it, Request* request) noexcept nogil:
    """The worker with the least to do. Of REPs a suspect gets one that has nothing else: should
    that be lost, too, it is known why, and no other request is drawn into it."""
    cdef Worker* strict
    if not request.suspect:
        return least_of_all(it)
    strict = least_of(&it.strict)
    return strict if strict != NULL and not strict.count else _loose_for(it, request)


cdef Worker* _loose_for(Dispatcher* it, Request* request) noexcept nogil:
    cdef Worker* least = least_of(&it.loose)
    cdef Worker* worker
    cdef int place
    if least == NULL or not least.suspects or not request.suspect:
        return least
    # Beside one that was lost twice it may well be lost again, and not by its own doing.
    if it.loose.clean:
        for place in range(it.loose.low, it.loose.size):
            worker = it.loose.first[place]
            while worker != NULL:
                if worker.clean:
                    return worker
                worker = worker.next
    # Twice lost itself it waits, so that in the end it is known which of them it was.
    return NULL if waits_apart(request) else least


cdef void _tell_if_bereft(Dispatcher* it) noexcept nogil:
    if it.strict.connected or it.loose.connected:
        it.told_no_workers = False
    elif not it.told_no_workers:
        it.told_no_workers = True
        notice(it.notices, it.now, NO_WORKERS, BACKEND, 0, b"", b"", it.counters.waiting, 0)


cdef void _drop_malformed(Dispatcher* it) noexcept nogil:
    """A REP would discard them in silence and put the order of its answers in doubt."""
    cdef Request* request
    cdef Peer* peer
    while it.odd.first != NULL:
        request = unqueue(it, it.odd.first)
        peer = request.client.peer
        if peer != NULL:
            notice(
                it.notices, it.now, MALFORMED, FRONTEND, peer.number, peer.name,
                b"a REP needs an empty frame before the body", request.size, 0,
            )
        finish(it, request, &it.counters.malformed)


cdef bint _give(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """Send it to the worker; False if there is no memory, and it still waits."""
    cdef Peer* peer = worker.peer
    cdef uint8_t head[ID_FRAME]
    request.mark = <uint32_t> worker.given
    if not (
        outgoing_copy(&it.pool, &peer.session.out, head, address_frame(it, worker, request, head))
        and outgoing_share(&it.pool, &peer.session.out, request.body, 0, request.size)
    ):
        # Half a message may be on its way: this connection is of no use any more.
        peer_end(it, peer, b"there is no memory to send to it")
        return False
    zq_check(not worker.peer.ended and worker.count < worker.credit)
    unqueue(it, request)
    record(&it.queueing, it.now - request.since)
    hand_to(it, worker, request)
    worker.given += 1
    if not worker.strict:
        _forget_unanswered(it, worker)
    if it.settings.service_timeout:
        schedule_by(it, peer, it.now + it.settings.service_timeout)
    # Behind its equals also when it has no more than before.
    unplace_worker(it, worker)
    place_worker(it, worker)
    make_dirty(it, peer)
    return True


cdef void _forget_unanswered(Dispatcher* it, Worker* worker) noexcept nogil:
    """A ROUTER or DEALER need not answer, and what it does not is not kept for ever. A request
    without an envelope is given to nobody else, so its bytes are not kept at all."""
    cdef Request* newest = worker.outstanding.last
    cdef Request* oldest
    cdef Request* after
    cdef uint64_t most = late_at_most(it)
    if not newest.envelope:
        body_drop(&it.pool, newest.body)
        newest.body = NULL
    while worker.count + worker.odd > UNANSWERED:
        _forget(it, worker.outstanding.first)
    while worker.bytes > most:
        oldest = oldest_open(worker)
        if oldest == newest:
            break
        _forget(it, oldest)
    # What is over has only its envelope any more, and its late reply is to be known.
    oldest = worker.outstanding.first
    while worker.late_bytes > most:
        after = oldest.beside[IN_TURN].next
        if oldest.over:
            _forget(it, oldest)
        oldest = after


cdef void _forget(Dispatcher* it, Request* request) noexcept nogil:
    take_back(it, request)
    if request.over:
        request_free(it, request)
    else:
        finish(it, request, &it.counters.unanswered)
