"""What an event costs an engine while there are few: classify beside Kafka Streams and Quix Streams, on one broker, at fixed rates.

CPU is that of the job's process and of the broker, from ``/proc``, in percent of one core. The producer that feeds them is not counted;
what it costs the broker is, for all of them alike.
"""

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Producer
from rich.console import Console

from bench.broker import INPUT, BenchKafka, Input, running_kafka
from bench.clock import Gauge
from bench.compare import DATA
from bench.console import bar
from bench.expected import Tally
from bench.jobs import JOBS, Job, Start, fresh_directory
from bench.load import LoadSpec, events
from bench.quiet import COMPILE_RATE, RATES
from bench.run import JobFailed, cpu_seconds, process
from schemas.envelope import HEADERS
from streams.embedded.process import last_lines
from streams.kafka.client import producer_config
from streams.settings import Settings

PEERS = ("tierstream", "kafka-streams-eos", "quix")
PEERS_PARTITIONS = (1, 32)
COMPILE_SECONDS, WARM_UP_SECONDS, SECONDS = 45, 5, 15
START_SECONDS = 60.0
EVENTS_A_TEAM = 20

Feed = Iterator[tuple[str, bytes, int]]


def measure_quiet_peers(console: Console, partitions: tuple[int, ...] = PEERS_PARTITIONS) -> list[dict[str, Any]]:
    """Return a row for each job, number of partitions and rate; a job that can not run here is left out, with a line that says why."""
    rows: list[dict[str, Any]] = []
    for number in partitions:
        with tempfile.TemporaryDirectory(dir=DATA, prefix="scratch-", ignore_cleanup_errors=True) as scratch:
            directory = Path(scratch)
            with running_kafka(directory / "broker", number, keep=False) as broker:
                for job in (JOBS[name] for name in PEERS):
                    if why := job.missing():
                        console.print(f"{job.name} is skipped: {why}", style="yellow", markup=False)
                        continue
                    with bar(console, f"{job.title}, {number} partitions", len(RATES)) as on_progress:
                        for row in _rows(job, broker, number, directory):
                            rows.append(row)
                            on_progress(RATES.index(row["rate"]) + 1)
                            console.print("{job}, {partitions} partitions, {rate}/s: {cpu_job} + {cpu_kafka} %".format_map(row))
    return rows


def _rows(job: Job, broker: BenchKafka, partitions: int, directory: Path) -> Iterator[dict[str, Any]]:
    total = 20 * int(START_SECONDS) + COMPILE_RATE * COMPILE_SECONDS + sum(RATES) * (WARM_UP_SECONDS + SECONDS)
    spec = LoadSpec(total, total // EVENTS_A_TEAM, partitions)
    broker.sweep(set())
    start = Start(broker, Input(INPUT, spec, Tally()), fresh_directory(directory / "state"))
    log = directory / f"{job.name}.log"
    gauge = job.gauge(start)
    feed = ((event.team, event.value, event.timestamp) for event in events(spec))
    try:
        with process(job.command(start), job.environment(start), start.state_directory, log) as running:
            feeder = _Feeder(broker.settings, feed)
            feeder.until_read(gauge)
            feeder.feed(COMPILE_RATE, COMPILE_SECONDS)
            processes = psutil.Process(running.pid), psutil.Process(broker.pid)
            for rate in RATES:
                feeder.feed(rate, WARM_UP_SECONDS)
                before, began = [cpu_seconds([each]) for each in processes], time.monotonic()
                feeder.feed(rate, SECONDS)
                seconds = time.monotonic() - began
                ours, kafka = (round(100 * (cpu_seconds([each]) - cpu) / seconds, 1) for each, cpu in zip(processes, before, strict=True))
                yield {"job": job.name, "partitions": partitions, "rate": rate, "cpu_job": ours, "cpu_kafka": kafka}
    except (psutil.Error, TimeoutError) as error:
        raise JobFailed(f"{job.name} ended, or read nothing: {error}\n{last_lines(log)}") from error
    finally:
        gauge.close()


class _Feeder:
    """Produces the events of a load, in order, at any rate."""

    def __init__(self, settings: Settings, feed: Feed) -> None:
        self._producer = Producer({**producer_config(settings), "linger.ms": 1, "log_level": 0})
        self._feed = feed

    def feed(self, rate: int, seconds: float) -> None:
        """Produce at ``rate`` for ``seconds``, each event when it is due."""
        began = time.monotonic()
        for number, (key, value, timestamp) in enumerate(itertools.islice(self._feed, int(rate * seconds))):
            self._producer.poll(max(0.0, began + number / rate - time.monotonic()))
            self._producer.produce(INPUT, value=value, key=key, timestamp=timestamp, headers=list(HEADERS))
        self._producer.poll(max(0.0, began + seconds - time.monotonic()))

    def until_read(self, gauge: Gauge) -> None:
        """Produce a few a second until the job has committed something. Raises TimeoutError."""
        deadline = time.monotonic() + START_SECONDS
        while not gauge.read():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing was committed within {START_SECONDS:.0f} s")
            self.feed(20, 1)
