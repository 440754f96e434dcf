"""Where the tests' Kafka and PostgreSQL come from.

``TIERSTREAM_TEST_STACK`` chooses: ``embedded`` (default), ``external`` (addresses in TIERSTREAM_TEST_KAFKA and
TIERSTREAM_TEST_POSTGRES), ``containers`` (testcontainers; skips without a Docker engine). Each test gets topics and a database of its own.

``TIERSTREAM_TEST_POOLER=pgbouncer`` puts a PgBouncer in transaction mode before the databases of all tests.
"""

import asyncio
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from pydantic import SecretStr
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from streams.kafka import topic_admin
from streams.settings import Settings, load_settings
from streams.stores.migrate import migrate
from tests.containers import containers
from tests.pgbouncer import running_pgbouncer

STACK = os.environ.get("TIERSTREAM_TEST_STACK", "embedded")
POOLER = os.environ.get("TIERSTREAM_TEST_POOLER", "")
PARTITIONS = 4
SHARING_UP = tuple(f"tests/acceptance/test_{name}.py" for name in ("main_job", "running_up", "feedback", "promises"))
"""In this order, for the first judges everything that is there, the second wants it whole, and the last takes a table away."""

OTHERS_SECONDS = 120.0
"""How long a test that measures waits for the others at most: where a worker of pytest-xdist has died, some are never done."""

hypothesis_settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.register_profile("long", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile(os.environ.get("TIERSTREAM_HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    for name in [
        name
        for name in os.environ
        if name.startswith("TIERSTREAM_") and not name.startswith(("TIERSTREAM_TEST_", "TIERSTREAM_HYPOTHESIS_"))
    ]:
        del os.environ[name]  # a developer's own settings are not the tests'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of one running ``up`` in their order, and last, beside each other, the files with a test that measures times.

    Before those come the unit tests, the files with the most first: what is short ends about when all the rest does, and nobody waits for long.
    """
    files = {item.path for item in items if item.get_closest_marker("alone")}
    counts, total = Counter(item.path for item in items), len(items)
    sharing = iter(sorted(filter(_place, items), key=_place))
    items[:] = [next(sharing) if _place(item) else item for item in items]

    def place(item: pytest.Item) -> tuple[bool, int]:
        return item.path in files, -counts[item.path] if item.nodeid.startswith("tests/unit/") else -total

    items.sort(key=place)
    for item in items:
        if item.path in files:
            item.add_marker("alone")  # what stands behind one that waits for all others can not be one of these


def _place(item: pytest.Item) -> int:
    """The place of a test's file in ``SHARING_UP``, from 1; 0 for another."""
    file = _file(item.nodeid)
    return SHARING_UP.index(file) + 1 if file in SHARING_UP else 0


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class _FileByFile(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives a worker of pytest-xdist one file after the other, and those that share an ``up`` as one."""

    def _split_scope(self, nodeid: str) -> str:
        file = _file(nodeid)
        return SHARING_UP[0] if file in SHARING_UP else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Choose the scheduler of ``--dist loadfile``."""
    return _FileByFile(config, log) if config.option.dist == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test marked ``alone`` once all that are not have been run, by whichever worker of pytest-xdist; beside it run at most such tests.

    Those wait for seconds to pass most of the time, so they do not disturb each other.
    """
    if not hasattr(item.config, "workerinput"):
        return (yield)
    done: Path = item.config._tmp_path_factory.getbasetemp().parent / "done"  # type: ignore[attr-defined]  # as the fixture has it
    if item.get_closest_marker("alone"):
        others = sum(not other.get_closest_marker("alone") for other in item.session.items)
        deadline = time.monotonic() + OTHERS_SECONDS
        while not (done.is_file() and done.stat().st_size >= others) and time.monotonic() < deadline:
            time.sleep(0.1)
        return (yield)
    try:
        return (yield)
    finally:
        with done.open("ab") as counted:
            counted.write(b".")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command that a test runs in this process sets up the log, on a stderr that is closed afterwards, for all that follow."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of one Kafka and one PostgreSQL for the whole session."""
    match STACK:
        case "embedded":
            yield from _embedded(tmp_path_factory.mktemp("servers"))
        case "external":
            yield _given("TIERSTREAM_TEST_KAFKA"), _given("TIERSTREAM_TEST_POSTGRES")
        case "containers":
            yield from containers()
        case _:
            pytest.fail(f"TIERSTREAM_TEST_STACK={STACK}: choose embedded, external or containers", pytrace=False)


def _given(variable: str) -> str:
    if not os.environ.get(variable):
        pytest.fail(f"TIERSTREAM_TEST_STACK=external needs an address in {variable}", pytrace=False)
    return os.environ[variable]


def _embedded(directory: Path) -> Iterator[tuple[str, str]]:
    from streams.embedded.kafka import EmbeddedKafka
    from streams.embedded.postgres import EmbeddedPostgres

    async def start() -> None:
        await asyncio.gather(kafka.start(), postgres.start())

    async def stop() -> None:
        await asyncio.gather(kafka.stop(), postgres.stop())

    with asyncio.Runner() as runner:
        kafka, postgres = EmbeddedKafka(directory / "kafka"), EmbeddedPostgres(directory / "postgres", durable=False)
        try:
            runner.run(start())
            yield kafka.bootstrap_servers, postgres.dsn
        finally:
            runner.run(stop())


@pytest.fixture
def kafka_settings(servers: tuple[str, str]) -> Settings:
    """Settings with topics of the test's own, created."""
    return with_new_topics(servers[0])


def with_new_topics(bootstrap_servers: str, partitions: int = PARTITIONS) -> Settings:
    """Create topics of a prefix that was never used, and return the settings for them."""
    settings = load_settings(
        kafka_bootstrap_servers=bootstrap_servers,
        topic_prefix=f"t{secrets.token_hex(4)}.",
        partitions=partitions,
        replication_factor=1,
        admin_port=0,
    )
    topic_admin.apply(settings)
    return settings


@pytest.fixture(scope="session")
async def pgbouncer(servers: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of a PgBouncer in transaction mode, for the whole session. Skips where the program is missing."""
    async with running_pgbouncer(servers[1], tmp_path_factory.mktemp("pgbouncer")) as dsn:
        yield dsn


@pytest.fixture
async def direct_database(servers: tuple[str, str]) -> AsyncIterator[str]:
    """The DSN of an empty database of the test's own, on the server itself."""
    name = f"t{secrets.token_hex(6)}"
    server = await asyncpg.connect(servers[1])
    try:
        await server.execute(f'create database "{name}"')
        yield urlunsplit(urlsplit(servers[1])._replace(path=f"/{name}"))
        await server.execute(f'drop database "{name}" with (force)')
    finally:
        await server.close()


@pytest.fixture
def pooled_database(direct_database: str, pgbouncer: str) -> str:
    """The same database, reached through PgBouncer."""
    return urlunsplit(urlsplit(pgbouncer)._replace(path=urlsplit(direct_database).path))


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """The DSN of an empty database of the test's own: pooled where TIERSTREAM_TEST_POOLER asks for it."""
    if POOLER not in ("", "pgbouncer"):
        pytest.fail(f"TIERSTREAM_TEST_POOLER={POOLER}: choose pgbouncer, or leave it out", pytrace=False)
    dsn: str = request.getfixturevalue("pooled_database" if POOLER else "direct_database")
    return dsn


@pytest.fixture
async def stage_settings(kafka_settings: Settings, database: str) -> Settings:
    """Settings with topics and a migrated database of the test's own."""
    await migrate(database)
    return kafka_settings.model_copy(update={"postgres_dsn": SecretStr(database)})
