"""What the metrics and the description say of mails that wait for a retry."""

from contextlib import ExitStack
from uuid import uuid4

from prometheus_client import REGISTRY

from agents.forward.held import HeldMails
from schemas.kinds import Kind


def gauge(kind: Kind, answer: str) -> float | None:
    return REGISTRY.get_sample_value("tierstream_held", {"kind": kind.value, "answer": answer})


def test_held_mails_are_counted_and_described_by_event_and_answer() -> None:
    held = HeldMails()
    assert held.describe() == ""

    with ExitStack() as waiting:
        for kind, answer in ((Kind.CLAIMED, "answer 403"), (Kind.UPGRADED, "answer 500"), (Kind.UPGRADED, "answer 500")):
            waiting.enter_context(held.holding(uuid4(), kind, answer))
        assert (
            held.describe() == "mails that wait for a retry while others go on: 2 of subscription.upgraded (answer 500), "
            "1 of onboarding.claimed (answer 403)"
        )
        assert (gauge(Kind.CLAIMED, "answer 403"), gauge(Kind.UPGRADED, "answer 500")) == (1.0, 2.0)

    assert (gauge(Kind.CLAIMED, "answer 403"), gauge(Kind.UPGRADED, "answer 500")) == (0.0, 0.0)
    assert held.describe() == ""


def test_a_mail_that_is_read_from_its_next_retry_topic_before_the_former_lets_go_of_it_counts_once() -> None:
    held, audit_id = HeldMails(), uuid4()
    former, later = held.holding(audit_id, Kind.CLAIMED, "answer 403"), held.holding(audit_id, Kind.CLAIMED, "answer 500")

    former.__enter__()
    later.__enter__()
    assert (gauge(Kind.CLAIMED, "answer 403"), gauge(Kind.CLAIMED, "answer 500")) == (0.0, 1.0)
    former.__exit__(None, None, None)
    assert held.describe() == "mails that wait for a retry while others go on: 1 of onboarding.claimed (answer 500)"
    later.__exit__(None, None, None)

    assert held.describe() == ""
    assert (gauge(Kind.CLAIMED, "answer 403"), gauge(Kind.CLAIMED, "answer 500")) == (0.0, 0.0)


def test_held_description_names_some_groups_and_says_that_there_are_others() -> None:
    held = HeldMails()
    with ExitStack() as waiting:
        for status in range(400, 410):
            waiting.enter_context(held.holding(uuid4(), Kind.CLAIMED, f"answer {status}"))

        assert held.describe().count("answer") == 5
        assert held.describe().endswith(", and others")
