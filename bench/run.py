"""Running a job to its end, and reading what it wrote."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import confluent_kafka as kafka
import msgspec
import psutil
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from rich.console import Console

import streams.embedded.launcher
from bench.broker import OUTPUTS, BenchKafka, Input
from bench.clock import FirstFetch, Gauge, wait_until
from bench.expected import Tally, read_audit, read_current
from bench.jobs import Job, Start, fresh_directory
from streams.embedded.process import last_lines
from streams.errors import TierstreamError

START_SECONDS = 120.0
STOP_SECONDS = 20.0
PATIENCE_SECONDS = 120.0
"""A job that gets no further for this long is given up."""

CHECK_SECONDS = 0.01
Progress = Callable[[int], object]


class JobFailed(TierstreamError):
    """A job's process ended, or got no further."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one job. ``cpu_seconds`` are those of its processes while the clock ran, ``problems`` says what was wrong."""

    job: str
    events: int
    seconds: float
    cpu_seconds: float
    peak_megabytes: float
    transitions: int
    outputs: int
    problems: list[str]

    @property
    def events_per_second(self) -> float:
        """The rate."""
        return self.events / self.seconds


@dataclass(frozen=True, slots=True)
class Program:
    """One process to run."""

    command: list[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Measured:
    """From the first fetch to the end: wall-clock and CPU seconds, and the peak of resident memory."""

    seconds: float
    cpu_seconds: float
    peak_megabytes: float


def run_job(job: Job, broker: BenchKafka, given: Input, inputs: set[str], directory: Path, on_progress: Progress) -> Run:
    """Run ``job`` on ``given``, from an empty start to its end, and compare its outputs. Raises JobFailed."""
    broker.sweep(inputs)
    start = Start(broker, given, fresh_directory(directory / "state"))
    programs = [Program(job.command(start), job.environment(start))]
    measured = measure(
        job.name, programs, job.gauge(start), broker.pid, start.state_directory, lambda share: on_progress(int(share * given.spec.events))
    )
    tally = read_outputs(broker)
    return Run(
        job.name,
        given.spec.events,
        measured.seconds,
        measured.cpu_seconds,
        measured.peak_megabytes,
        tally.transitions,
        tally.records,
        tally.differences(given.expected),
    )


def measure(
    name: str,
    programs: Sequence[Program],
    gauge: Gauge,
    broker_pid: int,
    directory: Path,
    on_share: Callable[[float], object],
    feed: Callable[[], Callable[[], object]] | None = None,
) -> Measured:
    """Run the programs until ``gauge`` is at its goal, then stop them. Raises JobFailed, with the end of what they said.

    ``feed`` waits until they are ready, brings the input where they do not see it yet, and returns what shows it to them: what is
    measured begins as that is called.
    """
    fetch = FirstFetch(broker_pid)
    logs = [directory / f"{name}-{number}.log" for number in range(len(programs))]
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(gauge.close)
            running = [
                stack.enter_context(process(program.command, program.environment, directory, log))
                for program, log in zip(programs, logs, strict=True)
            ]
            return _watch(name, running, gauge, fetch, on_share, feed)
    except (TimeoutError, JobFailed) as error:
        raise JobFailed(f"{error}\n{last_lines(*logs)}") from error


def _watch(
    name: str,
    running: list[subprocess.Popen[bytes]],
    gauge: Gauge,
    fetch: FirstFetch,
    on_share: Callable[[float], object],
    feed: Callable[[], Callable[[], object]] | None,
) -> Measured:
    def alive() -> None:
        for each in running:
            if each.poll() is not None and each.returncode != 0:
                raise JobFailed(f"{name} ended with status {each.returncode}.")

    def fetched() -> bool:
        alive()
        return fetch.happened()

    observed = [psutil.Process(each.pid) for each in running]
    show = feed() if feed is not None else None
    began = time.monotonic() if show is not None else wait_until(fetched, 0.001, START_SECONDS, f"{name} fetches its first record")
    cpu_before = cpu = cpu_seconds(observed)
    if show is not None:
        show()
    peak, done, moved = 0.0, 0, began
    while done < gauge.goal:
        time.sleep(CHECK_SECONDS)
        alive()
        now_done = gauge.read()
        ended = time.monotonic()
        with contextlib.suppress(psutil.Error):
            cpu = cpu_seconds(observed)
            peak = max(peak, sum(each.memory_info().rss for each in observed) / 1e6)
        if now_done > done:
            done, moved = now_done, ended
            on_share(done / gauge.goal)
        elif ended - moved > PATIENCE_SECONDS:
            raise JobFailed(f"{name} stands at {done:,} of {gauge.goal:,} records.")
    return Measured(ended - began, cpu - cpu_before, peak)


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Return the CPU time that the processes have taken so far."""
    return float(sum(times.user + times.system for times in (each.cpu_times() for each in processes)))


@contextlib.contextmanager
def process(command: list[str], environment: Mapping[str, str], directory: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the block runs; it does not outlive us."""
    launcher = [sys.executable, "-I", "-S", str(streams.embedded.launcher.__file__), str(int(signal.SIGKILL)), str(os.getpid()), "-"]
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*launcher, *command],
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield running
            running.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(STOP_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def read_outputs(broker: BenchKafka) -> Tally:
    """Read both output topics to their ends, committed records only."""
    consumer = kafka.Consumer(
        {
            "bootstrap.servers": broker.settings.kafka_bootstrap_servers,
            "group.id": "bench-read",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,
        }
    )
    audit_events, _ = OUTPUTS
    tally = Tally()
    try:
        wanted = [TopicPartition(topic, n, kafka.OFFSET_BEGINNING) for topic in OUTPUTS for n in range(broker.settings.partitions)]
        consumer.list_topics(audit_events, timeout=10)
        consumer.assign(wanted)
        left = len(wanted)
        while left:
            for message in consumer.consume(10_000, 0.05):
                error, value = message.error(), message.value()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    left -= 1
                elif message.topic() == audit_events:
                    tally.add_audit(read_audit(value or b""))
                else:
                    tally.add_current(read_current(value or b""))
    except msgspec.MsgspecError as error:
        raise JobFailed(f"an output can not be read: {error}") from error
    finally:
        consumer.close()
    return tally


def print_run(title: str, run: Run, console: Console) -> None:
    """Print one line about one run."""
    rate, cpu = f"{run.events_per_second:,.0f} events/s", f"{run.cpu_seconds / run.events * 1e6:.1f} CPU s for a million"
    console.print(f"{title}: {rate}, {cpu}, {'; '.join(run.problems) or 'correct'}", style="red" if run.problems else None, markup=False)
