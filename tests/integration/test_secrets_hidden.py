"""Secrets that are given as files: the processes use them, and they stand in no command line, environment, log, metric or state of health."""

import asyncio
import base64
import os
import secrets
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from streams.embedded.process import free_port, spawn, stop
from streams.embedded.stack import EXAMPLE_PLANS, environment_of
from streams.gateway.signatures import sign_razorpay, sign_standard
from streams.kafka import topic_admin
from streams.kafka.acls import acls
from streams.settings import PREFIX
from streams.settings.roles import KafkaRole
from tests.feedback_factories import body as report
from tests.integration.databases import query
from tests.processes import PROC
from tests.role_logins import Installation, installed, owner_of
from tests.secured_kafka import SecuredKafka, secured_kafka
from tests.sinks import ServedSink, served_sink
from tests.waiting import answered, until
from tests.webhooks import body

pytestmark = pytest.mark.skipif(not (PROC / "self" / "environ").exists(), reason="needs a /proc, to look at processes from outside")

STOP_SECONDS = 15.0


@dataclass
class Process:
    """A process of ours, started from its command line as an operator starts it."""

    process: asyncio.subprocess.Process
    log: Path
    admin: str

    def shown(self) -> dict[str, str]:
        """All that can be seen of it from outside, by where."""
        directory = PROC / str(self.process.pid)
        found = {"log": self.log.read_text()}
        found |= {name: (directory / name).read_bytes().replace(b"\0", b"\n").decode() for name in ("cmdline", "environ")}
        return found | {path: httpx.get(self.admin + path, timeout=10).text for path in ("/readyz", "/metrics")}

    def is_ready(self) -> bool:
        assert self.process.returncode is None, self.log.read_text()
        try:
            return httpx.get(f"{self.admin}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@dataclass
class World:
    """What the processes talk to, and their secrets by what they are for."""

    kafka: SecuredKafka
    database: Installation
    sink: ServedSink
    directory: Path
    gateway_port: int = field(default_factory=free_port)
    razorpay: str = field(default_factory=lambda: f"S3cret-razorpay-{secrets.token_hex(8)}")
    token: str = field(default_factory=lambda: f"S3cret-token-{secrets.token_hex(8)}")
    loops_webhooks: bytes = field(default_factory=lambda: secrets.token_bytes(24))
    loops_key: str = "S3cret-loops-key"

    def files(self, role: str, users: str) -> dict[str, str]:
        """The secrets of a process by their settings."""
        own = {"KAFKA_SASL_PASSWORD": self.kafka.passwords[role]}
        if role == "gateway":
            signing = "whsec_" + base64.b64encode(self.loops_webhooks).decode()
            return own | {"RAZORPAY_WEBHOOK_SECRETS": self.razorpay, "INGEST_TOKENS": self.token, "LOOPS_WEBHOOK_SECRET": signing}
        if users:
            own["POSTGRES_DSN"] = self.database.logins[users]
        return own | ({"LOOPS_API_KEY": self.loops_key} if role == "forward" else {})

    def never_shown(self) -> dict[str, str]:
        """What must not be seen anywhere, by what it is."""
        passwords = {f"password of {name} at PostgreSQL": urlsplit(dsn).password or "" for name, dsn in self.database.logins.items()}
        passwords |= {f"password of {name} at Kafka": password for name, password in self.kafka.passwords.items()}
        own = {"razorpay": self.razorpay, "token": self.token, "loops key": self.loops_key}
        return passwords | own | {"signing secret": base64.b64encode(self.loops_webhooks).decode()}

    @asynccontextmanager
    async def started(self, role: KafkaRole, *command: str, users: str, log_format: str) -> AsyncIterator[Process]:
        """Run a process whose secrets all stand in files."""
        directory = self.directory / role
        directory.mkdir()
        plain = environment_of(self.kafka.settings(role, plans=EXAMPLE_PLANS, loops_base_url=self.sink.url, gateway_host="127.0.0.1"))
        del plain[f"{PREFIX}KAFKA_SASL_PASSWORD"]
        for name, secret in self.files(role, users).items():
            (directory / name).write_text(f"{secret}\n")
            plain[f"{PREFIX}{name}_FILE"] = str(directory / name)
        port = free_port()
        ports = {"ADMIN_PORT": str(port), "GATEWAY_PORT": str(self.gateway_port), "LOG_LEVEL": "debug", "LOG_FORMAT": log_format}
        clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environment = {**clean, **plain, **{PREFIX + name: value for name, value in ports.items()}}
        log = directory / "log"
        with log.open("wb") as output:
            process = await spawn((sys.executable, "-m", "streams.cli", *command), env=environment, cwd=self.directory, output=output)
        try:
            found = Process(process, log, f"http://127.0.0.1:{port}")
            await until(found.is_ready, f"{role} is ready", 90)
            yield found
        finally:
            await stop(process, grace_seconds=STOP_SECONDS)


@pytest.fixture
async def world(direct_database: str, tmp_path: Path) -> AsyncIterator[World]:
    async with (
        secured_kafka(tmp_path / "secured") as kafka,
        owner_of(direct_database) as owner,
        served_sink(api_key="S3cret-loops-key") as sink,
    ):

        def set_up() -> None:
            users: Mapping[str, tuple[KafkaRole, ...]] = {
                "topics": ("topics",),
                "gateway": ("gateway",),
                "normalise": ("normalise",),
                "classify": ("classify",),
                "audit": ("audit",),
                "forward": ("forward", "feedback"),
            }
            for user, roles in users.items():
                kafka.add_user(user)
                kafka.grant(user, [acl for role in roles for acl in acls(kafka.settings(user), role)])
            topic_admin.apply(kafka.settings("topics"))

        await asyncio.to_thread(set_up)
        yield World(kafka, await installed(direct_database, owner, {"mailing": ("forward", "feedback")}), sink, tmp_path)


async def test_secrets_from_files_are_used_and_never_shown(world: World, direct_database: str) -> None:
    team = uuid.uuid4()
    async with AsyncExitStack() as stack:

        async def start(role: KafkaRole, *command: str, users: str = "", log_format: str = "console") -> Process:
            return await stack.enter_async_context(world.started(role, *command, users=users, log_format=log_format))

        processes = {
            "gateway": await start("gateway", "gateway", log_format="json"),
            "normalise": await start("normalise", "worker", "normalise"),
            "classify": await start("classify", "worker", "classify"),
            "audit": await start("audit", "worker", "audit", users="audit", log_format="json"),
            "forward": await start("forward", "worker", "forward", "feedback", users="mailing"),
        }
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{world.gateway_port}", timeout=20))
        await use(world, client, team)
        await answered(
            lambda: written(direct_database, "select from audit_log where team_id = $1 and kind = 'subscription.upgraded'", team),
            lambda: "a row",
        )
        await answered(
            lambda: written(direct_database, "select from forwarder_sent where team_id = $1 and sent_at is not null", team),
            lambda: "a mail",
        )
        check(world, processes, "while everything works")

        # What goes wrong is named, and that without secrets as well.
        await misuse(client)
        world.sink.break_it(down=True)
        await refuse_logins(direct_database, world, ("audit", "mailing"))
        await use(world, client, uuid.uuid4())
        for name in ("audit", "forward"):
            await until(lambda name=name: "refuses the login" in processes[name].shown()["/readyz"], f"{name} is refused", 60)  # type: ignore[misc]
        check(world, processes, "while logins are refused")


async def use(world: World, client: httpx.AsyncClient, team: uuid.UUID) -> None:
    """Use each secret of the gateway's once."""
    claim = {"kind": "onboarding.claimed", "team_id": str(team), "data": {"email": "asha@example.com"}}
    answer = await client.post("/v1/events", json=claim, headers={"Authorization": f"Bearer {world.token}"})
    assert answer.status_code == 202, answer.text
    number = uuid.uuid4().hex[:12]
    document = body(created_at=int(time.time()), subscription={"id": f"sub_{number}", "notes": {"team_id": str(team)}})
    raw = orjson.dumps(document)
    headers = {"X-Razorpay-Signature": sign_razorpay(raw, world.razorpay.encode()), "X-Razorpay-Event-Id": f"Rp{number}"}
    answer = await client.post("/webhooks/razorpay", content=raw, headers=headers)
    assert answer.status_code == 200, answer.text
    raw = orjson.dumps(report("testing.testEvent"))
    moment = int(time.time())
    signature = sign_standard(raw, b"msg_1", moment, world.loops_webhooks)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(moment), "webhook-signature": signature}
    answer = await client.post("/webhooks/loops", content=raw, headers=headers)
    assert answer.status_code == 200, answer.text


