"""What a client is told when its request has died."""

from zqueue.engine.wire.entities cimport Dispatcher, Part, Request

# What a part of the configured frames is; with END its frame is complete.
cdef enum PartKind:
    TEXT
    REASON
    ATTEMPTS
    END

cdef const char* cause_name(int cause) noexcept nogil
cdef void tell_of_death(Dispatcher* it, Request* request, int cause) noexcept nogil
