"""The demo's scenario: fifteen teams from sign-up to cancellation over 400 days, and requests of strangers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from schemas.razorpay import PLACEHOLDER_EMAIL
from schemas.reasons import Reason
from schemas.tiers import Tier
from streams.demo.deliveries import BAD_SIGNATURE, Delivery, TeamScenario, team_id_of
from streams.demo.razorpay import DAY, order_paid

SCENARIO_DAYS = 400
"""How far back the scenario begins, so that a paid year can end in it: mail of that age must go out in the demo."""

MISSING_PLAN, MISSING_TIER = "plan_2019", Tier.GROWTH
"""The plan that is not in the demo's plan file until its end, and the tier that it has then."""

_TODAY = SCENARIO_DAYS
"""The day on which the demo runs. A grace period that still goes on, or is to be ended by more than time, is counted back from it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """All deliveries in the order of their arrival; each team's id and the tier it should end on, by name."""

    deliveries: tuple[Delivery, ...]
    team_ids: dict[str, str]
    last_tiers: dict[str, Tier]


def build_scenario(now: float) -> Scenario:
    """Return the scenario that ends shortly before ``now`` (Unix seconds). Only its times depend on ``now``."""
    start = int(now) - SCENARIO_DAYS * DAY
    teams = {build_team: TeamScenario(build_team.__name__.removeprefix("_"), start) for build_team in _LAST_TIERS}
    for build_team, team in teams.items():
        build_team(team)
    deliveries = [delivery for team in teams.values() for delivery in team.deliveries] + _strangers(start)
    return Scenario(
        tuple(sorted(deliveries, key=lambda delivery: delivery.arrives_at)),
        {team.name: team.team_id for team in teams.values()},
        {teams[build_team].name: tier for build_team, tier in _LAST_TIERS.items()},
    )


def _aurora(team: TeamScenario) -> None:
    """One subscription, from its authentication to its end."""
    team.claimed(0, "its owner claims it", name="Asha Rao")
    billing = team.subscribes("plan_hobby", 1)
    billing.sends("authenticated", 1, Reason.NOT_STARTED, "a card, no payment yet")
    billing.sends("charged", 1, Reason.UPGRADED, "first charge, plan_hobby")
    billing.sends("charged", 31, Reason.RENEWAL, "a month later")
    billing.sends("updated", 45, Reason.UPGRADED, "moves to plan_pro", plan="plan_pro")
    billing.sends("charged", 61, Reason.RENEWAL, "renewed on plan_pro")
    billing.sends("updated", 70, Reason.SCHEDULED, "a change, from next month", is_scheduled=True)
    billing.sends("charged", 91, Reason.DOWNGRADED, "back on plan_hobby", plan="plan_hobby")
    billing.sends("cancelled", 110, Reason.CANCELED, "cancelled")


def _basalt(team: TeamScenario) -> None:
    """Changes its plan by a second subscription; the first is cancelled three days late."""
    team.claimed(2, "its owner claims it", name="Ben Okafor")
    first = team.subscribes("plan_hobby_plus", 3)
    first.sends("charged", 3, Reason.UPGRADED, "first charge, plan_hobby_plus")
    second = team.subscribes("plan_growth", 30)
    second.sends("charged", 30, Reason.UPGRADED, "a second one, plan_growth")
    first.sends("cancelled", 33, Reason.SUPERSEDED, "the first, cancelled late")
    second.sends("charged", 60, Reason.RENEWAL, "the second renewed")


def _cedar(team: TeamScenario) -> None:
    """Its card fails until the subscription is halted; then it pays again. Only the first webhook names the team."""
    team.claimed(_TODAY - 33, "its owner claims it", name="Chen Wei")
    billing = team.subscribes("plan_pro", _TODAY - 32)
    billing.sends("charged", _TODAY - 32, Reason.UPGRADED, "first charge, plan_pro")
    billing.subscription = replace(billing.subscription, notes=[])
    billing.sends("pending", _TODAY - 2, Reason.GRACE_STARTED, "the card fails")
    billing.payment_fails(_TODAY - 2, Reason.PAYMENT_TROUBLE, "... and so it says again")
    billing.sends("halted", _TODAY - 1, Reason.CANCELED, "given up after four tries")
    billing.sends("activated", _TODAY - 1, Reason.UPGRADED, "a new card: it is back")
    billing.sends("charged", _TODAY - 1, Reason.RENEWAL, "and has paid")


