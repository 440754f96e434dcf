"""HTTP in: verify, append to Kafka, answer. It decides nothing and waits for nothing but Kafka's acknowledgement."""
