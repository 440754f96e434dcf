"""Some thousand changed bodies through gateway, normalise and classify, and that each protection that is taken out is found."""

import io
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

import orjson
import pytest
from msgspec.structs import replace

from agents.classify.stage import ClassifyStage, Team
from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.razorpay import LandingKey
from schemas.reasons import Reason
from schemas.tiers import Tier
from streams.demo.deliveries import WEBHOOKS
from streams.engine.table_stage import Effect, Run, TableStage
from streams.gateway import webhooks
from streams.gateway.http import MAX_BODY_BYTES
from streams.kafka import dead_letters
from streams.kafka.records import Record
from tests.fuzz.bodies import NOW, Request, demo_bodies, request, sample_bodies
from tests.fuzz.flow import SETTINGS, Flow
from tests.fuzz.run import as_json, run
from tests.fuzz.structure import STRUCTURAL_CHANGES
from tests.fuzz.text import BYTE_CHANGES, TEXT_CHANGES
from tests.webhooks import body as webhook_body

FEW = 400
SEED = 1


async def test_each_changed_body_has_one_outcome_and_nothing_fails() -> None:
    flow = await run(10_000, SEED)

    assert flow.broken == []
    assert flow.requests == 10_000
    reached = {outcome for place, outcome in flow.outcomes if not place.startswith("gateway")}
    answered = {place: {status for where, status in flow.outcomes if where == place} for place, _ in flow.outcomes}
    assert answered["gateway, /webhooks/razorpay"] == {"200", "400", "401", "413"}
    assert answered["gateway, /v1/events"] >= {"202", "401", "422"}
    assert reached >= {
        reason.value
        for reason in (
            *(Reason.NORMALISED, Reason.IGNORED, Reason.MALFORMED, Reason.UNKNOWN_TEAM, Reason.UNKNOWN_PLAN, Reason.DUPLICATE),
            *(Reason.UPGRADED, Reason.DOWNGRADED, Reason.CANCELED, Reason.RENEWAL, Reason.STALE, Reason.MOVED, Reason.PASSED_THROUGH),
        )
    }
    result = as_json(flow, SEED, 0, 1.0)
    assert sum(sum(counts.values()) for place, counts in result["outcomes"].items() if "gateway" in place) == result["bodies"] == 10_000


@pytest.mark.skipif(not sample_bodies(), reason="the folder of Razorpay samples is not there")
async def test_recorded_deliveries_are_among_the_bodies() -> None:
    assert len(sample_bodies()) >= 10


async def found(flow: Flow | None = None) -> str:
    """Return what ``FEW`` bodies find, a line each."""
    flow = await run(FEW, SEED, flow=flow)
    return "\n".join(sentence for _, sentence in flow.broken)


class Faulty(NormaliseStage, ABC):
    """Normalise, with one thing wrong about webhooks that follow from ``effect_of``."""

    def effect(self, record: Record, row: object) -> Effect:
        assert record.value is not None
        return self.effect_of(record, super().effect(record, row))  # type: ignore[arg-type]  # it is normalise's own row

    @abstractmethod
    def effect_of(self, record: Record, effect: Effect) -> Effect:
        """Return what it makes of normalise's own effect."""


class Raises(Faulty):
    def effect_of(self, record: Record, effect: Effect) -> Effect:
        raise ZeroDivisionError


class DropsDeadLetters(Faulty):
    def effect_of(self, record: Record, effect: Effect) -> Effect:
        return Effect(effect.reason, effect.outputs, effect.row)


class DropsFacts(Faulty):
    def effect_of(self, record: Record, effect: Effect) -> Effect:
        return Effect(effect.reason, error=effect.error)


class ReroutesAll(Faulty):
    def effect_of(self, record: Record, effect: Effect) -> Effect:
        return Effect(Reason.REROUTED)


class RepeatsTheBody(Faulty):
    def effect_of(self, record: Record, effect: Effect) -> Effect:
        return Effect(Reason.MALFORMED, error=(record.value or b"").decode("utf-8", "replace"))


