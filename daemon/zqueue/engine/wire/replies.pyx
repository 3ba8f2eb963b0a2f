"""See replies.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset
from zqueue.engine.wire.clients cimport KEPT, REFUSED_BY_CLIENT, client_send, who_hears
from zqueue.engine.wire.due cimport schedule_by
from zqueue.engine.wire.entities cimport BACKEND, IN_TURN, Client, Request, Worker
from zqueue.engine.wire.histogram cimport record
from zqueue.engine.wire.matches cimport match_find
from zqueue.engine.wire.memory cimport body_bytes, body_drop
from zqueue.engine.wire.notices cimport (
    MORE_NUMBERS,
    NAME,
    SLOW_REQUEST,
    STRAY,
    WORKER_ANSWERS_AGAIN,
    notice,
    notice_more,
)
from zqueue.engine.wire.recent cimport record_recent
from zqueue.engine.wire.requests cimport finish, id_frame, request_free, take_back
from zqueue.engine.wire.return_addresses cimport (
    ReturnAddress,
    connection_mark,
    read_address,
    was_lost,
)
from zqueue.engine.wire.routing_ids cimport MADE_ID, client_with
from zqueue.engine.wire.tap cimport (
    REPLY,
    Tap,
    Tapped,
    tap_begin,
    tap_is_on,
    tap_may_begin,
    tap_precedes,
    tap_put,
)
from zqueue.engine.wire.workers cimport place_worker, tell_if_drained
from zqueue.engine.wire.zmtp cimport ID_FRAME, MORE, Limits, frame_head, same_frames


cdef bint reply_came(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """A worker's message has come: it goes to the client whose address is its first frame. False if
    the worker broke the protocol with it, and ``session.fault`` says how."""
    cdef Worker* worker = peer.worker
    cdef ReturnAddress address
    cdef const uint8_t* id = piece.data + piece.scan.first_body
    cdef size_t id_size = piece.scan.first - piece.scan.first_body
    cdef bint addressed = read_address(id, id_size, &address)
    cdef bint elsewhere = addressed and address.connection != connection_mark(it, worker)
    cdef bint late = False
    cdef Request* request = NULL
    it.counters.reply_messages += 1
    it.counters.reply_frames += piece.scan.frames
    it.counters.reply_bytes += piece.scan.payload - id_size
    if not _is_within(&it.settings.limits[BACKEND], piece):
        peer.session.fault = b"a message is larger than max_message_size or max_frames allow"
    elif worker.strict:
        late = elsewhere
        if addressed and not late:
            request = _asked(worker, &address, piece)
        if request != NULL:
            id, id_size = request.client.id, request.client.id_size
        elif not late:
            peer.session.fault = b"a REP's reply has another envelope than the request"
            if worker.outstanding.first == NULL:
                peer.session.fault = b"a REP answered although nothing was asked"
    elif id_size and piece.scan.frames > 1:
        if addressed:
            id, id_size = address.made, MADE_ID
        if not elsewhere:
            request = match_find(it, worker, id, id_size, piece)
        late = request == NULL and was_lost(it, worker, id, id_size, piece)
    # Counted as with the client's routing id, whatever stood in its place.
    it.counters.reply_bytes += id_size
    if tap_is_on(it.tap) and _is_to_be_tapped(it.tap, request):
        _tap(it, worker, request, id, id_size, piece)
    if peer.session.fault == NULL:
        _answered(it, worker, request, late, id, id_size, piece)
    if piece.owner != NULL:
        body_drop(&it.pool, piece.owner)
    return peer.session.fault == NULL


cdef Request* _asked(Worker* worker, ReturnAddress* address, Piece* piece) noexcept nogil:
    """Which request of a REP's this is the reply to: the oldest, unless it does not keep the order."""
    cdef Request* request = worker.outstanding.first
    while request != NULL and request.mark != address.number:
        request = request.beside[IN_TURN].next
    return request if request != NULL and _has_envelope_of(request, piece) else NULL


cdef inline bint _is_to_be_tapped(Tap* tap, Request* request) noexcept nogil:
    """With its request, or alone if that came before the tap did."""
    if request != NULL and request.tapped:
        return True
    if request != NULL and tap_precedes(tap, request.received_at):
        tap.missed += 1
        return False
    return tap_may_begin(tap)


