"""The metrics of Prometheus and OpenMetrics, made of a look at all queues."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

import zmq
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import zqueue
from zqueue import health
from zqueue.control.messages import Latency, Peers, QueueStatus, Worker
from zqueue.engine import LATENCY_BOUNDS
from zqueue.states import State
from zqueue.web.looks import Look

_STEPS = (*map(floatToGoString, LATENCY_BOUNDS), "+Inf")

_Found = Mapping[str, float] | float | None
"""One value; or several by the value of one more label; or ``None``: the engine cannot know."""


@dataclass(frozen=True)
class _Figure:
    """A metric that each queue has. A counter's name ends in ``_total``; ``label`` is one more than
    ``queue``."""

    name: str
    meaning: str
    find: Callable[[QueueStatus], _Found]
    label: str = ""


def _peers(field: str) -> Callable[[QueueStatus], _Found]:
    def find(queue: QueueStatus) -> _Found:
        sides: dict[str, Peers] = {"frontend": queue.clients, "backend": queue.workers}
        return {side: getattr(peers, field) for side, peers in sides.items()}

    return find


def _incident(field: str) -> Callable[[QueueStatus], _Found]:
    def find(queue: QueueStatus) -> _Found:
        return getattr(queue.incidents, field) if queue.incidents is not None else None

    return find


def _ends(queue: QueueStatus) -> _Found:
    known = queue.ends.model_dump() if queue.ends is not None else {}
    return known if queue.lost is None else {**known, "lost": queue.lost}


def _died(queue: QueueStatus) -> _Found:
    return queue.died.model_dump() if queue.died is not None else None


def _state(queue: QueueStatus) -> _Found:
    return {state.value: float(state == queue.state) for state in State}


_FIGURES = (
    _Figure(
        "zqueue_queue_state", "1 for the state that the queue is in, 0 for others", _state, "state"
    ),
    _Figure(
        "zqueue_queue_state_changed_timestamp_seconds",
        "When the queue came into its state, in seconds since the epoch",
        lambda queue: queue.since,
    ),
    _Figure(
        "zqueue_queue_restarts_total",
        "How often the queue was started anew, by an operator or after a failure",
        lambda queue: queue.restarts,
    ),
    _Figure(
        "zqueue_queue_stale",
        "1 if the queue did not answer in time: its other figures are its last known ones",
        lambda queue: float(queue.stale),
    ),
    _Figure(
        "zqueue_queue_estimated",
        "1 if requests and replies are estimates, on the libzmq engine; bytes and frames are exact",
        lambda queue: float(queue.estimated),
    ),
    _Figure(
        "zqueue_queue_last_activity_timestamp_seconds",
        "When something last passed, in seconds since the epoch",
        lambda queue: queue.last_activity,
    ),
    _Figure(
        "zqueue_requests_received_total",
        "Requests that came from clients",
        lambda queue: queue.requests.messages,
    ),
    _Figure(
        "zqueue_requests_received_frames_total",
        "Frames of these requests",
        lambda queue: queue.requests.frames,
    ),
    _Figure(
        "zqueue_requests_received_bytes_total",
        "Bytes of these requests",
        lambda queue: queue.requests.bytes,
    ),
    _Figure(
        "zqueue_replies_received_total",
        "Replies that came from workers",
        lambda queue: queue.replies.messages,
    ),
    _Figure(
        "zqueue_replies_received_frames_total",
        "Frames of these replies",
        lambda queue: queue.replies.frames,
    ),
    _Figure(
        "zqueue_replies_received_bytes_total",
        "Bytes of these replies",
        lambda queue: queue.replies.bytes,
    ),
    _Figure(
        "zqueue_requests_waiting", "Requests that no worker has yet", lambda queue: queue.waiting
    ),
    _Figure(
        "zqueue_requests_in_flight", "Requests that a worker has", lambda queue: queue.in_flight
    ),
    _Figure(
        "zqueue_requests_kept",
        "Requests that were answered while their client was away, which may come back",
        lambda queue: queue.kept,
    ),
    _Figure(
        "zqueue_requests_ended_total",
        "Requests that have ended, by how. With those that wait, are in flight or kept they add up "
        "to those received",
        _ends,
        "end",
    ),
    _Figure("zqueue_requests_died_total", "Requests that died, by what of", _died, "reason"),
    _Figure(
        "zqueue_requests_returned_total",
        "Requests that a worker gave back when it was lost or late",
        _incident("returned"),
    ),
    _Figure(
        "zqueue_requests_retried_total",
        "Dead letters that were asked again; they are received once more",
        _incident("retried"),
    ),
    _Figure(
        "zqueue_replies_late_total",
        "Replies to requests that had been given up",
        _incident("late_replies"),
    ),
    _Figure(
        "zqueue_replies_dropped_total",
        "Replies that had no client to go to, late ones among them",
        _incident("dropped_replies"),
    ),
    _Figure(
        "zqueue_replies_extra_total",
        "Replies that were passed on though no request was open for them",
        _incident("extra_replies"),
    ),
    _Figure(
        "zqueue_error_replies_total",
        "Replies that the broker made of error_reply",
        _incident("error_replies"),
    ),
    _Figure(
        "zqueue_dead_letters",
        "Dead letters that are kept",
        lambda queue: queue.dead_letters.kept,
    ),
    _Figure(
        "zqueue_dead_letters_bytes",
        "Bytes that the dead letters take",
        lambda queue: queue.dead_letters.bytes,
    ),
    _Figure(
        "zqueue_dead_letters_evicted_total",
        "Dead letters that went because more were kept than dead_letters_max or "
        "dead_letters_max_bytes allow",
        lambda queue: queue.dead_letters.evicted,
    ),
    _Figure(
        "zqueue_dead_letters_unwritten",
        "Dead letters that could not be written yet; they are tried again",
        lambda queue: queue.dead_letters.unwritten,
    ),
    _Figure(
        "zqueue_dead_letters_unrecorded_total",
        "Dead requests of which no dead letter could be kept",
        _incident("unrecorded"),
    ),
    _Figure(
        "zqueue_connections",
        "Connections of clients (frontend) and of workers (backend)",
        _peers("connected"),
        "side",
    ),
    _Figure(
        "zqueue_connections_accepted_total",
        "Connections that were made",
        _peers("accepted"),
        "side",
    ),
    _Figure(
        "zqueue_connections_ended_total",
        "Connections that have ended",
        _peers("disconnected"),
        "side",
    ),
    _Figure(
        "zqueue_connections_rejected_total",
        "Connections that were sent away: no handshake, a wrong peer, too many",
        _peers("rejected"),
        "side",
    ),
)

_LATENCIES: tuple[tuple[str, str, Callable[[QueueStatus], Latency | None]], ...] = (
    (
        "zqueue_request_queueing_seconds",
        "How long requests waited until a worker got them",
        lambda queue: queue.queueing,
    ),
    (
        "zqueue_request_service_seconds",
        "How long workers had requests until they answered",
        lambda queue: queue.service,
    ),
)

_OF_WORKERS: tuple[tuple[str, str, Callable[[Worker], float | None]], ...] = (
    (
        "zqueue_worker_requests_in_flight",
        "Requests that this worker has",
        lambda worker: worker.in_flight,
    ),
    (
        "zqueue_worker_requests_answered_total",
        "Requests that this worker has answered",
        lambda worker: worker.replies,
    ),
    (
        "zqueue_worker_service_seconds",
        "How long a request takes this worker of late",
        lambda worker: worker.service,
    ),
    (
        "zqueue_worker_draining",
        "1 if this worker gets no more requests until it connects anew",
        lambda worker: float(worker.state == "draining"),
    ),
)


class Metrics:
    """Shows looks in the format that a scraper asks for."""

    def __init__(self, stalled: Callable[[], list[str]]) -> None:
        self._stalled = stalled
        self._process = ProcessCollector(registry=None)

    def format_for(self, accept: str) -> tuple[str, Callable[[Look], bytes]]:
        """The content type that answers an ``Accept`` header, and what makes it of a look."""
        encode, content_type = choose_encoder(accept)

        def make(look: Look) -> bytes:
            registry = CollectorRegistry()
            registry.register(_OfLook(look, self._stalled()))
            registry.register(self._process)
            return encode(registry)

        return content_type, make


class _OfLook(Collector):
    """All families of one look."""

    def __init__(self, look: Look, stalled: list[str]) -> None:
        self._look = look
        self._stalled = stalled

    def describe(self) -> Iterator[Metric]:
        """None: there is nothing else in the registry that could have the same names."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        yield from _of_daemon(self._look, self._stalled)
        queues = self._look.status.queues
        info = GaugeMetricFamily(
            "zqueue_queue_info", "1; what the queue is", labels=["queue", "type", "engine"]
        )
        for queue in queues:
            info.add_metric([queue.name, queue.type, queue.engine], 1)
        yield info
        for figure in _FIGURES:
            yield _of_queues(figure, queues)
        for name, meaning, find in _LATENCIES:
            yield _latencies(name, meaning, find, queues)
        if self._look.workers:
            yield from _of_workers(self._look.workers)


