"""Razorpay's API, as far as a reconciliation needs it."""
