"""Growth: the same number of events over more teams and more partitions: rate, memory for each team, cold recovery."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from bench.broker import INPUT, BenchKafka, Input, running_kafka
from bench.clock import wait_until
from bench.console import bar
from bench.jobs import JOBS, Start, fresh_directory, positions, worker_command, worker_environment
from bench.load import LoadSpec
from bench.run import Program, measure, process, read_outputs
from bench.servers import serving
from streams.embedded.process import free_port

SIZES = ((1_000, 8), (20_000, 8), (200_000, 8), (1_000_000, 8), (20_000, 32), (20_000, 64))
"""Teams, partitions."""

FEWEST_TEAMS_FOR_MEMORY = 20_000
"""With fewer teams, what the rows take is lost in what the process takes."""

RESTORE_SECONDS = 600.0
_RESTORED = re.compile(r"^(\S+)Z .*\brestored\b.*?records=(\d+) rows=(\d+) seconds=([\d.]+)", re.MULTILINE)
_JAVA_RESTORED = re.compile(r"^restored (\d+) (\d+) (\d+)$", re.MULTILINE)


def measure_growth(events: int, directory: Path, console: Console, sizes: Sequence[tuple[int, int]] = SIZES) -> list[dict[str, Any]]:
    """Return one row for each size."""
    return [_measure_size(LoadSpec(events, teams, partitions, claims=False), directory, console) for teams, partitions in sizes]


def _measure_size(spec: LoadSpec, directory: Path, console: Console) -> dict[str, Any]:
    title = f"{spec.teams:,} teams, {spec.partitions} partitions"
    with running_kafka(directory / spec.name, spec.partitions, keep=False) as broker:
        broker.sweep(set())
        empty = _resident_bytes(broker, directory)
        with bar(console, f"load: {title}", spec.events) as on_progress:
            given = broker.fill(INPUT, spec, on_progress)
        broker.sweep({INPUT})
        port = free_port()
        gauge = positions(broker, "classify", INPUT, spec.events, [port])
        program = Program(worker_command("classify"), worker_environment(broker, port))
        with bar(console, title, spec.events) as on_progress:
            measured = measure("classify", [program], gauge, broker.pid, directory, lambda share: on_progress(int(share * spec.events)))
        right = not read_outputs(broker).differences(given.expected)
        full = _resident_bytes(broker, directory)
        recovery = _recovery((directory / "restore.log").read_text(encoding="utf-8"))
        java = _java_recovery(broker, given, directory) if spec.teams == max(teams for teams, _ in SIZES) else None
    return {
        "teams": spec.teams,
        "partitions": spec.partitions,
        "events": spec.events,
        "events_per_second": round(spec.events / measured.seconds),
        "bytes_per_team": round((full - empty) / recovery["recovery_rows"]) if spec.teams >= FEWEST_TEAMS_FOR_MEMORY else None,
        "resident_mb": round(full / 1e6),
        **recovery,
        **({"kafka_streams_recovery_rows_per_second": java} if java is not None else {}),
        "correct": right,
    }


def _resident_bytes(broker: BenchKafka, directory: Path) -> int:
    """Resident memory of a worker that has restored what there is, and does nothing."""
    port = free_port()
    program = Program(worker_command("classify"), worker_environment(broker, port))
    with serving(program, directory, "restore", f"http://127.0.0.1:{port}/readyz", seconds=RESTORE_SECONDS) as pid:
        return int(psutil.Process(pid).memory_info().rss)


def _recovery(log: str) -> dict[str, Any]:
    """What the worker's log says of its restore: several partitions at once, in one or more groups."""
    groups = [
        (datetime.fromisoformat(end).timestamp(), int(records), int(rows), float(took))
        for end, records, rows, took in _RESTORED.findall(log)
    ]
    records = sum(each[1] for each in groups)
    seconds = max(end for end, *_ in groups) - min(end - took for end, _, _, took in groups)
    return {
        "recovery_rows": sum(each[2] for each in groups),
        "recovery_records": records,
        "recovery_seconds": round(seconds, 2),
        "recovery_rows_per_second": round(records / seconds),
    }


def _java_recovery(broker: BenchKafka, given: Input, directory: Path) -> int | None:
    """Rows a second with which Kafka Streams restores the same teams, its local state lost; None when it can not run."""
    job = JOBS["kafka-streams"]
    if job.missing() is not None:
        return None
    broker.sweep({INPUT})
    start = Start(broker, given, fresh_directory(directory / "state"))
    program = Program(job.command(start), job.environment(start))
    measure(job.name, [program], job.gauge(start), broker.pid, directory, lambda _: None)
    fresh_directory(directory / "state")
    log = directory / "java-restore.log"

    def restored() -> list[tuple[str, str, str]]:
        return _JAVA_RESTORED.findall(log.read_text(encoding="utf-8", errors="replace"))

    with process(program.command, program.environment, directory, log):
        wait_until(lambda: len(restored()) == given.spec.partitions, 0.2, RESTORE_SECONDS, "Kafka Streams restores its partitions")
    began, ended = min(int(each[1]) for each in restored()), max(int(each[2]) for each in restored())
    return round(sum(int(each[0]) for each in restored()) / max(0.001, (ended - began) / 1000))
