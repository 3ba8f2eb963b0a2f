"""Back-pressure: from whom another request may be taken, and who waits until one may be."""

from libc.stdint cimport uint64_t
from zqueue.engine.wire.entities cimport DRAIN, HOLDS, Client, Dispatcher, Peer
from zqueue.engine.wire.peers cimport is_gone

cdef void tell_of_congestion(Dispatcher* it, Peer* peer) noexcept nogil
cdef void stall(Dispatcher* it, Peer* peer) noexcept nogil
cdef void unstall_itself(Dispatcher* it, Peer* peer) noexcept nogil
cdef void leave_stalled(Dispatcher* it, Peer* peer) noexcept nogil


cdef inline bint is_full(Dispatcher* it) noexcept nogil:
    return (
        it.counters.waiting >= it.settings.max_waiting
        or it.counters.waiting_bytes >= it.settings.max_waiting_bytes
    )


cdef inline bint has_room(Dispatcher* it) noexcept nogil:
    if it.settings.when_full != HOLDS:
        return it.mode != DRAIN
    # What is kept for those whose turn it is is not to be had.
    return it.mode != DRAIN and not is_full(it) and (
        it.counters.waiting + it.invited < it.settings.max_waiting
    )


cdef inline uint64_t unread_at_most(Dispatcher* it) noexcept nogil:
    """From so many bytes on that it does not read a client is not read from either."""
    return max(it.settings.client_unsent // 4, <uint64_t> 1)


cdef inline bint admitted_itself(Dispatcher* it, Peer* peer) noexcept nogil:
    """Whether it has room of its own for one more request. What it sent on a connection before this
    one comes first."""
    cdef Client* client = peer.client
    return (
        (client.leaving == NULL or client.leaving == peer)
        and (not it.settings.client_waiting or client.waiting < it.settings.client_waiting)
        and client.waiting_bytes < it.settings.client_waiting_bytes
        and peer.session.out.size < unread_at_most(it)
    )


cdef inline bint admitted(Dispatcher* it, Peer* peer) noexcept nogil:
    """Whether one more request may be taken from it. Others who wait for room come first; what is
    withdrawn at once needs none."""
    if peer.leaving and is_gone(peer.client):
        return True
    if it.serving:
        if it.quota <= 0:
            return False
    elif it.stalled:
        return False
    return has_room(it) and admitted_itself(it, peer)
