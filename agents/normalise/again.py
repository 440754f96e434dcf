"""Normalise as it decided before: for a log that is decided again after plans were added to the plan file. Pure."""

from dataclasses import replace

from agents.normalise.decide import STAGE, Rules
from agents.normalise.rows import Row
from agents.normalise.stage import NormaliseStage
from schemas.reasons import Reason
from streams.engine.table_stage import Effect
from streams.kafka.records import Record
from streams.settings import Settings

_STAGE, _UNKNOWN_PLAN = STAGE.encode(), Reason.UNKNOWN_PLAN.value.encode()


class NormaliseAgain(NormaliseStage):
    """Decides with the plan file of now, but for webhooks that were parked as ``unknown_plan``: their plan was not in it then.

    The log does not hold the plan file, so dead letters alone say so: ``not_checked`` counts those whose plan is known now.
    """

    def __init__(self, settings: Settings, rules: Rules) -> None:
        super().__init__(settings, rules)
        self.not_checked = 0
        self._without_plans = replace(rules, plans={})
        self._parked: set[tuple[bytes, bytes, bytes]] = set()

    def note_dead_letter(self, record: Record) -> None:
        """Learn from a record of ``dead.letters``, before the webhook that it is of is decided again."""
        headers = {name: value for name, value in record.headers if value is not None}
        if headers.get("dlq-stage") == _STAGE and headers.get("dlq-reason") == _UNKNOWN_PLAN:
            self._parked.add((headers["dlq-topic"], headers["dlq-partition"], headers["dlq-offset"]))

    def effect(self, record: Record, row: Row | None) -> Effect:
        """Normalise one webhook as it was normalised then."""
        found = super().effect(record, row)
        place = record.topic.encode(), b"%d" % record.partition, b"%d" % record.offset
        if found.reason is not Reason.NORMALISED or place not in self._parked:
            return found
        self.not_checked += 1
        rules, self.rules = self.rules, self._without_plans
        try:
            return super().effect(record, row)
        finally:
            self.rules = rules
