"""The audit events that say what an operator did."""

import pytest

from agents.audit.record import AuditRecord, read_audit_record
from schemas.kinds import OPERATOR_KINDS, Kind
from schemas.loops import LOOPS_MAP, NeverMailed
from streams.operate.actions import operator_event, operator_name
from streams.settings import Settings

TEAM = "0b0e6d2c-7a54-4f0e-9d0e-000000000001"


def event(settings: Settings, action_id: str = "dead.letters:3:17#1", team_id: str | None = TEAM) -> AuditRecord:
    record = operator_event(
        settings,
        Kind.OPERATOR_REPLAYED,
        action_id,
        team_id=team_id,
        summary="Dead letter replayed",
        because="plan added",
        by="kim",
        at=1_700_000_000,
        details={"at": "dead.letters:3:17"},
    )
    assert record.topic == settings.topic_prefix + "audit.events"
    assert record.key == (team_id or action_id).encode()
    found = read_audit_record(record.value)
    assert isinstance(found, AuditRecord)
    return found


@pytest.mark.parametrize("team_id", [TEAM, None])
def test_audit_reads_it_with_a_team_and_without(team_id: str | None) -> None:
    found = event(Settings(topic_prefix="eu."), team_id=team_id)
    assert (found.kind, str(found.team_id) if found.team_id else None) == (Kind.OPERATOR_REPLAYED, team_id)
    assert found.data.actor == "cli"
    assert found.data.metadata == {"because": "plan added", "by": "kim", "at": "dead.letters:3:17"}


def test_an_action_that_is_resumed_has_the_same_id_and_another_one_has_another() -> None:
    settings = Settings()
    assert event(settings).id == event(settings).id
    assert event(settings).id != event(settings, "dead.letters:3:17#2").id


def test_no_action_of_an_operator_is_mailed() -> None:
    assert all(isinstance(LOOPS_MAP[kind], NeverMailed) for kind in OPERATOR_KINDS)


def test_an_operator_without_a_login_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name() -> str:
        raise OSError("no such user")

    monkeypatch.setattr("getpass.getuser", no_name)
    assert operator_name() == "unknown"
