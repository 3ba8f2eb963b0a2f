"""What the verbs for dead letters do: one method a verb."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from zqueue.control import messages
from zqueue.control.messages import DeadSteered, DeadSteerResult, Message
from zqueue.control.server import Refusal
from zqueue.daemon import Daemon
from zqueue.letter_id import LetterId, NoSuchLetter
from zqueue.queue_named import queue_named
from zqueue.steering import Steering
from zqueue.telling import telling

_WAITS_FOR_ROOM = 10.0
_LOOKED_AT_EVERY = 0.05

Verb = Callable[..., Awaitable[Message]]
Progress = Callable[[tuple[()]], None]


class DeadLetterVerbs:
    """Answers requests about dead letters. See :mod:`zqueue.control.messages` for each."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def verbs(self) -> dict[type[Message], Verb]:
        """The method for each kind of request."""
        return {
            messages.DeadList: self._list,
            messages.DeadRead: self._read,
            messages.DeadRetry: self._retry,
            messages.DeadDrop: self._drop,
        }

    # -- looking ---------------------------------------------------------------------------------

    async def _list(
        self, request: messages.DeadList, by: str, _: object
    ) -> messages.DeadListResult:
        queue = self._queue_of(request)
        wanted = request.model_dump(
            include={"letters", "reasons", "since", "last", "after", "content"}
        )
        return messages.DeadListResult(**await _ask(queue, "DEAD_LIST", by, **wanted))

    async def _read(
        self, request: messages.DeadRead, by: str, _: object
    ) -> messages.DeadReadResult:
        queue = self._named(_parsed(request.letter).queue)
        place = {"letter": request.letter, "offset": request.offset}
        return messages.DeadReadResult(data=(await _ask(queue, "DEAD_READ", by, **place))["data"])

    def _queue_of(self, request: messages.DeadList) -> Steering:
        named = {_parsed(letter).queue for letter in request.letters}
        if request.queue is not None:
            named.add(request.queue)
        if not named:
            named = set(self._daemon.queues)
        if len(named) != 1:
            names = ", ".join(self._daemon.queues) or "none"
            raise Refusal("ambiguous", f"dead letters belong to one queue; there are: {names}")
        return self._named(named.pop())

    # -- taking away -----------------------------------------------------------------------------

    async def _retry(
        self, request: messages.DeadRetry, by: str, progress: Progress
    ) -> DeadSteerResult:
        def tell(queue: str, letters: int) -> None:
            self._daemon.bus.emit("dead_letters.retried", queue=queue, by=by, letters=letters)

        return await self._steer(request, "DEAD_RETRY", by, progress, tell)

    async def _drop(
        self, request: messages.DeadDrop, by: str, progress: Progress
    ) -> DeadSteerResult:
        def tell(queue: str, letters: int) -> None:
            self._daemon.bus.emit("dead_letters.dropped", queue=queue, by=by, letters=letters)

        return await self._steer(request, "DEAD_DROP", by, progress, tell)

    async def _steer(
        self,
        request: messages.DeadRetry | messages.DeadDrop,
        word: str,
        by: str,
        progress: Progress,
        tell: Callable[[str, int], None],
    ) -> DeadSteerResult:
        steered = []
        for queue, wanted in await self._chosen(request, by):
            work = asyncio.ensure_future(self._until_none_is_left(queue, word, by, wanted))
            steered.append(await telling(work, lambda: progress(())))
            if steered[-1].done:
                tell(queue.name, steered[-1].done)
        return DeadSteerResult(queues=tuple(steered))

    async def _chosen(
        self, request: messages.DeadRetry | messages.DeadDrop, by: str
    ) -> list[tuple[Steering, dict[str, Any]]]:
        """The queues, and which letters of each; every letter that is named is there."""
        if bool(request.letters) == request.all:
            raise Refusal("malformed", "either the ids of dead letters, or --all")
        if request.all:
            filters = request.model_dump(include={"reasons", "since"})
            names = request.queues or tuple(self._daemon.queues)
            return [(self._named(name), filters) for name in dict.fromkeys(names)]
        named: dict[str, list[str]] = {}
        for letter in request.letters:
            named.setdefault(_parsed(letter).queue, []).append(letter)
        chosen = [(self._named(name), {"letters": letters}) for name, letters in named.items()]
        for queue, letters in chosen:
            await _ask(queue, "DEAD_LIST", by, last=1, content=False, **letters)
        return chosen

    async def _until_none_is_left(
        self, queue: Steering, word: str, by: str, wanted: dict[str, Any]
    ) -> DeadSteered:
        """Some at a time, so that the queue does other things between."""
        done, moved_at = 0, time.monotonic()
        while True:
            answer = await queue.ask(word, by, **wanted)
            if not answer["ok"]:
                return DeadSteered(queue=queue.name, done=done, detail=answer["detail"])
            done += answer["done"]
            if not answer["left"]:
                return DeadSteered(queue=queue.name, done=done)
            if answer["done"]:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > _WAITS_FOR_ROOM:
                full = "the queue is full (max_waiting, max_waiting_bytes)"
                return DeadSteered(queue=queue.name, done=done, left=answer["left"], detail=full)
            else:
                await asyncio.sleep(_LOOKED_AT_EVERY)
            wanted = wanted | {"until": answer["until"]}

    def _named(self, name: str) -> Steering:
        return queue_named(self._daemon.queues, name)


async def _ask(queue: Steering, word: str, by: str, **arguments: Any) -> dict[str, Any]:
    """A word's answer, less what every answer has."""
    answer = await queue.ask(word, by, **arguments)
    if not answer["ok"]:
        raise Refusal(answer.get("code", "failed"), f"{queue.name}: {answer['detail']}")
    return {key: value for key, value in answer.items() if key not in ("ok", "state")}


def _parsed(letter: str) -> LetterId:
    try:
        return LetterId.parse(letter)
    except NoSuchLetter as error:
        raise Refusal(error.code, str(error)) from None
