"""Files that say what runs where: the ready file, for programs that wait for the stack, and its kin."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_ready_file(path: Path, content: Mapping[str, object]) -> None:
    """Replace ``path`` with ``content`` as JSON. Atomic, and readable for its owner only: the database's address holds a password."""
    replace_file(path, json.dumps(content, indent=2) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Replace ``path`` with ``text``, readable for its owner only; a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
