"""Several embedded brokers as one Kafka, for what a single one can not show: leaders that move, copies that are away."""

from pathlib import Path

from streams.embedded.kafka import IDENTITY, EmbeddedKafka, Node, new_id
from streams.embedded.process import free_ports
from streams.errors import ConfigurationError


def cluster(data_dir: Path, brokers: int, *, long_lived: bool = False) -> list[EmbeddedKafka]:
    """Return the brokers of one cluster, to be started at once: none answers before most of them do.

    Each keeps its data in a directory of its own in ``data_dir``, ``kafka`` and ``kafka-2`` to ``kafka-N``. Raises ConfigurationError where
    the data there is that of another number of brokers: some of it would be out of reach, or each record would have too few copies.
    """
    directories = [data_dir / ("kafka" if number == 1 else f"kafka-{number}") for number in range(1, brokers + 1)]
    formatted = sorted(path for path in data_dir.glob(f"kafka*/storage/{IDENTITY}"))
    if formatted and len(formatted) != brokers:
        raise ConfigurationError(
            f"{data_dir} holds the data of {_counted(len(formatted))}: start with --brokers {len(formatted)}, or choose another --data-dir."
        )
    cluster_id = _cluster_id(formatted[0]) if formatted else new_id()
    ports = free_ports(2 * brokers)
    controller_ports = tuple(ports[brokers:])
    return [
        EmbeddedKafka(directory, port, long_lived=long_lived, node=Node(number, controller_ports, cluster_id))
        for number, (directory, port) in enumerate(zip(directories, ports, strict=False), 1)
    ]


def _counted(brokers: int) -> str:
    return "one broker" if brokers == 1 else f"{brokers} brokers"


def _cluster_id(identity: Path) -> str:
    lines = identity.read_text(encoding="ascii").splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("cluster.id="))
