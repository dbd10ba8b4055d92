"""`/v3/clusters/{id}/topics`: topics made, listed, described, grown and deleted; their partitions and replicas."""

import msgspec
from aiohttp import web

from raftbroker.broker.errors import UnknownPartition
from raftbroker.broker.views import PartitionView, TopicView
from raftbroker.http.call import Call
from raftbroker.http.problems import BAD_CONFIG, BAD_REQUEST, NO_PARTITION, NO_TOPIC, TOPIC_EXISTS, Problem
from raftbroker.http.route import Answer, Route, json_body
from raftbroker.http.v3_clusters import BASE, CLUSTER, check_cluster
from raftbroker.http.v3_forms import (
    ConfigEntry,
    CreateTopic,
    GrowTopic,
    Link,
    ListMetadata,
    Metadata,
    Partition,
    Replica,
    ResourceList,
    Topic,
)

_create_topic = msgspec.json.Decoder(CreateTopic)
_grow_topic = msgspec.json.Decoder(GrowTopic)


def _topic(call: Call, cluster: str, view: TopicView) -> Topic:
    here = call.link("v3/clusters", cluster, "topics", view.name)
    return Topic(
        kind="KafkaTopic",
        metadata=Metadata(here, f"crn:///kafka={cluster}/topic={view.name}"),
        cluster_id=cluster,
        topic_name=view.name,
        topic_id=view.topic_id,
        is_internal=False,
        replication_factor=view.replication_factor,
        partitions_count=len(view.partitions),
        partitions=Link(f"{here}/partitions"),
        configs=Link(f"{here}/configs"),
    )


def config_map(entries: list[ConfigEntry]) -> dict[str, str]:
    configs = {entry.name: entry.value for entry in entries}
    if len(configs) != len(entries):
        raise Problem(BAD_CONFIG, "configs names one config twice; give each once.")
    return configs


