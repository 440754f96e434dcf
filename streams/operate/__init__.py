"""What operators run against a live system: ``tierstream verify``, ``explain``."""
