"""The load, against a gateway that is a few lines."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from deploy.rehearsal.load import EVENTS, Load


@contextmanager
def gateway(refused: int, status: int = 503) -> Iterator[str]:
    """Refuses so many posts, and then takes all."""
    left = iter(range(refused))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200 if next(left, None) is None else status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_stream_that_is_under_way_is_sent_to_its_end_and_refused_posts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.rehearsal.load.PER_SECOND", 1_000.0)

    with gateway(refused=3) as address:
        load = Load(address, random.Random(1))
        load.start()
        sent = load.stop(30)

    assert sent.posts >= EVENTS
    assert sent.sent_again == 3
    assert 0.5 <= sent.longest_wait < 30


def test_refusal_for_good_ends_the_load_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.rehearsal.load.PER_SECOND", 1_000.0)

    with gateway(refused=1_000_000, status=400) as address:
        load = Load(address, random.Random(1))
        load.start()
        with pytest.raises(AssertionError, match="400"):
            load.stop(30)
