"""Webhooks that come twice: under another event id they add nothing, under their own with something else to say they move nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from hypothesis import given
from hypothesis import strategies as st

from agents.audit.decide import decide as audit_row
from agents.classify.stage import ClassifyStage
from agents.normalise.decide import Rules
from agents.normalise.stage import NormaliseStage
from schemas.kinds import Kind
from schemas.reasons import Reason
from schemas.tiers import Tier
from streams.engine.table_stage import TableStage, step_of
from streams.engine.transactions import Output
from streams.kafka.records import Record
from streams.settings import Settings
from streams.stores.audit_log import AuditRow
from tests.oracle import SequentialOracle
from tests.webhooks import AT, RECEIVED_AT, delivery, record

SETTINGS = Settings(partitions=1)
RULES = Rules({"plan_pro": Tier.PRO, "plan_team": Tier.TEAM, "plan_hobby": Tier.HOBBY}, grace_days=7, grace_reminder_days=(3,))
TEAMS = ("11111111-2222-4333-8444-555555555555", "3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b01")
OF_NOBODY = "sub_of_nobody"


class Delivery(NamedTuple):
    """One webhook: its event id, and what it says."""

    event_id: str
    event: str
    at: int
    subscription: str
    plan: str
    team: int
    payment: int

    @property
    def document(self) -> dict[str, Any]:
        entity = {"id": self.subscription, "plan_id": self.plan, "status": "active", "paid_count": self.payment}
        entity["notes"] = [] if self.subscription == OF_NOBODY else {"team_id": TEAMS[self.team]}
        payment = {"id": f"pay_{self.payment}", "amount": 100, "currency": "INR", "email": "payer@example.com"}
        payload = {"subscription": {"entity": entity}, "payment": {"entity": payment}}
        return {"event": self.event, "created_at": AT + self.at, "payload": payload}


EVENTS = st.sampled_from(
    [
        *["subscription.charged"] * 5,
        *["subscription.updated", "subscription.pending", "subscription.cancelled", "subscription.halted", "subscription.paused"],
        *["subscription.resumed", "subscription.activated", "payment.failed", "subscription.created"],
    ]
)
PLANS = st.sampled_from(["plan_pro", "plan_team", "plan_hobby", "plan_nobody_knows"])
CONTENTS = st.tuples(
    EVENTS, st.integers(0, 6), st.sampled_from(["sub_A", "sub_A", "sub_B", OF_NOBODY]), PLANS, st.integers(0, 1), st.integers(1, 3)
)
STREAMS = st.lists(CONTENTS, min_size=1, max_size=10).map(
    lambda contents: [Delivery(f"evt_{number}", *content) for number, content in enumerate(contents)]
)


@st.composite
def mixed(draw: st.DrawFn, first: Sequence[Delivery], second: Sequence[Delivery]) -> list[Delivery]:
    """Return ``first`` with each of ``second``, of which each is the pair of the one in its place, somewhere behind its pair."""
    stream = list(first)
    for one, other in zip(first, second, strict=True):
        stream.insert(draw(st.integers(stream.index(one) + 1, len(stream))), other)
    return stream


@dataclass
class Flow:
    """What a stream of webhooks leads to, through the deciding stages."""

    rows: dict[str, AuditRow] = field(default_factory=dict)
    normalised: Counter[Reason] = field(default_factory=Counter)
    tiers: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    mails: dict[str, str | None] = field(default_factory=dict)
    """By audit id: whom the mail goes to."""


def flow(stream: Sequence[Delivery]) -> Flow:
    """Decide on ``stream``; the oracle agrees with classify on each fact."""
    found, oracle = Flow(), SequentialOracle()
    links, teams = dict[bytes, bytes](), dict[bytes, bytes]()
    normalise, classify = NormaliseStage(SETTINGS, RULES), ClassifyStage(SETTINGS)
    for each in stream:
        landed = delivery(each.document, event_id=each.event_id, received_at=RECEIVED_AT, key=each.subscription.encode())
        reason, outputs = worked_in(normalise, landed, links)
        found.normalised[reason] += 1
        for output in outputs:
            if output.topic == "audit.events":
                _note(found, output)
                continue
            reason, emitted = worked_in(classify, record(output.value, output.key), teams)
            assert reason == oracle.feed(orjson.loads(output.value or b""), RECEIVED_AT).reason
            for audit_event in emitted:
                _note(found, audit_event)
    return found


def worked_in(stage: TableStage, landed: Record, rows: dict[bytes, bytes]) -> tuple[Reason, Sequence[Output]]:
    step = step_of(stage, landed, rows)
    if step.key is not None and step.row is not None:
        rows[step.key] = step.row
    return step.reason, step.outputs


def _note(found: Flow, output: Output) -> None:
    if output.topic == "tier.current":
        data = orjson.loads(output.value or b"")["data"]
        found.tiers[data["team_id"]] = data["tier"], data["subscription_id"]
        return
    row = audit_row(output.value)
    assert isinstance(row, AuditRow)
    if found.rows.setdefault(str(row.id), row) is row and row.kind != Kind.CHARGE_UNDELIVERABLE:
        found.mails[str(row.id)] = (orjson.loads(output.value or b"")["data"].get("contact") or {}).get("email")


@given(STREAMS, st.data())
def test_every_webhook_doubled_under_a_second_event_id_gives_the_same_rows_mails_and_tiers(
    stream: list[Delivery], data: st.DataObject
) -> None:
    again = [each._replace(event_id=f"{data.draw(st.sampled_from('0z'))}{each.event_id}") for each in stream]

    single, doubled = flow(stream), flow(data.draw(mixed(stream, again)))

    assert (doubled.rows, doubled.mails, doubled.tiers) == (single.rows, single.mails, single.tiers)
    assert doubled.normalised == single.normalised + Counter({Reason.DUPLICATE: len(again)})


@given(STREAMS, st.data())
def test_a_second_body_under_an_event_id_moves_nothing_and_is_a_conflict(stream: list[Delivery], data: st.DataObject) -> None:
    others = [Delivery(each.event_id, *data.draw(other_contents(each))) for each in stream]

    single, conflicting = flow(stream), flow(data.draw(mixed(stream, others)))

    assert conflicting.normalised == single.normalised + Counter({Reason.ID_CONFLICT: len(others)})
    assert (conflicting.rows, conflicting.mails, conflicting.tiers) == (single.rows, single.mails, single.tiers)


def other_contents(of: Delivery) -> st.SearchStrategy[tuple[Any, ...]]:
    """Something else to say about the same subscription."""
    contents = st.tuples(EVENTS, st.integers(0, 6), st.just(of.subscription), PLANS, st.integers(0, 1), st.integers(1, 3))
    # Nobody's subscription has no note of its team.
    return contents.filter(lambda other: Delivery("", *other).document != of.document)
