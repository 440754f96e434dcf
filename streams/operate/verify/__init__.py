"""``tierstream verify``: the accounting proven from the topics and the database. Everything is read, nothing is written."""

from streams.operate.verify.verification import Accounting, OnProgress, Options, verify

__all__ = ["Accounting", "OnProgress", "Options", "verify"]
