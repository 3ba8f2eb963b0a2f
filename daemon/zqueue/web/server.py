"""An HTTP server that looks after itself: whoever is slow, silent or too many costs it nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from zqueue.listeners import Listener
from zqueue.web import hosts, http
from zqueue.web.http import BadRequest, Request, Response

_CONNECTIONS = 64
_LONGEST_HEAD = 16 << 10
_HEAD_WITHIN = 5.0
_READ_WITHIN = 10.0
_CLOSED_WITHIN = 1.0
_UNWANTED = 64 << 10
"""How much is read of a body that nobody asked for, so that its sender gets to read the answer."""

Answer = Callable[[Request], Awaitable[Response]]


class HttpServer:
    """Serves one listener, one request a connection.

    There are at most so many connections at once. One more takes the place of the one that has
    been silent for longest, or where none is, of the one that has been answered for longest: who
    neither asks nor reads keeps nobody out. Requests for hosts that ``is_ours`` does not know are
    refused.
    """

    def __init__(self, answer: Answer, is_ours: Callable[[str], bool]) -> None:
        self._answer = answer
        self._is_ours = is_ours
        self._silent: dict[asyncio.StreamWriter, None] = {}
        self._connections: dict[asyncio.StreamWriter, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listener: Listener) -> None:
        """Begin to accept; ``listener`` stays open for whoever has it."""
        sock = socket.socket(fileno=socket.dup(listener.fileno()))
        sock.setblocking(False)
        self._server = await asyncio.start_server(self._accepted, sock=sock, limit=_LONGEST_HEAD)

    async def stop(self) -> None:
        """Accept no more, and end what is under way."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _CONNECTIONS:
            oldest = next(iter(self._silent or self._connections))
            self._forget(oldest)
            oldest.transport.abort()
        self._connections[writer] = None
        self._silent[writer] = None
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        self._connections.pop(writer, None)
        self._silent.pop(writer, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # it has left, or is too slow
        finally:
            self._forget(writer)
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with_body = True
        try:
            async with asyncio.timeout(_HEAD_WITHIN):
                head = await reader.readuntil(b"\r\n\r\n")
            request = http.parse(head)
            with_body = request.method != "HEAD"
            self._silent.pop(writer, None)
            if request.host and not self._is_ours(request.host):
                raise BadRequest(http.text(421, *hosts.refusal(request.host)))
            response = await self._answered(request)
        except BadRequest as error:
            response = error.response
        except asyncio.LimitOverrunError:
            response = http.text(431, f"a request has at most {_LONGEST_HEAD} bytes")
        except TimeoutError:
            response = http.text(408, f"no whole request came within {_HEAD_WITHIN:g} s")
        writer.write(http.encode(response, with_body=with_body))
        async with asyncio.timeout(_READ_WITHIN):
            await writer.drain()
            writer.write_eof()
        # To close with something unread would take the answer from whoever is still sending.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSED_WITHIN):
                await reader.read(_UNWANTED)
                while not reader.at_eof() and await reader.read(_UNWANTED):
                    pass

    async def _answered(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except Exception as error:  # our own mistake: its caller hears of it, nobody else is hurt
            about = {"message": f"{request.path} could not be shown", "exception": error}
            asyncio.get_running_loop().call_exception_handler(about)
            return http.text(500, "an unexpected error; the log has it")
