"""The story that the demo plays: nine teams' lives over five months, and what strangers send meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from schemas.razorpay import PLACEHOLDER_EMAIL
from schemas.reasons import Reason
from schemas.tiers import Tier
from streams.demo.deliveries import BAD_SIGNATURE, Delivery, Life
from streams.demo.razorpay import DAY, order_paid

STORY_DAYS = 130
"""How far back the story begins: mail of that age must go out in the demo."""


@dataclass(frozen=True, slots=True)
class Story:
    """All deliveries in the order of their arrival; each team's id and the tier it should end on, by name."""

    deliveries: tuple[Delivery, ...]
    team_ids: dict[str, str]
    last_tiers: dict[str, Tier]


def tell(now: float) -> Story:
    """Return the story that ends shortly before ``now`` (Unix seconds). The same but for its times, whenever it is told."""
    start = int(now) - STORY_DAYS * DAY
    lives = {tell_life: Life(tell_life.__name__.removeprefix("_"), start) for tell_life in _LAST_TIERS}
    for tell_life, life in lives.items():
        tell_life(life)
    deliveries = [delivery for life in lives.values() for delivery in life.deliveries] + _strangers(start)
    return Story(
        tuple(sorted(deliveries, key=lambda delivery: delivery.arrives_at)),
        {life.name: life.team_id for life in lives.values()},
        {lives[tell_life].name: tier for tell_life, tier in _LAST_TIERS.items()},
    )


def _aurora(life: Life) -> None:
    """A whole life with one subscription."""
    life.claimed(0, "its owner claims it", name="Asha Rao")
    billing = life.subscribes("plan_hobby", 1)
    billing.tells("authenticated", 1, Reason.NOT_STARTED, "a card, no payment yet")
    billing.tells("charged", 1, Reason.UPGRADED, "first charge, plan_hobby")
    billing.tells("charged", 31, Reason.RENEWAL, "a month later")
    billing.tells("updated", 45, Reason.UPGRADED, "moves to plan_pro", plan="plan_pro")
    billing.tells("charged", 61, Reason.RENEWAL, "renewed on plan_pro")
    billing.tells("updated", 70, Reason.SCHEDULED, "a change, from next month", is_scheduled=True)
    billing.tells("charged", 91, Reason.DOWNGRADED, "back on plan_hobby", plan="plan_hobby")
    billing.tells("cancelled", 110, Reason.CANCELED, "cancelled")


def _basalt(life: Life) -> None:
    """Changes its plan by a second subscription; the first is cancelled three days late."""
    life.claimed(2, "its owner claims it", name="Ben Okafor")
    first = life.subscribes("plan_hobby_plus", 3)
    first.tells("charged", 3, Reason.UPGRADED, "first charge, plan_hobby_plus")
    second = life.subscribes("plan_growth", 30)
    second.tells("charged", 30, Reason.UPGRADED, "a second one, plan_growth")
    first.tells("cancelled", 33, Reason.SUPERSEDED, "the first, cancelled late")
    second.tells("charged", 60, Reason.RENEWAL, "the second renewed")


def _cedar(life: Life) -> None:
    """Its card fails until the subscription is halted; then it pays again. Only the first webhook names the team."""
    life.claimed(4, "its owner claims it", name="Chen Wei")
    billing = life.subscribes("plan_pro", 5)
    billing.tells("charged", 5, Reason.UPGRADED, "first charge, plan_pro")
    billing.subscription = replace(billing.subscription, notes=[])
    billing.tells("pending", 35, Reason.PAYMENT_TROUBLE, "the card fails")
    billing.payment_fails(35, Reason.PAYMENT_TROUBLE, "... and so it says again")
    billing.tells("halted", 38, Reason.CANCELED, "given up after four tries")
    billing.tells("activated", 44, Reason.UPGRADED, "a new card: it is back")
    billing.tells("charged", 44, Reason.RENEWAL, "and has paid")


def _delta(life: Life) -> None:
    """One delivery comes twice; and money comes in after the end."""
    life.claimed(6, "its owner claims it", name="Dalia Haddad")
    billing = life.subscribes("plan_hobby", 7)
    billing.tells("charged", 7, Reason.UPGRADED, "first charge, plan_hobby")
    life.repeats(Reason.DUPLICATE, "the same event id again")
    billing.tells("cancelled", 37, Reason.CANCELED, "cancelled")
    billing.tells("charged", 40, Reason.ENDED, "a charge after the end")


