"""Every line of the decision table (``docs/classification.md``), as cases: what a team had, what arrived, what is emitted.

A case reads: given these events, this one ends with this reason, and the team goes from one tier to another. The audit
row's kind follows from the reason (no row for most), or is named. Seconds are made up; subscriptions are sub_A unless named.
"""

from typing import NamedTuple

from schemas.kinds import Kind
from schemas.reasons import Reason
from tests.factories import T0, Event, billing, claim, imported, override, service

KINDS = {
    Reason.UPGRADED: Kind.UPGRADED,
    Reason.DOWNGRADED: Kind.DOWNGRADED,
    Reason.CANCELED: Kind.CANCELED,
    Reason.CLAIMED: Kind.CLAIMED,
    Reason.ADMIN_CHANGED: Kind.ADMIN_TIER_CHANGED,
}
"""Reasons that always emit, and what."""


B = "sub_B"


class Case(NamedTuple):
    title: str
    given: list[Event]
    event: Event
    reason: Reason
    tiers: str  # before > after
    row: Kind | None = None
    """The kind of the audit row, where the reason alone does not say it."""

    @property
    def kind(self) -> Kind | None:
        return self.row or KINDS.get(self.reason)


def charged(at: int, plan: str = "plan_pro", subscription: str = "sub_A", paid_count: int = 1) -> Event:
    return billing("charged", at, subscription, plan, paid_count=paid_count)


def updated(at: int, plan: str, status: str | None = "active", *, scheduled: bool = False) -> Event:
    return billing("updated", at, plan=plan, status=status, has_scheduled_changes=scheduled)


def cancelled(at: int, subscription: str = "sub_A", plan: str | None = None, paid_count: int = 1) -> Event:
    return billing("cancelled", at, subscription, plan, paid_count=paid_count)


def halted(at: int, subscription: str = "sub_A", paid_count: int = 1) -> Event:
    return billing("halted", at, subscription, None, paid_count=paid_count)


def ending(event: str, at: int, current_end: int) -> Event:
    return billing(event, at, plan=None, current_end=T0 + current_end)


def completed(at: int, ends_at: int | None = None) -> Event:
    return billing("completed", at, plan=None) if ends_at is None else ending("completed", at, ends_at)


