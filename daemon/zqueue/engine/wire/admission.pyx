"""See admission.pxd."""

from zqueue.engine.wire.entities cimport BY_ITSELF, DRAIN, FLOWS, FRONTEND, HOLDS, IN_LINE, Client
from zqueue.engine.wire.notices cimport CONGESTED, notice


cdef bint is_full(Dispatcher* it) noexcept nogil:
    return (
        it.counters.waiting >= it.settings.max_waiting
        or it.counters.waiting_bytes >= it.settings.max_waiting_bytes
    )


cdef bint has_room(Dispatcher* it) noexcept nogil:
    if it.settings.when_full != HOLDS:
        return it.mode != DRAIN
    # What is kept for those whose turn it is is not to be had.
    return it.mode != DRAIN and not is_full(it) and (
        it.counters.waiting + it.invited < it.settings.max_waiting
    )


cdef bint admitted_itself(Dispatcher* it, Peer* peer) noexcept nogil:
    """Whether it has room of its own for one more request."""
    cdef Client* client = peer.client
    return (
        (not it.settings.client_waiting or client.waiting < it.settings.client_waiting)
        and client.waiting_bytes < it.settings.client_waiting_bytes
        and peer.session.out.size < it.settings.client_unsent // 4
    )


cdef bint admitted(Dispatcher* it, Peer* peer) noexcept nogil:
    """Whether one more request may be taken from it. Others who wait for room come first."""
    if it.serving:
        if it.quota <= 0:
            return False
    elif it.stalled:
        return False
    return has_room(it) and admitted_itself(it, peer)


cdef void stall(Dispatcher* it, Peer* peer) noexcept nogil:
    """Read no more from it until there is room."""
    tell_of_congestion(it, peer)
    if admitted_itself(it, peer):
        _join(it, peer)
    else:
        peer.stalled = BY_ITSELF


cdef void tell_of_congestion(Dispatcher* it, Peer* peer) noexcept nogil:
    """Once, until nothing waits any more."""
    if it.told_congested or it.mode == DRAIN:
        return
    it.told_congested = True
    notice(
        it.notices, it.now, CONGESTED, FRONTEND, peer.number, peer.name, _why_held(it, peer),
        it.counters.waiting, 0,
    )


cdef const char* _why_held(Dispatcher* it, Peer* peer) noexcept nogil:
    if it.counters.waiting >= it.settings.max_waiting:
        return b"max_waiting is reached"
    if it.counters.waiting_bytes >= it.settings.max_waiting_bytes:
        return b"max_waiting_bytes is reached"
    if peer.session.out.size >= it.settings.client_unsent // 4:
        return b"a client does not read its replies"
    return b"a client has as many requests waiting as it may"


cdef void unstall_itself(Dispatcher* it, Peer* peer) noexcept nogil:
    if admitted_itself(it, peer):
        _join(it, peer)


cdef void _join(Dispatcher* it, Peer* peer) noexcept nogil:
    peer.stalled = IN_LINE
    peer.stalled_next = NULL
    if it.stalled_last == NULL:
        it.stalled_first = peer
    else:
        it.stalled_last.stalled_next = peer
    it.stalled_last = peer
    it.stalled += 1


cdef void leave_stalled(Dispatcher* it, Peer* peer) noexcept nogil:
    cdef Peer* before = NULL
    cdef Peer* at = it.stalled_first
    while at != peer:
        before, at = at, at.stalled_next
    if before == NULL:
        it.stalled_first = peer.stalled_next
    else:
        before.stalled_next = peer.stalled_next
    if it.stalled_last == peer:
        it.stalled_last = before
    it.stalled -= 1
    peer.stalled = FLOWS
