"""The wire engine: ZMTP spoken by zqueue itself, on one epoll a queue, compiled with Cython."""
