"""See giving.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from zqueue.engine.wire.due cimport schedule_by
from zqueue.engine.wire.entities cimport (
    BACKEND,
    FRONTEND,
    HOLD,
    OF_BROKERS,
    OF_CLIENTS,
    WRITTEN_OFF,
    Client,
    Line,
    Peer,
    Request,
    Ring,
    Worker,
)
from zqueue.engine.wire.histogram cimport record
from zqueue.engine.wire.linux cimport zq_check
from zqueue.engine.wire.matches cimport next_alike, oldest_alike
from zqueue.engine.wire.memory cimport body_drop, outgoing_copy, outgoing_share
from zqueue.engine.wire.notices cimport MALFORMED, NO_WORKERS, notice
from zqueue.engine.wire.peers cimport make_dirty, peer_end
from zqueue.engine.wire.requests cimport (
    finish,
    hand_to,
    is_req,
    join_loose,
    leave_loose,
    oldest_in_line,
    request_free,
    take_back,
    unqueue,
    waits_apart,
)
from zqueue.engine.wire.return_addresses cimport address_frame, connection_mark
from zqueue.engine.wire.workers cimport (
    UNANSWERED,
    are_timed,
    late_at_most,
    least_of,
    least_of_both,
    place_worker,
    tell_if_drained,
    unplace_worker,
)
from zqueue.engine.wire.zmtp cimport ID_FRAME

cdef enum:
    SPARED_AT_ONCE = 4
    SEVERAL = 16


cdef void give_all(Dispatcher* it) noexcept nogil:
    """The oldest request to the worker with the least to do, again and again."""
    cdef Request* request
    cdef Worker* worker
    if it.strict.connected and not it.loose.connected:
        _drop_malformed(it, &it.waiting[OF_BROKERS].odd)
        if not it.brokers.connected:
            _drop_malformed(it, &it.waiting[OF_CLIENTS].odd)
    while (request := _next(it, &worker)) != NULL:
        if not _give(it, worker, request):
            return
    if it.counters.waiting:
        _tell_if_bereft(it)


cdef bint somebody_can_take(Dispatcher* it) noexcept nogil:
    """As :c:func:`can_give`, where something waits."""
    cdef Worker* worker = NULL
    return _next(it, &worker) != NULL


cdef Request* _next(Dispatcher* it, Worker** worker) noexcept nogil:
    """What comes next, and to whom: the oldest that somebody can take; NULL if there is none."""
    cdef Request* request = it.waiting[OF_CLIENTS].line.first
    if not it.counters.waiting or it.mode == HOLD:
        return NULL
    if request == NULL or not _is_all_in_line(it):
        return _next_of_several(it, worker)
    worker[0] = _for(it, request)
    return request if worker[0] != NULL else NULL


cdef inline bint _is_all_in_line(Dispatcher* it) noexcept nogil:
    """Whether what waits is of clients, was never returned, and has an envelope, as most of it."""
    return (
        it.waiting[OF_CLIENTS].returned == NULL
        and it.waiting[OF_CLIENTS].apart == NULL
        and it.waiting[OF_CLIENTS].odd.first == NULL
        and it.waiting[OF_BROKERS].line.first == NULL
        and it.waiting[OF_BROKERS].returned == NULL
        and it.waiting[OF_BROKERS].apart == NULL
        and it.waiting[OF_BROKERS].odd.first == NULL
    )


cdef Request* _next_of_several(Dispatcher* it, Worker** worker) noexcept nogil:
    """As :c:func:`_next`, whatever waits."""
    cdef Request* oldest[6]
    cdef Request* request
    cdef int place, count
    cdef bint waits = False
    count = _oldest_of_each(it, oldest)
    for place in range(count):
        request = oldest[place]
        # While one has to wait for a REP that it is alone at, REPs get no other, or it would wait
        # for ever; those that answer in any order, or not at all, have not to wait for that. What
        # is behind it in its own line would have to wait as it has.
        worker[0] = _loosely_for(it, request) if waits else _for(it, request)
        if worker[0] != NULL:
            return request
        waits = waits or request.envelope > 0
    return NULL


cdef inline int _oldest_of_each(Dispatcher* it, Request** oldest) noexcept nogil:
    """The oldest in each line, by age; how many there are."""
    cdef int whose, count = 0
    for whose in range(2):
        count = _among(oldest, count, oldest_in_line(&it.waiting[whose]))
        count = _among(oldest, count, it.waiting[whose].apart)
        count = _among(oldest, count, it.waiting[whose].odd.first)
    return count


cdef inline int _among(Request** oldest, int count, Request* request) noexcept nogil:
    cdef int place = count
    if request == NULL:
        return count
    while place and request.number < oldest[place - 1].number:
        oldest[place] = oldest[place - 1]
        place -= 1
    oldest[place] = request
    return count + 1


cdef inline Worker* _least_strict(Dispatcher* it) noexcept nogil:
    """One that has nothing may be given a request whatever others have."""
    cdef Worker* least = least_of(&it.strict)
    if least != NULL and least.count and (
        it.counters.in_flight_bytes >= it.settings.max_waiting_bytes
    ):
        return NULL
    return least


cdef inline Worker* _least_loose(Dispatcher* it, Ring* ring) noexcept nogil:
    """As with REPs; but what ends by no timeout is forgotten when others come, see
    :c:func:`_forget_unanswered`."""
    cdef Worker* least = least_of(ring)
    if least != NULL and least.count and are_timed(it) and (
        it.unanswered_bytes >= _unanswered_at_most(it)
    ):
        return NULL
    return least


cdef inline uint64_t _unanswered_at_most(Dispatcher* it) noexcept nogil:
    """How many bytes ROUTERs and DEALERs may have to answer. The other half is for REPs alone."""
    return it.settings.max_waiting_bytes // 2


cdef inline Worker* _for(Dispatcher* it, Request* request) noexcept nogil:
    """The worker with the least to do. Of REPs a suspect gets one that has nothing else: should
    that be lost, too, it is known why, and no other request is drawn into it."""
    cdef Worker* strict
    if not request.envelope:
        return _loosely_for(it, request)
    if not request.suspect:
        return least_of_both(_least_strict(it), _loosely_for(it, request))
    strict = least_of(&it.strict)
    return strict if strict != NULL and not strict.count else _loosely_for(it, request)


cdef inline Worker* _loosely_for(Dispatcher* it, Request* request) noexcept nogil:
    """The ROUTER or DEALER with the least to do. What came from a broker goes to no other, and not
    back to that one: two that are each other's worker would send it to and fro for ever."""
    cdef Worker* found = _one_of(it, &it.loose, request)
    if not it.brokers.able or request.client.broker:
        return found
    return least_of_both(found, _one_of(it, &it.brokers, request))


