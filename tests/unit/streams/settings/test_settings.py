"""Settings: where they come from, what is refused, and in what words."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.tiers import Tier
from streams.errors import ConfigurationError
from streams.settings import Settings, load_plans, load_settings
from streams.settings.roles import Role

EXAMPLE = Path(__file__).parents[4] / "examples" / "plans.toml"
WriteFile = Callable[[str], Path]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteFile:
    """Write a TOML file and make it the one that TIERSTREAM_CONFIG names."""

    def write(text: str) -> Path:
        path = tmp_path / "tierstream.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("TIERSTREAM_CONFIG", str(path))
        return path

    return write


@pytest.fixture
def plans(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        path = tmp_path / "plans.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(**given: object) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(**given)
    return str(refused.value)


# Where settings come from


def test_settings_without_anything_set_are_the_documented_defaults() -> None:
    settings = load_settings()

    assert (settings.partitions, settings.replication_factor, settings.initial_tier) == (32, 3, "free")
    assert (settings.razorpay_team_note, settings.loops_rate_per_second, settings.forward_max_age_seconds) == ("team_id", 10.0, 86_400)
    assert settings.admin_host == "127.0.0.1", "metrics are not for the whole network unless somebody says so"
    assert settings.model_fields_set == set()


def test_settings_of_the_environment_win_over_the_file(config: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    config('partitions = 4\nreplication_factor = 1\ninitial_tier = "hobby"\n')
    monkeypatch.setenv("TIERSTREAM_PARTITIONS", "16")

    settings = load_settings()

    assert (settings.partitions, settings.replication_factor, settings.initial_tier) == (16, 1, "hobby")


def test_settings_that_a_caller_gives_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSTREAM_PARTITIONS", "16")

    assert load_settings(partitions=2).partitions == 2


def test_settings_variable_that_is_empty_counts_as_not_set(config: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    config("partitions = 4\n")
    monkeypatch.setenv("TIERSTREAM_PARTITIONS", "")

    assert load_settings().partitions == 4


def test_settings_can_not_be_changed_once_they_are_read() -> None:
    settings = load_settings()

    with pytest.raises(ValidationError):
        settings.partitions = 5  # type: ignore[misc]


def test_settings_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIERSTREAM_CONFIG", str(tmp_path / "absent.toml"))

    assert refusal() == f"TIERSTREAM_CONFIG names {tmp_path}/absent.toml, which is no file."


def test_settings_file_that_is_no_toml_is_named_with_the_line(config: WriteFile) -> None:
    path = config("partitions = \n")

    assert refusal().startswith(f"TIERSTREAM_CONFIG: {path} is no valid TOML: ")
    assert "line 1" in refusal()


def test_settings_file_with_a_key_that_is_no_setting_is_refused(config: WriteFile) -> None:
    config("partitons = 4\n")

    assert refusal() == "Settings are wrong: partitons is no setting."


# What is refused


def test_settings_with_several_faults_name_all_of_them_at_once() -> None:
    sentence = refusal(partitions=0, initial_tier="gold", loops_rate_per_second=0)

    assert all(f"TIERSTREAM_{name}: " in sentence for name in ("PARTITIONS", "INITIAL_TIER", "LOOPS_RATE_PER_SECOND"))
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partitions", 0),
        ("partitions", 1_001),
        ("gateway_port", 65_536),
        ("gateway_port", -1),
        ("replication_factor", 0),
        ("min_insync_replicas", 0),
        ("loops_rate_per_second", 0),
        ("loops_timeout_seconds", -1),
        ("forward", "maybe"),
        ("forward_max_age_seconds", -1),
        ("kafka_security_protocol", "TLS"),
        ("kafka_sasl_mechanism", "GSSAPI"),
        ("topic_prefix", "a prefix"),
        ("retention_team_events_days", 0),
        ("session_timeout_seconds", 5),
        ("adopt_subscriptions_created_before", "last year"),
        ("log_level", "loud"),
    ],
)
def test_settings_value_that_can_not_be_is_refused_by_its_variable(name: str, value: object) -> None:
    assert refusal(**{name: value}).startswith(f"Settings are wrong: TIERSTREAM_{name.upper()}: ")


@pytest.mark.parametrize(
    ("given", "folded", "tier"),
    [
        ("free", "free", Tier.FREE),
        (" PRO ", "pro", Tier.PRO),
        ("hobby_plus_yearly", "hobby_plus", Tier.HOBBY_PLUS),
        ("Anonymous", "anonymous", Tier.ANONYMOUS),
    ],
)
def test_initial_tier_is_folded_to_its_one_spelling(given: str, folded: str, tier: Tier) -> None:
    settings = load_settings(initial_tier=given)

    assert settings.initial_tier == folded
    assert settings.initial is tier


def test_initial_tier_that_is_none_is_refused_with_those_that_are() -> None:
    assert refusal(initial_tier="gold") == (
        "Settings are wrong: TIERSTREAM_INITIAL_TIER: is 'gold', which is no tier; "
        "use one of anonymous, free, hobby, hobby_plus, pro, growth, team."
    )


# Grace


@pytest.mark.parametrize(
    ("given", "kept", "days"),
    [
        ("3,6", "3,6", (3, 6)),
        (" 6 , 3,6", "3,6", (3, 6)),
        ("1", "1", (1,)),
        ("none", "none", ()),
        ("", "none", ()),
    ],
)
def test_grace_reminder_days_are_listed_once_and_in_their_order(given: str, kept: str, days: tuple[int, ...]) -> None:
    settings = load_settings(grace_reminder_days=given)

    assert (settings.grace_reminder_days, settings.grace_reminders) == (kept, days)


def test_grace_is_a_week_with_two_reminders_unless_it_is_set() -> None:
    assert (load_settings().grace_days, load_settings().grace_reminders) == (7, (3, 6))


@pytest.mark.parametrize("given", ["0", "-1", "3.5", "3;6", "soon", "3,,6", "\u0663", "3,none", "999999"])
def test_grace_reminder_days_that_are_no_days_are_refused(given: str) -> None:
    assert refusal(grace_reminder_days=given).startswith("Settings are wrong: TIERSTREAM_GRACE_REMINDER_DAYS: lists days")


@pytest.mark.parametrize("given", [-1, "a week", 3_651])
def test_grace_days_that_can_not_be_are_refused(given: object) -> None:
    assert "TIERSTREAM_GRACE_DAYS: " in refusal(grace_days=given)


@pytest.mark.parametrize("settings", [{"grace_days": 6}, {"grace_reminder_days": "7"}, {"grace_days": 1, "grace_reminder_days": "1"}])
def test_grace_reminder_after_the_grace_is_refused_by_both_names(settings: dict[str, object]) -> None:
    sentence = refusal(**settings)

    assert "TIERSTREAM_GRACE_REMINDER_DAYS: reminds on day " in sentence
    assert "TIERSTREAM_GRACE_DAYS=" in sentence


def test_grace_of_no_days_leaves_the_reminders_alone() -> None:
    assert load_settings(grace_days=0).grace_reminders == (3, 6)


def test_grace_of_one_day_has_no_reminder() -> None:
    assert load_settings(grace_days=1, grace_reminder_days="none").grace_reminders == ()


# What a role needs

NEEDED: dict[Role, str] = {
    "gateway": "TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS and TIERSTREAM_RAZORPAY_WEBHOOK_SECRETS",
    "normalise": "TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS and TIERSTREAM_PLANS",
    "classify": "TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS",
    "audit": "TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS and TIERSTREAM_POSTGRES_DSN",
    "forward": "TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS and TIERSTREAM_POSTGRES_DSN and TIERSTREAM_LOOPS_API_KEY",
    "feedback": "TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS and TIERSTREAM_POSTGRES_DSN",
    "topics": "TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS",
    "migrate": "TIERSTREAM_POSTGRES_DSN",
}
COMPLETE: dict[str, object] = {
    "kafka_bootstrap_servers": "kafka:9092",
    "postgres_dsn": "postgresql://u:p@h/d",
    "razorpay_webhook_secrets": "s",
    "plans": EXAMPLE,
    "loops_api_key": "k",
}


@pytest.mark.parametrize("role", NEEDED)
def test_role_without_what_it_needs_says_in_one_sentence_which_variables_to_set(role: Role) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings().require(role)

    assert str(refused.value) == f"{role} can not start: set {NEEDED[role]} (environment, or the file that TIERSTREAM_CONFIG names)."


@pytest.mark.parametrize("role", NEEDED)
def test_role_with_what_it_needs_starts(role: Role) -> None:
    load_settings(**COMPLETE).require(role)


@pytest.mark.parametrize("name", ["razorpay_webhook_secrets", "loops_api_key", "postgres_dsn"])
def test_role_takes_an_empty_secret_for_a_missing_one(name: str) -> None:
    settings = load_settings(**COMPLETE | {name: ""})
    role: Role = "gateway" if name == "razorpay_webhook_secrets" else "forward"

    with pytest.raises(ConfigurationError, match=f"set TIERSTREAM_{name.upper()} "):
        settings.require(role)


def test_forward_that_is_off_needs_no_key_of_loops() -> None:
    load_settings(**COMPLETE | {"forward": "off", "loops_api_key": None}).require("forward")


# Secrets

SECRET = "hunter2"
SECRETS = [
    "kafka_sasl_password",
    "postgres_dsn",
    "razorpay_webhook_secrets",
    "loops_api_key",
    "loops_webhook_secret",
    "razorpay_key_secret",
    "ingest_tokens",
    "console_token",
]


@pytest.mark.parametrize("name", SECRETS)
def test_secret_is_not_shown_when_settings_are_printed(name: str) -> None:
    settings = load_settings(**{name: f"postgresql://u:{SECRET}@h/d" if name == "postgres_dsn" else SECRET})

    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize("name", SECRETS)
def test_secret_is_not_repeated_when_it_is_refused(name: str) -> None:
    assert SECRET not in refusal(**{name: [SECRET]})


def test_every_setting_that_holds_a_secret_is_known_to_these_tests() -> None:
    assert [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)] == SECRETS


@pytest.mark.parametrize(
    ("given", "secrets"),
    [
        (None, ()),
        ("new", (b"new",)),
        ("new,old", (b"new", b"old")),
        (" new , old ,", (b"new", b"old")),
        ("schlüssel", ("schlüssel".encode(),)),
    ],
)
def test_razorpay_secrets_are_split_at_commas_the_newest_first(given: str | None, secrets: tuple[bytes, ...]) -> None:
    assert load_settings(razorpay_webhook_secrets=given).razorpay_secrets == secrets


def test_ingest_tokens_give_their_clients_names() -> None:
    settings = load_settings(ingest_tokens="billing:t0ken, bare , web:a:b")

    assert settings.ingest_clients == {"t0ken": "billing", "bare": "default", "a:b": "web"}


# The plan file


def test_plans_of_the_example_give_each_plan_its_tier() -> None:
    assert load_plans(EXAMPLE) == {
        "plan_hobby": Tier.HOBBY,
        "plan_hobby_yearly": Tier.HOBBY,
        "plan_hobby_plus": Tier.HOBBY_PLUS,
        "plan_pro": Tier.PRO,
        "plan_pro_yearly": Tier.PRO,
        "plan_growth": Tier.GROWTH,
        "plan_team": Tier.TEAM,
    }


def test_plans_may_stand_under_a_heading(plans: WriteFile) -> None:
    assert load_plans(plans('[plans]\nplan_X = "Pro"\n')) == {"plan_X": Tier.PRO}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", 'holds no plan; write lines such as plan_pro = "pro".'),
        ("[plans]\n", 'holds no plan; write lines such as plan_pro = "pro".'),
        ("plans = 3\n", 'holds no plan; write lines such as plan_pro = "pro".'),
        (
            'plan_X = "gold"\n',
            "gives plan_X the tier 'gold', which is none; use one of anonymous, free, hobby, hobby_plus, pro, growth, team.",
        ),
        ("plan_X = 3\n", "gives plan_X the tier 3, which is none; use one of anonymous, free, hobby, hobby_plus, pro, growth, team."),
    ],
)
def test_plans_that_are_wrong_say_in_one_sentence_what_is(plans: WriteFile, text: str, sentence: str) -> None:
    path = plans(text)

    with pytest.raises(ConfigurationError) as refused:
        load_plans(path)

    assert str(refused.value) == f"TIERSTREAM_PLANS: {path} {sentence}"


@pytest.mark.parametrize("content", [b"plan_X = \n", b'plan_X = "\xff"\n'])
def test_plans_that_are_no_toml_say_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plans.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError) as refused:
        load_plans(path)

    assert str(refused.value).startswith(f"TIERSTREAM_PLANS: {path} is no valid TOML: ")


def test_plans_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_plans(tmp_path / "absent.toml")

    assert str(refused.value) == f"TIERSTREAM_PLANS: {tmp_path}/absent.toml can not be read (No such file or directory)."
