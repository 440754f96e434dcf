"""The whole of tierstream on one machine: ``tierstream up``, the demo, and stream tests stand on it."""

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
from pydantic import SecretStr
from rich.console import Console

from streams.embedded.kafka import EmbeddedKafka, copies_in
from streams.embedded.kafka_cluster import cluster
from streams.embedded.postgres import EmbeddedPostgres
from streams.embedded.process import free_port
from streams.embedded.program import LineSink, Program, console_sink, file_sink
from streams.embedded.ready_file import write_ready_file
from streams.embedded.running import DIRECTORY, published
from streams.embedded.supervisor import PidTable, Supervisor
from streams.engine.worker import on_hangup, stop_on_signals
from streams.errors import ConfigurationError
from streams.kafka import topic_admin
from streams.settings import PREFIX, Settings, load_plans, load_settings
from streams.settings.sources import secret_files
from streams.stores.migrate import migrate

EXAMPLE_PLANS = Path(__file__).parents[2] / "examples" / "plans.toml"

EMBEDDED_DEFAULTS: dict[str, str] = {
    "razorpay_webhook_secrets": "demo-secret",
    "ingest_tokens": "demo-ingest",
    "console_token": "demo-console",
    "loops_webhook_secret": "whsec_ZGVtby1sb29wcy13ZWJob29rLXNlY3JldA==",
    "gateway_host": "127.0.0.1",
}
"""Settings of the embedded stack where none are set. They are public: never use them where others can reach the gateway."""

PROCESS_NAMES = ("gateway", "normalise", "classify", "audit", "forward", "feedback")

RIDES_WITH = {"feedback": "forward"}
"""Stages that have no process of their own: feedback has a few events for each mail, and forward waits most of the time."""

ALL_STAGES = "stages"
"""The name of the one process that runs all stages, where it is asked for."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to run: processes for each stage; where to keep data (None: thrown away at the end); where lines of output go."""

    workers: Mapping[str, int]
    single_process: bool = False  # all stages in one process; ``workers`` counts nothing then
    data_dir: Path | None = None
    console: Console | None = None  # the processes' output; None: to files in the data directory
    overrides: Mapping[str, object] = field(default_factory=dict)  # settings of this stack alone, by field name
    accept_initial_tier: bool = False  # classify may change the tier of teams that were decided with another initial tier
    brokers: int = 1  # of the embedded Kafka
    long_lived: bool = False  # Kafka's code is compiled to be cheap for hours, not to be quick in its first minute


@dataclass(slots=True)
class Stack:
    """A running stack and its addresses, which never change while it runs."""

    settings: Settings
    supervisor: Supervisor
    gateway: str
    console: str
    loops: str
    kafka: str
    postgres: str
    data_dir: Path
    extra_worker: Callable[[str, str], Program]
    """One more process of a stage (stage, instance id), which the caller starts and stops."""

    def description(self, pids: PidTable) -> dict[str, object]:
        """What the ready file says."""
        return {
            "gateway": self.gateway,
            "console": self.console,
            "loops": self.loops,
            "kafka": self.kafka,
            "postgres": self.postgres,
            "pids": pids_of(pids),
        }


def pids_of(table: PidTable) -> dict[str, list[int]]:
    """Return the processes of the gateway and of each stage, by the supervisor's table of what it has started."""
    found = {"gateway": table.get("gateway", [])}
    found |= {stage: table.get(RIDES_WITH.get(stage, stage)) or table.get(ALL_STAGES, []) for stage in PROCESS_NAMES[1:]}
    return {name: pids for name, pids in found.items() if pids}