def _of_daemon(look: Look, stalled: list[str]) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "zqueue_build_info",
        "1; which versions run",
        labels=["version", "python", "libzmq", "pyzmq"],
    )
    versions = [zqueue.__version__, platform.python_version(), zmq.zmq_version()]
    build.add_metric([*versions, zmq.pyzmq_version()], 1)
    yield build
    yield GaugeMetricFamily(
        "zqueue_ready",
        "1 if all queues run, as /readyz says",
        value=float(not health.not_ready(look.status)),
    )
    yield GaugeMetricFamily(
        "zqueue_queues_stalled", "Queues whose thread does not answer", value=len(stalled)
    )
    for name, meaning, count in (
        (
            "zqueue_log_lines_lost_total",
            "Lines that could not be written to the log",
            look.status.log_lines_lost,
        ),
        (
            "zqueue_slow_subscribers_total",
            "How often a subscriber of [events] publish read so slowly that it began to miss some",
            look.status.slow_subscribers,
        ),
        (
            "zqueue_control_replies_dropped_total",
            "Answers on the control socket that their caller did not read",
            look.status.replies_dropped,
        ),
    ):
        yield CounterMetricFamily(name, meaning, value=count)
    yield GaugeMetricFamily(
        "zqueue_look_duration_seconds",
        "How long the queues took to tell their figures for this answer",
        value=look.seconds,
    )


