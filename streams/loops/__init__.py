"""Loops, the service that sends the mails: its client, its rate limit, and a fake of it that enforces its documented rules."""