async def run_up(
    ready_file: Path | None,
    workers: Mapping[str, int],
    data_dir: Path | None,
    *,
    single_process: bool = False,
    accept_initial_tier: bool = False,
    brokers: int = 1,
) -> None:
    """Run the stack until SIGINT or SIGTERM; pass SIGHUP on to normalise. Raises TierstreamError when it can not start."""
    if ready_file is not None:
        _make_directory(ready_file.parent, "--ready-file")
    stop = asyncio.Event()
    stop_on_signals(stop)
    options = StackOptions(
        workers,
        single_process,
        data_dir,
        Console(stderr=True, highlight=False),
        accept_initial_tier=accept_initial_tier,
        brokers=brokers,
        long_lived=True,
    )
    console = Console(highlight=False)
    try:
        async with contextlib.AsyncExitStack() as stack_exit:
            starting = asyncio.ensure_future(stack_exit.enter_async_context(start_stack(options, ready_file, data_dir or DIRECTORY)))
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                console.print("stopping before everything was up")
                starting.cancel()
                await asyncio.wait((starting,))
                return
            stopping.cancel()
            stack = starting.result()
            console.print(f"[bold]ready[/bold]  gateway {stack.gateway}  loops {stack.loops}  kafka {stack.kafka}", soft_wrap=True)
            console.print("Ctrl-C stops everything.")
            read_plans = [partial(stack.supervisor.signal, name, signal.SIGHUP) for name in ("normalise", ALL_STAGES)]
            with on_hangup(stop, *read_plans):
                await stack.supervisor.run_until(stop)
            console.print("stopping")
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def start_stack(options: StackOptions, ready_file: Path | None = None, publish_in: Path | None = None) -> AsyncIterator[Stack]:
    """Start everything that has no address set, then the gateway and the stages; gives the running stack.

    With ``publish_in``, commands that are called with that directory find this stack (``streams.embedded.running``). With
    ``ready_file``, writes it when all is ready and again whenever a process is restarted. Leaving the block stops all of it.
    Raises TierstreamError when a part can not start.
    """
    with _data_directory(options.data_dir) as data_dir:
        settings = _embedded_settings(options.overrides, options.brokers)
        services = _Services(settings, options, data_dir)
        stack: Stack | None = None

        def write(pids: PidTable) -> None:
            if ready_file is not None and stack is not None:
                write_ready_file(ready_file, stack.description(pids))

        async with Supervisor(on_change=write, report=services.report) as supervisor:
            await supervisor.start(*services.servers())
            settings = services.addressed()
            await _prepare(settings)
            await supervisor.start(*services.processes(settings))
            postgres = settings.postgres_dsn
            assert postgres is not None  # ``addressed`` set it
            stack = Stack(
                settings,
                supervisor,
                services.gateway_url,
                services.console_url,
                settings.loops_base_url,
                settings.kafka_bootstrap_servers,
                postgres.get_secret_value(),
                data_dir,
                lambda stage, instance: services.worker(settings, [stage], instance),
            )
            with contextlib.ExitStack() as files:
                if publish_in is not None and not files.enter_context(published(publish_in, environment_of(settings))):
                    services.report(f"Another tierstream up runs with {publish_in}: commands without addresses use that one.")
                write(supervisor.pids)
                yield stack


async def _prepare(settings: Settings) -> None:
    """Create topics and tables: the only time that anything but ``topics apply`` and ``migrate`` does."""
    postgres = settings.postgres_dsn
    assert postgres is not None
    created = asyncio.to_thread(topic_admin.apply, settings)
    await asyncio.gather(created, migrate(postgres.get_secret_value()))


