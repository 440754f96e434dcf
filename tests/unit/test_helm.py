"""The chart's files fit the settings, the command line and docker-compose.yml. What helm makes of them: test_helm_rendered.py."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from pydantic import SecretStr
from typer.core import TyperGroup
from typer.main import get_command

from streams.cli import app
from streams.settings import PREFIX, Settings
from streams.settings.roles import REQUIRED, Role
from tests.helm import CHART, LONG_RUNNING, MINIMAL, ROLES, ROOT, SCHEMA, VALUES, VARIANTS, over
from tests.kubernetes_schemas import schemas_of
from tests.unit.test_compose import SERVICES, environment_of

SECRETS = {name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)}
TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in (CHART / "templates").iterdir()}
DOCUMENT = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")

OF_NO_ROLE = {
    "console_token": "this version has no console",
    "razorpay_key_secret": "reconcile is not run by the chart",
    "razorpay_key_id": "the same",
    "razorpay_api_url": "the same",
}
SET_BY_THE_CHART = {"instance_id", "gateway_port", "admin_port", "plans", "kafka_ssl_cafile"}
NEEDS_A_DISK = {"gateway_spool", "gateway_spool_max_bytes"}

in_each_role = pytest.mark.parametrize("role", list(ROLES))


def roles_of(role: str) -> list[Role]:
    """The roles of the settings that one of the chart runs."""
    return [word for word in ROLES[role]["command"] if word in get_args(Role)]


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of a schema that lists properties."""
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema.get("type"), str):
            yield schema
        for part in schema.values():
            yield from objects(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from objects(part)


# The schema


def test_schema_is_valid_and_the_default_values_fit_it() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)

    jsonschema.validate(VALUES, SCHEMA, jsonschema.Draft7Validator)


@pytest.mark.parametrize("variant", VARIANTS)
def test_values_that_are_rendered_in_tests_fit_it(variant: str) -> None:
    values = over(MINIMAL, VARIANTS[variant])
    values["plans"] = {key: value for key, value in values["plans"].items() if value is not None}  # helm drops what is null

    jsonschema.validate(values, SCHEMA, jsonschema.Draft7Validator)


def test_schema_refuses_a_value_that_it_does_not_know_at_every_place() -> None:
    assert [part for part in objects(SCHEMA) if part.get("additionalProperties") is not False] == []
    assert len(list(objects(SCHEMA))) > 20


def test_every_value_of_the_schema_stands_in_the_values_file() -> None:
    assert set(SCHEMA["properties"]) - {"global"} == set(VALUES)
    for name in set(VALUES) - {"settings", "affinity"}:
        if "properties" in SCHEMA["properties"][name]:
            assert set(SCHEMA["properties"][name]["properties"]) == set(VALUES[name])


@pytest.mark.parametrize("name", [name for name in SCHEMA["properties"]["settings"]["properties"] if name in Settings.model_fields])
def test_schema_of_a_setting_is_as_narrow_as_the_setting(name: str) -> None:
    described = Settings.model_json_schema()["properties"][name]
    setting = next((option for option in described.get("anyOf", []) if option["type"] != "null"), described)
    bounds = {key: setting[key] for key in ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern") if key in setting}

    given = SCHEMA["properties"]["settings"]["properties"][name]

    assert {key: given.get(key) for key in bounds} == bounds


def test_every_setting_is_a_value_a_secret_or_the_charts_own() -> None:
    settings = set(SCHEMA["properties"]["settings"]["properties"])
    secrets = set(SCHEMA["properties"]["secrets"]["properties"])

    assert settings & SECRETS == set(), "a secret never stands in a value"
    assert secrets == SECRETS - set(OF_NO_ROLE)
    assert settings == set(Settings.model_fields) - SECRETS - SET_BY_THE_CHART - NEEDS_A_DISK - set(OF_NO_ROLE)


# Roles


@in_each_role
def test_command_of_a_role_is_one_of_the_command_line(role: str) -> None:
    command, words = get_command(app), list(ROLES[role]["command"])

    while isinstance(command, TyperGroup):
        word = words.pop(0)
        assert word in command.commands
        command = command.commands[word]

    command.make_context(role, words)


def test_setup_of_topics_runs_commands_that_exist() -> None:
    runs = SCHEMA["properties"]["setup"]["properties"]["topics"]["properties"]["run"]["enum"]
    topics = get_command(app).commands["topics"]  # type: ignore[attr-defined]

    assert set(runs) - {"none"} <= set(topics.commands)


def test_roles_are_the_services_of_the_compose_file() -> None:
    services = {
        name: service["command"] for name, service in SERVICES.items() if service["image"] == "tierstream:local" and name != "loops"
    }

    assert {role: about["command"] for role, about in ROLES.items()} == services
    assert tuple(role for role, about in ROLES.items() if "once" not in about) == LONG_RUNNING


@in_each_role
def test_role_does_not_start_without_the_secrets_that_it_requires(role: str) -> None:
    required = {name for of in roles_of(role) for name in REQUIRED[of]} & SECRETS

    assert set(ROLES[role]["needs"]) == required
    assert set(ROLES[role]["needs"]) <= set(ROLES[role]["secrets"])


@in_each_role
def test_role_gets_the_secrets_that_the_compose_file_gives_it_and_kafkas_password(role: str) -> None:
    given = {name.removeprefix(PREFIX).lower() for name in SERVICES[role]["environment"]} & SECRETS - set(OF_NO_ROLE)
    kafka = {"kafka_sasl_password"} if "kafka_bootstrap_servers" in {name for of in roles_of(role) for name in REQUIRED[of]} else set()

    assert set(ROLES[role]["secrets"]) == given | kafka
    assert len(set(ROLES[role]["secrets"])) == len(ROLES[role]["secrets"])


@in_each_role
def test_role_reaches_what_its_settings_name(role: str) -> None:
    required = {name for of in roles_of(role) for name in REQUIRED[of]}
    services = {"kafka_bootstrap_servers": "kafka", "postgres_dsn": "postgres", "loops_api_key": "loops"}

    assert set(ROLES[role]["reaches"]) == {service for setting, service in services.items() if setting in required}
    assert ROLES[role].get("plans", False) == ("plans" in required)


@in_each_role
def test_secrets_that_a_value_may_give_a_role_are_those_that_it_gets(role: str) -> None:
    properties = SCHEMA["properties"]
    places = {**properties, **properties["stages"]["properties"], **properties["setup"]["properties"]}

    assert set(places[role]["properties"]["secrets"]["properties"]) == set(ROLES[role]["secrets"])


# Templates


@pytest.mark.parametrize("name", TEMPLATES)
def test_variables_in_a_template_are_settings(name: str) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields} | {f"{PREFIX}{field.upper()}_FILE" for field in SECRETS}

    named = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]\b(?!_)", re.sub(r"\{\{.*?\}\}", "{}", TEMPLATES[name])))

    assert named <= known


