"""Which place each broker of an embedded cluster has, and what is refused."""

from pathlib import Path

import pytest

from streams.embedded.kafka import IDENTITY, EmbeddedKafka
from streams.embedded.kafka_cluster import cluster
from streams.embedded.stack import StackOptions, start_stack
from streams.errors import ConfigurationError


def formatted(broker: EmbeddedKafka) -> None:
    """What a first start leaves in the broker's storage."""
    storage = broker.data_dir / "storage"
    storage.mkdir(parents=True)
    (storage / IDENTITY).write_text(f"version=1\nnode.id={broker.node.number}\ncluster.id={broker.node.cluster_id}\n", encoding="ascii")


@pytest.mark.parametrize(("brokers", "copies", "in_sync"), [(1, 1, 1), (2, 2, 2), (3, 3, 2), (5, 3, 2)])
def test_each_broker_is_a_node_of_one_cluster_with_ports_and_a_directory_of_its_own(
    tmp_path: Path, brokers: int, copies: int, in_sync: int
) -> None:
    members = cluster(tmp_path, brokers)

    assert len({broker.data_dir for broker in members}) == brokers
    assert members[0].data_dir == tmp_path / "kafka", "where a broker that is alone has always had its data"
    assert len({broker.port for broker in members} | set(members[0].node.controller_ports)) == 2 * brokers
    assert [broker.node.properties["node_id"] for broker in members] == list(range(1, brokers + 1))
    assert len({(broker.node.cluster_id, broker.node.properties["voters"]) for broker in members}) == 1
    assert {(broker.node.properties["copies"], broker.node.properties["in_sync"]) for broker in members} == {(copies, in_sync)}


def test_a_cluster_that_is_started_again_is_the_same_one(tmp_path: Path) -> None:
    first = cluster(tmp_path, 3)
    for broker in first:
        formatted(broker)

    assert {broker.node.cluster_id for broker in cluster(tmp_path, 3)} == {first[0].node.cluster_id}


@pytest.mark.parametrize(
    ("had", "wanted", "said"), [(1, 3, "one broker: start with --brokers 1"), (3, 1, "3 brokers: start with --brokers 3")]
)
def test_another_number_of_brokers_than_the_data_is_of_is_one_sentence(tmp_path: Path, had: int, wanted: int, said: str) -> None:
    for broker in cluster(tmp_path, had):
        formatted(broker)

    with pytest.raises(ConfigurationError, match=f"holds the data of {said}, or choose another --data-dir"):
        cluster(tmp_path, wanted)


async def test_several_brokers_beside_an_address_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSTREAM_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="leave --brokers out"):
        async with start_stack(StackOptions({}, brokers=3)):
            raise AssertionError("nothing was to be started")
