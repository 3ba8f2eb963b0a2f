"""One queue's state machine: what becomes of messages, and who gets what. No sockets.

Bytes that came for a peer go in by :c:func:`peer_take`, those that are to go out gather in
``peer.session.out``; the peers concerned are in the list ``dirty``. Between two calls
``received = waiting + in_flight + replied + withdrawn + dead + malformed + unanswered``.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from zqueue.engine.wire.entities cimport Dispatcher, Peer, Settings
from zqueue.engine.wire.notices cimport Notices

cdef bint dispatcher_open(
    Dispatcher* it, const Settings* settings, Notices* notices, uint32_t first_id
) noexcept nogil
cdef void dispatcher_close(Dispatcher* it) noexcept nogil
cdef void dispatcher_mode(Dispatcher* it, int mode) noexcept nogil
cdef void dispatcher_turn(Dispatcher* it) noexcept nogil
cdef bint dispatcher_can_give(Dispatcher* it) noexcept nogil
cdef void dispatcher_pulse(Dispatcher* it) noexcept nogil

cdef Peer* peer_open(Dispatcher* it, int side, const char* name) noexcept nogil
cdef bint peer_was_read(Dispatcher* it, Peer* peer) noexcept nogil
cdef void peer_take(Dispatcher* it, Peer* peer, const uint8_t* data, size_t size) noexcept nogil
cdef bint peer_reads(Dispatcher* it, Peer* peer) noexcept nogil
cdef size_t peer_room(Dispatcher* it, Peer* peer, uint8_t** room) noexcept nogil
cdef void peer_sent(Dispatcher* it, Peer* peer, size_t size) noexcept nogil
cdef void peer_end(Dispatcher* it, Peer* peer, const char* reason) noexcept nogil
cdef void peer_close(Dispatcher* it, Peer* peer) noexcept nogil
cdef void peer_is_ready(Dispatcher* it, Peer* peer) noexcept nogil
cdef Peer* peer_numbered(Dispatcher* it, int64_t number) noexcept nogil
cdef bint worker_drain(Dispatcher* it, Peer* peer) noexcept nogil
