"""Kafka clients that every part shares: configuration, acknowledged producer, log reader, topic administration, dead letters."""
