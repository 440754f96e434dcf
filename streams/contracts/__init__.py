"""What other teams rely on: the messages of each topic, their JSON Schemas in docs/contracts, which changes break them, and AsyncAPI."""
