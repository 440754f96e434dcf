"""Kafka over SASL_SSL with SCRAM-SHA-512 and the ACLs that ``tierstream topics acls`` lists: with them everything works, and nothing else does."""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient
from pydantic import SecretStr

from agents.registry import stage_factory
from streams.embedded.process import free_port
from streams.embedded.stack import EXAMPLE_PLANS
from streams.errors import KafkaUnavailable, TierstreamError
from streams.kafka import topic_admin
from streams.kafka.acls import ROLES, STAGES, Acl, Operation, Resource, acls
from streams.kafka.client import client_config, producer_config
from streams.settings import Settings
from streams.settings.roles import KafkaRole
from streams.topics import TOPICS, group_id
from tests import forked
from tests.acl_matrix import MAY_READ, MAY_WRITE
from tests.certificates import Authority
from tests.integration.databases import query
from tests.integration.test_gateway import KEY, RunningGateway, gateway_settings
from tests.integration.test_gateway import running as gateway_running
from tests.razorpay_api import KEY_ID, KEY_SECRET, served_razorpay, subscription
from tests.role_logins import Installation, installed, owner_of
from tests.secured_kafka import SecuredKafka, secured_kafka
from tests.sinks import ServedSink, post, served_sink
from tests.waiting import answered, until
from tests.webhooks import body
from tests.workers import Run, running

EMAIL = "asha@example.com"
READS = {
    "audit": "audit",
    "forward": "forward",
    "feedback": "feedback",
    "verify": "reader",
    "explain": "reader",
    "replay": "operator",
    "deliveries": "operator",
}
"""The role of PostgreSQL that goes with one of Kafka."""


def listed(settings: Settings, role: KafkaRole) -> list[Acl]:
    """What the command prints for one role."""
    done = forked.tierstream("topics", "acls", role, "--json", env={"TIERSTREAM_TOPIC_PREFIX": settings.topic_prefix})
    assert (done.returncode, done.stderr) == (0, "")
    return [
        Acl(
            each["role"], Resource(each["resource"]), each["name"], tuple(map(Operation, each["operations"])), each["pattern"] == "prefixed"
        )
        for each in json.loads(done.stdout)
    ]


@pytest.fixture(scope="module")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecuredKafka]:
    """The broker, with a user for each role, who has what is listed for it, and with the topics."""
    async with secured_kafka(tmp_path_factory.mktemp("secured")) as secured:

        def set_up() -> None:
            for role in ROLES:
                secured.add_user(role)
                secured.grant(role, listed(secured.settings(role), role))
            topic_admin.apply(secured.settings("topics"))

        await asyncio.to_thread(set_up)
        yield secured


