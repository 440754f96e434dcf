"""Files that settings name."""

import getpass
from pathlib import Path

import pytest

from streams.errors import ConfigurationError
from streams.settings.files import check_certificates, check_postgres_files, read_toml

NOBODY = "postgresql://db:5432/prod"
SOMEBODY = "postgresql://app@db:5432/prod"


def refusal(dsn: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        check_postgres_files(dsn, "DSN")
    return str(refused.value)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_toml_is_read_with_and_without_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "file.toml").write_bytes(mark + b'plan_X = "pro"\n')

    assert read_toml(tmp_path / "file.toml", "SETTING") == {"plan_X": "pro"}


@pytest.mark.parametrize("content", [b"plan_X = \n", b"\xff\xfep\x00", b'a = "\xff"'])
def test_toml_that_is_none_is_named_with_its_setting(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=f"^SETTING: {path} is no valid TOML: "):
        read_toml(path, "SETTING")


def test_toml_that_can_not_be_read_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"^SETTING: {tmp_path} can not be read \(Is a directory\)\.$"):
        read_toml(tmp_path, "SETTING")


def test_certificates_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")

    with pytest.raises(ConfigurationError, match=r"^SETTING: .*ca\.pem holds no certificates in PEM form\.$"):
        check_certificates(tmp_path / "ca.pem", "SETTING")


def test_certificates_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^SETTING: .*ca\.pem can not be read \(No such file or directory\)\.$"):
        check_certificates(tmp_path / "ca.pem", "SETTING")


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
def test_postgres_file_that_is_not_there_is_named_with_its_parameter(name: str) -> None:
    assert (
        refusal(f"{SOMEBODY}?sslmode=require&{name}=%2Fno%2Fsuch") == f"DSN, {name}: /no/such can not be read (No such file or directory)."
    )


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_postgres_that_is_to_be_verified_needs_certificates_to_do_it_with(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert refusal(f"{SOMEBODY}?sslmode={mode}") == f"DSN: sslmode={mode} needs CA certificates to check with; add &sslrootcert=FILE."

    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    check_postgres_files(f"{SOMEBODY}?sslmode={mode}", "DSN")


def test_postgres_without_a_user_is_refused_where_the_system_knows_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.delenv("PGUSER", raising=False)
    monkeypatch.setattr(getpass, "getuser", nameless)

    assert refusal(NOBODY) == "DSN names no user; write postgresql://user:password@host:port/database."
    check_postgres_files(SOMEBODY, "DSN")

    monkeypatch.setenv("PGUSER", "app")
    check_postgres_files(NOBODY, "DSN")
