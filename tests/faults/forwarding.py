"""Trials of the forwarder: processes of it that are killed again and again while Loops misbehaves, on the real broker and PostgreSQL.

Whatever happens, Loops has accepted each mail once at the end, and each team's in the order of ``audit.events``.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson

from schemas.kinds import Kind
from streams.embedded.stack import environment_of
from streams.settings import Settings
from tests.faults.forward_worker import CRASHES
from tests.forked import ForkedProcess
from tests.integration.databases import query
from tests.sinks import ServedSink
from tests.stage_doubles import audit_event, team
from tests.topic_io import read_all
from tests.waiting import answered
from tests.workers import land

BLOCKED = "<script>x</script>"
CALM_SECONDS = 120.0


@dataclass
class Trial:
    """One run: what was asked for, and how to ask for more."""

    settings: Settings
    sink: ServedSink
    log: Path
    teams: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The audit ids of each team's mails, in their order on ``audit.events``."""

    def mails(self, numbers: list[int], *, blocked: set[int] | None = None) -> None:
        """Add a mail of each of these teams, in this order; those of ``blocked`` hold a word that a firewall may block."""
        records = []
        for number in numbers:
            metadata = {"experiment": BLOCKED if number in (blocked or ()) else "pricing"}
            event = audit_event(Kind.EXPERIMENT_CONVERSION, team=team(number), metadata=metadata, created_at=datetime.now(UTC))
            self.teams[number].append(str(event["id"]))
            records.append((team(number).encode(), orjson.dumps(event), (), -1))
        land(self.settings, "audit.events", records)

    @contextlib.contextmanager
    def worker(self, *options: str) -> Iterator[ForkedProcess]:
        """Run a process of forward; it is killed at the end of the block."""
        environment = {**os.environ, **environment_of(self.settings)}
        with self.log.open("ab") as output:
            worker = "tests.faults.forward_worker"
            process = ForkedProcess(worker, options, env=environment, stdout=output.fileno(), stderr=output.fileno())
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    async def rows(self, condition: str) -> int:
        """Count the rows of the ledger for which ``condition`` holds."""
        assert self.settings.postgres_dsn is not None
        dsn = self.settings.postgres_dsn.get_secret_value()
        (row,) = await query(dsn, f"select count(*) as found from forwarder_sent where {condition}")
        return int(row["found"])

    async def until_rows(self, condition: str, count: int, process: ForkedProcess, seconds: float = CALM_SECONDS) -> None:
        """Return once there are so many; fail when the process ends before, or in no time."""

        async def found() -> int | None:
            rows = await self.rows(condition)
            if rows >= count:
                return rows
            assert process.poll() is None, f"ended with {rows} of {count} {condition}: {self.log.read_text()[-3_000:]}"
            return None

        await answered(found, lambda: f"{count} {condition}", seconds)

    async def end(self) -> list[str]:
        """Let a worker send all that is left to a Loops that works, and return what is wrong then."""
        self.sink.break_it(down=False, fail_next=0, accept_then_timeout=0, block=None, rate=None, page=None)
        self.sink.sink.valid_key = "key"
        total = sum(map(len, self.teams.values()))
        with self.worker() as process:
            await self.until_rows("classification in ('sent', 'already_sent')", total, process)
        return self.findings()

    def findings(self) -> list[str]:
        """Return what is wrong of what Loops has accepted."""
        times = Counter(str(key) for key in self.sink.keys)
        wanted = [key for keys in self.teams.values() for key in keys]
        found = [f"{key} was accepted {times[key]} times" for key in wanted if times[key] != 1]
        found += [f"{key} was never asked for" for key in times.keys() - set(wanted)]
        places = {str(key): place for place, key in enumerate(self.sink.keys)}
        for number, keys in self.teams.items():
            if [places.get(key, -1) for key in keys] != sorted(places.get(key, -1) for key in keys):
                found.append(f"the mails of team {number} went out in another order")
        found += [f"a dead letter: {message.headers()}" for message in read_all(self.settings, "dead.letters")]
        return found


async def killed_again_and_again(trial: Trial, seed: int, *, lives: int, mails: int) -> list[str]:
    """Kill forward ``lives`` times, each time at another point or moment, while Loops misbehaves in another way. Returns what is wrong then."""
    chance = random.Random(seed)
    for _ in range(lives):
        blocked = set(chance.sample(range(30), 4))
        trial.mails([chance.randrange(30) for _ in range(mails)], blocked=blocked)
        options = ["--kill", f"{chance.choice(list(CRASHES))}:{chance.randint(1, 12)}"] if chance.random() < 0.8 else []
        with trial.worker(*options) as process:
            deadline = asyncio.get_running_loop().time() + chance.uniform(2.0, 4.0)
            while process.poll() is None and asyncio.get_running_loop().time() < deadline:
                misbehave(trial.sink, chance)
                await asyncio.sleep(chance.uniform(0.1, 0.5))
        assert process.returncode == -signal.SIGKILL, trial.log.read_text()[-3_000:]
    return await trial.end()


def misbehave(sink: ServedSink, chance: random.Random) -> None:
    """Break something about Loops, and mend the rest."""
    sink.sink.valid_key = "key"
    sink.break_it(down=False, block=None, rate=None, page=None)
    match chance.randrange(8):
        case 0:
            sink.break_it(accept_then_timeout=chance.randint(1, 3))
        case 1:
            sink.break_it(rate=chance.choice([5.0, 20.0]))
        case 2:
            sink.sink.valid_key = "another"
        case 3:
            sink.break_it(fail_next=chance.randint(1, 20), status=500)
        case 4 | 5:
            sink.break_it(block=BLOCKED, block_status=chance.choice([403, 404, 500]))
        case 6:
            sink.break_it(down=True)
        case _:
            pass


async def killed_while_many_wait(trial: Trial, teams: int) -> list[str]:
    """Kill forward when a mail of each of so many teams, and one behind it, waits for a retry. Returns what is wrong then."""
    trial.sink.break_it(block=BLOCKED)
    numbers = list(range(teams))
    trial.mails(numbers, blocked=set(numbers))
    trial.mails(numbers)
    with trial.worker("--retry-seconds", "5", "5", "5") as process:
        await trial.until_rows("waiting_topic is not null", 2 * teams, process)
    return await trial.end()


async def one_team_fails_beside_others(trial: Trial, others: int) -> list[str]:
    """Fail one team's first mail until so many of others are sent, and its own too after that. Returns what is wrong then."""
    trial.sink.break_it(block=BLOCKED, block_status=500)
    trial.mails([0], blocked={0})
    trial.mails([0, *range(1, others // 2 + 1), 0, *range(1, others // 2 + 1)])
    with trial.worker() as process:
        await trial.until_rows("classification = 'sent'", others // 2 * 2, process)
        await trial.until_rows("waiting_topic is not null", 3, process)
        if trial.findings() == []:
            return ["team 0 was not held up"]
    return await trial.end()
