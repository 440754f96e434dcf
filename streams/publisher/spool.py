"""A first-in, first-out queue of records on disk: what could not be delivered waits here, over a crash too.

A directory holds numbered segments, appended to and never changed (``frames`` says how), the file ``acked``, which says up to
where everything was delivered, and ``lock``. A crash costs what its last write had not finished: that tail is cut at the next
start. Damage in the middle costs the records that it hit, which are passed over and counted.

| crash | outcome |
|---|---|
| in the middle of an append | whole frames count; the torn one is cut; its caller never got its answer |
| after the delivery, before the acknowledgement is written | the record is read, and delivered, again |
| after the acknowledgement is written, before its segment is removed | the segment is removed at the next start |
"""

import fcntl
import os
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from streams.publisher.frames import HEADER, frame_at_or_after, framed, is_torn

MAX_SEGMENT_BYTES = 1_048_576
"""Small, for a segment is read whole; its space comes back only once all of it is acknowledged."""

SUFFIX = ".spool"
_POSITION = struct.Struct("<QQ")
_CHECKED_POSITION = struct.Struct("<QQI")

Opener = Callable[[str, int], int]
"""Opens a file of the spool: path and flags in, file descriptor out."""


def open_private(path: str, flags: int) -> int:
    """Open or create a file that only its owner may read: events hold e-mail addresses."""
    return os.open(path, flags, 0o600)


class Appended(NamedTuple):
    """How many of the records are in the spool now, the first ones; and why not all."""

    kept: int
    problem: str | None = None


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    fd: int
    size: int
    unread: int
    """Records from the reading position on."""