@dataclass
class Installed:
    """Everything, each part with its own logins."""

    kafka: SecuredKafka
    database: Installation
    sink: ServedSink

    def settings(self, role: KafkaRole, **changes: Any) -> Settings:
        login = {"postgres_dsn": SecretStr(self.database.logins[READS[role]])} if role in READS else {}
        loops = {"loops_api_key": SecretStr("key"), "loops_base_url": self.sink.url} if role == "forward" else {}
        return self.kafka.settings(role, plans=EXAMPLE_PLANS, **login, **loops, **changes)

    async def command(self, role: KafkaRole, *command: str, **variables: str) -> str:
        """Run a command of an operator as the user of its role; return what it printed on stdout."""
        done = await forked.operated(self.settings(role), *command, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
async def everything(kafka: SecuredKafka, direct_database: str) -> AsyncIterator[Installed]:
    async with owner_of(direct_database) as owner, served_sink(api_key="key") as sink:
        yield Installed(kafka, await installed(direct_database, owner), sink)


async def receive(gateway: RunningGateway, team: str, *webhooks: tuple[dict[str, Any], str]) -> None:
    claim = {"kind": "onboarding.claimed", "team_id": team, "id": "claim", "data": {"email": EMAIL}}
    answer = await gateway.http.post(f"{gateway.url}/v1/events", json=claim, headers={"Authorization": "Bearer demo-ingest"})
    assert answer.status_code == 202, answer.text
    for document, event_id in webhooks:
        assert (await gateway.webhook(orjson.dumps(document), event_id)).status_code == 200


def charged(team: str, plan: str, number: str) -> tuple[dict[str, Any], str]:
    """A webhook of now, and its event id."""
    fields = {"id": f"sub_{number}", "plan_id": plan, "notes": {"team_id": team}}
    return body(created_at=int(time.time()), subscription=fields), f"Rp{number}"


async def test_each_process_and_each_command_works_with_its_own_users(everything: Installed, tmp_path: Any) -> None:
    team, dsn = str(uuid.uuid4()), everything.database.dsn
    number = uuid.uuid4().hex[:12]
    runs: dict[str, Run] = {}

    async def kinds() -> list[str]:
        return [
            row["kind"]
            for row in await query(dsn, "select kind from audit_log where team_id = $1 order by created_at, kind", uuid.UUID(team))
        ]

    async def rows(kind: str) -> bool | None:
        for run in runs.values():
            run.check()
        return True if kind in await kinds() else None

    async def upgrade() -> str | None:
        """The audit id of the mail, once Loops has said that it arrived."""
        held = "select audit_id from forwarder_sent where team_id = $1 and template_kind = 'subscription.upgraded' and classification = 'delivered'"
        return next((str(row["audit_id"]) for row in await query(dsn, held, uuid.UUID(team))), None)

    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(gateway_running(gateway_settings(everything.settings("gateway"))))
        for stage in STAGES:
            settings = everything.settings(stage)  # type: ignore[arg-type]
            runs[stage] = await stack.enter_async_context(running(settings, stage_factory(settings, stage)))
        reports = {"to": f"{gateway.url}/webhooks/loops", "secret": "whsec_" + base64.b64encode(KEY).decode()}
        await post(f"{everything.sink.url}/_reports", {**reports, "events": ["loop.email.sent", "email.delivered"]})
        await receive(gateway, team, charged(team, "plan_pro", f"a{number}"), charged(team, "plan_nobody_knows", f"b{number}"))
        await answered(lambda: rows("subscription.upgraded"), lambda: "an audit row", 90)
        mail = await answered(upgrade, lambda: f"a mail that arrived: {everything.sink.sink.sent}", 60)

        # What operators do, each with the user and the login of its command.
        assert "subscription.upgraded" in await everything.command("explain", "explain", team)
        replayed = await everything.command("dlq", "dlq", "replay", "--reason", "unknown_plan", "--because", "a test", "--json")
        assert json.loads(replayed)["replayed"] == 1
        await everything.command("replay", "replay", "--from", "2020-01-01T00:00:00Z")
        imported = tmp_path / "teams.csv"
        imported.write_text(f"team_id,tier,subscription_id\n{uuid.uuid4()},pro,sub_c{number}\n")
        await everything.command("import-tiers", "import-tiers", str(imported), "--because", "a test")
        async with served_razorpay() as api:
            api.subscriptions = [subscription(f"sub_d{number}", team=str(uuid.uuid4()))]
            keys = {"RAZORPAY_API_URL": api.url, "RAZORPAY_KEY_ID": KEY_ID, "RAZORPAY_KEY_SECRET": KEY_SECRET}
            reconciled = await everything.command("reconcile", "reconcile", "--because", "a test", "--yes", "--json", **keys)
            assert json.loads(reconciled)["fed"] == 1
        await query(dsn, "update forwarder_sent set classification = 'in_doubt' where audit_id = $1", uuid.UUID(mail))
        await everything.command("deliveries", "deliveries", "resolve", mail, "--as", "retry", "--because", "a test", "--yes")
        await until(lambda: f"{mail}.1" in everything.sink.keys, "the mail once more", 60)
        await everything.command("topics", "topics", "check")
        await accounted_for(everything)


async def accounted_for(everything: Installed) -> None:
    """Return once verify finds that everything agrees, and nothing that is not worked in yet."""
    said = ""

    async def clean() -> bool | None:
        nonlocal said
        done = await forked.operated(everything.settings("verify"), "verify", "--json")
        said = done.stdout + done.stderr
        return True if done.returncode == 0 and not any(check["pending"] for check in json.loads(done.stdout)["checks"]) else None

    await answered(clean, lambda: said, 60)


def allowed(settings: Settings, operation: AclOperation) -> set[str]:
    """The topics on which the broker allows it to the user of ``settings``, by its own answer."""
    admin = AdminClient(client_config(settings))
    names = {topic.full_name(settings): topic.name for topic in TOPICS}
    found = set[str]()
    described = admin.describe_topics(TopicCollection(list(names)), include_authorized_operations=True, request_timeout=10)
    for name, future in described.items():
        try:
            if operation in (future.result(10).authorized_operations or ()):
                found.add(names[name])
        except KafkaException as error:
            assert error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED  # noqa: PT017  # others are raised as they are
    return found


@pytest.mark.parametrize("role", ROLES)
async def test_broker_allows_a_role_to_read_and_to_write_what_it_needs_and_nothing_else(kafka: SecuredKafka, role: KafkaRole) -> None:
    settings = kafka.settings(role)

    assert await asyncio.to_thread(allowed, settings, AclOperation.READ) == MAY_READ[role]
    assert await asyncio.to_thread(allowed, settings, AclOperation.WRITE) == MAY_WRITE[role]
    assert await asyncio.to_thread(allowed, settings, AclOperation.DELETE) == set()


def write(settings: Settings, topic: str) -> int | None:
    """Produce one record; return the error's code."""
    codes = list[int | None]()
    producer = Producer({**producer_config(settings), "message.timeout.ms": 10_000})
    producer.produce(settings.topic_prefix + topic, b"x", on_delivery=lambda error, _: codes.append(error.code() if error else None))
    producer.flush(15)
    return codes[0]


def read(settings: Settings, topic: str, group: str) -> int | None:
    """Read a partition as a member of no group, with this group's id; return the code of the first error."""
    consumer = Consumer({**client_config(settings), "group.id": group, "enable.auto.commit": False, "enable.partition.eof": True})
    try:
        consumer.assign([TopicPartition(settings.topic_prefix + topic, 0, OFFSET_BEGINNING)])
        message = consumer.poll(15)
        assert message is not None
        error = message.error()
        return None if error is None or error.code() == KafkaError._PARTITION_EOF else error.code()
    finally:
        consumer.close()


def begin_transaction(settings: Settings, transactional_id: str) -> int | None:
    """Take a transactional id; return the error's code."""
    producer = Producer({**producer_config(settings), "transactional.id": transactional_id})
    try:
        producer.init_transactions(15)
    except KafkaException as error:
        return int(error.args[0].code())
    return None


TOPIC_DENIED, GROUP_DENIED = KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED
TRANSACTION_DENIED = KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


@pytest.mark.parametrize(
    ("role", "attempt", "code"),
    [
        ("forward", lambda own: write(own, "team.events"), TOPIC_DENIED),
        ("forward", lambda own: write(own, "audit.events"), TOPIC_DENIED),
        ("audit", lambda own: write(own, "audit.events"), TOPIC_DENIED),
        ("audit", lambda own: write(own, "dead.letters"), None),
        ("gateway", lambda own: write(own, "audit.events"), TOPIC_DENIED),
        ("gateway", lambda own: write(own, "razorpay.webhooks"), None),
        ("audit", lambda own: read(own, "razorpay.webhooks", group_id(own, "audit")), TOPIC_DENIED),
        ("audit", lambda own: read(own, "audit.events", group_id(own, "audit")), None),
        ("audit", lambda own: read(own, "audit.events", group_id(own, "classify")), GROUP_DENIED),
        ("feedback", lambda own: read(own, "audit.events", group_id(own, "feedback")), TOPIC_DENIED),
        ("gateway", lambda own: read(own, "razorpay.webhooks", "any"), GROUP_DENIED),
        ("normalise", lambda own: begin_transaction(own, group_id(own, "classify") + "-x"), TRANSACTION_DENIED),
        ("normalise", lambda own: begin_transaction(own, group_id(own, "normalise") + "-y"), None),
    ],
)
async def test_what_a_role_tries_beyond_its_rights_is_refused(
    kafka: SecuredKafka, role: KafkaRole, attempt: Callable[[Settings], int | None], code: int | None
) -> None:
    assert await asyncio.to_thread(attempt, kafka.settings(role)) == code


async def test_user_without_an_acl_can_do_nothing_and_is_told_what_to_grant(kafka: SecuredKafka) -> None:
    await asyncio.to_thread(kafka.add_user, "stranger")
    settings = kafka.settings("stranger")

    done = await forked.operated(settings, "topics", "check")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"tierstream: Kafka at {kafka.address} does not allow stranger to describe its topics; grant what")
    assert await asyncio.to_thread(write, settings, "team.events") == TOPIC_DENIED


