"""The ready file is whole at every moment, and private."""

import json
import stat
from pathlib import Path

import pytest

from streams.embedded.ready_file import write_ready_file


def test_write_ready_file_twice_replaces_the_content(tmp_path: Path) -> None:
    path = tmp_path / "new directory" / "ready.json"

    write_ready_file(path, {"pids": {"audit": [1]}})
    write_ready_file(path, {"pids": {"audit": [2]}})

    assert json.loads(path.read_text()) == {"pids": {"audit": [2]}}
    assert list(path.parent.iterdir()) == [path]


def test_write_ready_file_is_for_its_owner_only(tmp_path: Path) -> None:
    write_ready_file(tmp_path / "ready.json", {})

    assert stat.S_IMODE((tmp_path / "ready.json").stat().st_mode) == 0o600


def test_write_ready_file_that_fails_keeps_the_old_content_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    write_ready_file(path, {"good": True})

    with pytest.raises(TypeError):
        write_ready_file(path, {"bad": object()})

    assert json.loads(path.read_text()) == {"good": True}
    assert list(tmp_path.iterdir()) == [path]
