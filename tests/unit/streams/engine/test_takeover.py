"""When a table that is in memory may be kept: only if no transaction can have come in between."""

from concurrent.futures import Future
from typing import Any

import pytest

from streams.engine import takeover
from streams.engine.changelog import Position, TablePartition
from streams.engine.takeover import Broker, Offsets, agrees
from streams.errors import KafkaUnavailable
from streams.settings import Settings

WEBHOOKS, LINKS = "razorpay.webhooks", "subscription.links"


def table(**next_offsets: int) -> TablePartition:
    names = {"webhooks": WEBHOOKS, "links": LINKS}
    return TablePartition(2, positions={names[name]: Position("A", at, {"renewal": at}) for name, at in next_offsets.items()})


@pytest.mark.parametrize(
    ("held", "committed", "kept"),
    [
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 7, (LINKS, 2): 3}, True, id="as committed"),
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 8, (LINKS, 2): 3}, False, id="another owner has gone on"),
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 7, (LINKS, 2): 2}, False, id="the group's offset was moved back"),
        pytest.param(table(webhooks=7), {(WEBHOOKS, 2): 7, (LINKS, 2): 3}, False, id="a position is lacking"),
        pytest.param(table(), {}, False, id="nothing is in memory"),
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 2): 7}, False, id="the group has lost an offset"),
        pytest.param(table(webhooks=7, links=3), {(WEBHOOKS, 1): 7, (LINKS, 1): 3}, False, id="the offsets of another partition"),
    ],
)
def test_agrees_only_where_every_position_is_the_groups_offset(held: TablePartition, committed: Offsets, kept: bool) -> None:
    assert agrees(held, (WEBHOOKS, LINKS), committed) is kept


def test_agrees_an_input_that_nothing_was_read_of_has_no_offset() -> None:
    held = table(webhooks=7)
    held.positions[LINKS] = Position("B", 0)

    assert agrees(held, (WEBHOOKS, LINKS), {(WEBHOOKS, 2): 7})


class _Silent:
    """An admin client whose answer does not come, as when the process has stood still meanwhile."""

    def list_consumer_group_offsets(self, request: Any, **_: object) -> dict[str, Future[Any]]:
        return {request[0].group_id: Future()}


def test_stable_offsets_without_an_answer_in_time_kafka_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "CALL_SECONDS", 0.01)
    broker = Broker(Settings(kafka_bootstrap_servers="127.0.0.1:1"), "classify", "changelog", [WEBHOOKS])
    monkeypatch.setattr(broker, "_client", _Silent)

    with pytest.raises(KafkaUnavailable, match="offsets of classify"):
        broker.stable_offsets([0])
