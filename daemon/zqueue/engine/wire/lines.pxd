"""Lines of requests. A request may stand in several at once, in one of each kind, and is put in and
taken out without a look at any but its neighbours."""

from zqueue.engine.wire.entities cimport Line, Request
from zqueue.engine.wire.linux cimport zq_check

cdef inline void line_append(Line* line, Request* request, int kind) noexcept nogil:
    request.beside[kind].next = NULL
    request.beside[kind].previous = line.last
    line_join(line, request, kind)

cdef inline void line_replace(Line* line, Request* request, Request* by, int kind) noexcept nogil:
    """Put ``by`` in its place."""
    by.beside[kind] = request.beside[kind]
    line_join(line, by, kind)

cdef inline void line_join(Line* line, Request* request, int kind) noexcept nogil:
    """Let its neighbours, which it knows, know it."""
    if request.beside[kind].next != NULL:
        request.beside[kind].next.beside[kind].previous = request
    else:
        line.last = request
    if request.beside[kind].previous != NULL:
        request.beside[kind].previous.beside[kind].next = request
    else:
        line.first = request

cdef inline void line_check(Line* line, Request* request, int kind) noexcept nogil:
    """It is there, and its neighbours know it."""
    zq_check(
        line.last == request if request.beside[kind].next == NULL
        else request.beside[kind].next.beside[kind].previous == request
    )
    zq_check(
        line.first == request if request.beside[kind].previous == NULL
        else request.beside[kind].previous.beside[kind].next == request
    )

cdef inline void line_remove(Line* line, Request* request, int kind) noexcept nogil:
    line_check(line, request, kind)
    if request.beside[kind].next != NULL:
        request.beside[kind].next.beside[kind].previous = request.beside[kind].previous
    else:
        line.last = request.beside[kind].previous
    if request.beside[kind].previous != NULL:
        request.beside[kind].previous.beside[kind].next = request.beside[kind].next
    else:
        line.first = request.beside[kind].next
