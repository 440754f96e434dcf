"""The demo's accounting: balanced for what a right stack writes, and one sentence for each thing that is not right."""

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agents.classify.outputs import due_record
from schemas.reasons import Reason
from schemas.team_events import SubscriptionEvent
from schemas.tiers import Tier
from streams.demo.accounting import Accounting, Evidence, balance, derived_events, newest_tiers, replayed_events, type_of
from streams.demo.scenario import MISSING_PLAN, MISSING_TIER, build_scenario
from streams.embedded.stack import EXAMPLE_PLANS
from streams.kafka.records import Record
from streams.settings import Settings
from tests.pretended_stack import pretend

NOW = 1_780_000_000.0
SCENARIO = build_scenario(NOW)
PLANS = tempfile.NamedTemporaryFile("w", suffix=".toml")  # noqa: SIM115  # it is gone with the process
PLANS.write(f'{EXAMPLE_PLANS.read_text(encoding="utf-8")}{MISSING_PLAN} = "{MISSING_TIER.label}"\n')
PLANS.flush()
SETTINGS = Settings(plans=Path(PLANS.name), partitions=8, replication_factor=1)
EVIDENCE = pretend(SCENARIO, SETTINGS, NOW)


def booked(**changes: object) -> Accounting:
    return balance(SCENARIO, replace(EVIDENCE, **changes), SETTINGS)  # type: ignore[arg-type]


def test_accounting_of_a_right_stack_balance_and_received_is_the_sum_of_outcomes() -> None:
    accounting = booked()

    assert accounting.faults == ()
    expected = Counter(delivery.reason for delivery in SCENARIO.deliveries)
    expected.update(delivery.replayed for delivery in SCENARIO.deliveries if delivery.replayed)
    expected.update(derived.reason for delivery in SCENARIO.deliveries for derived in delivery.derived)
    assert accounting.total.received == expected.total()
    assert accounting.total.outcomes == expected


def test_accounting_account_for_what_every_stage_received() -> None:
    gateway, normalise, classify, audit, forward = booked().accounts

    assert len(replayed_events(EVIDENCE)) == 1
    assert normalise.received - 1 + sum(status == 202 for _, status in EVIDENCE.answers) == gateway.outcomes["accepted"]
    sent, derived = sum(status == 202 for _, status in EVIDENCE.answers), derived_events(EVIDENCE.team_events)
    assert derived == {SubscriptionEvent.DUE: 4, SubscriptionEvent.MOVED: 1}
    assert classify.received == normalise.outcomes[Reason.NORMALISED] + sent + derived.total()
    assert audit.outcomes == {Reason.WRITTEN: len(EVIDENCE.rows), Reason.ALREADY_WRITTEN: 1}
    assert forward.outcomes[Reason.SENT] == len(EVIDENCE.mails)
    assert (forward.outcomes[Reason.PLACEHOLDER_RECIPIENT], forward.outcomes[Reason.ALREADY_FINAL]) == (2, 1)


LIVES = {
    "cedar": [
        (Reason.CLAIMED, Tier.FREE, Tier.FREE),
        (Reason.UPGRADED, Tier.FREE, Tier.PRO),
        (Reason.GRACE_STARTED, Tier.PRO, Tier.PRO),
        (Reason.CANCELED, Tier.PRO, Tier.HOBBY),
        (Reason.UPGRADED, Tier.HOBBY, Tier.PRO),
        (Reason.RENEWAL, Tier.PRO, Tier.PRO),
    ],
    "garnet": [
        (Reason.CLAIMED, Tier.FREE, Tier.FREE),
        (Reason.PASSED_THROUGH, Tier.FREE, Tier.FREE),
        (Reason.UPGRADED, Tier.FREE, Tier.GROWTH),
    ],
    "harbor": [
        (Reason.UPGRADED, Tier.FREE, Tier.PRO),
        (Reason.ENDS_LATER, Tier.PRO, Tier.PRO),
        (Reason.CANCELED, Tier.PRO, Tier.HOBBY),
    ],
    "jasper": [
        (Reason.CLAIMED, Tier.FREE, Tier.FREE),
        (Reason.UPGRADED, Tier.FREE, Tier.HOBBY),
        (Reason.ADMIN_CHANGED, Tier.HOBBY, Tier.TEAM),
        (Reason.DOWNGRADED, Tier.TEAM, Tier.PRO),
        (Reason.DOWNGRADED, Tier.PRO, Tier.HOBBY),
    ],
    "kelp": [
        (Reason.CLAIMED, Tier.FREE, Tier.FREE),
        (Reason.UPGRADED, Tier.FREE, Tier.PRO),
        (Reason.PAUSES_LATER, Tier.PRO, Tier.PRO),
        (Reason.PAUSED, Tier.PRO, Tier.HOBBY),
        (Reason.UPGRADED, Tier.HOBBY, Tier.PRO),
        (Reason.RENEWAL, Tier.PRO, Tier.PRO),
    ],
    "lagoon": [
        (Reason.CLAIMED, Tier.FREE, Tier.FREE),
        (Reason.UPGRADED, Tier.FREE, Tier.GROWTH),
        (Reason.GRACE_STARTED, Tier.GROWTH, Tier.GROWTH),
        (Reason.GRACE_REMINDER, Tier.GROWTH, Tier.GROWTH),
        (Reason.GRACE_RECOVERED, Tier.GROWTH, Tier.GROWTH),
    ],
    "nettle": [
        (Reason.CLAIMED, Tier.FREE, Tier.FREE),
        (Reason.UPGRADED, Tier.FREE, Tier.HOBBY_PLUS),
        (Reason.MOVED, Tier.HOBBY_PLUS, Tier.HOBBY),
    ],
}


