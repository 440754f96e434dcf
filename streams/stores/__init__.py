"""What stands in PostgreSQL: the audit log and the forwarder's ledger. All SQL is in here."""
