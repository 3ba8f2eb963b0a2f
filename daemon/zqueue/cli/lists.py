"""``zqueuectl workers``, ``clients``, ``connections``, ``requests``: who is there and what is open;
``kick``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from zqueue.cli import completion
from zqueue.cli.calls import Command, Options, Seconds, as_json, called, fail, takes_options
from zqueue.cli.output import done, say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zqueue.control.client import ControlClient
    from zqueue.control.messages import ListResult


def _takes_choice(command: Command) -> Command:
    """Give ``command`` names of queues, and what it takes to choose among many rows."""
    for decorate in (
        click.option(
            "--watch",
            "every",
            is_flag=False,
            flag_value=1.0,
            default=None,
            type=Seconds(),
            metavar="[DURATION]",
            help="Show it anew every second, or so often, until Ctrl-C.",
        ),
        click.option(
            "--limit", type=click.IntRange(0), metavar="COUNT", help="At most so many rows."
        ),
        click.option(
            "--sort",
            metavar="COLUMN",
            help="By this column; with a - before it, from the largest: --sort=-p99.",
        ),
        click.option(
            "--filter",
            "conditions",
            multiple=True,
            metavar="CONDITION",
            help="Only rows for which this holds: a column, one of = != < <= > >=, a value: "
            "'peer=*10.0.0.*', 'in_flight>0', 'age>=1s', 'unsent_bytes>1MiB'. May be repeated: "
            "then all must hold.",
        ),
        click.argument("queues", nargs=-1, metavar="[QUEUE]...", shell_complete=completion.queues),
        takes_options,
    ):
        command = decorate(command)
    return command


@click.command()
@_takes_choice
@click.pass_obj
def workers(options: Options | None, /, **choice: Any) -> None:
    """Show the workers of every queue, or of some: what each has, how long it takes.

    The columns, which are also what --sort and --filter take, with _ for a space:

    ID is what "drain --worker" and "kick" take, and events have as id. PEER is its address,
    IDENTITY what it calls itself, in hex if that is no text. TYPE is its socket's, ZMTP the
    protocol's version.

    CONNECTED FOR says since when it is connected, SILENT FOR when something was heard of it last,
    heartbeats among it.

    IN FLIGHT are the requests that it has, AHEAD is how many it may have at once (- for no limit),
    REQUESTS were given to it in all, and REPLIES have come from it.

    P50 and P99 are what half of its latest thousands of requests took, and 99 of 100; SERVICE is
    what one takes of late, by which AHEAD is set. RECEIVED BYTES have come from it, SENT BYTES have
    gone to it, UNSENT BYTES are to go.

    UNASKED are its messages that answered nothing and were dropped. BROKER names the queue of a
    zqueued that this worker is, if it is one.

    STATE is ready; draining if it gets no more; aside if it is at one request for longer than
    service_timeout, and gets no more until it answers.
    """
    _show(options, "workers", lambda zqueued: zqueued.workers, choice)


@click.command()
@_takes_choice
@click.pass_obj
def clients(options: Options | None, /, **choice: Any) -> None:
    """Show the clients of every queue, or of some: what each has asked, what it waits for.

    The columns, which are also what --sort and --filter take, with _ for a space:

    ID is what "kick" takes, and events have as id. PEER is its address, IDENTITY its routing id, in
    hex if that is no text: its own, or the one that was made for it. TYPE is its socket's, ZMTP the
    protocol's version.

    CONNECTED FOR says since when it is connected, SILENT FOR when something was heard of it last.

    REQUESTS have come from it, of which some are WAITING for a worker and some IN FLIGHT at one;
    REPLIES went to it. RECEIVED BYTES have come from it, SENT BYTES have gone to it; UNSENT BYTES
    are replies that it has not read yet.

    BROKER names the queue of a zqueued that this client is, if it is one.

    STATE is ready; held if it is not read from, because it does not read its replies or as much
    waits as may.
    """
    _show(options, "clients", lambda zqueued: zqueued.clients, choice)


@click.command()
@_takes_choice
@click.pass_obj
def connections(options: Options | None, /, **choice: Any) -> None:
    """Show the connections of every queue, or of some, and those that ended of late, with why.

    The last 128 that have ended are remembered, and as many that never were peers of ZeroMQ.

    Columns, which are also what --sort and --filter take, with _ for a space: SIDE is frontend for
    clients and backend for workers. STATE is as in "workers" and "clients", or handshake, or
    closed, CLOSED FOR so long. REASON is why it was closed; nothing if the peer simply left.
    CONNECTED FOR and SILENT FOR have ended with it. All others are as in "workers" and "clients".
    """
    _show(options, "connections", lambda zqueued: zqueued.connections, choice)


@click.command()
@_takes_choice
@click.pass_obj
def requests(options: Options | None, /, **choice: Any) -> None:
    """Show the requests that wait, the oldest first, and those in flight, queue by queue.

    Of each queue there are the 10,000 oldest at most.

    The columns, which are also what --sort and --filter take, with _ for a space: ID counts the
    queue's requests. STATE is waiting or in_flight, STATE FOR so long; AGE is since when it is in
    the broker. ATTEMPTS is how many workers have had it, SIZE its bytes. CLIENT and WORKER are the
    ids of connections (- for a client that has left, or no worker), CLIENT PEER and WORKER PEER
    their addresses, CLIENT IDENTITY is the client's routing id.
    """
    _show(options, "requests", lambda zqueued: zqueued.requests, choice)


@click.command()
@takes_options
@click.argument("connection", type=int, metavar="ID")
@click.option(
    "-q",
    "--queue",
    metavar="QUEUE",
    help="Whose connection it is; may be left out where there is only one queue.",
    shell_complete=completion.queues,
)
@click.pass_obj
def kick(options: Options | None, connection: int, queue: str | None) -> None:
    """End a client's or a worker's connection; its peer may connect anew, and libzmq's do at once.

    ID is as in "workers", "clients" and "connections". What a worker had goes to others, or dies,
    as redeliver and max_attempts say; what a client asked for is withdrawn, as when they leave by
    themselves.
    """
    with called(options) as (zqueued, how):
        result = zqueued.kick(connection, *((queue,) if queue else ()))
        done(0 if result.ok else 1)
        if not as_json(how, result) and result.ok:
            say(f"{result.queues[0].queue}: ended connection {connection}")
        if not result.ok:
            fail(Options(), "refused", result.queues[0].detail, 1)


def _show(
    options: Options | None,
    what: str,
    method: Callable[[ControlClient], Callable[..., ListResult]],
    choice: dict[str, Any],
) -> None:
    every, sort = choice["every"], _named(choice["sort"])
    with called(options) as (zqueued, how):

        def look() -> Found:
            ask = method(zqueued)
            chosen = {"filter": choice["conditions"], "sort": sort, "limit": choice["limit"]}
            names = dict.fromkeys(choice["queues"])
            if len(names) == 1:
                return Found(what, (ask(*names, **chosen),))
            return _of_several(zqueued, what, ask, tuple(names), chosen)

        looks = _looks(look, every)
        if how.json:
            for found in looks:
                say_json(found.exported(), 2 if every is None else None)
        else:
            from zqueue.cli import render_lists

            render_lists.show(looks, live=every is not None)


@dataclass(frozen=True)
class Found:
    """``what`` is listed of one queue or of several, all of them sorted by ``sort`` and as many as
    ``limit`` says. ``without``: why a queue is not among them, by its name."""

    what: str
    results: tuple[ListResult, ...]
    sort: str | None = None
    limit: int | None = None
    without: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(result.total for result in self.results)

    @property
    def rows(self) -> list[tuple[str, Any]]:
        """Each row with the name of its queue."""
        rows = [(each.queue, row) for each in self.results for row in getattr(each, self.what)]
        if self.sort is not None and len(self.results) > 1:
            by = self.sort.removeprefix("-")
            known = [row for row in rows if getattr(row[1], by, None) is not None]
            unknown = [row for row in rows if getattr(row[1], by, None) is None]
            known.sort(key=lambda row: getattr(row[1], by), reverse=self.sort.startswith("-"))
            rows = known + unknown
        return rows if self.limit is None else rows[: self.limit]

    def exported(self) -> dict[str, Any]:
        """As JSON has it."""
        rows = [{"queue": name} | row.model_dump(mode="json") for name, row in self.rows]
        names = [result.queue for result in self.results]
        of = {"queue": names[0]} if len(names) == 1 else {"queues": names}
        return of | {"total": self.total, self.what: rows}


def _of_several(
    zqueued: ControlClient,
    what: str,
    ask: Callable[..., ListResult],
    names: tuple[str, ...],
    chosen: dict[str, Any],
) -> Found:
    """Of these queues, or of every one, as far as their engines can tell."""
    from zqueue.control.client import Refused

    known = {queue.name: queue for queue in zqueued.status().queues}
    results: list[ListResult] = []
    without: dict[str, str] = {}
    several = [
        name for name in names or known if name not in known or known[name].tells_peers_apart
    ]
    for name in several or list(names or known)[:1]:
        try:
            results.append(ask(name, **chosen))
        except Refused as error:
            if error.code != "unknown_queue" or names:
                raise  # else a reload has just removed it
    for name in names or known:
        if name not in several:
            without[name] = f"{name}: the {known[name].engine} engine cannot tell them apart"
    return Found(what, tuple(results), chosen["sort"], chosen["limit"], without)


def _looks(look: Callable[[], Found], every: float | None) -> Iterator[Found]:
    yield look()
    while every is not None:
        time.sleep(every)
        yield look()


def _named(column: str | None) -> str | None:
    """A column as the tables head it is as good as its name."""
    return None if column is None else column.lower().replace(" ", "_")
