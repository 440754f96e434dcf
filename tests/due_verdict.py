"""Due records against the oracle: each says a time that its team waited for, none comes early, none is missing, and none comes twice."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from agents.classify.packing import due_at
from streams.settings import Settings
from tests.oracle import SequentialOracle
from tests.oracle_facts import due_record
from tests.topic_io import read_all

Json = dict[str, Any]

SOON_SECONDS = 30.0
"""What comes due within this time may do so while everything is read and compared."""

NO_ROW = b"\x00"
"""First byte of a key under which a changelog holds something else than a row."""

Named = tuple[str, str, int]
"""Team, subscription and Unix seconds of a due record."""


@dataclass
class DueRecords:
    """Watches one oracle while it is fed the records of ``team.events`` in the order of their logs."""

    oracle: SequentialOracle
    began: int = field(default_factory=lambda: int(time.time()))
    waited_for: set[Named] = field(default_factory=set)
    came: Counter[Named] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, event: Json, received_at: int) -> None:
        """Judge a record that the oracle was just fed, and keep what its team waits for with it."""
        data, team = event.get("data"), event.get("subject")
        if not isinstance(data, dict) or not isinstance(team, str) or "subscription_id" not in data:
            return
        subscription = data["subscription_id"]
        if event["type"] == "subscription.due":
            self._judge(event, (team, subscription, data["occurred_at"]), received_at)
        papers = self.oracle.papers.get(team)
        known = None if papers is None else papers.subscriptions.get(subscription)
        if known is not None:
            self.waited_for.update((team, subscription, at) for at in known.course().coming_times())

    def missing(self) -> list[str]:
        """What had passed when the comparison began, and of which there is no record. Call it once the oracle was fed everything."""
        return [
            f"due record of {record['data']['subscription_id']} of {team} at {record['data']['occurred_at']}"
            for team in self.oracle.papers
            for record in self.oracle.due_records(team, self.began)
        ]

    def repeated(self) -> list[str]:
        """What came more than once: nothing does so unless a worker dies, or loses its partition, between a due record and its decision."""
        return [f"due record of {named} came {count} times" for named, count in self.came.items() if count > 1]

    def _judge(self, event: Json, named: Named, received_at: int) -> None:
        team, subscription, at = named
        self.came[named] += 1
        if named not in self.waited_for:
            self.wrong.append(f"due record of {named} that nothing waited for")
        elif at > received_at:
            self.wrong.append(f"due record of {named} came {at - received_at} s early")
        elif event["id"] != due_record(team, subscription, None, at)["id"]:
            self.wrong.append(f"due record of {named} has the id {event['id']}")


def nothing_is_due_soon(settings: Settings, now: float | None = None) -> bool:
    """Whether no row of classify waits for a time that has passed or will pass in a moment."""
    newest = {message.key() or b"": message.value() for message in read_all(settings, "tierstream.classify-teams-changelog")}
    soon = (time.time() if now is None else now) + SOON_SECONDS
    rows = (row for key, row in newest.items() if row is not None and not key.startswith(NO_ROW))
    return not any(0 < due_at(row) <= soon for row in rows)