cdef void _tap(
    Dispatcher* it,
    Worker* worker,
    Request* request,
    const uint8_t* id,
    size_t id_size,
    Piece* piece,
) noexcept nogil:
    """With its client's routing id first, as the request was; what answers nothing and is for nobody
    as its worker sent it, however long its first frame is."""
    cdef uint8_t head[ID_FRAME]
    cdef size_t size = 0
    cdef size_t begin = piece.scan.first
    cdef Tapped about
    memset(&about, 0, sizeof(about))
    about.way, about.at, about.frames = REPLY, it.now, piece.scan.frames
    about.worker = worker.peer.number
    memcpy(about.worker_name, worker.peer.name, NAME)
    if request != NULL:
        size = id_frame(request.client, head)
        about.number = request.number
        about.waited = request.since - request.received_at
        about.service = it.now - request.since
        if request.client.peer != NULL:
            about.client = request.client.peer.number
            memcpy(about.client_name, request.client.peer.name, NAME)
    elif id == piece.data + piece.scan.first_body:
        begin = 0
    else:
        # In its place stood what its worker was given for it, which tells nobody anything.
        size = frame_head(head, MORE, id_size)
        memcpy(head + size, id, id_size)
        size += id_size
    if tap_put(it.tap, &about, head, size, piece.data + begin, piece.size - begin) and (
        request == NULL or not request.tapped
    ):
        tap_begin(it.tap)


cdef void _answered(
    Dispatcher* it,
    Worker* worker,
    Request* request,
    bint late,
    const uint8_t* id,
    size_t id_size,
    Piece* piece,
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
        # It is at the next of those that it has, though they have gone elsewhere.
        schedule_by(it, worker.peer, it.now + it.settings.service_timeout)
    if late or (request != NULL and request.over):
        it.counters.late_replies += 1
        _drop(it, worker, b"its request had been given up", piece)
        if request != NULL:
            request_free(it, request)
    else:
        _pass_on(it, worker, request, id, id_size, piece)
    place_worker(it, worker)
    tell_if_drained(it, worker)


cdef void _pass_on(
    Dispatcher* it, Worker* worker, Request* request, const uint8_t* id, size_t id_size, Piece* piece
) noexcept nogil:
    """To its client, or to whoever is told instead; what nobody asked for, to whoever it is for."""
    cdef Client* client = NULL
    cdef size_t begin = piece.scan.first
    cdef int sent = REFUSED_BY_CLIENT
    if request != NULL:
        record(&it.service, it.now - request.since)
        record_recent(&worker.took, it.now - request.since)
        client = who_hears(it, request.client)
    elif piece.scan.frames > 1:
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
    if it.settings.slow_request and it.now - request.received_at >= it.settings.slow_request:
        _tell_of_slowness(it, worker, request, piece, client)
    if sent == REFUSED_BY_CLIENT:
        finish(it, request, &it.counters.unclaimed)
    elif sent == KEPT:
        client.absence.replies += 1
        finish(it, request, &it.counters.kept)
    else:
        finish(it, request, &it.counters.replied)


cdef void _tell_of_slowness(
    Dispatcher* it, Worker* worker, Request* request, Piece* piece, Client* client
) noexcept nogil:
    """Where its time has gone: how long it waited, how long its worker had it, and how much its
    client has still to read, this reply the last of it."""
    cdef int64_t more[MORE_NUMBERS]
    cdef const char* name = b""
    more[0], more[1] = request.attempts, request.size
    more[2] = piece.size - piece.scan.first
    more[3] = 0
    if client != NULL and client.peer != NULL:
        name, more[3] = client.peer.name, client.peer.session.out.size
    notice_more(
        it.notices, it.now, SLOW_REQUEST, BACKEND, request.number, worker.peer.name, name,
        request.since - request.received_at, it.now - request.since, more,
    )


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


cdef bint _has_envelope_of(Request* request, Piece* piece) noexcept nogil:
    return piece.scan.envelope > 0 and same_frames(
        piece.data + piece.scan.first,
        piece.scan.envelope - piece.scan.first,
        body_bytes(request.body),
        request.envelope,
    )