class LogsItsSecret(Faulty):
    def effect_of(self, record: Record, effect: Effect) -> Effect:
        logging.getLogger("stage").warning("verified with %s", SETTINGS.razorpay_secrets[0].decode())
        return effect


@pytest.mark.parametrize(
    ("faulty", "sentence"),
    [
        (Raises, "normalise ended a record as handler_failed"),
        (DropsDeadLetters, "normalise wrote 0 dead letters"),
        (DropsFacts, "normalised with 0 facts"),
        (ReroutesAll, "normalise ended a record as rerouted"),
        (RepeatsTheBody, "is no sentence of one line"),
        (LogsItsSecret, "a log line holds"),
    ],
)
async def test_stage_that_breaks_the_law_is_found(faulty: type[Faulty], sentence: str) -> None:
    stages: Sequence[TableStage] = (faulty(SETTINGS, Rules({"plan_pro": Tier.PRO})), ClassifyStage(SETTINGS))

    assert sentence in await found(Flow(stages))


async def test_fast_path_that_counts_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run_of = ClassifyStage.run

    def miscounted(stage: ClassifyStage, records: Sequence[Record], start: int, row: Team) -> Run | None:
        usual = run_of(stage, records, start, row)
        return None if usual is None else replace(usual, outcomes={Reason.IMPORTED: usual.records})

    monkeypatch.setattr(ClassifyStage, "run", miscounted)

    assert "in slices classify counts others of" in "\n".join(sentence for _, sentence in (await run(5_000, SEED)).broken)


async def test_gateway_that_takes_what_is_forged_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "verify_razorpay", lambda *_: True)

    assert "forged=True got 200" in await found()


async def test_gateway_that_takes_what_is_no_object_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "landing_key", lambda body: LandingKey(True, None))

    assert "a body that is no object got 200" in await found()


async def test_gateway_that_keys_a_webhook_by_anything_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "landing_key", lambda body: LandingKey(True, "sub_other") if b"sub_" in body else LandingKey(True, None))

    assert "normalise ended a record as rerouted" in await found()


async def test_dead_letter_with_an_address_in_its_reason_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    body = orjson.dumps(webhook_body(subscription={"plan_id": "jane@example.com"}))
    asked = Request(0, NOW, WEBHOOKS, body, b"Fz1", False, "another plan")

    for unmasked in (False, True):
        if unmasked:
            monkeypatch.setattr(dead_letters, "mask_text", lambda text: text)
        flow = Flow()
        await flow.feed(asked, io.StringIO())
        assert flow.outcomes["normalise", "unknown_plan"] == 1
        assert bool(flow.broken) == unmasked
    assert "a dead letter's reason holds an address" in flow.broken[0][1]


def test_request_is_the_same_for_the_same_seed_and_number_and_another_for_others() -> None:
    webhooks_, events = demo_bodies()

    assert request(1, 5, webhooks_, events) == request(1, 5, webhooks_, events)
    assert len({request(seed, number, webhooks_, events).body for seed in (1, 2) for number in range(50)}) > 70


def test_each_change_is_made_and_few_bodies_are_too_large() -> None:
    webhooks_, events = demo_bodies()
    made = [request(SEED, number, webhooks_, events) for number in range(8_000)]

    names = {change.__name__.strip("_") for change in (*STRUCTURAL_CHANGES, *TEXT_CHANGES, *BYTE_CHANGES)}
    assert {name for each in made for name in each.change.split(", ")} == names | {"none", "large"}
    assert 0 < sum(len(each.body) > MAX_BODY_BYTES for each in made) < 20
    assert 0.06 < sum(each.forged for each in made) / len(made) < 0.1


def test_addresses_of_a_body_are_found() -> None:
    made = Request(0, 0, "/", b'{"a": "jane@example.com", "b": "<joe@example.org>"}', None, False, "none")

    assert made.addresses == {"jane@example.com", "joe@example.org"}
