"""Connections as they come about: accepted, or made and made again; and the gates that keep them out
when there are too many."""

from zqueue.engine.wire.loop cimport Connecting, Listening, Loop

cdef void accept_on(Loop* loop, Listening* listener) noexcept nogil
cdef bint watch_listener(Loop* loop, Listening* listener) noexcept nogil
cdef void unwatch_listeners(Loop* loop) noexcept nogil
cdef void open_gates(Loop* loop) noexcept nogil
cdef void connect_now(Loop* loop, Connecting* connector) noexcept nogil
cdef void connected(Loop* loop, Connecting* connector) noexcept nogil
cdef void retry_later(Loop* loop, Connecting* connector) noexcept nogil
