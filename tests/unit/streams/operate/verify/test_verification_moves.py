"""``tierstream verify`` on a subscription that moved to another team: two facts of one webhook, and each of them is missed."""

from dataclasses import replace

import orjson

from streams.demo.deliveries import Delivery
from streams.demo.scenario import Scenario, build_scenario
from streams.operate.verify.report import Report
from streams.topics import TEAM_EVENTS
from tests.pretended_stack import played_out
from tests.verify_doubles import NOW, SETTINGS, PretendedLogs, Stack, read_from, verified


def with_a_move(scenario: Scenario) -> Scenario:
    """Charge one team's subscription once more, with the note of another team."""
    charged = [delivery for delivery in scenario.deliveries if delivery.event == "subscription.charged" and delivery.team is not None]
    last = charged[-1]
    other = next(team_id for name, team_id in scenario.team_ids.items() if name != last.team)
    document = orjson.loads(last.body)
    document["created_at"] += 1
    document["payload"]["subscription"]["entity"]["notes"] = {"team_id": other}
    moved: Delivery = replace(last, event_id="evt_of_another_team", body=orjson.dumps(document))
    return replace(scenario, deliveries=(*scenario.deliveries, moved))


STACK = played_out(with_a_move(build_scenario(NOW)), SETTINGS, NOW)


def is_move(value: bytes | None) -> bool:
    return b'"type":"subscription.moved"' in (value or b"")


def facts(report: Report) -> tuple[int, str]:
    """How many facts were compared, and what differs."""
    (found,) = [check for check in report.checks if check.name == "team.events"]
    return found.compared, "\n".join(report.differences())


def test_verify_a_subscription_that_moved_is_clean_and_each_of_its_facts_is_compared() -> None:
    moves = [record for record in STACK.log.topics[TEAM_EVENTS.name] if is_move(record.value)]

    assert len({record.key for record in moves}) == 2, "one webhook: the first team loses it, and the other one, which later facts overtook"
    assert facts(verified(read_from(STACK))) == (STACK.counted["normalise"]["normalised"] + len(moves), "")


def test_verify_a_lost_move_is_missed() -> None:
    logs, stores = read_from(STACK)
    logs.topics[TEAM_EVENTS.name] = [record for record in logs.topics[TEAM_EVENTS.name] if not is_move(record.value)]
    stack: Stack = (PretendedLogs(logs.topics, logs.partitions, logs.offsets), stores)

    assert "team.events lacks " in facts(verified(stack))[1]
