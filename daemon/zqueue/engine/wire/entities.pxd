"""What there is in a queue: its peers, clients, workers and requests, its limits and its counters."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from zqueue.engine.wire.histogram cimport Histogram
from zqueue.engine.wire.memory cimport Body, Pool
from zqueue.engine.wire.notices cimport NAME, Notices
from zqueue.engine.wire.session cimport Heartbeat, Session
from zqueue.engine.wire.tap cimport Tap
from zqueue.engine.wire.zmtp cimport Limits

cdef enum:
    FRONTEND = 0
    BACKEND = 1
    LONGEST_ENVELOPE = 1 << 20
    DEEPEST_ENVELOPE = 10_000

cdef enum Mode:
    FORWARD
    HOLD
    DRAIN

cdef enum Stall:
    FLOWS
    IN_LINE
    BY_ITSELF

# Durations are nanoseconds. 0 is: no limit, for the numbers; measured, for ``prefetch``.
cdef struct Settings:
    Limits limits[2]
    uint64_t max_waiting
    uint64_t max_waiting_bytes
    uint64_t client_waiting
    uint64_t client_waiting_bytes
    uint64_t client_unsent
    uint32_t prefetch
    uint32_t worker_ahead
    uint32_t max_attempts
    bint handover
    int64_t handshake[2]
    Heartbeat heartbeat[2]

# Written by the data path's thread alone. Every number but those that say "now" only grows.
cdef struct Counters:
    uint64_t received
    uint64_t waiting
    uint64_t waiting_bytes
    uint64_t in_flight
    uint64_t in_flight_bytes
    uint64_t replied
    uint64_t withdrawn
    uint64_t dead
    uint64_t malformed
    uint64_t unanswered
    uint64_t returned
    uint64_t extra_replies
    uint64_t dropped_replies
    uint64_t request_frames
    uint64_t request_bytes
    uint64_t reply_messages
    uint64_t reply_frames
    uint64_t reply_bytes
    uint64_t protocol_errors
    uint64_t slow_clients
    uint64_t accepted[2]
    uint64_t connected[2]
    uint64_t disconnected[2]
    uint64_t rejected[2]

cdef struct Client:
    Peer* peer
    Client* next
    Request* first
    Request* last
    uint64_t waiting
    uint64_t waiting_bytes
    uint32_t requests
    uint32_t hash
    bint named
    uint8_t id_size
    uint8_t id[1]

cdef struct Request:
    Request* next
    Request* previous
    Request* client_next
    Request* client_previous
    Request* match_next
    Request* match_previous
    Client* client
    Worker* worker
    Body* body
    size_t size
    size_t envelope
    uint64_t number
    uint32_t match_hash
    uint32_t attempts
    int64_t received_at
    int64_t given_at

cdef struct Line:
    Request* first
    Request* last

# ``count`` is how many requests it has, besides ``odd`` that have no envelope and need no answer.
cdef struct Worker:
    Peer* peer
    Worker* next
    Worker* previous
    Line outstanding
    uint32_t count
    uint32_t odd
    uint64_t bytes
    uint32_t credit
    int place
    bint strict
    bint draining
    bint told_drained
    uint64_t given
    uint64_t answered
    int64_t answered_at
    double service

# Workers that can take a request, by how many they have.
cdef struct Ring:
    Worker** first
    Worker** last
    int size
    int low
    int able
    int connected

cdef struct Peer:
    Session session
    int side
    int64_t number
    char name[NAME]
    Client* client
    Worker* worker
    Peer* dirty_next
    Peer* ready_next
    Peer* stalled_next
    Peer* ended_next
    Peer* next
    Peer* previous
    bint dirty
    bint ready
    bint ended
    bint invited
    int stalled
    Body* held
    size_t held_begin
    size_t held_end
    int64_t due
    int due_place
    # For whoever moves its bytes. ``sends_large``: its last message was, and the next may be, too.
    # ``deaf``: what is sent to it does not arrive any more.
    int fd
    int connector
    bint readable
    bint sends_large
    bint hung_up
    bint deaf
    bint waits_to_write
    int64_t opened_at
    uint8_t address[16]

cdef struct Dispatcher:
    Pool pool
    Settings settings
    # What is read of a worker: it sends back the envelope, which is the client's.
    Limits worker_limits
    Counters counters
    Histogram queueing
    Histogram service
    Notices* notices
    Tap* tap
    int64_t now
    int mode
    Line line
    Line odd
    Ring strict
    Ring loose
    uint64_t requests_made
    uint64_t given
    int64_t peers_made
    uint32_t id_counter
    Client** clients
    uint32_t client_slots
    uint32_t client_count
    Line* matches
    uint32_t match_slots
    uint32_t match_count
    Request* spare
    int64_t requests_out
    int64_t peers_out
    int64_t clients_out
    Peer* peers
    Peer* dirty
    Peer* ready
    Peer* ended
    Peer* stalled_first
    Peer* stalled_last
    uint32_t stalled
    uint32_t invited
    bint serving
    int quota
    bint told_no_workers
    bint told_congested
    Peer** due
    int due_count
    int due_size
