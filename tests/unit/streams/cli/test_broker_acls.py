"""``tierstream topics acls``, and the options of ``tierstream migrate`` for roles."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from streams.cli import app
from streams.errors import ConfigurationError
from streams.kafka.acls import ROLES, acls
from streams.settings import PREFIX, load_settings


def run(*command: str) -> str:
    done = CliRunner().invoke(app, command)
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(autouse=True)
def prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}TOPIC_PREFIX", "staging.")
    monkeypatch.setenv(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS", "kafka-1:9093")


def test_json_has_everything_that_the_roles_need_with_their_principals() -> None:
    found = json.loads(run("topics", "acls", "--json"))

    settings = load_settings()
    wanted = [acl for role in ROLES for acl in acls(settings, role)]
    assert [(each["role"], each["resource"], each["name"], each["operations"]) for each in found] == [
        (acl.role, acl.resource, acl.name, list(acl.operations)) for acl in wanted
    ]
    assert {each["principal"] for each in found} == {f"User:tierstream-{role}" for role in ROLES}
    assert [each["name"] for each in found if each["pattern"] == "prefixed"] == [
        "staging.tierstream.normalise-",
        "staging.tierstream.classify-",
    ]


def test_command_lines_say_the_same_to_kafkas_own_tool() -> None:
    lines = run("topics", "acls", "forward", "feedback", "--principal", "User:mailing", "--commands").splitlines()

    said = set()
    for line in lines:
        words = shlex.split(line)
        assert words[:6] == ["kafka-acls", "--bootstrap-server", "kafka-1:9093", "--command-config", "admin.properties", "--add"]
        assert words[6:8] == ["--allow-principal", "User:mailing"]
        pairs = list(zip(words[8::2], words[9::2], strict=True))
        operations = [value for name, value in pairs if name == "--operation"]
        said |= {(name.removeprefix("--"), value, each) for name, value in pairs if name != "--operation" for each in operations}
    settings = load_settings()
    assert said == {
        (str(acl.resource), acl.name, str(operation))
        for role in ("forward", "feedback")
        for acl in acls(settings, role)
        for operation in acl.operations
    }


def test_table_has_a_line_for_each() -> None:
    table = run("topics", "acls", "normalise")

    assert "staging.tierstream.normalise-*" in table
    assert len(table.splitlines()) == 1 + len(acls(load_settings(), "normalise"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nobody"], "nobody is no role; choose from gateway, "),
        (["--json", "--commands"], "leave out one of them"),
        (["--principal", "User:'; rm -rf"], "--principal holds a quote"),
    ],
)
def test_option_that_can_not_be_is_one_sentence(options: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        run("topics", "acls", *options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--role-prefix", "a_"], "--role-prefix names the roles of --roles"),
        (["--roles", "--role-prefix", "A;"], "--role-prefix 'A;': write up to"),
    ],
)
def test_migrate_with_roles_that_can_not_be_is_one_sentence_before_anything_is_connected(options: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        run("migrate", *options)
