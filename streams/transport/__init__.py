"""Records in and out of Kafka: aiokafka under Faust for consuming, librdkafka for producing."""
