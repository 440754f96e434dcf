"""Grace periods: how one begins, reminds, and ends by a payment or without one. Every line of the table, and every order of arrival."""

from itertools import pairwise, permutations
from typing import NamedTuple

import pytest

from agents.classify.billing import grace_reason
from agents.classify.decide import Decision
from schemas.kinds import GRACE_KINDS, Kind
from schemas.reasons import Reason
from tests.factories import T0, Event, Team, billing, override
from tests.unit.agents.classify.decision_table import B, cancelled, charged, completed, halted, updated
from tests.unit.agents.classify.return_table import due, moved, paused, pending, resumed

STARTED, REMINDER, RECOVERED, TERMINATED = Kind.GRACE_STARTED, Kind.GRACE_REMINDER, Kind.GRACE_RECOVERED, Kind.GRACE_TERMINATED


class Case(NamedTuple):
    title: str
    given: list[Event]
    event: Event
    grace: Kind | None
    reason: Reason
    tiers: str
    transition: Kind | None = None


CASES = [
    Case("a payment fails", [charged(0)], pending(5), STARTED, Reason.GRACE_STARTED, "pro > pro"),
    Case("a payment fails, by its own event", [charged(0)], pending(5, event="payment.failed"), STARTED, Reason.GRACE_STARTED, "pro > pro"),
    Case("it fails again", [charged(0), pending(5)], pending(6), None, Reason.PAYMENT_TROUBLE, "pro > pro"),
    Case("the same failure again", [charged(0), pending(5)], pending(5), None, Reason.DUPLICATE, "pro > pro"),
    Case("an earlier failure comes late", [charged(0), pending(5)], pending(4), None, Reason.PAYMENT_TROUBLE, "pro > pro"),
    Case("it fails before its charge, late", [charged(9)], pending(5), None, Reason.PAYMENT_TROUBLE, "pro > pro"),
    Case("it fails, never seen", [], pending(5), None, Reason.PAYMENT_TROUBLE, "free > free"),
    Case("it fails while halted", [charged(0), halted(5)], pending(9), None, Reason.PAYMENT_TROUBLE, "hobby > hobby"),
    Case("it fails after its end", [charged(0), cancelled(5)], pending(9), None, Reason.PAYMENT_TROUBLE, "hobby > hobby"),
    Case("first reminder", [charged(0), pending(5)], due(8), REMINDER, Reason.GRACE_REMINDER, "pro > pro"),
    Case("second reminder", [charged(0), pending(5), due(8)], due(11), REMINDER, Reason.GRACE_REMINDER, "pro > pro"),
    Case("the first reminder again", [charged(0), pending(5), due(8)], due(8), None, Reason.DUPLICATE, "pro > pro"),
    Case("both reminders have passed at once", [charged(0), pending(5)], due(11), REMINDER, Reason.GRACE_REMINDER, "pro > pro"),
    Case("a reminder of what was made good", [charged(0), pending(5), charged(7)], due(8), None, Reason.NOT_DUE, "pro > pro"),
    Case("charged in time", [charged(0), pending(5)], charged(9), RECOVERED, Reason.GRACE_RECOVERED, "pro > pro"),
    Case("activated in time", [charged(0), pending(5)], billing("activated", 9), RECOVERED, Reason.GRACE_RECOVERED, "pro > pro"),
    Case(
        "charged in time for a higher plan",
        [charged(0), pending(5)],
        charged(9, "plan_team"),
        RECOVERED,
        Reason.UPGRADED,
        "pro > team",
        Kind.UPGRADED,
    ),
    Case("updated is no payment", [charged(0), pending(5)], updated(9, "plan_pro"), None, Reason.RENEWAL, "pro > pro"),
    Case("a charge between two failures comes late", [charged(0), pending(5), pending(7)], charged(6), None, Reason.RENEWAL, "pro > pro"),
    Case("the grace ends", [charged(0), pending(5)], due(15), TERMINATED, Reason.CANCELED, "pro > hobby", Kind.CANCELED),
    Case(
        "the grace ends beside another",
        [charged(0, "plan_hobby", B), charged(1), pending(5)],
        due(15),
        TERMINATED,
        Reason.DOWNGRADED,
        "pro > hobby",
        Kind.DOWNGRADED,
    ),
    Case(
        "the grace ends, a newer one governs",
        [charged(0), charged(1, "plan_team", B), pending(5)],
        due(15),
        TERMINATED,
        Reason.GRACE_TERMINATED,
        "team > team",
    ),
    Case("halted in grace", [charged(0), pending(5)], halted(9), TERMINATED, Reason.CANCELED, "pro > hobby", Kind.CANCELED),
    Case("halted after the grace", [charged(0), pending(5), due(15)], halted(20), None, Reason.ALREADY_ENDED, "hobby > hobby"),
    Case("charged after the grace", [charged(0), pending(5), due(15)], charged(20), None, Reason.UPGRADED, "hobby > pro", Kind.UPGRADED),
    Case(
        "charged after the grace and an override",
        [charged(0), pending(5), due(15), override(17, "team")],
        charged(20),
        None,
        Reason.DOWNGRADED,
        "team > pro",
        Kind.DOWNGRADED,
    ),
    Case("cancelled in grace", [charged(0), pending(5)], cancelled(9), None, Reason.CANCELED, "pro > hobby", Kind.CANCELED),
    Case("paused in grace", [charged(0), pending(5)], paused(9, 30), None, Reason.PAUSES_LATER, "pro > pro"),
    Case("moved in grace", [charged(0), pending(5)], moved(9), None, Reason.MOVED, "pro > hobby", Kind.CANCELED),
    Case("a new failure after a recovery", [charged(0), pending(5), charged(9)], pending(12), STARTED, Reason.GRACE_STARTED, "pro > pro"),
    Case("a late halt after a recovery", [charged(0), pending(5), charged(9)], halted(7), None, Reason.STALE, "pro > pro"),
    Case(
        "a late charge in time, after the grace has ended",
        [charged(0), pending(5), due(15)],
        charged(9),
        None,
        Reason.UPGRADED,
        "hobby > pro",
        Kind.UPGRADED,
    ),
    Case("adopted: silent", [], billing("charged", 0, adopt=True), None, Reason.ADOPTED, "free > pro"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_grace_every_line_of_the_table(case: Case) -> None:
    team = Team(*case.given)

    decision = team.feed(case.event)

    tiers = f"{decision.before.tier.label} > {decision.after.tier.label}"
    assert (kind_of(decision), decision.reason, decision.kind, tiers) == (case.grace, case.reason, case.transition, case.tiers)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_grace_a_redelivery_changes_nothing_and_emits_nothing(case: Case) -> None:
    team = Team(*case.given, case.event)
    row = team.row

    again = team.feed(case.event)

    assert (again.row, again.grace) == (row, None)


def test_grace_names_when_it_ends() -> None:
    decisions = Team(charged(0), pending(5), due(8), charged(9)).decisions

    assert [decision.grace and decision.grace.ends_at for decision in decisions] == [None, T0 + 15, T0 + 15, T0 + 15]


TROUBLE = [charged(0), pending(5), pending(6), due(15), charged(9, paid_count=2), halted(12), charged(20, paid_count=3)]


def test_grace_one_trouble_is_never_both_recovered_and_terminated() -> None:
    for order in permutations(TROUBLE, 6):
        kinds = [kind for decision in Team(*order).decisions if (kind := kind_of(decision))]
        for before, after in pairwise([None, *kinds, None]):
            assert (after in (RECOVERED, TERMINATED)) <= (before in (STARTED, REMINDER)), kinds
            assert (before in (STARTED, REMINDER)) <= (after is not STARTED), kinds


def test_grace_every_kind_has_a_reason_of_its_own() -> None:
    assert {grace_reason(kind) for kind in GRACE_KINDS} == {
        Reason.GRACE_STARTED,
        Reason.GRACE_REMINDER,
        Reason.GRACE_RECOVERED,
        Reason.GRACE_TERMINATED,
    }
    assert {case.grace for case in CASES} == {*GRACE_KINDS, None}


def test_grace_ends_with_a_coming_end_or_a_return_from_a_pause_without_a_word() -> None:
    ended = Team(charged(0), completed(4, ends_at=12), pending(5)).feed(due(12))
    resumed_again = Team(charged(0), pending(5), paused(7, 30)).feed(resumed(9))

    assert (ended.grace, ended.reason) == (None, Reason.CANCELED)
    assert (resumed_again.grace, resumed_again.reason) == (None, Reason.RENEWAL)


def kind_of(decision: Decision) -> Kind | None:
    return None if decision.grace is None else decision.grace.kind
