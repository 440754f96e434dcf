"""What classify writes: audit events and current tiers, as their readers take them."""

import re
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from agents.classify.decide import Decision
from agents.classify.facts import TeamEvent
from agents.classify.outputs import audit_events, owner_of, tier_current
from schemas.audit import AuditData, TierCurrent
from schemas.envelope import Envelope, derived_id
from schemas.kinds import TRANSITIONS, Kind
from schemas.serialize import rfc3339
from tests.factories import T0, TEAM, Event, Team, billing, claim, imported, override, read, service
from tests.unit.agents.classify.decision_table import DECISION_TABLE, Case, cancelled, charged, completed, halted

ADDRESS = re.compile(r"[^@\s\"]+@[^@\s\"]+")
USER = "0b0e9c51-3b0f-4f3c-a7a5-1de2a5a9a001"

EMITTED = [
    pytest.param(case, id=f"{group}: {case.title}")
    for group, cases in DECISION_TABLE.items()
    for case in cases
    if case.kind and group != "adoptions"
]


def audit_event_after(*events: Event) -> Envelope[AuditData]:
    """Return the audit event of the last of ``events``, as its readers take it."""
    return Envelope[AuditData].model_validate_json(written(*events))


def written(*events: Event) -> bytes:
    """Return the bytes of the audit event of the last of ``events``."""
    event, decision = decided(*events)
    (found,) = audit_events(event, decision, owner_of(decision.row))
    return found


def decided(*events: Event) -> tuple[TeamEvent, Decision]:
    team = Team(*events[:-1])
    return read(events[-1]), team.feed(events[-1])


def current(*events: Event) -> Envelope[TierCurrent]:
    """Return the current tier after ``events``, as its readers take it."""
    event, decision = decided(*events)
    return Envelope[TierCurrent].model_validate_json(tier_current(event, decision.after))


# The envelope of an audit event


@pytest.mark.parametrize("case", EMITTED)
def test_audit_event_of_every_scenario_is_one_that_its_readers_take(case: Case) -> None:
    event = case.event

    audit = audit_event_after(*case.given, event)

    assert (audit.type, audit.subject, audit.source) == (case.kind, TEAM, "tierstream/classify")
    assert audit.id == derived_id("classify", event["source"], event["id"], TEAM, str(case.kind))
    assert (audit.causationid, audit.correlationid) == (event["id"], event.get("correlationid", event["id"]))
    assert audit.data.summary


@pytest.mark.parametrize("case", EMITTED)
def test_audit_event_is_dated_at_the_fact_and_not_at_its_arrival(case: Case) -> None:
    audit = audit_event_after(*case.given, case.event)

    moment = datetime.fromisoformat(case.event["time"]).replace(microsecond=0)
    assert (audit.time, audit.data.created_at) == (moment, moment)
    assert audit.data.metadata["occurred_at"] == moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_audit_event_of_a_redelivery_is_the_same_bytes() -> None:
    # Classify emits a pass-through or an undeliverable charge again when it is delivered again.
    for given, event in (
        ([], service("near_quota_wall", 0, resource_type="seats", used=9, limit=10)),
        ([charged(0), cancelled(5)], charged(9)),
    ):
        assert written(*given, event) == written(*given, event, event)


def test_audit_event_ids_differ_by_event_kind_and_team() -> None:
    other_team = "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b02"
    audits = [
        audit_event_after(charged(0)),
        audit_event_after(charged(1)),
        audit_event_after(cancelled(0)),
        audit_event_after(billing("charged", 0, team=other_team)),
        audit_event_after(claim(0)),
    ]

    assert len({audit.id for audit in audits}) == len(audits)


def test_audit_event_of_two_sources_that_both_say_1_are_two() -> None:
    ids = {
        audit_event_after(service("experiment.conversion", 0, id="1", source=source, experiment="x", variant="b")).id
        for source in ("app", "quota")
    }

    assert len(ids) == 2


# Metadata and summary


@pytest.mark.parametrize("case", [case for case in EMITTED if case.values[0].kind in TRANSITIONS])  # type: ignore[union-attr]
def test_metadata_of_a_transition_says_what_happened_and_why(case: Case) -> None:
    metadata = audit_event_after(*case.given, case.event).data.metadata

    before, after = case.tiers.split(" > ")
    fact = case.event["data"]
    assert (metadata["from"], metadata["to"], metadata["reason"]) == (before, after, case.reason)
    assert [metadata[name] for name in ("event_id", "subscription_id", "plan_id")] == [
        fact["event_id"],
        fact["subscription_id"],
        fact["plan_id"],
    ]
    assert (metadata["time_source"], metadata["paid_count"]) == ("created_at", fact["paid_count"])


def test_metadata_of_an_undeliverable_charge_says_which_payment() -> None:
    payment: dict[str, Any] = {"amount": 49_900, "currency": "INR", "payment_id": "pay_1"}

    audit = audit_event_after(charged(0), cancelled(5), billing("charged", 9, **payment))

    assert audit.type == Kind.CHARGE_UNDELIVERABLE
    assert payment.items() <= audit.data.metadata.items()
    assert audit.data.metadata["subscription_id"] == "sub_A"


