"""The two deciding stages on a real broker: poison, strays, failures, broken positions, restarts, workers that come and go."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import orjson
import pytest
from confluent_kafka import Message

from agents.classify.stage import ClassifyStage
from agents.normalise.decide import Rules
from agents.normalise.rows import unpack
from agents.normalise.stage import NormaliseStage
from schemas.tiers import Tier
from streams.engine.slices import MAX_FAILURES_IN_A_ROW
from streams.engine.table_stage import MAX_OUTPUT_BYTES, Effect, TableStage
from streams.errors import StageFailed
from streams.kafka.partitioner import partition_of
from streams.kafka.records import Record
from streams.settings import Settings
from tests.accounting import outcomes, positions
from tests.conftest import PARTITIONS, with_new_topics
from tests.topic_io import Json, as_json, read_all
from tests.webhooks import AT, body
from tests.workers import Landing, committed, land, running, table

RULES = Rules({"plan_pro": Tier.PRO, "plan_team": Tier.TEAM})
HEADERS = (("trace", b"abc"), ("blob", b"\x00\xff"))
DLQ = ("dlq-reason", "dlq-stage", "dlq-topic", "dlq-partition", "dlq-offset", "dlq-time", "dlq-error", "dlq-replays")


def team(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def event(kind: str, number: int, id: str, **data: object) -> bytes:
    head = {"specversion": "1.0", "id": id, "source": "test", "type": kind, "subject": team(number), "time": "2026-01-01T00:00:00Z"}
    return orjson.dumps(head | {"data": data})


def claim(number: int, id: str = "c1") -> bytes:
    return event("onboarding.claimed", number, id, email="owner@example.com")


def home(key: bytes) -> int:
    return partition_of(key, PARTITIONS)


def abroad(key: bytes) -> int:
    return (home(key) + 1) % PARTITIONS


class FailsOn(TableStage):
    """Classify, with a release in it that can not cope with some records."""

    name = "classify"
    by_key = True

    def __init__(self, settings: Settings, mark: bytes) -> None:
        self._classify = ClassifyStage(settings)
        self._mark = mark

    def effect(self, record: Record, row: Any) -> Effect:
        if self._mark in (record.value or b""):
            raise ZeroDivisionError("owner@example.com")
        return self._classify.effect(record, row)

    def pack(self, row: Any) -> bytes:
        return self._classify.pack(row)

    def unpack(self, key: bytes, packed: bytes) -> Any:
        return self._classify.unpack(key, packed)


# One load with everything that can go wrong with a record, worked in once; each test looks at another part of what it left

SUBSCRIPTIONS = {name: f"sub_{name}".encode() for name in ("plain", "stray", "miskeyed", "linked")}
WRONG_KEY = b"sub_somebody_else"
POISON_WEBHOOK = b'{"event": "subscription.charged", \xff'
POISON_EVENT = b'{"specversion": "1.0", "id": '
HUGE = b"\x00" * 6_000_000
LARGE = event("near_quota_wall", 6, "large", resource_type="disk", used=9, limit=10, note="x" * (MAX_OUTPUT_BYTES - 300))


def webhook(name: str, number: int) -> bytes:
    return orjson.dumps(body(notes={"team_id": team(number)}, subscription={"id": f"sub_{name}", "plan_id": "plan_team"}))


LINK = orjson.dumps(
    {"specversion": "1.0", "id": "l1", "source": "import", "type": "subscription.linked", "time": "2026-01-01T00:00:00Z"}
    | {"data": {"subscription_id": "sub_linked", "team_id": team(14)}}
)
WEBHOOKS: list[Landing] = [
    (SUBSCRIPTIONS["plain"], webhook("plain", 11), (), -1),
    (SUBSCRIPTIONS["stray"], webhook("stray", 12), HEADERS, abroad(SUBSCRIPTIONS["stray"])),
    (WRONG_KEY, webhook("miskeyed", 13), (), -1),
    (b"poison", POISON_WEBHOOK, HEADERS, -1),
]
EVENTS: list[Landing] = [
    (team(1).encode(), POISON_EVENT, HEADERS, -1),
    (None, b"", (), 2),
    (team(1).encode(), claim(1), (), -1),
    (team(2).encode(), event("near_quota_wall", 2, "explode", resource_type="disk", used=9, limit=10), HEADERS, -1),
    (team(2).encode(), claim(2), (), -1),
    (team(3).encode(), claim(3), HEADERS, abroad(team(3).encode())),
    (team(4).encode(), HUGE, HEADERS, -1),
    (team(5).encode(), HUGE, (), abroad(team(5).encode())),
    (team(6).encode(), LARGE, (), -1),
    (team(6).encode(), claim(6), (), -1),
]
ABORTED: list[Landing] = [(team(7).encode(), claim(7), (), -1)]
NORMALISED, REROUTED_EVENTS = 3, 1


@dataclass(frozen=True)
class Aftermath:
    """What the broker holds after the load."""

    settings: Settings
    webhooks: list[Message]
    events: list[Message]
    audits: list[Json]
    dead_letters: list[Message]
    outcomes: dict[str, Counter[str]]
    committed: dict[str, dict[int, int]]

    def dead_letter(self, reason: str, key: bytes | None = None) -> Message:
        """The one dead letter for this reason (and key)."""
        (found,) = [
            dead_letter
            for dead_letter in self.dead_letters
            if header(dead_letter, "dlq-reason") == reason and (key is None or dead_letter.key() == key)
        ]
        return found


def headers(message: Message) -> list[tuple[str, bytes]]:
    return cast(list[tuple[str, bytes]], message.headers() or [])


def header(message: Message, name: str) -> str:
    return dict(headers(message))[name].decode()


@pytest.fixture(scope="module")
async def aftermath(servers: tuple[str, str]) -> Aftermath:
    settings = with_new_topics(servers[0])
    land(settings, "razorpay.webhooks", WEBHOOKS)
    land(settings, "subscription.links", [(b"sub_of_nobody", LINK, (), -1)])
    land(settings, "team.events", ABORTED, transactional_id=f"{settings.topic_prefix}aborted", commit=False)
    land(settings, "team.events", EVENTS)
    normalise, classify = NormaliseStage(settings, RULES), FailsOn(settings, b'"explode"')
    async with running(settings, table(settings, normalise), table(settings, classify)) as run:
        await run.decided(settings, "normalise", len(WEBHOOKS) + 2 + 2)
        await run.decided(settings, "classify", len(EVENTS) + NORMALISED + REROUTED_EVENTS)
        await run.until(lambda: committed(settings, "classify", "team.events") == ends(read_all(settings, "team.events")), "the offsets")

    return Aftermath(
        settings,
        read_all(settings, "razorpay.webhooks"),
        read_all(settings, "team.events"),
        [json for message in read_all(settings, "audit.events") if (json := as_json(message))],
        read_all(settings, "dead.letters"),
        {"normalise": outcomes(settings, "normalise"), "classify": outcomes(settings, "classify")},
        {topic: committed(settings, stage, topic) for stage, topic in (("normalise", "razorpay.webhooks"), ("classify", "team.events"))},
    )


def ends(messages: list[Message]) -> dict[int, int]:
    """Where each partition's next record would stand."""
    ends = dict.fromkeys(range(PARTITIONS), 0)
    for message in messages:
        ends[message.partition() or 0] = (message.offset() or 0) + 1
    return ends


