"""How often topics are looked at. What a look finds is tested on a broker: tests/integration/test_topics_at_run_time.py."""

import pytest

from streams.kafka.topic_watch import look_seconds


@pytest.mark.parametrize(("partitions", "seconds"), [(1, 5.0), (32, 5.0), (64, 10.0), (128, 20.0)])
def test_looks_cost_the_same_whatever_the_number_of_partitions(partitions: int, seconds: float) -> None:
    assert look_seconds(5.0, partitions) == seconds
