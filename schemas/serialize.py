"""Envelopes and times as they are written: what a stage serialises for each record it emits. Pure."""

from datetime import date, timedelta
from functools import lru_cache
from typing import Any

import msgspec

AUDIT_SCHEMA = "schemas/audit-event/v1"
FACT_SCHEMA = "schemas/subscription-fact/v1"
TIER_SCHEMA = "schemas/tier-current/v1"
LINK_SCHEMA = "schemas/subscription-link/v1"
IMPORT_SCHEMA = "schemas/imported-tier/v1"

_EPOCH = date(1970, 1, 1)
_IN_HOUR = tuple(f"{minute:02d}:{second:02d}Z" for minute in range(60) for second in range(60))


def rfc3339(seconds: float) -> str:
    """Return Unix seconds as RFC 3339 text in UTC, with whole seconds."""
    hour, second = divmod(int(seconds), 3_600)
    return _up_to_hour(hour) + _IN_HOUR[second]


@lru_cache(maxsize=4_096)
def _up_to_hour(hour: int) -> str:
    """Return ``2026-03-01T12:`` for hours since 1970."""
    return f"{_EPOCH + timedelta(days=hour // 24)}T{hour % 24:02d}:"


class _Envelope(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """``schemas.envelope.Envelope`` as it is written; same fields, same meaning."""

    specversion: str
    id: str
    source: str
    type: str
    time: str
    datacontenttype: str
    dataschema: str
    causationid: str | None
    correlationid: str
    data: Any
    subject: str | None = None


_write = msgspec.json.Encoder().encode


def envelope(
    id: str, source: str, type: str, team_id: str | None, time: str, causation: str | None, correlation: str, schema: str, data: object
) -> bytes:
    """Return one CloudEvents envelope as JSON bytes. ``data`` is a dict of JSON values, or a msgspec struct; ``causation``
    is None where time alone is the cause."""
    return _write(_Envelope("1.0", id, source, type, time, "application/json", schema, causation, correlation, data, team_id))
