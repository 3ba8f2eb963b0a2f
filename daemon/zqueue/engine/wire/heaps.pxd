"""Requests of which the oldest is at hand: a pairing heap, by number.

One is put there, and taken from anywhere in it, without a walk along those that are there (amortized,
the logarithm of their number). It needs no memory: a request that waits is in no line BY_MATCH, and in
place of its neighbours IN_TURN it knows those of its row in the heap.
"""

from zqueue.engine.wire.entities cimport Request

cdef void heap_put(Request** heap, Request* request) noexcept nogil
cdef void heap_take(Request** heap, Request* request) noexcept nogil
