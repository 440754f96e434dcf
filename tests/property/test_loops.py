"""Laws of what goes to Loops."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from schemas.kinds import Kind
from schemas.loops import LOOPS_MAP, Mail, payload

MAILED = [kind for kind, row in LOOPS_MAP.items() if isinstance(row, Mail)]
FIELDS = sorted({wanted.field for row in LOOPS_MAP.values() if isinstance(row, Mail) for wanted in row.event_properties})

anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(min_size=400, max_size=700) | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
metadata = st.dictionaries(st.sampled_from(FIELDS) | st.text(), anything, max_size=8)


@given(kind=st.sampled_from(MAILED), metadata=metadata)
def test_payload_whatever_the_metadata_keeps_loops_rules(kind: Kind, metadata: dict[str, Any]) -> None:
    body = orjson.loads(payload(kind, "asha@example.com", metadata).to_json())

    assert set(body) == {"email", "eventName", "eventProperties"}
    for name, value in body["eventProperties"].items():
        assert isinstance(value, str | int | float)
        for text in (name, value):
            assert len(orjson.dumps(text).decode().encode("utf-16-le")) // 2 <= 500
    assert None not in body["eventProperties"].values()
