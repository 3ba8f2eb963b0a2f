"""SipHash-1-3: hashes that nobody can foresee who does not know the secret, so that nobody can choose
what falls into one slot of a table."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef struct Secret:
    uint64_t first
    uint64_t second

# What is being hashed; see :c:func:`hash_keyed`.
cdef struct Mixing:
    uint64_t a
    uint64_t b
    uint64_t c
    uint64_t d


cdef inline uint64_t _rotated(uint64_t value, int by) noexcept nogil:
    return (value << by) | (value >> (64 - by))


cdef inline void _round(Mixing* at) noexcept nogil:
    at.a += at.b
    at.c += at.d
    at.b = _rotated(at.b, 13) ^ at.a
    at.d = _rotated(at.d, 16) ^ at.c
    at.a = _rotated(at.a, 32)
    at.c += at.b
    at.a += at.d
    at.b = _rotated(at.b, 17) ^ at.c
    at.d = _rotated(at.d, 21) ^ at.a
    at.c = _rotated(at.c, 32)


cdef inline uint64_t hash_keyed(
    const Secret* secret, uint64_t before, const uint8_t* data, size_t size
) noexcept nogil:
    """Of these bytes; ``before`` is the hash of what comes before them, 0 if they are the first."""
    cdef uint64_t first = secret.first ^ before, word
    cdef Mixing at
    cdef size_t left = size
    at.a = first ^ <uint64_t> 0x736F6D6570736575
    at.b = secret.second ^ <uint64_t> 0x646F72616E646F6D
    at.c = first ^ <uint64_t> 0x6C7967656E657261
    at.d = secret.second ^ <uint64_t> 0x7465646279746573
    while left >= 8:
        memcpy(&word, data, 8)
        at.d ^= word
        _round(&at)
        at.a ^= word
        data += 8
        left -= 8
    word = <uint64_t> size << 56
    while left:
        left -= 1
        word |= <uint64_t> data[left] << (8 * left)
    at.d ^= word
    _round(&at)
    at.a ^= word
    at.c ^= 0xFF
    _round(&at)
    _round(&at)
    _round(&at)
    return at.a ^ at.b ^ at.c ^ at.d


cdef inline uint64_t hash_number(const Secret* secret, uint64_t number) noexcept nogil:
    return hash_keyed(secret, 0, <const uint8_t*> &number, 8)