def test_metadata_of_an_override_emits_what_was_asked_for_from_what_came_of_it() -> None:
    late = audit_event_after(charged(9), override(0, "Team", admin="admin-7", reason="goodwill"))

    metadata = late.data.metadata
    assert (metadata["from"], metadata["to"], metadata["requested"]) == ("pro", "pro", "team")
    assert (metadata["admin"], metadata["admin_reason"], metadata["reason"]) == ("admin-7", "goodwill", "admin_changed")


def test_metadata_of_a_claim_has_the_tiers_and_neither_name_nor_address() -> None:
    metadata = audit_event_after(charged(0), claim(9, tier="team", name="Jane Roe", user_id="u1")).data.metadata

    assert (metadata["from"], metadata["to"], metadata["reason"], metadata["user_id"]) == ("pro", "pro", "claimed", "u1")
    assert not {"email", "name"} & set(metadata)


@pytest.mark.parametrize(
    ("event", "own"),
    [
        (
            service("near_quota_wall", 0, resource_type="seats", used=9, limit=10.5, unit="seats", region="eu"),
            {"resource_type": "seats", "used": 9, "limit": 10.5, "unit": "seats", "region": "eu"},
        ),
        (service("experiment.conversion", 0, experiment="x", variant="b"), {"experiment": "x", "variant": "b"}),
        (
            service("admin.promo_issued", 0, code="X", admin="admin-7", percent_off=20, expires_at=T0),
            {"code": "X", "admin": "admin-7", "percent_off": 20.0, "expires_at": "2025-06-15T15:06:40Z"},
        ),
        (
            service("resource.expiry_imminent", 0, resource_type="domain", resource_id="d1", expires_at=T0),
            {"resource_type": "domain", "resource_id": "d1", "expires_at": "2025-06-15T15:06:40Z"},
        ),
    ],
)
def test_metadata_of_what_is_passed_through_is_the_services_own_and_no_tiers(event: Event, own: dict[str, Any]) -> None:
    metadata = audit_event_after(event).data.metadata

    assert metadata == own | {"reason": "passed_through", "event_id": event["id"], "occurred_at": "2025-06-15T15:06:40Z"}


def test_metadata_unknown_fields_can_not_pose_as_ours() -> None:
    audit = audit_event_after(claim(0, **{"from": "team", "to": "team", "reason": "mine", "event_id": "mine", "occurred_at": "mine"}))

    metadata = audit.data.metadata
    assert [metadata[name] for name in ("from", "to", "reason", "occurred_at")] == ["free", "free", "claimed", "2025-06-15T15:06:40Z"]
    assert metadata["event_id"] != "mine"


def test_metadata_event_id_of_a_services_event_is_its_own_id_whatever_it_correlates_with() -> None:
    event = {**claim(0, id="claim-1"), "correlationid": "session-9"}

    audit = audit_event_after(event)

    assert (audit.data.metadata["event_id"], audit.correlationid) == ("claim-1", "session-9")


@pytest.mark.parametrize("case", EMITTED)
def test_addresses_stand_in_the_contact_alone(case: Case) -> None:
    owner = claim(-9, "owner@example.com", name="owner.name@example.com")
    event = case.event
    if event["type"].startswith("subscription."):
        event = {**event, "data": {**event["data"], "email": "payer@example.com"}}

    audit = orjson.loads(written(owner, *case.given, event))

    audit["data"].pop("contact")
    assert not ADDRESS.findall(orjson.dumps(audit).decode())


@pytest.mark.parametrize(
    ("events", "summary"),
    [
        ([charged(0)], "Upgraded from free to pro"),
        ([charged(0), charged(9, "plan_hobby")], "Downgraded from pro to hobby"),
        ([charged(0), cancelled(9)], "Subscription canceled, from pro to hobby"),
        ([charged(0, "plan_hobby"), halted(9)], "Subscription canceled, still on hobby"),
        ([claim(0)], "Team claimed, on free"),
        ([override(0, "team")], "Tier changed by an admin, from free to team"),
        ([service("admin.promo_issued", 0, code="X", admin="a")], "Promotion code issued by an admin"),
        ([charged(0), completed(5), charged(9)], "Charge received for a subscription that has ended"),
        ([service("near_quota_wall", 0, resource_type="seats", used=9, limit=10)], "Near the limit of seats"),
        ([service("resource.expiry_imminent", 0, resource_type="domain", resource_id="1", expires_at=T0)], "domain expires soon"),
        ([service("experiment.conversion", 0, experiment="x", variant="b")], "Experiment converted"),
    ],
)
def test_summary_is_one_line_that_a_person_reads(events: list[Event], summary: str) -> None:
    assert audit_event_after(*events).data.summary == summary


# Who: actor, resource, owner


