"""The ready file: what runs where, for programs that wait for the stack."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_ready_file(path: Path, content: Mapping[str, object]) -> None:
    """Replace ``path`` with ``content`` as JSON; a reader sees the old file or the new one, never a part.

    Readable for its owner only: the database's address holds a password.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
