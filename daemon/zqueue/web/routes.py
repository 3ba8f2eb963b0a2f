"""Which path gives what."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib import resources
from typing import Any

from pydantic import ValidationError

from zqueue import health
from zqueue.control import messages
from zqueue.control.server import Refusal
from zqueue.web import http, metrics, page
from zqueue.web.http import Request, Response
from zqueue.web.looks import Ask, Look, Looks

_JSON = "application/json"
_API = "/api/v1/"
_PATHS = ("/", "/metrics", "/healthz", "/readyz")
_FILES = {"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8"}
_READY_WITHIN = 3.0
_STATUS_OF = {"unknown_queue": 404, "ambiguous": 400, "refused": 409}


class Routes:
    """Answers requests. ``stalled`` and ``rebind_steps`` are as for
    :class:`~zqueue.web.service.WebService`."""

    def __init__(
        self,
        ask: Ask,
        stalled: Callable[[], list[str]],
        rebind_steps: Callable[[], int],
        with_workers: Callable[[], bool],
    ) -> None:
        self._ask = ask
        self._stalled = stalled
        self._rebind_steps = rebind_steps
        self._looks = Looks(ask, with_workers)
        folder = resources.files("zqueue.web")
        self._files = {path: (folder / path[1:]).read_bytes() for path in _FILES}
        self._metrics = metrics.Metrics(stalled)

    async def answer(self, request: Request) -> Response:
        """What ``request`` is answered."""
        path = request.path
        if path == "/":
            look = await self._looks.look()
            shown = look.once("page", lambda look: page.render(look.status).encode())
            return Response(200, "text/html; charset=utf-8", shown)
        if path == "/metrics":
            return await self._scrape(request)
        if path == "/healthz":
            return _verdict([f"{name}: its thread does not answer" for name in self._stalled()])
        if path == "/readyz":
            return _verdict(await self._not_ready())
        if path in _FILES:
            return Response(200, _FILES[path], self._files[path])
        if path.startswith(_API):
            return await self._api(path.removeprefix(_API), request)
        return http.text(404, f"there is no {path[:100]!r}; there are:", *_PATHS, *_api_paths())

    async def _not_ready(self) -> list[str]:
        """Why it is not ready. A reload that is done in a moment is no reason to send requests
        elsewhere."""
        deadline = time.monotonic() + _READY_WITHIN
        while True:
            steps = self._rebind_steps()
            reasons = health.not_ready((await self._looks.look()).status)
            settled = steps == self._rebind_steps() and steps % 2 == 0
            if not reasons or settled or time.monotonic() >= deadline:
                return reasons

    async def _scrape(self, request: Request) -> Response:
        kind, make = self._metrics.format_for(request.headers.get("accept", ""))
        look = await self._looks.look()
        return Response(200, kind, look.once(kind, make))

    async def _api(self, name: str, request: Request) -> Response:
        if name not in _API_NAMES:
            return _failure(404, "unknown", f"there are: {', '.join(_api_paths())}")
        if name in _LISTS:
            return await self._list(name, request)
        if name == "version":
            return await self._result(messages.Version(id="http"))
        shown = (await self._looks.look()).once(name, _STATUSES[name])
        return Response(200, _JSON, shown)

    async def _list(self, name: str, request: Request) -> Response:
        queue, conditions = request.query.get("queue"), request.query.get("filter")
        try:
            wanted = _LISTS[name](
                id="http",
                queues=(queue,) if queue else (),
                filter=tuple(conditions.split(",")) if conditions else (),
                sort=request.query.get("sort"),
                limit=request.query.get("limit"),
            )
        except ValidationError:
            return _failure(400, "malformed", "limit is a number from 0 on")
        return await self._result(wanted)

    async def _result(self, wanted: messages.Request) -> Response:
        try:
            result = await self._ask(wanted)
        except Refusal as refusal:
            return _failure(_STATUS_OF.get(refusal.code, 500), refusal.code, str(refusal))
        return Response(200, _JSON, result.model_dump_json().encode())


def _verdict(reasons: list[str]) -> Response:
    return http.text(503, *reasons) if reasons else http.text(200, "ok")


def _status(look: Look) -> bytes:
    return look.status.model_dump_json().encode()


def _queues(look: Look) -> bytes:
    return b'{"queues":[%s]}' % b",".join(
        queue.model_dump_json().encode() for queue in look.status.queues
    )


_STATUSES = {"status": _status, "queues": _queues, "stats": _queues}
_LISTS: dict[str, Callable[..., messages.ListRequest]] = {
    "workers": messages.Workers,
    "clients": messages.Clients,
    "connections": messages.Connections,
    "requests": messages.Requests,
}
_API_NAMES = (*_STATUSES, *_LISTS, "version")


def _api_paths() -> list[str]:
    return [f"{_API}{name}{'?queue=NAME' if name in _LISTS else ''}" for name in _API_NAMES]


def _failure(status: int, code: str, message: str) -> Response:
    """As ``zqueuectl --json`` has it."""
    body: dict[str, Any] = {"error": {"code": code, "message": message}}
    return Response(status, _JSON, json.dumps(body).encode())
