"""A service that publishes, to be run and killed: ``python tests/publishing_service.py JSON``.

Prints each id once it is published, ``safe`` once all of them are delivered or in the spool, and ``left N`` at the end.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from streams.publisher import Publisher
from streams.settings import Settings

TEAMS = [f"3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b{number:02d}" for number in range(8)]


def publish(publisher: Publisher, number: int) -> str | None:
    return publisher.publish("near_quota_wall", TEAMS[number % len(TEAMS)], {"resource_type": "seats", "used": number, "limit": 1})


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(servers: str, prefix: str, spool: str, first: int, count: int, then: str, fork: bool = False) -> None:
    publisher = Publisher(servers, source="service", spool=Path(spool), settings=Settings(topic_prefix=prefix))
    for number in range(first, first + count):
        say(publish(publisher, number))
    while fork and publisher.stats().sent < count:
        time.sleep(0.01)
    if fork and (child := os.fork()):
        assert os.waitpid(child, 0)[1] == 0
        say(publish(publisher, first + count))
    elif fork:
        say(publish(publisher, first + count + 1))
        assert publisher.stats().published == 1
    while then == "wait":
        stats = publisher.stats()
        if stats.spooled + stats.sent >= count:
            say("safe")
            then = "sleep"
    if then == "sleep":
        time.sleep(60)
    say("left", publisher.close(10))


if __name__ == "__main__":
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    main(**arguments)
