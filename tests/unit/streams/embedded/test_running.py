"""A directory's running ``up``: found while it runs, and never afterwards, however it ended."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from streams.embedded.running import RunningStack, published, running_stack
from streams.errors import ConfigurationError

VARIABLES = {"TIERSTREAM_POSTGRES_DSN": "postgresql://user:it's #1 & 'quoted'@127.0.0.1:5432/x", "TIERSTREAM_PARTITIONS": "8"}
HOLD = """
import signal, sys
from pathlib import Path
from streams.embedded.running import published
with published(Path(sys.argv[1]), {"TIERSTREAM_PARTITIONS": "8"}):
    print("published", flush=True)
    signal.pause()
"""


def test_published_settings_are_found_as_they_were(tmp_path: Path) -> None:
    with published(tmp_path, VARIABLES) as alone:
        assert alone
        assert running_stack(tmp_path) == RunningStack(os.getpid(), VARIABLES)


def test_published_settings_can_be_read_by_their_owner_alone(tmp_path: Path) -> None:
    with published(tmp_path, VARIABLES):
        assert stat.S_IMODE((tmp_path / "up.env").stat().st_mode) == 0o600


def test_published_settings_are_gone_after_the_end(tmp_path: Path) -> None:
    with published(tmp_path, VARIABLES):
        pass

    assert not (tmp_path / "up.env").exists()
    assert running_stack(tmp_path) is None


def test_nothing_is_found_where_up_never_ran(tmp_path: Path) -> None:
    assert running_stack(tmp_path / "nowhere") is None


def test_a_second_up_of_a_directory_leaves_the_first_in_place(tmp_path: Path) -> None:
    with published(tmp_path, VARIABLES):
        with published(tmp_path, {"TIERSTREAM_PARTITIONS": "32"}) as alone:
            assert not alone

        assert running_stack(tmp_path) == RunningStack(os.getpid(), VARIABLES)


def test_the_file_of_a_killed_up_is_not_used_and_the_next_up_replaces_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "published\n"
        found = running_stack(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    assert found == RunningStack(process.pid, {"TIERSTREAM_PARTITIONS": "8"})
    assert (tmp_path / "up.env").exists()
    assert running_stack(tmp_path) is None
    with published(tmp_path, VARIABLES) as alone:
        assert alone
        assert running_stack(tmp_path) == RunningStack(os.getpid(), VARIABLES)


@pytest.mark.parametrize("text", ["TIERSTREAM_PARTITIONS=8\n", "TIERSTREAM_UP_PID=x\n", "nonsense\n", "A='\n"])
def test_a_file_that_up_did_not_write_is_one_sentence_that_names_it(tmp_path: Path, text: str) -> None:
    with published(tmp_path, VARIABLES):
        (tmp_path / "up.env").write_text(text)

        with pytest.raises(ConfigurationError, match=r"up\.env is not what tierstream up writes; remove it"):
            running_stack(tmp_path)


def test_the_settings_of_a_killed_up_are_never_taken_for_those_of_its_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "up.env").write_text("TIERSTREAM_UP_PID=1\nTIERSTREAM_PARTITIONS=4\n")
    seen: list[RunningStack | None] = []
    replace = os.replace

    def reading_first(source: str, target: Path) -> None:
        seen.append(running_stack(tmp_path))
        replace(source, target)

    monkeypatch.setattr(os, "replace", reading_first)
    with published(tmp_path, VARIABLES):
        seen.append(running_stack(tmp_path))

    assert seen == [None, RunningStack(os.getpid(), VARIABLES)]


def test_a_file_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with published(tmp_path, VARIABLES):
        monkeypatch.setattr(os, "geteuid", lambda: 4_242)

        with pytest.raises(ConfigurationError, match=r"up\.env belongs to another user"):
            running_stack(tmp_path)


def test_an_end_leaves_the_file_of_a_successor(tmp_path: Path) -> None:
    with published(tmp_path, VARIABLES):
        (tmp_path / "up.env").unlink()
        (tmp_path / "up.env").write_text("a successor's")

    assert (tmp_path / "up.env").read_text() == "a successor's"


def test_a_directory_that_can_not_be_written_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match="file can not be written"), published(tmp_path / "file", VARIABLES):
        pass
