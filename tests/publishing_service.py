"""A service that publishes, to be run and killed: ``python tests/publishing_service.py JSON``.

Prints each id once it is published, or None, ``safe`` once all of them are delivered or in the spool, and ``left N`` at the end.
With ``largest_file`` no file may grow over that many bytes; ``count`` prints why the disk
takes no more, and the counts, before it waits to be safe.
"""

import json
import os
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streams.publisher import Limits, Publisher
from streams.settings import Settings

TEAMS = [f"3f1c1f0e-6a55-4c5c-9a39-0a4d3c1f7b{number:02d}" for number in range(8)]


def publish(publisher: Publisher, number: int) -> str | None:
    return publisher.publish("near_quota_wall", TEAMS[number % len(TEAMS)], {"resource_type": "seats", "used": number, "limit": 1})


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(
    servers: str,
    prefix: str,
    spool: str,
    first: int,
    count: int,
    then: str,
    fork: bool = False,
    limits: dict[str, int] | None = None,
    largest_file: int = 0,
) -> None:
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    settings = Settings(topic_prefix=prefix)
    publisher = Publisher(servers, source="service", spool=Path(spool), settings=settings, limits=Limits(**(limits or {})))
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
    if then == "count":
        delivery = publisher._delivery
        assert delivery is not None
        while delivery.spool_problem is None:
            time.sleep(0.01)
        say(delivery.spool_problem)
        say(json.dumps(asdict(publisher.stats())))
        say("counted")
        then = "wait"
    while then == "wait":
        stats = publisher.stats()
        if stats.spooled + stats.sent + stats.dropped >= count:
            say("safe")
            then = "sleep"
    if then == "sleep":
        time.sleep(60)
    say("left", publisher.close(10))


if __name__ == "__main__":
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    main(**arguments)
