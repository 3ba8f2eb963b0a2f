"""What there is to see of a connection and of a request, as it was at one moment."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from zqueue.engine.wire.notices cimport DETAIL, NAME
from zqueue.engine.wire.zmtp cimport LONGEST_BROKER_ID

# Times are nanoseconds on the monotonic clock, ``service``, ``p50`` and ``p99`` durations, 0 where
# that is not known. ``closed_at`` is 0 while it is open. ``requests`` and ``replies`` are those of a
# client since its routing id is known, and of a worker since it is connected. ``broker_id`` tells which other
# broker it is; empty if it is none. ``unasked`` are messages of a worker that were dropped, since this
# process has its connection.
cdef struct ConnectionRow:
    int64_t number
    int side
    int type
    int major
    int minor
    bint arrived
    bint held_back
    bint draining
    bint aside
    int64_t opened_at
    int64_t heard_at
    int64_t closed_at
    uint64_t received_bytes
    uint64_t sent_bytes
    uint64_t unsent_bytes
    uint64_t requests
    uint64_t replies
    uint64_t unasked
    uint64_t waiting
    uint64_t in_flight
    uint64_t ahead
    int64_t service
    int64_t p50
    int64_t p99
    uint8_t id_size
    uint8_t id[255]
    char name[NAME]
    char reason[DETAIL]
    char broker_id[LONGEST_BROKER_ID + 1]

# ``worker`` is the number of the connection that has it, 0 while it waits; ``peer`` that of its
# client, 0 if that has left. ``since``: when it began to wait, or was given to its worker.
cdef struct RequestRow:
    int64_t number
    int64_t received_at
    int64_t since
    uint64_t size
    uint32_t attempts
    int64_t peer
    int64_t worker
    uint8_t id_size
    uint8_t id[255]
    char client_name[NAME]
    char worker_name[NAME]
