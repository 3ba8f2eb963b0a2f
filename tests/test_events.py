"""The catalogue of events, the bus, and their page in docs/.

``python -m tests.test_events`` writes docs/events.md anew.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import zqueue
from zqueue.events import CATALOGUE, Event, EventBus, Kind
from zqueue.states import State

PAGE = Path(__file__).parent.parent / "docs" / "events.md"
SOURCE = Path(zqueue.__file__).parent
LEVELS = ("debug", "info", "warning", "error", "critical")
ALWAYS_THERE = ("time", "level", "event", "queue", "message")
OF_THE_JOURNAL = {
    "MESSAGE", "MESSAGE_ID", "PRIORITY", "ERRNO", "TID", "UNIT", "USER_UNIT", "DOCUMENTATION",
    "CODE_FILE", "CODE_LINE", "CODE_FUNC", "INVOCATION_ID", "USER_INVOCATION_ID",
    "SYSLOG_FACILITY", "SYSLOG_IDENTIFIER", "SYSLOG_PID", "SYSLOG_TIMESTAMP", "SYSLOG_RAW",
    "EVENT", "QUEUE", "STEERED_BY",
}  # fmt: skip

_INTRODUCTION = """\
# Events

Everything that happens in zqueued has a name. An event goes to the log and to `zqueuectl events`;
in both, each has its time, its level, the queue it is about if it is about one, a message for
people (below: what it means) and its own fields. Names and fields are stable, so that scripts and
alerts may rely on them; the messages are not.

`log.level` and `zqueuectl log-level` choose the least level that is written to the log:
`debug`, `info`, `warning` or `error`; `critical` always is. `zqueuectl events` shows all levels.

What a peer can cause as often as it likes is said once (connections: five times) for each address
and reason. What comes again is said at level `debug`, and counted: `peer.repeated` tells how often,
at most once in an interval that doubles from ten seconds to an hour, at the level of the event that
it counts. A peer that is quiet for an interval is new. The wire engine tells at most twenty events
a second of each kind; `suppressed`, or a `peer.repeated` without an address, tells how many it left
out. A connection that closes without having sent a byte is a TCP health check: level `debug`, on
the wire engine, which sees that. `log.mute` names events that are not to be logged at all. Counters
and metrics have every one.

This page is made from the source by `python -m tests.test_events`.

