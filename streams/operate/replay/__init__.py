"""``tierstream replay``: what the webhooks would lead to today, and the same path for those that differ."""

from streams.operate.replay.shadow import Difference, Shadow, shadow

__all__ = ["Difference", "Shadow", "shadow"]
