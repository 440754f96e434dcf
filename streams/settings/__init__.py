"""Settings: environment variables ``TIERSTREAM_*``, or a TOML file named by ``TIERSTREAM_CONFIG`` (the environment wins).

One frozen object, built in ``main`` by ``load_settings`` and passed down. Nothing is read at import.
"""

import os
import tomllib
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from schemas.tiers import LABELS, Tier, parse_tier
from streams.errors import ConfigurationError

PREFIX = "TIERSTREAM_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
NO_DAYS = "none"

Role = Literal["gateway", "normalise", "classify", "audit", "forward", "feedback", "topics", "migrate", "verify"]


class Settings(BaseSettings):
    """Every setting, with its default. Durations and sizes name their unit."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

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

    postgres_dsn: SecretStr | None = Field(default=None, description="`postgresql://user:password@host:port/database`.")

    razorpay_webhook_secrets: SecretStr | None = Field(
        default=None,
        description="Razorpay's webhook secrets, comma-separated, the newest first; keep an old one for 24 h after a rotation.",
    )
    razorpay_team_note: str = Field(default="team_id", description="Key of the Razorpay note that holds the team id.")
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
        default="https://app.loops.so", description="Where Loops is; `tierstream up` starts a fake one unless it is set."
    )
    loops_rate_per_second: float = Field(default=10.0, gt=0, description="Requests a second to Loops, all workers together.")
    loops_timeout_seconds: float = Field(default=10.0, gt=0, description="How long one call to Loops may take.")
    loops_webhook_secret: SecretStr | None = Field(
        default=None, description="Signing secret of Loops' webhooks, with its `whsec_`; without one they are answered 401."
    )
    forward: Literal["on", "off"] = Field(default="on", description="`off` sends nothing and records every mail as `suppressed`.")
    forward_max_age_seconds: int = Field(
        default=86_400, ge=0, description="A fact older than this when it is first seen is not mailed (`expired`)."
    )

    initial_tier: str = Field(
        default="free", description="Tier of a team about which nothing is known. Another one later needs `--accept-initial-tier`."
    )

    gateway_host: str = Field(default="0.0.0.0", description="Address that the gateway listens on.")
    gateway_port: int = Field(default=8080, ge=0, le=65_535, description="Its port; 0 lets the system choose.")
    gateway_spool: Path | None = Field(
        default=None,
        description="Directory, one for each gateway, for what Kafka does not acknowledge in time: it is answered as accepted and sent later; without one it is answered 503.",
    )
    gateway_spool_max_bytes: int = Field(default=1_073_741_824, ge=1_048_576, description="How large that spool may grow.")
    admin_host: str = Field(default="127.0.0.1", description="Address of `/readyz` and `/metrics`, in every process.")
    admin_port: int = Field(default=9464, ge=0, le=65_535, description="Their port; one for each process of a machine.")
    ingest_tokens: SecretStr | None = Field(
        default=None, description="Bearer tokens of `POST /v1/events`, comma-separated: `name:token`, or a bare token."
    )
    console_token: SecretStr | None = Field(default=None, description="Token of the console, which this version does not have yet.")

    topic_prefix: str = Field(
        default="", pattern=r"^[A-Za-z0-9._-]*$", description="Stands before every topic, group and transaction name."
    )
    partitions: int = Field(
        default=32, ge=1, le=1_000, description="Partitions of every topic, fixed at birth: keys and state depend on it."
    )
    replication_factor: int = Field(default=3, ge=1, description="Copies of every topic.")
    min_insync_replicas: int | None = Field(
        default=None, ge=1, description="Copies that must have a record before it is acknowledged; default: 2, or 1 with one replica."
    )
    retention_razorpay_webhooks_days: int = Field(default=30, ge=1, description="Days that Razorpay's bodies are kept.")
    retention_loops_webhooks_days: int = Field(default=30, ge=1, description="Days that Loops' bodies are kept.")
    retention_team_events_days: int = Field(default=400, ge=1, description="Days that team events are kept.")
    retention_audit_events_days: int = Field(default=30, ge=1, description="Days that audit events are kept.")
    retention_dead_letters_days: int = Field(default=90, ge=1, description="Days that dead letters are kept.")

    session_timeout_seconds: float = Field(default=10.0, ge=6.0, description="A dead worker's partitions move on after this.")
    instance_id: str | None = Field(
        default=None, description="Static group member id: another one for each worker process of a stage, the same over its restarts."
    )
    stall_seconds: float = Field(
        default=60.0, ge=1.0, description="A worker that has work and gets nothing done for this long stops, to be started again."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least that is logged.")
    log_format: Literal["console", "json"] = Field(default="console", description="Lines for people, or JSON.")

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
        path = os.environ.get(CONFIG_VARIABLE)
        toml = (TomlConfigSettingsSource(settings_cls, Path(path)),) if path else ()
        return (init_settings, env_settings, *toml)

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
        clients: dict[str, str] = {}
        for part in _split(self.ingest_tokens):
            name, colon, token = part.partition(":")
            clients[token if colon else part] = name if colon else "default"
        return clients

    def require(self, role: Role) -> None:
        """Raise ConfigurationError, naming every variable that ``role`` needs and that is not set."""
        missing = [
            PREFIX + name.upper()
            for name in REQUIRED[role]
            if not (self.forward == "off" and name == "loops_api_key") and _is_unset(getattr(self, name))
        ]
        if missing:
            raise ConfigurationError(
                f"{role} can not start: set {' and '.join(missing)} (environment, or the file that {CONFIG_VARIABLE} names)."
            )


REQUIRED: dict[Role, tuple[str, ...]] = {
    "gateway": ("kafka_bootstrap_servers", "razorpay_webhook_secrets"),
    "normalise": ("kafka_bootstrap_servers", "plans"),
    "classify": ("kafka_bootstrap_servers",),
    "audit": ("kafka_bootstrap_servers", "postgres_dsn"),
    "forward": ("kafka_bootstrap_servers", "postgres_dsn", "loops_api_key"),
    "feedback": ("kafka_bootstrap_servers", "postgres_dsn"),
    "topics": ("kafka_bootstrap_servers",),
    "migrate": ("postgres_dsn",),
    "verify": ("kafka_bootstrap_servers", "postgres_dsn", "plans"),
}
"""The settings that a role does not start without."""


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


def _split(secret: SecretStr | None) -> list[str]:
    text = secret.get_secret_value() if secret else ""
    return [part.strip() for part in text.split(",") if part.strip()]


def load_settings(**overrides: object) -> Settings:
    """Read the settings, ``overrides`` first. Raises ConfigurationError with every fault in one message."""
    path = os.environ.get(CONFIG_VARIABLE)
    if path and not Path(path).is_file():
        raise ConfigurationError(f"{CONFIG_VARIABLE} names {path}, which is no file.")
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic validates what it is given
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is no valid TOML: {error}.") from error
    except ValidationError as error:
        faults = "; ".join(_in_words(fault) for fault in error.errors(include_input=False))
        raise ConfigurationError(f"Settings are wrong: {faults}.") from error


def _in_words(fault: ErrorDetails) -> str:
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"{name} is no setting"
    return f"{PREFIX}{name.upper()}: {fault['msg'].removeprefix('Value error, ')}"


def load_plans(path: Path) -> dict[str, Tier]:
    """Read the plan file (TOML: ``plan id = "tier"``, at the top or under ``[plans]``).

    Raises ConfigurationError naming the file and the plan whose tier is unknown.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{PREFIX}PLANS: {path} can not be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{PREFIX}PLANS: {path} is no valid TOML: {error}.") from error
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
