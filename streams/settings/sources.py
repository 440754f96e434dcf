"""Where settings stand: the environment, and the configuration file."""

import logging
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from streams.errors import ConfigurationError
from streams.settings.files import read_secret, read_toml

_SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://\S+:[0-9]+", re.IGNORECASE)
"""What Kubernetes puts into a variable ``NAME_PORT`` of each pod for a Service called ``name``."""

_log = logging.getLogger(__name__)


_FILE = "_FILE"
"""Behind a secret's variable: the file that holds it, as Docker and Kubernetes mount secrets. So it stands in no environment."""


def environment(prefix: str, fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """Return which of ``fields`` are set in the environment, each as ``prefix`` and its name in any case, and to what.

    A secret may stand in a file that its variable with ``_FILE`` names. A blank counts as not set. So does the address of a Service that
    Kubernetes has put where a port belongs, with a warning. Raises ConfigurationError for a file that can not be read, or one too many.
    """
    variables = {name.lower(): value.strip() for name, value in os.environ.items()}
    given = {field: value for field in fields if (value := variables.get((prefix + field).lower()))}
    for field, path in secret_files(prefix, fields).items():
        variable = (prefix + field).upper()
        if field in given:
            raise ConfigurationError(f"{variable} and {variable}{_FILE} are both set; leave out one of them.")
        given[field] = read_secret(path, variable + _FILE)
    links = [field for field, value in given.items() if field.endswith("_port") and _SERVICE_LINK.fullmatch(value)]
    for field in links:
        _warn_of_service_link((prefix + field).upper())
        del given[field]
    return given


def secret_files(prefix: str, fields: Mapping[str, FieldInfo]) -> dict[str, Path]:
    """Return which of the secrets among ``fields`` the environment names a file for, and which one."""
    variables = {name.lower(): value.strip() for name, value in os.environ.items()}
    secrets = (name for name, info in fields.items() if SecretStr in get_args(info.annotation))
    return {field: Path(path) for field in secrets if (path := variables.get((prefix + field + _FILE).lower()))}


@cache
def _warn_of_service_link(variable: str) -> None:
    """Log where such a value comes from, once a process: settings may be read several times."""
    _log.warning(
        "%s is left aside: it holds no port but the address of the Service %s, put there by Kubernetes. "
        "Set enableServiceLinks: false in the pod's spec, or the variable itself.",
        variable,
        variable.removesuffix("_PORT").lower().replace("_", "-"),
    )


def configuration_file(variable: str) -> dict[str, Any]:
    """Return what the TOML file holds that ``variable`` names; nothing where it is not set. Raises ConfigurationError."""
    path = os.environ.get(variable, "").strip()
    if not path:
        return {}
    if not Path(path).is_file():
        raise ConfigurationError(f"{variable} names {path}, which is no file.")
    return read_toml(Path(path), variable)
