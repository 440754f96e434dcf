"""Looking at what became of mails, and deciding what the forwarder can not: ``tierstream deliveries``."""
