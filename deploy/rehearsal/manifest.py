"""What an image holds, file by file, read from ``docker export``; and how two of them differ. Pure but for reading the archive."""

import hashlib
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ENGINE_TREES = ("dev", "proc", "sys")
ENGINE_PATHS = (".dockerenv", "etc", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf")
"""What the engine puts into each container, or gives a new time because of that."""

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, a directory or a link. ``content`` is the SHA-256 of a file, and where a link points; ``modified`` is in Unix seconds."""

    kind: str
    mode: int
    owner: tuple[int, int]
    modified: int
    size: int
    content: str


Manifest = Mapping[str, Entry]
"""Entries by path, without the slash before it."""


def read_manifest(archive: Path) -> dict[str, Entry]:
    """Return what an archive of ``docker export`` holds, without what the engine adds. Raises OSError, tarfile.TarError."""
    found: dict[str, Entry] = {}
    with tarfile.open(archive, "r|") as members:
        for member in members:
            path = member.name.removeprefix("./").rstrip("/")
            if path and path.split("/")[0] not in ENGINE_TREES and path not in ENGINE_PATHS:
                found[path] = _entry(members, member)
    return found


def _entry(members: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind = "directory" if member.isdir() else "file" if member.isfile() else "link" if member.issym() or member.islnk() else "other"
    content = member.linkname
    if file := members.extractfile(member) if member.isfile() else None:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        content = digest.hexdigest()
    return Entry(kind, member.mode, (member.uid, member.gid), int(member.mtime), member.size, content)


def added(image: Manifest, base: Manifest) -> dict[str, Entry]:
    """Return the entries that ``base`` has not, or has otherwise."""
    return {path: entry for path, entry in image.items() if base.get(path) != entry}


def differences(first: Manifest, second: Manifest) -> list[str]:
    """Return a phrase for each entry that is not the same in both: the path, and what differs."""
    found = []
    for path in sorted(first.keys() | second.keys()):
        one, other = first.get(path), second.get(path)
        if one is None or other is None:
            found.append(f"/{path} is only in the {'second' if one is None else 'first'}")
            continue
        names = [name for name in Entry.__dataclass_fields__ if getattr(one, name) != getattr(other, name)]
        if names:
            found.append(f"/{path} has another {', '.join(names)}")
    return found


def closed_to_others(manifest: Manifest) -> list[str]:
    """Return the paths that a user who is neither owner nor of the group can not read, or not enter, or can write to."""
    wanted = {"directory": 0o005, "file": 0o004}
    return [
        f"/{path}"
        for path, entry in sorted(manifest.items())
        if entry.kind in wanted and (entry.mode & wanted[entry.kind] != wanted[entry.kind] or entry.mode & 0o002)
    ]


def megabytes(manifest: Manifest) -> float:
    """Return the size of all files, in MB of a million bytes."""
    return round(sum(entry.size for entry in manifest.values()) / 1e6, 1)
