"""The stages on Kafka and PostgreSQL, each beside its own limit: normalise and classify on the same load, the audit writer and a
plain COPY of the same rows, two workers and one."""

import hashlib
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import confluent_kafka as kafka
import orjson
from confluent_kafka import KafkaError, TopicPartition
from rich.console import Console

from bench.broker import INPUT, OUTPUTS, BenchKafka, Headers, Input, Record
from bench.clock import CommittedOffsets, WorkerMetric, wait_until
from bench.console import bar
from bench.jobs import ROOT, positions, worker_command, worker_environment
from bench.load import LoadSpec, events
from bench.run import Measured, Program, measure, read_outputs
from bench.webhooks import webhooks
from schemas.envelope import HEADERS
from streams import topics
from streams.embedded.process import free_port
from streams.embedded.stack import EXAMPLE_PLANS
from streams.topics import group_id

REPETITIONS = 2
WEBHOOKS = topics.RAZORPAY_WEBHOOKS.name
AUDIT_EVENTS = OUTPUTS[0]


def measure_stages(broker: BenchKafka, dsn: str, spec: LoadSpec, directory: Path, console: Console) -> dict[str, Any]:
    """Return the rates of normalise, classify and audit, and the CPU time of two workers."""
    with bar(console, "the load", spec.events) as on_progress:
        given = broker.fill(INPUT, spec, on_progress)
    runs = [_classify(broker, given, directory, console) for _ in range(REPETITIONS)]
    rate = statistics.median(spec.events / measured.seconds for measured, _ in runs)
    return {
        "classify": {"events": spec.events, "events_per_second": round(rate), "correct": all(right for _, right in runs)},
        "audit": _audit(broker, given, dsn, directory, console),
        "two_workers": _two_workers(broker, given, directory, console),
        "normalise": _normalise(broker, spec, rate, directory, console),
    }


def _classify(broker: BenchKafka, given: Input, directory: Path, console: Console) -> tuple[Measured, bool]:
    broker.sweep({INPUT})
    port = free_port()
    gauge = positions(broker, "classify", INPUT, given.spec.events, [port])
    program = Program(worker_command("classify"), worker_environment(broker, port))
    with bar(console, "classify", 100) as on_percent:
        measured = measure("classify", [program], gauge, broker.pid, directory, lambda share: on_percent(int(100 * share)))
    return measured, not read_outputs(broker).differences(given.expected)


# Two workers


def _two_workers(broker: BenchKafka, given: Input, directory: Path, console: Console) -> dict[str, Any]:
    """CPU seconds of two workers of one group and of one, each ready before the load comes, all of it at once."""
    records = [Record(event.team, event.value, event.timestamp, list(HEADERS)) for event in events(given.spec)]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    right = True
    for workers in (1, 2, 2, 1):
        broker.sweep(set())
        ports = [free_port() for _ in range(workers)]
        programs = [Program(worker_command("classify"), worker_environment(broker, port)) for port in ports]
        gauge = positions(broker, "classify", INPUT, given.spec.events, ports)

        def feed(ports: list[int] = ports) -> Callable[[], object]:
            wait_until(lambda: _shared(ports, broker.settings.partitions), 0.1, 60, "every worker has partitions")
            return broker.write_unseen(INPUT, records)

        with bar(console, f"classify, {workers} worker(s)", 100) as on_percent:
            measured = measure("classify", programs, gauge, broker.pid, directory, lambda share: on_percent(int(100 * share)), feed)
        seconds[workers].append(measured.cpu_seconds / given.spec.events * 1e6)
        right &= not read_outputs(broker).differences(given.expected)
    one, two = min(seconds[1]), min(seconds[2])
    return {"cpu_seconds_per_million": round(two, 2), "one_worker": round(one, 2), "ratio": round(two / one, 3), "correct": right}


def _shared(ports: list[int], partitions: int) -> bool:
    """Whether every worker is ready and has partitions, and all partitions have a worker."""
    numbers: list[list[str]] = []
    for port in ports:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                detail = orjson.loads(answer.read())["parts"]["classify"]["detail"]
        except OSError:
            return False
        numbers.append(detail.removeprefix("partitions ").partition(" ")[0].split(","))
    return all(each != ["none"] for each in numbers) and sorted(chain.from_iterable(numbers)) == sorted(map(str, range(partitions)))


# normalise


