"""The demo's waiting, on a real broker: it follows what is counted, and gives up with a sentence that names what is missing."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from schemas.reasons import Reason
from streams.demo.playback import Observer
from streams.engine.changelog import Position, encode_position, position_key
from streams.errors import TierstreamError
from streams.settings import Settings
from streams.topics import AUDIT_EVENTS, NORMALISE_CHANGELOG, RAZORPAY_WEBHOOKS
from tests.topic_io import produce


@pytest.fixture
def emitted() -> list[str]:
    return []


@pytest.fixture
async def observer(kafka_settings: Settings, emitted: list[str]) -> AsyncIterator[Observer]:
    observer = Observer(kafka_settings, emitted.append, patience_seconds=0.5)
    try:
        await observer.open()
        yield observer
    finally:
        observer.close()


async def test_observer_waits_until_a_stage_has_counted_all_and_emits_how_far_it_is(
    kafka_settings: Settings, observer: Observer, emitted: list[str]
) -> None:
    position = encode_position(Position("id", 3, {Reason.NORMALISED: 2, Reason.IGNORED: 1}))
    produce(kafka_settings, NORMALISE_CHANGELOG.name, [(position_key(RAZORPAY_WEBHOOKS.name), position)])

    await observer.until_normalised(3)

    assert observer.counted(NORMALISE_CHANGELOG) == Counter(normalised=2, ignored=1)
    assert emitted[-1] == "3 of 3 webhooks worked in by normalise"


async def test_observer_gives_up_with_the_stage_that_is_behind(kafka_settings: Settings, observer: Observer) -> None:
    produce(kafka_settings, AUDIT_EVENTS.name, [(b"a", b"1"), (b"a", b"2")])
    records = (await observer.read_evidence())[AUDIT_EVENTS]

    with pytest.raises(TierstreamError, match=r"nothing came for .* 0 of 2 audit events worked in by audit\.$"):
        await observer.until_handled("audit", records)