class Spool:
    """The queue. For one thread alone.

    Records are appended at the end, read once each in their order, and acknowledged in that order; opening it again gives
    everything that was not acknowledged. ``fsync`` makes an append return only once it would survive a power cut; without it,
    it survives the death of the process.

    Raises BlockingIOError when another process has the directory, OSError when it can not be used.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        fsync: bool = True,
        max_segment_bytes: int = MAX_SEGMENT_BYTES,
        opener: Opener = open_private,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = min(max_segment_bytes, max(max_bytes // 4, 1))
        self._fsync = fsync
        self._opener = opener
        self._segments: deque[_Segment] = deque()
        self._writing: _Segment | None = None  # the last segment, unless it is closed to appends
        self._reading = 0  # index of the segment that is read
        self._offset = 0  # in that segment, up to which it was read
        self._chunk, self._chunk_of, self._chunk_at = b"", -1, 0
        self._unacked: deque[tuple[int, int]] = deque()  # end of each record that was read: segment, offset
        self._size = 0
        self._next_number = 0
        self.unread = 0
        """Records that were not read yet."""
        self.damaged = 0
        """Places where something was found that is no whole record."""
        self.lost = 0
        """Records that were counted as being here and could not be read."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._open("lock", os.O_RDWR | os.O_CREAT)
        self._acked = -1
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._acked = self._open("acked", os.O_RDWR | os.O_CREAT)
            self._recover()
        except OSError:
            self.abandon()
            raise

    def beside(self, name: str) -> "Spool":
        """Open another queue with the same limits, in the directory ``name`` of this one. Raises OSError."""
        return Spool(
            self._directory / name,
            max_bytes=self._max_bytes,
            fsync=self._fsync,
            max_segment_bytes=self._segment_bytes,
            opener=self._opener,
        )

    @property
    def pending(self) -> int:
        """Records that were not acknowledged, read or not."""
        return self.unread + len(self._unacked)

    def append(self, payloads: Sequence[bytes], *, read: bool = False) -> Appended:
        """Add records at the end, as many as the limit and the disk allow; what was not added is nowhere.

        ``read`` marks them as read: their caller has them in hand, and nothing that is unread may stand before them.
        """
        assert not (read and self.unread)
        appended = 0
        while appended < len(payloads):
            if self._size + HEADER.size + len(payloads[appended]) > self._max_bytes:
                return Appended(appended, f"the spool has reached its limit of {self._max_bytes} bytes")
            try:
                segment = self._writable()
            except OSError as error:
                return Appended(appended, _because(error))
            batch, ends = bytearray(), list[int]()
            for payload in islice(payloads, appended, None):
                frame = framed(payload)
                if self._size + len(batch) + len(frame) > self._max_bytes:
                    break
                batch += frame
                ends.append(segment.size + len(batch))
                if ends[-1] >= self._segment_bytes:
                    break
            try:
                self._write(segment, batch)
            except OSError as error:
                return Appended(appended, _because(error))
            appended += len(ends)
            if read:
                self._unacked.extend((segment.number, end) for end in ends)
                self._reading, self._offset = len(self._segments) - 1, segment.size
            else:
                segment.unread += len(ends)
                self.unread += len(ends)
        return Appended(appended)

    def read(self, limit: int, max_bytes: int = 1 << 62) -> list[bytes]:
        """Return the next records, at most ``limit``, and no more once they have ``max_bytes``; they wait to be acknowledged."""
        payloads: list[bytes] = []
        while self.unread and len(payloads) < limit and max_bytes > 0:
            segment = self._segments[self._reading]
            payload = self._next_of(segment)
            if payload is not None:
                payloads.append(payload)
                max_bytes -= len(payload)
                continue
            if segment.unread:  # they were there when they were counted
                self.lost += segment.unread
                self.damaged += 1
                self.unread -= segment.unread
                segment.unread = 0
            if self._reading + 1 < len(self._segments):
                self._reading += 1
                self._offset = 0
        return payloads

    def ack(self, count: int) -> None:
        """Forget the oldest ``count`` of the records that were read."""
        if not count:
            return
        for _ in range(count - 1):
            self._unacked.popleft()
        number, offset = self._unacked.popleft()
        if not self.pending and self._segments[-1].number == number and self._size >= self._segment_bytes // 2:
            number, offset = number + 1, 0  # all is delivered: let the last segment go too
        self._write_position(number, offset)
        while self._segments and (self._segments[0].number < number or self._is_done(self._segments[0], number, offset)):
            self._remove_first()

    def close(self) -> None:
        """Let the directory go. An empty spool leaves no segment behind."""
        if not self.pending and self._segments:
            self._write_position(self._segments[-1].number + 1, 0)
            while self._segments:
                self._remove_first()
        self.abandon()

    def abandon(self) -> None:
        """Close the files and do nothing else: what a forked child does with its parent's spool, whose lock goes on."""
        fds = [self._lock, self._acked, *(segment.fd for segment in self._segments)]
        self._lock = self._acked = -1
        self._segments.clear()
        self._writing = None
        for fd in fds:
            with suppress(OSError):
                os.close(fd)

    def _recover(self) -> None:
        first, offset = self._read_position()
        numbers = sorted(int(path.stem) for path in self._directory.glob(f"*{SUFFIX}") if path.stem.isdecimal())
        for number in numbers:
            segment = self._scan(number, offset if number == first else 0) if number >= first else None
            if segment is None:
                self._path(number).unlink(missing_ok=True)
            else:
                self._segments.append(segment)
                self._size += segment.size
                self.unread += segment.unread
        self._next_number = max([*(number + 1 for number in numbers), first + (1 if offset else 0)])
        if self._segments and self._segments[0].number == first:
            self._offset = offset

    def _scan(self, number: int, offset: int) -> _Segment | None:
        """Count what waits in a segment and cut its torn tail; None when nothing waits there."""
        fd = self._open(self._path(number).name, os.O_RDWR)
        try:
            data = os.pread(fd, os.fstat(fd).st_size, 0)
            at, count = min(offset, len(data)), 0
            while (frame := frame_at_or_after(data, at)) is not None:
                self.damaged += frame.begin != at
                at, count = frame.end, count + 1
            if count == 0:
                os.close(fd)
                self.damaged += at < len(data) and not is_torn(data, at)
                return None
            if at < len(data):
                self.damaged += not is_torn(data, at)
                os.ftruncate(fd, at)
        except OSError:
            os.close(fd)
            raise
        return _Segment(number, self._path(number), fd, at, count)

    def _next_of(self, segment: _Segment) -> bytes | None:
        chunk_end = self._chunk_at + len(self._chunk)
        if not self._chunk_at <= self._offset < chunk_end or self._chunk_of != segment.number:
            if self._offset >= segment.size:
                return None
            self._chunk = os.pread(segment.fd, segment.size - self._offset, self._offset)
            self._chunk_at, self._chunk_of = self._offset, segment.number
        frame = frame_at_or_after(self._chunk, self._offset - self._chunk_at)
        if frame is None:
            self._offset = segment.size
            return None
        self._offset = self._chunk_at + frame.end
        self._unacked.append((segment.number, self._offset))
        segment.unread -= 1
        self.unread -= 1
        return frame.payload

    def _writable(self) -> _Segment:
        segment = self._writing
        if segment is None or segment.size >= self._segment_bytes:
            path = self._path(self._next_number)
            segment = _Segment(self._next_number, path, self._open(path.name, os.O_RDWR | os.O_CREAT | os.O_EXCL), 0, 0)
            self._next_number += 1
            self._segments.append(segment)
            self._writing = segment
            if self._fsync:
                self._sync_directory()
        return segment

    def _write(self, segment: _Segment, data: bytearray) -> None:
        try:
            written, view = 0, memoryview(data)
            while written < len(data):  # a disk that is almost full takes less than it is given, and then fails
                written += os.pwrite(segment.fd, view[written:], segment.size + written)
            if self._fsync:
                os.fdatasync(segment.fd)
        except OSError:
            self._seal(segment)
            raise
        segment.size += len(data)
        self._size += len(data)

    def _seal(self, segment: _Segment) -> None:
        """Write no more into a segment that failed, whatever of the last write is in it."""
        self._writing = None
        with suppress(OSError):
            os.ftruncate(segment.fd, segment.size)
        if not segment.size:
            self._segments.pop()
            os.close(segment.fd)
            with suppress(OSError):
                segment.path.unlink(missing_ok=True)

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _is_done(self, segment: _Segment, number: int, offset: int) -> bool:
        return segment is not self._writing and segment.number == number and segment.size <= offset

    def _remove_first(self) -> None:
        segment = self._segments.popleft()
        if segment is self._writing:
            self._writing = None
        if self._reading:
            self._reading -= 1
        else:
            self._offset = 0
        self._size -= segment.size
        os.close(segment.fd)
        with suppress(OSError):  # it stays acknowledged, and goes at the next start
            segment.path.unlink(missing_ok=True)

    def _read_position(self) -> tuple[int, int]:
        stored = os.pread(self._acked, _CHECKED_POSITION.size, 0)
        if len(stored) == _CHECKED_POSITION.size:
            number, offset, checksum = _CHECKED_POSITION.unpack(stored)
            if checksum == crc32(stored[: _POSITION.size]):
                return number, offset
        return 0, 0

    def _write_position(self, number: int, offset: int) -> None:
        position = _POSITION.pack(number, offset)
        with suppress(OSError):  # what is not noted as delivered is delivered again, with the same id
            os.pwrite(self._acked, position + crc32(position).to_bytes(4, "little"), 0)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:016d}{SUFFIX}"

    def _open(self, name: str, flags: int) -> int:
        return self._opener(str(self._directory / name), flags | os.O_CLOEXEC)


def _because(error: OSError) -> str:
    return f"the spool can not be written ({error.strerror or error})"
