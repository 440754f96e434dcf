"""What a webhook of Loops says, and which mail it can be about."""

import uuid
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest

from agents.audit.record import DeadLetter
from agents.feedback.decide import DELIVERING, KEY_LIFETIME, SENDING, match, read_report
from schemas.kinds import Kind
from schemas.reasons import Reason
from schemas.recipients import address_hash
from streams.stores.feedback import AddressFact, Candidate, MailFact, MailFacts, Matched, Report, Unmatched
from tests.feedback_factories import EMAIL, NOW, after, body

ONE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)


def read(name: str, **others: Any) -> Report | Reason | DeadLetter:
    return read_report(orjson.dumps(body(name, **others)), "msg_1")


@pytest.mark.parametrize(
    ("name", "mail", "address"),
    [
        ("loop.email.sent", MailFact.SENT, None),
        ("email.delivered", MailFact.DELIVERED, None),
        ("email.softBounced", MailFact.BOUNCED_SOFT, None),
        ("email.hardBounced", MailFact.BOUNCED_HARD, AddressFact.BOUNCED_HARD),
        ("email.spamReported", MailFact.COMPLAINT, AddressFact.COMPLAINT),
        ("email.unsubscribed", MailFact.UNSUBSCRIBED, AddressFact.UNSUBSCRIBED),
        ("email.resubscribed", None, AddressFact.RESUBSCRIBED),
        ("contact.unsubscribed", None, AddressFact.UNSUBSCRIBED),
    ],
)
def test_read_event_says_this_of_its_mail_and_its_address(name: str, mail: MailFact | None, address: AddressFact | None) -> None:
    report = read(name)

    assert isinstance(report, Report)
    assert (report.mail, report.address, report.at, report.address_hash) == (mail, address, NOW, address_hash(" Asha@Example.com "))


@pytest.mark.parametrize(
    "name",
    [
        "contact.deleted",
        "contact.mailingList.subscribed",
        "contact.mailingList.unsubscribed",
        "transactional.email.sent",
        "campaign.email.sent",
        "email.clicked",
        "email.opened",
        "testing.testEvent",
        "contact.created",
        "something.new",
    ],
)
def test_read_event_that_says_nothing_of_either_is_ignored(name: str) -> None:
    assert read(name) is Reason.IGNORED


def test_read_contact_that_is_made_as_a_subscribed_one_gets_mail_again() -> None:
    report = read("contact.created", contact={"email": EMAIL, "subscribed": True})

    assert isinstance(report, Report)
    assert report.address is AddressFact.RESUBSCRIBED


@pytest.mark.parametrize("source", ["campaign", "transactional"])
def test_read_mail_that_no_workflow_sent_concerns_its_address_alone(source: str) -> None:
    assert read("email.delivered", sourceType=source) is Reason.IGNORED
    report = read("email.hardBounced", sourceType=source)

    assert isinstance(report, Report)
    assert (report.mail, report.address) == (None, AddressFact.BOUNCED_HARD)


def test_read_contact_without_an_address_is_unmatched() -> None:
    assert read("email.delivered", email=None) is Reason.UNMATCHED


def test_read_mail_without_an_id_is_one_of_its_own() -> None:
    report = read("email.delivered", mail_id=None)

    assert isinstance(report, Report)
    assert report.mail_id == "webhook:msg_1"


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"[" * 5_000,
        b"\xff",
        b'"text"',
        b"{}",
        orjson.dumps({**body("email.delivered"), "eventName": 7}),
        orjson.dumps({**body("email.delivered"), "eventTime": "now"}),
        orjson.dumps({**body("email.delivered"), "eventTime": True}),
        orjson.dumps({**body("email.delivered"), "eventTime": -1}),
        orjson.dumps({**body("email.delivered"), "eventTime": 10**15}),
        orjson.dumps(body("email.delivered", mail_id="x" * 201)),
    ],
)
def test_read_what_loops_does_not_send_is_a_dead_letter_without_its_text(value: bytes | None) -> None:
    found = read_report(value, "msg_1")

    assert isinstance(found, DeadLetter)
    assert found.reason is Reason.MALFORMED
    assert EMAIL not in found.error


@pytest.mark.parametrize(
    ("workflow", "kind"),
    [
        ("subscription.upgraded", Kind.UPGRADED),
        ("Welcome (onboarding.claimed) v2", Kind.CLAIMED),
        ("Welcome", None),
        ("subscription.upgraded and subscription.downgraded", None),
        ("", None),
    ],
)
def test_read_kind_is_the_one_that_the_workflows_name_holds(workflow: str, kind: Kind | None) -> None:
    report = read("loop.email.sent", loopName=workflow)

    assert isinstance(report, Report)
    assert report.kind is kind


def candidate(audit_id: uuid.UUID = ONE, *, kind: str = Kind.UPGRADED, attempt: datetime = NOW, sent: datetime | None = NOW) -> Candidate:
    return Candidate(audit_id, kind, attempt, sent)


def facts(since: datetime = NOW, *, kind: str | None = None, sent: bool = True) -> MailFacts:
    return MailFacts(kind, since, sent)


def test_match_one_mail_to_the_address_is_it() -> None:
    assert match(facts(), [candidate()]) == Matched(ONE)


def test_match_none_is_unmatched_and_two_are_ambiguous() -> None:
    assert match(facts(), []) == Unmatched(Reason.UNMATCHED)
    assert match(facts(), [candidate(), candidate(OTHER)]) == Unmatched(Reason.AMBIGUOUS)


def test_match_kind_decides_between_two_and_against_one() -> None:
    two = [candidate(), candidate(OTHER, kind=Kind.CLAIMED)]

    assert match(facts(kind=Kind.CLAIMED), two) == Matched(OTHER)
    assert match(facts(kind=Kind.GRACE_STARTED), two) == Unmatched(Reason.UNMATCHED)


@pytest.mark.parametrize(
    ("since", "sent", "is_it"),
    [
        (after(-31), True, False),  # before our call, by more than clocks differ
        (after(-29), True, True),
        (NOW + SENDING, True, True),
        (NOW + SENDING + timedelta(seconds=31), True, False),
        (NOW + SENDING + timedelta(seconds=31), False, True),  # a delivery may be late
        (NOW + DELIVERING + timedelta(seconds=31), False, False),
    ],
)
def test_match_time_must_fit(since: datetime, sent: bool, is_it: bool) -> None:
    assert (match(facts(since, sent=sent), [candidate()]) == Matched(ONE)) is is_it


def test_match_mail_of_unknown_acceptance_may_have_been_accepted_while_its_key_lived() -> None:
    in_doubt = candidate(sent=None)

    assert match(facts(NOW + KEY_LIFETIME), [in_doubt]) == Matched(ONE)
    assert match(facts(NOW + KEY_LIFETIME + SENDING + timedelta(minutes=1)), [in_doubt]) == Unmatched(Reason.UNMATCHED)
