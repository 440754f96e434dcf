"""The plan file of a running normalise: SIGHUP makes it known, a wrong one changes nothing."""

import signal
from functools import partial
from pathlib import Path

import orjson

from schemas.reasons import Reason
from streams.settings import Settings
from tests.accounting import outcomes
from tests.integration.test_exactly_once import worker
from tests.waiting import until
from tests.webhooks import body
from tests.workers import land


def charge(settings: Settings, number: int, plan: str) -> None:
    subscription = f"sub_{number}"
    document = body(subscription={"id": subscription, "plan_id": plan})
    land(settings, "razorpay.webhooks", [(subscription.encode(), orjson.dumps(document), (), -1)])


def has_decided(settings: Settings, reason: Reason, count: int) -> bool:
    return outcomes(settings, "normalise")[reason] == count


async def test_plan_file_is_read_again_on_sighup_and_a_wrong_one_leaves_the_plans_in_force(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    plans, log = tmp_path / "plans.toml", tmp_path / "worker.log"
    plans.write_text('plan_pro = "pro"\n')
    settings = kafka_settings.model_copy(update={"plans": plans})

    def has_logged(text: str) -> bool:
        return text in log.read_text()

    with worker(settings, "normalise", log=log) as process:
        charge(settings, 1, "plan_new")
        await until(partial(has_decided, settings, Reason.UNKNOWN_PLAN, 1), "a charge on a plan that is not there yet")

        plans.write_text('plan_pro = "team"\nplan_new = "growth"\n')
        process.send_signal(signal.SIGHUP)
        await until(partial(has_logged, "plans_read"), "the plans read again")
        charge(settings, 2, "plan_new")
        await until(partial(has_decided, settings, Reason.NORMALISED, 1), "a charge on the new plan")

        plans.write_text('plan_pro = "gold"\n')
        process.send_signal(signal.SIGHUP)
        await until(partial(has_logged, "plans_not_read"), "the wrong file")
        charge(settings, 3, "plan_new")
        await until(partial(has_decided, settings, Reason.NORMALISED, 2), "a charge on a plan that is still there")

        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

    lines = log.read_text()
    assert "plan_changed" in lines
    assert "subscription.upgraded" in lines
    assert f"{plans} gives plan_pro the tier 'gold'" in lines
