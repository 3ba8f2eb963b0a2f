"""One queue's state machine: what becomes of messages, and who gets what. No sockets.

Bytes that came for a peer go in by :c:func:`peer_take`, those that are to go out gather in
``peer.session.out``; the peers concerned are in the list ``dirty``. Between two calls
``received = waiting + in_flight + kept + replied + unclaimed + withdrawn + dead + rejected +
malformed + unanswered``.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from zqueue.engine.wire.entities cimport Dispatcher, Peer, Settings
from zqueue.engine.wire.keyed_hash cimport Secret
from zqueue.engine.wire.notices cimport Notices

cdef bint dispatcher_open(
    Dispatcher* it, const Settings* settings, Notices* notices, uint32_t first_id, Secret secret
) noexcept nogil
cdef void dispatcher_close(Dispatcher* it) noexcept nogil
cdef void dispatcher_mode(Dispatcher* it, int mode) noexcept nogil
cdef void dispatcher_turn(Dispatcher* it) noexcept nogil
cdef int64_t dispatcher_due(Dispatcher* it) noexcept nogil
cdef Peer* dispatcher_pulse(Dispatcher* it) noexcept nogil
cdef void peer_moved(
    Dispatcher* it, Peer* peer, int64_t delivered, uint64_t unsent, uint64_t edge
) noexcept nogil

cdef Peer* peer_open(Dispatcher* it, int side, const char* name) noexcept nogil
cdef Peer* peer_again(Dispatcher* it, int side, Peer* last) noexcept nogil
cdef void peer_pulse(Dispatcher* it, Peer* peer) noexcept nogil
cdef bint worker_new(Dispatcher* it, Peer* peer) noexcept nogil
cdef void worker_is_of_kind(Dispatcher* it, Peer* peer) noexcept nogil
cdef void know_broker(Dispatcher* it, Peer* peer) noexcept nogil
cdef void peer_hung_up(Dispatcher* it, Peer* peer) noexcept nogil
cdef void peer_deaf(Dispatcher* it, Peer* peer) noexcept nogil
cdef bint peer_was_read(Dispatcher* it, Peer* peer) noexcept nogil
cdef void peer_take(Dispatcher* it, Peer* peer, const uint8_t* data, size_t size) noexcept nogil
cdef bint peer_reads(Dispatcher* it, Peer* peer) noexcept nogil
cdef size_t peer_room(Dispatcher* it, Peer* peer, uint8_t** room) noexcept nogil
cdef void peer_sent(Dispatcher* it, Peer* peer, size_t size) noexcept nogil
cdef void peer_close(Dispatcher* it, Peer* peer) noexcept nogil
