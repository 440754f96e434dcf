"""docker-compose.yml and .env.example fit the code and each other. No engine is needed to know that.

Their form is checked by ``make check`` (Compose's JSON Schema); that the stack runs, by a rehearsal with an engine.
"""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from streams.cli import app
from streams.embedded.kafka import PROPERTIES
from streams.embedded.kafka_jars import KAFKA_VERSION
from streams.embedded.stack import EMBEDDED_DEFAULTS
from streams.engine.worker import STOP_SECONDS
from streams.gateway import server as gateway
from streams.runtime.admin import Health, serve_admin
from streams.settings import PREFIX, Settings, load_settings
from streams.settings.roles import Role

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
IMAGE = "tierstream:local"

Service = dict[str, Any]


def interpolate(value: Any, environment: Mapping[str, str]) -> Any:
    """Put values for ``${NAME:-default}``, as Compose does before anything else; ``$$`` is a dollar."""
    if isinstance(value, dict):
        return {key: interpolate(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, environment) for item in value]
    if isinstance(value, str):
        return VARIABLE.sub(lambda match: environment.get(match[1]) or match[2], value).replace("$$", "$")
    return value


SERVICES: dict[str, Service] = interpolate(yaml.safe_load(TEXT)["services"], {})
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == IMAGE)
LONG_RUNNING = sorted(name for name, service in SERVICES.items() if "restart" in service)
BY_HAND = sorted(name for name, service in SERVICES.items() if "profiles" in service)
ONE_SHOT = sorted(set(SERVICES) - set(LONG_RUNNING) - set(BY_HAND))


def role_of(name: str) -> Role | None:
    """The role whose settings a service needs: that of its command."""
    words = [word for word in SERVICES[name]["command"] if word in get_args(Role)]
    return words[0] if words else None


def environment_of(name: str) -> dict[str, str]:
    """What the container's environment holds when nobody sets anything."""
    return {key: str(value) for key, value in SERVICES[name].get("environment", {}).items() if value is not None}


def settings_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for key, value in environment_of(name).items():
        monkeypatch.setenv(key, value)
    return load_settings()


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("name", OURS)
def test_command_of_a_service_is_one_of_the_command_line(name: str) -> None:
    command, words = get_command(app), list(SERVICES[name]["command"])

    while isinstance(command, TyperGroup):
        word = words.pop(0)
        assert word in command.commands
        command = command.commands[word]

    assert len(words) < len(SERVICES[name]["command"])
    command.make_context(name, words)  # raises on an argument that the command does not take


