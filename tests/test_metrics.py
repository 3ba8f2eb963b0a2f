"""What /metrics has: that it is right, and that docs/metrics.md tells all of it.

``python -m tests.test_metrics`` writes that page anew.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as families_of

from tests.conftest import StartZqueued
from tests.engines import on_every_engine, on_wire
from tests.http import SERVED, ask
from tests.peers import Peers
from tests.waiting import wait_for
from tests.zqueued import ONE_QUEUE, Zqueued
from zqueue.control.messages import Died, Ends, Incidents, Latency, QueueStatus, StatusResult
from zqueue.control.messages import Worker as WorkerStatus
from zqueue.engine import LATENCY_BOUNDS
from zqueue.web.looks import Look
from zqueue.web.metrics import Metrics

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "metrics.md"
RULES = ROOT / "packaging" / "prometheus" / "zqueue.rules.yml"
DASHBOARD = ROOT / "packaging" / "grafana" / "zqueue.json"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here (Debian's package prometheus)"
)


def samples(text: str) -> Samples:
    """Each value by its name and its labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families_of(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def scraped(zqueued: Zqueued) -> Samples:
    return samples(ask(zqueued, "/metrics").text)


# -- the figures -------------------------------------------------------------------------------


@on_every_engine
def test_the_counts_are_those_of_the_load(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(SERVED + ONE_QUEUE)
    for _ in range(2):
        peers.worker(zqueued.backend())
    wait_for(lambda: zqueued.queue().workers.connected == 2, "both workers")
    clients = [peers.client(zqueued.frontend(), f"c{number}", 300) for number in range(4)]
    answered = sum(len(client.finish()) for client in clients)
    assert answered == 1200
    wait_for(lambda: zqueued.queue().clients.connected == 0, "the clients to be gone")
    found = scraped(zqueued)

    def of(name: str, **labels: str) -> float:
        return value(found, name, queue="default", **labels)

    assert of("zqueue_requests_received_total") == of("zqueue_replies_received_total") == 1200
    assert of("zqueue_requests_waiting") == of("zqueue_requests_in_flight") == 0
    assert of("zqueue_connections", side="backend") == 2
    assert of("zqueue_queue_state", state="running") == 1
    exact = zqueued.engine == "wire"
    assert of("zqueue_queue_estimated") == (not exact)
    if exact:
        assert of("zqueue_requests_ended_total", end="replied") == 1200
        assert of("zqueue_connections_accepted_total", side="frontend") == 4
        for name in ("queueing", "service"):
            assert of(f"zqueue_request_{name}_seconds_count") == 1200
            assert of(f"zqueue_request_{name}_seconds_bucket", le="+Inf") == 1200
        assert of("zqueue_request_service_seconds_sum") > 0
    else:
        assert ("zqueue_requests_ended_total", (("end", "replied"), ("queue", "default"))) not in (
            found
        )


@on_wire
def test_nothing_is_forgotten_when_the_engine_is_made_anew(
    start_zqueued: StartZqueued, peers: Peers
) -> None:
    zqueued = start_zqueued(SERVED + ONE_QUEUE)
    for run in range(1, 4):
        worker = peers.worker(zqueued.backend())
        peers.client(zqueued.frontend(), requests=50).finish()
        worker.stop()
        zqueued.ctl("terminate", "default")
        zqueued.ctl("start", "default")
        found = scraped(zqueued)
        count = "zqueue_request_service_seconds_count"
        assert value(found, count, queue="default") == 50 * run
        assert value(found, "zqueue_requests_received_total", queue="default") == 50 * run
        assert value(found, "zqueue_queue_restarts_total", queue="default") == run


@on_wire
def test_a_hand_over_forgets_nothing(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(SERVED + ONE_QUEUE)
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=50).finish()
    wait_for(lambda: zqueued.queue().clients.connected == 0, "the client to be gone")
    before = scraped(zqueued)
    assert zqueued.upgrade().returncode == 0
    after = scraped(zqueued)
    lasting = re.compile("zqueue_(request_.*_seconds|requests_.*|replies_.*)")
    for key, was in before.items():
        if lasting.match(key[0]):
            assert after[key] == pytest.approx(was), key


@on_wire
def test_deaths_by_reason(
    start_zqueued: StartZqueued, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    zqueued = start_zqueued(
        SERVED + '[queues.default]\nfrontend = "tcp://127.0.0.1:*"\n'
        'backend = "tcp://127.0.0.1:*"\nmax_waiting_time = "20ms"\n'
    )
    client = context.socket(zmq.DEALER)
    client.connect(zqueued.frontend())
    for number in range(7):
        client.send_multipart([b"", b"%d" % number])
    died = "zqueue_requests_died_total"
    wait_for(
        lambda: value(scraped(zqueued), died, queue="default", reason="max_waiting_time") == 7,
        "all to die",
    )
    found = scraped(zqueued)
    assert value(found, "zqueue_requests_ended_total", queue="default", end="dead") == 7
    assert value(found, "zqueue_dead_letters", queue="default") == 7


@on_wire
def test_workers_only_where_they_are_asked_for(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(SERVED + ONE_QUEUE)
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=10).finish()
    assert not any(name.startswith("zqueue_worker_") for name, _ in scraped(zqueued))
    zqueued.write(SERVED + "workers = true\n" + ONE_QUEUE)
    assert zqueued.ctl("reload").returncode == 0
    answered = [
        each
        for (name, _), each in scraped(zqueued).items()
        if name == "zqueue_worker_requests_answered_total"
    ]
    assert answered == [10]


def test_open_metrics_for_who_asks_for_it(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(SERVED + ONE_QUEUE)
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=10).finish()
    answer = ask(zqueued, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    found = {family.name for family in open_metrics(answer.text)}  # type: ignore[no-untyped-call]
    assert "zqueue_requests_received" in found
    assert ask(zqueued, "/metrics").headers["content-type"].startswith("text/plain")


def test_many_queues_at_once(start_zqueued: StartZqueued) -> None:
    queues = "".join(
        f'[queues.q{number}]\nfrontend = "tcp://127.0.0.1:*"\nbackend = "tcp://127.0.0.1:*"\n'
        for number in range(50)
    )
    found = scraped(start_zqueued(SERVED + queues))
    running = [
        labels
        for (name, labels), each in found.items()
        if name == "zqueue_queue_state" and each == 1 and ("state", "running") in labels
    ]
    assert len(running) == 50


# -- what goes with it -------------------------------------------------------------------------


@needs_promtool
def test_promtool_has_no_complaint(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(SERVED + "workers = true\n" + ONE_QUEUE)
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=10).finish()
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=ask(zqueued, "/metrics").text,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_promtool
def test_the_alert_rules() -> None:
    checked = ["promtool", "check", "rules", str(RULES)]
    tried = ["promtool", "test", "rules", str(ROOT / "tests" / "prometheus" / "rules_test.yml")]
    for command in (checked, tried):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_dashboard_use_only_what_there_is() -> None:
    exported = {
        sample.name
        for family in everything()
        for sample in family.samples
        if sample.name.startswith("zqueue_")
    }
    dashboard = json.loads(DASHBOARD.read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = [*shown, *(each["query"]["query"] for each in dashboard["templating"]["list"][1:])]
    used = set(re.findall(r"zqueue_\w+", " ".join([*asked, RULES.read_text()])))
    assert used <= exported
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_alert_says_what_to_do() -> None:
    alerts = RULES.read_text().split("- alert: ")[1:]
    assert alerts
    for alert in alerts:
        assert all(each in alert for each in ("severity: ", "summary: ", "runbook: >-")), alert


# -- docs/metrics.md ---------------------------------------------------------------------------

_INTRODUCTION = """\
# Metrics, health, and the status page

```toml
[metrics]
listen = "127.0.0.1:9560"
```

has zqueued answer HTTP there, GET and HEAD. It is for looking: nothing can be steered by it. There
is no password; who may not look must not reach it. A change is applied by `zqueuectl reload`.

| path | |
|---|---|
| `/` | a status page: is it up, is it slow, whose is it, what to do. Without JavaScript the \
browser loads it anew every 5 s |
| `/metrics` | Prometheus' text format, or OpenMetrics for who asks for it |
| `/healthz` | 200 while every queue's thread answers; else 503 and which do not |
| `/readyz` | 200 while every queue runs; else 503 and why: paused, draining, stopped, failed, \
zqueued is stopping |
| `/api/v1/status`, `/queues`, `/stats`, `/workers?queue=NAME`, `/clients`, `/connections`, \
`/requests` likewise, with `sort`, `limit` and `filter`, `/version` | what `zqueuectl \
--json` prints ([control.md](control.md)) |

A connection is for one request, which has to come within 5 s. Of more than 64 connections the one
that has been silent for longest goes, or the oldest. However many ask, the queues are looked
at ten times a second at most, each look after it was asked for; a queue that hangs costs half a
second, and is shown with its last figures. The threads that move messages are never waited for, and
do not wait.

[`packaging/prometheus/zqueue.rules.yml`](../packaging/prometheus/zqueue.rules.yml) has alerts,
each with what to do, [`packaging/grafana/zqueue.json`](../packaging/grafana/zqueue.json) a
dashboard.

## Names

zqueued answers only requests for names of its own machine: IP addresses, `localhost`, the host name
(also with a domain of `/etc/resolv.conf`), names in `/etc/hosts`, `[daemon] name`, and `hosts`:

```toml
[metrics]
listen = "*:9560"
hosts = ["metrics.example.com"]
```

Any other name gets 421, so that no web site can have a browser read what is here (DNS rebinding).
Behind a proxy, or where Prometheus asks by a name in the DNS, add that name.

## All metrics

Counters count since zqueued started, over stops and failures of a queue and hand-overs to a next
process. Those of a queue that a reload drains, as it changes a queue on libzmq or changes the
engine, begin anew. What an engine cannot know is left out: on libzmq how requests end, die and how
long they take ([engines.md](engines.md)). `le` goes from 10 µs in steps of 1, 2.5, 5 to 10 s, then
30 s, 60 s and 300 s. What is counted at most a step has taken at most that long; what took up to a
sixteenth less than a step may be counted above it.

The figures of workers are there with `workers = true` only. `worker` is its id in `zqueuectl
workers`; a worker that connects anew is a new one, so each makes new time series.

This page is made from the source by `python -m tests.test_metrics`.

| metric | type | labels | meaning |
|---|---|---|---|
"""

_PROCESS = """\

`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_virtual_memory_bytes`,
`process_open_fds`, `process_max_fds` and `process_start_time_seconds` are as in every program with
a client of Prometheus.
"""


def everything() -> Iterator[Metric]:
    """The families of a look in which all that there can be is there."""
    latency = Latency(p50=0.1, p99=0.2, seconds=1.0, counts=(1,) * (len(LATENCY_BOUNDS) + 1))
    queue = QueueStatus(
        name="q",
        type="queue",
        engine="wire",
        state="running",
        since=1.0,
        by="config",
        frontend=(),
        backend=(),
        waiting=0,
        in_flight=0,
        last_activity=1.0,
        ends=Ends(),
        died=Died(),
        incidents=Incidents(),
        queueing=latency,
        service=latency,
    )
    status = StatusResult(
        queues=(queue,),
        name="b",
        version="1",
        pid=1,
        started=1.0,
        uptime=1.0,
        config=None,
        control="",
        state="running",
        log_level="info",
    )
    worker = WorkerStatus(
        id=1,
        peer="tcp://127.0.0.1:1",
        identity="",
        type="REP",
        zmtp="3.1",
        connected_for=1.0,
        silent_for=0.0,
        requests=0,
        replies=0,
        in_flight=0,
        received_bytes=0,
        sent_bytes=0,
        unsent_bytes=0,
        state="ready",
        ahead=1,
        service=0.1,
        p50=0.1,
        p99=0.1,
    )
    _, make = Metrics(lambda: []).format_for("")
    yield from families_of(make(Look(status, {"q": (worker,)}, 0.1)).decode())


def render() -> str:
    """docs/metrics.md, as the source would have it."""
    rows = []
    for family in everything():
        if family.name.startswith("process_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = dict.fromkeys(
            label for sample in family.samples for label in sample.labels if label != "le"
        )
        shown = ", ".join(f"`{label}`" for label in labels)
        rows.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |\n")
    return _INTRODUCTION + "".join(row.replace("  |", " |") for row in rows) + _PROCESS


def test_the_page_tells_what_the_source_has() -> None:
    assert PAGE.read_text() == render(), "run: python -m tests.test_metrics"


@on_wire
def test_the_page_tells_what_a_daemon_shows(start_zqueued: StartZqueued, peers: Peers) -> None:
    zqueued = start_zqueued(SERVED + "workers = true\n" + ONE_QUEUE)
    peers.worker(zqueued.backend())
    peers.client(zqueued.frontend(), requests=10).finish()
    shown = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families_of(ask(zqueued, "/metrics").text)
    }
    told = set(re.findall(r"`((?:zqueue|process)_\w+)`", PAGE.read_text()))
    assert shown == told


if __name__ == "__main__":
    PAGE.write_text(render())
    print(f"{PAGE.name}: {len(list(everything()))} metrics")
