"""See replies.pxd."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp
from zqueue.engine.wire.clients cimport KEPT, REFUSED_BY_CLIENT, client_send
from zqueue.engine.wire.entities cimport BACKEND, Client, Request, Worker
from zqueue.engine.wire.histogram cimport record
from zqueue.engine.wire.matches cimport match_find
from zqueue.engine.wire.memory cimport body_bytes, body_drop
from zqueue.engine.wire.notices cimport STRAY, WORKER_ANSWERS_AGAIN, notice
from zqueue.engine.wire.peers cimport can_be_told
from zqueue.engine.wire.requests cimport finish, request_free, take_back
from zqueue.engine.wire.routing_ids cimport client_with
from zqueue.engine.wire.tap cimport REPLY, tap_is_on, tap_put
from zqueue.engine.wire.workers cimport place_worker, tell_if_drained
from zqueue.engine.wire.zmtp cimport Limits, same_frames


cdef bint reply_came(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """A worker's message has come: it goes to the client whose routing id is its first frame.
    False if the worker broke the protocol with it, and ``session.fault`` says how."""
    cdef Worker* worker = peer.worker
    cdef const uint8_t* id = piece.data + piece.scan.first_body
    cdef size_t id_size = piece.scan.first - piece.scan.first_body
    cdef Request* request = NULL
    it.counters.reply_messages += 1
    it.counters.reply_frames += piece.scan.frames
    it.counters.reply_bytes += piece.scan.payload
    if it.tap != NULL and tap_is_on(it.tap):
        tap_put(it.tap, REPLY, piece.data, 0, piece.data, piece.size)
    if not _is_within(&it.settings.limits[BACKEND], piece):
        peer.session.fault = b"a message is larger than max_message_size or max_frames allow"
    elif worker.strict:
        request = worker.outstanding.first
        if request == NULL:
            peer.session.fault = b"a REP answered although nothing was asked"
        elif not _answers(request, piece):
            peer.session.fault = b"a REP's reply has another envelope than the request"
    elif id_size and piece.scan.frames > 1:
        request = match_find(it, worker, id, id_size, piece)
    if peer.session.fault == NULL:
        _answered(it, worker, request, id, id_size, piece)
    if piece.owner != NULL:
        body_drop(&it.pool, piece.owner)
    return peer.session.fault == NULL


cdef void _answered(
    Dispatcher* it, Worker* worker, Request* request, const uint8_t* id, size_t id_size, Piece* piece
) noexcept nogil:
    worker.answered += 1
    if request != NULL:
        take_back(it, request)
    if worker.aside:
        worker.aside = False
        notice(
            it.notices, it.now, WORKER_ANSWERS_AGAIN, BACKEND, worker.peer.number,
            worker.peer.name, b"", worker.count, 0,
        )
    if request != NULL and request.over:
        it.counters.late_replies += 1
        _drop(it, worker, b"its request had been given up", piece)
        request_free(it, request)
    else:
        _pass_on(it, worker, request, id, id_size, piece)
    place_worker(it, worker)
    tell_if_drained(it, worker)


cdef void _pass_on(
    Dispatcher* it, Worker* worker, Request* request, const uint8_t* id, size_t id_size, Piece* piece
) noexcept nogil:
    """To its client; if that has left, to whoever has its routing id by now."""
    cdef Client* client = request.client if request != NULL else NULL
    cdef size_t begin = piece.scan.first
    cdef int sent = REFUSED_BY_CLIENT
    if request != NULL:
        record(&it.service, it.now - request.given_at)
    if piece.scan.frames > 1 and (
        client == NULL or (client.absence == NULL and not can_be_told(client.peer))
    ):
        client = client_with(it, id, id_size)
    if client != NULL:
        sent = client_send(
            it, client, piece.data + begin, piece.size - begin, piece.owner, begin
        )
    if sent == REFUSED_BY_CLIENT:
        _drop(
            it, worker,
            b"its client has left" if request != NULL else b"no client has its routing id", piece,
        )
    elif request == NULL:
        it.counters.extra_replies += 1
    if request == NULL:
        return
    if sent == REFUSED_BY_CLIENT:
        finish(it, request, &it.counters.unclaimed)
    elif sent == KEPT:
        client.absence.replies += 1
        finish(it, request, &it.counters.kept)
    else:
        finish(it, request, &it.counters.replied)


cdef void _drop(Dispatcher* it, Worker* worker, const char* why, Piece* piece) noexcept nogil:
    it.counters.dropped_replies += 1
    notice(
        it.notices, it.now, STRAY, BACKEND, worker.peer.number, worker.peer.name, why, piece.size, 0
    )


cdef inline bint _is_within(const Limits* limits, Piece* piece) noexcept nogil:
    """Whether what is the worker's own of its message, all behind the envelope, is within limits."""
    cdef size_t envelope = piece.scan.envelope or piece.scan.first
    cdef uint32_t depth = piece.scan.depth or 1
    return (
        piece.size - envelope <= limits.message_bytes and piece.scan.frames - depth <= limits.frames
    )


cdef bint _answers(Request* request, Piece* piece) noexcept nogil:
    """Whether a REP's message has the routing id and the envelope of the request."""
    cdef Client* client = request.client
    return (
        piece.scan.envelope > 0
        and piece.scan.first - piece.scan.first_body == client.id_size
        and memcmp(piece.data + piece.scan.first_body, client.id, client.id_size) == 0
        and same_frames(
            piece.data + piece.scan.first,
            piece.scan.envelope - piece.scan.first,
            body_bytes(request.body),
            request.envelope,
        )
    )
