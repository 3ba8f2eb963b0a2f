"""zqueued with a step that fails once: ``python -m tests.failing_step FILE`` and its arguments.

``FILE`` names the step and an exception, such as ``zqueue.rebinding:freeze OSError``. The next call
of that step removes the file and raises the exception. So whatever may go wrong in real life at a
place where nothing can be made to fail from outside can be tried there.
"""

from __future__ import annotations

import builtins
import errno
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from zqueue.errors import EndpointError, ZqueueError

STEPS = (
    "zqueue.config:load",
    "zqueue.config:difference",
    "zqueue.config:needs_rebind",
    "zqueue.config:check",
    "zqueue.letter_file:LetterFile.close",
    "zqueue.rebinding:keeps_connections",
    "zqueue.rebinding:claim",
    "zqueue.rebinding:freeze",
    "zqueue.rebinding:start",
    "zqueue.plan:Claims.claim_free",
    "zqueue.plan:Claims.take_over",
    "zqueue.inherited:listen",
    "zqueue.queue:Queue.__init__",
    "zqueue.queue:Queue.begin",
    "zqueue.queue:Queue.reconfigure",
    "zqueue.loop_socket:LoopSocket.__init__",
    "zqueue.web.service:WebService.claim",
    "zqueue.web.service:WebService.start",
    "zqueue.web.service:WebService.stop",
    "zqueue.steering:Steering.drain",
    "zqueue.steering:Steering.take_up",
    "zqueue.steering:Steering.ended",
    "zqueue.steering:Steering.close",
    "zqueue.steering:Steering.tell",
    "zqueue.daemon:Daemon._end",
)


def made(name: str) -> BaseException:
    """The exception of this name, as it would be raised."""
    known = {"ZMQError": zmq.ZMQError(errno.EMFILE), "ZqueueError": ZqueueError("a test wants it")}
    known["EndpointError"] = EndpointError("tcp://127.0.0.1:1", "a test wants it")
    known["OSError"] = OSError(errno.EMFILE, "Too many open files")
    return known.get(name) or getattr(builtins, name)("a test wants it")


def _fail_once(step: str, wanted: Path) -> None:
    module, _, path = step.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    inner: Callable[..., Any] = getattr(owner, name)

    def may_fail() -> None:
        try:
            asked, error = wanted.read_text().split()
        except (OSError, ValueError):
            return
        if asked == step:
            wanted.unlink()
            raise made(error)

    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def tried_async(*arguments: Any, **more: Any) -> Any:
            may_fail()
            return await inner(*arguments, **more)

        setattr(owner, name, tried_async)
    else:

        @functools.wraps(inner)
        def tried(*arguments: Any, **more: Any) -> Any:
            may_fail()
            return inner(*arguments, **more)

        setattr(owner, name, tried)


if __name__ == "__main__":
    from zqueue.cli.zqueued import main

    wanted = Path(sys.argv.pop(1))
    for step in STEPS:
        _fail_once(step, wanted)
    main()
