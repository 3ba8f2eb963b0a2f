"""Copies of what passes, for one reader in another thread, while it wants them."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from zqueue.engine.wire.linux cimport zq_get, zq_set
from zqueue.engine.wire.notices cimport NAME

cdef enum:
    TAP_SIZE = 8 << 20
    REQUEST = 0
    REPLY = 1

# What is known of a message, before its bytes. Of ``whole`` bytes ``kept`` are there, those of
# ``frames`` frames, the client's routing id the first. ``number`` is its request's, 0 for a reply
# that nothing was open for; ``client`` and ``worker`` are those of connections. Times are
# nanoseconds: ``at`` on the monotonic clock, ``waited`` and ``service`` how long, of a reply.
cdef struct Tapped:
    uint64_t kept
    uint64_t whole
    uint64_t frames
    int64_t number
    int64_t at
    int64_t waited
    int64_t service
    int64_t client
    int64_t worker
    uint32_t way
    char client_name[NAME]
    char worker_name[NAME]

# A ring of records. The reader alone changes ``read``, ``on``, ``most``, which is how many bytes of a
# message are copied, ID_FRAME at least, ``wakes``: whether the reader is woken for it, ``allowed``: how many exchanges, in
# all, may be copied, and ``since``: when it was last switched on. The rest is the writer's: ``begun`` is
# how many exchanges were copied. An exchange is a request with its replies, or a reply alone.
cdef struct Tap:
    uint8_t* ring
    uint64_t on
    uint64_t most
    uint64_t wakes
    uint64_t allowed
    int64_t since
    uint64_t begun
    uint64_t written
    uint64_t read
    uint64_t missed

cdef bint tap_open(Tap* tap) noexcept nogil
cdef void tap_close(Tap* tap) noexcept nogil
cdef void tap_switch(Tap* tap, bint on, int64_t now, uint64_t most, bint wakes) noexcept nogil
cdef void tap_allow(Tap* tap, uint64_t exchanges) noexcept nogil
cdef bint tap_put(
    Tap* tap, Tapped* about, const uint8_t* head, size_t head_size, const uint8_t* data, size_t size
) noexcept nogil
cdef list tap_told(Tap* tap, int most)
cdef uint64_t tap_skip(Tap* tap) noexcept nogil


cdef inline bint tap_is_on(Tap* tap) noexcept nogil:
    return tap != NULL and zq_get(&tap.on) != 0


cdef inline bint tap_precedes(Tap* tap, int64_t then) noexcept nogil:
    """Whether it was on already at that time."""
    return <int64_t> zq_get(<uint64_t*> &tap.since) <= then


cdef inline bint tap_may_begin(Tap* tap) noexcept nogil:
    """Whether one more exchange may be copied; if not, what is not copied counts as missed. Half of
    the ring is for the replies to what was begun."""
    if (
        tap.begun < zq_get(&tap.allowed)
        and tap.written - zq_get(&tap.read) <= TAP_SIZE // 2
    ):
        return True
    tap.missed += 1
    return False


cdef inline void tap_begin(Tap* tap) noexcept nogil:
    zq_set(&tap.begun, tap.begun + 1)
