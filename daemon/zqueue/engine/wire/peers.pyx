"""See peers.pxd."""

from zqueue.engine.wire.workers cimport place_worker


cdef void make_clean(Dispatcher* it, Peer* peer) noexcept nogil:
    """Take it out of the list ``dirty``, if it is there."""
    cdef Peer** place = &it.dirty
    while place[0] != NULL and place[0] != peer:
        place = &place[0].dirty_next
    if place[0] != NULL:
        place[0] = peer.dirty_next
    peer.dirty = False


cdef void peer_is_ready(Dispatcher* it, Peer* peer) noexcept nogil:
    """It may be read from though its descriptor will not say so again."""
    if not peer.ready:
        peer.ready = True
        peer.ready_next = it.ready
        it.ready = peer


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
