"""Asking a process whether it is ready: often, so it must cost the asking event loop next to nothing."""

import time

from streams.embedded.process import free_port
from streams.embedded.stack import is_ready

PROBES = 50
PROBE_CPU_SECONDS = 0.005


async def test_asking_costs_the_event_loop_little_while_nobody_listens() -> None:
    url = f"http://127.0.0.1:{free_port()}/readyz"
    assert not await is_ready(url)

    before = time.thread_time()
    for _ in range(PROBES):
        await is_ready(url)

    assert (time.thread_time() - before) / PROBES < PROBE_CPU_SECONDS
