"""See replies.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from zqueue.engine.wire.clients cimport KEPT, REFUSED_BY_CLIENT, client_send, who_hears
from zqueue.engine.wire.due cimport schedule_by
from zqueue.engine.wire.entities cimport BACKEND, IN_TURN, Client, Request, Worker
from zqueue.engine.wire.histogram cimport record
from zqueue.engine.wire.matches cimport (
    has_envelope_of,
    match_find,
    match_numbered,
    pass_doubts,
)
from zqueue.engine.wire.memory cimport body_drop
from zqueue.engine.wire.notices cimport (
    MORE_NUMBERS,
    NAME,
    SLOW_REQUEST,
    STRAY,
    WORKER_ANSWERS_AGAIN,
    notice,
    notice_more,
)
from zqueue.engine.wire.receiving cimport is_probe
from zqueue.engine.wire.recent cimport record_recent
from zqueue.engine.wire.requests cimport attempts_at, finish, id_frame, is_req, request_free, take_back
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
from zqueue.engine.wire.zmtp cimport ID_FRAME, MORE, Limits, frame_head


cdef bint reply_came(Dispatcher* it, Peer* peer, Piece* piece) noexcept nogil:
    """A worker's message has come: it goes to the client whose address is its first frame. False if
    the worker broke the protocol with it, and ``session.fault`` says how."""
    cdef Worker* worker = peer.worker
    cdef ReturnAddress address
    cdef const uint8_t* id = piece.data + piece.scan.first_body
    cdef size_t id_size = piece.scan.first - piece.scan.first_body
    cdef bint addressed = read_address(id, id_size, &address)
    cdef bint elsewhere = addressed and address.connection != connection_mark(it, worker)
    cdef bint numbered = addressed and address.numbered
    cdef bint late = False
    cdef Request* request = NULL
    cdef bint probe = not worker.strict and is_probe(peer, piece)
    peer.spoke = True
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
        if numbered:
            # It may come over another connection of the same worker.
            request = match_numbered(it, address.connection - it.salt, address.number, piece)
        elif not elsewhere:
            request = match_find(it, worker, id, id_size, piece)
        if request == NULL:
            late = was_lost(it, worker, &address if numbered else NULL, id, id_size, piece)
        if request == NULL and not late:
            request = _open_elsewhere(client_with(it, id, id_size), piece)
    # Counted as with the client's routing id, whatever stood in its place.
    it.counters.reply_bytes += id_size
    if tap_is_on(it.tap) and _is_to_be_tapped(it.tap, request):
        _tap(it, worker, request, id, id_size, piece)
    # That says that it is there, and nothing else.
    if peer.session.fault == NULL and not probe:
        _answered(it, worker, request, late, &address if numbered else NULL, id, id_size, piece)
    if piece.owner != NULL:
        body_drop(&it.pool, piece.owner)
    return peer.session.fault == NULL


cdef Request* _open_elsewhere(Client* client, Piece* piece) noexcept nogil:
    """What this REQ waits for, if a ROUTER or DEALER has it and this may be the reply: it comes over
    another connection of the same worker. NULL if not."""
    cdef Request* request = client.latest if client != NULL and is_req(client) else NULL
    if request == NULL or request.numbered or request.worker == NULL or request.worker.strict:
        return NULL
    return request if has_envelope_of(request, piece) else NULL


cdef Request* _asked(Worker* worker, ReturnAddress* address, Piece* piece) noexcept nogil:
    """Which request of a REP's this is the reply to: the oldest, unless it does not keep the order."""
    cdef Request* request = worker.outstanding.first
    while request != NULL and request.mark != address.number:
        request = request.beside[IN_TURN].next
    return request if request != NULL and has_envelope_of(request, piece) else NULL


