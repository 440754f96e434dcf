"""Any order of a team's facts, with any duplicates, ends in the same row: tried on facts that were really received."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from agents.classify.decide import decide
from agents.classify.facts import TeamEvent
from agents.classify.registers import Row, standing
from schemas.tiers import Tier

_SHOWN_EVENTS = 30


@dataclass(frozen=True, slots=True)
class Counterexample:
    """An order of one team's facts that ends otherwise than the order of the log."""

    team_id: str
    number: int
    order: tuple[str, ...]
    expected: Tier
    found: Tier

    def __str__(self) -> str:
        """One sentence with the ids of the events in their order."""
        ids = ", ".join(self.order[:_SHOWN_EVENTS]) + (", …" if len(self.order) > _SHOWN_EVENTS else "")
        tiers = f"on {self.found.label} instead of {self.expected.label}" if self.found != self.expected else "in another row"
        return f"Team {self.team_id} ends {tiers} in its order number {self.number}: {ids}."


def counterexample(team_id: str, start: Row, events: Sequence[TeamEvent], initial: Tier, orders: int, seed: int) -> Counterexample | None:
    """Fold ``events`` from ``start`` in ``orders`` random orders with random duplicates; return the first that does not end as
    the given order does, or None. The same seed gives the same orders, whatever other teams there are."""
    chance = random.Random(f"{seed}/{team_id}")
    expected = _folded(start, events, initial)
    for number in range(1, orders + 1):
        order = [*events, *chance.choices(events, k=chance.randint(0, len(events)))]
        chance.shuffle(order)
        found = _folded(start, order, initial)
        if found != expected:
            ids = tuple(event.id for event in order)
            return Counterexample(team_id, number, ids, standing(expected, initial).tier, standing(found, initial).tier)
    return None


def _folded(row: Row, events: Sequence[TeamEvent], initial: Tier) -> Row:
    for event in events:
        row = decide(row, event, initial).row
    return row
