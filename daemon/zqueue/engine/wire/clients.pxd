"""Clients: how they come, go, come back, and what is sent to them."""

from libc.stdint cimport uint8_t
from zqueue.engine.wire.entities cimport Absence, Body, Client, Dispatcher, Peer
from zqueue.engine.wire.peers cimport can_be_told

# How soon one that waits for a routing id looks again whether it is free.
cdef enum:
    CLAIM_LOOKS = 10_000_000

cdef enum Sent:
    REFUSED_BY_CLIENT
    SENT
    KEPT

cdef bint client_arrived(
    Dispatcher* it, Peer* peer, const uint8_t* id, size_t size
) noexcept nogil
cdef bint claim_settled(Dispatcher* it, Peer* peer) noexcept nogil
cdef Peer* claim_holder(Dispatcher* it, Peer* peer) noexcept nogil
cdef void claim_over(Dispatcher* it, Peer* peer) noexcept nogil
cdef Client* client_new(Dispatcher* it, const uint8_t* id, size_t size) noexcept nogil
cdef Client* client_absent(Dispatcher* it, const uint8_t* id, size_t size) noexcept nogil
cdef void client_leaves(Dispatcher* it, Peer* peer, const char* reason) noexcept nogil
cdef void client_left(Dispatcher* it, Peer* peer) noexcept nogil
cdef bint absence_begins(Dispatcher* it, Client* client) noexcept nogil
cdef void absences_tidied(Dispatcher* it) noexcept nogil
cdef void client_is_sent_part(Dispatcher* it, Peer* peer, size_t size) noexcept nogil
cdef void absence_over(Dispatcher* it, Absence* absence) noexcept nogil
cdef Client* client_instead(Dispatcher* it, Client* client) noexcept nogil
cdef int client_send(
    Dispatcher* it, Client* client, const uint8_t* data, size_t size, Body* owner, size_t begin
) noexcept nogil

cdef inline Client* who_hears(Dispatcher* it, Client* client) noexcept nogil:
    """Whoever is told of what this client asked for; NULL if it is nobody."""
    if client.absence != NULL or can_be_told(client.peer):
        return client
    return client_instead(it, client)


cdef inline void client_is_sent(Dispatcher* it, Peer* peer, size_t size) noexcept nogil:
    """So many bytes of what it is to be sent go out now. What is written whole counts as replied."""
    if size == peer.session.out.size and not peer.client.unsent:
        peer.ahead = peer.begun = 0
        peer.boundary_lost = False
    else:
        client_is_sent_part(it, peer, size)
