"""What every part of the state machine may do with a connection: mark it, find it, end it."""

from libc.stdint cimport int64_t
from zqueue.engine.wire.entities cimport Client, Dispatcher, Peer

cdef inline void make_dirty(Dispatcher* it, Peer* peer) noexcept nogil:
    if not peer.dirty:
        peer.dirty = True
        peer.dirty_previous = NULL
        peer.dirty_next = it.dirty
        if it.dirty != NULL:
            it.dirty.dirty_previous = peer
        it.dirty = peer

cdef inline void leave_dirty(Dispatcher* it, Peer* peer) noexcept nogil:
    """Take it out of the list ``dirty``, in which it is."""
    peer.dirty = False
    if peer.dirty_next != NULL:
        peer.dirty_next.dirty_previous = peer.dirty_previous
    if peer.dirty_previous != NULL:
        peer.dirty_previous.dirty_next = peer.dirty_next
    else:
        it.dirty = peer.dirty_next

cdef inline bint has_arrived(Peer* peer) noexcept nogil:
    return peer.client != NULL or peer.worker != NULL

cdef inline bint can_be_told(Peer* peer) noexcept nogil:
    return peer != NULL and not peer.ended and not peer.deaf

# Nobody waits for what it asked for, and it has not been asked to last.
cdef inline bint is_gone(Client* client) noexcept nogil:
    return client.peer == NULL and client.absence == NULL and not client.lasting

# Nothing is left that belongs to it.
cdef inline bint is_unused(Client* client) noexcept nogil:
    return (
        not client.requests
        and client.peer == NULL
        and client.absence == NULL
        and client.leaving == NULL
    )

# Whether something is kept, or to come, for a client that is away.
cdef inline bint is_owed(Client* client) noexcept nogil:
    return (
        client.requests > 0 or client.leaving != NULL or client.absence.kept.first != NULL
    )

# Nothing is owed to a client that is away: it is forgotten in this turn.
cdef inline void owe_no_more(Dispatcher* it, Client* client) noexcept nogil:
    if client.absence != NULL and not client.absence.unowed and not is_owed(client):
        client.absence.unowed = True
        client.absence.unowed_next = it.unowed
        it.unowed = client.absence

cdef void peer_is_ready(Dispatcher* it, Peer* peer) noexcept nogil
cdef void leave_ready(Dispatcher* it, Peer* peer) noexcept nogil
cdef Peer* peer_numbered(Dispatcher* it, int64_t number) noexcept nogil
cdef void peer_end(Dispatcher* it, Peer* peer, const char* reason) noexcept nogil
