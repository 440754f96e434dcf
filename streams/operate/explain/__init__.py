"""``tierstream explain``: everything that happened to one team, and everything that did not. Everything is read, nothing is written."""

from streams.operate.explain.entries import Entry, Explanation
from streams.operate.explain.search import explain

__all__ = ["Entry", "Explanation", "explain"]