async def list_topics(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    data = [_topic(call, cluster, view) for view in await call.broker.list_topics()]
    return call.reply(ResourceList("KafkaTopicList", ListMetadata(call.link("v3/clusters", cluster, "topics")), data))


async def create_topic(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    asked = await call.json(_create_topic)
    view = await call.broker.create_topic(
        asked.topic_name,
        asked.partitions_count,
        asked.replication_factor,
        config_map(asked.configs),
        validate_only=asked.validate_only,
        timeout=call.options.request_timeout,
    )
    return call.reply(_topic(call, cluster, view), status=200 if asked.validate_only else 201)


async def get_topic(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    return call.reply(_topic(call, cluster, await call.broker.describe_topic(call.path("topic_name"))))


async def grow_topic(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    asked = await call.json(_grow_topic)
    view = await call.broker.create_partitions(
        call.path("topic_name"), asked.partitions_count, timeout=call.options.request_timeout
    )
    return call.reply(_topic(call, cluster, view))


async def delete_topic(call: Call) -> web.StreamResponse:
    check_cluster(call)
    await call.broker.delete_topic(call.path("topic_name"), timeout=call.options.request_timeout)
    return call.nothing()


# --- partitions and replicas ------------------------------------------------------------------------------


def find_partition(topic: TopicView, number: int) -> PartitionView:
    """Raises UnknownPartition."""
    for partition in topic.partitions:
        if partition.number == number:
            return partition
    raise UnknownPartition(
        f"Topic {topic.name!r} has no partition {number}; it has {len(topic.partitions)}, numbered from 0."
    )


def _partition(call: Call, cluster: str, topic: str, view: PartitionView) -> Partition:
    here = call.link("v3/clusters", cluster, "topics", topic, "partitions", view.number)
    return Partition(
        kind="KafkaPartition",
        metadata=Metadata(here, f"crn:///kafka={cluster}/topic={topic}/partition={view.number}"),
        cluster_id=cluster,
        topic_name=topic,
        partition_id=view.number,
        leader=Link(f"{here}/replicas/{view.leader}") if view.leader is not None else None,
        replicas=Link(f"{here}/replicas"),
    )


def _replica(call: Call, cluster: str, topic: str, view: PartitionView, node: int) -> Replica:
    here = call.link("v3/clusters", cluster, "topics", topic, "partitions", view.number, "replicas", node)
    name = f"crn:///kafka={cluster}/topic={topic}/partition={view.number}/replica={node}"
    return Replica(
        kind="KafkaReplica",
        metadata=Metadata(here, name),
        cluster_id=cluster,
        topic_name=topic,
        partition_id=view.number,
        broker_id=node,
        is_leader=node == view.leader,
        is_in_sync=node in view.in_sync,
        broker=Link(call.link("v3/clusters", cluster, "brokers", node)),
    )


async def list_partitions(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    topic = await call.broker.describe_topic(call.path("topic_name"))
    data = [_partition(call, cluster, topic.name, view) for view in topic.partitions]
    here = call.link("v3/clusters", cluster, "topics", topic.name, "partitions")
    return call.reply(ResourceList("KafkaPartitionList", ListMetadata(here), data))


async def _find_partition(call: Call) -> tuple[str, PartitionView]:
    number = call.path_partition()
    topic = await call.broker.describe_topic(call.path("topic_name"))
    return topic.name, find_partition(topic, number)


async def get_partition(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    topic, view = await _find_partition(call)
    return call.reply(_partition(call, cluster, topic, view))


async def list_replicas(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    topic, view = await _find_partition(call)
    data = [_replica(call, cluster, topic, view, node) for node in view.replicas]
    here = call.link("v3/clusters", cluster, "topics", topic, "partitions", view.number, "replicas")
    return call.reply(ResourceList("KafkaReplicaList", ListMetadata(here), data))


async def get_replica(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    node = call.path_number("broker_id")
    topic, view = await _find_partition(call)
    if node not in view.replicas:
        raise Problem(404, f"Partition {view.number} of {topic!r} has no replica on broker {node}; see .../replicas.")
    return call.reply(_replica(call, cluster, topic, view, node))


# --- examples and routes ----------------------------------------------------------------------------------

_TOPICS = f"{BASE}/topics"
_PARTITION = f"{_TOPICS}/{{topic_name}}/partitions/{{partition_id}}"
_HERE = f"http://127.0.0.1:8082/v3/clusters/{CLUSTER}"
_NAME = f"crn:///kafka={CLUSTER}/topic=orders"
_TOPIC = Topic(
    kind="KafkaTopic",
    metadata=Metadata(f"{_HERE}/topics/orders", _NAME),
    cluster_id=CLUSTER,
    topic_name="orders",
    topic_id="0" * 31 + "1",
    is_internal=False,
    replication_factor=3,
    partitions_count=6,
    partitions=Link(f"{_HERE}/topics/orders/partitions"),
    configs=Link(f"{_HERE}/topics/orders/configs"),
)
_PARTITION_EXAMPLE = Partition(
    kind="KafkaPartition",
    metadata=Metadata(f"{_HERE}/topics/orders/partitions/0", f"{_NAME}/partition=0"),
    cluster_id=CLUSTER,
    topic_name="orders",
    partition_id=0,
    leader=Link(f"{_HERE}/topics/orders/partitions/0/replicas/1"),
    replicas=Link(f"{_HERE}/topics/orders/partitions/0/replicas"),
)
_REPLICA = Replica(
    kind="KafkaReplica",
    metadata=Metadata(f"{_HERE}/topics/orders/partitions/0/replicas/1", f"{_NAME}/partition=0/replica=1"),
    cluster_id=CLUSTER,
    topic_name="orders",
    partition_id=0,
    broker_id=1,
    is_leader=True,
    is_in_sync=True,
    broker=Link(f"{_HERE}/brokers/1"),
)

ROUTES = (
    Route(
        "GET",
        _TOPICS,
        list_topics,
        "listTopics",
        "All topics.",
        "v3 topics",
        Answer(ResourceList[Topic], ResourceList("KafkaTopicList", ListMetadata(f"{_HERE}/topics"), [_TOPIC])),
    ),
    Route(
        "POST",
        _TOPICS,
        create_topic,
        "createTopic",
        "Makes a topic; answers once each of its partitions has a leader.",
        "v3 topics",
        Answer(Topic, _TOPIC, 201),
        json_body(CreateTopic("orders", 6, 3, [ConfigEntry("retention.ms", "86400000")])),
        problems=(BAD_CONFIG, BAD_REQUEST, TOPIC_EXISTS),
    ),
    Route(
        "GET",
        f"{_TOPICS}/{{topic_name}}",
        get_topic,
        "getTopic",
        "One topic.",
        "v3 topics",
        Answer(Topic, _TOPIC),
        problems=(NO_TOPIC,),
    ),
    Route(
        "PATCH",
        f"{_TOPICS}/{{topic_name}}",
        grow_topic,
        "growTopic",
        "Raises the number of partitions; keys then go to other partitions than before.",
        "v3 topics",
        Answer(Topic, _TOPIC),
        json_body(GrowTopic(12)),
        problems=(NO_TOPIC, BAD_REQUEST),
    ),
    Route(
        "DELETE",
        f"{_TOPICS}/{{topic_name}}",
        delete_topic,
        "deleteTopic",
        "Deletes a topic and its records.",
        "v3 topics",
        Answer(status=204),
        problems=(NO_TOPIC,),
    ),
    Route(
        "GET",
        f"{_TOPICS}/{{topic_name}}/partitions",
        list_partitions,
        "listPartitions",
        "The partitions of a topic.",
        "v3 partitions",
        Answer(
            ResourceList[Partition],
            ResourceList("KafkaPartitionList", ListMetadata(f"{_HERE}/topics/orders/partitions"), [_PARTITION_EXAMPLE]),
        ),
        problems=(NO_TOPIC,),
    ),
    Route(
        "GET",
        _PARTITION,
        get_partition,
        "getPartition",
        "One partition.",
        "v3 partitions",
        Answer(Partition, _PARTITION_EXAMPLE),
        problems=(NO_TOPIC, NO_PARTITION),
    ),
    Route(
        "GET",
        f"{_PARTITION}/replicas",
        list_replicas,
        "listReplicas",
        "The replicas of a partition.",
        "v3 partitions",
        Answer(
            ResourceList[Replica],
            ResourceList("KafkaReplicaList", ListMetadata(f"{_HERE}/topics/orders/partitions/0/replicas"), [_REPLICA]),
        ),
        problems=(NO_TOPIC, NO_PARTITION),
    ),
    Route(
        "GET",
        f"{_PARTITION}/replicas/{{broker_id}}",
        get_replica,
        "getReplica",
        "One replica of a partition.",
        "v3 partitions",
        Answer(Replica, _REPLICA),
        problems=(NO_TOPIC, NO_PARTITION, 404),
    ),
)
