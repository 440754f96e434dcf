"""What the metrics and the description say of mails that wait for a retry."""

from prometheus_client import REGISTRY

from agents.forward.held import HeldMails
from schemas.kinds import Kind


def gauge(kind: Kind, answer: str) -> float | None:
    return REGISTRY.get_sample_value("tierstream_held", {"kind": kind.value, "answer": answer})


def test_held_mails_are_counted_and_described_by_event_and_answer() -> None:
    held = HeldMails()
    assert held.describe() == ""

    held.hold(Kind.CLAIMED, "answer 403")
    held.hold(Kind.UPGRADED, "answer 500")
    held.hold(Kind.UPGRADED, "answer 500")
    assert (
        held.describe() == "mails that wait for a retry while others go on: 2 of subscription.upgraded (answer 500), "
        "1 of onboarding.claimed (answer 403)"
    )
    assert (gauge(Kind.CLAIMED, "answer 403"), gauge(Kind.UPGRADED, "answer 500")) == (1.0, 2.0)

    held.release(Kind.CLAIMED, "answer 403")
    for _ in range(2):
        held.release(Kind.UPGRADED, "answer 500")
    assert (gauge(Kind.CLAIMED, "answer 403"), gauge(Kind.UPGRADED, "answer 500")) == (0.0, 0.0)
    assert held.describe() == ""


def test_held_description_names_some_groups_and_says_that_there_are_others() -> None:
    held = HeldMails()
    for status in range(400, 410):
        held.hold(Kind.CLAIMED, f"answer {status}")

    assert held.describe().count("answer") == 5
    assert held.describe().endswith(", and others")
    for status in range(400, 410):
        held.release(Kind.CLAIMED, f"answer {status}")
