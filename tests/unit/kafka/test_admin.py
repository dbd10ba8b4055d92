"""The administrative APIs over a real node, in every version, as their answers read on the wire."""

import random
import struct
import urllib.request
import uuid
from typing import Any

import pytest
from kafka.protocol.admin import (
    AlterConfigsRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeClusterRequest,
    DescribeConfigsRequest,
    DescribeLogDirsRequest,
    ElectLeadersRequest,
    IncrementalAlterConfigsRequest,
)
from kafka.protocol.metadata import ApiVersionsRequest, MetadataRequest

from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers import APIS, served
from raftbroker.node import Node
from tests.unit.kafka.conftest import Wire
from tests.unit.kafka.samples import MESSAGES, sample

TOPIC, BROKER = 2, 4
PRODUCE = 0


def versions(key: int) -> Any:
    api = APIS[key]
    return pytest.mark.parametrize("version", range(api.min_version, api.max_version + 1))


def create(wire: Wire, *names: str, version: int = 7, **changes: Any) -> list[Any]:
    options = {"num_partitions": 3, "replication_factor": 1, "assignments": [], "configs": [], **changes}
    validate_only = options.pop("validate_only", False)
    topics = [CreateTopicsRequest.CreatableTopic(name=name, **options) for name in names]
    request = CreateTopicsRequest(topics=topics, timeout_ms=10_000, validate_only=validate_only)
    return list(wire.ask(request, version).topics)


def metadata(wire: Wire, *names: str, version: int = 12, create: bool = False) -> Any:
    topics = [MetadataRequest.MetadataRequestTopic(name=name) for name in names]
    return wire.ask(MetadataRequest(topics=topics, allow_auto_topic_creation=create), version)


# --- ApiVersions ------------------------------------------------------------------------------------------


@versions(18)
def test_api_versions_lists_what_is_served(wire: Wire, version: int) -> None:
    answer = wire.ask(ApiVersionsRequest(client_software_name="t", client_software_version="1"), version)
    assert answer.error_code == 0
    assert [(api.api_key, api.min_version, api.max_version) for api in answer.api_keys] == list(served())


@pytest.mark.parametrize("version", [5, 99, 32767])
def test_an_unknown_version_of_api_versions_is_answered_in_the_oldest_form(wire: Wire, version: int) -> None:
    header = struct.pack(">hhih", 18, version, 77, -1)
    body = b"\0\x02\x01\x02\x03whatever is in it"
    wire.socket.sendall(struct.pack(">i", len(header + body)) + header + body)
    frame = wire.receive()
    assert struct.unpack_from(">ihi", frame) == (77, ErrorCode.UNSUPPORTED_VERSION, len(served()))
    ranges = [struct.unpack_from(">hhh", frame, 10 + 6 * i) for i in range(len(served()))]
    assert ranges == list(served())
    assert len(frame) == 10 + 6 * len(served())
    assert wire.ask(ApiVersionsRequest(), 0).error_code == 0  # the client goes on with a version it knows from there


def test_what_is_not_served_is_not_advertised_and_closes_the_connection(address: str) -> None:
    advertised = {api.key for api in served()}
    assert not advertised & {17, 36, 75, 80, 81}  # SASL, DescribeTopicPartitions, Raft voters
    for key, version in ((17, 0), (75, 0), (3, 13), (3, -1)):
        wire = Wire(address)
        header = struct.pack(">hhih", key, version, 1, -1)
        wire.socket.sendall(struct.pack(">i", len(header)) + header)
        assert wire.receive() == b""
        wire.close()


# --- Metadata ---------------------------------------------------------------------------------------------


@versions(3)
def test_metadata_shows_nodes_and_leaders(wire: Wire, node: Node, name: str, version: int) -> None:
    create(wire, name)
    answer = metadata(wire, name, version=version)
    host, port = node.config.kafka.listen.split(":")
    assert [(one.node_id, one.host, one.port) for one in answer.brokers] == [(1, host, int(port))]
    (topic,) = answer.topics
    assert (topic.error_code, topic.name) == (0, name)
    assert [one.partition_index for one in topic.partitions] == [0, 1, 2]
    for partition in topic.partitions:
        assert (partition.error_code, partition.leader_id) == (0, 1)
        assert (partition.replica_nodes, partition.isr_nodes) == ([1], [1])
        assert version < 5 or partition.offline_replicas == []
        assert version < 7 or partition.leader_epoch >= 1
    if version >= 1:
        assert answer.controller_id == 1
    if version >= 2:
        assert node.core is not None
        assert answer.cluster_id == node.core.broker.cluster_id
    if version >= 10:
        assert topic.topic_id is not None


