"""The metrics of one process, served as Prometheus text by ``streams.runtime.admin``."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from schemas.reasons import Reason

OUTCOMES = Counter("tierstream_outcomes", "Events by the outcome they had at a stage.", ("stage", "reason"))
RECEIVED = Counter("tierstream_received", "Events read by a stage.", ("stage",))
POSITION = Gauge("tierstream_position", "Next input offset of a partition.", ("stage", "topic", "partition"))
REQUESTS = Counter("tierstream_gateway_requests", "Requests by route and status code.", ("route", "status"))
REQUEST_SECONDS = Histogram(
    "tierstream_gateway_request_seconds",
    "Seconds from a request's first byte to its answer.",
    ("route",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
GATEWAY_PENDING = Gauge("tierstream_gateway_pending", "Records that a gateway with a spool has taken and Kafka has not acknowledged.")
TOPIC_DIFFERENCES = Gauge("tierstream_topic_differences", "Properties of topics that are not as they should be.", ("part",))
STALLED = Gauge("tierstream_stalled", "1 once a stage has been found to get nothing done.", ("stage",))
WAITING = Gauge("tierstream_waiting", "1 while a stage waits for a service that is away.", ("stage", "service"))
BREAKER = Gauge(
    "tierstream_breaker_state",
    "1 for the state that the way to a service is in: closed (calls are made), open (none is), half_open (one probes).",
    ("stage", "service", "state"),
)
PAUSED = Gauge("tierstream_forward_paused", "1 while no mail is sent for this reason, whatever waits.", ("reason",))
HELD = Gauge(
    "tierstream_held",
    "Mails that wait for a retry in this process, by their event and Loops' last answer, while others go on.",
    ("kind", "answer"),
)


def count_outcomes(stage: str, outcomes: Mapping[Reason, int]) -> None:
    """Add the outcomes of one batch. Call it only once they are durable."""
    RECEIVED.labels(stage).inc(sum(outcomes.values()))
    for reason, count in outcomes.items():
        OUTCOMES.labels(stage, reason.value).inc(count)
