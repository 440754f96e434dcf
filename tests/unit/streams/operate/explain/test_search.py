"""What is found of a team, an event, an audit row and an address, and which partitions are read for it."""

import uuid

import pytest

from schemas.razorpay import landing_key
from streams.demo.scenario import build_scenario
from streams.errors import NotFound
from streams.kafka.partitioner import partition_of
from streams.operate.explain import Entry, Explanation, explain
from streams.operate.logs import Bounds
from streams.topics import AUDIT_EVENTS, DEAD_LETTERS, RAZORPAY_WEBHOOKS, TEAM_EVENTS
from tests.explain_doubles import SearchedLogs, SearchedStores, searched
from tests.pretended_stack import record
from tests.verify_doubles import NOW, PRETENDED, SETTINGS

SCENARIO = build_scenario(NOW)
AURORA = SCENARIO.team_ids["aurora"]
AURORAS = [delivery for delivery in SCENARIO.deliveries if delivery.team == "aurora"]


def explained(subject: str, logs: SearchedLogs | None = None, stores: SearchedStores | None = None) -> Explanation:
    found = searched(PRETENDED)
    return explain(SETTINGS, logs or found[0], stores or found[1], subject)


def only(explanation: Explanation) -> Entry:
    (entry,) = explanation.entries
    return entry


def test_team_is_read_from_its_own_partition_and_those_of_its_subscriptions() -> None:
    logs, stores = searched(PRETENDED)

    explained(AURORA, logs, stores)

    read = dict.fromkeys(logs.searched)
    home = partition_of(AURORA.encode(), SETTINGS.partitions)
    assert (TEAM_EVENTS.name, (home,)) in read
    assert (AUDIT_EVENTS.name, (home,)) in read
    assert [numbers for name, numbers in read if name == RAZORPAY_WEBHOOKS.name and len(numbers) > 1] == []
    assert len([name for name, _ in read if name == RAZORPAY_WEBHOOKS.name]) == 1


def test_event_that_left_no_row_is_found_on_the_log() -> None:
    renewal = next(delivery for delivery in AURORAS if delivery.reason == "renewal")

    found = explained(renewal.event_id)

    assert found.team_id == AURORA
    assert (only(found).event_id, only(found).outcome, only(found).audit_id) == (renewal.event_id, "renewal", None)


def test_webhook_that_names_no_subscription_is_found_by_its_event_id() -> None:
    failed = next(
        delivery
        for delivery in SCENARIO.deliveries
        if delivery.team and delivery.event == "payment.failed" and landing_key(delivery.body).subscription_id is None
    )

    assert only(explained(failed.event_id)).outcome == "payment_trouble"


def test_audit_id_and_the_event_behind_it_give_the_same_entry() -> None:
    upgrade = next(delivery for delivery in AURORAS if delivery.reason == "upgraded")

    by_event = only(explained(upgrade.event_id))

    assert by_event.audit_id is not None
    assert only(explained(by_event.audit_id)) == by_event
    assert (by_event.delivery, by_event.row_written) == ("sent", True)
    assert by_event.mail is not None
    assert by_event.mail.recipient is not None
    assert "***@" in by_event.mail.recipient


def test_address_is_found_by_the_contact_of_its_mails_and_by_the_log_where_no_mail_went_out() -> None:
    logs, stores = searched(PRETENDED)
    address = next(sent["email"] for sent in PRETENDED.mails if sent["eventProperties"].get("name") == "Asha Rao")

    assert explained(address.upper(), logs, stores).team_id == AURORA
    stores.ledger.clear()
    assert explained(address, logs, stores).team_id == AURORA


def test_event_of_nobody_is_explained_without_a_team() -> None:
    stranger = next(delivery for delivery in SCENARIO.deliveries if delivery.team is None and delivery.reason == "unknown_team")

    found = explained(stranger.event_id)

    assert found.team_id is None
    assert [entry.outcome for entry in found.entries] == ["unknown_team"]


