"""Every line of the decision table (``docs/classification.md``), as stories: what a team had, what came, what is told.

A story reads: given these events, this one ends with this reason, and the team goes from one tier to another. The audit
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
"""Reasons that always tell, and what."""


B = "sub_B"


class Story(NamedTuple):
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
    Story("first charge", [], charged(0), Reason.UPGRADED, "free > pro"),
    Story("first charge of a team that claimed", [claim(0)], charged(5), Reason.UPGRADED, "free > pro"),
    Story("activated and paid", [], billing("activated", 0), Reason.UPGRADED, "free > pro"),
    Story("charged for a higher plan", [charged(0)], charged(9, "plan_growth"), Reason.UPGRADED, "pro > growth"),
    Story("one step up", [charged(0, "plan_hobby")], charged(9, "plan_hobby_plus"), Reason.UPGRADED, "hobby > hobby_plus"),
    Story("a higher new one", [charged(0)], charged(9, "plan_team", B), Reason.UPGRADED, "pro > team"),
    # the same; tier falls
    Story("charged for a lower plan", [charged(0)], charged(9, "plan_hobby"), Reason.DOWNGRADED, "pro > hobby"),
    Story("activated on a lower plan", [charged(0)], billing("activated", 9, plan="plan_hobby"), Reason.DOWNGRADED, "pro > hobby"),
    Story("a lower new one", [charged(0)], charged(9, "plan_hobby", B), Reason.DOWNGRADED, "pro > hobby"),
    # the same; tier stays
    Story("renewal", [charged(0)], charged(30, paid_count=2), Reason.RENEWAL, "pro > pro"),
    Story("charge that follows its activation", [billing("activated", 0)], charged(0), Reason.RENEWAL, "pro > pro"),
    Story("monthly to yearly", [charged(0)], charged(30, "plan_pro_yearly"), Reason.RENEWAL, "pro > pro"),
    Story("yearly to monthly", [charged(0, "plan_pro_yearly")], charged(30), Reason.RENEWAL, "pro > pro"),
    Story("a new one on the same tier", [charged(0)], charged(30, subscription=B), Reason.RENEWAL, "pro > pro"),
    # updated, status active, another plan in force: as charged
    Story("updated to a higher plan", [charged(0)], updated(9, "plan_team"), Reason.UPGRADED, "pro > team"),
    Story("updated to a lower plan", [charged(0)], updated(9, "plan_hobby"), Reason.DOWNGRADED, "pro > hobby"),
    Story("updated, plan unchanged", [charged(0)], updated(9, "plan_pro"), Reason.RENEWAL, "pro > pro"),
    Story("change only scheduled", [charged(0)], updated(9, "plan_team", scheduled=True), Reason.SCHEDULED, "pro > pro"),
    Story("updated while halted", [charged(0)], updated(9, "plan_team", "halted"), Reason.NOT_ACTIVE, "pro > pro"),
    Story("updated, status unknown", [charged(0)], updated(9, "plan_team", None), Reason.NOT_ACTIVE, "pro > pro"),
    Story("scheduled while pending", [charged(0)], updated(9, "plan_team", "pending", scheduled=True), Reason.SCHEDULED, "pro > pro"),
    # a renewal of a subscription that does not govern
    Story(
        "renewal of the old one",
        [charged(0), charged(9, "plan_growth", B)],
        charged(30, paid_count=2),
        Reason.SUPERSEDED,
        "growth > growth",
    ),
    # halted, then charged or activated again
    Story("charged after a halt", [charged(0), halted(5)], charged(9, paid_count=2), Reason.UPGRADED, "hobby > pro"),
    Story("activated after a halt", [charged(0), halted(5)], billing("activated", 9), Reason.UPGRADED, "hobby > pro"),
    Story("back on hobby after a halt", [charged(0, "plan_hobby"), halted(5)], charged(9, "plan_hobby"), Reason.RENEWAL, "hobby > hobby"),
]

ENDS = [
    # cancelled, halted, completed; no active subscription is left
    Story("cancelled", [charged(0)], cancelled(9), Reason.CANCELED, "pro > hobby"),
    Story("halted", [charged(0)], halted(9), Reason.CANCELED, "pro > hobby"),
    Story("completed", [charged(0)], completed(9), Reason.CANCELED, "pro > hobby"),
    Story("completed at its end", [charged(0)], completed(9, ends_at=9), Reason.CANCELED, "pro > hobby"),
    Story("completed after its end", [charged(0)], completed(9, ends_at=8), Reason.CANCELED, "pro > hobby"),
    Story("cancelled on hobby", [charged(0, "plan_hobby")], cancelled(9), Reason.CANCELED, "hobby > hobby"),
    Story("cancelled, never seen, once paid", [], cancelled(9), Reason.CANCELED, "free > hobby"),
    Story("cancelled, never seen, never paid", [], cancelled(9, paid_count=0), Reason.CANCELED, "free > free"),
    Story("halted, never seen", [], halted(9), Reason.CANCELED, "free > hobby"),
    Story("cancelled on an unknown plan", [charged(0)], cancelled(9, plan="plan_x"), Reason.CANCELED, "pro > hobby"),
    Story("cancelled on a known plan", [charged(0)], cancelled(9, plan="plan_pro"), Reason.CANCELED, "pro > hobby"),
    Story("cancelled with an earlier time than its charge", [charged(9)], cancelled(5), Reason.CANCELED, "pro > hobby"),
    Story("cancelled on hobby, earlier than its charge", [charged(9, "plan_hobby")], cancelled(5), Reason.CANCELED, "hobby > hobby"),
    Story("cancelled before its current_end", [charged(0)], ending("cancelled", 9, 365), Reason.CANCELED, "pro > hobby"),
    Story("halted before its current_end", [charged(0)], ending("halted", 9, 365), Reason.CANCELED, "pro > hobby"),
    Story("charged without a count", [charged(0, paid_count=0)], cancelled(9, paid_count=0), Reason.CANCELED, "pro > hobby"),
    Story("paid at its activation", [billing("activated", 0)], cancelled(9, paid_count=0), Reason.CANCELED, "pro > hobby"),
    Story(
        "active, and never paid",
        [billing("updated", 0, paid_count=0, status="active")],
        cancelled(9, paid_count=0),
        Reason.CANCELED,
        "pro > free",
    ),
    Story("halted again after a return", [charged(0), halted(5), charged(9)], halted(12), Reason.CANCELED, "pro > hobby"),
    Story("the last of two", [charged(0), charged(1, subscription=B), cancelled(5)], cancelled(9, B), Reason.CANCELED, "pro > hobby"),
    # once for each end
    Story("cancelled after its halt", [charged(0), halted(5)], cancelled(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Story("cancelled after completion", [charged(0), completed(5)], cancelled(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Story("halted after its cancel", [charged(0), cancelled(5)], halted(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Story("halted twice", [charged(0), halted(5)], halted(9), Reason.ALREADY_ENDED, "hobby > hobby"),
    Story("older end proves that it was paid", [cancelled(9, paid_count=0)], cancelled(5), Reason.CANCELED, "free > hobby"),
    Story("older halt proves that it was paid", [halted(9, paid_count=0)], halted(5), Reason.CANCELED, "free > hobby"),
    Story(
        "second end, and an override between the two",
        [charged(0), halted(5), override(7, "team")],
        cancelled(9),
        Reason.CANCELED,
        "team > hobby",
    ),
    # the same; another is active
    Story(
        "cancel of the old one after an upgrade", [charged(0), charged(5, "plan_team", B)], cancelled(9), Reason.SUPERSEDED, "team > team"
    ),
    Story("halt of the old one after an upgrade", [charged(0), charged(5, "plan_team", B)], halted(9), Reason.SUPERSEDED, "team > team"),
    Story("completion of the old one", [charged(0), charged(5, "plan_team", B)], completed(9), Reason.SUPERSEDED, "team > team"),
    Story("cancel of one never seen", [charged(0)], cancelled(9, B), Reason.SUPERSEDED, "pro > pro"),
    Story("cancel of the newer of two alike", [charged(0), charged(5, subscription=B)], cancelled(9, B), Reason.SUPERSEDED, "pro > pro"),
    Story(
        "falls to the other's", [charged(0, "plan_hobby"), charged(5, "plan_team", B)], cancelled(9, B), Reason.DOWNGRADED, "team > hobby"
    ),
    Story("halt falls to the other's", [charged(0), charged(5, "plan_team", B)], halted(9, B), Reason.DOWNGRADED, "team > pro"),
    Story("rises to the other's", [charged(0), charged(5, "plan_hobby", B)], cancelled(9, B), Reason.UPGRADED, "hobby > pro"),
    # completed before its current_end
    Story("completed, paid up to later", [charged(0)], completed(9, ends_at=365), Reason.ENDS_LATER, "pro > pro"),
    Story("completed, paid up to later, never seen", [], completed(9, ends_at=365), Reason.ENDS_LATER, "free > free"),
    Story("cancelled before the end to come", [charged(0), completed(9, ends_at=365)], cancelled(20), Reason.CANCELED, "pro > hobby"),
    Story("charged after a completion to come", [completed(0, ends_at=365)], charged(0), Reason.UPGRADED, "free > pro"),
]

ABSORBED = [
    # cancelled or completed, then charged
    Story("charged after its cancel", [charged(0), cancelled(5)], charged(9), Reason.ENDED, "hobby > hobby", Kind.CHARGE_UNDELIVERABLE),
    Story("charged long after", [charged(0), cancelled(5)], charged(9_000_000), Reason.ENDED, "hobby > hobby", Kind.CHARGE_UNDELIVERABLE),
    Story("charged after completion", [charged(0), completed(5)], charged(9), Reason.ENDED, "hobby > hobby", Kind.CHARGE_UNDELIVERABLE),
    Story(
        "charged beside another",
        [cancelled(5), charged(6, subscription=B)],
        charged(9),
        Reason.ENDED,
        "pro > pro",
        Kind.CHARGE_UNDELIVERABLE,
    ),
    Story("activated after its cancel: not a charge", [charged(0), cancelled(5)], billing("activated", 9), Reason.ENDED, "hobby > hobby"),
    Story("updated after its cancel: not a charge", [charged(0), cancelled(5)], updated(9, "plan_team"), Reason.ENDED, "hobby > hobby"),
    # a late charge of an ended subscription
    Story("late charge of an ended one", [charged(0), cancelled(5)], charged(3, paid_count=2), Reason.STALE, "hobby > hobby"),
    Story("the charge before its end again", [charged(0), cancelled(5)], charged(0), Reason.STALE, "hobby > hobby"),
    Story("late charge proves that it was paid", [cancelled(5, paid_count=0)], charged(3), Reason.UPGRADED, "free > hobby"),
    Story("charge in the second of its cancel came before it", [charged(0), cancelled(5)], charged(5), Reason.STALE, "hobby > hobby"),
]

WITHOUT_EFFECT = [
    # authenticated, activated before any payment
    Story("authenticated", [], billing("authenticated", 0, paid_count=0), Reason.NOT_STARTED, "free > free"),
    Story("authenticated, paid before", [charged(0)], billing("authenticated", 9), Reason.NOT_STARTED, "pro > pro"),
    Story("activated, nothing paid", [], billing("activated", 0, paid_count=0), Reason.NOT_STARTED, "free > free"),
    Story(
        "activated, nothing paid, halted before",
        [charged(0), halted(5)],
        billing("activated", 9, paid_count=0),
        Reason.NOT_STARTED,
        "hobby > hobby",
    ),
    # pending, paused, resumed
    Story("pending", [charged(0)], billing("pending", 9), Reason.PAYMENT_TROUBLE, "pro > pro"),
    Story("paused", [charged(0)], billing("paused", 9), Reason.PAYMENT_TROUBLE, "pro > pro"),
    Story("resumed", [charged(0)], billing("resumed", 9), Reason.PAYMENT_TROUBLE, "pro > pro"),
    Story("pending, never seen", [], billing("pending", 9), Reason.PAYMENT_TROUBLE, "free > free"),
    # validated and passed through
    Story(
        "near a limit",
        [charged(0)],
        service("near_quota_wall", 9, resource_type="seats", used=9, limit=10),
        Reason.PASSED_THROUGH,
        "pro > pro",
        Kind.NEAR_QUOTA_WALL,
    ),
    Story(
        "conversion",
        [],
        service("experiment.conversion", 9, experiment="x", variant="b"),
        Reason.PASSED_THROUGH,
        "free > free",
        Kind.EXPERIMENT_CONVERSION,
    ),
    Story(
        "promotion",
        [],
        service("admin.promo_issued", 9, code="X", admin="a"),
        Reason.PASSED_THROUGH,
        "free > free",
        Kind.ADMIN_PROMO_ISSUED,
    ),
    Story(
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
    Story("charge twice", [charged(0)], charged(0), Reason.DUPLICATE, "pro > pro"),
    Story("charge twice, halted since", [charged(0), halted(5)], charged(0), Reason.DUPLICATE, "hobby > hobby"),
    Story("older charge", [charged(9, paid_count=2)], charged(0), Reason.STALE, "pro > pro"),
    Story("older charge of another plan", [charged(9)], charged(0, "plan_team"), Reason.STALE, "pro > pro"),
    Story("charge older than the halt", [charged(0), halted(9)], charged(5, paid_count=2), Reason.STALE, "hobby > hobby"),
    Story("halt twice", [charged(0), halted(5)], halted(5), Reason.DUPLICATE, "hobby > hobby"),
    Story("halt older than the charge", [charged(9)], halted(5), Reason.STALE, "pro > pro"),
    Story("halt older than the end", [charged(0), cancelled(9)], halted(5), Reason.STALE, "hobby > hobby"),
    Story("cancel twice", [charged(0), cancelled(5)], cancelled(5), Reason.DUPLICATE, "hobby > hobby"),
    Story("completion older than the cancel", [charged(0), cancelled(9)], completed(5), Reason.STALE, "hobby > hobby"),
    Story("end to come twice", [charged(0), completed(9, ends_at=99)], completed(9, ends_at=99), Reason.DUPLICATE, "pro > pro"),
    Story("end to come, a later one known", [charged(0), completed(9, ends_at=99)], completed(5, ends_at=50), Reason.STALE, "pro > pro"),
    Story("end to come of an ended one", [charged(0), cancelled(5)], completed(9, ends_at=99), Reason.ALREADY_ENDED, "hobby > hobby"),
    Story("end to come, older than the end", [charged(0), cancelled(5)], completed(3, ends_at=99), Reason.STALE, "hobby > hobby"),
    # a stale fact may still move a first version: if that changes the tier, the change is what is reported
    Story(
        "an older charge shows that the other subscription is newer",
        [charged(20, "plan_growth"), charged(15, "plan_hobby", B)],
        charged(10, "plan_growth"),
        Reason.DOWNGRADED,
        "growth > hobby",
    ),
    Story(
        "an older charge shows that the override is newer",
        [charged(20), override(15, "growth")],
        charged(10),
        Reason.UPGRADED,
        "pro > growth",
    ),
    Story(
        "an older charge moves who governs, and no tier", [charged(20), charged(15, subscription=B)], charged(10), Reason.STALE, "pro > pro"
    ),
]

SERVICES = [
    # onboarding.claimed
    Story("claim", [], claim(0), Reason.CLAIMED, "free > free"),
    Story("claim with a tier", [], claim(0, tier="pro"), Reason.CLAIMED, "free > pro"),
    Story("claim of a paying team", [charged(5)], claim(9, tier="team"), Reason.CLAIMED, "pro > pro"),
    Story("claim that comes late", [charged(5)], claim(0, tier="team"), Reason.CLAIMED, "pro > pro"),
    Story("claim beside an override", [override(5, "pro")], claim(9, tier="team"), Reason.CLAIMED, "pro > pro"),
    Story("claim beside an import", [imported(5, "pro")], claim(9, tier="team"), Reason.CLAIMED, "pro > pro"),
    Story("claim of a team that paid once", [cancelled(5)], claim(9, tier="team"), Reason.CLAIMED, "hobby > hobby"),
    Story("second claim", [claim(0, tier="pro")], claim(5, "new@example.com"), Reason.CLAIMED, "pro > free"),
    Story("claim twice", [claim(0)], claim(0), Reason.DUPLICATE, "free > free"),
    Story("claim older than the one known", [claim(5)], claim(0, tier="team"), Reason.STALE, "free > free"),
    # admin.tier_changed: alone, no subscription.* kind beside it
    Story("override", [], override(0, "team"), Reason.ADMIN_CHANGED, "free > team"),
    Story("override down", [charged(0)], override(5, "free"), Reason.ADMIN_CHANGED, "pro > free"),
    Story("override to the same", [charged(0)], override(5, "pro"), Reason.ADMIN_CHANGED, "pro > pro"),
    Story("override in another spelling", [], override(0, " Growth_Yearly "), Reason.ADMIN_CHANGED, "free > growth"),
    Story("override older than the plan", [charged(5)], override(0, "team"), Reason.ADMIN_CHANGED, "pro > pro"),
    Story("override in the second of a charge is the later", [charged(5)], override(5, "team"), Reason.ADMIN_CHANGED, "pro > team"),
    Story("override twice", [override(5, "team")], override(5, "team"), Reason.DUPLICATE, "team > team"),
    Story("override older than the one known", [override(5, "team")], override(0, "pro"), Reason.STALE, "team > team"),
    Story("override a fraction of a second later", [override(5.25, "team")], override(5.5, "pro"), Reason.ADMIN_CHANGED, "team > pro"),
    # an override against what is billed
    Story("override, renewal", [charged(0), override(5, "growth")], charged(30, paid_count=2), Reason.SUPERSEDED, "growth > growth"),
    Story("override, plan change", [charged(0), override(5, "growth")], charged(9, "plan_team"), Reason.UPGRADED, "growth > team"),
    Story("override, plan change down", [charged(0), override(5, "growth")], updated(9, "plan_hobby"), Reason.DOWNGRADED, "growth > hobby"),
    Story("override, new subscription", [charged(0), override(5, "growth")], charged(9, subscription=B), Reason.DOWNGRADED, "growth > pro"),
    Story("override, cancel", [charged(0), override(5, "growth")], cancelled(9), Reason.CANCELED, "growth > hobby"),
    Story("cancel that the override outlives", [charged(0), override(9, "growth")], cancelled(5), Reason.CANCELED, "growth > growth"),
    Story("override after the cancel", [charged(0), cancelled(5)], override(9, "growth"), Reason.ADMIN_CHANGED, "hobby > growth"),
    Story("override before the cancel, late", [charged(0), cancelled(5)], override(3, "growth"), Reason.ADMIN_CHANGED, "hobby > hobby"),
    Story(
        "override, return from a halt",
        [charged(0), halted(5), override(7, "growth")],
        charged(9, paid_count=2),
        Reason.SUPERSEDED,
        "growth > growth",
    ),
]

IMPORTS = [
    # imported tier: no audit row; the next charge on the same plan is a renewal, whatever its rank
    Story("import", [], imported(0, "pro"), Reason.IMPORTED, "free > pro"),
    Story("import with its subscription", [], imported(0, "pro", "plan_pro", "sub_A"), Reason.IMPORTED, "free > pro"),
    Story("import after events", [charged(5, "plan_hobby")], imported(0, "team", "plan_team", "sub_A"), Reason.IMPORTED, "hobby > hobby"),
    Story("import after a claim", [claim(0, tier="team")], imported(5, "pro"), Reason.IMPORTED, "team > pro"),
    Story("charge after import", [imported(0, "pro", "plan_pro", "sub_A")], charged(9), Reason.RENEWAL, "pro > pro"),
    Story("charge in the second of the import", [imported(0, "pro", "plan_pro", "sub_A")], charged(0), Reason.RENEWAL, "pro > pro"),
    Story("imported tier above the plan's", [imported(0, "team", "plan_pro", "sub_A")], charged(9), Reason.RENEWAL, "team > team"),
    Story("imported tier below the plan's", [imported(0, "hobby", "plan_pro", "sub_A")], charged(9), Reason.RENEWAL, "hobby > hobby"),
    Story("imported for a plan, no subscription named", [imported(0, "team", "plan_pro")], charged(9), Reason.RENEWAL, "team > team"),
    Story(
        "plan change after import",
        [imported(0, "team", "plan_pro", "sub_A")],
        charged(9, "plan_growth"),
        Reason.DOWNGRADED,
        "team > growth",
    ),
    Story(
        "another one after import", [imported(0, "team", "plan_pro", "sub_A")], charged(9, subscription=B), Reason.DOWNGRADED, "team > pro"
    ),
    Story("cancel after import", [imported(0, "pro", "plan_pro", "sub_A")], cancelled(9, paid_count=0), Reason.CANCELED, "pro > hobby"),
    Story(
        "override, import, charge",
        [override(5, "team"), imported(0, "pro", "plan_pro", "sub_A")],
        charged(9),
        Reason.SUPERSEDED,
        "team > team",
    ),
    Story("import of an ended one", [cancelled(5)], imported(9, "team", "plan_team", "sub_A"), Reason.IMPORTED, "hobby > hobby"),
    Story(
        "import twice", [imported(0, "pro", "plan_pro", "sub_A")], imported(0, "pro", "plan_pro", "sub_A"), Reason.DUPLICATE, "pro > pro"
    ),
    Story("import older than the one known", [imported(5, "pro")], imported(0, "team"), Reason.STALE, "pro > pro"),
    Story("newer import", [imported(0, "pro")], imported(5, "team"), Reason.IMPORTED, "pro > team"),
    Story(
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
    Story("charge", [], adopted(charged(0)), Reason.ADOPTED, "free > pro"),
    Story("charge of a second one", [charged(0)], adopted(charged(9, "plan_team", B)), Reason.ADOPTED, "pro > team"),
    Story("charge that governs not", [charged(9)], adopted(charged(0, "plan_team", B)), Reason.ADOPTED, "pro > pro"),
    Story("halt", [], adopted(halted(0)), Reason.ADOPTED, "free > hobby"),
    Story("cancel", [], adopted(cancelled(0)), Reason.ADOPTED, "free > hobby"),
    Story("charge after its completion to come", [adopted(completed(0, ends_at=99))], adopted(charged(0)), Reason.ADOPTED, "free > pro"),
    Story("charge after its authentication", [adopted(billing("authenticated", 0))], adopted(charged(0)), Reason.ADOPTED, "free > pro"),
    Story("the same again", [adopted(charged(0))], adopted(charged(0)), Reason.DUPLICATE, "pro > pro"),
    Story("an older one of it", [adopted(charged(9))], adopted(charged(0)), Reason.STALE, "pro > pro"),
    Story("its renewal", [adopted(charged(0))], adopted(charged(9)), Reason.RENEWAL, "pro > pro"),
    Story("its next plan", [adopted(charged(0))], adopted(charged(9, "plan_team")), Reason.UPGRADED, "pro > team"),
    Story("its cancel", [adopted(charged(0))], adopted(cancelled(9)), Reason.CANCELED, "pro > hobby"),
    Story("its trouble", [], adopted(billing("pending", 0)), Reason.PAYMENT_TROUBLE, "free > free"),
    Story(
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
