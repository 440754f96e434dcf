"""Which settings a command uses: those that are set, or those of the ``up`` that runs here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.cli.settings import ADDRESSES, command_settings
from streams.embedded.running import DIRECTORY, published
from streams.errors import ConfigurationError
from streams.settings import PREFIX

UP = {
    f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
    f"{PREFIX}POSTGRES_DSN": "postgresql://127.0.0.1:8/up",
    f"{PREFIX}LOOPS_BASE_URL": "http://127.0.0.1:7",
    f"{PREFIX}PARTITIONS": "8",
    f"{PREFIX}GATEWAY_PORT": "6",
    f"{PREFIX}LOG_LEVEL": "warning",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ``up`` runs in the working directory, and no variable is set."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with published(tmp_path / DIRECTORY, UP):
        yield tmp_path


def test_without_an_address_the_running_up_is_used_and_named_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    settings = command_settings(None, "topics")

    assert (settings.kafka_bootstrap_servers, settings.partitions) == ("127.0.0.1:9", 8)
    assert capsys.readouterr().err == f"Using the tierstream up that runs in this directory (process {os.getpid()}).\n"


@pytest.mark.parametrize("name", ADDRESSES)
def test_with_an_address_set_the_running_up_is_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), UP[PREFIX + name.upper()])

    settings = command_settings(None)

    assert settings.partitions == 32
    assert capsys.readouterr().err == ""


def test_with_an_address_in_the_configuration_file_the_running_up_is_not_used(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "own.toml").write_text('kafka_bootstrap_servers = "elsewhere:1"')
    monkeypatch.setenv(f"{PREFIX}CONFIG", str(here / "own.toml"))

    assert command_settings(None).kafka_bootstrap_servers == "elsewhere:1"


def test_what_is_set_wins_over_what_up_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}LOG_LEVEL", "debug")

    assert command_settings(None).log_level == "debug"


def test_the_port_of_ups_own_gateway_is_not_taken_over() -> None:
    assert command_settings(None).gateway_port == 8080


def test_a_data_directory_names_another_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with published(tmp_path / "data", {**UP, f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:5"}):
        settings = command_settings(tmp_path / "data")

    assert settings.kafka_bootstrap_servers == "127.0.0.1:5"
    assert f"with {tmp_path / 'data'} (process" in capsys.readouterr().err


def test_a_data_directory_without_a_running_up_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no tierstream up runs with it; start one, or set the addresses"):
        command_settings(tmp_path / "data")


def test_a_data_directory_beside_an_address_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}POSTGRES_DSN", "postgresql://elsewhere/x")

    with pytest.raises(ConfigurationError, match="TIERSTREAM_POSTGRES_DSN is set as well; leave out one of them"):
        command_settings(tmp_path)


def test_without_a_running_up_the_missing_variables_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    with pytest.raises(ConfigurationError, match="TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS and TIERSTREAM_POSTGRES_DSN"):
        command_settings(None, "verify")
