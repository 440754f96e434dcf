"""Files that settings name: whether they can be read, and what they hold. Each fault is a ConfigurationError that names the setting."""

import getpass
import os
import ssl
import tomllib
from pathlib import Path
from typing import Any

from streams.errors import ConfigurationError
from streams.settings.addresses import CERTIFICATE_FILES, postgres_parameters, postgres_user


def read_toml(path: Path, setting: str) -> dict[str, Any]:
    """Return what a TOML file holds; a byte order mark, which editors put before it, is no part of it. Raises ConfigurationError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path} can not be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{setting}: {path} is no valid TOML: {error}.") from error


def read_secret(path: Path, setting: str) -> str:
    """Return the secret that a file holds, without the blanks round it, such as the line's end. Raises ConfigurationError when there is none."""
    try:
        secret = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path} can not be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{setting}: {path} is no text in UTF-8.") from error
    if not secret:
        raise ConfigurationError(f"{setting}: {path} is empty; write the secret into it.")
    return secret


def check_certificates(path: Path, setting: str) -> None:
    """Raise ConfigurationError unless ``path`` holds certificates in PEM form."""
    _check_readable(path, setting)
    try:
        ssl.create_default_context(cafile=str(path))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"{setting}: {path} holds no certificates in PEM form.") from error


def check_postgres_files(dsn: str, setting: str) -> None:
    """Raise ConfigurationError when asyncpg would not find on this machine what an address that was read relies on.

    These are the files of certificates, and the name of the user where the address has none.
    """
    parameters = postgres_parameters(dsn)
    for name in CERTIFICATE_FILES:
        if name in parameters:
            _check_readable(Path(parameters[name]), f"{setting}, {name}")
    if "sslrootcert" in parameters:
        check_certificates(Path(parameters["sslrootcert"]), f"{setting}, sslrootcert")
    elif parameters.get("sslmode", "").startswith("verify-") and not _has_root_certificates():
        raise ConfigurationError(f"{setting}: sslmode={parameters['sslmode']} needs CA certificates to check with; add &sslrootcert=FILE.")
    if not postgres_user(dsn) and "PGUSER" not in os.environ:
        try:
            getpass.getuser()
        except (KeyError, OSError) as error:  # a container's user may have no name
            raise ConfigurationError(f"{setting} names no user; write postgresql://user:password@host:port/database.") from error


def _has_root_certificates() -> bool:
    """Whether there are CA certificates where asyncpg looks for them when the address names none."""
    return "PGSSLROOTCERT" in os.environ or Path(os.path.expanduser("~/.postgresql/root.crt")).exists()  # pathlib raises without a home


def _check_readable(path: Path, setting: str) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path} can not be read ({error.strerror}).") from error
