"""``tierstream reconcile`` through the command line: a fake of Razorpay's API, the real stages, a real broker."""

import json
import subprocess
import time
from typing import Any

from agents.registry import stage_factory
from schemas.reasons import Reason
from streams.embedded.stack import EXAMPLE_PLANS
from streams.settings import Settings
from tests.accounting import outcomes
from tests.forked import operated
from tests.razorpay_api import KEY_ID, KEY_SECRET, RazorpayApi, error, served_razorpay, subscription
from tests.topic_io import read_all, read_json
from tests.workers import land, running

TEAMS = [f"7b0c54c8-2f55-4c1b-9f59-0d1c0c6c1a1{number}" for number in range(4)]
NOW = int(time.time())
DAY = 86_400
TIMES: dict[str, Any] = {
    "created_at": NOW - 9 * DAY,
    "start_at": NOW - 9 * DAY,
    "current_start": NOW - 3 * DAY,
    "current_end": NOW + 27 * DAY,
}


async def command(settings: Settings, api: RazorpayApi, *arguments: str, secret: str = KEY_SECRET) -> subprocess.CompletedProcess[str]:
    api_settings = {"RAZORPAY_API_URL": api.url + "/v1/", "RAZORPAY_KEY_ID": KEY_ID, "RAZORPAY_KEY_SECRET": secret}
    return await operated(settings, "reconcile", *arguments, **api_settings)


def as_bytes(header: object) -> bytes:
    assert isinstance(header, bytes)
    return header


def charged(entity: dict[str, object], at: int) -> bytes:
    payload = {"subscription": {"entity": entity}}
    return json.dumps({"event": "subscription.charged", "created_at": at, "payload": payload}).encode()


async def test_what_razorpay_gave_up_is_found_fed_once_and_then_everything_agrees(kafka_settings: Settings) -> None:
    settings = kafka_settings.model_copy(update={"plans": EXAMPLE_PLANS})
    known = [subscription(f"sub_{n}", team=team, **TIMES) for n, team in enumerate(TEAMS)]
    async with served_razorpay() as api, running(settings, *(stage_factory(settings, name) for name in ("normalise", "classify"))) as run:
        # Three were charged; since then one was halted, one cancelled, and one changed its plan. The fourth was never heard of.
        land(settings, "razorpay.webhooks", [(e["id"].encode(), charged(e, NOW - 3 * DAY + 60), [], -1) for e in known[:3]])
        await run.decided(settings, "classify", 3)
        api.subscriptions = [
            known[0] | {"status": "halted"},
            known[1] | {"status": "cancelled", "ended_at": NOW - DAY},
            known[2] | {"plan_id": "plan_hobby"},
            known[3],
            subscription("sub_nobody", **TIMES),
            subscription("sub_noted", team="no UUID", **TIMES),
            subscription("sub_new", status="created", paid_count=0, **TIMES),
        ]

        shown = await command(settings, api, "--json")
        assert (shown.returncode, shown.stderr) == (1, "")
        found = json.loads(shown.stdout)
        assert (found["subscriptions"], found["fed"]) == (7, 0)
        assert [(each["subscription_id"], each["problem"], each["event"], each["obstacle"], each["fed"]) for each in found["drift"]] == [
            ("sub_0", "still_in_force", "subscription.halted", None, False),
            ("sub_1", "not_ended", "subscription.cancelled", None, False),
            ("sub_2", "other_plan", "subscription.activated", None, False),
            ("sub_3", "missing", "subscription.activated", None, False),
            ("sub_nobody", "missing", None, "unknown_team", False),
            ("sub_noted", "missing", None, "unknown_team", False),
        ]
        dry = await command(settings, api, "--because", "webhook was disabled", "--dry-run")
        assert (dry.returncode, dry.stdout.splitlines()[-1]) == (1, "7 subscriptions read, 6 differ, 4 can be fed")
        asked = await command(settings, api, "--because", "webhook was disabled")
        assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
        assert len(read_all(settings, "razorpay.webhooks")) == 3

        fed = await command(settings, api, "--because", "webhook was disabled", "--yes", "--json")
        assert fed.returncode == 1, "two are left"
        assert json.loads(fed.stdout)["fed"] == 4
        await run.decided(settings, "classify", 7)
        api.subscriptions = [each for each in api.subscriptions if each["id"] not in ("sub_nobody", "sub_noted")]
        again = await command(settings, api, "--because", "webhook was disabled", "--yes", "--json")
        assert (again.returncode, json.loads(again.stdout)) == (0, {"subscriptions": 5, "drift": [], "fed": 0})

        # What was fed is the same event if it is fed once more; under another id, as from a second registered webhook, it is warned of.
        last = read_all(settings, "razorpay.webhooks")[-1]
        for event_id in (dict(last.headers() or [])["razorpay-event-id"], b"Rp2"):
            land(settings, "razorpay.webhooks", [(last.key(), last.value(), [("razorpay-event-id", as_bytes(event_id))], -1)])
        await run.decided(settings, "classify", 8)
        await run.decided(settings, "normalise", 9)
        twice = await command(settings, api)
        assert (twice.returncode, "two webhooks of the account point here" in twice.stderr) == (0, True)

    assert {event["subject"]: event["data"]["tier"] for event in read_json(settings, "tier.current")} == dict(
        zip(TEAMS, ("hobby", "hobby", "hobby", "pro"), strict=True)
    )
    assert outcomes(settings, "classify")[Reason.DUPLICATE] == 1
    audited = read_json(settings, "audit.events")
    operators = [event for event in audited if event["type"] == "operator.replayed"]
    assert {event["subject"] for event in operators} == set(TEAMS)
    assert {(event["data"]["actor"], event["data"]["metadata"]["because"]) for event in operators} == {("cli", "webhook was disabled")}
    assert {event["type"] for event in audited} >= {"subscription.canceled", "subscription.downgraded", "subscription.upgraded"}


async def test_what_razorpay_sent_later_counts_more_than_what_was_fed(kafka_settings: Settings) -> None:
    settings = kafka_settings.model_copy(update={"plans": EXAMPLE_PLANS})
    entity = subscription("sub_0", team=TEAMS[0], **TIMES)
    async with served_razorpay() as api, running(settings, *(stage_factory(settings, name) for name in ("normalise", "classify"))) as run:
        land(settings, "razorpay.webhooks", [(b"sub_0", charged(entity, NOW - 3 * DAY + 60), [], -1)])
        await run.decided(settings, "classify", 1)
        api.subscriptions = [entity | {"status": "halted"}]
        assert (await command(settings, api, "--because", "test", "--yes")).returncode == 0
        await run.decided(settings, "classify", 2)
        land(settings, "razorpay.webhooks", [(b"sub_0", charged(entity, NOW - 2 * DAY), [], -1)])
        await run.decided(settings, "classify", 3)

    assert read_json(settings, "tier.current")[-1]["data"]["tier"] == "pro"


async def test_wrong_key_and_wrong_address_are_one_sentence_and_exit_2(kafka_settings: Settings) -> None:
    settings = kafka_settings.model_copy(update={"plans": EXAMPLE_PLANS})
    async with served_razorpay() as api:
        denied = await command(settings, api, "--json", secret="wr0ngS3cret")
        api.faults = [error(404, "not found")]
        lost = await command(settings, api)
        alone = await command(settings, api, "--yes")

    for done, sentence in ((denied, "(401: Authentication failed)"), (lost, "TIERSTREAM_RAZORPAY_API_URL"), (alone, "--because")):
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert sentence in done.stderr
        assert "wr0ngS3cret" not in done.stderr
