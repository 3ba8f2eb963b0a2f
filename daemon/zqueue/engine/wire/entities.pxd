"""What there is in a queue: its peers, clients, workers and requests, its limits and its counters."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from zqueue.engine.wire.histogram cimport Histogram
from zqueue.engine.wire.keyed_hash cimport Secret
from zqueue.engine.wire.memory cimport Body, Outgoing, Pool
from zqueue.engine.wire.notices cimport NAME, Notices
from zqueue.engine.wire.recent cimport Recent
from zqueue.engine.wire.rows cimport ConnectionRow
from zqueue.engine.wire.session cimport Heartbeat, Session
from zqueue.engine.wire.tap cimport Tap
from zqueue.engine.wire.zmtp cimport (
    DEEPEST_ENVELOPE,
    LONGEST_BROKER_ID,
    LONGEST_ENVELOPE,
    Limits,
)

cdef enum:
    FRONTEND = 0
    BACKEND = 1
    MOST_LOST = 8192
    LOST_SLOTS = 8192
    OF_CLIENTS = 0
    OF_BROKERS = 1

# The lines that a request may stand in: that of all or of its worker; of its client; of those with a
# like answer; by when it came; by since when it waits.
cdef enum:
    IN_TURN
    OF_CLIENT
    BY_MATCH
    BY_AGE
    BY_WAIT
    LINE_KINDS

cdef enum Mode:
    FORWARD
    HOLD
    DRAIN

cdef enum Stall:
    FLOWS
    IN_LINE
    BY_ITSELF
    LET_GO

# What becomes of the requests of a worker that is lost: all go to others, or only those that a REP
# cannot have begun, or none.
cdef enum Redeliver:
    ALL
    UNSTARTED
    NONE

# What a request is met with when ``max_waiting`` or ``max_waiting_bytes`` is reached.
cdef enum WhenFull:
    HOLDS
    REJECTS
    DROPS_OLDEST

# Why a request died.
cdef enum Cause:
    MAX_ATTEMPTS
    WORKER_LOST
    SERVICE_TIMEOUT
    DEADLINE
    MAX_WAITING_TIME
    QUEUE_FULL
    CAUSES

# The frames of an error reply, in parts; the kinds are those of ``error_replies``.
cdef struct Part:
    int kind
    uint8_t* text
    size_t size

# Durations are nanoseconds. 0 is: no limit, for the numbers; measured, for ``prefetch``; never, for
# the times.
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
    int redeliver
    int when_full
    int64_t deadline
    int64_t max_waiting_time
    int64_t service_timeout
    int64_t client_grace
    int64_t slow_request
    bint keep_for_gone
    Part* error_reply
    uint32_t error_reply_parts
    bint handover
    # Tells this broker from others; empty, and it does not tell that it is one.
    char broker_id[LONGEST_BROKER_ID + 1]
    int64_t handshake[2]
    Heartbeat heartbeat[2]

# Written by the data path's thread alone. ``waiting``, ``in_flight``, ``kept`` and ``connected`` are
# how many there are now, all others only grow. ``kept`` are answered, and their client is expected
# back; ``unclaimed`` were, and their client was gone.
cdef struct Counters:
    uint64_t received
    uint64_t waiting
    uint64_t waiting_bytes
    uint64_t in_flight
    uint64_t in_flight_bytes
    uint64_t kept
    uint64_t replied
    uint64_t unclaimed
    uint64_t withdrawn
    uint64_t dead
    uint64_t rejected
    uint64_t malformed
    uint64_t unanswered
    uint64_t died[CAUSES]
    uint64_t unrecorded
    uint64_t error_replies
    uint64_t returned
    uint64_t retried
    uint64_t late_replies
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
    uint64_t turned_away[2]

# A client with a routing id of its own that has left and may come back: what came for it meanwhile.
# They are in the order in which they left.
cdef struct Absence:
    Absence* next
    Absence* previous
    Client* client
    int64_t since
    Outgoing kept
    uint64_t replies
    # What it counts in ``absent_bytes``; whether it is in ``unowed``.
    size_t weight
    bint unowed
    Absence* unowed_next

cdef struct Line:
    Request* first
    Request* last

# What waits, by age: what no worker has had yet; heaps of what was returned, and of that what was lost
# twice and is to be kept apart; and what has no envelope, which no REP may get.
cdef struct Lines:
    Line line
    Request* returned
    Request* apart
    Line odd

# ``broker``: it is another zqueued. ``lasting``: what it asked for is done also when it has left.
# ``line``: what it asked for and no worker has yet. ``asked`` and ``answered`` only grow. ``leaving``: the oldest of its connections that
# have ended at its side and are still read. ``latest``: the last that it asked for, while that has not
# ended. ``forgotten``: the connection mark and the number of that at its worker, if it was forgotten
# there, and 0 else: its reply is still what a REQ waits for.
cdef struct Client:
    Peer* peer
    Peer* leaving
    Absence* absence
    Line line
    uint64_t waiting
    uint64_t waiting_bytes
    uint64_t asked
    uint64_t answered
    # How many replies of those that are to reach it on this connection or its next are not written yet.
    uint64_t unsent
    Request* latest
    uint64_t forgotten
    uint32_t requests
    uint32_t in_flight
    Client* next
    uint32_t hash
    uint8_t named
    uint8_t broker
    uint8_t lasting
    uint8_t id_size
    uint8_t id[1]

# A worker that a request was given to in vain.
cdef struct Attempt:
    Attempt* next
    int64_t worker
    int64_t given_at
    int64_t ended_at
    int cause
    char name[NAME]

cdef struct Neighbours:
    Request* next
    Request* previous

# ``mark`` tells it from others at its worker: the number of its return address, which every REP's has
# and of a ROUTER's or DEALER's if it is ``numbered``; else a hash of the client's routing id and the
# envelope. ``over``: this is only what is left of one at its worker, so that a late reply to it is
# known; ``received_at`` is since when, and it counts at its worker until it is WRITTEN_OFF. ``doubts``: how many replies were taken for those to older
# requests that look like it at its worker, while it or a younger one might have been answered by them.
# ``suspect``: it was at a worker that was lost, and may have been why. ``since``: when it began to wait,
# or was given to its worker. ``end``: where its last byte stands in all that its worker was ever sent,
# as far as 32 bits go, 0 if that is not known. ``spared``: how many of its ``attempts`` cannot have been
# begun. ``probe``: what ZMQ_PROBE_ROUTER sends when it connects. The kinds of lines that are not kept (see dispatcher_open) are not there.
cdef struct Request:
    Attempt* history
    Client* client
    Worker* worker
    Body* body
    size_t size
    uint64_t number
    int64_t received_at
    int64_t since
    uint32_t envelope
    uint32_t mark
    uint32_t attempts
    uint8_t over
    uint8_t ages
    uint8_t suspect
    uint8_t tapped
    uint32_t end
    uint8_t spared
    uint8_t probe
    uint8_t numbered
    uint8_t doubts
    Neighbours beside[LINE_KINDS]

# Requests that a ROUTER or DEALER had when it was lost, and that look alike: a hash of what their late
# replies have, how many there were, the first connection that was lost with one. ``next`` is the place
# behind that of another in the same slot, 0 for none.
cdef struct Lost:
    uint64_t key
    uint32_t connection
    uint32_t count
    uint32_t next

# Of a request at its worker: whether it is over.
cdef enum Over:
    NOT_OVER
    OVER
    WRITTEN_OFF

# A dead request on its way to whoever keeps them.
cdef struct Death:
    Death* next
    Request* request
    int cause
    int64_t at
    char name[NAME]

# ``count`` is how many requests it has to answer: those that are over among them unless they were
# written off, and those without an envelope, which may need no answer. ``live``: how many that are not
# over, and have one; ``one_way``: how many have none. ``aside``: it was given up on, and gets nothing until it answers (``tries``: but one, to see whether it
# does); a ROUTER or DEALER may try again at ``tries_at``. ``passed``: when the latest request was given
# that it is known to have answered. ``suspects``: how many it has that may have been why another was lost, at a ROUTER or
# DEALER only those that were lost twice; while there is one, a REP gets nothing beside it, and others no
# second one. ``clean``: it had none when it got its place in the ring. ``broker``: it is the client side
# of another zqueued. ``late_bytes``: of what is over,
# which is the envelopes. ``open``: in ``outstanding``, all before it is over or has no envelope.
cdef struct Worker:
    Peer* peer
    Worker* next
    Worker* previous
    Line outstanding
    Request* open
    uint32_t count
    uint32_t live
    uint32_t one_way
    uint64_t late_bytes
    uint32_t credit
    int place
    bint clean
    bint broker
    bint strict
    bint aside
    bint tries
    int64_t tries_at
    int64_t passed
    uint32_t suspects
    bint draining
    bint told_drained
    uint64_t given
    uint64_t answered
    uint64_t unasked
    int64_t answered_at
    double service
    Recent took
    uint8_t id_size
    uint8_t id[255]

# Workers that can take a request, by how many they have; the first is at ``low`` or behind. ``clean``:
# how many of them have no suspects.
cdef struct Ring:
    Worker** first
    Worker** last
    int size
    int low
    int able
    int clean
    int connected

# What is looked at for each message comes first, so that it is few lines of the cache.
cdef struct Peer:
    Client* client
    Worker* worker
    int side
    # For whoever moves its bytes. ``sends_large``: its last message was, and the next may be, too.
    # ``deaf``: what is sent to it does not arrive any more.
    int fd
    bint readable
    bint sends_large
    bint hung_up
    bint deaf
    bint waits_to_write
    bint dirty
    bint ready
    bint ended
    bint invited
    bint spoke
    # Of a client: it has left, and what it sent before is read yet. ``farewell`` is why, if it is known.
    bint leaving
    int stalled
    # Of one that came with the routing id of a client that is there: it waits until it is known whether
    # that lives. It has sent READY, and has not had ours.
    Client* claim
    Peer* dirty_next
    Peer* dirty_previous
    uint64_t received_bytes
    uint64_t sent_bytes
    # How much of what came before it was to leave is to be read yet; below 0: that is not known.
    int64_t unread
    # Where the messages to a client begin in what it is yet to be sent: behind ``ahead`` bytes. These are
    # the rest of one of which ``begun`` have gone out, or, if none have, of the handshake.
    size_t ahead
    size_t begun
    bint begun_message
    bint boundary_lost
    Session session
    Peer* ready_next
    Peer* ready_previous
    Peer* stalled_next
    Peer* stalled_previous
    Peer* ended_next
    Peer* next
    Peer* previous
    Peer* leaving_next
    const char* farewell
    # Other brokers, the latest first.
    Peer* broker_next
    Peer* broker_previous
    int64_t claims_since
    Body* held
    size_t held_begin
    size_t held_end
    int64_t due
    int due_place
    bint looked_at
    int connector
    int64_t number
    int64_t opened_at
    char name[NAME]
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
    # What waits: OF_CLIENTS, and OF_BROKERS, which goes to no worker that is a broker, too.
    Lines waiting[2]
    # REPs; ROUTERs and DEALERs; those of these that are other brokers.
    Ring strict
    Ring loose
    Ring brokers
    uint64_t requests_made
    uint64_t given
    int64_t peers_made
    uint32_t id_counter
    uint32_t salt
    # Of the tables that strangers fill.
    Secret secret
    # The latest, in turn; ``lost_slots`` has the place behind that of the first in each.
    Lost* lost
    uint32_t* lost_slots
    size_t lost_made
    Client** clients
    uint32_t client_slots
    uint32_t client_count
    Line* matches
    uint32_t match_slots
    uint32_t match_count
    # What ROUTERs and DEALERs have, OF_CLIENT: to answer, by when it was given, and how many bytes that
    # is; without an envelope, by when it was given; over, by since when it is, and how many bytes of
    # envelopes that is. ``late_counted``: the oldest of that which counts at its worker yet.
    Line unanswered
    uint64_t unanswered_count
    uint64_t unanswered_bytes
    Line one_way
    uint64_t one_way_count
    Line late
    Request* late_counted
    uint64_t late_count
    uint64_t late_bytes
    # Requests by when they came, where there is a deadline.
    Line by_age
    # Those in line by since when they are, where there is a max_waiting_time.
    Line by_wait
    Absence* absent_first
    Absence* absent_last
    # Those of clients to which nothing is owed any more, and the memory that all of them take.
    Absence* unowed
    size_t absent_bytes
    Death* died_first
    Death* died_last
    uint32_t died_count
    size_t died_bytes
    size_t request_size
    int64_t requests_out
    int64_t peers_out
    int64_t peers_of[2]
    int64_t clients_out
    Peer* peers
    Peer* dirty
    Peer* ready
    Peer* ended
    Peer* brokers_connected
    Peer* stalled_first
    Peer* stalled_last
    uint32_t stalled
    uint32_t invited
    # Clients that were held back and need not be any more: what they sent is nothing to anybody.
    Peer* let_go
    bint serving
    int quota
    bint told_no_workers
    bint told_congested
    # Connections that have ended, of late: those that never were peers, and the others.
    ConnectionRow* closed
    size_t closed_made[2]
    Peer** due
    int due_count
    int due_size
