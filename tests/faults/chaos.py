"""The fault runner: a seeded stream through the gateway while things break, then everything compared with the oracles.

``make chaos`` runs it at full length and writes ``bench/results/chaos.json``; the short form is part of ``make test``.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.report import RESULTS
from streams.cli.verify import verify_running
from streams.embedded.stack import StackOptions, start_stack
from streams.operate.verify import Options
from streams.operate.verify.report import Report as VerifyReport
from streams.settings import Settings
from tests.faults.brokers import BrokerFaults
from tests.faults.faults import STAGES, Fault, Faults
from tests.faults.traffic import Traffic, traffic
from tests.load import OLDEST_SECONDS
from tests.topic_io import alter_topic
from tests.verdict import Findings, compare, until_settled

LOOPS_PER_SECOND = 2_000


@dataclass(frozen=True)
class Plan:
    """How much is posted and how much is broken. ``kills`` and the rest are at least that many."""

    seed: int
    events: int
    per_second: float
    kills: int
    stalls: int
    broker_restarts: int
    database_outages: int
    loops_outages: int
    broker_pause_seconds: float
    loops_outage_seconds: tuple[float, ...]
    workers: dict[str, int]
    settle_seconds: float = 300.0
    orders: int = 50
    """In so many random orders are each team's facts decided again at the end."""
    brokers: int = 1
    leaders_killed: int = 3
    brokers_paused: int = 2
    two_away: int = 2
    rolling_restarts: int = 2
    """These four count where there are several brokers."""


PAUSE_SECONDS, TWO_AWAY_SECONDS = 15.0, 20.0

LONG = Plan(0, 215_000, 150.0, 60, 10, 5, 6, 6, 90.0, (5.0, 10.0, 20.0, 30.0, 60.0, 120.0), {"normalise": 2, "classify": 2})
SHORT = Plan(0, 2_400, 50.0, 8, 1, 1, 2, 2, 0.0, (2.0, 5.0), {"classify": 2})
CLUSTER = replace(
    LONG,
    events=50_000,
    per_second=100.0,
    kills=20,
    stalls=3,
    broker_restarts=1,
    database_outages=2,
    loops_outages=2,
    broker_pause_seconds=0.0,
    brokers=3,
)


@dataclass
class Report:
    """What a run did and found."""

    plan: Plan
    findings: Findings
    verified: VerifyReport
    counts: dict[str, int]
    seconds: float
    traffic: Traffic

    def as_json(self) -> dict[str, Any]:
        """The results file."""
        findings = self.findings
        latencies = sorted(self.traffic.latencies)
        return {
            "seed": self.plan.seed,
            "brokers": self.plan.brokers,
            "events": findings.events,
            "due_records": findings.due_records,
            "posts": self.traffic.accepted,
            "retried_posts": self.traffic.retries,
            "rows": findings.rows,
            "mails": findings.mails,
            **self.counts,
            "missing": len(findings.missing),
            "wrong": len(findings.wrong),
            "duplicate_rows": len(findings.duplicate_rows),
            "duplicate_mails": len(findings.duplicate_mails),
            "verify_clean": self.verified.clean,
            "slowest_answer_seconds": round(latencies[-1], 3) if latencies else None,
            "seconds": round(self.seconds, 1),
        }


async def run(plan: Plan, console: Console) -> Report:
    """Run ``plan`` on a stack of its own. Raises AssertionError when things do not settle."""
    overrides: dict[str, object] = {
        "loops_rate_per_second": LOOPS_PER_SECOND,
        "loops_timeout_seconds": 2.0,
        "session_timeout_seconds": 6.0,
        "forward_max_age_seconds": OLDEST_SECONDS,
    }
    began = time.monotonic()
    async with start_stack(StackOptions(plan.workers, overrides=overrides, brokers=plan.brokers)) as stack:
        _compact_eagerly(stack.settings)
        stream = traffic(stack.gateway, plan.seed, plan.events, plan.per_second)
        faults = Faults(stack, random.Random(plan.seed))
        posting = asyncio.create_task(stream.run())
        with _progress(console) as progress:
            bar = progress.add_task("posting", total=len(stream.posts))
            outages = _outages(plan, faults)
            if plan.brokers > 1:
                outages += _broker_outages(plan, BrokerFaults(stack, random.Random(plan.seed), faults.count))
            await _break_things(plan, faults, outages, posting, lambda: progress.update(bar, completed=stream.accepted))
            await posting
            progress.update(bar, completed=stream.accepted, description="settling")
            await until_settled(stack.settings, stack.postgres, plan.settle_seconds)
        findings = await compare(stack.settings, stack.postgres, stack.loops)
        verified = await asyncio.to_thread(verify_running, stack.settings, Options(plan.orders))
        return Report(plan, findings, verified, dict(faults.count), time.monotonic() - began, stream)


