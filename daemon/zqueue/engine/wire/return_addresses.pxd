"""What a worker is given in the place of its client's routing id, and what it tells when it comes back.

A worker that was cut off sends what it had to answer on its next connection, where it would be taken
for the answer to something else. So what stands in that place is good for one connection only:

- A REP, which does not show it to anybody, is given a number for each request.
- A ROUTER or DEALER may look at it. A client that has given itself a routing id keeps that. For
  another, whose routing id is the broker's to make, it is one of this connection, that client and
  this request.

The first is 9 bytes, the other 13, the first of them 0. A client may not give itself a routing id like
that. What a ROUTER or DEALER had when it was lost is remembered, the latest of it, so that a late reply
to that is known, and not passed on beside the one that another worker gives.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from zqueue.engine.wire.entities cimport Dispatcher, Request, Worker
from zqueue.engine.wire.routing_ids cimport MADE_ID
from zqueue.engine.wire.zmtp cimport Piece, big_endian

cdef enum:
    RETURN_ADDRESS = 9
    NUMBERED_ADDRESS = 13

# ``connection`` is that it was given to, ``number`` what was given there; ``made`` is the routing id
# that was made for its client. A REP's has no ``made``; what a version before this one gave ROUTERs and
# DEALERs is as long, and has no number.
cdef struct ReturnAddress:
    uint32_t connection
    uint32_t number
    bint numbered
    uint8_t made[MADE_ID]

cdef inline uint32_t connection_mark(Dispatcher* it, Worker* worker) noexcept nogil:
    """Another one for each connection, also of another run of the broker, as far as 32 bits go."""
    return it.salt + <uint32_t> worker.peer.number

cdef inline bint read_address(const uint8_t* id, size_t size, ReturnAddress* address) noexcept nogil:
    """False if it is none."""
    if size not in (RETURN_ADDRESS, NUMBERED_ADDRESS) or id[0]:
        return False
    address.numbered = size == NUMBERED_ADDRESS
    address.connection = <uint32_t> big_endian(id + 1, 4)
    address.number = <uint32_t> big_endian(id + (9 if address.numbered else 5), 4)
    address.made[0] = 0
    memcpy(address.made + 1, id + 5, MADE_ID - 1)
    return True

cdef size_t address_frame(
    Dispatcher* it, Worker* worker, Request* request, uint8_t* head
) noexcept nogil
cdef bint lost_open(Dispatcher* it) noexcept nogil
cdef void lost_restored(Dispatcher* it, size_t count) noexcept nogil
cdef void remember_lost(Dispatcher* it, Worker* worker, Request* request) noexcept nogil
cdef bint was_lost(
    Dispatcher* it,
    Worker* worker,
    ReturnAddress* address,
    const uint8_t* id,
    size_t id_size,
    Piece* piece,
) noexcept nogil
