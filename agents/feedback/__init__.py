"""Feedback: what Loops reports about a mail becomes part of its ledger row, and suppresses later mail to an address."""
