"""Writes down what there is to see of a queue's connections and requests."""

from libc.stdint cimport int64_t, uint64_t
from zqueue.engine.wire.entities cimport Dispatcher, Peer
from zqueue.engine.wire.rows cimport ConnectionRow, RequestRow

cdef enum:
    BOTH_SIDES = -1
    REMEMBERED = 128
    MOST_REQUESTS = 10_000

# ``requests_in_all`` may be more than there are rows: of those that wait and of those at workers there
# are MOST_REQUESTS each at most, the oldest.
cdef struct Listing:
    int64_t now
    ConnectionRow* connections
    size_t connection_count
    RequestRow* requests
    size_t request_count
    uint64_t requests_in_all

cdef void list_connections(Dispatcher* it, int side, Listing* into) noexcept nogil
cdef void list_requests(Dispatcher* it, Listing* into) noexcept nogil
cdef list connections_told(Listing* listing)
cdef tuple requests_told(Listing* listing)
cdef void listing_clear(Listing* listing) noexcept nogil
cdef void remember_closed(Dispatcher* it, Peer* peer, const char* why) noexcept nogil