- [What happened of late](#what-happened-of-late)
- [All events](#all-events)
- [In the journal](#in-the-journal)
- [Published](#published)

## What happened of late

zqueued remembers what happened, whatever the log's level is:

```sh
zqueuectl events                                     # the last 20
zqueuectl events --since 10m --queue orders          # all that is remembered of these ten minutes
zqueuectl events --since 8h --level warning          # what went wrong tonight
zqueuectl events --name 'peer.*' --name queue.failed --json
zqueuectl events --since 1h --follow                 # and then what happens
```

It remembers the last 200 events of each kind, so that ten thousand clients that come and go drive
out older `peer.connected` and nothing else: who paused a queue yesterday, and why a request died,
is still there. The events of a kind take 256 KiB at most (but the last is kept whatever its size),
which is 16 MiB in all. Measured with fields of usual length, all kinds filled up take 7 MiB, and
those of clients that come and go 0.3 MiB.

What is missing is said, on stderr and in the result ([control.md](control.md)): where `--since`
reaches back beyond the start of zqueued, and where events that were asked for had to make room for
newer ones of their kind.

```
zqueuectl: no event from before 2026-03-01 22:14:09.518 is remembered
zqueuectl: peer.connected: those up to 03:02:51.117 are forgotten, there were too many
```

A restart that hands over, an upgrade and a reload lose none of it but the last words of the old
process (`handover.done`, `daemon.stopped`). After a crash, and after a restart that handed nothing
over, it begins anew; the log has what was before.

## All events

| event | level | fields | meaning |
|---|---|---|---|
"""

_IN_THE_JOURNAL = """
## In the journal

Under systemd each event is an entry of the journal with fields of its own: `EVENT=`, `QUEUE=`, and
the fields above in capitals. A list is a field for each of its items; what is empty is left out.
`STEERED_BY=` is there where `BY=` is somebody who steered: a caller of the control socket
(`uid/name`) or a script on a PAIR, and not a signal, the config or zqueued itself.

```sh
journalctl -u zqueue QUEUE=default EVENT=queue.paused
journalctl -u zqueue STEERED_BY=1000/alice
journalctl -u zqueue -p warning -x                      # -x: what it means, what to do
journalctl -u zqueue -o json --output-fields=EVENT,PEER,REASON EVENT=peer.rejected
```

The important ones have a `MESSAGE_ID=`, which `journalctl -x` explains:

| event | `MESSAGE_ID` |
|---|---|
"""

_PUBLISHED = """
## Published

```toml
[events]
publish = "tcp://127.0.0.1:9561"    # or "ipc:///run/zqueue/events"
level = "info"                      # the least that is published
```

has zqueued publish each event on a PUB socket, as two frames. The first is the topic: the name of
the event and, if it is about a queue, the queue's name, **each with a space after it**. A
subscription is the beginning of a topic:

| subscription | gets |
|---|---|
| `""` | everything |
| `"queue."` | whatever becomes of queues |
| `"request.dead "` | requests that died, of every queue |
| `"request.dead orders "` | those of `orders`, and not those of `orders2` |

The second frame is the event as JSON: `name`, `level`, `time` (seconds since the epoch), `queue`
(or `null`), `message` and `fields`, as `zqueuectl events --json` has them.

```python
import json
import zmq

subscriber = zmq.Context().socket(zmq.SUB)
subscriber.connect("tcp://127.0.0.1:9561")
subscriber.subscribe("queue.")
while True:
    topic, event = subscriber.recv_multipart()
    event = json.loads(event)
    print(event["level"], event["name"], event["queue"], event["fields"])
```

Nobody waits for a subscriber. For one that does not read, 1000 events are kept besides what its
connection holds; what comes then it misses. `zqueuectl status --json` (`slow_subscribers`),
`/metrics` (`zqueue_slow_subscribers_total`) and `doctor` count how often that began; how many
events it misses is not known, for ZeroMQ does not say. One that is not connected misses events,
too: a PUB sends only what happens just now. Over a reload that does not move the socket subscribers
stay connected; over a restart or an upgrade ZeroMQ connects them anew. What was missed,
`zqueuectl events --since` has.

There is no password, and `[control] may_look` does not count: whoever can reach the endpoint can
read along. An ipc path has the mode 0660.
"""


def render() -> str:
    """docs/events.md, as the catalogue would have it."""
    rows = [
        f"| `{kind.name}` | {kind.level} | {', '.join(f'`{name}`' for name in kind.fields)} "
        f"| {kind.meaning} |\n".replace("  |", " |")
        for kind in CATALOGUE.values()
    ]
    ids = [
        f"| `{kind.name}` | `{kind.message_id}` |\n"
        for kind in CATALOGUE.values()
        if kind.message_id is not None
    ]
    return _INTRODUCTION + "".join(rows) + _IN_THE_JOURNAL + "".join(ids) + _PUBLISHED


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the source that says an event or reports one."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("emit", "_emit", "Report"):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node


def names_in_source() -> dict[str, str]:
    """The names of events that are written out in the source, and where."""
    return {
        node.args[0].value: place
        for place, node in calls()
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    }


def test_the_page_tells_what_the_catalogue_has() -> None:
    assert PAGE.read_text() == render(), "run: python -m tests.test_events"


def test_every_event_that_is_said_is_in_the_catalogue() -> None:
    unknown = {name: place for name, place in names_in_source().items() if name not in CATALOGUE}
    assert not unknown


def test_every_event_is_said_with_fields_it_has() -> None:
    wrong = []
    for place, node in calls():
        name = getattr(node.args[0], "value", None)
        if not isinstance(name, str) or name not in CATALOGUE:
            continue
        said = {keyword.arg for keyword in node.keywords if keyword.arg}
        if len(node.args) > 1 and isinstance(node.args[1], ast.Dict):
            said |= {str(getattr(key, "value", key)) for key in node.args[1].keys}
        wrong += [
            f"{place}: {name} has no {field}" for field in said - {*CATALOGUE[name].fields, "queue"}
        ]
    assert not wrong


def test_every_event_of_the_catalogue_is_said_somewhere() -> None:
    """A queue says its changes of state by the state's name."""
    said = names_in_source().keys() | {f"queue.{state}" for state in State}
    # The log writes this one itself: it is about the log's own lines, and on no bus.
    assert not CATALOGUE.keys() - said - {"log.lines_lost"}


def test_every_state_of_a_queue_has_its_event() -> None:
    assert {f"queue.{state}" for state in State} <= CATALOGUE.keys()


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=lambda kind: kind.name)
def test_a_kind_is_well_formed(kind: Kind) -> None:
    """No field hides one that every line of the log has, and the page's table stays one."""
    assert kind.level in LEVELS
    assert not {*kind.fields} & {*ALWAYS_THERE}
    assert kind.meaning
    assert "|" not in kind.meaning


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=lambda kind: kind.name)
def test_the_journal_takes_the_fields_of_a_kind(kind: Kind) -> None:
    """It drops a field whose name it does not like, and gives some a meaning of its own."""
    for field in kind.fields:
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,63}", field)
    assert not {field.upper() for field in kind.fields} & OF_THE_JOURNAL


def test_message_ids_are_ids_and_no_two_are_the_same() -> None:
    ids = [kind.message_id for kind in CATALOGUE.values() if kind.message_id is not None]
    assert ids
    assert len({*ids}) == len(ids)
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in ids)