@pytest.mark.parametrize(
    ("reason", "key", "value", "stage", "topic"),
    [
        pytest.param("malformed", b"poison", POISON_WEBHOOK, "normalise", "razorpay.webhooks", id="webhook"),
        pytest.param("malformed", team(1).encode(), POISON_EVENT, "classify", "team.events", id="event"),
    ],
)
async def test_poison_becomes_a_dead_letter_that_keeps_all_it_had(
    aftermath: Aftermath, reason: str, key: bytes, value: bytes, stage: str, topic: str
) -> None:
    dead_letter = aftermath.dead_letter(reason, key)
    name = aftermath.settings.topic_prefix + topic
    source = next(message for message in read_all(aftermath.settings, topic) if message.value() == value)

    assert (dead_letter.key(), dead_letter.value()) == (key, value)
    assert headers(dead_letter)[: len(HEADERS)] == list(HEADERS)
    assert {field for field, _ in headers(dead_letter)} == {*DLQ, "trace", "blob"}
    assert header(dead_letter, "dlq-stage") == stage
    assert header(dead_letter, "dlq-topic") == name
    assert (header(dead_letter, "dlq-partition"), header(dead_letter, "dlq-offset")) == (str(source.partition()), str(source.offset()))
    assert header(dead_letter, "dlq-replays") == "0"
    assert header(dead_letter, "dlq-error").endswith(".")
    assert int(header(dead_letter, "dlq-time")) > AT * 1000


async def test_poison_without_key_and_value_becomes_a_dead_letter_without(aftermath: Aftermath) -> None:
    (dead_letter,) = [dead_letter for dead_letter in aftermath.dead_letters if dead_letter.key() is None]
    assert dead_letter.value() == b""
    assert header(dead_letter, "dlq-reason") == "malformed"


async def test_what_stands_behind_poison_is_worked_in(aftermath: Aftermath) -> None:
    claimed = Counter(audit["subject"] for audit in aftermath.audits if audit["type"] == "onboarding.claimed")
    assert claimed == {team(number): 1 for number in (1, 2, 3, 6)}


async def test_webhooks_on_any_partition_and_key_upgrade_their_team_once(aftermath: Aftermath) -> None:
    upgraded = Counter(audit["subject"] for audit in aftermath.audits if audit["type"] == "subscription.upgraded")
    assert upgraded == {team(number): 1 for number in (11, 12, 13)}


