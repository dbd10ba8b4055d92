"""What people's own clients make of the administrative half: librdkafka's and kafka-python's, over a real node."""

from collections.abc import Mapping
from typing import Any

import pytest
from confluent_kafka import ElectionType, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
)
from kafka import KafkaAdminClient
from kafka import TopicPartition as PythonTopicPartition
from kafka.admin import ConfigResource as PythonResource
from kafka.admin import ConfigResourceType
from kafka.admin import NewTopic as PythonTopic
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError
from kafka.protocol.admin import ElectionType as PythonElectionType

from raftbroker.node import Node


def done(futures: Mapping[Any, Any]) -> list[Any]:
    return [future.result(20) for future in futures.values()]


def own_configs(client: AdminClient, name: str) -> dict[str, str]:
    (shown,) = done(client.describe_configs([ConfigResource("topic", name)]))
    dynamic = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    return {config.name: config.value for config in shown.values() if config.source == dynamic}


def test_confluent_administers_topics(confluent: AdminClient, node: Node, name: str) -> None:
    done(confluent.create_topics([NewTopic(name, 3, 1, config={"retention.ms": "1000"})]))
    with pytest.raises(KafkaException, match="TOPIC_ALREADY_EXISTS"):
        done(confluent.create_topics([NewTopic(name, 3, 1)]))
    listed = confluent.list_topics(timeout=20)
    assert (listed.controller_id, list(listed.brokers)) == (1, [1])
    assert node.core is not None
    assert listed.cluster_id == node.core.broker.cluster_id
    partitions = listed.topics[name].partitions.values()
    assert [(one.id, one.leader, one.replicas, one.isrs, one.error) for one in partitions] == [
        (number, 1, [1], [1], None) for number in range(3)
    ]
    (described,) = done(confluent.describe_topics(TopicCollection([name]), include_authorized_operations=True))
    assert (described.name, len(described.partitions)) == (name, 3)
    done(confluent.create_partitions([NewPartitions(name, 6)]))
    assert len(confluent.list_topics(name, timeout=20).topics[name].partitions) == 6
    deleted = confluent.delete_records([TopicPartition(name, 0, 0)])
    assert [one.low_watermark for one in done(deleted)] == [0]
    elected = confluent.elect_leaders(ElectionType.PREFERRED, [TopicPartition(name, 0)]).result(20)
    assert [error.name() for error in elected.values()] == ["ELECTION_NOT_NEEDED"]
    done(confluent.delete_topics([name], operation_timeout=10))
    assert name not in confluent.list_topics(timeout=20).topics


def test_confluent_alters_configs(confluent: AdminClient, name: str) -> None:
    done(confluent.create_topics([NewTopic(name, 1, 1)]))
    done(confluent.alter_configs([ConfigResource("topic", name, {"retention.ms": "2000", "segment.ms": "7"})]))
    assert own_configs(confluent, name) == {"retention.ms": "2000", "segment.ms": "7"}
    changes = [
        ConfigEntry("retention.bytes", "5", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("segment.ms", None, incremental_operation=AlterConfigOpType.DELETE),
        ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.APPEND),
    ]
    done(confluent.incremental_alter_configs([ConfigResource("topic", name, incremental_configs=changes)]))
    assert own_configs(confluent, name) == {"retention.ms": "2000", "retention.bytes": "5", "cleanup.policy": "delete"}
    with pytest.raises(KafkaException, match="INVALID_CONFIG"):
        done(confluent.alter_configs([ConfigResource("topic", name, {"retention.ms": "soon"})]))


def test_confluent_describes_the_cluster_and_a_node(confluent: AdminClient, node: Node) -> None:
    cluster = confluent.describe_cluster(include_authorized_operations=True).result(20)
    assert node.core is not None
    assert (cluster.cluster_id, cluster.controller.id) == (node.core.broker.cluster_id, 1)
    assert len(cluster.authorized_operations) > 3
    (shown,) = done(confluent.describe_configs([ConfigResource("broker", "1")]))
    assert shown["num.partitions"].value == "1"
    assert shown["peers.secret"].is_sensitive


def test_confluent_makes_a_topic_by_asking_for_it(address: str, name: str) -> None:
    client = AdminClient({"bootstrap.servers": address, "allow.auto.create.topics": True})
    assert client.list_topics(name, timeout=20).topics[name].error is None


def test_kafka_python_administers_topics(kafka_python: KafkaAdminClient, node: Node, name: str) -> None:
    kafka_python.create_topics([PythonTopic(name, 3, 1, topic_configs={"retention.ms": "1000"})])
    with pytest.raises(TopicAlreadyExistsError):
        kafka_python.create_topics([PythonTopic(name, 3, 1)])
    assert name in kafka_python.list_topics()
    (described,) = kafka_python.describe_topics([name])
    assert [one["leader_id"] for one in described["partitions"]] == [1, 1, 1]
    kafka_python.create_partitions({name: 5})
    assert len(kafka_python.describe_topics([name])[0]["partitions"]) == 5
    low = kafka_python.delete_records({PythonTopicPartition(name, 0): 0})
    assert [one["low_watermark"] for one in low.values()] == [0]
    elected = kafka_python.elect_leaders(PythonElectionType.PREFERRED, {name: [0]}, raise_errors=False)
    assert "ElectionNotNeeded" in str(elected) or "84" in str(elected)
    assert name in str(kafka_python.describe_log_dirs())
    assert node.core is not None
    assert kafka_python.describe_cluster()["cluster_id"] == node.core.broker.cluster_id
    kafka_python.delete_topics([name])
    assert name not in kafka_python.list_topics()
    with pytest.raises(UnknownTopicOrPartitionError):
        kafka_python.delete_topics([name])


@pytest.mark.parametrize("told", [None, (2, 5), (2, 8), (3, 0), (3, 8), (4, 0)])
def test_kafka_python_told_a_version_of_kafka(address: str, name: str, told: tuple[int, ...] | None) -> None:
    """It goes by what it knows of that version rather than by ApiVersions, if it takes us for a newer one."""
    with KafkaAdminClient(bootstrap_servers=address, api_version=told) as client:
        client.create_topics([PythonTopic(name, 1, 1)])
        assert name in client.list_topics()


def test_kafka_python_alters_configs(kafka_python: KafkaAdminClient, name: str) -> None:
    kafka_python.create_topics([PythonTopic(name, 1, 1, topic_configs={"segment.ms": "5"})])

    def own() -> dict[str, str]:
        shown = kafka_python.describe_configs([PythonResource(ConfigResourceType.TOPIC, name)])
        return {key: config["value"] for key, config in shown["topic"][name].items()}

    assert own() == {"segment.ms": "5"}
    kafka_python.alter_configs([PythonResource(ConfigResourceType.TOPIC, name, {"retention.ms": "9000"})])
    assert own() == {"segment.ms": "5", "retention.ms": "9000"}
    kafka_python.alter_configs(
        [PythonResource(ConfigResourceType.TOPIC, name, {"retention.ms": "8"})], incremental=False
    )
    assert own() == {"segment.ms": "5", "retention.ms": "8"}  # the client names what is set already, too
    kafka_python.reset_configs([PythonResource(ConfigResourceType.TOPIC, name, ["retention.ms"])])
    assert own() == {"segment.ms": "5"}