def _delta(team: TeamScenario) -> None:
    """One delivery comes twice; and money comes in after the end."""
    team.claimed(6, "its owner claims it", name="Dalia Haddad")
    billing = team.subscribes("plan_hobby", 7)
    billing.sends("charged", 7, Reason.UPGRADED, "first charge, plan_hobby")
    team.repeats(Reason.DUPLICATE, "the same event id again")
    billing.sends("cancelled", 37, Reason.CANCELED, "cancelled")
    billing.sends("charged", 40, Reason.ENDED, "a charge after the end")


def _ember(team: TeamScenario) -> None:
    """Two webhooks arrive in the wrong order."""
    team.claimed(8, "its owner claims it", name="Elif Kaya")
    billing = team.subscribes("plan_hobby", 9)
    billing.sends("charged", 9, Reason.UPGRADED, "first charge, plan_hobby")
    billing.sends("charged", 39, Reason.STALE, "arrives after what followed", arrives=42)
    billing.sends("updated", 41, Reason.UPGRADED, "moves to plan_growth", plan="plan_growth")


def _fjord(team: TeamScenario) -> None:
    """An admin puts it on a tier by hand; a renewal leaves that alone, a change of plan does not."""
    team.claimed(10, "its owner claims it", name="Freja Holm")
    billing = team.subscribes("plan_hobby", 11)
    billing.sends("charged", 11, Reason.UPGRADED, "first charge, plan_hobby")
    team.sends("admin.tier_changed", 20, Reason.ADMIN_CHANGED, "a trial of the top tier", to="team", admin="support-4", reason="trial")
    billing.sends("charged", 41, Reason.SUPERSEDED, "renewed; the trial stays")
    team.sends("admin.promo_issued", 50, Reason.PASSED_THROUGH, "a code for a discount", code="STAY20", admin="support-4", percent_off=20)
    billing.sends("updated", 60, Reason.DOWNGRADED, "moves to plan_growth", plan="plan_growth")


def _garnet(team: TeamScenario) -> None:
    """Pays for a plan that nobody has listed, until an operator adds it at the end and replays the charge."""
    team.claimed(12, "its owner claims it", name="Zoë Müller")
    billing = team.subscribes(MISSING_PLAN, 13)
    billing.sends("charged", 13, Reason.UNKNOWN_PLAN, "a plan that is not listed")
    billing.is_replayed(Reason.UPGRADED)
    expires_at = team.at(90)
    team.sends(
        "resource.expiry_imminent", 83, Reason.PASSED_THROUGH, "a certificate runs out",
        resource_type="certificate", resource_id="5a0f8f0e-2f0b-4f57-9a3c-0d1f3a3b7c11", expires_at=expires_at,
    )  # fmt: skip


def _harbor(team: TeamScenario) -> None:
    """Nobody has claimed it, its payer has no address, and only the payment's note names it; it pays a year at once, and no more."""
    facts = {
        "email": PLACEHOLDER_EMAIL,
        "notes": [],
        "payment_notes": {"team_id": team.team_id},
        "cycle_days": 365,
        "total_count": 1,
    }
    billing = team.subscribes("plan_pro_yearly", 14, **facts)
    billing.sends("charged", 14, Reason.UPGRADED, "first charge, plan_pro_yearly")
    billing.sends("completed", 14, Reason.ENDS_LATER, "one cycle, paid for a year")
    billing.paid_time_ends(Reason.CANCELED, "the paid year is over")


def _iris(team: TeamScenario) -> None:
    """Never pays: it was claimed with a tier."""
    team.claimed(16, "claimed with the hobby tier", name="Ines Duarte", tier="hobby")
    team.sends("near_quota_wall", 18, Reason.PASSED_THROUGH, "92 of 100 GB", resource_type="storage", used=92, limit=100, unit="GB")
    team.repeats(Reason.PASSED_THROUGH, "the service tries again")
    team.sends("experiment.conversion", 25, Reason.PASSED_THROUGH, "it invites a colleague", experiment="invite-button", variant="green")


def _jasper(team: TeamScenario) -> None:
    """Comes back to a plan that it had before an admin's decision: the return is newer, so it counts."""
    team.claimed(18, "its owner claims it", name="Jonas Berg")
    billing = team.subscribes("plan_hobby", 19)
    billing.sends("charged", 19, Reason.UPGRADED, "first charge, plan_hobby")
    team.sends("admin.tier_changed", 30, Reason.ADMIN_CHANGED, "the top tier, for a fair", to="team", admin="support-2", reason="fair")
    billing.sends("updated", 45, Reason.DOWNGRADED, "moves to plan_pro itself", plan="plan_pro")
    billing.sends("updated", 75, Reason.DOWNGRADED, "back to plan_hobby", plan="plan_hobby")


