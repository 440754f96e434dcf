"""The benchmark: its load is what the stages would write and lead to, its peers decide as the stages do, its page states its results."""

import re
from collections import Counter

import orjson
import pytest

from agents.classify.stage import ClassifyStage
from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from bench.broker import INPUT
from bench.document import PAGE, PARTS, filled
from bench.expected import Reviewer, Tally, count_in, expectation, load_tally, read_audit, read_current
from bench.load import PLANS, LoadEvent, LoadSpec, events
from bench.peers.decision import State, decide, tier_current
from bench.report import RESULTS, wrong_results
from bench.stages import Bag
from bench.webhooks import live_charges, webhooks
from schemas.razorpay import parse_webhook
from schemas.tiers import parse_tier
from streams.embedded.stack import EXAMPLE_PLANS
from streams.engine.table_stage import step_of
from streams.kafka.records import Record
from streams.settings import load_plans, load_settings
from streams.topics import RAZORPAY_WEBHOOKS

SPEC = LoadSpec(events=4_000, teams=40)
SETTINGS = load_settings(kafka_bootstrap_servers="127.0.0.1:1", partitions=8, replication_factor=1)


def record(topic: str, key: str, value: bytes, timestamp: int, headers: tuple[tuple[str, bytes], ...] = ()) -> Record:
    return Record(topic, 0, 0, timestamp, 0, key.encode(), value, None, len(key), len(value), headers)


@pytest.fixture(scope="module")
def load() -> list[LoadEvent]:
    return list(events(SPEC))


# The load


def test_load_of_one_seed_is_the_same_bytes_each_time(load: list[LoadEvent]) -> None:
    assert list(events(SPEC)) == load


def test_load_has_the_size_and_the_mix_that_the_page_emits(load: list[LoadEvent]) -> None:
    sizes = [len(event.value) for event in load]
    transitions = expectation(load).transitions

    assert (min(sizes), max(sizes)) >= (350, 700)
    assert max(sizes) <= 740
    assert 0.75 < transitions / len(load) < 0.85
    assert {orjson.loads(event.value)["type"] for event in load} >= {"subscription.halted", "near_quota_wall", "onboarding.claimed"}


def test_load_is_judged_alike_by_the_oracle() -> None:
    reviewer = Reviewer()
    for event in events(LoadSpec(events=6_000, teams=30)):
        count_in(Tally(), reviewer, event)

    assert set(reviewer.reasons) >= {
        "upgraded",
        "downgraded",
        "canceled",
        "renewal",
        "claimed",
        "scheduled",
        "payment_trouble",
        "already_ended",
    }


def test_facts_of_the_load_are_what_normalise_makes_of_its_webhooks(load: list[LoadEvent]) -> None:
    stage = NormaliseStage(SETTINGS, Rules(load_plans(EXAMPLE_PLANS)))
    for webhook, event in webhooks(load[:1_000]):
        headers = (("razorpay-event-id", webhook.event_id.encode()), ("received-at", str(webhook.received_at).encode()))

        (output,) = step_of(
            stage, record(RAZORPAY_WEBHOOKS.name, webhook.subscription, webhook.body, webhook.received_at, headers), {}
        ).outputs

        assert output.key == event.team.encode()
        assert output.value == event.value


def test_plans_of_the_load_have_the_tiers_of_the_example_plan_file() -> None:
    plans = load_plans(EXAMPLE_PLANS)

    assert {plan: parse_tier(tier) for plan, tier in PLANS.items()} == {plan: plans[plan] for plan in PLANS}


def test_live_charges_are_webhooks_that_change_a_tier_each_time() -> None:
    ids = set()
    for number in range(30):
        webhook, audit_id = live_charges(10, 1_800_000_000 + number, number)
        ids.add(audit_id)

        assert parse_webhook(webhook.body).event == "subscription.charged"

    assert len(ids) == 30


# What it leads to


def test_classify_and_the_peers_decision_write_the_same_records(load: list[LoadEvent]) -> None:
    stage = ClassifyStage(SETTINGS)
    rows: dict[bytes, bytes] = {}
    teams: dict[str, State] = {}
    seen: Counter[str] = Counter()
    for event in load:
        step = step_of(stage, record(INPUT, event.team, event.value, event.timestamp), rows)
        if step.key is not None and step.row is not None:
            rows[step.key] = step.row
        state, audit, current = decide(teams.get(event.team), event.value)
        if state is not None:
            teams[event.team] = orjson.loads(orjson.dumps(state))  # as a store would give it back

        written = {output.topic: orjson.loads(output.value or b"") for output in step.outputs}

        assert (None if audit is None else orjson.loads(audit)) == written.get("audit.events")
        assert (None if current is None else orjson.loads(tier_current(*current))) == written.get("tier.current")
        seen[step.reason.value] += 1
    assert len(seen) >= 10


def test_outputs_read_back_are_what_the_load_expects(load: list[LoadEvent]) -> None:
    tally, teams = Tally(), dict[str, State]()
    for event in load:
        state, audit, current = decide(teams.get(event.team), event.value)
        if state is not None:
            teams[event.team] = state
        if audit is not None:
            tally.add_audit(read_audit(audit))
        if current is not None:
            tally.add_current(read_current(tier_current(*current)))

    assert tally.differences(expectation(load)) == []


@pytest.mark.parametrize("fault", ["missing", "twice", "swapped", "wrong"])
def test_one_fault_in_the_outputs_is_a_difference(load: list[LoadEvent], fault: str) -> None:
    rows = [event.audit for event in load if event.audit is not None]
    same_team = [index for index, row in enumerate(rows) if row.team == rows[0].team]
    first, second = same_team[0], same_team[1]
    match fault:
        case "missing":
            del rows[first]
        case "twice":
            rows.insert(first, rows[first])
        case "swapped":
            rows[first], rows[second] = rows[second], rows[first]
        case "wrong":
            rows[first] = rows[first]._replace(after="team")
    tally = Tally()
    for row in rows:
        tally.add_audit(row)
    for event in load:
        if event.current is not None:
            tally.add_current(event.current)

    (difference,) = tally.differences(expectation(load))

    assert difference.startswith("audit.events")


def test_tally_is_the_same_after_it_was_saved(load: list[LoadEvent], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("tally") / "expected"
    tally = expectation(load)
    tally.save(path)

    assert load_tally(path) == tally


def test_bag_ignores_order_and_sees_a_value_that_is_there_twice() -> None:
    values = [b'{"a":1,"b":2}', b'{"a":3}']
    bag, other, more = Bag(), Bag(), Bag()
    for value in values:
        bag.add(value)
    for value in [b'{"a":3}', b'{"b":2,"a":1}']:
        other.add(value)
    for value in [*values, values[0]]:
        more.add(value)

    assert bag == other
    assert bag != more


# The results


def test_performance_page_emits_the_results() -> None:
    path = RESULTS / "latest.json"
    results = orjson.loads(path.read_bytes()) if path.is_file() else {}
    text = PAGE.read_text(encoding="utf-8")

    assert filled(text, results) == text, "run: python -m bench.document"
    assert set(re.findall(r"<!-- bench: (\w+) -->", text)) == set(PARTS)


def test_committed_results_are_correct_and_have_the_promised_form() -> None:
    path = RESULTS / "latest.json"
    if not path.is_file():
        pytest.skip("there is no full run yet")
    results = orjson.loads(path.read_bytes())

    assert wrong_results(results) == []
    for run in results["runs"]:
        assert run.keys() >= {"job", "events_per_second", "transitions", "correct"}
    assert set(results["ratios"]) == {run["job"] for run in results["runs"]} - {"tierstream"}
