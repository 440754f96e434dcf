"""Which partition a key belongs to: murmur2, as Java's default partitioner, aiokafka and our librdkafka producers do it."""

from aiokafka.partitioner import murmur2


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of ``key`` on a topic with ``partitions`` partitions."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)
