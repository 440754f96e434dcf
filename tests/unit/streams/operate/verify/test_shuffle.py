"""Any order of a team's facts ends alike: tried on the scenario's teams, and reported when it is not so."""

import msgspec

from agents.classify.facts import Service, TeamEvent, read_team_event
from agents.classify.registers import EMPTY
from schemas.tiers import Tier
from streams.operate.verify import Options
from streams.operate.verify.report import Check, Report
from streams.operate.verify.shuffle import counterexample
from tests.verify_doubles import PRETENDED, read_from, verified


def check(report: Report, name: str) -> Check:
    (found,) = [each for each in report.checks if each.name == name]
    return found


def scenario_facts() -> dict[bytes, list[TeamEvent]]:
    facts: dict[bytes, list[TeamEvent]] = {}
    for record in PRETENDED.log.held("team.events"):
        facts.setdefault(record.key or b"", []).append(read_team_event(record.value, record.timestamp // 1000))
    return facts


def test_orders_of_every_team_of_the_scenario_end_alike() -> None:
    report = verified(read_from(PRETENDED), Options(orders=25, seed=3))

    assert check(report, "orders").compared == 25 * len(scenario_facts())
    assert check(report, "orders").differing == 0


def test_orders_that_do_not_end_alike_give_the_first_of_them_and_the_same_seed_gives_it_again() -> None:
    """One id with two contents is what no register can put in order: whichever comes first stays."""
    (claimed, *_) = [event for events in scenario_facts().values() for event in events if isinstance(event.body, Service)]
    assert isinstance(claimed.body, Service)
    other = claimed.body.data.model_copy(update={"email": "other@example.com"})
    twice = [claimed, msgspec.structs.replace(claimed, body=msgspec.structs.replace(claimed.body, data=other))]

    found = counterexample(claimed.team_id, EMPTY, twice, Tier.FREE, orders=50, seed=9)

    assert found is not None
    assert str(found).startswith(f"Team {claimed.team_id} ends in another row in its order number ")
    assert claimed.id in str(found)
    assert found == counterexample(claimed.team_id, EMPTY, twice, Tier.FREE, orders=50, seed=9)
    assert counterexample(claimed.team_id, EMPTY, [claimed], Tier.FREE, orders=50, seed=9) is None
