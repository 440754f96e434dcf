"""Whatever classify is told, it writes what the committed contracts promise."""

import orjson
from hypothesis import event as note
from hypothesis import given

from agents.classify.stage import ClassifyStage
from streams.engine.table_stage import step_of
from streams.settings import Settings
from tests.contracts import faults
from tests.factories import RECEIVED_AT, TEAM, Event
from tests.property.strategies import logs
from tests.webhooks import record

STAGE = ClassifyStage(Settings(partitions=1))


@given(logs())
def test_classify_writes_what_the_contracts_promise(log: list[Event]) -> None:
    rows: dict[bytes, bytes] = {}
    for event in log:
        step = step_of(STAGE, record(orjson.dumps(event), TEAM.encode(), topic="team.events", timestamp=RECEIVED_AT * 1000), rows)
        if step.key is not None and step.row is not None:
            rows[step.key] = step.row
        for output in step.outputs:
            note(f"{output.topic} {orjson.loads(output.value or b'')['type']}")
            assert faults(output.topic, output.value) == []
