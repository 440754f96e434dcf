"""The forwarder beside the limit that Loops allows: mails a second, and whether it ever asks for more."""

import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from bench.broker import OUTPUTS, BenchKafka, Headers, Record
from bench.clock import wait_until
from bench.console import bar
from bench.jobs import worker_command, worker_environment
from bench.load import LoadSpec, events
from bench.peers.decision import State, decide
from bench.run import Program
from bench.servers import serving
from schemas.envelope import HEADERS
from streams.embedded.process import free_port

LIMITS = {10: 200, 500: 5_000, 2_000: 20_000}
"""Requests a second that Loops allows → mails to send."""

MAILED = "subscription.upgraded"
YEARS_SECONDS = 10 * 366 * 86_400


def measure_forward(
    broker: BenchKafka, dsn: str, directory: Path, console: Console, limits: dict[int, int] = LIMITS
) -> list[dict[str, Any]]:
    """Return, for each limit, the rate at which the mails of a full topic go out."""
    found = []
    for limit, mails in limits.items():
        with bar(console, f"forward, {limit}/s", mails) as on_progress:
            broker.sweep(set())
            broker.write(OUTPUTS[0], _mailed(mails, limit), lambda _: None)
            sink, port = free_port(), free_port()
            loops = Program(
                [sys.executable, "-m", "streams.cli", "loops-sink", "--port", str(sink), "--rate", str(limit)],
                worker_environment(broker, 0),
            )
            settings: dict[str, object] = {
                "postgres_dsn": dsn,
                "loops_api_key": "bench",
                "loops_base_url": f"http://127.0.0.1:{sink}",
                "loops_rate_per_second": limit,
                "forward_max_age_seconds": YEARS_SECONDS,
            }
            worker = Program(worker_command("forward"), worker_environment(broker, port, **settings))
            with (
                serving(loops, directory, "loops", f"http://127.0.0.1:{sink}/_stats"),
                serving(worker, directory, "forward", f"http://127.0.0.1:{port}/readyz"),
            ):
                stats = _until_sent(sink, mails, limit, on_progress)
        found.append({"limit": limit, "mails": mails, **stats})
    return found


def _mailed(mails: int, seed: int) -> Iterator[Record]:
    """Audit events that are mailed. The limits' seeds differ, so that no mail was in the ledger before."""
    spec = LoadSpec(20 * mails + 1_000, max(10, mails // 5), seed=seed)
    teams: dict[str, State] = {}
    headers: Headers = list(HEADERS)
    left = mails
    for event in events(spec):
        state, audit, _ = decide(teams.get(event.team), event.value)
        if state is not None:
            teams[event.team] = state
        if audit is not None and event.audit is not None and event.audit.kind == MAILED and left:
            left -= 1
            yield Record(event.team, audit, int(time.time() * 1000), headers)


def _until_sent(port: int, mails: int, limit: int, on_progress: Any) -> dict[str, Any]:
    def all_sent() -> bool:
        accepted = _get(port, "_stats")["accepted"]
        on_progress(accepted)
        return bool(accepted >= mails)

    wait_until(all_sent, 0.25, 60 + 4 * mails / limit, f"{mails} mails are sent")
    stats = _get(port, "_stats")
    times = [datetime.fromisoformat(mail["received_at"]).timestamp() for mail in _get(port, "_sent")]
    rate = (len(times) - 1) / (max(times) - min(times))
    return {
        "sent_per_second": round(rate, 1),
        "of_limit": round(rate / limit, 3),
        "peak_per_second": stats["peak_per_second"],
        "refused": sum(count for status, count in stats["statuses"].items() if status == "429"),
    }


def _get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as answer:
        return orjson.loads(answer.read())