cdef Worker* _one_of(Dispatcher* it, Ring* ring, Request* request) noexcept nogil:
    cdef Worker* least
    cdef Worker* worker
    cdef int place
    if not request.envelope:
        return least_of(ring)
    least = _least_loose(it, ring)
    if least == NULL or not request.suspect or least.clean:
        return least
    # Beside one that was lost twice it may well be lost again, and not by its own doing, and so at one
    # that was set aside.
    if ring.clean:
        for place in range(ring.low, ring.size):
            worker = ring.first[place]
            while worker != NULL:
                if worker.clean:
                    return worker
                worker = worker.next
    # Twice lost itself it waits, so that in the end it is known which of them it was.
    return NULL if waits_apart(request) and least.suspects else least


cdef void _tell_if_bereft(Dispatcher* it) noexcept nogil:
    if it.strict.connected or it.loose.connected or it.brokers.connected:
        it.told_no_workers = False
    elif not it.told_no_workers:
        it.told_no_workers = True
        notice(it.notices, it.now, NO_WORKERS, BACKEND, 0, b"", b"", it.counters.waiting, 0)


cdef void _drop_malformed(Dispatcher* it, Line* odd) noexcept nogil:
    """A REP would discard them in silence and put the order of its answers in doubt."""
    cdef Request* request
    cdef Peer* peer
    while odd.first != NULL:
        request = unqueue(it, odd.first)
        peer = request.client.peer
        if peer != NULL and not request.probe:
            notice(
                it.notices, it.now, MALFORMED, FRONTEND, peer.number, peer.name,
                b"a REP needs an empty frame before the body", request.size, 0,
            )
        finish(it, request, &it.counters.malformed)


