"""The audit stage: what row a record becomes, and what the writer does with a batch."""

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
from streams.stores.audit_log import AuditRow
from tests.stage_doubles import NOW, TEAM, MemoryAuditLog, Record, RecordingDeadLetters, audit_event, id_of, record

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
