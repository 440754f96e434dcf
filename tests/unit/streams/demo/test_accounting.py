"""The demo's accounting: balanced for what a right stack writes, and one sentence for each thing that is not right."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from schemas.reasons import Reason
from schemas.tiers import Tier
from streams.demo.accounting import Accounting, Evidence, balance, newest_tiers
from streams.demo.scenario import build_scenario
from streams.embedded.stack import EXAMPLE_PLANS
from streams.settings import Settings
from tests.pretended_stack import pretend

NOW = 1_780_000_000.0
SCENARIO = build_scenario(NOW)
SETTINGS = Settings(plans=EXAMPLE_PLANS, partitions=8, replication_factor=1)
EVIDENCE = pretend(SCENARIO, SETTINGS, NOW)


def booked(**changes: object) -> Accounting:
    return balance(SCENARIO, replace(EVIDENCE, **changes), SETTINGS)  # type: ignore[arg-type]


def test_accounting_of_a_right_stack_balance_and_received_is_the_sum_of_outcomes() -> None:
    accounting = booked()

    assert accounting.faults == ()
    assert accounting.total.received == len(SCENARIO.deliveries) == accounting.total.outcomes.total()
    assert accounting.total.outcomes == Counter(delivery.reason for delivery in SCENARIO.deliveries)


def test_accounting_account_for_what_every_stage_received() -> None:
    gateway, normalise, classify, audit, forward = booked().accounts

    assert normalise.received + sum(status == 202 for _, status in EVIDENCE.answers) == gateway.outcomes["accepted"]
    assert classify.received == normalise.outcomes[Reason.NORMALISED] + sum(status == 202 for _, status in EVIDENCE.answers)
    assert audit.outcomes == {Reason.WRITTEN: len(EVIDENCE.rows), Reason.ALREADY_WRITTEN: 1}
    assert forward.outcomes[Reason.SENT] == len(EVIDENCE.mails)
    assert forward.outcomes[Reason.PLACEHOLDER_RECIPIENT] == forward.outcomes[Reason.ALREADY_FINAL] == 1


def test_decisions_stand_in_the_order_of_the_log_with_the_tiers_before_and_after() -> None:
    deliveries = {delivery.event_id: delivery for delivery in SCENARIO.deliveries}
    cedar = [
        (decided.reason, decided.before, decided.after)
        for decided in booked().decided
        if decided.stage == "classify" and deliveries[decided.event_id].team == "cedar"
    ]

    assert cedar == [
        (Reason.CLAIMED, Tier.FREE, Tier.FREE),
        (Reason.UPGRADED, Tier.FREE, Tier.PRO),
        (Reason.PAYMENT_TROUBLE, Tier.PRO, Tier.PRO),
        (Reason.CANCELED, Tier.PRO, Tier.HOBBY),
        (Reason.UPGRADED, Tier.HOBBY, Tier.PRO),
        (Reason.RENEWAL, Tier.PRO, Tier.PRO),
    ]


def test_newest_tier_of_a_team_is_the_last_record_of_its_key() -> None:
    tiers = newest_tiers(EVIDENCE.tiers)

    assert {name: tiers[team_id]["tier"] for name, team_id in SCENARIO.team_ids.items()} == {
        name: tier.label for name, tier in SCENARIO.last_tiers.items()
    }


def _without_last(name: str) -> Callable[[Evidence], dict[str, object]]:
    return lambda evidence: {name: getattr(evidence, name)[:-1]}


FALSIFICATIONS: dict[str, tuple[Callable[[Evidence], dict[str, object]], str]] = {
    "an answer": (lambda e: {"answers": ((e.answers[0][0], 503), *e.answers[1:])}, "was answered 503 instead of 202"),
    "a lost webhook": (_without_last("webhooks"), "normalise received 33 and has outcomes for 34"),
    "a lost team event": (_without_last("team_events"), "classify received 43 and has outcomes for 44"),
    "a lost audit event": (_without_last("audit_events"), "audit.events holds 33 records, which are not the 34 that were decided"),
    "a lost dead letter": (_without_last("dead_letters"), "dead.letters holds 2 records, and 3 were parked"),
    "a lost row": (_without_last("rows"), "audit received 34 and has outcomes for 33"),
    "a changed row": (lambda e: {"rows": (e.rows[0]._replace(summary="?"), *e.rows[1:])}, "audit_log holds 33 rows, which are not those"),
    "a lost mail": (_without_last("mails"), "Loops has accepted 28 mails, which are not the 29"),
    "a second mail": (lambda e: {"mails": (*e.mails, e.mails[0])}, "Loops has accepted 30 mails, which are not the 29"),
    "an unsettled mail": (lambda e: {"ledger": dict(list(e.ledger.items())[1:])}, "forward received 34 and has outcomes for 33"),
    "a miscount": (
        lambda e: {"counted": {**e.counted, "classify": e.counted["classify"] + Counter(renewal=1) - Counter(stale=1)}},
        "classify counted",
    ),
    "a lost tier": (lambda e: {"tiers": ()}, "aurora ends on no tier instead of hobby"),
    "another tier": (lambda e: {"tiers": e.tiers[:1]}, "tier.current does not hold the tiers that were decided last"),
}


@pytest.mark.parametrize("name", FALSIFICATIONS)
def test_accounting_say_in_a_sentence_what_does_not_agree(name: str) -> None:
    falsify, sentence = FALSIFICATIONS[name]

    faults = booked(**falsify(EVIDENCE)).faults

    assert any(sentence in fault for fault in faults), faults
    assert all(fault.endswith(".") for fault in faults)


def test_accounting_say_when_an_event_ended_otherwise_than_the_scenario_expects() -> None:
    first = SCENARIO.deliveries[0]
    scenario = replace(SCENARIO, deliveries=(replace(first, reason=Reason.STALE), *SCENARIO.deliveries[1:]))

    accounting = balance(scenario, EVIDENCE, SETTINGS)

    assert accounting.faults == ("onboarding.claimed of aurora ended as claimed instead of stale.",)