def test_values_of_both_stacks_are_the_same() -> None:
    gateway = environment_of("gateway")
    same = ("kafka_wait_seconds", "log_format", "admin_host", "gateway_host")
    ports = dict(re.findall(rf'name: {PREFIX}(\w+_PORT), value: "(\d+)"', TEMPLATES["_pod.tpl"]))

    assert {name: str(VALUES["settings"][name]) for name in same} == {name: gateway[PREFIX + name.upper()] for name in same}
    assert ports == {name.removeprefix(PREFIX): value for name, value in gateway.items() if name.endswith("_PORT")}


def test_partitions_and_copies_are_the_defaults_of_the_settings() -> None:
    assert VALUES["settings"]["partitions"] == Settings.model_fields["partitions"].default
    assert VALUES["settings"]["replication_factor"] == Settings.model_fields["replication_factor"].default


def test_no_default_value_is_a_secret() -> None:
    given = {secret for where in VALUES["secrets"].values() for secret in where.items()}

    assert {key for key, _ in given} == {"name", "key"}
    assert [name for name, where in VALUES["secrets"].items() if where["name"]] == [
        "postgres_dsn",
        "razorpay_webhook_secrets",
        "loops_api_key",
    ]


def test_chart_is_of_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart = (CHART / "Chart.yaml").read_text(encoding="utf-8")

    assert re.findall(r"^(?:appV|v)ersion: (.*)$", chart, re.MULTILINE) == [project["version"]] * 2


# The document


def test_documented_values_are_all_that_has_to_be_set_and_fit_the_schema() -> None:
    (values,) = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL) if "bootstrap" in block]

    jsonschema.validate(values, SCHEMA, jsonschema.Draft7Validator)
    assert {(part, name) for part in values for name in values[part]} == {(part, name) for part in MINIMAL for name in MINIMAL[part]}


def test_documented_secret_has_the_name_and_the_keys_that_the_chart_looks_for() -> None:
    (name, keys) = re.findall(r"kubectl create secret generic (\S+)((?: --from-file=\S+)+)", DOCUMENT)[0]
    wanted = {where["key"] for where in VALUES["secrets"].values() if where["name"] == name}

    assert set(re.findall(r"=(\S+)", keys)) == wanted
    assert len(wanted) == 3


# Kubernetes' schemas


def test_schemas_for_kubeconform_are_strict_and_named_as_it_looks_for_them() -> None:
    kind = [{"group": "networking.k8s.io", "kind": "NetworkPolicy", "version": "v1"}]
    port = {"type": "string", "format": "int-or-string"}
    definitions = {
        "NetworkPolicy": {"properties": {"port": {"$ref": "#/definitions/Port"}}, "x-kubernetes-group-version-kind": kind},
        "Port": port,
    }

    schemas = schemas_of({"definitions": definitions})

    assert schemas["networkpolicy-networking-v1.json"] == {"$ref": "_definitions.json#/definitions/NetworkPolicy"}
    assert schemas["_definitions.json"]["definitions"]["NetworkPolicy"]["additionalProperties"] is False
    assert schemas["_definitions.json"]["definitions"]["Port"] == {"type": ["string", "integer"]}
