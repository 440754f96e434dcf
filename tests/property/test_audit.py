"""The audit stage's fast reading and the contract's own agree."""

import uuid
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from agents.audit.decide import decide
from agents.audit.record import AuditRecord, DeadLetter, read_audit_record
from schemas.kinds import Kind
from streams.stores.audit_log import AuditRow

texts = st.text(max_size=20)
junk: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts | st.lists(texts, max_size=2) | st.uuids().map(str)
)
moments = st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat())


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, good, junk)


data = st.fixed_dictionaries(
    {"summary": mostly(texts), "metadata": mostly(st.dictionaries(texts, junk, max_size=4)), "created_at": mostly(moments)},
    optional={
        "actor": mostly(texts),
        "user_id": mostly(st.uuids().map(str)),
        "resource_type": mostly(texts),
        "resource_id": mostly(st.uuids().map(str)),
        "contact": st.fixed_dictionaries({"email": texts}),
        "later_field": junk,
    },
)
envelopes = st.fixed_dictionaries(
    {
        "id": mostly(st.uuids().map(str)),
        "source": mostly(texts.filter(bool)),
        "type": mostly(st.sampled_from([kind.value for kind in Kind])),
        "time": mostly(moments),
        "data": mostly(data),
    },
    optional={"specversion": mostly(st.just("1.0")), "subject": mostly(st.uuids().map(str)), "dataschema": texts, "correlationid": texts},
)


@given(envelope=envelopes)
def test_decide_reads_what_the_contract_reads(envelope: dict[str, Any]) -> None:
    value = orjson.dumps(envelope)
    decision, contract = decide(value), read_audit_record(value)

    if isinstance(contract, DeadLetter):
        assert decision == contract
        return
    assert isinstance(contract, AuditRecord)
    assert isinstance(decision, AuditRow)
    row, data = decision, contract.data
    assert (row.id, row.team_id, row.kind) == (contract.id, contract.team_id, contract.kind.value)
    assert (row.user_id, row.actor, row.resource_type, row.resource_id) == (data.user_id, data.actor, data.resource_type, data.resource_id)
    assert (row.summary, row.created_at) == (data.summary, data.created_at)
    assert orjson.loads(row.metadata) == data.metadata
    assert isinstance(row.id, uuid.UUID)
