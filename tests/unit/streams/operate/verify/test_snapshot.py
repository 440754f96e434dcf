"""The snapshot of a verification: written whole or not at all, for its owner alone, and refused when it is not of this stack."""

from pathlib import Path

import pytest

from streams.errors import SnapshotError
from streams.operate.verify import Options, verify
from streams.operate.verify.snapshot import FORMAT, Snapshot
from streams.settings import Settings
from tests.verify_doubles import PRETENDED, SETTINGS, read_from, written_snapshot
from tests.verify_falsifications import lost_row, topic_made_anew


def test_snapshot_is_not_written_when_anything_differs(tmp_path: Path) -> None:
    stack = read_from(PRETENDED)
    lost_row(stack)

    assert not written_snapshot(stack, tmp_path / "taken").clean
    assert list(tmp_path.iterdir()) == []


def test_snapshot_is_readable_by_its_owner_alone_for_it_holds_addresses(tmp_path: Path) -> None:
    written_snapshot(read_from(PRETENDED), tmp_path / "taken")

    assert (tmp_path / "taken").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_snapshot_of_another_stack_or_damaged_or_of_another_format_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    stack = read_from(PRETENDED)
    written_snapshot(stack, path)
    whole = path.read_bytes()

    def refused(content: bytes, settings: Settings = SETTINGS) -> str:
        path.write_bytes(content)
        with pytest.raises(SnapshotError) as raised, Snapshot(path) as snapshot:
            verify(settings, *stack, Options(snapshot=snapshot), lambda what, done, total: None)
        return str(raised.value)

    assert "is no snapshot" in refused(b"something else")
    assert "is damaged" in refused(whole[: len(whole) // 2])
    assert "is damaged" in refused(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert f"has format {FORMAT + 1}" in refused(whole[:-2] + (FORMAT + 1).to_bytes(2, "big"))
    assert "16 partitions" in refused(whole, SETTINGS.model_copy(update={"partitions": 16})).replace("and 16", "16 partitions")
    topic_made_anew(stack)
    assert "was made anew" in refused(whole)