def _compact_eagerly(settings: Settings) -> None:
    """Let the changelogs be compacted all the time, so that every restart restores from what compaction left."""
    for changelog in ("tierstream.normalise-links-changelog", "tierstream.classify-teams-changelog"):
        alter_topic(settings, changelog, {"segment.ms": "5000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "10000"})


def _outages(plan: Plan, faults: Faults) -> list[Fault]:
    outages: list[Fault] = [faults.stall] * plan.stalls + [faults.restart_broker] * plan.broker_restarts
    outages += [
        lambda number=number: faults.misbehave(plan.loops_outage_seconds[number % len(plan.loops_outage_seconds)])  # type: ignore[misc]
        for number in range(plan.loops_outages)
    ]
    outages += [faults.poison] * 2 + [faults.terminate] * 2 + [faults.add_and_remove_worker] * 2
    outages += [faults.restart_postgres if number % 2 else faults.drop_audit_log for number in range(plan.database_outages)]
    if plan.broker_pause_seconds:
        outages.append(lambda: faults.pause_broker(plan.broker_pause_seconds))
    return outages


def _broker_outages(plan: Plan, faults: BrokerFaults) -> list[Fault]:
    outages: list[Fault] = []
    outages += [faults.kill_leader] * plan.leaders_killed + [faults.restart_in_turn] * plan.rolling_restarts
    outages += [lambda: faults.pause(PAUSE_SECONDS)] * plan.brokers_paused
    outages += [lambda: faults.take_two_away(TWO_AWAY_SECONDS)] * plan.two_away
    return outages


async def _break_things(plan: Plan, faults: Faults, outages: list[Fault], posting: "asyncio.Task[None]", tick: Any) -> None:
    """Spread the plan's faults over the time that posting takes; kills go on beside the longer outages."""
    seconds = plan.events / plan.per_second
    chance = random.Random(plan.seed + 1)
    chance.shuffle(outages)
    each_stage_twice = [name for name in STAGES for _ in range(2)]
    kills: list[Fault] = [lambda name=name: faults.kill(name) for name in each_stage_twice]  # type: ignore[misc]
    kills += [faults.kill] * max(0, plan.kills - len(kills))
    chance.shuffle(kills)

    async def one_after_another(several: Sequence[Fault]) -> None:
        pause = seconds * 0.9 / len(several)
        for fault in several:
            began = time.monotonic()
            await fault()
            while (left := pause * chance.uniform(0.5, 1.3) - (time.monotonic() - began)) > 0 and not posting.done():
                tick()
                await asyncio.sleep(min(left, 0.5))

    async with asyncio.TaskGroup() as group:
        group.create_task(one_after_another(kills))
        group.create_task(one_after_another(outages))


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"), TimeElapsedColumn())
    return Progress(*columns, console=console)


def main() -> int:
    """The command line of ``make chaos``."""
    parser = argparse.ArgumentParser(description="Break everything for a while and compare with the oracles.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--events", type=int, help=f"{LONG.events:,}, or {CLUSTER.events:,} with several brokers")
    parser.add_argument("--per-second", type=float, help=f"{LONG.per_second:g}, or {CLUSTER.per_second:g} with several brokers")
    parser.add_argument("--brokers", type=int, default=1, help="how many brokers Kafka has; with three, they break one by one and in pairs")
    parser.add_argument("--short", action="store_true", help="the form that make test runs; its result is not kept")
    parser.add_argument("--out", type=Path, help="append the result to this JSON file instead of bench/results/chaos.json or cluster.json")
    arguments = parser.parse_args()
    form = SHORT if arguments.short else CLUSTER if arguments.brokers > 1 else LONG
    events, per_second = arguments.events or form.events, arguments.per_second or form.per_second
    plan = replace(form, seed=arguments.seed, events=events, per_second=per_second, brokers=arguments.brokers)
    out = arguments.out or (None if arguments.short else RESULTS / ("cluster.json" if plan.brokers > 1 else "chaos.json"))
    console = Console(highlight=False)
    console.print(f"seed {plan.seed}: {plan.events} events at {plan.per_second:.0f}/s (repeat with --seed {plan.seed})")
    report = asyncio.run(run(plan, console))
    console.print_json(json.dumps(report.as_json()))
    console.print(str(report.findings), soft_wrap=True)
    console.print("\n".join(["tierstream verify:", *(report.verified.differences() or ["clean"])]), soft_wrap=True)
    if out is not None:
        write(out, report)
    return 0 if report.findings.exact and report.verified.clean else 1


def write(path: Path, report: Report) -> None:
    """Write the newest run at the top level of ``path``, and all runs so far under ``runs``."""
    earlier = json.loads(path.read_text())["runs"] if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**report.as_json(), "runs": [*earlier, report.as_json()]}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