@pytest.mark.parametrize(
    ("stage", "resource", "operation"),
    [
        ("audit", Resource.TOPIC, Operation.READ),
        ("audit", Resource.GROUP, Operation.READ),
        ("classify", Resource.TOPIC, Operation.READ),
        ("classify", Resource.GROUP, Operation.READ),
        ("classify", Resource.TRANSACTIONAL_ID, Operation.WRITE),
    ],
)
async def test_worker_that_lacks_a_right_ends_with_one_sentence(
    kafka: SecuredKafka, everything: Installed, stage: KafkaRole, resource: Resource, operation: Operation
) -> None:
    settings = everything.settings(stage)
    held = next(each for each in acls(settings, stage) if each.resource is resource and operation in each.operations)
    missing = held._replace(operations=(operation,))
    await asyncio.to_thread(kafka.revoke, stage, missing)
    try:
        async with running(settings, stage_factory(settings, stage)) as run:
            failure = await run.failure()
    finally:
        await asyncio.to_thread(kafka.grant, stage, [missing])

    assert isinstance(failure, TierstreamError)
    assert "does not allow" in str(failure)
    assert "grant what `tierstream topics acls` lists for its role." in str(failure)


def commands() -> list[tuple[KafkaRole, tuple[str, ...]]]:
    return [("topics", ("topics", "check")), ("audit", ("worker", "audit")), ("dlq", ("dlq", "list"))]