def _ember(life: Life) -> None:
    """Two webhooks arrive in the wrong order."""
    life.claimed(8, "its owner claims it", name="Elif Kaya")
    billing = life.subscribes("plan_hobby", 9)
    billing.tells("charged", 9, Reason.UPGRADED, "first charge, plan_hobby")
    billing.tells("charged", 39, Reason.STALE, "arrives after what followed", arrives=42)
    billing.tells("updated", 41, Reason.UPGRADED, "moves to plan_growth", plan="plan_growth")


def _fjord(life: Life) -> None:
    """An admin puts it on a tier by hand; a renewal leaves that alone, a change of plan does not."""
    life.claimed(10, "its owner claims it", name="Freja Holm")
    billing = life.subscribes("plan_hobby", 11)
    billing.tells("charged", 11, Reason.UPGRADED, "first charge, plan_hobby")
    life.sends("admin.tier_changed", 20, Reason.ADMIN_CHANGED, "a trial of the top tier", to="team", admin="support-4", reason="trial")
    billing.tells("charged", 41, Reason.SUPERSEDED, "renewed; the trial stays")
    life.sends("admin.promo_issued", 50, Reason.PASSED_THROUGH, "a code for a discount", code="STAY20", admin="support-4", percent_off=20)
    billing.tells("updated", 60, Reason.DOWNGRADED, "moves to plan_growth", plan="plan_growth")


def _garnet(life: Life) -> None:
    """Pays for a plan that nobody has listed."""
    life.claimed(12, "its owner claims it", name="Zoë Müller")
    billing = life.subscribes("plan_2019", 13)
    billing.tells("charged", 13, Reason.UNKNOWN_PLAN, "a plan that is not listed")
    billing.tells("updated", 15, Reason.UPGRADED, "support moves it to plan_pro", plan="plan_pro")
    expires_at = life.at(90)
    life.sends(
        "resource.expiry_imminent", 83, Reason.PASSED_THROUGH, "a certificate runs out",
        resource_type="certificate", resource_id="5a0f8f0e-2f0b-4f57-9a3c-0d1f3a3b7c11", expires_at=expires_at,
    )  # fmt: skip


def _harbor(life: Life) -> None:
    """Nobody has claimed it, its payer has no address, and only the payment's note names it; it pays a year at once."""
    facts = {"email": PLACEHOLDER_EMAIL, "notes": [], "payment_notes": {"team_id": life.team_id}, "cycle_days": 365, "total_count": 1}
    billing = life.subscribes("plan_pro_yearly", 14, **facts)
    billing.tells("charged", 14, Reason.UPGRADED, "first charge, plan_pro_yearly")
    billing.tells("completed", 14, Reason.ENDS_LATER, "one cycle, paid for a year")


def _iris(life: Life) -> None:
    """Never pays: it was claimed with a tier."""
    life.claimed(16, "claimed with the hobby tier", name="Ines Duarte", tier="hobby")
    life.sends("near_quota_wall", 18, Reason.PASSED_THROUGH, "92 of 100 GB", resource_type="storage", used=92, limit=100, unit="GB")
    life.repeats(Reason.PASSED_THROUGH, "the service tries again")
    life.sends("experiment.conversion", 25, Reason.PASSED_THROUGH, "it invites a colleague", experiment="invite-button", variant="green")


_LAST_TIERS: dict[Callable[[Life], None], Tier] = {
    _aurora: Tier.HOBBY,
    _basalt: Tier.GROWTH,
    _cedar: Tier.PRO,
    _delta: Tier.HOBBY,
    _ember: Tier.GROWTH,
    _fjord: Tier.GROWTH,
    _garnet: Tier.PRO,
    _harbor: Tier.PRO,
    _iris: Tier.HOBBY,
}
"""The lives, and the tier that each should end on."""


def _strangers(start: int) -> list[Delivery]:
    """What comes to the gateway that is about no team that anybody knows."""
    crowd = Life("strangers", start)
    at = crowd.at(17)
    crowd.receives("order.paid", at, order_paid(at), Reason.IGNORED, "the shop sells a T-shirt")
    lost = crowd.subscribes("plan_growth", 19, email=PLACEHOLDER_EMAIL, notes=None)
    lost.tells("charged", 19, Reason.UNKNOWN_TEAM, "whose it is nobody knows")
    forged = crowd.subscribes("plan_growth", 21)
    forged.tells("charged", 21, BAD_SIGNATURE, "forged: a bad signature")
    crowd.deliveries[-1] = replace(crowd.deliveries[-1], is_forged=True, status=401)
    crowd.receives("(none)", crowd.at(23), b"[1, 2, 3]", Reason.MALFORMED, "signed, but no JSON object")
    crowd.deliveries[-1] = replace(crowd.deliveries[-1], status=400)
    return [replace(delivery, team=None) for delivery in crowd.deliveries]