def test_subscription_gives_the_timeline_of_its_team_also_when_its_webhooks_are_gone() -> None:
    logs, stores = searched(PRETENDED)
    subscription_id = next(
        found for delivery in AURORAS if delivery.event == "subscription.charged" and (found := landing_key(delivery.body).subscription_id)
    )

    assert explained(subscription_id, logs, stores) == explained(AURORA, logs, stores)
    logs.delete_all(RAZORPAY_WEBHOOKS)
    assert explained(subscription_id, logs, stores).team_id == AURORA


def test_parked_charge_of_nobody_has_its_row_also_when_its_subscription_is_asked_for() -> None:
    stranger = next(delivery for delivery in SCENARIO.deliveries if delivery.team is None and delivery.reason == "unknown_team")
    subscription_id = landing_key(stranger.body).subscription_id
    assert subscription_id is not None

    for subject in (stranger.event_id, subscription_id):
        entry = only(explained(subject))
        assert (entry.outcome, entry.kind, entry.row_written) == ("unknown_team", "billing.charge_undeliverable", True)


def test_charge_that_was_parked_before_its_team_was_known_has_its_row_in_the_teams_timeline() -> None:
    logs, stores = searched(PRETENDED)
    renewal = next(delivery for delivery in AURORAS if delivery.reason == "renewal")
    id = ("razorpay-event-id", renewal.event_id.encode())
    webhook = next(record for record in logs.topics[RAZORPAY_WEBHOOKS.name] if id in record.headers)
    place = {"dlq-topic": webhook.topic, "dlq-partition": str(webhook.partition), "dlq-offset": str(webhook.offset)}
    marks = {"dlq-reason": "unknown_team", "dlq-stage": "normalise", **place}
    headers = [id, *((name, value.encode()) for name, value in marks.items())]
    letter = record(DEAD_LETTERS.name, webhook.key, webhook.value, headers, offset=1_000)
    logs.topics[DEAD_LETTERS.name] = [*logs.topics[DEAD_LETTERS.name], letter]
    charge = next(row for row in stores.rows if row.kind == "billing.charge_undeliverable" and row.team_id is None)
    metadata = f'{{"event_id":"{renewal.event_id}","reason":"unknown_team"}}'
    stores.rows.append(charge._replace(id=uuid.uuid4(), metadata=metadata))

    parked = next(entry for entry in explained(AURORA, logs, stores).entries if entry.outcome == "unknown_team")

    assert (parked.event_id, parked.audit_id, parked.row_written) == (renewal.event_id, str(stores.rows[-1].id), True)


@pytest.mark.parametrize("subject", ["no_such_event", "sub_none", "7d7d7233-43a1-4376-8bee-5520928ec644"])
def test_what_is_not_there_is_one_sentence_that_says_what_was_searched(subject: str) -> None:
    with pytest.raises(
        NotFound, match=f"There is no team, subscription, event or audit row {subject}: audit_log, razorpay.webhooks, .* were searched."
    ):
        explained(subject)


def test_address_of_nobody_is_masked_in_the_sentence() -> None:
    with pytest.raises(NotFound) as raised:
        explained("nobody@nowhere.example")

    assert "nobody@" not in str(raised.value)
    assert "n***@nowhere.example" in str(raised.value)


def test_log_that_lost_its_beginning_is_said_in_a_note_and_what_has_no_row_is_not_invented() -> None:
    logs, stores = searched(PRETENDED)
    logs.delete_all(TEAM_EVENTS)

    found = explained(AURORA, logs, stores)

    assert any("team.events no longer reaches back" in note for note in found.notes)
    known = {entry.event_id: entry.outcome for entry in found.entries if entry.audit_id}
    for delivery in AURORAS:
        if delivery.reason in ("upgraded", "downgraded", "canceled", "claimed"):
            assert known[delivery.event_id] == delivery.reason
    assert {entry.outcome for entry in found.entries if not entry.audit_id} <= {"not_known", "not_started"}
    assert logs.bounds(TEAM_EVENTS)[partition_of(AURORA.encode(), SETTINGS.partitions)] != Bounds(0, 0)