def _normalise(broker: BenchKafka, spec: LoadSpec, classify_rate: float, directory: Path, console: Console) -> dict[str, Any]:
    """Webhooks in, facts out; compare the facts with the load's, whatever their order (subscriptions are spread over partitions)."""
    broker.sweep(set())
    facts = Bag()

    def records() -> Iterator[Record]:
        for webhook, event in webhooks(events(spec)):
            facts.add(event.value)
            headers: Headers = [
                ("razorpay-event-id", webhook.event_id.encode()),
                ("received-at", b"%d" % webhook.received_at),
                ("content-type", b"application/json"),
            ]
            yield Record(webhook.subscription, webhook.body, webhook.received_at, headers)

    with bar(console, "webhooks", spec.events) as on_progress:
        number = broker.write(WEBHOOKS, records(), on_progress)
    rates, right = [], True
    for _ in range(REPETITIONS):
        broker.sweep({WEBHOOKS})
        port = free_port()
        program = Program(worker_command("normalise"), worker_environment(broker, port, plans=EXAMPLE_PLANS))
        gauge = positions(broker, "normalise", WEBHOOKS, number, [port])
        with bar(console, "normalise", 100) as on_percent:
            measured = measure("normalise", [program], gauge, broker.pid, directory, lambda share: on_percent(int(100 * share)))
        rates.append(number / measured.seconds)
        written = Bag()
        for value in read_values(broker, topics.TEAM_EVENTS.name):
            written.add(value)
        right &= written == facts
    rate = statistics.median(rates)
    return {"events": number, "events_per_second": round(rate), "of_classify": round(rate / classify_rate, 3), "correct": right}


class Bag:
    """JSON values in no order: how many, and the sum of their digests."""

    def __init__(self) -> None:
        self.values = 0
        self.digest = 0

    def add(self, value: bytes) -> None:
        """Put one in. The order of its fields does not count."""
        canonical = orjson.dumps(orjson.loads(value), option=orjson.OPT_SORT_KEYS)
        self.values += 1
        self.digest = (self.digest + int.from_bytes(hashlib.blake2b(canonical, digest_size=16).digest())) % (1 << 128)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bag) and (self.values, self.digest) == (other.values, other.digest)

    __hash__ = None  # type: ignore[assignment]  # it changes


def read_values(broker: BenchKafka, topic: str) -> Iterator[bytes]:
    """Yield the value of every committed record of ``topic``."""
    consumer = kafka.Consumer(
        {
            "bootstrap.servers": broker.settings.kafka_bootstrap_servers,
            "group.id": "bench-read",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        consumer.list_topics(topic, timeout=10)
        left = broker.settings.partitions
        consumer.assign([TopicPartition(topic, number, kafka.OFFSET_BEGINNING) for number in range(left)])
        while left:
            for message in consumer.consume(10_000, 0.05):
                error = message.error()
                if error is None:
                    yield message.value() or b""
                elif error.code() == KafkaError._PARTITION_EOF:
                    left -= 1
    finally:
        consumer.close()


# audit


def _audit(broker: BenchKafka, given: Input, dsn: str, directory: Path, console: Console) -> dict[str, Any]:
    """``audit.events``, as the last classify run left it, into PostgreSQL; then COPY of those very rows into a table like it."""
    rows = given.expected.audit_records
    end = sum(broker.end_offsets(AUDIT_EVENTS).values())
    rates, copies, counts = [], [], []
    for _ in range(REPETITIONS):
        broker.forget_groups()
        _copy_program(dsn, "empty")
        port = free_port()
        program = Program(worker_command("audit"), worker_environment(broker, port, postgres_dsn=dsn))
        group = group_id(broker.settings, "audit")
        committed = CommittedOffsets(broker.settings.kafka_bootstrap_servers, group, AUDIT_EVENTS, broker.settings.partitions, end)
        gauge = WorkerMetric([port], "tierstream_received_total", 'stage="audit"', rows, committed)
        with bar(console, "audit", 100) as on_percent:
            measured = measure("audit", [program], gauge, broker.pid, directory, lambda share: on_percent(int(100 * share)))
        rates.append(rows / measured.seconds)
        copied = _copy_program(dsn, "copy")
        copies.append(copied["rows"] / copied["seconds"])
        counts.append(copied["rows"])
    rate, copy = statistics.median(rates), statistics.median(copies)
    return {
        "rows": rows,
        "rows_per_second": round(rate),
        "copy_rows_per_second": round(copy),
        "of_copy": round(rate / copy, 3),
        "correct": counts == [rows] * REPETITIONS,
    }


def _copy_program(dsn: str, what: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.copy_rows", what], cwd=ROOT, env={"BENCH_DSN": dsn}, check=True, stdout=subprocess.PIPE
    )
    found: dict[str, Any] = orjson.loads(done.stdout)
    return found
