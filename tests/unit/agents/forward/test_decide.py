"""What becomes of a mail, and whom an answer concerns that settles nothing: pure decisions."""

import uuid
from datetime import timedelta

import pytest

from agents.audit.record import AuditRecord, read_audit_record
from agents.forward.decide import (
    KEY_LIFETIME,
    KEY_MARGIN,
    CheckKey,
    Close,
    Decision,
    Hold,
    Policy,
    Send,
    Skip,
    WaitForLoops,
    decide,
    judge,
)
from schemas.kinds import Kind
from schemas.reasons import Reason
from streams.loops.client import Denied, Unavailable, Unrecognised
from streams.stores.ledger import Classification, LedgerRow
from tests.stage_doubles import NOW, Record, record

DAY = timedelta(hours=24)
POLICY = Policy(sending=True, max_age=DAY)
OFF = Policy(sending=False, max_age=DAY)


def read(consumed: Record) -> AuditRecord:
    found = read_audit_record(consumed.value)
    assert isinstance(found, AuditRecord)
    return found


def held(classification: str, age: timedelta = timedelta(0)) -> LedgerRow:
    return LedgerRow(uuid.UUID(int=1), classification, 1, NOW - age)


def test_decide_new_mail_is_sent() -> None:
    decision = decide(read(record(email="asha@example.com")), None, NOW, POLICY)

    assert isinstance(decision, Send)
    assert (decision.payload.email, decision.payload.event_name) == ("asha@example.com", "subscription.upgraded")


def test_decide_claim_is_greeted_by_name() -> None:
    decision = decide(read(record(Kind.CLAIMED, contact={"email": "asha@example.com", "name": "Asha"}, email=None)), None, NOW, POLICY)

    assert isinstance(decision, Send)
    assert decision.payload.event_properties["name"] == "Asha"


@pytest.mark.parametrize("row", [None, held("sent"), held("in_flight")])
@pytest.mark.parametrize("policy", [POLICY, OFF])
def test_decide_operators_kind_is_never_mailed(row: LedgerRow | None, policy: Policy) -> None:
    assert decide(read(record(Kind.CHARGE_UNDELIVERABLE, team=None)), row, NOW, policy) == Skip(Reason.NEVER_MAILED)


@pytest.mark.parametrize(
    ("email", "decision"),
    [
        (None, Close(Classification.NO_RECIPIENT)),
        ("", Close(Classification.NO_RECIPIENT)),
        ("  ", Close(Classification.NO_RECIPIENT)),
        ("void@razorpay.com", Close(Classification.PLACEHOLDER_RECIPIENT)),
        (" VOID@Razorpay.COM ", Close(Classification.PLACEHOLDER_RECIPIENT)),
    ],
)
def test_decide_without_a_real_recipient_no_call_is_made(email: str | None, decision: Decision) -> None:
    assert decide(read(record(email=email)), None, NOW, POLICY) == decision


@pytest.mark.parametrize(
    ("age", "sent"), [(timedelta(0), True), (DAY, True), (DAY + timedelta(seconds=1), False), (timedelta(days=15), False), (-DAY, True)]
)
def test_decide_fact_older_than_the_maximum_is_expired(age: timedelta, sent: bool) -> None:
    decision = decide(read(record(created_at=NOW - age)), None, NOW, POLICY)

    assert isinstance(decision, Send) if sent else decision == Close(Classification.EXPIRED)


def test_decide_old_fact_that_was_seen_in_time_is_tried_to_the_end() -> None:
    mail = read(record(created_at=NOW - DAY - timedelta(hours=1)))

    assert isinstance(decide(mail, held("in_flight", timedelta(hours=2)), NOW, POLICY), Send)


def test_decide_switched_off_new_mail_is_suppressed() -> None:
    assert decide(read(record()), None, NOW, OFF) == Close(Classification.SUPPRESSED)
    assert decide(read(record()), held("suppressed"), NOW, POLICY) == Skip(Reason.ALREADY_FINAL), "and stays so when it is switched on"
    assert decide(read(record()), held("in_flight"), NOW, OFF) == Close(Classification.IN_DOUBT)


@pytest.mark.parametrize(
    "final", ["sent", "already_sent", "refused", "no_recipient", "placeholder_recipient", "expired", "suppressed", "hard_bounced"]
)
def test_decide_final_row_makes_no_call(final: str) -> None:
    assert decide(read(record()), held(final), NOW, POLICY) == Skip(Reason.ALREADY_FINAL)


def test_decide_mail_that_an_operator_has_sent_again_does_not_expire_and_is_suppressed_where_nothing_is_sent() -> None:
    set_back = LedgerRow(uuid.UUID(int=1), "in_flight", 1, None, resends=1)
    old = read(record(email="asha@example.com", created_at=NOW - 30 * DAY))

    assert isinstance(decide(old, set_back, NOW, POLICY), Send)
    assert decide(old, set_back, NOW, OFF) == Close(Classification.SUPPRESSED)


def test_decide_row_in_doubt_stays_with_the_operator() -> None:
    assert decide(read(record()), held("in_doubt"), NOW, POLICY) == Skip(Reason.IN_DOUBT)


@pytest.mark.parametrize(
    ("age", "sent"), [(timedelta(0), True), (KEY_LIFETIME - KEY_MARGIN - timedelta(seconds=1), True), (KEY_LIFETIME - KEY_MARGIN, False)]
)
def test_decide_call_that_was_cut_off_is_repeated_while_loops_remembers_its_key(age: timedelta, sent: bool) -> None:
    decision = decide(read(record()), held("in_flight", age), NOW, POLICY)

    assert isinstance(decision, Send) if sent else decision == Close(Classification.IN_DOUBT)


# judge

BLOCKED, PAGE, DOWN = Denied(403), Unrecognised(404, "text/html, not of Loops"), Unavailable("answer 500")


@pytest.mark.parametrize(
    ("answer", "others_answered", "is_held", "key_accepted", "verdict"),
    [
        (BLOCKED, False, False, False, CheckKey()),
        (BLOCKED, True, True, False, CheckKey()),
        (BLOCKED, False, False, True, Hold("answer 403")),
        (PAGE, False, False, False, CheckKey()),
        (PAGE, False, False, True, WaitForLoops),
        (PAGE, True, False, False, Hold("answer 404")),
        (PAGE, False, True, False, CheckKey()),
        (PAGE, False, True, True, Hold("answer 404")),
        (DOWN, False, False, False, WaitForLoops),
        (DOWN, True, False, False, Hold("answer 500")),
        (DOWN, False, True, False, CheckKey()),
        (DOWN, False, True, True, Hold("answer 500")),
    ],
)
def test_judge_an_answer_that_settles_nothing_concerns_this_mail_or_all(
    answer: Denied | Unrecognised | Unavailable, others_answered: bool, is_held: bool, key_accepted: bool, verdict: object
) -> None:
    found = judge(answer, others_answered=others_answered, is_held=is_held, key_accepted=key_accepted)

    assert (isinstance(found, WaitForLoops) and verdict is WaitForLoops) or found == verdict
