"""The gateway beside an app that only verifies the HMAC: requests a second on one core. The gateway's answers wait for Kafka."""

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import psutil
from rich.console import Console

from bench.broker import BenchKafka
from bench.console import bar
from bench.jobs import ROOT, worker_environment
from bench.run import JobFailed, Program
from bench.servers import pinned, serving
from streams import topics
from streams.embedded.process import free_port

SECRET = "bench-secret"
CONNECTIONS = 64
SECONDS, WARM_UP_SECONDS = 10.0, 3.0
ORDER = ("gateway", "bare", "bare", "gateway")


def measure_gateway(broker: BenchKafka, directory: Path, console: Console, seconds: float = SECONDS) -> dict[str, Any]:
    """Return both rates. The server has one core for itself; the load generator and the broker have the others."""
    cores = list(range(os.cpu_count() or 1))
    server_core, other_cores = (cores[:1], cores[1:]) if len(cores) > 1 else ([], [])
    broker.sweep(set())
    found: dict[str, list[dict[str, Any]]] = {"gateway": [], "bare": []}
    with bar(console, "gateway", len(ORDER)) as on_progress:
        _pin(broker.pid, other_cores)
        try:
            for number, name in enumerate(ORDER, start=1):
                port, admin_port = free_port(), free_port()
                program = _gateway(broker, port, admin_port) if name == "gateway" else _bare(port)
                with serving(program, directory, name, f"http://127.0.0.1:{port}/healthz", server_core), pinned(other_cores):
                    found[name].append(_load(port, seconds))
                on_progress(number)
        finally:
            _pin(broker.pid, cores)
    accepted = sum(broker.end_offsets(topics.RAZORPAY_WEBHOOKS.name).values())
    rate, bare = (statistics.median(each["requests_per_second"] for each in found[name]) for name in ("gateway", "bare"))
    answered = [each["statuses"] for each in found["gateway"]]
    return {
        "requests_per_second": round(rate),
        "bare_requests_per_second": round(bare),
        "of_bare": round(rate / bare, 3),
        "connections": CONNECTIONS,
        "p50_ms": round(statistics.median(each["p50_ms"] for each in found["gateway"]), 2),
        "p99_ms": round(statistics.median(each["p99_ms"] for each in found["gateway"]), 2),
        "correct": all(set(statuses) == {"200"} for statuses in answered) and accepted >= sum(each["200"] for each in answered),
    }


def _gateway(broker: BenchKafka, port: int, admin_port: int) -> Program:
    settings = {"razorpay_webhook_secrets": SECRET, "gateway_host": "127.0.0.1", "gateway_port": port, "log_level": "warning"}
    return Program([sys.executable, "-m", "streams.cli", "gateway"], worker_environment(broker, admin_port, **settings))


def _bare(port: int) -> Program:
    return Program([sys.executable, "-m", "bench.bare_app", str(port)], _environment())


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "BENCH_SECRET": SECRET}


def _load(port: int, seconds: float) -> dict[str, Any]:
    arguments = [str(port), str(CONNECTIONS), str(seconds), str(WARM_UP_SECONDS)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.http_load", *arguments], cwd=ROOT, env=_environment(), check=True, stdout=subprocess.PIPE
    )
    found: dict[str, Any] = orjson.loads(done.stdout)
    if not found["statuses"]:
        raise JobFailed(f"the server on port {port} answered nothing in {seconds:.0f} s")
    return found


def _pin(pid: int, cores: list[int]) -> None:
    """Have every thread of a process run on ``cores`` only, where the system can do that."""
    if cores and hasattr(os, "sched_setaffinity"):
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cores)