@pytest.mark.parametrize("name", OURS)
def test_environment_of_a_service_holds_only_settings_and_all_that_its_role_requires(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    role = role_of(name)

    settings = settings_of(name, monkeypatch)

    assert set(SERVICES[name].get("environment", {})) <= known
    if role is not None:
        settings.require(role)


@pytest.mark.parametrize("role", ["topics", "migrate", "verify", "explain", "dlq", "import-tiers", "replay", "deliveries", "reconcile"])
def test_ops_has_what_each_command_of_an_operator_requires(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSTREAM_RAZORPAY_KEY_ID", "rzp_live_key")  # reconcile's, which nobody has by default
    monkeypatch.setenv("TIERSTREAM_RAZORPAY_KEY_SECRET", "secret")

    settings_of("ops", monkeypatch).require(role)


def test_ops_agrees_with_the_workers() -> None:
    ops = environment_of("ops")
    others = [environment_of(name) for name in OURS if name != "ops"]

    assert [name for name in ops for other in others if name in other and other[name] != ops[name]] == ["TIERSTREAM_LOG_FORMAT"] * len(
        others
    )


@pytest.mark.parametrize("name", [name for name in OURS if name not in BY_HAND])
def test_logs_of_every_service_of_ours_have_one_format(name: str) -> None:
    assert environment_of(name)["TIERSTREAM_LOG_FORMAT"] == "json"


def test_kafka_is_checked_without_a_java_and_leaves_no_nameless_volume() -> None:
    kafka = SERVICES["kafka"]

    assert kafka["init"] is True
    assert "kafka/9092" in kafka["healthcheck"]["test"][-1]
    assert {mount["target"] for mount in kafka["volumes"] if isinstance(mount, dict) and mount["type"] == "tmpfs"} == {
        "/etc/kafka/secrets",
        "/mnt/shared/config",
    }


def test_each_stage_has_a_service() -> None:
    workers = [SERVICES[name]["command"] for name in OURS if SERVICES[name]["command"][0] == "worker"]

    assert sorted(workers) == [["worker", *stages] for stages in (("audit",), ("classify",), ("forward", "feedback"), ("normalise",))]


def test_defaults_are_those_of_the_embedded_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment_of("gateway")

    same = {name: given[PREFIX + name.upper()] for name in EMBEDDED_DEFAULTS if name != "gateway_host"}

    assert same == {name: value for name, value in EMBEDDED_DEFAULTS.items() if name != "gateway_host"}
    assert settings_of("topics", monkeypatch).partitions == 8


def test_addresses_lead_to_the_services_that_listen_there(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("forward", monkeypatch)
    assert settings.postgres_dsn is not None
    database, loops = urlsplit(settings.postgres_dsn.get_secret_value()), urlsplit(settings.loops_base_url)
    postgres, kafka = SERVICES["postgres"]["environment"], SERVICES["kafka"]["environment"]
    listeners = dict(listener.split("://") for listener in kafka["KAFKA_LISTENERS"].split(","))
    advertised = dict(listener.split("://") for listener in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))

    assert advertised["INSIDE"] == settings.kafka_bootstrap_servers == "kafka" + listeners["INSIDE"]
    assert f"{advertised['OUTSIDE']}{listeners['OUTSIDE']}" in SERVICES["kafka"]["ports"]
    assert set(listeners) == {pair.split(":")[0] for pair in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}
    assert (database.hostname, database.username, database.password, database.path) == (
        "postgres",
        postgres["POSTGRES_USER"],
        postgres["POSTGRES_PASSWORD"],
        "/" + postgres["POSTGRES_DB"],
    )
    assert loops.hostname == "loops"
    assert str(loops.port) in SERVICES["loops"]["command"]


def test_published_ports_are_loopback_and_where_the_service_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("gateway", monkeypatch)
    published = {name: [port.split(":") for port in service.get("ports", [])] for name, service in SERVICES.items()}

    assert {host for ports in published.values() for host, _, _ in ports} == {"127.0.0.1"}
    assert [int(inside) for _, _, inside in published["gateway"]] == [settings.gateway_port, settings.admin_port]
    assert [inside for _, _, inside in published["loops"]] == ["8025"]
    assert len({outside for ports in published.values() for _, outside, _ in ports}) == sum(map(len, published.values()))


def conditions() -> Iterator[tuple[str, str, str]]:
    for name, service in SERVICES.items():
        for other, dependency in service.get("depends_on", {}).items():
            yield name, other, dependency["condition"]


@pytest.mark.parametrize(("name", "other", "condition"), list(conditions()))
def test_dependency_can_come_true(name: str, other: str, condition: str) -> None:
    assert other in SERVICES
    match condition:
        case "service_healthy":
            assert "healthcheck" in SERVICES[other]
        case "service_completed_successfully":
            assert other in ONE_SHOT
        case _:
            pytest.fail(f"{name} waits for nothing: {condition}")


def test_one_shot_services_are_awaited_by_others() -> None:
    """``up --wait`` takes the end of a service for a failure unless another one waits for its success."""
    awaited = {other for _, other, condition in conditions() if condition == "service_completed_successfully"}

    assert awaited == set(ONE_SHOT) == {"migrate", "topics"}


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_long_running_service_is_watched_restarted_and_given_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    longest = max(STOP_SECONDS, gateway.GRACE_SECONDS + gateway.FLUSH_SECONDS) + 2

    assert service["restart"] == "unless-stopped"
    assert "healthcheck" in service
    assert seconds(service["stop_grace_period"]) > longest


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_logs_of_a_service_are_bounded(name: str) -> None:
    assert set(SERVICES[name]["logging"]["options"]) == {"max-size", "max-file"}


def test_one_service_builds_the_image_and_none_pulls_it() -> None:
    assert [name for name, service in SERVICES.items() if "build" in service] == ["topics"]
    assert {SERVICES[name]["pull_policy"] for name in OURS} == {"never"}


def test_kafka_is_the_version_that_the_tests_run_on() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_kafka_closes_its_offsets_segments_as_early_as_the_embedded_one() -> None:
    segment = SERVICES["kafka"]["environment"]["KAFKA_OFFSETS_TOPIC_SEGMENT_BYTES"]

    assert f"offsets.topic.segment.bytes={segment}\n" in PROPERTIES


async def run(command: list[str], **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment or None, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, output.decode()


async def test_health_check_passes_only_while_every_part_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {name: SERVICES[name]["healthcheck"]["test"] for name in OURS if role_of(name) and name in LONG_RUNNING}
    (program,) = {check[3] for check in checks.values()}
    port = str(settings_of("gateway", monkeypatch).admin_port)
    health = Health()
    health.set("classify", True, "partitions 0,1")

    async with serve_admin(Settings(admin_port=0), health) as url:
        command = [sys.executable, "-c", program.replace(port, url.rsplit(":", 1)[1])]
        ready = await run(command)
        health.set("classify", False, "restoring 1")
        restoring = await run(command)
    gone = await run(command)

    assert port in program
    assert json.loads(ready[1])["ready"]
    assert "restoring 1" in restoring[1]
    assert (ready[0], restoring[0], gone[0]) == (0, 1, 1)


async def test_worker_is_a_static_member_named_after_its_container(tmp_path: Path) -> None:
    stub = tmp_path / "tierstream"
    stub.write_text('#!/bin/sh\necho "$TIERSTREAM_INSTANCE_ID runs $*"\n')
    stub.chmod(0o755)
    service = SERVICES["classify"]

    started = await run([*service["entrypoint"], *service["command"]], HOSTNAME="4f1e0b2c9a77", PATH=f"{tmp_path}:/usr/bin:/bin")

    assert started == (0, "4f1e0b2c9a77 runs worker classify\n")


def test_env_example_holds_every_variable_with_its_default() -> None:
    passed_on = {name: None for service in SERVICES.values() for name, value in service.get("environment", {}).items() if value is None}
    example = {name: (value, not comment) for comment, name, value in re.findall(r"^(#?)([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)}

    assert {name: value for name, (value, is_set) in example.items() if is_set} == dict(VARIABLE.findall(TEXT))
    assert {name for name, (_, is_set) in example.items() if not is_set} == set(passed_on)
    assert VARIABLE.sub("", TEXT).replace("$$", "").count("$") == 0


def test_env_example_is_accepted_with_every_line_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in re.findall(rf"^#?({PREFIX}\w+)=(.*)$", EXAMPLE, re.MULTILINE):
        monkeypatch.setenv(name, value)

    settings = load_settings()

    assert settings.model_dump(include={"retention_team_events_days", "forward_max_age_seconds", "session_timeout_seconds"}) == {
        "retention_team_events_days": 400,
        "forward_max_age_seconds": 86_400,
        "session_timeout_seconds": 10.0,
    }


def compose_command() -> list[str] | None:
    """Compose's own command, version 2 or later, where it is installed; it reads the file without an engine."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            version = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if version.returncode == 0 and not version.stdout.startswith("1."):
                return command
    return None


def test_compose_itself_reads_the_file_and_agrees(tmp_path: Path) -> None:
    command = compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    (tmp_path / "env").write_text(EXAMPLE)

    arguments = [*command, "--env-file", str(tmp_path / "env"), "--file", str(ROOT / "docker-compose.yml"), "config", "--format", "json"]
    config = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)

    assert {name: service.get("command") for name, service in config["services"].items()} == {
        name: service.get("command") for name, service in SERVICES.items()
    }
    for name in OURS:
        given = config["services"][name].get("environment") or {}
        assert {key: value for key, value in given.items() if value is not None} == environment_of(name)
