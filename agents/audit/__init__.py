"""Audit: each audit event becomes one row of ``audit_log``."""
