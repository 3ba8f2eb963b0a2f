"""See heaps.pxd. Of each ``beside[BY_MATCH].next`` is the first of the row under it. Along a row goes
``beside[IN_TURN].next``; ``previous`` is the one before, or for the first in a row the one above."""

from zqueue.engine.wire.entities cimport BY_MATCH, IN_TURN


cdef inline Request* _one_of(Request* one, Request* other) noexcept nogil:
    """Make one heap of two, each NULL if it is empty; its oldest."""
    cdef Request* below
    if one == NULL or other == NULL:
        return other if one == NULL else one
    if other.number < one.number:
        one, other = other, one
    below = one.beside[BY_MATCH].next
    other.beside[IN_TURN].previous = one
    other.beside[IN_TURN].next = below
    if below != NULL:
        below.beside[IN_TURN].previous = other
    one.beside[BY_MATCH].next = other
    return one


cdef Request* _one_of_row(Request* row) noexcept nogil:
    """Make one heap of all in a row: of each pair one, and then of those from the last to the first."""
    cdef Request* one
    cdef Request* other
    cdef Request* pairs = NULL
    cdef Request* heap = NULL
    while row != NULL:
        one = row
        other = one.beside[IN_TURN].next
        row = other.beside[IN_TURN].next if other != NULL else NULL
        one = _one_of(one, other)
        one.beside[IN_TURN].next = pairs
        pairs = one
    while pairs != NULL:
        one = pairs
        pairs = one.beside[IN_TURN].next
        heap = _one_of(heap, one)
    if heap != NULL:
        heap.beside[IN_TURN].next = heap.beside[IN_TURN].previous = NULL
    return heap


cdef void heap_put(Request** heap, Request* request) noexcept nogil:
    request.beside[BY_MATCH].next = NULL
    request.beside[IN_TURN].next = request.beside[IN_TURN].previous = NULL
    heap[0] = _one_of(heap[0], request)


cdef void heap_take(Request** heap, Request* request) noexcept nogil:
    """Take out one that is there."""
    cdef Request* under = _one_of_row(request.beside[BY_MATCH].next)
    cdef Request* before = request.beside[IN_TURN].previous
    cdef Request* after = request.beside[IN_TURN].next
    if request == heap[0]:
        heap[0] = under
        return
    if before.beside[BY_MATCH].next == request:
        before.beside[BY_MATCH].next = after
    else:
        before.beside[IN_TURN].next = after
    if after != NULL:
        after.beside[IN_TURN].previous = before
    heap[0] = _one_of(heap[0], under)
