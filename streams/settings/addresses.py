"""Addresses as people and platforms write them, read once into one form that every client reads alike. Pure.

Each reader raises ValueError with a phrase that says what is wrong, and repeats nothing of the address: it may hold a password.
"""

import re
from ipaddress import IPv6Address, ip_network
from urllib.parse import quote, unquote

KAFKA_PORT = 9_092
POSTGRES_PORT = 5_432

CERTIFICATE_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Parameters of a PostgreSQL address that name files."""

_POSTGRES_FORM = "is no PostgreSQL address; write postgresql://user:password@host:port/database"
_NOT_ENCODED = (
    "holds / ? # or @ where an address can not have it; in a user or password write them percent-encoded "
    "(/ is %2F, ? is %3F, # is %23, @ is %40)"
)
_END_OF_AUTHORITY = re.compile(r"[/?#]")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_HOST_CHARACTER = re.compile(r"[\s/?#@\[\]:\\,%\"'<>]")
_NO_BASE_URL = re.compile(r"[\s?#@]")
_PORT = re.compile(r"[0-9]{1,5}")

_CHOICES: dict[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
_LIBPQ_ALONE = frozenset(
    {
        *("channel_binding", "connect_timeout", "fallback_application_name", "gssdelegation", "gssencmode", "hostaddr"),
        *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts"),
        *("max_protocol_version", "min_protocol_version", "require_auth", "requirepeer", "requiressl", "sslcertmode"),
        *("sslcompression", "sslsni", "tcp_user_timeout"),
    }
)
"""Parameters of libpq that asyncpg does not know. It would hand them to the server as settings, which refuses every login then."""


def read_postgres_dsn(text: str) -> str:
    """Return a PostgreSQL address in its canonical form: each part percent-encoded, each host with its port.

    The user ends at the first colon, the password at the last ``@`` before the first ``/ ? #``. An ``@`` behind that, or any ``#``, means a
    password that is not percent-encoded, and is refused: what would be the host could be a part of it. Idempotent.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in ("postgresql", "postgres"):
        raise ValueError(_POSTGRES_FORM)
    authority, tail = _split(rest)
    path, _, query = tail.partition("?")
    if "#" in tail or "@" in tail or "/" in path[1:]:
        raise ValueError(_NOT_ENCODED)
    login, _, hosts = authority.rpartition("@")
    user, _, password = login.partition(":")
    canonical = "postgresql://" + _encoded(user) + (f":{_encoded(password)}" if password else "") + ("@" if login else "")
    if hosts:
        canonical += ",".join(_postgres_host(host) for host in hosts.split(","))
    canonical += "/" + _encoded(path[1:])
    parameters = "&".join(_parameter(part) for part in query.split("&") if part)
    return f"{canonical}?{parameters}" if parameters else canonical


def postgres_parameters(dsn: str) -> dict[str, str]:
    """Return the parameters of an address that ``read_postgres_dsn`` has read."""
    pairs = (part.partition("=") for part in dsn.partition("?")[2].split("&") if part)
    return {name: unquote(value) for name, _, value in pairs}


def postgres_user(dsn: str) -> str:
    """Return the user that an address names which ``read_postgres_dsn`` has read; empty where it names none."""
    login, at, _ = _split(dsn.partition("://")[2])[0].rpartition("@")
    return unquote(login.partition(":")[0]) if at else postgres_parameters(dsn).get("user", "")


def read_bootstrap_servers(text: str) -> str:
    """Return Kafka's addresses as ``host:port``, comma-separated; without a port 9092. Empty parts are left out."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if any("://" in part for part in parts):
        raise ValueError("holds an address with a scheme; write host:port, and say in TIERSTREAM_KAFKA_SECURITY_PROTOCOL how it is reached")
    return ",".join(_with_port(part, KAFKA_PORT) for part in parts)


def read_loops_base_url(text: str) -> str:
    """Return where Loops is, without the ``/api`` or ``/api/v1`` that its documentation has in the address, and without a slash at the end."""
    return _base_url(text, "Loops", r"/+(api/*(v1/*)?)?$")


def read_razorpay_api_url(text: str) -> str:
    """Return where Razorpay's API is, without the ``/v1`` that its documentation has in the address, and without a slash at the end."""
    return _base_url(text, "Razorpay's API", r"/+(v1/*)?$")


def _base_url(text: str, whose: str, end: str) -> str:
    scheme, separator, rest = text.partition("://")
    authority, path = _split(rest)
    if not separator or scheme.lower() not in ("http", "https") or not authority or _NO_BASE_URL.search(rest):
        raise ValueError(f"is no address of {whose}; write https://host, without user, password, ? and #")
    host, port = _endpoint(authority)
    return f"{scheme.lower()}://{host}{f':{port}' if port else ''}{re.sub(end, '', path)}"


def _split(rest: str) -> tuple[str, str]:
    """Return what stands before the first ``/ ? #``, and all from there on."""
    end = _END_OF_AUTHORITY.search(rest)
    return (rest[: end.start()], rest[end.start() :]) if end else (rest, "")


def _postgres_host(text: str) -> str:
    name, _, port = text.partition(":")
    if name.lower().startswith("%2f"):  # the directory of a socket
        return f"{_encoded(name)}:{_port(port) if port else POSTGRES_PORT}"
    return _with_port(text, POSTGRES_PORT)


def _parameter(text: str) -> str:
    name, equals, value = text.partition("=")
    if not equals or not _PARAMETER.fullmatch(name):
        raise ValueError("has a ? behind which no name=value follows; in a user or password write it percent-encoded, as %3F")
    if name in _LIBPQ_ALONE:
        raise ValueError(f"has the parameter {name}, which is not supported here; leave it out")
    read = _decoded(value.replace("+", " "))
    if name in _CHOICES and read not in _CHOICES[name]:
        raise ValueError(f"has another {name} than {', '.join(_CHOICES[name])}")
    if name == "port":
        for port in read.split(","):
            _port(port)
    return f"{name}={quote(read, safe='')}"


def _with_port(text: str, default: int) -> str:
    host, port = _endpoint(text)
    return f"{host}:{port or default}"


def _endpoint(text: str) -> tuple[str, str]:
    """Return host and port of ``host:port``, ``host``, ``[IPv6]:port`` or ``[IPv6]``; the port is empty where there is none."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        try:
            host = f"[{IPv6Address(address)}]"
        except ValueError:
            bracket = ""
        if not bracket or (rest and rest[0] != ":"):
            raise ValueError("has an IPv6 address that is none; write [address]:port")
    else:
        host, colon, port = text.partition(":")
        rest = colon + port
        try:
            host.encode("idna")
        except UnicodeError:
            host = ""
        if not host or _NO_HOST_CHARACTER.search(host):
            raise ValueError("has a host that can not be one")
    return host, _port(rest[1:]) if rest else ""


def _port(text: str) -> str:
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65_535:
        raise ValueError("has a port that is no number from 1 to 65535")
    return str(int(text))


def _encoded(text: str) -> str:
    """Percent-encode a part that may be encoded already, in whole or in part."""
    return quote(_decoded(text), safe="")


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("has an escape that is no UTF-8; percent-encode what it stands for as UTF-8") from None
    if _CONTROL.search(decoded):
        raise ValueError("holds a control character")
    return decoded


def read_networks(text: str) -> str:
    """Return comma-separated networks, each in its canonical form: ``10.0.0.0/8,2001:db8::/32``. An address alone is a network of one."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return ",".join(str(ip_network(part)) for part in found)
    except ValueError as error:
        raise ValueError("is no list of networks; write them as 10.0.0.0/8, comma-separated, with no bit set behind the prefix") from error
