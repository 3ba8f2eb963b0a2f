"""See return_addresses.pxd."""

from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy
from zqueue.engine.wire.entities cimport LOST_SLOTS, MOST_LOST, Lost
from zqueue.engine.wire.keyed_hash cimport hash_keyed, hash_number
from zqueue.engine.wire.memory cimport body_bytes
from zqueue.engine.wire.requests cimport id_frame
from zqueue.engine.wire.routing_ids cimport MADE_ID
from zqueue.engine.wire.zmtp cimport MORE, hash_frames, put_big_endian


cdef size_t address_frame(
    Dispatcher* it, Worker* worker, Request* request, uint8_t* head
) noexcept nogil:
    """The first frame of what this worker is given; ``head`` has room for ID_FRAME."""
    if not worker.strict and not request.numbered:
        return id_frame(request.client, head)
    head[0], head[1], head[2] = MORE, RETURN_ADDRESS, 0
    put_big_endian(head + 3, connection_mark(it, worker), 4)
    if worker.strict:
        put_big_endian(head + 7, request.mark, 4)
        return 2 + RETURN_ADDRESS
    head[1] = NUMBERED_ADDRESS
    memcpy(head + 7, request.client.id + 1, MADE_ID - 1)
    put_big_endian(head + 11, request.mark, 4)
    return 2 + NUMBERED_ADDRESS


cdef inline uint64_t _key_of_number(
    Dispatcher* it, uint32_t connection, uint32_t number, const uint8_t* envelope, size_t size
) noexcept nogil:
    cdef uint64_t before = hash_number(&it.secret, <uint64_t> connection << 32 | number)
    return hash_frames(&it.secret, before, envelope, size)


cdef inline uint64_t _key_of_envelope(
    Dispatcher* it, const uint8_t* id, size_t id_size, const uint8_t* envelope, size_t size
) noexcept nogil:
    return hash_frames(&it.secret, hash_keyed(&it.secret, 1, id, id_size), envelope, size)


cdef void remember_lost(Dispatcher* it, Worker* worker, Request* request) noexcept nogil:
    """It was at a worker that was lost: should that answer later, it is too late."""
    cdef uint32_t connection = connection_mark(it, worker), count = 1
    cdef uint64_t key
    cdef Lost* lost
    if worker.strict or not request.envelope or not lost_open(it):
        return
    if request.numbered:
        key = _key_of_number(
            it, connection, request.mark, body_bytes(request.body), request.envelope
        )
    else:
        key = _key_of_envelope(
            it,
            request.client.id,
            request.client.id_size,
            body_bytes(request.body),
            request.envelope,
        )
        lost = _find(it, key)
        if lost != NULL:
            connection, count = lost.connection, lost.count + 1
            _forget(it, lost)
    lost = &it.lost[it.lost_made % MOST_LOST]
    it.lost_made += 1
    if lost.count:
        _forget(it, lost)
    lost.key, lost.connection, lost.count = key, connection, count
    _put(it, lost)


cdef bint lost_open(Dispatcher* it) noexcept nogil:
    """Have room to remember some; False if there is no memory."""
    if it.lost == NULL:
        it.lost = <Lost*> calloc(MOST_LOST, sizeof(Lost))
    if it.lost_slots == NULL:
        it.lost_slots = <uint32_t*> calloc(LOST_SLOTS, sizeof(uint32_t))
    return it.lost != NULL and it.lost_slots != NULL


cdef void lost_restored(Dispatcher* it, size_t count) noexcept nogil:
    """So many were put there."""
    cdef size_t place
    it.lost_made = count
    for place in range(count):
        if it.lost[place].count:
            _put(it, &it.lost[place])


cdef inline uint32_t* _slot(Dispatcher* it, uint64_t key) noexcept nogil:
    return &it.lost_slots[key & (LOST_SLOTS - 1)]


cdef inline void _put(Dispatcher* it, Lost* lost) noexcept nogil:
    cdef uint32_t* slot = _slot(it, lost.key)
    lost.next = slot[0]
    slot[0] = <uint32_t> (lost - it.lost) + 1


cdef Lost* _find(Dispatcher* it, uint64_t key) noexcept nogil:
    cdef uint32_t place = _slot(it, key)[0]
    while place and it.lost[place - 1].key != key:
        place = it.lost[place - 1].next
    return &it.lost[place - 1] if place else NULL


cdef void _forget(Dispatcher* it, Lost* lost) noexcept nogil:
    cdef uint32_t* place = _slot(it, lost.key)
    while &it.lost[place[0] - 1] != lost:
        place = &it.lost[place[0] - 1].next
    place[0] = lost.next
    lost.count = 0


cdef bint was_lost(
    Dispatcher* it,
    Worker* worker,
    ReturnAddress* address,
    const uint8_t* id,
    size_t id_size,
    Piece* piece,
) noexcept nogil:
    """Whether this, which answers nothing that its worker has, answers what one had that was lost, and
    that may have come back as this one. Each is known once. ``address`` is the reply's if that has a
    number, and NULL else."""
    cdef const uint8_t* envelope = piece.data + piece.scan.first
    cdef size_t size = piece.scan.envelope - piece.scan.first
    cdef Lost* lost
    if not it.lost_made or not piece.scan.envelope:
        return False
    # With the number and another envelope it answers something else.
    if address != NULL:
        lost = _find(it, _key_of_number(it, address.connection, address.number, envelope, size))
    else:
        lost = _find(it, _key_of_envelope(it, id, id_size, envelope, size))
    if lost == NULL or <int32_t> (connection_mark(it, worker) - lost.connection) <= 0:
        return False
    lost.count -= 1
    if not lost.count:
        _forget(it, lost)
    return True
