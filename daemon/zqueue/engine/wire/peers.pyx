"""See peers.pxd."""

from zqueue.engine.wire.workers cimport place_worker


cdef void peer_is_ready(Dispatcher* it, Peer* peer) noexcept nogil:
    """It may be read from though its descriptor will not say so again."""
    if not peer.ready:
        peer.ready = True
        peer.ready_previous = NULL
        peer.ready_next = it.ready
        if it.ready != NULL:
            it.ready.ready_previous = peer
        it.ready = peer


cdef void leave_ready(Dispatcher* it, Peer* peer) noexcept nogil:
    """Take it out of the list ``ready``, in which it is."""
    peer.ready = False
    if peer.ready_next != NULL:
        peer.ready_next.ready_previous = peer.ready_previous
    if peer.ready_previous != NULL:
        peer.ready_previous.ready_next = peer.ready_next
    else:
        it.ready = peer.ready_next


cdef Peer* peer_numbered(Dispatcher* it, int64_t number) noexcept nogil:
    cdef Peer* peer = it.peers
    while peer != NULL and peer.number != number:
        peer = peer.next
    return peer


cdef void peer_end(Dispatcher* it, Peer* peer, const char* reason) noexcept nogil:
    """It is to be closed: it has left (``reason`` is NULL or what the kernel said), or has to."""
    if peer.ended:
        return
    if reason != NULL:
        peer.session.fault = reason
    peer.ended = True
    peer.ended_next = it.ended
    it.ended = peer
    if peer.worker != NULL:
        place_worker(it, peer.worker)
