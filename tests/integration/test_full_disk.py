"""A disk that takes no more under a spool, in a real process: nothing fails, what was taken is kept, and the disk is used again.

``RLIMIT_FSIZE`` stands for the full disk: a write that goes over it is cut short, and the next one fails, as on a disk without
room. The limit of a running process can be set and lifted from outside.
"""

import json
import resource
import sys
from pathlib import Path

import pytest

from streams.settings import Settings
from streams.topics import TEAM_EVENTS
from tests.integration.test_publisher import lines_of, service
from tests.integration.test_spooling import NOWHERE
from tests.topic_io import read_json

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux'")


def set_largest_file(pid: int, size: int) -> None:
    """Let no write of the process take a file over ``size`` bytes."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


async def test_disk_full_under_a_publisher_memory_goes_on_the_rest_is_counted_and_the_disk_is_used_again(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    limits = {"buffer_records": 200, "window_records": 100}
    async with service(kafka_settings, tmp_path, NOWHERE, first=0, count=1_000, then="count", limits=limits, largest_file=1) as process:
        lines = await lines_of(process, "counted")
        problem, stats = lines[-3], json.loads(lines[-2])
        taken = [line for line in lines[:-3] if line != "None"]
        assert problem == "the spool can not be written (File too large)"
        assert stats["dropped"] == 1_000 - len(taken) > 500
        assert (stats["spooled"], stats["pending"]) == (0, len(taken))

        set_largest_file(process.pid, resource.RLIM_INFINITY)
        assert (await lines_of(process, "safe"))[-1] == "safe"  # all that waited in memory is on the disk now

    async with service(kafka_settings, tmp_path, kafka_settings.kafka_bootstrap_servers, first=0, count=0, then="close") as process:
        assert (await lines_of(process))[-1] == "left 0"
    assert sorted(event["id"] for event in read_json(kafka_settings, TEAM_EVENTS.name)) == sorted(taken)