cdef inline bint _is_to_be_tapped(Tap* tap, Request* request) noexcept nogil:
    """With its request, or alone if that came before the tap did."""
    if request != NULL and request.tapped:
        return True
    if request != NULL and tap_precedes(tap, request.since if request.over else request.received_at):
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
        about.waited = 0 if request.over else request.since - request.received_at
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
    ReturnAddress* address,
    const uint8_t* id,
    size_t id_size,
    Piece* piece,
) noexcept nogil:
    cdef Worker* asked = worker
    worker.answered += 1
    if request != NULL:
        asked = request.worker
        if not asked.strict:
            pass_doubts(it, request, request.over or who_hears(it, request.client) == NULL)
            asked.passed = max(asked.passed, request.since)
        take_back(it, request)
    if worker.aside:
        worker.aside = worker.tries = False
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
    elif request != NULL:
        _pass_on(it, worker, request, piece)
    else:
        _pass_on_unasked(it, worker, address, id, id_size, piece)
    place_worker(it, worker)
    tell_if_drained(it, worker)
    if asked != worker:
        place_worker(it, asked)
        tell_if_drained(it, asked)


cdef void _pass_on(
    Dispatcher* it, Worker* worker, Request* request, Piece* piece
) noexcept nogil:
    """The reply goes to its client, or to whoever is told instead."""
    cdef Client* client = who_hears(it, request.client)
    cdef size_t begin = piece.scan.first
    cdef int sent = REFUSED_BY_CLIENT
    record(&it.service, it.now - request.since)
    record_recent(&worker.took, it.now - request.since)
    if client != NULL:
        sent = client_send(
            it, client, piece.data + begin, piece.size - begin, piece.owner, begin
        )
    if sent == REFUSED_BY_CLIENT:
        _drop(it, worker, b"its client has left", piece)
    if it.settings.slow_request and it.now - request.received_at >= it.settings.slow_request:
        _tell_of_slowness(it, worker, request, piece, client)
    if sent == REFUSED_BY_CLIENT:
        finish(it, request, &it.counters.unclaimed)
    elif sent == KEPT:
        if client.absence != NULL:
            client.absence.replies += 1
        else:
            client.unsent += 1
        finish(it, request, &it.counters.kept)
    else:
        finish(it, request, &it.counters.replied)


cdef void _pass_on_unasked(
    Dispatcher* it,
    Worker* worker,
    ReturnAddress* address,
    const uint8_t* id,
    size_t id_size,
    Piece* piece,
) noexcept nogil:
    """It answers nothing that is in flight, and goes to whoever it is for. A REQ would take it for the
    reply to what it asks by now, and gets it only if it is the reply to that: it was forgotten."""
    cdef Client* client = client_with(it, id, id_size) if piece.scan.frames > 1 else NULL
    cdef const char* why = b"no client has its routing id"
    cdef size_t begin = piece.scan.first
    if client != NULL and is_req(client):
        if _is_forgotten_of(it, client, worker, address):
            client.forgotten = 0
        else:
            client = NULL
            why = b"its client, a REQ, does not wait for it"
    if client == NULL or client_send(
        it, client, piece.data + begin, piece.size - begin, piece.owner, begin
    ) == REFUSED_BY_CLIENT:
        _drop(it, worker, why, piece)
    else:
        it.counters.extra_replies += 1


cdef bint _is_forgotten_of(
    Dispatcher* it, Client* client, Worker* worker, ReturnAddress* address
) noexcept nogil:
    if not client.forgotten:
        return False
    if address == NULL:
        return client.forgotten >> 32 == connection_mark(it, worker)
    return client.forgotten == (<uint64_t> address.connection << 32 | address.number)


cdef void _tell_of_slowness(
    Dispatcher* it, Worker* worker, Request* request, Piece* piece, Client* client
) noexcept nogil:
    """Where its time has gone: how long it waited, how long its worker had it, and how much its
    client has still to read, this reply the last of it."""
    cdef int64_t more[MORE_NUMBERS]
    cdef const char* name = b""
    more[0], more[1] = attempts_at(request), request.size
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
    worker.unasked += 1
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
