"""The loop of ``zqueuectl top``: keys and looks go into the model, what is seen of it is drawn."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from types import FrameType
from typing import NoReturn

import click
from rich.text import Text

from zqueue.cli import render
from zqueue.cli.output import say_json
from zqueue.cli.top import view
from zqueue.cli.top.follower import Follower, Look, Lost, look_at
from zqueue.cli.top.inbox import Inbox
from zqueue.cli.top.keyboard import Keyboard
from zqueue.cli.top.model import Model, Steer, Verb
from zqueue.cli.top.screen import Screen
from zqueue.control.client import ControlClient
from zqueue.errors import ZqueueError
from zqueue.findings import findings
from zqueue.reach import reach_of

_DONE: dict[Verb, str] = {"pause": "paused", "resume": "running", "drain": "drained"}
_REST_OF_A_KEY = 0.05
_DRAWN_AT_LEAST_EVERY = 1.0

Connect = Callable[[], ControlClient]
Told = Look | Lost | str
"""What another thread has to say; a text is for the footer."""


def is_at_a_terminal() -> bool:
    """Whether there is one to draw on and to read keys from."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def print_looks(zqueued: ControlClient, model: Model, count: int) -> None:
    """Print what is seen, ``count`` times."""
    console = render.new_console()
    drawn = view.symbols(console.encoding)
    for look in _looks(zqueued, model, count):
        lines = view.whole(model, console.width, drawn, look.at)
        with console.capture() as captured:
            console.print(Text("\n").join(lines), no_wrap=True, overflow="ignore", crop=False)
        click.echo(captured.get(), nl=False)


def export_looks(zqueued: ControlClient, model: Model, count: int) -> None:
    """Print what is seen as JSON, a line a look."""
    for look in _looks(zqueued, model, count):
        rows = None if look.refusal else [row.model_dump(mode="json") for row in look.rows]
        found = [asdict(each) for each in findings(look.status, reach_of(look.status, model.ctl))]
        status = look.status.model_dump(mode="json")
        shown = {"status": status, "findings": found, "queue": look.queue, look.listing.name: rows}
        say_json(shown, None)


def _looks(zqueued: ControlClient, model: Model, count: int) -> Iterator[Look]:
    due = time.monotonic()
    for number in range(count):
        if number:
            due += model.interval
            time.sleep(max(0.0, due - time.monotonic()))
        look = look_at(zqueued, model.wanted)
        model.see(look)
        yield look


def follow(connect: Connect, model: Model, count: int | None) -> None:
    """Draw and follow keys until the operator has had enough, or ``count`` looks are done. The
    daemon may come and go meanwhile; ``connect`` makes a connection to it, in any thread."""
    inbox: Inbox[Told] = Inbox(signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
    drawn = view.symbols(sys.stdout.encoding)
    with (
        contextlib.suppress(KeyboardInterrupt, EOFError),
        _ended_by(signal.SIGTERM),
        inbox,
        Keyboard(sys.stdin.fileno()) as keyboard,
        Screen(sys.stdout) as screen,
    ):
        follower = Follower(connect, inbox.post, model.wanted)
        while not model.over:
            screen.show(view.page(model, *screen.size(), drawn, time.monotonic()))
            patience = _REST_OF_A_KEY if keyboard.is_half_a_key else _DRAWN_AT_LEAST_EVERY
            pressed, signals = inbox.wait(keyboard.descriptor, patience)
            if signal.SIGTSTP in signals:
                _stop(keyboard, screen)
            elif signal.SIGCONT in signals:  # after a SIGSTOP: the shell has used the terminal
                _take_again(keyboard, screen)
            for key in keyboard.read() if pressed else keyboard.give_up():
                asked = model.press(key)
                if asked is not None:
                    _steer(connect, asked, inbox.post)
            for told in inbox.posted():
                count = _take(model, told, count)
            follower.want(model.wanted)


def _take(model: Model, told: Told, count: int | None) -> int | None:
    """Put into the model what a thread has told; how many looks are left."""
    if isinstance(told, str):
        model.told = told
    elif isinstance(told, Lost):
        model.lose(told)
    else:
        model.see(told)
        if count is not None and told.due:
            count -= 1
            model.over = model.over or count == 0
    return count


def _steer(connect: Connect, asked: Steer, tell: Callable[[str], None]) -> None:
    """Do it in a thread: a drain takes its time, and so may a daemon."""
    whom = "" if asked.worker is None else f"worker {asked.worker} of "

    def run() -> None:
        try:
            with connect() as zqueued:
                match asked.verb:
                    case "pause":
                        result = zqueued.pause(asked.queue)
                    case "resume":
                        result = zqueued.resume(asked.queue)
                    case "drain":
                        result = zqueued.drain(
                            asked.queue,
                            worker=asked.worker,
                            on_progress=lambda all_: tell(
                                "; ".join(whom + render.progress(each) for each in all_)
                            ),
                        )
        except ZqueueError as error:
            tell(f"{asked}: {error}")
        else:
            done = _DONE[asked.verb]
            tell("; ".join(whom + render.steered(each, done) for each in result.queues))

    threading.Thread(target=run, daemon=True).start()


def _stop(keyboard: Keyboard, screen: Screen) -> None:
    """Stop as Ctrl-Z asks for, and go on when the shell says so."""
    screen.leave()
    keyboard.release()
    os.kill(os.getpid(), signal.SIGSTOP)
    _take_again(keyboard, screen)


def _take_again(keyboard: Keyboard, screen: Screen) -> None:
    keyboard.hold()
    screen.enter()


@contextlib.contextmanager
def _ended_by(number: signal.Signals) -> Iterator[None]:
    """Have the signal end it in order, as ``kill`` would without that."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, before)