@pytest.mark.parametrize(("role", "command"), commands(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else "")
async def test_wrong_password_ends_with_status_2_and_one_sentence_without_it(
    everything: Installed, role: KafkaRole, command: tuple[str, ...]
) -> None:
    settings = everything.settings(role, kafka_sasl_password=SecretStr("wr0ng-S3cret"))

    done = await forked.operated(settings, *command)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"tierstream: Kafka at {everything.kafka.address} refuses the login of {role}; correct ")
    assert "wr0ng" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("role", "command"), commands(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else "")
async def test_certificate_of_another_authority_ends_with_status_2_and_one_sentence(
    everything: Installed, role: KafkaRole, command: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Authority(tmp_path_factory.mktemp("other"))
    settings = everything.settings(role, kafka_ssl_cafile=other.certificate)

    done = await forked.operated(settings, *command)

    assert (done.returncode, done.stdout) == (2, "")
    assert "shows a certificate that is not trusted; in TIERSTREAM_KAFKA_SSL_CAFILE name the CA" in done.stderr.splitlines()[-1]
    assert everything.kafka.passwords[role] not in done.stderr


async def test_gateway_whose_login_is_refused_answers_503_and_names_it_in_its_readiness(kafka: SecuredKafka) -> None:
    settings = gateway_settings(kafka.settings("gateway", kafka_sasl_password=SecretStr("wr0ng-S3cret")), admin_port=free_port())
    async with gateway_running(settings) as gateway:
        answer = await gateway.webhook(b'{"event": "x"}')
        ready = await gateway.http.get(f"http://127.0.0.1:{settings.admin_port}/readyz")

    assert (answer.status_code, ready.status_code) == (503, 503)
    assert "refuses the login of gateway" in ready.text
    assert "wr0ng" not in ready.text + answer.text


async def test_host_that_the_certificate_does_not_name_is_refused(kafka: SecuredKafka) -> None:
    settings = kafka.settings("topics", kafka_bootstrap_servers=kafka.address.replace("127.0.0.1", "localhost"))

    with pytest.raises(KafkaUnavailable, match="shows a certificate that is not trusted"):
        await asyncio.to_thread(topic_admin.check, settings)
