"""Whatever is appended, read, acknowledged, cut off or damaged: the spool gives exactly what was kept and not acknowledged."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from streams.publisher.frames import HEADER, MAGIC, framed
from streams.publisher.spool import Spool

payloads = st.binary(max_size=40) | st.just(MAGIC) | st.binary(max_size=10).map(framed)

appends = st.tuples(st.just("append"), st.lists(payloads, max_size=8), st.booleans())
reads = st.tuples(st.just("read"), st.integers(0, 10), st.integers(1, 100))
acks = st.tuples(st.just("ack"), st.integers(0, 10), st.none())
crashes = st.tuples(st.just("crash"), st.integers(0, 150), st.none())
restarts = st.tuples(st.just("restart"), st.none(), st.none())


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


class Model:
    """A spool, and beside it the list that it should be."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.waiting: list[bytes] = []
        self.read_of_these = 0
        self.spool = self.opened()

    def opened(self) -> Spool:
        return Spool(self.path, max_bytes=self.max_bytes, fsync=False, max_segment_bytes=100)

    def append(self, given: list[bytes], in_hand: bool) -> None:
        in_hand = in_hand and not self.spool.unread
        kept, problem = self.spool.append(given, read=in_hand)
        assert (problem is None) == (kept == len(given))
        self.waiting += given[:kept]
        self.read_of_these += kept * in_hand
        assert sum(file.stat().st_size for file in self.path.glob("*.spool")) <= self.max_bytes

    def read(self, limit: int, max_bytes: int) -> None:
        found = self.spool.read(limit, max_bytes)
        assert found == self.waiting[self.read_of_these : self.read_of_these + len(found)]
        assert found or not limit or self.read_of_these == len(self.waiting)
        self.read_of_these += len(found)

    def ack(self, count: int, _: None) -> None:
        count = min(count, self.read_of_these)
        self.spool.ack(count)
        del self.waiting[:count]
        self.read_of_these -= count

    def crash(self, cut: int, _: None) -> None:
        """Die, with the last ``cut`` bytes of the last segment never written."""
        self.spool.abandon()
        lost = 0
        if files := sorted(self.path.glob("*.spool")):
            ends = ends_of(files[-1].read_bytes())
            size = max(files[-1].stat().st_size - cut, 0)
            os.truncate(files[-1], size)
            lost = sum(end > size for end in ends)
        del self.waiting[max(len(self.waiting) - lost, 0) :]
        self.begin_again()

    def restart(self, *_: None) -> None:
        self.spool.close()
        self.begin_again()

    def begin_again(self) -> None:
        self.spool = self.opened()
        self.read_of_these = 0
        assert self.spool.damaged == 0

    def check(self) -> None:
        assert (self.spool.pending, self.spool.unread) == (len(self.waiting), len(self.waiting) - self.read_of_these)


def ends_of(data: bytes) -> list[int]:
    """The end of each frame, by the lengths alone."""
    ends, at = [], 0
    while at < len(data):
        at += HEADER.size + HEADER.unpack_from(data, at)[1]
        ends.append(at)
    return ends


@given(st.lists(appends | reads | acks | crashes | restarts, max_size=30), st.sampled_from([300, 1_000, 100_000]))
def test_any_life_of_a_spool_gives_exactly_what_was_not_acknowledged_in_order(
    team_scenario: list[tuple[str, object, object]], size: int
) -> None:
    with directory() as path:
        model = Model(path, size)
        for step, *arguments in team_scenario:
            getattr(model, step)(*arguments)
            model.check()
        model.crash(0, None)
        model.read(1_000, 1 << 30)
        assert model.read_of_these == len(model.waiting)
        model.spool.close()


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=12), st.integers(0), st.integers(1, 255))
def test_any_damaged_byte_costs_its_own_record_and_no_other(given_payloads: list[bytes], place: int, flip: int) -> None:
    with directory() as path:
        spool = Spool(path, max_bytes=100_000, fsync=False, max_segment_bytes=200)
        spool.append(given_payloads)
        spool.abandon()
        files = sorted(path.glob("*.spool"))
        file = files[place % len(files)]
        data = bytearray(file.read_bytes())
        at = place // len(files) % len(data)
        data[at] ^= flip
        file.write_bytes(data)
        before = sum(len(ends_of(other.read_bytes())) for other in files[: files.index(file)])
        hit = before + sum(end <= at for end in ends_of(original(data, at, flip)))

        again = Spool(path, max_bytes=100_000, fsync=False)
        found = again.read(100)
        again.close()

    assert found == given_payloads[:hit] + given_payloads[hit + 1 :]


def original(data: bytearray, at: int, flip: int) -> bytes:
    undamaged = bytearray(data)
    undamaged[at] ^= flip
    return bytes(undamaged)
