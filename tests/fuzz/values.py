"""Values that bodies are changed to: those of a few teams and subscriptions, and those that no field should have."""

import random
import uuid
from typing import Any

from schemas.kinds import Kind
from schemas.team_events import SubscriptionEvent

TEAMS = tuple(str(uuid.UUID(int=(4 << 76) | (8 << 60) | number)) for number in range(1, 501))
SUBSCRIPTIONS = tuple(f"sub_Fuzz{number:010}" for number in range(1_000))
PLANS = ("plan_hobby", "plan_hobby_yearly", "plan_hobby_plus", "plan_pro", "plan_pro_yearly", "plan_growth", "plan_team", "plan_of_nobody")
EVENT_NAMES = (*SubscriptionEvent, "subscription.created", "payment.captured", "subscription.", "Subscription.Charged", *Kind)
STATUSES = ("active", "created", "authenticated", "pending", "halted", "paused", "cancelled", "completed", "expired", "ACTIVE")


class Chance(random.Random):
    """Chance that is the same for the same seed. ``now`` is when the request arrives (Unix seconds), for the times in its body."""

    def __init__(self, seed: str, now: int) -> None:
        super().__init__(seed)
        self.now = now


def odd_value(chance: Chance) -> Any:
    """Return a value that is not what a field should be: another type, an edge of its own, or far too much of it."""
    numbers = (0, -1, 1.5, -0.0, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, -(10**400), 1e308, 5e-324, float("nan"), float("inf"))
    texts = (
        "",
        " ",
        "\x00",
        "a\x00b",
        "\ud800",
        "é",
        "\U0001d4b3",
        "a\nb",
        "\u2028",
        "\ufeff",
        "0",
        "1e5",
        "9" * 30,
        "-1e400",
        "0.0000001",
        "true",
        "null",
        "{}",
        "[]",
        "{",
    )
    others: tuple[Any, ...] = (
        None,
        True,
        False,
        [],
        {},
        [[]],
        {"": ""},
        [None] * 100,
        {"team_id": {"team_id": TEAMS[0]}},
        "x" * 101,
        "x" * 1_001,
        "y" * 20_000,
    )
    return chance.choice(chance.choice((numbers, texts, others)))