@pytest.mark.parametrize(
    ("events", "actor"),
    [
        ([charged(0)], "system"),
        ([charged(0), cancelled(5)], "system"),
        ([override(0, "team")], "admin"),
        ([service("admin.promo_issued", 0, code="X", admin="a")], "admin"),
        ([claim(0)], "agent"),
        ([service("experiment.conversion", 0, experiment="x", variant="b")], "agent"),
    ],
)
def test_actor_is_the_system_for_webhooks_and_an_admin_for_what_admins_do(events: list[Event], actor: str) -> None:
    assert audit_event_after(*events).data.actor == actor


@pytest.mark.parametrize(("resource_id", "kept"), [(USER.upper(), USER), ("d1", None)])
def test_resource_id_is_kept_as_a_column_only_when_it_is_a_uuid(resource_id: str, kept: str | None) -> None:
    data = audit_event_after(service("resource.expiry_imminent", 0, resource_type="domain", resource_id=resource_id, expires_at=T0)).data

    assert (data.resource_type, data.resource_id and str(data.resource_id)) == ("domain", kept)
    assert data.metadata["resource_id"] == resource_id


def test_resource_of_a_billing_event_is_a_subscription() -> None:
    assert (audit_event_after(charged(0)).data.resource_type, audit_event_after(charged(0)).data.resource_id) == ("subscription", None)


CLAIM = claim(0, "owner@example.com", name="Jane", user_id=USER)
IMPORT = imported(0, "pro", email="known@example.com", user_id=USER.replace("1", "2"))
PAYER = billing("charged", 9, plan="plan_team", email="payer@example.com")


@pytest.mark.parametrize(
    ("events", "email", "name"),
    [
        ([CLAIM, IMPORT, PAYER], "owner@example.com", "Jane"),
        ([IMPORT, PAYER], "known@example.com", None),
        ([PAYER], "payer@example.com", None),
        ([imported(0, "pro"), PAYER], "payer@example.com", None),
        ([CLAIM, service("near_quota_wall", 9, resource_type="seats", used=9, limit=10)], "owner@example.com", "Jane"),
        ([CLAIM, claim(5, "new@example.com")], "new@example.com", None),
        ([charged(9), CLAIM], "owner@example.com", "Jane"),  # however late
    ],
)
def test_contact_is_the_claims_else_the_imports_else_the_payers(events: list[Event], email: str, name: str | None) -> None:
    contact = audit_event_after(*events).data.contact

    assert contact is not None
    assert (contact.email, contact.name) == (email, name)


def test_contact_is_absent_when_nobody_is_known() -> None:
    assert audit_event_after(charged(0)).data.contact is None


@pytest.mark.parametrize(
    ("events", "user_id"),
    [
        ([CLAIM, IMPORT, PAYER], USER),
        ([IMPORT, PAYER], USER.replace("1", "2")),
        ([claim(0, user_id="u1"), PAYER], None),  # no UUID: in the claim's metadata, not in the column
        ([PAYER], None),
    ],
)
def test_user_id_is_the_claims_else_the_imports(events: list[Event], user_id: str | None) -> None:
    found = audit_event_after(*events).data.user_id

    assert (found and str(found)) == user_id


# tier.current


@pytest.mark.parametrize(
    ("events", "tier", "since", "subscription"),
    [
        ([claim(3)], "free", 3, None),
        ([charged(3)], "pro", 3, "sub_A"),
        ([charged(3), charged(30, paid_count=2)], "pro", 3, "sub_A"),
        ([charged(3), charged(30, "plan_team", "sub_B")], "team", 30, "sub_B"),
        ([charged(3), override(30, "team")], "team", 30, None),
        ([charged(3), cancelled(30)], "hobby", 30, None),
        ([imported(3, "pro", "plan_pro", "sub_A")], "pro", 3, "sub_A"),
        ([imported(3, "pro")], "pro", 3, None),
        ([claim(3, tier="pro")], "pro", 3, None),
        ([cancelled(9), charged(3)], "hobby", 9, None),
    ],
)
def test_current_tier_says_tier_since_when_and_by_which_subscription(
    events: list[Event], tier: str, since: int, subscription: str | None
) -> None:
    record = current(*events)

    assert record.data == TierCurrent(team_id=TEAM, tier=tier, since=datetime.fromtimestamp(T0 + since, UTC), subscription_id=subscription)
    assert (record.type, record.subject, record.causationid) == ("tier.current", TEAM, events[-1]["id"])
    assert record.id == derived_id("classify", events[-1]["source"], events[-1]["id"], TEAM, "tier.current")


def test_current_tier_of_a_team_with_nothing_merged_is_since_the_event() -> None:
    record = current(service("experiment.conversion", 7, experiment="x", variant="b"))

    assert (record.data.tier, record.data.since) == ("free", datetime.fromtimestamp(T0 + 7, UTC))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (T0, "2025-06-15T15:06:40Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
    ],
)
def test_rfc3339_is_utc_in_whole_seconds(seconds: int, text: str) -> None:
    assert rfc3339(seconds) == text
