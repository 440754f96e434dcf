"""The forward stage on the real broker and PostgreSQL, with answers that are not about every mail, or not Loops' at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
import orjson
import pytest
from pydantic import SecretStr

from agents.registry import stage_factory
from schemas.kinds import Kind
from streams.embedded.process import free_port
from streams.settings import Settings
from tests.integration.databases import query
from tests.sinks import ServedSink, served_sink
from tests.stage_doubles import audit_event, team
from tests.topic_io import read_all
from tests.waiting import answered, until
from tests.workers import Run, committed, land, running

BLOCKED = "<script>x</script>"
PARTITION = 1
RETRY_SECONDS = (0.2, 0.3, 0.5)


@dataclass
class World:
    """A broker, a database and a fake Loops of the test's own."""

    settings: Settings
    sink: ServedSink

    def mail(self, number: int, name: str = "Ada") -> str:
        """Land a mail to the team of that number about an experiment of that name, all on one partition, and return the audit id."""
        event = audit_event(
            Kind.EXPERIMENT_CONVERSION,
            team=team(number),
            email="ada@example.com",
            metadata={"experiment": name},
            created_at=datetime.now(UTC),
        )
        land(self.settings, "audit.events", [(None, orjson.dumps(event), (), PARTITION)])
        return str(event["id"])

    @asynccontextmanager
    async def forward(self, *, path: str = "", **changes: object) -> AsyncIterator[Run]:
        """Run the stage, with Loops' address and ``path`` behind it."""
        settings = self.settings.model_copy(update={"loops_base_url": self.sink.url + path, **changes})
        async with running(settings, stage_factory(settings, "forward", retry_seconds=RETRY_SECONDS)) as run:
            yield run

    async def ledger(self) -> dict[str, str]:
        assert self.settings.postgres_dsn is not None
        rows = await query(self.settings.postgres_dsn.get_secret_value(), "select audit_id, classification from forwarder_sent")
        return {str(row["audit_id"]): row["classification"] for row in rows}

    async def until_ledger(self, expected: dict[str, str], run: Run | None = None, seconds: float = 60.0) -> None:
        """Return once the ledger says that; fail at once when ``run``, a stage in this process, ends."""
        loop = asyncio.get_running_loop()

        def says() -> bool:
            return asyncio.run_coroutine_threadsafe(self.ledger(), loop).result() == expected

        await (run.until if run else until)(says, f"the ledger says {expected}", seconds)

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


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_mail_that_a_firewall_blocks_waits_while_other_teams_mails_go_and_its_own_teams_keep_their_order(
    world: World, status: int
) -> None:
    world.sink.break_it(block=BLOCKED, block_status=status)
    async with world.forward() as run:
        blocked = world.mail(0, BLOCKED)
        await world.until_ledger({blocked: "in_flight"}, run)
        behind = world.mail(0)
        others = [world.mail(number) for number in range(1, 5)]

        await world.until_ledger({blocked: "in_flight", behind: "in_flight", **dict.fromkeys(others, "sent")}, run)
        assert sorted(map(str, world.keys)) == sorted(others)
        await run.until(lambda: world.committed() == 6, "the offset: what waits stands on a retry topic")

        world.sink.break_it(block=None)
        await world.until_ledger(dict.fromkeys([blocked, behind, *others], "sent"), run)
        assert world.keys[len(others) :] == [blocked, behind], "in the order of the team, each once"
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


@pytest.mark.parametrize("status", [402, 404])
async def test_an_answer_to_every_event_with_a_good_key_makes_all_wait_and_costs_none(world: World, status: int) -> None:
    world.sink.break_it(block="ada@example.com", block_status=status)
    async with world.forward() as run:
        mails = [world.mail(number) for number in range(3)]
        await world.until_ledger(dict.fromkeys(mails, "in_flight"), run)

        world.sink.break_it(block=None)
        await world.until_ledger(dict.fromkeys(mails, "sent"), run, seconds=10.0)
    assert read_all(world.settings, "dead.letters") == []


async def test_a_worker_that_is_started_again_while_a_mail_waits_loses_and_doubles_nothing(world: World) -> None:
    world.sink.break_it(block=BLOCKED)
    blocked = world.mail(0, BLOCKED)
    others = [world.mail(number) for number in range(1, 5)]
    async with world.forward() as run:
        await world.until_ledger({blocked: "in_flight", **dict.fromkeys(others, "sent")}, run)
        await run.until(lambda: world.committed() == 5, "the offset")
    behind = world.mail(0)

    async with world.forward() as run:
        await world.until_ledger({blocked: "in_flight", behind: "in_flight", **dict.fromkeys(others, "sent")}, run)
        world.sink.break_it(block=None)
        await world.until_ledger(dict.fromkeys([blocked, behind, *others], "sent"), run)
    assert sorted(map(str, world.keys[:-2])) == sorted(others)
    assert world.keys[-2:] == [blocked, behind]