@pytest.mark.parametrize("team", LIVES)
def test_decisions_stand_in_the_order_of_the_log_with_the_tiers_before_and_after(team: str) -> None:
    decided = [(each.reason, each.before, each.after) for each in booked().decided if each.stage == "classify" and each.team == team]

    assert decided == LIVES[team]


def test_newest_tier_of_a_team_is_the_last_record_of_its_key() -> None:
    tiers = newest_tiers(EVIDENCE.tiers)

    assert {name: tiers[team_id]["tier"] for name, team_id in SCENARIO.team_ids.items()} == {
        name: tier.label for name, tier in SCENARIO.last_tiers.items()
    }


def _due(evidence: Evidence) -> Record:
    return next(record for record in evidence.team_events if type_of(record) == SubscriptionEvent.DUE)


def _with_due_record_of(evidence: Evidence, **changes: object) -> dict[str, object]:
    """The evidence with one due record changed."""
    due = _due(evidence)
    return {"team_events": tuple(replace(record, **changes) if record is due else record for record in evidence.team_events)}


def _without_last(name: str) -> Callable[[Evidence], dict[str, object]]:
    return lambda evidence: {name: getattr(evidence, name)[:-1]}


WEBHOOKS, EVENTS, AUDITED, MAILS = map(len, (EVIDENCE.webhooks, EVIDENCE.team_events, EVIDENCE.audit_events, EVIDENCE.mails))

FALSIFICATIONS: dict[str, tuple[Callable[[Evidence], dict[str, object]], str]] = {
    "an answer": (lambda e: {"answers": ((e.answers[0][0], 503), *e.answers[1:])}, "was answered 503 instead of 202"),
    "a lost webhook": (_without_last("webhooks"), f"normalise received {WEBHOOKS - 1} and has outcomes for {WEBHOOKS}"),
    "a lost team event": (_without_last("team_events"), f"classify received {EVENTS - 1} and has outcomes for {EVENTS}"),
    "a due record of what nobody waited for": (
        lambda e: _with_due_record_of(e, value=due_record(SCENARIO.team_ids["kelp"], "sub_of_nobody", "plan_pro", int(NOW) - 5, None)),
        "team.events holds a subscription.due of sub_of_nobody@1779999995, which the row of its team did not wait for.",
    ),
    "a due record that came early": (lambda e: _with_due_record_of(e, timestamp=1_000), "which the row of its team did not wait for"),
    "an invented record": (
        lambda e: {"team_events": (*e.team_events, next(each for each in e.team_events if type_of(each) == "near_quota_wall"))},
        f"team.events holds {EVENTS - 44} records beside the 45 of normalise; services sent {EVENTS - 49}, and 4 say that a time has come",
    ),
    "a lost audit event": (
        _without_last("audit_events"),
        f"audit.events holds {AUDITED - 1} records, which are not the {AUDITED} that were decided",
    ),
    "a replay that nobody made": (
        lambda e: {"audit_events": (*e.audit_events, next(each for each in e.audit_events if b"operator.replayed" in (each.value or b"")))},
        "audit.events says of 2 replays, and there were 1",
    ),
    "a lost dead letter": (
        lambda e: {"dead_letters": tuple(each for each in e.dead_letters if dict(each.headers).get("dlq-stage") != b"gateway")},
        "dead.letters holds 2 dead letters, and 3 were parked",
    ),
    "a lost row": (_without_last("rows"), f"audit received {AUDITED} and has outcomes for {AUDITED - 1}"),
    "a changed row": (
        lambda e: {"rows": (e.rows[0]._replace(summary="?"), *e.rows[1:])},
        f"audit_log holds {AUDITED - 1} rows, which are not those",
    ),
    "a lost mail": (_without_last("mails"), f"Loops has accepted {MAILS - 1} mails, which are not the {MAILS}"),
    "a second mail": (lambda e: {"mails": (*e.mails, e.mails[0])}, f"Loops has accepted {MAILS + 1} mails, which are not the {MAILS}"),
    "an unsettled mail": (
        lambda e: {"ledger": dict(list(e.ledger.items())[1:])},
        f"forward received {AUDITED} and has outcomes for {AUDITED - 1}",
    ),
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
