"""The audit stage: what row a record becomes, and what the writer does with a batch."""

import asyncio
import uuid
from collections import Counter
from typing import Any

import orjson
import pytest
import structlog

from agents.audit.decide import decide
from agents.audit.record import DeadLetter
from agents.audit.stage import AuditWriter
from schemas.kinds import Kind
from schemas.reasons import Reason
from streams.errors import ConstraintRefuses, DatabaseUnfit
from streams.runtime.waiting import Backoff, services_away
from streams.stores.audit_log import AuditRow
from tests.stage_doubles import NOW, TEAM, MemoryAuditLog, Record, RecordingDeadLetters, audit_event, id_of, record, team

ID = "11111111-2222-5333-8444-555555555555"
USER = "99999999-2222-4333-8444-555555555555"


def test_decide_audit_event_becomes_its_row() -> None:
    event = audit_event(id=ID, user_id=USER, resource_id=USER, metadata={"from": "free", "to": "pro"})

    assert decide(orjson.dumps(event)) == AuditRow(
        uuid.UUID(ID),
        uuid.UUID(TEAM),
        uuid.UUID(USER),
        "system",
        "subscription.upgraded",
        "subscription",
        uuid.UUID(USER),
        "Upgraded from free to pro",
        '{"from":"free","to":"pro"}',
        NOW,
    )


def test_decide_address_of_the_contact_is_no_part_of_the_row() -> None:
    assert "asha" not in repr(decide(record(email="asha@example.com").value))


def test_decide_team_may_be_missing_only_for_a_charge_without_one() -> None:
    charge = decide(record(Kind.CHARGE_UNDELIVERABLE, team=None).value)
    upgrade = decide(record(Kind.UPGRADED, team=None).value)

    assert isinstance(charge, AuditRow)
    assert charge.team_id is None
    assert upgrade == DeadLetter(Reason.UNKNOWN_TEAM, "The envelope's subject is no team id (a UUID).")


@pytest.mark.parametrize("kind", list(Kind))
def test_decide_every_kind_has_a_row(kind: Kind) -> None:
    assert isinstance(decide(record(kind).value), AuditRow)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "subscription.cancelled"}, Reason.UNKNOWN_KIND),  # Razorpay's spelling, none of ours
        ({"subject": "team-7"}, Reason.UNKNOWN_TEAM),
        ({"id": "evt_1"}, Reason.MALFORMED),
        ({"id": ""}, Reason.MALFORMED),
        ({"specversion": "0.3"}, Reason.MALFORMED),
        ({"source": ""}, Reason.MALFORMED),
        ({"time": "2026-03-01T12:00:00"}, Reason.MALFORMED),
        ({"data": None}, Reason.MALFORMED),
        ({"data": {"summary": "x", "metadata": {}}}, Reason.MALFORMED),
        ({"data": {"summary": "x", "metadata": [], "created_at": "2026-03-01T12:00:00Z"}}, Reason.MALFORMED),
        ({"data": {"summary": "x", "metadata": {}, "created_at": "2026-03-01T12:00:00"}}, Reason.MALFORMED),
        ({"data": {"summary": "x", "metadata": {}, "created_at": "2026-03-01T12:00:00Z", "user_id": "asha@example.com"}}, Reason.MALFORMED),
    ],
)
def test_decide_record_that_breaks_the_contract_is_a_dead_letter(change: dict[str, Any], reason: Reason) -> None:
    dead_letter = decide(orjson.dumps({**audit_event(id=ID), **change}))

    assert isinstance(dead_letter, DeadLetter)
    assert dead_letter.reason is reason
    assert "asha" not in dead_letter.error


@pytest.mark.parametrize("value", [None, b"", b"{", b"[1,2,3]", b"42", b"\xff\xfe", b"[" * 100_000])
def test_decide_value_that_is_no_envelope_is_malformed(value: bytes | None) -> None:
    dead_letter = decide(value)

    assert isinstance(dead_letter, DeadLetter)
    assert dead_letter.reason is Reason.MALFORMED


def test_decide_metadata_keeps_numbers_of_any_size() -> None:
    # Unix seconds as the row's time are for the contract's own model only, and so take the slower way.
    for created_at in (b'"2026-03-01T12:00:00Z"', b"1772366400"):
        value = orjson.dumps(audit_event(id=ID, metadata={"n": 0})).replace(b'{"n":0}', b'{"n":123456789012345678901234567890}')
        decision = decide(value.replace(f'"created_at":"{NOW.isoformat()}"'.encode(), b'"created_at":' + created_at))

        assert isinstance(decision, AuditRow)
        assert decision.created_at == NOW
        assert decision.metadata.replace(" ", "") == '{"n":123456789012345678901234567890}'


async def test_writer_every_record_has_exactly_one_outcome() -> None:
    twice = record()
    log, dead_letters = MemoryAuditLog(), RecordingDeadLetters()

    outcomes = await AuditWriter(log, dead_letters).handle(
        [twice, record(), twice, record("unknown"), record(metadata={"a": "\0"}), Record(b"{")]
    )

    assert outcomes == Counter(
        {Reason.WRITTEN: 2, Reason.ALREADY_WRITTEN: 1, Reason.UNKNOWN_KIND: 1, Reason.REJECTED: 1, Reason.MALFORMED: 1}
    )
    assert len(log.rows) == 2
    assert sorted(dead_letters.reasons) == sorted([Reason.UNKNOWN_KIND, Reason.REJECTED, Reason.MALFORMED])