@versions(3)
def test_metadata_of_all_topics_and_of_none(wire: Wire, name: str, version: int) -> None:
    create(wire, name)
    everything = wire.ask(MetadataRequest(topics=[] if version == 0 else None), version)
    assert name in [topic.name for topic in everything.topics]
    if version >= 1:
        assert wire.ask(MetadataRequest(topics=[]), version).topics == []


def test_metadata_by_id(wire: Wire, name: str) -> None:
    (made,) = create(wire, name)
    unknown = uuid.UUID(int=7)
    ids = [MetadataRequest.MetadataRequestTopic(topic_id=one, name=None) for one in (made.topic_id, unknown)]
    for version in (10, 11, 12):
        found, missing = wire.ask(MetadataRequest(topics=ids), version).topics
        assert (found.error_code, found.name, found.topic_id) == (0, name, made.topic_id)
        assert (missing.error_code, missing.topic_id) == (ErrorCode.UNKNOWN_TOPIC_ID, unknown)
        assert missing.name == (None if version == 12 else "")


def test_metadata_makes_topics_where_it_may(wire: Wire, name: str) -> None:
    (topic,) = metadata(wire, name, create=False).topics
    assert topic.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    (topic,) = metadata(wire, name, create=True).topics
    assert (topic.error_code, len(topic.partitions)) == (0, 1)
    assert topic.partitions[0].leader_id == 1
    (topic,) = metadata(wire, f"{name}-old", version=0).topics  # before version 4 it is always allowed
    assert topic.error_code == 0


@pytest.mark.parametrize("bad", ["", "..", "a b", "ä", "x" * 250])
def test_metadata_of_a_name_that_cannot_be(wire: Wire, bad: str) -> None:
    for allowed in (False, True):
        (topic,) = metadata(wire, bad, create=allowed).topics
        assert (topic.error_code, topic.name) == (ErrorCode.INVALID_TOPIC_EXCEPTION, bad)


def test_metadata_answers_that_are_kept_are_not_stale(wire: Wire, name: str) -> None:
    create(wire, name)
    before = [metadata(wire, name).topics[0] for _ in range(3)][-1]
    wire.ask(DeleteTopicsRequest(topics=[DeleteTopicsRequest.DeleteTopicState(name=name)], timeout_ms=10_000), 6)
    assert metadata(wire, name).topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    create(wire, name, num_partitions=5)
    after = metadata(wire, name).topics[0]
    assert (len(before.partitions), len(after.partitions)) == (3, 5)
    assert before.topic_id != after.topic_id


def test_metadata_says_what_a_client_may_do(wire: Wire, name: str) -> None:
    create(wire, name)
    topics = [MetadataRequest.MetadataRequestTopic(name=name)]
    request = MetadataRequest(
        topics=topics, include_cluster_authorized_operations=True, include_topic_authorized_operations=True
    )
    answer = wire.ask(request, 8)
    assert {3, 4, 6} <= answer.topics[0].authorized_operations
    assert {5, 7, 8} <= answer.authorized_operations
    answer = wire.ask(MetadataRequest(topics=topics), 8)
    assert answer.topics[0].authorized_operations is None
    assert answer.authorized_operations is None


# --- topics -----------------------------------------------------------------------------------------------


@versions(19)
def test_topics_are_created(wire: Wire, name: str, version: int) -> None:
    configs = [CreateTopicsRequest.CreatableTopic.CreatableTopicConfig(name="retention.ms", value="60000")]
    (made,) = create(wire, name, version=version, configs=configs)
    assert (made.name, made.error_code) == (name, 0)
    assert made.error_message is None
    if version >= 5:
        assert (made.num_partitions, made.replication_factor) == (3, 1)
        shown = {config.name: (config.value, config.config_source) for config in made.configs}
        assert shown["retention.ms"] == ("60000", 1)
        assert shown["max.message.bytes"] == ("1048588", 5)
    if version >= 7:
        assert made.topic_id == metadata(wire, name).topics[0].topic_id
    (again,) = create(wire, name, version=version)
    assert again.error_code == ErrorCode.TOPIC_ALREADY_EXISTS
    assert name in again.error_message


