"""See return_addresses.pxd."""

from libc.stdint cimport int32_t, uint16_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy
from zqueue.engine.wire.entities cimport Lost, MOST_LOST
from zqueue.engine.wire.memory cimport body_bytes
from zqueue.engine.wire.requests cimport id_frame
from zqueue.engine.wire.routing_ids cimport id_hash
from zqueue.engine.wire.zmtp cimport MORE, hash_frames, put_big_endian

cdef enum:
    LOST_KINDS = 1 << 16


cdef size_t address_frame(
    Dispatcher* it, Worker* worker, Request* request, uint8_t* head
) noexcept nogil:
    """The first frame of what this worker is given; ``head`` has room for ID_FRAME."""
    if request.client.named and not worker.strict:
        return id_frame(request.client, head)
    head[0], head[1], head[2] = MORE, RETURN_ADDRESS, 0
    put_big_endian(head + 3, connection_mark(it, worker), 4)
    if worker.strict:
        put_big_endian(head + 7, request.mark, 4)
    else:
        memcpy(head + 7, request.client.id + 1, MADE_ID - 1)
    return 2 + RETURN_ADDRESS


cdef void remember_lost(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """It was at a worker that was lost: should that answer later, it is too late."""
    cdef Lost* lost
    if worker.strict or not request.envelope or not lost_open(it):
        return
    lost = &it.lost[it.lost_made % MOST_LOST]
    it.lost_made += 1
    if lost.there:
        _kind(it, lost.client, lost.envelope)[0] -= 1
    lost.connection = connection_mark(it, worker)
    lost.client = request.client.hash
    lost.envelope = hash_frames(0, body_bytes(request.body), request.envelope)
    lost.there = True
    _kind(it, lost.client, lost.envelope)[0] += 1


cdef bint lost_open(Dispatcher* it) noexcept nogil:
    """Have room to remember some; False if there is no memory."""
    if it.lost == NULL:
        it.lost = <Lost*> calloc(MOST_LOST, sizeof(Lost))
    if it.lost_kinds == NULL:
        it.lost_kinds = <uint16_t*> calloc(LOST_KINDS, sizeof(uint16_t))
    return it.lost != NULL and it.lost_kinds != NULL


cdef void lost_restored(Dispatcher* it, size_t count) noexcept nogil:
    """So many were put there."""
    cdef size_t place
    it.lost_made = count
    for place in range(count):
        if it.lost[place].there:
            _kind(it, it.lost[place].client, it.lost[place].envelope)[0] += 1


cdef inline uint16_t* _kind(Dispatcher* it, uint32_t client, uint32_t envelope) noexcept nogil:
    return &it.lost_kinds[(client * <uint32_t> 2654435761 ^ envelope) & (LOST_KINDS - 1)]


cdef bint was_lost(
    Dispatcher* it, Worker* worker, const uint8_t* id, size_t id_size, Piece* piece
) noexcept nogil:
    """Whether this, which answers nothing that its worker has, answers what one had that was lost, and
    that may have come back as this one. Each is known once; of several it is that of the latest
    connection, or those of connections before it could not be known any more."""
    cdef size_t place
    cdef Lost* lost
    cdef Lost* latest = NULL
    cdef uint32_t client, envelope, mark = connection_mark(it, worker)
    if not it.lost_made or not piece.scan.envelope:
        return False
    client = id_hash(id, id_size)
    envelope = hash_frames(0, piece.data + piece.scan.first, piece.scan.envelope - piece.scan.first)
    if not _kind(it, client, envelope)[0]:
        return False
    for place in range(min(it.lost_made, <size_t> MOST_LOST)):
        lost = &it.lost[place]
        if (
            lost.there
            and lost.client == client
            and lost.envelope == envelope
            and <int32_t> (mark - lost.connection) > 0
            and (latest == NULL or <int32_t> (lost.connection - latest.connection) > 0)
        ):
            latest = lost
    if latest == NULL:
        return False
    latest.there = False
    _kind(it, client, envelope)[0] -= 1
    return True