STARTS = [
    # charged, or activated with paid_count > 0; tier rises
    Case("first charge", [], charged(0), Reason.UPGRADED, "free > pro"),
    Case("first charge of a team that claimed", [claim(0)], charged(5), Reason.UPGRADED, "free > pro"),
    Case("activated and paid", [], billing("activated", 0), Reason.UPGRADED, "free > pro"),
    Case("charged for a higher plan", [charged(0)], charged(9, "plan_growth"), Reason.UPGRADED, "pro > growth"),
    Case("one step up", [charged(0, "plan_hobby")], charged(9, "plan_hobby_plus"), Reason.UPGRADED, "hobby > hobby_plus"),
    Case("a higher new one", [charged(0)], charged(9, "plan_team", B), Reason.UPGRADED, "pro > team"),
    # the same; tier falls
    Case("charged for a lower plan", [charged(0)], charged(9, "plan_hobby"), Reason.DOWNGRADED, "pro > hobby"),
    Case("activated on a lower plan", [charged(0)], billing("activated", 9, plan="plan_hobby"), Reason.DOWNGRADED, "pro > hobby"),
    Case("a lower new one", [charged(0)], charged(9, "plan_hobby", B), Reason.DOWNGRADED, "pro > hobby"),
    # the same; tier stays
    Case("renewal", [charged(0)], charged(30, paid_count=2), Reason.RENEWAL, "pro > pro"),
    Case("charge that follows its activation", [billing("activated", 0)], charged(0), Reason.RENEWAL, "pro > pro"),
    Case("monthly to yearly", [charged(0)], charged(30, "plan_pro_yearly"), Reason.RENEWAL, "pro > pro"),
    Case("yearly to monthly", [charged(0, "plan_pro_yearly")], charged(30), Reason.RENEWAL, "pro > pro"),
    Case("a new one on the same tier", [charged(0)], charged(30, subscription=B), Reason.RENEWAL, "pro > pro"),
    # updated, status active, another plan in force: as charged
    Case("updated to a higher plan", [charged(0)], updated(9, "plan_team"), Reason.UPGRADED, "pro > team"),
    Case("updated to a lower plan", [charged(0)], updated(9, "plan_hobby"), Reason.DOWNGRADED, "pro > hobby"),
    Case("updated, plan unchanged", [charged(0)], updated(9, "plan_pro"), Reason.RENEWAL, "pro > pro"),
    Case("change only scheduled", [charged(0)], updated(9, "plan_team", scheduled=True), Reason.SCHEDULED, "pro > pro"),
    Case("updated while halted", [charged(0)], updated(9, "plan_team", "halted"), Reason.NOT_ACTIVE, "pro > pro"),
    Case("updated, status unknown", [charged(0)], updated(9, "plan_team", None), Reason.NOT_ACTIVE, "pro > pro"),
    Case("scheduled while pending", [charged(0)], updated(9, "plan_team", "pending", scheduled=True), Reason.SCHEDULED, "pro > pro"),
    # a renewal of a subscription that does not govern
    Case(
        "renewal of the old one",
        [charged(0), charged(9, "plan_growth", B)],
        charged(30, paid_count=2),
        Reason.SUPERSEDED,
        "growth > growth",
    ),
    # halted, then charged or activated again
    Case("charged after a halt", [charged(0), halted(5)], charged(9, paid_count=2), Reason.UPGRADED, "hobby > pro"),
    Case("activated after a halt", [charged(0), halted(5)], billing("activated", 9), Reason.UPGRADED, "hobby > pro"),
    Case("back on hobby after a halt", [charged(0, "plan_hobby"), halted(5)], charged(9, "plan_hobby"), Reason.RENEWAL, "hobby > hobby"),
]

