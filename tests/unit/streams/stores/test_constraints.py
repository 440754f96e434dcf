"""Who is told of the constraints that rows wait for."""

import structlog
from prometheus_client import REGISTRY

from streams.errors import ConstraintRefuses
from streams.runtime.waiting import describe_waits, services_away
from streams.stores.constraints import ConstraintAlarm

TEAM, PLAN = (ConstraintRefuses(f"{name} refuses.", f"constraint {name}") for name in ("team", "plan"))


def waits(constraint: str) -> bool:
    return REGISTRY.get_sample_value("tierstream_waiting", {"stage": "alarmed", "service": constraint}) == 1.0


def test_alarm_is_raised_once_for_a_constraint_and_ends_with_the_last_that_waits_for_it() -> None:
    alarm = ConstraintAlarm("alarmed")

    with structlog.testing.capture_logs() as logs:
        alarm.hold(1, TEAM)
        alarm.hold(2, TEAM)
        alarm.hold(3, PLAN)
        assert services_away("alarmed") == ["constraint plan", "constraint team"]
        assert [text.rpartition(": ")[2] for text in describe_waits("alarmed")] == ["plan refuses.", "team refuses."]
        alarm.release(1)
        assert waits("constraint team")
        alarm.release(2)
        alarm.release(2)
        assert not waits("constraint team")
        assert waits("constraint plan")
        alarm.release(3)

    assert services_away("alarmed") == []
    assert [(entry["event"], entry["service"]) for entry in logs] == [
        ("waiting", "constraint team"),
        ("waiting", "constraint plan"),
        ("available_again", "constraint team"),
        ("available_again", "constraint plan"),
    ]


def test_alarm_follows_what_waits_for_another_constraint_now() -> None:
    alarm = ConstraintAlarm("alarmed")

    alarm.hold(1, TEAM)
    alarm.hold(1, PLAN)

    assert services_away("alarmed") == ["constraint plan"]
    alarm.release(1)


def test_alarm_knows_what_waits_alone() -> None:
    alarm = ConstraintAlarm("alarmed")

    alarm.hold(1, TEAM)
    assert alarm.holds_alone(1)
    alarm.hold(2, TEAM)
    assert not alarm.holds_alone(1)
    assert not alarm.holds_alone(3)
    alarm.release(1)
    alarm.release(2)
