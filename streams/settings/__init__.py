"""Settings: environment variables ``TIERSTREAM_*``, or a TOML file named by ``TIERSTREAM_CONFIG`` (the environment wins).

One frozen object, built in ``main`` by ``load_settings`` and passed down. Nothing is read at import. Each value is trimmed, and addresses
are brought into the one form that every client reads alike.
"""

import re
import unicodedata
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from schemas.tiers import LABELS, Tier, parse_tier
from streams.errors import ConfigurationError
from streams.settings.addresses import read_bootstrap_servers, read_loops_base_url, read_networks, read_postgres_dsn, read_razorpay_api_url
from streams.settings.files import check_certificates, check_postgres_files, read_toml
from streams.settings.roles import REQUIRED, Role
from streams.settings.sources import configuration_file, environment

PREFIX = "TIERSTREAM_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
NO_DAYS = "none"

_LISTS = frozenset({"kafka_bootstrap_servers", "razorpay_webhook_secrets", "ingest_tokens", "grace_reminder_days"})
_AT_COMMAS = re.compile(r"\s*,\s*")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Settings(BaseSettings):
    """Every setting, with its default. Durations and sizes name their unit."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    kafka_bootstrap_servers: str = Field(default="", description="Kafka's addresses, `host:port`, comma-separated.")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How clients reach Kafka."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="How clients log in, where the protocol asks for SASL."
    )
    kafka_sasl_username: str | None = Field(default=None, description="The user that clients log in as.")
    kafka_sasl_password: SecretStr | None = Field(default=None, description="That user's password.")
    kafka_ssl_cafile: Path | None = Field(
        default=None, description="CA certificates (PEM) that Kafka's certificate is checked against; default: the system's."
    )
    kafka_wait_seconds: float = Field(
        default=0.0,
        ge=0,
        le=86_400,
        description="How long a worker and `topics apply` wait for Kafka when they start, before they end with an error; for containers that start together.",
    )

    postgres_dsn: SecretStr | None = Field(
        default=None,
        description="`postgresql://user:password@host:port/database`, with user and password percent-encoded.",
    )
    constraint_wait_seconds: float = Field(
        default=300.0,
        ge=0,
        le=2_592_000,
        description="How long a row of a team is tried again that refers, by a foreign key of others, to a row which is not there; then it is a dead letter.",
    )

    razorpay_webhook_secrets: SecretStr | None = Field(
        default=None,
        description="Razorpay's webhook secrets, comma-separated, the newest first; keep an old one for 24 h after a rotation.",
    )
    razorpay_team_note: str = Field(default="team_id", min_length=1, description="Key of the Razorpay note that holds the team id.")
    plans: Path | None = Field(default=None, description='TOML file: Razorpay plan id = tier, such as `plan_pro = "pro"`.')
    adopt_subscriptions_created_before: date | None = Field(
        default=None,
        description="`YYYY-MM-DD` (UTC): an older subscription that is seen for the first time sets the tier without a transition.",
    )

    grace_days: int = Field(
        default=7,
        ge=0,
        le=3_650,
        description="Days that a team keeps its tier after a failed payment; 0 has no such grace, and a failed payment has no effect.",
    )
    grace_reminder_days: str = Field(
        default="3,6",
        description="Days after the failed payment on which to remind of it, comma-separated, each less than `GRACE_DAYS`; `none` for none.",
    )

    loops_api_key: SecretStr | None = Field(default=None, description="Loops' API key; not needed with `FORWARD=off`.")
    loops_base_url: str = Field(
        default="https://app.loops.so",
        description="Where Loops is, with or without the `/api` of its documentation; `tierstream up` starts a fake one unless it is set.",
    )
    loops_rate_per_second: float = Field(default=10.0, ge=0.01, le=10_000, description="Requests a second to Loops, all workers together.")
    loops_timeout_seconds: float = Field(default=10.0, ge=0.1, le=300, description="How long one call to Loops may take.")
    loops_webhook_secret: SecretStr | None = Field(
        default=None, description="Signing secret of Loops' webhooks, with its `whsec_`; without one they are answered 401."
    )
    forward: Literal["on", "off"] = Field(default="on", description="`off` sends nothing and records every mail as `suppressed`.")
    forward_max_age_seconds: int = Field(
        default=86_400, ge=0, le=315_360_000, description="A fact older than this when it is first seen is not mailed (`expired`)."
    )

    settle_seconds: float = Field(
        default=0.0,
        ge=0,
        le=86_400,
        description="How long a team's changes of tier are collected, to be mailed as one net change; 0 mails each. All are in the audit log.",
    )

    razorpay_api_url: str = Field(default="https://api.razorpay.com", description="Razorpay's API, for the reconciliation.")
    razorpay_key_id: str | None = Field(default=None, description="Key id of that API.")
    razorpay_key_secret: SecretStr | None = Field(default=None, description="Key secret of that API.")

    initial_tier: str = Field(
        default="free", description="Tier of a team about which nothing is known. Another one later needs `--accept-initial-tier`."
    )

    gateway_host: str = Field(default="0.0.0.0", min_length=1, description="Address that the gateway listens on.")
    gateway_port: int = Field(default=8080, ge=0, le=65_535, description="Its port; 0 lets the system choose.")
    gateway_spool: Path | None = Field(
        default=None,
        description="Directory, one for each gateway, for what Kafka does not acknowledge in time: it is answered as accepted and sent later; without one it is answered 503.",
    )
    gateway_spool_max_bytes: int = Field(default=1_073_741_824, ge=1_048_576, description="How large that spool may grow.")
    gateway_max_connections: int = Field(
        default=1_000, ge=1, le=1_000_000, description="Connections that the gateway keeps open; another one is answered 503."
    )
    gateway_max_connections_per_peer: int = Field(
        default=500, ge=1, le=1_000_000, description="The same of one address, unless it is one of `TIERSTREAM_GATEWAY_PROXIES`."
    )
    gateway_proxies: str | None = Field(
        default=None,
        description="Networks of the proxies before the gateway, comma-separated, such as `10.0.0.0/8`; only their `X-Forwarded-For` is believed.",
    )
    webhook_networks: str | None = Field(
        default=None, description="Networks that webhooks are taken from, comma-separated; others are answered 403. Default: all."
    )
    admin_host: str = Field(default="127.0.0.1", min_length=1, description="Address of `/readyz` and `/metrics`, in every process.")
    admin_port: int = Field(default=9464, ge=0, le=65_535, description="Their port; one for each process of a machine.")
    ingest_tokens: SecretStr | None = Field(
        default=None, description="Bearer tokens of `POST /v1/events`, comma-separated: `name:token`, or a bare token."
    )
    console_token: SecretStr | None = Field(default=None, description="Token of the console, which this version does not have yet.")

    topic_prefix: str = Field(
        default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=200, description="Stands before every topic, group and transaction name."
    )
    partitions: int = Field(
        default=32, ge=1, le=1_000, description="Partitions of every topic, fixed at birth: keys and state depend on it."
    )
    replication_factor: int = Field(default=3, ge=1, le=32_767, description="Copies of every topic.")
    min_insync_replicas: int | None = Field(
        default=None, ge=1, description="Copies that must have a record before it is acknowledged; default: 2, or 1 with one replica."
    )
    retention_razorpay_webhooks_days: int = Field(default=30, ge=1, le=36_500, description="Days that Razorpay's bodies are kept.")
    retention_loops_webhooks_days: int = Field(default=30, ge=1, le=36_500, description="Days that Loops' bodies are kept.")
    retention_team_events_days: int = Field(default=400, ge=1, le=36_500, description="Days that team events are kept.")
    retention_audit_events_days: int = Field(default=30, ge=1, le=36_500, description="Days that audit events are kept.")
    retention_forward_retry_days: int = Field(default=7, ge=2, le=36_500, description="Days that mails which wait for a retry are kept.")
    retention_dead_letters_days: int = Field(default=90, ge=1, le=36_500, description="Days that dead letters are kept.")

    session_timeout_seconds: float = Field(default=10.0, ge=6.0, le=1_800, description="A dead worker's partitions move on after this.")
    instance_id: str | None = Field(
        default=None,
        max_length=200,
        description="Static group member id: another one for each worker process of a stage, the same over its restarts.",
    )
    stall_seconds: float = Field(
        default=60.0,
        ge=1.0,
        le=86_400,
        description="A worker that has work and gets nothing done for this long stops, to be started again.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least that is logged.")
    log_format: Literal["console", "json"] = Field(default="console", description="Lines for people, or JSON.")

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _reachable(cls, value: str) -> str:
        return read_bootstrap_servers(value)

    @field_validator("postgres_dsn")
    @classmethod
    def _canonical(cls, value: SecretStr | None) -> SecretStr | None:
        return SecretStr(read_postgres_dsn(value.get_secret_value())) if value and value.get_secret_value() else value

    @field_validator("gateway_proxies", "webhook_networks")
    @classmethod
    def _networks(cls, value: str | None) -> str | None:
        return read_networks(value) if value else None

    @field_validator("razorpay_api_url")
    @classmethod
    def _without_version(cls, value: str) -> str:
        return read_razorpay_api_url(value)

    @field_validator("loops_base_url")
    @classmethod
    def _without_api(cls, value: str) -> str:
        return read_loops_base_url(value)

    @field_validator("razorpay_webhook_secrets")
    @classmethod
    def _listed(cls, value: SecretStr | None) -> SecretStr | None:
        return SecretStr(",".join(_split(value)))

    @field_validator("ingest_tokens")
    @classmethod
    def _one_client_each(cls, value: SecretStr | None) -> SecretStr | None:
        clients = list(_clients(value))
        if not all(name and token for name, token in clients):
            raise ValueError("lists a client without a name, or without a token; write name:token, or a bare token")
        if len({token for _, token in clients}) < len(clients):
            raise ValueError("lists one token twice; give each client a token of its own")
        return value

    @field_validator("adopt_subscriptions_created_before", mode="before")
    @classmethod
    def _as_a_date(cls, value: object) -> object:
        if isinstance(value, int | float) or (isinstance(value, str) and not _DATE.fullmatch(value)):
            raise ValueError("is no date; write YYYY-MM-DD")
        return value

    @field_validator("initial_tier")
    @classmethod
    def _known_tier(cls, value: str) -> str:
        tier = parse_tier(value)
        if tier is None:
            raise ValueError(f"is {value!r}, which is no tier; use one of {', '.join(LABELS)}")
        return tier.label

    @field_validator("grace_reminder_days")
    @classmethod
    def _within_the_grace(cls, value: str, given: ValidationInfo) -> str:
        days = _days(value)
        grace_days = given.data.get("grace_days")  # absent when it is wrong itself
        late = [day for day in days if grace_days and day >= grace_days]
        if late:
            raise ValueError(f"reminds on day {late[0]}, when the grace of {PREFIX}GRACE_DAYS={grace_days} has ended; write smaller days")
        return ",".join(map(str, days)) or NO_DAYS

    @field_validator("*", mode="before")
    @classmethod
    def _trimmed(cls, value: object, given: ValidationInfo) -> object:
        """Secrets come with the newline of the file they stood in; nothing that a setting means has blanks around it."""
        if isinstance(value, bool):
            raise ValueError("can not be true or false; write its value in quotes")
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str):
            return value
        text = _AT_COMMAS.sub(",", text.strip()) if given.field_name in _LISTS else text.strip()
        if any(unicodedata.category(character) == "Cc" for character in text):
            raise ValueError("holds a control character, such as a newline, in its middle; remove it")
        if not text.isascii() and any(unicodedata.category(character) == "Cs" for character in text):
            raise ValueError("is no UTF-8")
        return text

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        if self.min_insync_replicas is not None and self.min_insync_replicas > self.replication_factor:
            raise ValueError(
                f"{PREFIX}MIN_INSYNC_REPLICAS={self.min_insync_replicas} is more than {PREFIX}REPLICATION_FACTOR={self.replication_factor}, "
                "so no record would ever be acknowledged; make it smaller"
            )
        login = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
        missing = [PREFIX + name.upper() for name in login if _is_unset(getattr(self, name))]
        if missing and self.kafka_security_protocol.startswith("SASL"):
            raise ValueError(f"{PREFIX}KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs a login; set {' and '.join(missing)}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Explicit values first, then the environment, then the TOML file."""
        given = (environment(PREFIX, settings_cls.model_fields), configuration_file(CONFIG_VARIABLE))
        return (init_settings, *(InitSettingsSource(settings_cls, values) for values in given))

    @property
    def initial(self) -> Tier:
        """The tier of a team about which nothing is known."""
        tier = parse_tier(self.initial_tier)
        assert tier is not None  # the validator saw to it
        return tier

    @property
    def grace_reminders(self) -> tuple[int, ...]:
        """Days after a failed payment on which to remind of it, in their order."""
        return _days(self.grace_reminder_days)

    @property
    def razorpay_secrets(self) -> tuple[bytes, ...]:
        """Webhook secrets, the newest first; all are tried, for a rotation leaves retries signed with the old one."""
        return tuple(part.encode() for part in _split(self.razorpay_webhook_secrets))

    @property
    def ingest_clients(self) -> dict[str, str]:
        """Bearer token → client name for ``POST /v1/events``; a bare token's client is called ``default``."""
        return {token: name for name, token in _clients(self.ingest_tokens)}

    def require(self, role: Role) -> None:
        """Raise ConfigurationError, naming every variable that ``role`` needs and that is not set, or a file of certificates that it can not read."""
        missing = [
            PREFIX + name.upper()
            for name in REQUIRED[role]
            if not (self.forward == "off" and name == "loops_api_key") and _is_unset(getattr(self, name))
        ]
        if missing:
            raise ConfigurationError(
                f"{role} can not start: set {' and '.join(missing)} (environment, or the file that {CONFIG_VARIABLE} names)."
            )
        if "kafka_bootstrap_servers" in REQUIRED[role]:
            self.check_kafka_certificates()
        if "postgres_dsn" in REQUIRED[role]:
            assert self.postgres_dsn is not None  # it is not missing
            check_postgres_files(self.postgres_dsn.get_secret_value(), f"{PREFIX}POSTGRES_DSN")

    def check_kafka_certificates(self) -> None:
        """Raise ConfigurationError unless the file of TIERSTREAM_KAFKA_SSL_CAFILE, if one is named, holds CA certificates."""
        if self.kafka_ssl_cafile is not None:
            check_certificates(self.kafka_ssl_cafile, f"{PREFIX}KAFKA_SSL_CAFILE")


