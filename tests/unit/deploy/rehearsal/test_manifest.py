"""What images hold, and how two of them differ."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.rehearsal.manifest import Entry, added, closed_to_others, differences, megabytes, read_manifest

FILE = Entry("file", 0o644, (0, 0), 315_532_800, 3_000_000, "abc")
DIRECTORY = Entry("directory", 0o755, (0, 0), 315_532_800, 0, "")


def archive(path: Path, *members: tuple[str, bytes | None]) -> Path:
    """Write an archive with files, and with directories, which have no content."""
    with tarfile.open(path, "w") as target:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mtime = 315_532_800.75
            info.type, info.mode = (tarfile.DIRTYPE, 0o755) if content is None else (tarfile.REGTYPE, 0o644)
            info.size = len(content or b"")
            target.addfile(info, io.BytesIO(content or b""))
    return path


def test_manifest_has_mode_owner_time_size_and_digest(tmp_path: Path) -> None:
    found = read_manifest(archive(tmp_path / "image.tar", ("opt/", None), ("opt/a", b"a")))

    assert found["opt"] == replace(DIRECTORY, modified=315_532_800)
    assert found["opt/a"] == replace(FILE, size=1, content="ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb")


def test_manifest_says_where_a_link_points(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as target:
        link = tarfile.TarInfo("opt/python")
        link.type, link.linkname = tarfile.SYMTYPE, "/usr/bin/python"
        target.addfile(link)

    assert (read_manifest(path)["opt/python"].kind, read_manifest(path)["opt/python"].content) == ("link", "/usr/bin/python")


def test_manifest_leaves_out_what_the_engine_adds(tmp_path: Path) -> None:
    members = [(name, b"") for name in (".dockerenv", "dev/console", "etc/hostname", "etc/passwd", "development")]

    assert set(read_manifest(archive(tmp_path / "image.tar", *members))) == {"etc/passwd", "development"}


def test_only_what_the_base_has_not_or_has_otherwise_is_added() -> None:
    base = {"same": FILE, "changed": FILE, "removed": FILE}

    assert set(added({"same": FILE, "changed": replace(FILE, content="def"), "new": FILE}, base)) == {"changed", "new"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("content", "def"), ("mode", 0o600), ("owner", (10001, 0)), ("modified", 315_532_801), ("size", 4), ("kind", "link")],
)
def test_each_property_makes_a_difference(name: str, value: object) -> None:
    assert differences({"opt/a": FILE}, {"opt/a": replace(FILE, **{name: value})}) == [f"/opt/a has another {name}"]  # type: ignore[arg-type]


def test_a_file_of_one_side_is_a_difference() -> None:
    assert differences({"opt/a": FILE}, {"opt/b": FILE}) == ["/opt/a is only in the first", "/opt/b is only in the second"]


def test_equal_manifests_have_no_differences() -> None:
    assert differences({"opt/a": FILE, "opt": DIRECTORY}, {"opt": DIRECTORY, "opt/a": FILE}) == []


@pytest.mark.parametrize(
    ("entry", "mode", "closed"),
    [
        (FILE, 0o644, False),
        (FILE, 0o640, True),
        (FILE, 0o646, True),
        (DIRECTORY, 0o755, False),
        (DIRECTORY, 0o754, True),
        (DIRECTORY, 0o750, True),
        (DIRECTORY, 0o757, True),
        (replace(FILE, kind="link"), 0o700, False),
    ],
)
def test_others_read_and_enter_and_never_write(entry: Entry, mode: int, closed: bool) -> None:
    assert closed_to_others({"opt/a": replace(entry, mode=mode)}) == (["/opt/a"] if closed else [])


def test_size_is_in_millions_of_bytes() -> None:
    assert megabytes({"a": FILE, "b": replace(FILE, size=1_260_000)}) == 4.3
