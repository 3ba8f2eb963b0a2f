"""See settings.pxd."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strncpy
from zqueue.engine.wire.entities cimport (
    ALL,
    BACKEND,
    DROPS_OLDEST,
    FRONTEND,
    HOLDS,
    NONE,
    REJECTS,
    UNSTARTED,
    Part,
)
from zqueue.engine.wire.error_replies cimport ATTEMPTS, END, REASON, TEXT
from zqueue.engine.wire.zmtp cimport LONGEST_BROKER_ID

cdef enum:
    SECOND = 1_000_000_000

cdef uint64_t NO_LIMIT = <uint64_t> 1 << 60

_DEFAULTS = {
    "max_waiting": 100_000,
    "max_waiting_bytes": 1 << 30,
    "client_waiting": 0,
    "client_unsent": 64 << 20,
    "prefetch": 0,
    "worker_ahead": 0,
    "max_attempts": 3,
    "redeliver": "all",
    "when_full": "hold",
    "deadline": 0.0,
    "max_waiting_time": 0.0,
    "service_timeout": 0.0,
    "client_grace": 0.0,
    "slow_request": 0.0,
    "keep_for_gone_clients": False,
    "error_reply": (),
    "handover": False,
    "broker_id": b"",
    "max_message_size": 0,
    "max_reply_size": 0,
    "max_frames": 0,
}
_REDELIVER = {"all": ALL, "unstarted": UNSTARTED, "none": NONE}
_WHEN_FULL = {"hold": HOLDS, "reject": REJECTS, "oldest": DROPS_OLDEST}
_PLACEHOLDERS = {"reason": REASON, "attempts": ATTEMPTS}


cdef int settings_from(Settings* into, dict given) except -1:
    """Fill in settings, those not given as they are by default. Sizes are bytes, durations seconds; 0
    is no limit, never, and a measured ``prefetch``. ``broker_id`` is letters and digits. ``error_reply`` is a list of frames, each a list
    of bytes and of the words ``reason`` and ``attempts``. Call :c:func:`settings_free` in the end.

    Raises:
        TypeError: there is no such setting.
        MemoryError
    """
    for name in given:
        if name not in _DEFAULTS:
            raise TypeError(f"there is no setting {name}")
    wanted = {**_DEFAULTS, **given}
    memset(into, 0, sizeof(Settings))
    into.limits[FRONTEND].message_bytes = wanted["max_message_size"] or NO_LIMIT
    into.limits[BACKEND].message_bytes = wanted["max_reply_size"] or NO_LIMIT
    into.limits[FRONTEND].frames = into.limits[BACKEND].frames = (
        wanted["max_frames"] or <uint32_t> 0xFFFFFFFF
    )
    into.max_waiting = wanted["max_waiting"] or NO_LIMIT
    into.max_waiting_bytes = wanted["max_waiting_bytes"] or NO_LIMIT
    into.client_waiting = wanted["client_waiting"]
    into.client_unsent = wanted["client_unsent"] or NO_LIMIT
    into.prefetch = wanted["prefetch"]
    into.worker_ahead = wanted["worker_ahead"]
    into.max_attempts = wanted["max_attempts"]
    into.redeliver = _REDELIVER[wanted["redeliver"]]
    into.when_full = _WHEN_FULL[wanted["when_full"]]
    # Else no client is held, for it is what all have waiting that counts.
    into.client_waiting_bytes = into.max_waiting_bytes if into.when_full == HOLDS else NO_LIMIT
    into.deadline = <int64_t> (<double> wanted["deadline"] * SECOND)
    into.max_waiting_time = <int64_t> (<double> wanted["max_waiting_time"] * SECOND)
    into.service_timeout = <int64_t> (<double> wanted["service_timeout"] * SECOND)
    into.client_grace = <int64_t> (<double> wanted["client_grace"] * SECOND)
    into.slow_request = <int64_t> (<double> wanted["slow_request"] * SECOND)
    into.keep_for_gone = wanted["keep_for_gone_clients"]
    into.handover = wanted["handover"]
    strncpy(into.broker_id, <bytes> wanted["broker_id"], LONGEST_BROKER_ID)
    return _error_reply(into, wanted["error_reply"])


cdef int _error_reply(Settings* into, frames) except -1:
    parts = [text for frame in frames for text in (*frame, None)]
    cdef Part* part
    if not parts:
        return 0
    into.error_reply = <Part*> calloc(len(parts), sizeof(Part))
    if into.error_reply == NULL:
        raise MemoryError
    for text in parts:
        part = &into.error_reply[into.error_reply_parts]
        into.error_reply_parts += 1
        part.kind = END if text is None else _PLACEHOLDERS.get(text, TEXT)
        if part.kind == TEXT:
            part.size = len(text)
            part.text = <uint8_t*> malloc(part.size + 1)
            if part.text == NULL:
                raise MemoryError
            memcpy(part.text, <char*> <bytes> text, part.size)
    return 0


cdef void settings_free(Settings* settings) noexcept nogil:
    cdef uint32_t place
    for place in range(settings.error_reply_parts):
        free(settings.error_reply[place].text)
    free(settings.error_reply)
    settings.error_reply = NULL
    settings.error_reply_parts = 0
