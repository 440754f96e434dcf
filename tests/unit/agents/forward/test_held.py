"""What the log, the metrics and the description say of mails that wait by themselves."""

import uuid

from prometheus_client import REGISTRY

from agents.forward.held import HeldMails
from schemas.kinds import Kind

ONE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)


def gauge(kind: Kind, answer: str) -> float | None:
    return REGISTRY.get_sample_value("tierstream_held", {"kind": kind.value, "answer": answer})


def test_held_mails_are_counted_and_described_by_event_and_answer() -> None:
    held = HeldMails()
    assert held.describe() == ""

    held.hold(ONE, Kind.CLAIMED, "answer 403")
    held.hold(ONE, Kind.CLAIMED, "answer 403")
    held.hold(OTHER, Kind.UPGRADED, "answer 500")
    assert (
        held.describe() == "mails that wait by themselves while others go on: 1 of onboarding.claimed (answer 403), "
        "1 of subscription.upgraded (answer 500)"
    )
    assert (gauge(Kind.CLAIMED, "answer 403"), gauge(Kind.UPGRADED, "answer 500")) == (1.0, 1.0)

    held.hold(OTHER, Kind.UPGRADED, "answer 403")
    assert (gauge(Kind.UPGRADED, "answer 403"), gauge(Kind.UPGRADED, "answer 500")) == (1.0, 0.0)
    held.release(ONE, "sent")
    held.release(OTHER, None)
    held.release(OTHER, None)
    assert held.describe() == ""
    assert gauge(Kind.CLAIMED, "answer 403") == gauge(Kind.UPGRADED, "answer 403") == 0.0


def test_held_mails_of_many_groups_are_not_all_named() -> None:
    held = HeldMails()
    for number in range(7):
        held.hold(uuid.UUID(int=number), Kind.CLAIMED, f"answer {500 + number}")

    assert held.describe().count("onboarding.claimed") == 5
    assert held.describe().endswith(", and others")
    for number in range(7):
        held.release(uuid.UUID(int=number), None)
