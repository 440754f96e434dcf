"""No body whatever makes the ingest route do anything but accept events or say what is wrong with them."""

import json
from datetime import UTC, datetime
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import Envelope, canonical_team_id
from schemas.kinds import SERVICE_KINDS
from schemas.service_events import Invalid
from schemas.team_events import SERVICE_DATA, Data
from streams.gateway.ingest import accept, read_events

NOW = datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)
times = (
    st.integers(-(10**12), 10**14)
    | st.floats()
    | st.datetimes().map(datetime.isoformat)
    | st.datetimes().map(lambda at: at.isoformat() + "+14:00")
)
names = sorted({name for model in SERVICE_DATA.values() for name in model.model_fields})
data = st.dictionaries(
    st.sampled_from(names) | st.text(max_size=5), times | anything | st.just("jane@example.com") | st.just("pro"), max_size=6
)
events = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(SERVICE_KINDS)) | anything,
        "team_id": st.uuids().map(str) | st.text(max_size=50) | anything,
        "data": data | anything,
    },
    optional={"id": st.text(max_size=120) | anything, "occurred_at": times | anything, "other": anything},
)


def check(body: bytes) -> None:
    try:
        ids, records = accept(read_events(body), "app", NOW, "team.events")
    except Invalid as invalid:
        faults = invalid.faults
    else:
        assert len(ids) == len(records)
        for event_id, record in zip(ids, records, strict=True):
            envelope = Envelope[Data].model_validate_json(record.value)
            assert (envelope.id, envelope.subject) == (event_id, (record.key or b"").decode())
            assert canonical_team_id(envelope.subject) == envelope.subject
            contract = SERVICE_DATA[next(kind for kind in SERVICE_KINDS if kind == envelope.type)]
            stored = Envelope[contract].model_validate_json(record.value)  # type: ignore[valid-type]
            assert orjson.dumps(stored.model_dump(mode="json", exclude_unset=True)) == record.value
        return
    assert faults
    assert all(fault.problem for fault in faults)


@given(st.lists(events | anything, max_size=4) | events | anything)
def test_any_json_is_accepted_whole_or_its_faults_are_named(value: Any) -> None:
    check(json.dumps(value).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_whole_or_their_faults_are_named(body: bytes) -> None:
    check(body)
