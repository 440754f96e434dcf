"""Due records against the rows that waited for them: each says a time that its team's row had waited for, and none comes before that time
by more than clocks may differ."""

import time
from collections.abc import Callable, Mapping

from agents.classify.facts import BillingEnvelope, read_billing_envelope
from agents.classify.outputs import due_record
from agents.classify.packing import due_at, unpack
from agents.classify.registers import coming_times
from schemas.team_events import SubscriptionEvent
from streams.kafka.records import Record
from streams.operate.verify.report import Check

MAX_EARLY_SECONDS = 60
"""A due record may come so early: the worker goes by its own clock, and the record's timestamp is the broker's."""

NOT_PRODUCED = "due, not produced yet"
_DUE = SubscriptionEvent.DUE.value.encode()


class DueRecords:
    """Judges the due records of one partition while its input is decided again, record by record. ``rows`` are those to begin with."""

    def __init__(self, check: Check, rows: Mapping[bytes, bytes], clock: Callable[[], float] = time.time) -> None:
        self._check, self._clock = check, clock
        self._waited_for: dict[bytes, set[tuple[str, int]]] = {}
        for key, packed in rows.items():
            self._note(key, packed)

    def judge(self, record: Record, after: bytes | None) -> None:
        """Compare a record, if it is a due record, and keep what the row after it waits for."""
        if record.key is None:
            return
        envelope = _due(record)
        if envelope is not None:
            self._judge(record, record.key, envelope)
        if after is not None:
            self._note(record.key, after)

    def finish(self, rows: Mapping[bytes, bytes]) -> None:
        """Count the times that have passed and of which there is no record yet."""
        now = self._clock()
        if overdue := sum(0 < due_at(packed) < now for packed in rows.values()):
            self._check.pending[NOT_PRODUCED] += overdue

    def _judge(self, record: Record, key: bytes, envelope: BillingEnvelope) -> None:
        fact, team_id = envelope.data, key.decode("utf-8", "replace")
        where = f"team.events, partition {record.partition}, offset {record.offset},"
        self._check.compared += 1
        if (fact.subscription_id, fact.occurred_at) not in self._waited_for.get(key, ()):
            self._check.differs("unexplained", f"{where} says that a time has come that the row of its team never waited for.")
        elif fact.occurred_at > record.timestamp // 1000 + MAX_EARLY_SECONDS:
            self._check.differs(
                "early", f"{where} says that a time has come {fact.occurred_at - record.timestamp // 1000} s before it came."
            )
        elif record.value != due_record(team_id, fact.subscription_id, fact.plan_id or "", fact.occurred_at, fact.email):
            self._check.differs("changed", f"{where} is a due record of other content than classify produces.")

    def _note(self, key: bytes, packed: bytes) -> None:
        if due_at(packed):
            waited_for = self._waited_for.setdefault(key, set())
            for subscription_id, times in coming_times(unpack(packed)).items():
                waited_for.update((subscription_id, each) for each in times)


def _due(record: Record) -> BillingEnvelope | None:
    if record.value is None or _DUE not in record.value:
        return None
    envelope = read_billing_envelope(record.value)
    return envelope if envelope is not None and envelope.type is SubscriptionEvent.DUE else None
