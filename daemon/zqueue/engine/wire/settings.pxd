"""The settings of the state machine, from Python's to its own."""

from zqueue.engine.wire.entities cimport Settings

cdef int settings_from(Settings* into, dict given) except -1
cdef void settings_free(Settings* settings) noexcept nogil