async def test_a_record_on_a_wrong_partition_is_produced_again_to_its_own_and_counted(aftermath: Aftermath) -> None:
    strays = [message for message in aftermath.events if message.value() == claim(3)]
    assert {message.partition() for message in strays} == {abroad(team(3).encode()), home(team(3).encode())}
    assert len(strays) == 2
    assert all(headers(message) == list(HEADERS) for message in strays)
    assert aftermath.outcomes["classify"]["rerouted"] == REROUTED_EVENTS
    assert aftermath.outcomes["normalise"]["rerouted"] == 3, "the stray, the one with a wrong key, the link with a wrong key"


async def test_a_link_with_another_key_is_learned_where_its_webhooks_are(aftermath: Aftermath) -> None:
    rows = [message for message in read_all(aftermath.settings, "tierstream.normalise-links-changelog") if message.key() == b"sub_linked"]
    assert [row.partition() for row in rows] == [home(b"sub_linked")]
    assert unpack(rows[0].value() or b"").ownership.team_at((AT, 0, 0, "")) == team(14)


async def test_a_record_on_which_the_stage_raises_becomes_a_dead_letter_and_the_next_is_worked_in(aftermath: Aftermath) -> None:
    dead_letter = aftermath.dead_letter("handler_failed")
    assert (dead_letter.key(), headers(dead_letter)[:2]) == (team(2).encode(), list(HEADERS))
    assert header(dead_letter, "dlq-error") == "ZeroDivisionError in classify", "the exception's own words may hold an address"
    assert aftermath.outcomes["classify"]["handler_failed"] == 1


async def test_an_output_larger_than_kafka_takes_becomes_a_dead_letter(aftermath: Aftermath) -> None:
    dead_letter = aftermath.dead_letter("too_large", team(6).encode())
    assert dead_letter.value() == LARGE
    assert not [audit for audit in aftermath.audits if audit["type"] == "near_quota_wall" and audit["subject"] == team(6)]


async def test_a_record_larger_than_a_dead_letter_can_be_leaves_its_value_behind(aftermath: Aftermath) -> None:
    dead_letter = aftermath.dead_letter("malformed", team(4).encode())
    assert dead_letter.value() == b""
    assert "Its value of 6000000 bytes and its headers are left out here" in header(dead_letter, "dlq-error")
    assert {field for field, _ in headers(dead_letter)} == {*DLQ, "dlq-left-out"}


async def test_a_stray_too_large_to_be_produced_again_becomes_a_dead_letter(aftermath: Aftermath) -> None:
    dead_letter = aftermath.dead_letter("too_large", team(5).encode())
    assert (dead_letter.value(), header(dead_letter, "dlq-partition")) == (b"", str(abroad(team(5).encode())))


async def test_records_of_an_aborted_transaction_are_never_decided_on(aftermath: Aftermath) -> None:
    assert not [audit for audit in aftermath.audits if audit.get("subject") == team(7)]
    assert not [dead_letter for dead_letter in aftermath.dead_letters if dead_letter.key() == team(7).encode()]


async def test_every_received_record_has_one_outcome(aftermath: Aftermath) -> None:
    links = read_all(aftermath.settings, "subscription.links")
    assert sum(aftermath.outcomes["normalise"].values()) == len(aftermath.webhooks) + len(links)
    assert sum(aftermath.outcomes["classify"].values()) == len(aftermath.events)
    assert {where: position.next_offset for where, position in positions(aftermath.settings, "classify").items()} == {
        (f"{aftermath.settings.topic_prefix}team.events", number): end for number, end in ends(aftermath.events).items() if end
    }


async def test_the_groups_offsets_stand_behind_the_last_record_of_each_partition(aftermath: Aftermath) -> None:
    assert aftermath.committed["razorpay.webhooks"] == ends(aftermath.webhooks)
    assert aftermath.committed["team.events"] == ends(aftermath.events)


# A release that can not decide at all


async def test_a_hundred_failures_in_a_row_stop_the_worker_with_one_sentence_and_decide_nothing(kafka_settings: Settings) -> None:
    at_home = [number for number in range(1_000) if partition_of(team(number).encode(), PARTITIONS) == 0][:MAX_FAILURES_IN_A_ROW]
    claims: list[Landing] = [
        (team(number).encode(), event("onboarding.claimed", number, "e", email="owner@example.com"), (), 0) for number in at_home
    ]
    land(kafka_settings, "team.events", claims)

    async with running(kafka_settings, table(kafka_settings, FailsOn(kafka_settings, b"specversion"))) as run:
        failure = await run.failure()

    assert isinstance(failure, StageFailed)
    assert str(failure) == "classify failed on 100 records in a row; the log above says where."
    assert read_all(kafka_settings, "dead.letters") == []
    assert outcomes(kafka_settings, "classify") == Counter()
