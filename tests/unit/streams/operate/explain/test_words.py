"""Every outcome and every classification has its words."""

import pytest

from schemas.reasons import DEAD_LETTER_REASONS, Reason
from streams.operate.explain.entries import Entry
from streams.operate.explain.words import mail_words, reasoning
from streams.stores.explanations import Mail
from streams.stores.ledger import Classification

BESIDE = {
    # outcomes of audit, forward and feedback are told with the row and the mail; the last two are no event of anybody
    *("written", "already_written", "rejected", "sent", "already_sent", "already_final", "refused", "no_recipient"),
    *(
        "placeholder_recipient",
        "never_mailed",
        "expired",
        "suppressed",
        "in_doubt",
        "matched",
        "waits",
        "unmatched",
        "ambiguous",
        "address_noted",
        "rerouted",
        "linked",
    ),
}


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.value not in BESIDE])
def test_every_outcome_of_a_deciding_stage_has_words(reason: Reason) -> None:
    entry = Entry("2026-01-01T00:00:00Z", "subscription.charged", "classify", reason.value)

    assert not reasoning(entry).startswith("The outcome is")


@pytest.mark.parametrize("reason", sorted(DEAD_LETTER_REASONS))
def test_reason_of_a_dead_letter_ends_with_its_own_sentence(reason: Reason) -> None:
    entry = Entry("2026-01-01T00:00:00Z", "subscription.charged", "normalise", reason.value, error="Add the plan.")

    if reason.value not in BESIDE:
        assert reasoning(entry).endswith(" Add the plan.")


@pytest.mark.parametrize("classification", list(Classification))
def test_every_classification_has_words(classification: Classification) -> None:
    import uuid

    id = uuid.uuid4()
    entry = Entry(
        "2026-01-01T00:00:00Z",
        "subscription.charged",
        "classify",
        "upgraded",
        audit_id=str(id),
        kind="subscription.upgraded",
        mail=Mail(id, None, "a***@example.com", classification.value, 1, None, None, None, None),
    )

    words = mail_words(entry)

    assert words is not None
    assert not words.startswith(f"{classification.value},")
    assert words.endswith("to a***@example.com, 1 attempt")


def test_operators_entry_is_two_sentences() -> None:
    summary = "Dead letter (unknown_plan, normalise) replayed from razorpay.webhooks:5:1"
    entry = Entry("2026-01-01T00:00:00Z", "operator.replayed", "operate", "replayed", summary=summary, error="plan added")

    assert reasoning(entry) == f"{summary}. Because: plan added."