def _make_directory(path: Path, option: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{option}: {path} can not be made ({error.strerror}); choose another directory.") from error


@contextlib.contextmanager
def _data_directory(given: Path | None) -> Iterator[Path]:
    if given is not None:
        _make_directory(given, "--data-dir")
        yield given.absolute()
        return
    temporary = Path(tempfile.mkdtemp(prefix="tierstream-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _embedded_settings(overrides: Mapping[str, object], brokers: int) -> Settings:
    """The settings as they are set, and the embedded stack's defaults for the rest."""
    given = load_settings(**overrides)
    defaults: dict[str, object] = {name: value for name, value in EMBEDDED_DEFAULTS.items() if name not in given.model_fields_set}
    if "plans" not in given.model_fields_set:
        defaults["plans"] = EXAMPLE_PLANS
    if not given.kafka_bootstrap_servers:
        sized = {"partitions": 8, "replication_factor": copies_in(brokers)}
        defaults |= {name: value for name, value in sized.items() if name not in given.model_fields_set}
    elif brokers > 1:
        raise ConfigurationError(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS is set, so no broker is started: leave --brokers out.")
    settings = load_settings(**{**overrides, **defaults})
    if settings.kafka_bootstrap_servers:
        settings.require("topics")
    if settings.postgres_dsn:
        settings.require("migrate")
    assert settings.plans is not None
    load_plans(settings.plans)  # a bad plan file is reported here, once, and not by a stage that restarts in a loop
    return settings


class _Services:
    """Decides what to start, on which ports, and with which environment."""

    def __init__(self, settings: Settings, options: StackOptions, data_dir: Path) -> None:
        self._settings = settings
        self._options = options
        self._data_dir = data_dir
        self._kafka = [] if settings.kafka_bootstrap_servers else cluster(data_dir, options.brokers, long_lived=options.long_lived)
        self._postgres = None if settings.postgres_dsn else EmbeddedPostgres(data_dir / "postgres", durable=options.data_dir is not None)
        self._loops_port = None if "loops_base_url" in settings.model_fields_set else free_port()
        self._gateway_port = settings.gateway_port if "gateway_port" in settings.model_fields_set else free_port()
        self._gateway_admin = free_port()
        self.gateway_url = f"http://{settings.gateway_host}:{self._gateway_port}"
        self.console_url = f"http://127.0.0.1:{self._gateway_admin}/console/"

    def report(self, sentence: str) -> None:
        """Print what the supervisor did."""
        if self._options.console is not None:
            self._options.console.print(sentence, style="yellow")
        else:
            file_sink(self._data_dir / "logs" / "supervisor.log")(sentence)

    def servers(self) -> list[tuple[str, EmbeddedKafka | EmbeddedPostgres | Program]]:
        """What the stages need, as far as no address is set for it."""
        found: list[tuple[str, EmbeddedKafka | EmbeddedPostgres | Program]] = [("kafka", broker) for broker in self._kafka]
        if self._postgres:
            found.append(("postgres", self._postgres))
        if self._loops_port:
            rate = str(self._settings.loops_rate_per_second)
            url = f"http://127.0.0.1:{self._loops_port}/_sent"
            found.append(("loops", self._program("loops", 0, ["loops-sink", "--port", str(self._loops_port), "--rate", rate], {}, url)))
        return found

    def addressed(self) -> Settings:
        """The settings with the addresses of what was started."""
        changes: dict[str, object] = {}
        if self._kafka:
            changes["kafka_bootstrap_servers"] = ",".join(broker.bootstrap_servers for broker in self._kafka)
        if self._postgres:
            changes["postgres_dsn"] = SecretStr(self._postgres.dsn)
        if self._loops_port:
            changes["loops_base_url"] = f"http://127.0.0.1:{self._loops_port}"
            if not self._settings.loops_api_key:
                changes["loops_api_key"] = SecretStr("demo-loops")
        changes["gateway_port"] = self._gateway_port
        return self._settings.model_copy(update=changes)

    def processes(self, settings: Settings) -> list[tuple[str, Program]]:
        """The gateway, and the stages with as many processes as were asked for."""
        common = self._environment(settings)
        ready = f"http://127.0.0.1:{self._gateway_admin}/readyz"
        found = [("gateway", self._program("gateway", 1, ["gateway"], {**common, f"{PREFIX}ADMIN_PORT": str(self._gateway_admin)}, ready))]
        if self._options.single_process:
            found.append((ALL_STAGES, self.worker(settings, PROCESS_NAMES[1:], f"{ALL_STAGES}-0")))
            return found
        for stage in PROCESS_NAMES[1:]:
            if stage in RIDES_WITH:
                continue
            stages = [stage, *(name for name, carrier in RIDES_WITH.items() if carrier == stage)]
            found += [
                (stage, self.worker(settings, stages, f"{stage}-{instance}")) for instance in range(self._options.workers.get(stage, 1))
            ]
        return found

    def worker(self, settings: Settings, stages: Sequence[str], instance: str) -> Program:
        """One process of some stages; ``instance`` is its static member id in each group, kept over restarts."""
        port = free_port()
        environment = {**self._environment(settings), f"{PREFIX}ADMIN_PORT": str(port), f"{PREFIX}INSTANCE_ID": instance}
        title = instance.removesuffix("-0")
        arguments = ["worker", *stages]
        if self._options.accept_initial_tier and "classify" in stages:
            arguments.append("--accept-initial-tier")
        return self._program(title, PROCESS_NAMES.index(stages[0]) + 1, arguments, environment, f"http://127.0.0.1:{port}/readyz")

    def _environment(self, settings: Settings) -> dict[str, str]:
        """What a child needs beside our own environment: a secret that stands in a file is read there by each child, and stands in no environment."""
        variables = environment_of(settings)
        for name in secret_files(PREFIX, Settings.model_fields):
            variable = PREFIX + name.upper()
            if name in self._options.overrides:
                variables[f"{variable}_FILE"] = ""  # not that of this stack
            else:
                variables.pop(variable, None)
        return variables

    def _program(self, title: str, number: int, arguments: list[str], environment: dict[str, str], ready_url: str) -> Program:
        sink = self._sink(title, number)
        command = [sys.executable, "-m", "streams.cli", *arguments]
        return Program(title, command, env=environment, sink=sink, ready=partial(is_ready, ready_url))

    def _sink(self, title: str, number: int) -> LineSink:
        if self._options.console is not None:
            return console_sink(self._options.console, title, number)
        return file_sink(self._data_dir / "logs" / f"{title}.log")


async def is_ready(url: str) -> bool:
    """Whether ``url`` is answered with 200. It is asked every 50 ms for each process that starts, so it costs the event loop little."""
    try:
        # With verify=True each client would load all CA certificates, 20 ms of work: some starts at once, and block the event loop.
        async with httpx.AsyncClient(timeout=2.0, trust_env=False, verify=False) as client:
            return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the environment variables that make ``settings`` again in a child process."""
    variables: dict[str, str] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is not None:
            variables[PREFIX + name.upper()] = _text(value)
    return variables


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    # A command that uses them may be called in another directory.
    return str(value.absolute() if isinstance(value, Path) else value)
