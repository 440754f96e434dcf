"""The snapshot of a verification: what was accounted for, so that a later one need not begin with the log's first record.

The file, format 1, is a row of sections and an index behind them (numbers are big-endian):

    magic       8 bytes   b"TSVERIFY"
    sections              each zlib-compressed MessagePack; a table section is one partition of one stage, a section of
                          known ids is a run of 26-byte entries: id (16), digest of its row (8), kind, state
    index                 zlib-compressed MessagePack: ``Index``
    footer     18 bytes   offset of the index (8), its length (4), CRC-32 of the index (4), format (2)

Rows of the table of teams hold the owners' addresses, so the file is readable by its owner alone. It is written beside its place
and moved there whole.
"""

import os
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from streams.errors import SnapshotError

FORMAT = 1
KNOWN_SECTION = "known"

_MAGIC = b"TSVERIFY"
_FOOTER = struct.Struct(">QIIH")
_KNOWN = struct.Struct(">16s8sBB")
_KNOWN_AT_ONCE = 100_000


class Resumed(msgspec.Struct, frozen=True, array_like=True):
    """How far one input partition is accounted for: a replay goes on at ``offset``, and ``outcomes`` were counted until then."""

    topic: str
    topic_id: str
    offset: int
    outcomes: dict[str, int]


class Table(msgspec.Struct, frozen=True, array_like=True):
    """One partition of one stage's table."""

    inputs: list[Resumed]
    rows: dict[bytes, bytes]


class Section(msgspec.Struct, frozen=True, array_like=True):
    """Where a section stands in the file."""

    name: str
    offset: int
    length: int
    crc: int


class Index(msgspec.Struct, frozen=True, array_like=True):
    """What the file is of: ``ends`` says up to where the output topics are accounted for, by topic and partition."""

    topic_prefix: str
    partitions: int
    taken_at: float
    ends: dict[str, dict[int, int]]
    sections: list[Section]


class Known(NamedTuple):
    """One audit event that was accounted for."""

    id: bytes
    row: bytes
    kind: int
    state: int


_encode = msgspec.msgpack.Encoder().encode


class SnapshotWriter:
    """Writes a snapshot beside ``path``. Nothing stands at ``path`` before ``finish``; leaving the block without it leaves nothing."""

    def __init__(self, path: Path) -> None:
        """Raises SnapshotError when the directory can not be written to."""
        self._path = path
        self._sections: list[Section] = []
        self._known: list[bytes] = []
        try:
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError as error:
            raise SnapshotError(f"The snapshot {path} can not be written ({error.strerror}).") from error
        self._temporary = Path(name)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        self._file.write(_MAGIC)

    def __enter__(self) -> "SnapshotWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def add_table(self, stage: str, partition: int, table: Table) -> None:
        """Add one partition of one stage's table."""
        self._add(_table_section(stage, partition), _encode(table))

    def add_known(self, known: Known) -> None:
        """Add one audit event that is accounted for."""
        self._known.append(_KNOWN.pack(*known))
        if len(self._known) >= _KNOWN_AT_ONCE:
            self._flush_known()

    def finish(self, topic_prefix: str, partitions: int, taken_at: float, ends: Mapping[str, Mapping[int, int]]) -> None:
        """Put the snapshot in its place. Raises SnapshotError."""
        self._flush_known()
        index = Index(topic_prefix, partitions, taken_at, {topic: dict(of_topic) for topic, of_topic in ends.items()}, self._sections)
        packed = zlib.compress(_encode(index))
        offset = self._file.tell()
        try:
            self._file.write(packed + _FOOTER.pack(offset, len(packed), zlib.crc32(packed), FORMAT))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._temporary.replace(self._path)
        except OSError as error:
            raise SnapshotError(f"The snapshot {self._path} can not be written ({error.strerror}).") from error

    def _flush_known(self) -> None:
        if self._known:
            self._add(KNOWN_SECTION, b"".join(self._known))
            self._known.clear()

    def _add(self, name: str, content: bytes) -> None:
        packed = zlib.compress(content, 6)
        section = Section(name, self._file.tell(), len(packed), zlib.crc32(packed))
        try:
            self._file.write(packed)
        except OSError as error:
            raise SnapshotError(f"The snapshot {self._path} can not be written ({error.strerror}).") from error
        self._sections.append(section)


class Snapshot:
    """A snapshot on the disk. Sections are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Read the index of ``path``. Raises SnapshotError when it is no snapshot, or a damaged one."""
        self._path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise SnapshotError(f"The snapshot {path} can not be read ({error.strerror}).") from error
        try:
            self.index = self._read_index()
        except BaseException:
            self._file.close()
            raise
        self._sections = {section.name: section for section in self.index.sections}

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def must_fit(self, topic_prefix: str, partitions: int) -> None:
        """Raise SnapshotError when the snapshot is of another stack."""
        if (self.index.topic_prefix, self.index.partitions) != (topic_prefix, partitions):
            raise SnapshotError(
                f"The snapshot {self._path} is of topics with the prefix {self.index.topic_prefix!r} and {self.index.partitions} partitions, "
                f"and these have {topic_prefix!r} and {partitions}; take one of this stack."
            )

    def table(self, stage: str, partition: int) -> Table:
        """Return one partition of one stage's table. Raises SnapshotError."""
        section = self._sections.get(_table_section(stage, partition))
        if section is None:
            raise self._damaged()
        try:
            return msgspec.msgpack.decode(self._content(section), type=Table)
        except msgspec.MsgspecError as error:
            raise self._damaged() from error

    def known(self) -> Iterator[Known]:
        """Yield every audit event that was accounted for. Raises SnapshotError."""
        for section in self.index.sections:
            if section.name == KNOWN_SECTION:
                yield from map(Known._make, _KNOWN.iter_unpack(self._content(section)))

    def _read_index(self) -> Index:
        file = self._file
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(len(_MAGIC)) != _MAGIC or size < len(_MAGIC) + _FOOTER.size:
            raise SnapshotError(f"{self._path} is no snapshot of `tierstream verify`.")
        file.seek(size - _FOOTER.size)
        offset, length, crc, format = _FOOTER.unpack(file.read(_FOOTER.size))
        if offset + length + _FOOTER.size != size:
            raise self._damaged()
        if format != FORMAT:
            raise SnapshotError(f"The snapshot {self._path} has format {format}, and this version reads {FORMAT}; take a new one.")
        try:
            return msgspec.msgpack.decode(self._content(Section("index", offset, length, crc)), type=Index)
        except msgspec.MsgspecError as error:
            raise self._damaged() from error

    def _content(self, section: Section) -> bytes:
        self._file.seek(section.offset)
        packed = self._file.read(section.length)
        if len(packed) != section.length or zlib.crc32(packed) != section.crc:
            raise self._damaged()
        return zlib.decompress(packed)

    def _damaged(self) -> SnapshotError:
        return SnapshotError(f"The snapshot {self._path} is damaged; use an earlier one, or take a new one.")


def _table_section(stage: str, partition: int) -> str:
    return f"{stage}/{partition}"


def resumed(inputs: Sequence[Resumed], topic: str) -> Resumed | None:
    """Return how far ``topic`` is accounted for among ``inputs``, or None."""
    return next((each for each in inputs if each.topic == topic), None)