async def misuse(client: httpx.AsyncClient) -> None:
    """Send what each route refuses."""
    for path, headers in (
        ("/v1/events", {"Authorization": "Bearer wrong"}),
        ("/webhooks/razorpay", {"X-Razorpay-Signature": "0" * 64}),
        ("/webhooks/loops", {"webhook-id": "msg_2", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}),
    ):
        assert (await client.post(path, content=b"{}", headers=headers)).status_code == 401


async def refuse_logins(admin_dsn: str, world: World, names: tuple[str, ...]) -> None:
    """Have PostgreSQL refuse the passwords that the processes have, and end their sessions."""
    for name in names:
        user = urlsplit(world.database.logins[name]).username
        await query(admin_dsn, f"alter role {user} password 'another'")
        await query(admin_dsn, "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", user)


async def written(dsn: str, statement: str, team: uuid.UUID) -> bool | None:
    return True if await query(dsn, statement, team) else None


def check(world: World, processes: Mapping[str, Process], when: str) -> None:
    """Look for every secret in all that can be seen of every process."""
    found = []
    for name, process in processes.items():
        for where, text in process.shown().items():
            found += [f"{what} in the {where} of {name}" for what, secret in world.never_shown().items() if secret in text]
    assert found == [], when


async def test_the_look_finds_a_secret_that_stands_in_an_environment_or_a_command_line() -> None:
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, "S3cret-in-the-arguments"),
        env={"KEY": "S3cret-in-the-environment"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        directory = PROC / str(process.pid)
        assert b"S3cret-in-the-environment" in (directory / "environ").read_bytes()
        assert b"S3cret-in-the-arguments" in (directory / "cmdline").read_bytes()
    finally:
        await process.communicate(b"")  # which closes its stdin
