"""See receiving.pxd."""

from libc.string cimport memcpy, memset
from zqueue.engine.wire.admission cimport is_full, tell_of_congestion
from zqueue.engine.wire.clients cimport client_absent
from zqueue.engine.wire.deaths cimport die
from zqueue.engine.wire.entities cimport (
    DEEPEST_ENVELOPE,
    FRONTEND,
    HOLD,
    HOLDS,
    LONGEST_ENVELOPE,
    QUEUE_FULL,
    REJECTS,
    Client,
    Request,
)
from zqueue.engine.wire.error_replies cimport tell_of_death
from zqueue.engine.wire.giving cimport give_all
from zqueue.engine.wire.memory cimport SMALL_SLAB, Body, body_bytes, body_drop, body_new
from zqueue.engine.wire.notices cimport MALFORMED, NAME, notice
from zqueue.engine.wire.peers cimport is_gone, peer_end
from zqueue.engine.wire.requests cimport (
    finish,
    id_frame,
    oldest_waiting,
    queue_last,
    request_new,
    unqueue,
)
from zqueue.engine.wire.routing_ids cimport client_with
from zqueue.engine.wire.slabs cimport piece_give
from zqueue.engine.wire.tap cimport (
    REQUEST,
    Tapped,
    tap_begin,
    tap_is_on,
    tap_may_begin,
    tap_put,
)
from zqueue.engine.wire.zmtp cimport ID_FRAME, REQ


cdef void request_came(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """A client's message has come: it waits for a worker."""
    cdef Request* request = NULL
    cdef Body* body = piece.owner
    if piece.scan.envelope > LONGEST_ENVELOPE or piece.scan.depth > DEEPEST_ENVELOPE:
        _refuse_envelope(it, peer, piece)
        return
    if body == NULL:
        body = body_new(&it.pool, piece.size)
        if body != NULL:
            memcpy(body_bytes(body), piece.data, piece.size)
    if body != NULL:
        request = request_new(it, peer.client, body, piece.size, piece.scan.envelope)
    if request == NULL:
        if body != NULL:
            body_drop(&it.pool, body)
        peer_end(it, peer, b"there is no memory for its message")
        return
    # ZMQ_PROBE_ROUTER has it send one empty frame when it has connected, which nobody answers.
    request.probe = is_probe(peer, piece)
    peer.spoke = True
    if it.serving:
        it.quota -= 1
    _count(it, peer.client, piece.scan.frames, piece.scan.payload)
    _tap(it, peer, request, piece.scan.frames)
    if is_gone(peer.client):
        finish(it, request, &it.counters.withdrawn)
        return
    if it.settings.when_full != HOLDS and is_full(it) and it.mode != HOLD:
        # Whoever sends many at once is not to lose some while workers are idle.
        give_all(it)
    if it.settings.when_full != HOLDS and is_full(it):
        tell_of_congestion(it, peer)
        if it.settings.when_full == REJECTS:
            tell_of_death(it, request, QUEUE_FULL)
            finish(it, request, &it.counters.rejected)
            return
        while is_full(it) and it.counters.waiting:
            die(it, unqueue(it, oldest_waiting(it)), QUEUE_FULL)
    queue_last(it, request)


cdef inline void _tap(Dispatcher* it, Peer* peer, Request* request, uint64_t frames) noexcept nogil:
    if tap_is_on(it.tap) and tap_may_begin(it.tap):
        _copy(it, peer, request, frames)


cdef void _copy(Dispatcher* it, Peer* peer, Request* request, uint64_t frames) noexcept nogil:
    cdef Tapped about
    cdef uint8_t head[ID_FRAME]
    memset(&about, 0, sizeof(about))
    about.way, about.number, about.at = REQUEST, request.number, it.now
    about.frames = frames + 1
    if peer != NULL:
        about.client = peer.number
        memcpy(about.client_name, peer.name, NAME)
    if tap_put(
        it.tap, &about, head, id_frame(request.client, head), body_bytes(request.body), request.size
    ):
        tap_begin(it.tap)
        request.tapped = True


cdef inline void _count(
    Dispatcher* it, Client* client, uint64_t frames, uint64_t payload
) noexcept nogil:
    """The client's routing id counts as a frame of it."""
    it.counters.received += 1
    client.asked += 1
    it.counters.request_frames += frames + 1
    it.counters.request_bytes += payload + client.id_size


cdef void _refuse_envelope(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """A worker that sent it back would exceed its own limits, through no fault of its own."""
    _count(it, peer.client, piece.scan.frames, piece.scan.payload)
    it.counters.malformed += 1
    if tap_is_on(it.tap):
        it.tap.missed += 1
    notice(
        it.notices, it.now, MALFORMED, FRONTEND, peer.number, peer.name,
        b"its envelope is larger than 1 MiB or has more than 10,000 frames", piece.size, 0,
    )
    if piece.owner != NULL:
        body_drop(&it.pool, piece.owner)


cdef bint _may_hear_late(Dispatcher* it, Client* client) noexcept nogil:
    """Whether it can tell the reply to what is asked again from others. A REQ can if it waits for
    that one alone: it was not told that it died, and is the very connection that had asked it."""
    if client.peer == NULL or client.peer.session.peer_type != REQ:
        return True
    return not client.named and not it.settings.error_reply_parts


cdef bint submit(
    Dispatcher* it,
    const uint8_t* id,
    size_t id_size,
    const uint8_t* data,
    size_t size,
    size_t envelope,
    uint64_t frames,
    uint64_t payload,
) noexcept nogil:
    """Ask again in the name of the client with this routing id, also when there is none any more;
    False if there is no memory for it. ``data`` is the whole message, its ``envelope`` so long."""
    cdef Client* client = client_with(it, id, id_size)
    cdef Request* request = NULL
    cdef Body* body = body_new(&it.pool, size)
    cdef bint absent
    if client != NULL and not _may_hear_late(it, client):
        client = NULL
    absent = client == NULL
    if absent and body != NULL:
        client = client_absent(it, id, id_size)
    if client != NULL and body != NULL:
        memcpy(body_bytes(body), data, size)
        request = request_new(it, client, body, size, envelope)
    if request == NULL:
        if body != NULL:
            body_drop(&it.pool, body)
        if absent and client != NULL:
            it.clients_out -= 1
            piece_give(client, SMALL_SLAB)
        return False
    it.counters.retried += 1
    _count(it, client, frames, payload)
    _tap(it, client.peer, request, frames)
    queue_last(it, request)
    return True