async def test_a_mail_that_waits_while_its_partition_changes_hands_is_sent_once_and_in_order(world: World) -> None:
    world.sink.break_it(block=BLOCKED)
    async with world.forward() as first:
        blocked, behind = world.mail(0, BLOCKED), world.mail(0)
        await world.until_ledger({blocked: "in_flight", behind: "in_flight"}, first)
        async with world.forward() as second:
            await second.until(lambda: len(first.partitions) == len(second.partitions) == 2, "a share for each")
            other = world.mail(1)
            await world.until_ledger({blocked: "in_flight", behind: "in_flight", other: "sent"}, second)
        await first.until(lambda: len(first.partitions) == 4, "all for the first again")

        world.sink.break_it(block=None)
        await world.until_ledger(dict.fromkeys([blocked, behind, other], "sent"), first)
        await first.until(lambda: world.committed() == 3, "the offset")
    assert world.keys == [other, blocked, behind]


async def test_a_key_that_is_revoked_pauses_the_stage_which_goes_on_by_itself_when_it_works_again(world: World) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    async with world.forward(admin_port=port) as run:
        before = world.mail(0)
        await world.until_ledger({before: "sent"}, run)
        world.sink.sink.valid_key = "another"
        during = world.mail(1)
        await world.until_ledger({before: "sent", during: "in_flight"}, run)

        assert "Loops rejects the API key (401), and no mail is sent" in await until_readyz(url, "rejects", ready=False)
        assert 'tierstream_forward_paused{reason="key_rejected"} 1.0' in await text_of(f"{url}/metrics")
        world.sink.sink.valid_key = "key"
        await world.until_ledger({before: "sent", during: "sent"}, run)
        assert await until_readyz(url, "partitions", without="rejects", ready=True) == "partitions 0,1,2,3"
        assert 'tierstream_forward_paused{reason="key_rejected"} 0.0' in await text_of(f"{url}/metrics")
    assert read_all(world.settings, "dead.letters") == []


async def test_readyz_metrics_and_log_say_what_waits_and_why_without_an_address(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    world.sink.break_it(block=BLOCKED)
    async with world.forward(admin_port=port) as run:
        blocked = world.mail(0, BLOCKED)
        await world.until_ledger({blocked: "in_flight"}, run)

        detail = await until_readyz(url, "mails that wait")
        assert detail == "partitions 0,1,2,3; mails that wait for a retry while others go on: 1 of experiment.conversion (answer 403)"
        assert orjson.loads(await text_of(f"{url}/readyz"))["ready"] is True
        await until_metric(url, 'tierstream_held{answer="answer 403",kind="experiment.conversion"} 1.0')

        world.sink.break_it(page=404)
        assert f"waits for loops: What answers at {world.sink.url} is not Loops (answer 404" in await until_readyz(url, "waits for loops")
        world.sink.break_it(page=None, block=None)
        await world.until_ledger({blocked: "sent"}, run)
        assert await until_readyz(url, "partitions", without="wait") == "partitions 0,1,2,3"
        assert 'tierstream_held{answer="answer 403",kind="experiment.conversion"} 0.0' in await text_of(f"{url}/metrics")
    logged = "".join(capsys.readouterr())
    assert "mail_held" in logged
    assert "ada@example.com" not in logged


async def text_of(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


async def until_metric(url: str, line: str) -> None:
    """Return once ``/metrics`` has a line: a mail is not held while it is on its way from one retry to the next."""

    async def said() -> bool | None:
        return line in await text_of(f"{url}/metrics") or None

    await answered(said, lambda: line)


async def until_readyz(url: str, words: str, without: str = "?", ready: bool | None = None) -> str:
    """Return what ``/readyz`` says of forward once it holds some words, and not others, and is ready or not if that is asked for."""
    detail = ""

    async def said() -> str | None:
        nonlocal detail
        found = orjson.loads(await text_of(f"{url}/readyz"))
        detail = found["parts"]["forward"]["detail"]
        return detail if words in detail and without not in detail and ready in (None, found["ready"]) else None

    return await answered(said, lambda: f"{words!r} in /readyz, which says {detail!r}")
