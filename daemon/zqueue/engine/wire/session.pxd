"""One connection's ZMTP: greeting, handshake, heartbeats; messages in, bytes out. No sockets, and
no clock but the one it is told."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from zqueue.engine.wire.memory cimport Outgoing, Pool
from zqueue.engine.wire.zmtp cimport GREETING, LONGEST_BROKER_ID, Intake, Limits, Piece

# How long a peer that has greeted is waited for with our READY.
cdef enum:
    READY_WAIT = 1_000_000_000

cdef enum Stage:
    AWAITS_GREETING
    AWAITS_READY
    TALKS
    ENDED

# What :c:func:`session_next` found, beside NOTHING and MESSAGE of zmtp.
cdef enum Happened:
    ARRIVED = 100
    REFUSED
    BROKE_PROTOCOL

# Durations are nanoseconds; an ``interval`` of 0 is no heartbeat.
cdef struct Heartbeat:
    int64_t interval
    int64_t timeout

# What is looked at for each message comes first.
cdef struct Session:
    int stage
    # READY has not gone out: the peer's is judged first.
    bint owes_ready
    Intake intake
    Outgoing out
    const char* fault
    int64_t heard_at
    int64_t ttl
    int own_type
    int peer_type
    int major
    int minor
    int greeted
    bint awaits_pong
    int64_t pinged_at
    int64_t opened_at
    # What the kernel last said of what is on its way to the peer (see session_moved). ``behind``: the PING
    # that is not answered yet stands behind other bytes. ``moved_at``: when the peer last took some.
    int64_t delivered
    uint64_t unsent
    uint64_t edge
    bint looked_at
    bint behind
    int64_t moved_at
    uint8_t greeting[GREETING]
    # What tells this broker from others, and what tells the peer, if that is one; else empty.
    const char* broker_id
    char peer_broker_id[LONGEST_BROKER_ID + 1]

cdef bint greeting_fits(const Session* session) noexcept nogil
cdef bint session_open(Session* session, Pool* pool, int own_type, int64_t now) noexcept nogil
cdef int session_next(
    Session* session,
    Pool* pool,
    const Limits* limits,
    const uint8_t* data,
    size_t size,
    size_t* used,
    Piece* piece,
) noexcept nogil
cdef int64_t session_pulse(
    Session* session, Pool* pool, const Heartbeat* heartbeat, int64_t handshake, int64_t now
) noexcept nogil
cdef bint session_wants_look(
    Session* session, const Heartbeat* heartbeat, int64_t now
) noexcept nogil
cdef void session_moved(
    Session* session, int64_t delivered, uint64_t unsent, uint64_t edge, int64_t now
) noexcept nogil
cdef bint session_ready(Session* session, Pool* pool) noexcept nogil
cdef bint session_ask(Session* session, Pool* pool, int64_t now) noexcept nogil
cdef void session_refuse(Session* session, Pool* pool, const char* reason) noexcept nogil
cdef void session_clear(Session* session, Pool* pool) noexcept nogil