def _is_unset(value: object) -> bool:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return text is None or text == ""


def _days(text: str) -> tuple[int, ...]:
    """Return the days that ``text`` lists, each once and in their order. Raises ValueError."""
    parts = [part.strip() for part in text.split(",")]
    if parts in ([NO_DAYS], [""]):
        return ()
    if not all(part.isascii() and part.isdigit() and len(part) < 6 and int(part) for part in parts):
        raise ValueError(f"lists days: whole numbers from 1 on with commas between, or {NO_DAYS}")
    return tuple(sorted({int(part) for part in parts}))


def _clients(tokens: SecretStr | None) -> Iterable[tuple[str, str]]:
    """Yield name and token of each client in ``name:token``; a bare token's client is called ``default``."""
    for part in _split(tokens):
        name, colon, token = part.partition(":")
        yield (name.strip(), token.strip()) if colon else ("default", part)


def _split(secret: SecretStr | None) -> list[str]:
    text = secret.get_secret_value() if secret else ""
    return [part.strip() for part in text.split(",") if part.strip()]


def load_settings(**overrides: object) -> Settings:
    """Read the settings, ``overrides`` first. Raises ConfigurationError with every fault in one message."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic validates what it is given
    except ValidationError as error:
        faults = "; ".join(_in_words(fault) for fault in error.errors(include_input=False))
        raise ConfigurationError(f"Settings are wrong: {faults}.") from error


def changed(settings: Settings, **changes: object) -> Settings:
    """Return ``settings`` with ``changes``, which are checked like any setting. Raises ConfigurationError."""
    return load_settings(**{name: getattr(settings, name) for name in settings.model_fields_set} | changes)


def _in_words(fault: ErrorDetails) -> str:
    name = ".".join(map(str, fault["loc"]))
    message = fault["msg"].removeprefix("Value error, ")
    if not name:
        return message  # several settings that do not fit together, which it names
    if fault["type"] == "extra_forbidden":
        return f"{name} is no setting"
    return f"{PREFIX}{name.upper()}: {message}"


def load_plans(path: Path) -> dict[str, Tier]:
    """Read the plan file (TOML: ``plan id = "tier"``, at the top or under ``[plans]``).

    Raises ConfigurationError naming the file and the plan whose tier is unknown.
    """
    table = read_toml(path, f"{PREFIX}PLANS")
    entries = table.get("plans", table)
    if not isinstance(entries, dict) or not entries:
        raise ConfigurationError(f'{PREFIX}PLANS: {path} holds no plan; write lines such as plan_pro = "pro".')
    plans: dict[str, Tier] = {}
    for plan_id, name in entries.items():
        tier = parse_tier(name)
        if tier is None:
            raise ConfigurationError(
                f"{PREFIX}PLANS: {path} gives {plan_id} the tier {name!r}, which is none; use one of {', '.join(LABELS)}."
            )
        plans[plan_id] = tier
    return plans