@pytest.mark.parametrize(
    ("topic", "changes", "code"),
    [
        ("bad name", {}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("t", {"num_partitions": 0}, ErrorCode.INVALID_PARTITIONS),
        ("t", {"num_partitions": 1_000_000}, ErrorCode.INVALID_PARTITIONS),
        ("t", {"replication_factor": 0}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ("t", {"replication_factor": 3}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ("t", {"configs": [("retention.ms", "soon")]}, ErrorCode.INVALID_CONFIG),
        ("t", {"configs": [("no.such.config", "1")]}, ErrorCode.INVALID_CONFIG),
        ("t", {"configs": [("retention.ms", None)]}, ErrorCode.INVALID_CONFIG),
        ("t", {"configs": [("min.insync.replicas", "2")]}, ErrorCode.INVALID_CONFIG),
        ("t", {"assignments": [(0, [1])]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ],
)
def test_topics_that_cannot_be_created(wire: Wire, topic: str, changes: dict[str, Any], code: ErrorCode) -> None:
    kind = CreateTopicsRequest.CreatableTopic
    if "configs" in changes:
        changes = {"configs": [kind.CreatableTopicConfig(name=n, value=v) for n, v in changes["configs"]]}
    if "assignments" in changes:
        changes = {
            "assignments": [
                kind.CreatableReplicaAssignment(partition_index=n, broker_ids=v) for n, v in changes["assignments"]
            ]
        }
    (result,) = create(wire, topic, **changes)
    assert result.error_code == code
    assert result.error_message
    assert metadata(wire, topic).topics[0].error_code != 0


def test_several_topics_are_created_each_for_itself(wire: Wire, name: str) -> None:
    names = [f"{name}-{i}" for i in range(5)]
    results = create(wire, *names, "bad name", f"{name}-twice", f"{name}-twice")
    codes = [result.error_code for result in results]
    assert codes == [0] * 5 + [ErrorCode.INVALID_TOPIC_EXCEPTION] + [ErrorCode.INVALID_REQUEST] * 2
    assert [topic.error_code for topic in metadata(wire, *names).topics] == [0] * 5
    assert metadata(wire, f"{name}-twice").topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_validating_alone_makes_nothing(wire: Wire, name: str) -> None:
    (result,) = create(wire, name, validate_only=True)
    assert (result.error_code, result.num_partitions) == (0, 3)
    assert metadata(wire, name).topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_the_cluster_chooses_where_the_client_does_not(wire: Wire, name: str) -> None:
    (result,) = create(wire, name, num_partitions=-1, replication_factor=-1)
    assert (result.error_code, result.num_partitions) == (0, 1)


@versions(20)
def test_topics_are_deleted_by_name(wire: Wire, name: str, version: int) -> None:
    create(wire, name)

    def delete() -> Any:
        if version >= 6:
            request = DeleteTopicsRequest(topics=[DeleteTopicsRequest.DeleteTopicState(name=name)], timeout_ms=10_000)
        else:
            request = DeleteTopicsRequest(topic_names=[name], timeout_ms=10_000)
        (result,) = wire.ask(request, version).responses
        assert result.name == name
        return result

    assert delete().error_code == 0
    assert metadata(wire, name).topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    again = delete()
    assert again.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert version < 5 or name in again.error_message


def test_topics_are_deleted_by_id_and_never_another_of_the_same_name(wire: Wire, name: str) -> None:
    def delete(topic_id: uuid.UUID | None) -> Any:
        state = DeleteTopicsRequest.DeleteTopicState(name=None, topic_id=topic_id)
        (result,) = wire.ask(DeleteTopicsRequest(topics=[state], timeout_ms=10_000), 6).responses
        return result

    (first,) = create(wire, name)
    deleted = delete(first.topic_id)
    assert (deleted.error_code, deleted.name, deleted.topic_id) == (0, name, first.topic_id)
    (second,) = create(wire, name)
    assert delete(first.topic_id).error_code == ErrorCode.UNKNOWN_TOPIC_ID
    assert delete(None).error_code == ErrorCode.UNKNOWN_TOPIC_ID
    assert metadata(wire, name).topics[0].topic_id == second.topic_id


@versions(37)
def test_topics_grow(wire: Wire, name: str, version: int) -> None:
    create(wire, name)

    def grow(count: int, topic: str = name, *, validate_only: bool = False) -> int:
        asked = CreatePartitionsRequest.CreatePartitionsTopic(name=topic, count=count, assignments=None)
        request = CreatePartitionsRequest(topics=[asked], timeout_ms=10_000, validate_only=validate_only)
        (result,) = wire.ask(request, version).results
        assert result.name == topic
        assert bool(result.error_message) == bool(result.error_code)
        return int(result.error_code)

    assert grow(5, validate_only=True) == 0
    assert len(metadata(wire, name).topics[0].partitions) == 3
    assert grow(5) == 0
    assert len(metadata(wire, name).topics[0].partitions) == 5
    assert grow(5) == grow(4) == ErrorCode.INVALID_PARTITIONS
    assert grow(5, "not-there") == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@versions(21)
def test_records_are_deleted_as_far_as_there_are_any(wire: Wire, name: str, version: int) -> None:
    create(wire, name)
    topic = DeleteRecordsRequest.DeleteRecordsTopic
    asked = [(0, 0), (1, -1), (2, 5), (9, 0), (0, -2)]
    partitions = [topic.DeleteRecordsPartition(partition_index=index, offset=offset) for index, offset in asked]
    request = DeleteRecordsRequest(topics=[topic(name=name, partitions=partitions)], timeout_ms=10_000)
    (result,) = wire.ask(request, version).topics
    assert [(one.partition_index, one.error_code, one.low_watermark) for one in result.partitions] == [
        (0, 0, 0),
        (1, 0, 0),
        (2, ErrorCode.OFFSET_OUT_OF_RANGE, -1),
        (9, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1),
        (0, ErrorCode.INVALID_REQUEST, -1),
    ]


# --- configs ----------------------------------------------------------------------------------------------


def describe(wire: Wire, kind: int, name: str, version: int = 4, **options: Any) -> Any:
    keys = options.pop("keys", None)
    resource = DescribeConfigsRequest.DescribeConfigsResource(
        resource_type=kind, resource_name=name, configuration_keys=keys
    )
    (result,) = wire.ask(DescribeConfigsRequest(resources=[resource], **options), version).results
    assert (result.resource_type, result.resource_name) == (kind, name)
    return result


def values(wire: Wire, name: str) -> dict[str, str]:
    """What is set for the topic."""
    configs = describe(wire, TOPIC, name).configs
    return {config.name: config.value for config in configs if config.config_source == 1}


@versions(32)
def test_configs_are_shown_with_where_they_come_from(wire: Wire, name: str, version: int) -> None:
    config = CreateTopicsRequest.CreatableTopic.CreatableTopicConfig(name="max.message.bytes", value="2000000")
    create(wire, name, configs=[config])
    result = describe(wire, TOPIC, name, version, include_synonyms=True, include_documentation=True)
    assert result.error_code == 0
    shown = {config.name: config for config in result.configs}
    assert len(shown) > 20
    own, node_wide, default = shown["max.message.bytes"], shown["retention.ms"], shown["segment.ms"]
    assert (own.value, own.config_source) == ("2000000", 1)
    assert (node_wide.value, node_wide.config_source) == ("86400000", 4)  # the node's configuration says so
    assert (default.value, default.config_source) == ("604800000", 5)
    assert [(one.value, one.source) for one in own.synonyms] == [("2000000", 1), ("1048588", 5)]
    assert [(one.value, one.source) for one in node_wide.synonyms] == [("86400000", 4), ("604800000", 5)]
    if version >= 3:
        assert (own.config_type, shown["cleanup.policy"].config_type) == (3, 7)
        assert "batch" in own.documentation
    bare = describe(wire, TOPIC, name, version, keys=["retention.ms", "no.such"])
    assert [(config.name, config.synonyms) for config in bare.configs] == [("retention.ms", [])]
    assert version < 3 or bare.configs[0].documentation is None


def test_configs_of_what_is_not_there(wire: Wire) -> None:
    assert describe(wire, TOPIC, "not-there").error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert describe(wire, BROKER, "2").error_code == ErrorCode.INVALID_REQUEST
    assert describe(wire, 32, "a-group").error_code == ErrorCode.INVALID_REQUEST
    assert describe(wire, BROKER, "").configs == []


def test_a_nodes_configuration_is_shown_without_its_secrets(wire: Wire, node: Node) -> None:
    shown = {config.name: config for config in describe(wire, BROKER, "1", include_synonyms=True).configs}
    retention, secret = shown["log.retention.ms"], shown["peers.secret"]
    assert (retention.value, retention.config_source, retention.read_only) == ("86400000", 4, True)
    assert [(one.value, one.source) for one in retention.synonyms] == [("86400000", 4), ("604800000", 5)]
    assert (secret.value, secret.is_sensitive, secret.synonyms) == (None, True, [])
    assert shown["auto.create.topics.enable"].value == "true"
    assert shown["listeners"].value == node.config.kafka.listen


@versions(33)
def test_alter_configs_puts_back_what_it_does_not_name(wire: Wire, name: str, version: int) -> None:
    create(wire, name)

    def alter(configs: dict[str, str | None], **options: Any) -> int:
        kind = AlterConfigsRequest.AlterConfigsResource
        resource = kind(
            resource_type=TOPIC,
            resource_name=name,
            configs=[kind.AlterableConfig(name=one, value=value) for one, value in configs.items()],
        )
        (result,) = wire.ask(AlterConfigsRequest(resources=[resource], **options), version).responses
        return int(result.error_code)

    assert alter({"retention.ms": "1000", "segment.ms": "5"}) == 0
    assert values(wire, name) == {"retention.ms": "1000", "segment.ms": "5"}
    assert alter({"retention.bytes": "7"}, validate_only=True) == 0
    assert alter({"retention.bytes": "many"}) == ErrorCode.INVALID_CONFIG
    assert alter({"retention.bytes": None}) == ErrorCode.INVALID_CONFIG
    assert values(wire, name) == {"retention.ms": "1000", "segment.ms": "5"}
    assert alter({"segment.ms": "6"}) == 0
    assert values(wire, name) == {"segment.ms": "6"}


@versions(44)
def test_configs_are_altered_one_by_one(wire: Wire, name: str, version: int) -> None:
    create(wire, name)
    kind = IncrementalAlterConfigsRequest.AlterConfigsResource
    put, put_back, append, subtract = range(4)

    def alter(*changes: tuple[str, int, str | None], resource: int = TOPIC, **options: Any) -> int:
        configs = [kind.AlterableConfig(name=one, config_operation=how, value=value) for one, how, value in changes]
        asked = kind(resource_type=resource, resource_name=name, configs=configs)
        (result,) = wire.ask(IncrementalAlterConfigsRequest(resources=[asked], **options), version).responses
        assert bool(result.error_message) == bool(result.error_code)
        return int(result.error_code)

    assert alter(("retention.ms", put, "1000"), ("segment.ms", put, "5")) == 0
    assert alter(("retention.ms", put, "2000")) == 0
    assert values(wire, name) == {"retention.ms": "2000", "segment.ms": "5"}
    assert alter(("segment.ms", put_back, None)) == 0
    assert alter(("cleanup.policy", append, "delete")) == 0
    assert values(wire, name) == {"retention.ms": "2000", "cleanup.policy": "delete"}
    assert alter(("retention.ms", put, "3000"), validate_only=True) == 0
    assert alter(("retention.ms", put, "3000"), ("retention.ms", put_back, None)) == ErrorCode.INVALID_REQUEST
    assert alter(("retention.ms", append, "3000")) == ErrorCode.INVALID_CONFIG
    assert alter(("cleanup.policy", subtract, "delete")) == ErrorCode.INVALID_CONFIG  # nothing would be left
    assert alter(("retention.ms", put, None)) == ErrorCode.INVALID_CONFIG
    assert alter(("retention.ms", 9, "1")) == ErrorCode.INVALID_REQUEST
    assert alter(("no.such", put, "1")) == alter(("no.such", put_back, None)) == ErrorCode.INVALID_CONFIG
    assert alter(("log.retention.ms", put, "1"), resource=BROKER) == ErrorCode.INVALID_REQUEST
    assert values(wire, name) == {"retention.ms": "2000", "cleanup.policy": "delete"}


# --- the cluster ------------------------------------------------------------------------------------------


@versions(60)
def test_the_cluster_is_described(wire: Wire, node: Node, version: int) -> None:
    answer = wire.ask(DescribeClusterRequest(include_cluster_authorized_operations=True), version)
    assert node.core is not None
    assert (answer.error_code, answer.cluster_id, answer.controller_id) == (0, node.core.broker.cluster_id, 1)
    host, port = node.config.kafka.listen.split(":")
    assert [(one.broker_id, one.host, one.port) for one in answer.brokers] == [(1, host, int(port))]
    assert {5, 8} <= answer.authorized_operations
    if version >= 1:
        refused = wire.ask(DescribeClusterRequest(endpoint_type=2), version)
        assert refused.error_code == ErrorCode.UNSUPPORTED_ENDPOINT_TYPE


@versions(35)
def test_what_is_on_a_nodes_disk_is_described(wire: Wire, node: Node, name: str, version: int) -> None:
    create(wire, name)
    (everything,) = wire.ask(DescribeLogDirsRequest(topics=None), version).results
    assert everything.log_dir == str(node.config.node.data_dir)
    assert name in [topic.name for topic in everything.topics]
    asked = DescribeLogDirsRequest.DescribableLogDirTopic(topic=name, partitions=[1, 2, 9])
    (some,) = wire.ask(DescribeLogDirsRequest(topics=[asked]), version).results
    (topic,) = some.topics
    assert [(one.partition_index, one.partition_size) for one in topic.partitions] == [(1, 0), (2, 0)]
    if version >= 4:
        assert some.total_bytes > some.usable_bytes > 0


@versions(43)
def test_the_preferred_leader_is_elected(wire: Wire, name: str, version: int) -> None:
    create(wire, name)
    asked = ElectLeadersRequest.TopicPartitions(topic=name, partitions=[0, 9])
    answer = wire.ask(ElectLeadersRequest(election_type=0, topic_partitions=[asked], timeout_ms=5000), version)
    assert version < 1 or answer.error_code == 0
    (result,) = answer.replica_election_results
    assert [(one.partition_id, one.error_code) for one in result.partition_result] == [
        (0, ErrorCode.ELECTION_NOT_NEEDED),
        (9, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    everything = wire.ask(ElectLeadersRequest(election_type=0, topic_partitions=None, timeout_ms=5000), version)
    assert everything.replica_election_results == []
    if version >= 1:
        unclean = wire.ask(ElectLeadersRequest(election_type=1, topic_partitions=[asked], timeout_ms=5000), version)
        assert unclean.replica_election_results[0].partition_result[0].error_code == ErrorCode.ELECTION_NOT_NEEDED


@pytest.mark.parametrize("key", sorted(set(APIS) - {PRODUCE}))
def test_any_sound_request_is_answered(wire: Wire, key: int) -> None:
    """Whatever stands in it: nothing that a client can say is a fault of ours. (Produce without acks has no answer.)"""
    api = APIS[key]
    for version in range(api.min_version, api.max_version + 1):
        for seed in range(4):
            request = sample(random.Random(seed), MESSAGES[key, True], version)
            assert wire.ask(request, version) is not None


def test_what_was_served_is_counted(wire: Wire, node: Node, name: str) -> None:
    def counted() -> dict[str, float]:
        with urllib.request.urlopen(f"http://{node.config.http.listen}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}

    before = counted()
    for _ in range(3):
        metadata(wire, name)
    after = counted()
    requests = 'raftbroker_kafka_requests_total{api="Metadata"}'
    assert after[requests] - before.get(requests, 0) == 3
    assert after["raftbroker_kafka_answer_bytes_total"] > before["raftbroker_kafka_answer_bytes_total"]
    assert after["raftbroker_kafka_connections"] >= 1
    assert after['raftbroker_kafka_held_bytes{what="requests"}'] == 0


def test_an_administrative_request_lists_only_so_many_things(address: str, caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(address)
    assert len(metadata(wire, *("x",) * 10_000).topics) == 1  # each once
    topics = [MetadataRequest.MetadataRequestTopic(name="x")] * 10_001
    with pytest.raises(struct.error):  # no answer: the connection is closed
        wire.ask(MetadataRequest(topics=topics), 12)
    wire.close()
    assert "its Metadata request (version 12) is not sound: the request lists more than 10000 things" in caplog.text
