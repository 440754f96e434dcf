"""Normalise: one Razorpay webhook becomes one fact about one team, or a dead letter."""