ENDS = [
    # cancelled, halted, completed; no active subscription is left
    Case("cancelled", [charged(0)], cancelled(9), Reason.CANCELED, "pro > hobby"),
    Case("halted", [charged(0)], halted(9), Reason.CANCELED, "pro > hobby"),
    Case("completed", [charged(0)], completed(9), Reason.CANCELED, "pro > hobby"),
    Case("completed at its end", [charged(0)], completed(9, ends_at=9), Reason.CANCELED, "pro > hobby"),
    Case("completed after its end", [charged(0)], completed(9, ends_at=8), Reason.CANCELED, "pro > hobby"),
    Case("cancelled on hobby", [charged(0, "plan_hobby")], cancelled(9), Reason.CANCELED, "hobby > hobby"),
    Case("cancelled, never seen, once paid", [], cancelled(9), Reason.CANCELED, "free > hobby"),
    Case("halted, never seen", [], halted(9), Reason.CANCELED, "free > hobby"),
    Case("cancelled on an unknown plan", [charged(0)], cancelled(9, plan="plan_x"), Reason.CANCELED, "pro > hobby"),
    Case("cancelled on a known plan", [charged(0)], cancelled(9, plan="plan_pro"), Reason.CANCELED, "pro > hobby"),
    Case("cancelled with an earlier time than its charge", [charged(9)], cancelled(5), Reason.CANCELED, "pro > hobby"),
    Case("cancelled on hobby, earlier than its charge", [charged(9, "plan_hobby")], cancelled(5), Reason.CANCELED, "hobby > hobby"),
    Case("cancelled before its current_end", [charged(0)], ending("cancelled", 9, 365), Reason.CANCELED, "pro > hobby"),
    Case("halted before its current_end", [charged(0)], ending("halted", 9, 365), Reason.CANCELED, "pro > hobby"),
    Case("charged without a count", [charged(0, paid_count=0)], cancelled(9, paid_count=0), Reason.CANCELED, "pro > hobby"),
    Case("paid at its activation", [billing("activated", 0)], cancelled(9, paid_count=0), Reason.CANCELED, "pro > hobby"),
    Case(
        "active, and never paid",
        [billing("updated", 0, paid_count=0, status="active")],
        cancelled(9, paid_count=0),
        Reason.CANCELED,
        "pro > free",
    ),
    Case("halted again after a return", [charged(0), halted(5), charged(9)], halted(12), Reason.CANCELED, "pro > hobby"),
    Case("the last of two", [charged(0), charged(1, subscription=B), cancelled(5)], cancelled(9, B), Reason.CANCELED, "pro > hobby"),
    # once for each end
    Case("cancelled after its halt", [charged(0), halted(5)], cancelled(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Case("cancelled after completion", [charged(0), completed(5)], cancelled(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Case("halted after its cancel", [charged(0), cancelled(5)], halted(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Case("halted twice", [charged(0), halted(5)], halted(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Case("older end proves that it was paid", [cancelled(9, paid_count=0)], cancelled(5), Reason.CANCELED, "free > hobby"),
    Case("older halt proves that it was paid", [halted(9, paid_count=0)], halted(5), Reason.CANCELED, "free > hobby"),
    Case(
        "second end, and an override between the two",
        [charged(0), halted(5), override(7, "team")],
        cancelled(9),
        Reason.CANCELED,
        "team > hobby",
    ),
    # the same; another is active
    Case(
        "cancel of the old one after an upgrade", [charged(0), charged(5, "plan_team", B)], cancelled(9), Reason.SUPERSEDED, "team > team"
    ),
    Case("halt of the old one after an upgrade", [charged(0), charged(5, "plan_team", B)], halted(9), Reason.SUPERSEDED, "team > team"),
    Case("completion of the old one", [charged(0), charged(5, "plan_team", B)], completed(9), Reason.SUPERSEDED, "team > team"),
    Case("cancel of one never seen", [charged(0)], cancelled(9, B), Reason.SUPERSEDED, "pro > pro"),
    Case("cancel of the newer of two alike", [charged(0), charged(5, subscription=B)], cancelled(9, B), Reason.SUPERSEDED, "pro > pro"),
    Case(
        "falls to the other's", [charged(0, "plan_hobby"), charged(5, "plan_team", B)], cancelled(9, B), Reason.DOWNGRADED, "team > hobby"
    ),
    Case("halt falls to the other's", [charged(0), charged(5, "plan_team", B)], halted(9, B), Reason.DOWNGRADED, "team > pro"),
    Case("rises to the other's", [charged(0), charged(5, "plan_hobby", B)], cancelled(9, B), Reason.UPGRADED, "hobby > pro"),
    # completed before its current_end
    Case("completed, paid up to later", [charged(0)], completed(9, ends_at=365), Reason.ENDS_LATER, "pro > pro"),
    Case("completed, paid up to later, never seen", [], completed(9, ends_at=365), Reason.ENDS_LATER, "free > free"),
    Case("cancelled before the end to come", [charged(0), completed(9, ends_at=365)], cancelled(20), Reason.CANCELED, "pro > hobby"),
    Case("charged after a completion to come", [completed(0, ends_at=365)], charged(0), Reason.UPGRADED, "free > pro"),
]

ABSORBED = [
    # cancelled or completed, then charged
    Case("charged after its cancel", [charged(0), cancelled(5)], charged(9), Reason.ENDED, "hobby > hobby", Kind.CHARGE_UNDELIVERABLE),
    Case("charged long after", [charged(0), cancelled(5)], charged(9_000_000), Reason.ENDED, "hobby > hobby", Kind.CHARGE_UNDELIVERABLE),
    Case("charged after completion", [charged(0), completed(5)], charged(9), Reason.ENDED, "hobby > hobby", Kind.CHARGE_UNDELIVERABLE),
    Case(
        "charged beside another",
        [cancelled(5), charged(6, subscription=B)],
        charged(9),
        Reason.ENDED,
        "pro > pro",
        Kind.CHARGE_UNDELIVERABLE,
    ),
    Case("activated after its cancel: not a charge", [charged(0), cancelled(5)], billing("activated", 9), Reason.ENDED, "hobby > hobby"),
    Case("updated after its cancel: not a charge", [charged(0), cancelled(5)], updated(9, "plan_team"), Reason.ENDED, "hobby > hobby"),
    Case(
        "update after its cancel proves that it was paid",
        [cancelled(5, paid_count=0)],
        updated(9, "plan_pro"),
        Reason.UPGRADED,
        "free > hobby",
    ),
    # a late charge of an ended subscription
    Case("late charge of an ended one", [charged(0), cancelled(5)], charged(3, paid_count=2), Reason.STALE, "hobby > hobby"),
    Case("the charge before its end again", [charged(0), cancelled(5)], charged(0), Reason.STALE, "hobby > hobby"),
    Case("late charge proves that it was paid", [cancelled(5, paid_count=0)], charged(3), Reason.UPGRADED, "free > hobby"),
    Case("charge in the second of its cancel came before it", [charged(0), cancelled(5)], charged(5), Reason.STALE, "hobby > hobby"),
]

WITHOUT_EFFECT = [
    # authenticated, activated before any payment
    Case("authenticated", [], billing("authenticated", 0, paid_count=0), Reason.NOT_STARTED, "free > free"),
    Case("authenticated, paid before", [charged(0)], billing("authenticated", 9), Reason.NOT_STARTED, "pro > pro"),
    Case("activated, nothing paid", [], billing("activated", 0, paid_count=0), Reason.NOT_STARTED, "free > free"),
    Case(
        "activated, nothing paid, halted before",
        [charged(0), halted(5)],
        billing("activated", 9, paid_count=0),
        Reason.NOT_STARTED,
        "hobby > hobby",
    ),
    # failed payments without a grace; resumed to another status than active
    Case("pending, grace off", [charged(0)], billing("pending", 9), Reason.PAYMENT_TROUBLE, "pro > pro"),
    Case("payment failed, grace off", [charged(0)], billing("payment.failed", 9), Reason.PAYMENT_TROUBLE, "pro > pro"),
    Case("resumed, not active", [charged(0)], billing("resumed", 9, status="pending"), Reason.PAYMENT_TROUBLE, "pro > pro"),
    Case("pending, never seen", [], billing("pending", 9), Reason.PAYMENT_TROUBLE, "free > free"),
    # validated and passed through
    Case(
        "near a limit",
        [charged(0)],
        service("near_quota_wall", 9, resource_type="seats", used=9, limit=10),
        Reason.PASSED_THROUGH,
        "pro > pro",
        Kind.NEAR_QUOTA_WALL,
    ),
    Case(
        "conversion",
        [],
        service("experiment.conversion", 9, experiment="x", variant="b"),
        Reason.PASSED_THROUGH,
        "free > free",
        Kind.EXPERIMENT_CONVERSION,
    ),
    Case(
        "promotion",
        [],
        service("admin.promo_issued", 9, code="X", admin="a"),
        Reason.PASSED_THROUGH,
        "free > free",
        Kind.ADMIN_PROMO_ISSUED,
    ),
    Case(
        "expiry",
        [],
        service("resource.expiry_imminent", 9, resource_type="domain", resource_id="d1", expires_at=T0),
        Reason.PASSED_THROUGH,
        "free > free",
        Kind.RESOURCE_EXPIRY_IMMINENT,
    ),
]

OLD_NEWS = [
    # version not greater than the register's: equal is a duplicate, less is stale
    Case("charge twice", [charged(0)], charged(0), Reason.DUPLICATE, "pro > pro"),
    Case("charge twice, halted since", [charged(0), halted(5)], charged(0), Reason.DUPLICATE, "hobby > hobby"),
    Case("older charge", [charged(9, paid_count=2)], charged(0), Reason.STALE, "pro > pro"),
    Case("older charge of another plan", [charged(9)], charged(0, "plan_team"), Reason.STALE, "pro > pro"),
    Case("charge older than the halt", [charged(0), halted(9)], charged(5, paid_count=2), Reason.STALE, "hobby > hobby"),
    Case("halt twice", [charged(0), halted(5)], halted(5), Reason.DUPLICATE, "hobby > hobby"),
    Case("halt older than the charge", [charged(9)], halted(5), Reason.STALE, "pro > pro"),
    Case("halt older than the end", [charged(0), cancelled(9)], halted(5), Reason.STALE, "hobby > hobby"),
    Case("cancel twice", [charged(0), cancelled(5)], cancelled(5), Reason.DUPLICATE, "hobby > hobby"),
    Case("completion older than the cancel", [charged(0), cancelled(9)], completed(5), Reason.STALE, "hobby > hobby"),
    Case("end to come twice", [charged(0), completed(9, ends_at=99)], completed(9, ends_at=99), Reason.DUPLICATE, "pro > pro"),
    Case("end to come, a later one known", [charged(0), completed(9, ends_at=99)], completed(5, ends_at=50), Reason.STALE, "pro > pro"),
    Case("end to come of an ended one", [charged(0), cancelled(5)], completed(9, ends_at=99), Reason.ALREADY_ENDED, "hobby > hobby"),
    Case("end to come, older than the end", [charged(0), cancelled(5)], completed(3, ends_at=99), Reason.STALE, "hobby > hobby"),
    # a stale fact may still move a first version: if that changes the tier, the change is what is reported
    Case(
        "an older charge shows that the other subscription is newer",
        [charged(20, "plan_growth"), charged(15, "plan_hobby", B)],
        charged(10, "plan_growth"),
        Reason.DOWNGRADED,
        "growth > hobby",
    ),
    Case(
        "an older charge shows that the override is newer",
        [charged(20), override(15, "growth")],
        charged(10),
        Reason.UPGRADED,
        "pro > growth",
    ),
    Case(
        "an older charge moves who governs, and no tier", [charged(20), charged(15, subscription=B)], charged(10), Reason.STALE, "pro > pro"
    ),
]

SERVICES = [
    # onboarding.claimed
    Case("claim", [], claim(0), Reason.CLAIMED, "free > free"),
    Case("claim with a tier", [], claim(0, tier="pro"), Reason.CLAIMED, "free > pro"),
    Case("claim of a paying team", [charged(5)], claim(9, tier="team"), Reason.CLAIMED, "pro > pro"),
    Case("claim that comes late", [charged(5)], claim(0, tier="team"), Reason.CLAIMED, "pro > pro"),
    Case("claim beside an override", [override(5, "pro")], claim(9, tier="team"), Reason.CLAIMED, "pro > pro"),
    Case("claim beside an import", [imported(5, "pro")], claim(9, tier="team"), Reason.CLAIMED, "pro > pro"),
    Case("claim of a team that paid once", [cancelled(5)], claim(9, tier="team"), Reason.CLAIMED, "hobby > hobby"),
    Case("second claim", [claim(0, tier="pro")], claim(5, "new@example.com"), Reason.CLAIMED, "pro > free"),
    Case("claim twice", [claim(0)], claim(0), Reason.DUPLICATE, "free > free"),
    Case("claim older than the one known", [claim(5)], claim(0, tier="team"), Reason.STALE, "free > free"),
    # admin.tier_changed: alone, no subscription.* kind beside it
    Case("override", [], override(0, "team"), Reason.ADMIN_CHANGED, "free > team"),
    Case("override down", [charged(0)], override(5, "free"), Reason.ADMIN_CHANGED, "pro > free"),
    Case("override to the same", [charged(0)], override(5, "pro"), Reason.ADMIN_CHANGED, "pro > pro"),
    Case("override in another spelling", [], override(0, " Growth_Yearly "), Reason.ADMIN_CHANGED, "free > growth"),
    Case("override older than the plan", [charged(5)], override(0, "team"), Reason.ADMIN_CHANGED, "pro > pro"),
    Case("override in the second of a charge is the later", [charged(5)], override(5, "team"), Reason.ADMIN_CHANGED, "pro > team"),
    Case("override twice", [override(5, "team")], override(5, "team"), Reason.DUPLICATE, "team > team"),
    Case("override older than the one known", [override(5, "team")], override(0, "pro"), Reason.STALE, "team > team"),
    Case("override a fraction of a second later", [override(5.25, "team")], override(5.5, "pro"), Reason.ADMIN_CHANGED, "team > pro"),
    # an override against what is billed
    Case("override, renewal", [charged(0), override(5, "growth")], charged(30, paid_count=2), Reason.SUPERSEDED, "growth > growth"),
    Case("override, plan change", [charged(0), override(5, "growth")], charged(9, "plan_team"), Reason.UPGRADED, "growth > team"),
    Case("override, plan change down", [charged(0), override(5, "growth")], updated(9, "plan_hobby"), Reason.DOWNGRADED, "growth > hobby"),
    Case("override, new subscription", [charged(0), override(5, "growth")], charged(9, subscription=B), Reason.DOWNGRADED, "growth > pro"),
    Case("override, cancel", [charged(0), override(5, "growth")], cancelled(9), Reason.CANCELED, "growth > hobby"),
    Case("cancel that the override outlives", [charged(0), override(9, "growth")], cancelled(5), Reason.CANCELED, "growth > growth"),
    Case("override after the cancel", [charged(0), cancelled(5)], override(9, "growth"), Reason.ADMIN_CHANGED, "hobby > growth"),
    Case("override before the cancel, late", [charged(0), cancelled(5)], override(3, "growth"), Reason.ADMIN_CHANGED, "hobby > hobby"),
    Case(
        "override, return from a halt",
        [charged(0), halted(5), override(7, "growth")],
        charged(9, paid_count=2),
        Reason.DOWNGRADED,
        "growth > pro",
    ),
]

IMPORTS = [
    # imported tier: no audit row; the next charge on the same plan is a renewal, whatever its rank
    Case("import", [], imported(0, "pro"), Reason.IMPORTED, "free > pro"),
    Case("import with its subscription", [], imported(0, "pro", "plan_pro", "sub_A"), Reason.IMPORTED, "free > pro"),
    Case("import after events", [charged(5, "plan_hobby")], imported(0, "team", "plan_team", "sub_A"), Reason.IMPORTED, "hobby > hobby"),
    Case("import after a claim", [claim(0, tier="team")], imported(5, "pro"), Reason.IMPORTED, "team > pro"),
    Case("charge after import", [imported(0, "pro", "plan_pro", "sub_A")], charged(9), Reason.RENEWAL, "pro > pro"),
    Case("charge in the second of the import", [imported(0, "pro", "plan_pro", "sub_A")], charged(0), Reason.RENEWAL, "pro > pro"),
    Case("imported tier above the plan's", [imported(0, "team", "plan_pro", "sub_A")], charged(9), Reason.RENEWAL, "team > team"),
    Case("imported tier below the plan's", [imported(0, "hobby", "plan_pro", "sub_A")], charged(9), Reason.RENEWAL, "hobby > hobby"),
    Case("imported for a plan, no subscription named", [imported(0, "team", "plan_pro")], charged(9), Reason.RENEWAL, "team > team"),
    Case(
        "plan change after import",
        [imported(0, "team", "plan_pro", "sub_A")],
        charged(9, "plan_growth"),
        Reason.DOWNGRADED,
        "team > growth",
    ),
    Case(
        "another one after import", [imported(0, "team", "plan_pro", "sub_A")], charged(9, subscription=B), Reason.DOWNGRADED, "team > pro"
    ),
    Case("cancel after import", [imported(0, "pro", "plan_pro", "sub_A")], cancelled(9, paid_count=0), Reason.CANCELED, "pro > hobby"),
    Case(
        "override, import, charge",
        [override(5, "team"), imported(0, "pro", "plan_pro", "sub_A")],
        charged(9),
        Reason.SUPERSEDED,
        "team > team",
    ),
    Case("import of an ended one", [cancelled(5)], imported(9, "team", "plan_team", "sub_A"), Reason.IMPORTED, "hobby > hobby"),
    Case("import twice", [imported(0, "pro", "plan_pro", "sub_A")], imported(0, "pro", "plan_pro", "sub_A"), Reason.DUPLICATE, "pro > pro"),
    Case("import older than the one known", [imported(5, "pro")], imported(0, "team"), Reason.STALE, "pro > pro"),
    Case("newer import", [imported(0, "pro")], imported(5, "team"), Reason.IMPORTED, "pro > team"),
    Case(
        "late import shows that the override is newer",
        [charged(9), override(5, "team")],
        imported(0, "pro", "plan_pro", "sub_A"),
        Reason.IMPORTED,
        "pro > team",
    ),
]


def adopted(event: Event) -> Event:
    return {**event, "data": {**event["data"], "adopt": True}}


ADOPTIONS = [
    # a subscription from before the adoption date, seen for the first time
    Case("charge", [], adopted(charged(0)), Reason.ADOPTED, "free > pro"),
    Case("charge of a second one", [charged(0)], adopted(charged(9, "plan_team", B)), Reason.ADOPTED, "pro > team"),
    Case("charge that governs not", [charged(9)], adopted(charged(0, "plan_team", B)), Reason.ADOPTED, "pro > pro"),
    Case("halt", [], adopted(halted(0)), Reason.ADOPTED, "free > hobby"),
    Case("cancel", [], adopted(cancelled(0)), Reason.ADOPTED, "free > hobby"),
    Case("charge after its completion to come", [adopted(completed(0, ends_at=99))], adopted(charged(0)), Reason.ADOPTED, "free > pro"),
    Case("charge after its authentication", [adopted(billing("authenticated", 0))], adopted(charged(0)), Reason.ADOPTED, "free > pro"),
    Case("the same again", [adopted(charged(0))], adopted(charged(0)), Reason.DUPLICATE, "pro > pro"),
    Case("an older one of it", [adopted(charged(9))], adopted(charged(0)), Reason.STALE, "pro > pro"),
    Case("its renewal", [adopted(charged(0))], adopted(charged(9)), Reason.RENEWAL, "pro > pro"),
    Case("its next plan", [adopted(charged(0))], adopted(charged(9, "plan_team")), Reason.UPGRADED, "pro > team"),
    Case("its cancel", [adopted(charged(0))], adopted(cancelled(9)), Reason.CANCELED, "pro > hobby"),
    Case("its failed payment", [], adopted(billing("pending", 0)), Reason.PAYMENT_TROUBLE, "free > free"),
    Case(
        "its charge after its end", [adopted(cancelled(5))], adopted(charged(9)), Reason.ENDED, "hobby > hobby", Kind.CHARGE_UNDELIVERABLE
    ),
]


DECISION_TABLE = {
    "starts": STARTS,
    "ends": ENDS,
    "absorbed": ABSORBED,
    "without effect": WITHOUT_EFFECT,
    "old news": OLD_NEWS,
    "services": SERVICES,
    "imports": IMPORTS,
    "adoptions": ADOPTIONS,
}
