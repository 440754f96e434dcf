"""The spool: what was appended and not acknowledged is there again, in order, whatever happened in between."""

import errno
import os
from pathlib import Path

import pytest

from streams.publisher.frames import HEADER, MAGIC, framed
from streams.publisher.spool import Spool, open_private

PAYLOADS = [b"record-%03d" % number for number in range(40)]
FRAME = HEADER.size + len(PAYLOADS[0])


def opened(directory: Path, max_bytes: int = 100_000, **changes: object) -> Spool:
    return Spool(directory, max_bytes=max_bytes, fsync=False, **changes)  # type: ignore[arg-type]


def crashed(spool: Spool) -> None:
    """End the process' hold on the spool without any orderly step."""
    spool.abandon()


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.spool"))


def test_records_come_back_once_in_their_order(tmp_path: Path) -> None:
    spool = opened(tmp_path)

    assert spool.append(PAYLOADS) == (40, None)

    assert spool.read(10) + spool.read(100) == PAYLOADS
    assert spool.read(1) == []
    assert (spool.unread, spool.pending) == (0, 40)


def test_what_was_not_acknowledged_is_there_after_a_crash_read_or_not(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_segment_bytes=100)
    spool.append(PAYLOADS)
    spool.read(20)
    spool.ack(13)

    crashed(spool)

    again = opened(tmp_path)
    assert again.unread == 27
    assert again.read(100) == PAYLOADS[13:]


def test_records_in_hand_need_no_reading_and_are_acknowledged_like_others(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(PAYLOADS[:3], read=True)
    spool.append(PAYLOADS[3:5])

    assert spool.read(10) == PAYLOADS[3:5]
    spool.ack(4)
    crashed(spool)

    assert opened(tmp_path).read(10) == [PAYLOADS[4]]


def test_read_stops_at_its_number_of_bytes(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(PAYLOADS)

    assert spool.read(40, max_bytes=25) == PAYLOADS[:3]


def test_acknowledged_segments_are_removed_and_their_space_is_free_again(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=10 * FRAME, max_segment_bytes=2 * FRAME)
    assert spool.append(PAYLOADS).kept == 10

    spool.read(4)
    spool.ack(4)

    assert len(segments(tmp_path)) == 3
    assert spool.append(PAYLOADS[10:]).kept == 4
    assert spool.read(100) == PAYLOADS[4:14]


def test_limit_refuses_what_is_too_much_and_says_so(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=7 * FRAME + 1)

    kept, problem = spool.append(PAYLOADS)

    assert (kept, problem) == (7, f"the spool has reached its limit of {7 * FRAME + 1} bytes")
    assert sum(path.stat().st_size for path in segments(tmp_path)) == 7 * FRAME


def test_spool_that_is_drained_leaves_no_segment_when_it_is_closed(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(PAYLOADS)
    spool.read(100)
    spool.ack(40)

    spool.close()

    assert segments(tmp_path) == []
    again = opened(tmp_path)
    again.append(PAYLOADS[:1])
    crashed(again)
    assert opened(tmp_path).read(10) == PAYLOADS[:1]


@pytest.mark.parametrize("cut", range(1, FRAME + 1))
def test_torn_tail_is_cut_cleanly_at_any_byte(tmp_path: Path, cut: int) -> None:
    spool = opened(tmp_path)
    spool.append(PAYLOADS[:3])
    crashed(spool)
    (path,) = segments(tmp_path)
    os.truncate(path, path.stat().st_size - cut)

    again = opened(tmp_path)

    assert path.stat().st_size == 2 * FRAME
    assert again.append(PAYLOADS[5:6]).kept == 1
    assert again.read(10) == [*PAYLOADS[:2], PAYLOADS[5]]
    assert again.damaged == 0


def test_damaged_record_in_the_middle_is_passed_over_and_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(PAYLOADS[:5])
    crashed(spool)
    (path,) = segments(tmp_path)
    damage(path, 2 * FRAME + HEADER.size + 3)

    again = opened(tmp_path)

    assert (again.unread, again.damaged) == (4, 1)
    assert again.read(10) == [*PAYLOADS[:2], *PAYLOADS[3:5]]
    again.ack(4)
    again.close()
    assert segments(tmp_path) == []


def test_damage_under_a_running_spool_is_a_loss_and_stops_nothing(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_segment_bytes=2 * FRAME)
    spool.append(PAYLOADS[:6])
    damage(segments(tmp_path)[1], HEADER.size)

    assert spool.read(10) == [*PAYLOADS[:2], *PAYLOADS[3:6]]
    assert (spool.unread, spool.lost, spool.damaged) == (0, 1, 1)
    spool.append(PAYLOADS[6:8])
    assert spool.read(10) == PAYLOADS[6:8]
    spool.ack(7)
    assert spool.pending == 0


def test_payload_that_looks_like_a_frame_is_no_record(tmp_path: Path) -> None:
    inner = framed(b"inner")
    spool = opened(tmp_path)
    spool.append([inner, MAGIC * 5, b""])
    crashed(spool)

    assert opened(tmp_path).read(10) == [inner, MAGIC * 5, b""]


def test_note_of_what_is_delivered_that_is_damaged_delivers_again(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(PAYLOADS[:3])
    spool.read(3)
    spool.ack(2)
    crashed(spool)
    damage(tmp_path / "acked", 9)

    assert opened(tmp_path).read(10) == PAYLOADS[:3]


def test_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(BlockingIOError):
        opened(tmp_path)

    first.append(PAYLOADS[:1])
    first.close()

    assert opened(tmp_path).read(1) == PAYLOADS[:1]


def test_disk_full_when_a_segment_is_opened_is_said_and_costs_nothing_else(tmp_path: Path) -> None:
    full = False

    def opener(path: str, flags: int) -> int:
        if full and path.endswith(".spool"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_private(path, flags)

    spool = opened(tmp_path, opener=opener, max_segment_bytes=2 * FRAME)
    full = True
    assert spool.append(PAYLOADS[:3]) == (0, "the spool can not be written (No space left on device)")
    full = False
    assert spool.append(PAYLOADS[:3]).kept == 3
    full = True
    assert spool.append(PAYLOADS[3:6]).kept == 1

    assert spool.read(10) == PAYLOADS[:4]


def test_disk_full_in_the_middle_of_a_write_keeps_none_of_it(tmp_path: Path) -> None:
    full = True

    def opener(path: str, flags: int) -> int:
        return open_private("/dev/full" if full and path.endswith(".spool") else path, flags & ~os.O_EXCL)

    spool = opened(tmp_path, opener=opener)
    assert spool.append(PAYLOADS[:3]) == (0, "the spool can not be written (No space left on device)")
    assert (spool.pending, spool.append(PAYLOADS[:3]).kept) == (0, 0)
    full = False

    assert spool.append(PAYLOADS[:3]).kept == 3
    assert spool.read(10) == PAYLOADS[:3]
    crashed(spool)
    assert opened(tmp_path).read(10) == PAYLOADS[:3]


def test_directory_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match="Not a directory"):
        opened(tmp_path / "file" / "spool")


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_bytes=1_000, fsync=True)
    spool.append(PAYLOADS[:1])

    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "spool").iterdir()} | {(tmp_path / "spool").stat().st_mode & 0o077}
    assert modes == {0}


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)
