"""However a stream is cut into batches and wherever the forwarder dies, the same mails come out."""

import asyncio
import uuid
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.forward.settling import Settling
from schemas.kinds import Kind
from schemas.tiers import parse_tier
from streams.stores.ledger import Classification
from streams.stores.mail_history import NEVER_WENT_OUT, History
from tests.forward_doubles import forwarder_of
from tests.stage_doubles import NOW, MemoryLedger, OpenLimiter, Record, RecordingDeadLetters, ScriptedLoops, impatient, record, team
from tests.virtual_time import run_virtually

SECONDS = 10.0
FETCH_MILLISECONDS = 1_000
"""For so long a fetch gathers at most."""


class MemoryHistory:
    """The history of a ledger in memory."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def history(self, audit_ids: Collection[uuid.UUID], teams: Collection[uuid.UUID]) -> History:
        welcomes: dict[uuid.UUID, uuid.UUID] = {}
        for entry in self._ledger.entries:
            held = self._ledger.held[entry.audit_id].classification
            if entry.team_id in teams and entry.kind == Kind.CLAIMED and Classification(held) not in NEVER_WENT_OUT:
                assert entry.team_id is not None
                welcomes.setdefault(entry.team_id, entry.audit_id)
        return History({id: self._ledger.held[id].classification for id in audit_ids if id in self._ledger.held}, welcomes)


class World:
    """A partition, what Loops has, and the forwarders that follow each other."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.ledger, self.loops = MemoryLedger(), ScriptedLoops()
        self.committed = 0

    async def forward(self, batches: Sequence[int], seconds: float) -> None:
        """Read from the committed offset on in batches of these sizes, each when its last record is there, and die after ``seconds``."""
        forwarder = forwarder_of(self.ledger, self.loops, OpenLimiter(), impatient(), clock=lambda: NOW)
        settling = Settling(forwarder, self.ledger, MemoryHistory(self.ledger), RecordingDeadLetters(), "audit.events", SECONDS, clock=now)
        done: dict[int, int] = {}
        at, tasks = self.committed, []

        async def handle(start: int, end: int, let_go: asyncio.Event) -> None:
            await settling.handle(self.records[start:end], let_go.set)
            done[start] = end
            while self.committed in done:
                self.committed = done.pop(self.committed)

        async def read() -> None:
            nonlocal at
            for number in range(len(self.records)):
                end = min(len(self.records), at + batches[number % len(batches)])
                while end > at + 1 and self.records[end - 1].timestamp > self.records[at].timestamp + FETCH_MILLISECONDS:
                    end -= 1
                if end == at:
                    break
                await asyncio.sleep(max(0.0, self.records[end - 1].timestamp / 1000 - now()))
                let_go = asyncio.Event()
                task = asyncio.create_task(handle(at, end, let_go))
                task.add_done_callback(partial(_end, let_go))
                tasks.append(task)
                at = end
                await let_go.wait()
            await asyncio.gather(*tasks)

        reading = asyncio.create_task(read())
        await asyncio.wait({reading}, timeout=seconds)
        for task in (reading, *tasks):
            if not task.done():
                task.cancel()
        ended = await asyncio.gather(reading, *tasks, return_exceptions=True)
        assert [end for end in ended if isinstance(end, Exception)] == []

    @property
    def mails(self) -> list[tuple[Any, ...]]:
        """What Loops was asked to send, once each: by team in order."""
        seen = {key: (key, payload.event_name, payload.event_properties.get("from")) for key, payload in self.loops.calls}
        assert sorted(seen) == sorted(self.loops.accepted)
        assert len({*map(str, self.loops.calls)}) == len(seen), "another body under the same key"
        return sorted(seen.values())


def _end(let_go: asyncio.Event, _: object) -> None:
    let_go.set()


def now() -> float:
    return asyncio.get_running_loop().time()


@st.composite
def streams(draw: st.DrawFn) -> list[Record]:
    """Tiers of some teams that go up and down, their claims and other events, some seconds apart."""
    records: list[Record] = []
    tiers: dict[int, str] = {}
    at = 1.0
    for offset in range(draw(st.integers(1, 14))):
        at += draw(st.sampled_from([0.0, 0.5, 3.0, 9.0, 11.0]))
        number = draw(st.integers(0, 2))
        kind = draw(st.sampled_from([Kind.UPGRADED, Kind.UPGRADED, Kind.UPGRADED, Kind.CLAIMED, Kind.NEAR_QUOTA_WALL]))
        metadata: dict[str, Any] = {}
        if kind is Kind.UPGRADED:
            before = tiers.get(number, "free")
            after = tiers[number] = draw(st.sampled_from([tier for tier in ("free", "hobby", "pro") if tier != before]))
            kind = Kind.UPGRADED if (parse_tier(after) or 0) > (parse_tier(before) or 0) else Kind.DOWNGRADED
            metadata = {"from": before, "to": after}
        sent = record(kind, team=team(number), metadata=metadata, id=str(uuid.UUID(int=1_000 + offset)), offset=offset)
        records.append(Record(sent.value, offset=offset, timestamp=round(at * 1000)))
    return records


@settings(max_examples=40, deadline=None)
@given(
    records=streams(),
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    lives=st.lists(st.sampled_from([0.0, 0.9, 4.0, 12.0, 13.0, 25.0]), max_size=5),
)
def test_any_batches_and_crashes_give_the_same_mails(records: list[Record], batches: list[int], lives: list[float]) -> None:
    async def whole() -> World:
        world = World(records)
        await asyncio.sleep(records[-1].timestamp / 1000 + SECONDS + 5)
        await world.forward([len(records)], 1_000)
        return world

    async def cut() -> World:
        world = World(records)
        for seconds in lives:
            await world.forward(batches, seconds)
        await world.forward(batches, 1_000)
        return world

    expected, found = run_virtually(whole()), run_virtually(cut())

    assert found.mails == expected.mails
    assert {id: row.classification for id, row in found.ledger.held.items()} == {
        id: row.classification for id, row in expected.ledger.held.items()
    }
    assert found.committed == len(records)
    welcomes = [name for _, name, _ in found.mails if name == Kind.CLAIMED]
    assert len(welcomes) <= 3