cdef bint _give(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """Send it to the worker; False if there is no memory, and it still waits."""
    cdef Peer* peer = worker.peer
    cdef uint8_t head[ID_FRAME]
    request.numbered = not worker.strict and not request.client.named
    if worker.strict or request.numbered:
        request.mark = <uint32_t> worker.given
    else:
        _settle_doubts(it, worker, request)
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
    request.end = <uint32_t> (peer.sent_bytes + peer.session.out.size) or 1
    hand_to(it, worker, request)
    worker.given += 1
    if not worker.strict:
        _forget_unanswered(it, request)
    if worker.tries:
        worker.tries, worker.tries_at = False, it.now + it.settings.service_timeout
    if it.settings.service_timeout:
        schedule_by(it, peer, it.now + it.settings.service_timeout)
    # Behind its equals also when it has no more than before.
    unplace_worker(it, worker)
    place_worker(it, worker)
    make_dirty(it, peer)
    return True


cdef void _settle_doubts(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """Forget those that look like it, that nobody waits for, and that may well have been answered by
    what was taken for a reply to one before them: the reply to this one would be taken for theirs, and
    so on with each after it. That the worker is only late with them is ruled out where it has nothing
    else to answer, or has answered what it was given later."""
    cdef Request* older = oldest_alike(it, worker, request)
    cdef Request* following
    # A REQ that asks something else waits for nothing that it has asked before.
    while older != NULL and older.doubts and (older.over or is_req(request.client)):
        if worker.passed <= older.since and not _has_only_alike(worker, older):
            break
        following = next_alike(older)
        if following != NULL:
            following.doubts = <uint8_t> min(255, following.doubts + older.doubts - 1)
        take_back(it, older)
        if older.over:
            request_free(it, older)
        else:
            finish(it, older, &it.counters.unclaimed)
        older = following


cdef bint _has_only_alike(Worker* worker, Request* oldest) noexcept nogil:
    """Whether it has nothing else to do than what looks like this; False if it has much."""
    cdef Request* request = oldest
    cdef uint32_t alike = 0
    if worker.count > SEVERAL:
        return False
    while request != NULL:
        alike += request.over != WRITTEN_OFF
        request = next_alike(request)
    return alike == worker.count


cdef void _forget_unanswered(Dispatcher* it, Request* newest) noexcept nogil:
    """ROUTERs and DEALERs need not answer, and what they do not is not kept for ever: of all that they
    have the oldest is forgotten. A request without an envelope is given to nobody else, so its bytes are
    not kept at all."""
    cdef Request* oldest
    cdef uint64_t most = <uint64_t> (it.loose.connected + it.brokers.connected) * UNANSWERED
    cdef int spared = 0
    while it.late_bytes > late_at_most(it) or it.late_count > most:
        _forget(it, it.late.first)
    if not newest.envelope:
        body_drop(&it.pool, newest.body)
        newest.body = NULL
        if newest.probe:
            _forget(it, newest)
        while it.one_way_count > most:
            _forget(it, it.one_way.first)
        return
    if are_timed(it):
        return
    while it.unanswered_count > most or it.unanswered_bytes > _unanswered_at_most(it):
        oldest = it.unanswered.first
        if oldest == newest:
            break
        if oldest.worker.live > 1:
            _forget(it, oldest)
            continue
        # It may be at it now: each may have one, however large that is.
        spared += 1
        if spared > SPARED_AT_ONCE:
            break
        leave_loose(it, oldest)
        join_loose(it, oldest)


cdef void _forget(Dispatcher* it, Request* request) noexcept nogil:
    cdef Worker* worker = request.worker
    cdef Client* client = request.client
    if client.latest == request:
        client.forgotten = <uint64_t> connection_mark(it, worker) << 32 | request.mark
    take_back(it, request)
    if request.over:
        request_free(it, request)
    else:
        finish(it, request, &it.counters.unanswered)
    place_worker(it, worker)
    tell_if_drained(it, worker)