async def test_writer_batch_read_again_changes_nothing() -> None:
    batch = [record() for _ in range(5)]
    log = MemoryAuditLog()
    writer = AuditWriter(log, RecordingDeadLetters())

    assert await writer.handle(batch) == Counter({Reason.WRITTEN: 5})
    before = dict(log.rows)
    assert await writer.handle(batch) == Counter({Reason.ALREADY_WRITTEN: 5})
    assert log.rows == before


async def test_writer_same_id_with_other_content_is_a_dead_letter_and_an_alarm() -> None:
    first, second = record(id=ID, summary="one"), record(id=ID, summary="another", offset=7)
    log, dead_letters = MemoryAuditLog(), RecordingDeadLetters()

    with structlog.testing.capture_logs() as logs:
        outcomes = await AuditWriter(log, dead_letters).handle([first, second])

    assert outcomes == Counter({Reason.WRITTEN: 1, Reason.ID_CONFLICT: 1})
    assert log.rows[id_of(first)].summary == "one"
    assert dead_letters.written[0][0] is second
    assert [(entry["log_level"], entry["event"], entry["offset"]) for entry in logs] == [("critical", "audit_id_conflict", 7)]


async def test_writer_empty_batch_has_no_outcome() -> None:
    assert await AuditWriter(MemoryAuditLog(), RecordingDeadLetters()).handle([]) == Counter()


REFUSAL = ConstraintRefuses("The store refuses the row.", "constraint team_exists", is_missing_reference=True)
HELD, FREE = team(1), team(2)


def impatient_writer(log: MemoryAuditLog, dead_letters: RecordingDeadLetters, wait_seconds: float = 60.0) -> AuditWriter:
    return AuditWriter(log, dead_letters, constraint_wait_seconds=wait_seconds, backoff=Backoff(0.001, 0.01))


def written(log: MemoryAuditLog) -> list[uuid.UUID]:
    return list(log.rows)


async def test_writer_rows_of_a_held_team_keep_their_order_over_batches_and_others_pass_them() -> None:
    log = MemoryAuditLog()
    log.held[HELD] = REFUSAL
    writer = impatient_writer(log, RecordingDeadLetters())
    batches = [[record(team=HELD), record(team=FREE)] for _ in range(3)]
    handling = []
    for batch in batches:
        goes_on = asyncio.Event()
        handling.append(asyncio.create_task(writer.handle(batch, goes_on.set)))
        await asyncio.wait_for(goes_on.wait(), 5)
    assert written(log) == [id_of(batch[1]) for batch in batches]

    del log.held[HELD]
    outcomes = await asyncio.wait_for(asyncio.gather(*handling), 5)

    assert outcomes == [Counter({Reason.WRITTEN: 2})] * 3
    assert written(log)[3:] == [id_of(batch[0]) for batch in batches]
    assert services_away("audit") == []


async def test_writer_that_is_cancelled_while_a_team_is_held_leaves_nothing_behind() -> None:
    log = MemoryAuditLog()
    log.held[HELD] = REFUSAL
    writer = impatient_writer(log, RecordingDeadLetters())
    batches = [[record(team=HELD)] for _ in range(2)]
    handling = []
    for batch in batches:
        goes_on = asyncio.Event()
        handling.append(asyncio.create_task(writer.handle(batch, goes_on.set)))
        await asyncio.wait_for(goes_on.wait(), 5)
    assert services_away("audit") == ["constraint team_exists"]

    for task in handling:
        task.cancel()
    assert [isinstance(ended, asyncio.CancelledError) for ended in await asyncio.gather(*handling, return_exceptions=True)] == [True, True]

    assert services_away("audit") == []
    del log.held[HELD]
    assert await asyncio.wait_for(writer.handle([*batches[0], *batches[1]]), 5) == Counter({Reason.WRITTEN: 2})
    assert written(log) == [id_of(batch[0]) for batch in batches]


async def test_writer_error_of_the_store_while_a_team_is_held_is_raised_as_it_is() -> None:
    log = MemoryAuditLog()
    log.held[HELD], log.failure = REFUSAL, DatabaseUnfit("It has no table.")

    with pytest.raises(DatabaseUnfit, match="It has no table"):
        await impatient_writer(log, RecordingDeadLetters()).handle([record(team=HELD), record(team=FREE)])


@pytest.mark.parametrize(
    ("others_are_written", "teams", "outcome"), [(True, 2, Reason.REJECTED), (False, 1, Reason.REJECTED), (False, 2, None)]
)
async def test_writer_gives_up_a_missing_reference_unless_it_is_missing_for_all(
    others_are_written: bool, teams: int, outcome: Reason | None
) -> None:
    log, dead_letters = MemoryAuditLog(), RecordingDeadLetters()
    log.held.update({team(number): REFUSAL for number in range(teams)})
    batch = [*(record(team=team(number)) for number in range(teams)), *([record(team=team(9))] if others_are_written else [])]

    handling = asyncio.create_task(impatient_writer(log, dead_letters, wait_seconds=0.0).handle(batch))
    if outcome is None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handling, 0.2)
        assert dead_letters.written == []
    else:
        assert (await asyncio.wait_for(handling, 5))[outcome] == teams
        assert dead_letters.reasons == [outcome] * teams
