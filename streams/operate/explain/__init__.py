"""``tierstream explain``: everything that happened to one team, and everything that did not. Everything is read, nothing is written."""

from streams.operate.explain.search import explain
from streams.operate.explain.timeline import Entry, Explanation

__all__ = ["Entry", "Explanation", "explain"]