def _family(name: str, meaning: str, labels: list[str]) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    return kind(name, meaning, labels=labels)


def _of_queues(figure: _Figure, queues: tuple[QueueStatus, ...]) -> Metric:
    labels = ["queue", figure.label] if figure.label else ["queue"]
    family = _family(figure.name, figure.meaning, labels)
    for queue in queues:
        found = figure.find(queue)
        if isinstance(found, Mapping):
            for label, value in found.items():
                family.add_metric([queue.name, label], value)
        elif found is not None:
            family.add_metric([queue.name], found)
    return family


def _latencies(
    name: str,
    meaning: str,
    find: Callable[[QueueStatus], Latency | None],
    queues: tuple[QueueStatus, ...],
) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=["queue"])
    for queue in queues:
        latency = find(queue)
        if latency is not None:
            steps = list(zip(_STEPS, map(float, accumulate(latency.counts)), strict=True))
            family.add_metric([queue.name], steps, latency.seconds)
    return family


def _of_workers(workers: dict[str, tuple[Worker, ...]]) -> Iterator[Metric]:
    for name, meaning, find in _OF_WORKERS:
        family = _family(name, meaning, ["queue", "worker", "peer"])
        for queue, each in workers.items():
            for worker in each:
                value = find(worker)
                if value is not None:
                    family.add_metric([queue, str(worker.id), worker.peer], value)
        yield family
