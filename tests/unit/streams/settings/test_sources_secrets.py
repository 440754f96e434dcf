"""Secrets that stand in files, as Docker and Kubernetes mount them."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from streams.errors import ConfigurationError
from streams.settings import PREFIX, Settings, load_settings

SECRETS = sorted(name for name, field in Settings.model_fields.items() if field.annotation == SecretStr | None)
VALUES = {"postgres_dsn": "postgresql://app:S3cret@db:5432/app"}


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_may_stand_in_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = VALUES.get(name, "S3cret")
    (tmp_path / "secret").write_text(f"{secret}\n")
    monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", str(tmp_path / "secret"))

    settings = load_settings()

    assert getattr(settings, name).get_secret_value() == secret
    assert name in settings.model_fields_set


def test_what_is_no_secret_stands_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "host").write_text("0.0.0.0")
    monkeypatch.setenv(f"{PREFIX}GATEWAY_HOST_FILE", str(tmp_path / "host"))

    assert "gateway_host" not in load_settings().model_fields_set


def test_secret_that_is_set_twice_is_refused_without_a_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("S3cret")
    monkeypatch.setenv(f"{PREFIX}LOOPS_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv(f"{PREFIX}LOOPS_API_KEY", "another")

    with pytest.raises(
        ConfigurationError, match=r"^TIERSTREAM_LOOPS_API_KEY and TIERSTREAM_LOOPS_API_KEY_FILE are both set; leave out one of them\.$"
    ):
        load_settings()


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, r"can not be read \(No such file or directory\)"), (b" \n", "is empty"), (b"\xff\xfe", "is no text in UTF-8")],
)
def test_file_that_holds_no_secret_is_one_sentence(
    content: bytes | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(f"{PREFIX}LOOPS_API_KEY_FILE", str(path))

    with pytest.raises(ConfigurationError, match=rf"^TIERSTREAM_LOOPS_API_KEY_FILE: .* {words}"):
        load_settings()
