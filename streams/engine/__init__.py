"""What carries records exactly once: Faust apps, batch transport, partition tasks, transactions, tables, watchdog, worker."""
