"""See admission.pxd."""

from zqueue.engine.wire.entities cimport BY_ITSELF, DRAIN, FLOWS, FRONTEND, IN_LINE
from zqueue.engine.wire.notices cimport CONGESTED, notice


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
    if peer.session.out.size >= unread_at_most(it):
        return b"a client does not read its replies"
    return b"a client has as many requests waiting as it may"


cdef void unstall_itself(Dispatcher* it, Peer* peer) noexcept nogil:
    if admitted_itself(it, peer):
        _join(it, peer)


cdef void _join(Dispatcher* it, Peer* peer) noexcept nogil:
    peer.stalled = IN_LINE
    peer.stalled_next = NULL
    peer.stalled_previous = it.stalled_last
    if it.stalled_last == NULL:
        it.stalled_first = peer
    else:
        it.stalled_last.stalled_next = peer
    it.stalled_last = peer
    it.stalled += 1


cdef void leave_stalled(Dispatcher* it, Peer* peer) noexcept nogil:
    if peer.stalled_previous == NULL:
        it.stalled_first = peer.stalled_next
    else:
        peer.stalled_previous.stalled_next = peer.stalled_next
    if peer.stalled_next == NULL:
        it.stalled_last = peer.stalled_previous
    else:
        peer.stalled_next.stalled_previous = peer.stalled_previous
    it.stalled -= 1
    peer.stalled = FLOWS