def _kelp(team: TeamScenario) -> None:
    """Pauses in the middle of a paid month: the tier stays to its end, and comes back with the subscription."""
    team.claimed(20, "its owner claims it", name="Kofi Mensah")
    billing = team.subscribes("plan_pro", 21)
    billing.sends("charged", 21, Reason.UPGRADED, "first charge, plan_pro")
    billing.sends("paused", 31, Reason.PAUSES_LATER, "paused, the month is paid")
    billing.paid_time_ends(Reason.PAUSED, "the paid month is over")
    billing.sends("resumed", 65, Reason.UPGRADED, "resumed")
    billing.sends("charged", 65, Reason.RENEWAL, "and has paid")


def _lagoon(team: TeamScenario) -> None:
    """Its card fails, it is reminded, and pays within the days of grace."""
    team.claimed(_TODAY - 35, "its owner claims it", name="Lucía Ferrer")
    billing = team.subscribes("plan_growth", _TODAY - 34)
    billing.sends("charged", _TODAY - 34, Reason.UPGRADED, "first charge, plan_growth")
    billing.sends("pending", _TODAY - 4, Reason.GRACE_STARTED, "the card fails: 7 days' grace")
    billing.grace_goes_on(3, Reason.GRACE_REMINDER, "day 3 of the grace")
    billing.sends("charged", _TODAY - 1, Reason.GRACE_RECOVERED, "paid in time")


def _meadow(team: TeamScenario) -> None:
    """Its card fails, and nobody pays."""
    team.claimed(_TODAY - 41, "its owner claims it", name="Mira Novak")
    billing = team.subscribes("plan_pro", _TODAY - 40)
    billing.sends("charged", _TODAY - 40, Reason.UPGRADED, "first charge, plan_pro")
    billing.sends("pending", _TODAY - 10, Reason.GRACE_STARTED, "the card fails: 7 days' grace")
    billing.grace_goes_on(7, Reason.CANCELED, "the grace is over, not paid")


def _nettle(team: TeamScenario) -> None:
    """Support moves its subscription to another team, by the note."""
    team.claimed(22, "its owner claims it", name="Noor Haddad")
    billing = team.subscribes("plan_hobby_plus", 23)
    billing.sends("charged", 23, Reason.UPGRADED, "first charge, plan_hobby_plus")
    billing.subscription = replace(billing.subscription, notes={"team_id": team_id_of("orchid")})
    billing.sends("charged", 53, Reason.UPGRADED, "its note names another team")
    billing.moves_to("orchid", Reason.MOVED, "the subscription is orchid's now")


def _orchid(team: TeamScenario) -> None:
    """Gets another team's subscription."""
    team.claimed(24, "its owner claims it", name="Otto Lind")


_LAST_TIERS: dict[Callable[[TeamScenario], None], Tier] = {
    _aurora: Tier.HOBBY,
    _basalt: Tier.GROWTH,
    _cedar: Tier.PRO,
    _delta: Tier.HOBBY,
    _ember: Tier.GROWTH,
    _fjord: Tier.GROWTH,
    _garnet: Tier.GROWTH,
    _harbor: Tier.HOBBY,
    _iris: Tier.HOBBY,
    _jasper: Tier.HOBBY,
    _kelp: Tier.PRO,
    _lagoon: Tier.GROWTH,
    _meadow: Tier.HOBBY,
    _nettle: Tier.HOBBY,
    _orchid: Tier.HOBBY_PLUS,
}
"""The teams, and the tier that each should end on."""


def _strangers(start: int) -> list[Delivery]:
    """What comes to the gateway that is about no team that anybody knows."""
    crowd = TeamScenario("strangers", start)
    at = crowd.at(17)
    crowd.receives("order.paid", at, order_paid(at), Reason.IGNORED, "the shop sells a T-shirt")
    lost = crowd.subscribes("plan_growth", 19, email=PLACEHOLDER_EMAIL, notes=None)
    lost.sends("charged", 19, Reason.UNKNOWN_TEAM, "whose it is nobody knows")
    forged = crowd.subscribes("plan_growth", 21)
    forged.sends("charged", 21, BAD_SIGNATURE, "forged: a bad signature")
    crowd.deliveries[-1] = replace(crowd.deliveries[-1], is_forged=True, status=401)
    crowd.receives("(none)", crowd.at(23), b"[1, 2, 3]", Reason.MALFORMED, "signed, but no JSON object")
    crowd.deliveries[-1] = replace(crowd.deliveries[-1], status=400)
    return [replace(delivery, team=None) for delivery in crowd.deliveries]
