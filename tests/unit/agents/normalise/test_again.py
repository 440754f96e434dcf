"""Normalise as it decided before a plan was added."""

import orjson

from agents.normalise.again import NormaliseAgain
from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.reasons import Reason
from schemas.tiers import Tier
from streams.kafka.dead_letters import Origin, dead_letter_headers
from streams.kafka.records import Record
from streams.settings import Settings
from tests.webhooks import SUBSCRIPTION, body, record

SETTINGS = Settings()
BEFORE, NOW = Rules({"plan_pro": Tier.PRO}), Rules({"plan_pro": Tier.PRO, "plan_2019": Tier.GROWTH})


def charge(offset: int) -> Record:
    return record(orjson.dumps(body(subscription={"plan_id": "plan_2019"})), SUBSCRIPTION.encode(), offset=offset)


def test_a_webhook_that_was_parked_for_its_plan_is_decided_as_it_was_and_its_replay_with_the_plans_of_now() -> None:
    again = NormaliseAgain(SETTINGS, NOW)
    headers = dead_letter_headers((), Origin("normalise", "razorpay.webhooks", 0, 3), Reason.UNKNOWN_PLAN, "why")
    again.note_dead_letter(record(b"", None, topic="dead.letters", headers=tuple(headers)))  # type: ignore[arg-type]

    assert again.effect(charge(3), None) == NormaliseStage(SETTINGS, BEFORE).effect(charge(3), None)
    assert again.effect(charge(4), None) == NormaliseStage(SETTINGS, NOW).effect(charge(4), None)
    assert again.not_checked == 1


def test_a_webhook_that_another_stage_parked_or_for_something_else_is_decided_with_the_plans_of_now() -> None:
    again = NormaliseAgain(SETTINGS, NOW)
    for stage, reason in (("classify", Reason.UNKNOWN_PLAN), ("normalise", Reason.MALFORMED)):
        headers = dead_letter_headers((), Origin(stage, "razorpay.webhooks", 0, 3), reason, "why")
        again.note_dead_letter(record(b"", None, topic="dead.letters", headers=tuple(headers)))  # type: ignore[arg-type]

    assert again.effect(charge(3), None).reason is Reason.NORMALISED
