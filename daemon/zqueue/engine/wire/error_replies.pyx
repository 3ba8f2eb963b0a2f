"""See error_replies.pxd."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, strlen
from zqueue.engine.wire.clients cimport REFUSED_BY_CLIENT, client_send, who_hears
from zqueue.engine.wire.entities cimport (
    DEADLINE,
    MAX_ATTEMPTS,
    MAX_WAITING_TIME,
    SERVICE_TIMEOUT,
    WORKER_LOST,
    Body,
    Client,
)
from zqueue.engine.wire.memory cimport body_bytes, body_drop, body_new
from zqueue.engine.wire.requests cimport attempts_at
from zqueue.engine.wire.zmtp cimport LONGEST_HEAD, MORE, frame_head

cdef enum:
    LONGEST_NUMBER = 16


cdef const char* cause_name(int cause) noexcept nogil:
    if cause == MAX_ATTEMPTS:
        return b"max_attempts"
    if cause == WORKER_LOST:
        return b"worker_lost"
    if cause == SERVICE_TIMEOUT:
        return b"service_timeout"
    if cause == DEADLINE:
        return b"deadline"
    if cause == MAX_WAITING_TIME:
        return b"max_waiting_time"
    return b"queue_full"


cdef void tell_of_death(Dispatcher* it, Request* request, int cause) noexcept nogil:
    """Answer it in its worker's place: its envelope, and the frames of ``error_reply``."""
    cdef char attempts[LONGEST_NUMBER]
    cdef Client* client = who_hears(it, request.client)
    cdef Body* reply
    cdef size_t size
    if client == NULL or not it.settings.error_reply_parts:
        return
    snprintf(attempts, LONGEST_NUMBER, b"%u", attempts_at(request))
    size = request.envelope + _write(it, cause_name(cause), attempts, NULL)
    reply = body_new(&it.pool, size)
    if reply == NULL:
        return
    memcpy(body_bytes(reply), body_bytes(request.body), request.envelope)
    _write(it, cause_name(cause), attempts, body_bytes(reply) + request.envelope)
    if client_send(it, client, NULL, size, reply, 0) != REFUSED_BY_CLIENT:
        it.counters.error_replies += 1
    body_drop(&it.pool, reply)


cdef size_t _write(
    Dispatcher* it, const char* reason, const char* attempts, uint8_t* into
) noexcept nogil:
    """Write the frames to ``into``, unless that is NULL; their size."""
    cdef uint8_t head[LONGEST_HEAD]
    cdef uint32_t first = 0, place
    cdef size_t written = 0, size, part
    cdef const uint8_t* text
    cdef uint8_t flags
    while first < it.settings.error_reply_parts:
        size, place = 0, first
        while it.settings.error_reply[place].kind != END:
            size += _part(&it.settings.error_reply[place], reason, attempts, &text)
            place += 1
        flags = MORE if place + 1 < it.settings.error_reply_parts else 0
        part = frame_head(head, flags, size)
        if into != NULL:
            memcpy(into + written, head, part)
        written += part
        while first < place:
            part = _part(&it.settings.error_reply[first], reason, attempts, &text)
            if into != NULL:
                memcpy(into + written, text, part)
            written += part
            first += 1
        first += 1
    return written


cdef inline size_t _part(
    Part* part, const char* reason, const char* attempts, const uint8_t** text
) noexcept nogil:
    if part.kind == TEXT:
        text[0] = part.text
        return part.size
    text[0] = <const uint8_t*> (reason if part.kind == REASON else attempts)
    return strlen(<const char*> text[0])