def test_emit_refuses_an_unknown_name() -> None:
    with pytest.raises(KeyError, match=r"queue\.exploded"):
        EventBus().emit("queue.exploded")


def test_emit_refuses_an_unknown_field() -> None:
    heard: list[Event] = []
    bus = EventBus()
    bus.subscribe(heard.append)
    with pytest.raises(TypeError, match=r"queue\.paused has no field colour"):
        bus.emit("queue.paused", by="x", colour="red")
    assert heard == []


def test_an_event_has_what_the_catalogue_says_of_it() -> None:
    heard: list[Event] = []
    bus = EventBus()
    bus.subscribe(heard.append)
    bus.emit("queue.paused", queue="orders", by="x", reason="y")
    (event,) = heard
    assert (event.name, event.level, event.queue) == ("queue.paused", "info", "orders")
    assert event.message == CATALOGUE["queue.paused"].meaning
    assert event.fields == {"by": "x", "reason": "y"}


def test_a_field_can_be_written_as_json() -> None:
    heard: list[Event] = []
    bus = EventBus()
    bus.subscribe(heard.append)
    bus.emit("daemon.starting", version="ü", pid=1, config=os.fsdecode(b"/etc/\xff.toml"))
    assert heard[0].fields == {"version": "ü", "pid": 1, "config": "/etc/\\udcff.toml"}


def test_subscribers_hear_the_same_in_the_same_order() -> None:
    """Also when many threads talk at once."""
    bus = EventBus()
    one: list[Event] = []
    other: list[Event] = []
    bus.subscribe(one.append)
    bus.subscribe(other.append)

    def talk(name: str) -> None:
        for number in range(200):
            bus.emit("queue.drained", queue=name, seconds=number)

    threads = [threading.Thread(target=talk, args=(str(number),)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one == other
    assert len(one) == 1000
    for name in map(str, range(5)):
        said = [event.fields["seconds"] for event in one if event.queue == name]
        assert said == list(range(200))
    assert [event.number for event in one] == list(range(1, 1001))


def test_who_unsubscribes_hears_no_more() -> None:
    bus = EventBus()
    heard: list[Event] = []
    leave = bus.subscribe(heard.append)
    bus.emit("daemon.stopped", uptime=1)
    leave()
    bus.emit("daemon.stopped", uptime=2)
    assert [event.fields["uptime"] for event in heard] == [1]


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render())
    sys.stdout.write(f"{PAGE.name}: {len(CATALOGUE)} events\n")
