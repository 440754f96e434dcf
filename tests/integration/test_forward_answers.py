"""The forward stage on the real broker and PostgreSQL, with answers that are not about every mail, or not Loops' at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import pytest
from pydantic import SecretStr

from agents.registry import stage_factory
from schemas.kinds import Kind
from streams.settings import Settings
from tests.integration.databases import query
from tests.sinks import ServedSink, served_sink
from tests.stage_doubles import audit_event, team
from tests.topic_io import read_all
from tests.workers import Run, committed, land, running

BLOCKED = "<script>x</script>"
PARTITION = 1


@dataclass
class World:
    """A broker, a database and a fake Loops of the test's own."""

    settings: Settings
    sink: ServedSink

    def mail(self, number: int, name: str = "Ada") -> str:
        """Have the team of that number claimed by somebody of that name, all on one partition, and return the audit id."""
        event = audit_event(
            Kind.CLAIMED, team=team(number), email=None, contact={"email": "ada@example.com", "name": name}, created_at=datetime.now(UTC)
        )
        land(self.settings, "audit.events", [(None, orjson.dumps(event), (), PARTITION)])
        return str(event["id"])

    @asynccontextmanager
    async def forward(self, *, path: str = "", **changes: object) -> AsyncIterator[Run]:
        """Run the stage, with Loops' address and ``path`` behind it."""
        settings = self.settings.model_copy(update={"loops_base_url": self.sink.url + path, **changes})
        async with running(settings, stage_factory(settings, "forward")) as run:
            yield run

    async def ledger(self) -> dict[str, str]:
        assert self.settings.postgres_dsn is not None
        rows = await query(self.settings.postgres_dsn.get_secret_value(), "select audit_id, classification from forwarder_sent")
        return {str(row["audit_id"]): row["classification"] for row in rows}

    async def until_ledger(self, expected: dict[str, str], run: Run, seconds: float = 60.0) -> None:
        """Return once the ledger says that; fail at once when the stage ends."""
        loop = asyncio.get_running_loop()

        def says() -> bool:
            return asyncio.run_coroutine_threadsafe(self.ledger(), loop).result() == expected

        await run.until(says, f"the ledger says {expected}", seconds)

    def committed(self) -> int:
        return committed(self.settings, "forward", "audit.events")[PARTITION]

    @property
    def keys(self) -> list[str | None]:
        return self.sink.keys


@pytest.fixture
async def world(stage_settings: Settings) -> AsyncIterator[World]:
    async with served_sink(api_key="key") as sink:
        yield World(
            stage_settings.model_copy(
                update={"loops_base_url": sink.url, "loops_api_key": SecretStr("key"), "loops_rate_per_second": 500.0}
            ),
            sink,
        )


async def test_a_mail_that_a_firewall_blocks_waits_while_other_teams_mails_go_and_its_own_teams_keep_their_order(world: World) -> None:
    world.sink.break_it(block=BLOCKED)
    async with world.forward() as run:
        blocked = world.mail(0, BLOCKED)
        await world.until_ledger({blocked: "in_flight"}, run)
        behind = world.mail(0)
        others = [world.mail(number) for number in range(1, 5)]

        await world.until_ledger({blocked: "in_flight", **dict.fromkeys(others, "sent")}, run)
        assert world.keys == others
        assert world.committed() == 0, "the position stays at the mail that waits"

        world.sink.break_it(block=None)
        await world.until_ledger(dict.fromkeys([blocked, behind, *others], "sent"), run)
        assert world.keys == [*others, blocked, behind], "in the order of the team, each once"
        await run.until(lambda: world.committed() == 6, "the offset")
    assert read_all(world.settings, "dead.letters") == []


async def test_a_wrong_base_url_refuses_nothing_and_every_mail_is_sent_once_it_is_right(world: World) -> None:
    mails = [world.mail(number) for number in range(3)]
    async with world.forward(path="/api") as run:
        await world.until_ledger(dict.fromkeys(mails, "in_flight"), run)
        more = world.mail(0)
    assert set((await world.ledger()).values()) == {"in_flight"}
    assert read_all(world.settings, "dead.letters") == []
    assert world.committed() == 0

    async with world.forward() as run:
        await world.until_ledger(dict.fromkeys([*mails, more], "sent"), run)
    assert sorted(map(str, world.keys)) == sorted([*mails, more])


@pytest.mark.parametrize("status", [200, 402, 403, 404, 405, 410, 451])
async def test_a_page_that_is_no_answer_of_loops_makes_no_mail_sent_or_refused(world: World, status: int) -> None:
    world.sink.break_it(page=status)
    async with world.forward() as run:
        mails = [world.mail(number) for number in range(3)]
        await world.until_ledger(dict.fromkeys(mails, "in_flight"), run)
        assert world.keys == []

        world.sink.break_it(page=None)
        await world.until_ledger(dict.fromkeys(mails, "sent"), run)
    assert sorted(map(str, world.keys)) == sorted(mails)
    assert read_all(world.settings, "dead.letters") == []
