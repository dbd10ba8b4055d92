"""`/topics` and `/brokers` of v2: names, descriptions, partitions and their offsets."""

from aiohttp import web

from raftbroker.broker.views import PartitionView
from raftbroker.http.call import Call
from raftbroker.http.media import JSON, V2
from raftbroker.http.problems import NO_PARTITION, NO_TOPIC
from raftbroker.http.route import Answer, Route
from raftbroker.http.v2_forms import Brokers, Offsets, PartitionForm, ReplicaForm, TopicForm
from raftbroker.http.v3_topics import find_partition


def _partition(view: PartitionView) -> PartitionForm:
    replicas = [ReplicaForm(node, node == view.leader, node in view.in_sync) for node in view.replicas]
    return PartitionForm(view.number, view.leader, replicas)


async def list_topics(call: Call) -> web.StreamResponse:
    return call.reply_v2([view.name for view in await call.broker.list_topics()])


async def get_topic(call: Call) -> web.StreamResponse:
    name = call.path("topic_name")
    view = await call.broker.describe_topic(name)
    configs = {config.name: config.value for config in await call.broker.topic_configs(name) if not config.sensitive}
    return call.reply_v2(TopicForm(view.name, configs, [_partition(partition) for partition in view.partitions]))


async def list_partitions(call: Call) -> web.StreamResponse:
    view = await call.broker.describe_topic(call.path("topic_name"))
    return call.reply_v2([_partition(partition) for partition in view.partitions])


async def get_partition(call: Call) -> web.StreamResponse:
    number = call.path_partition()
    view = await call.broker.describe_topic(call.path("topic_name"))
    return call.reply_v2(_partition(find_partition(view, number)))


async def get_offsets(call: Call) -> web.StreamResponse:
    offsets = await call.broker.offsets(call.path("topic_name"), call.path_partition())
    return call.reply_v2(Offsets(offsets.start, offsets.end))


async def list_brokers(call: Call) -> web.StreamResponse:
    return call.reply_v2(Brokers([view.id for view in await call.broker.brokers()]))


_MEDIA = (V2, JSON)
_PARTITION = PartitionForm(0, 1, [ReplicaForm(1, True, True), ReplicaForm(2, False, True)])
_TOPIC = TopicForm("orders", {"retention.ms": "604800000"}, [_PARTITION])

ROUTES = (
    Route(
        "GET",
        "/topics",
        list_topics,
        "listTopicNames",
        "The names of all topics.",
        "v2 metadata",
        Answer(list[str], ["orders"], media=_MEDIA),
    ),
    Route(
        "GET",
        "/topics/{topic_name}",
        get_topic,
        "describeTopic",
        "One topic: configs, partitions, replicas.",
        "v2 metadata",
        Answer(TopicForm, _TOPIC, media=_MEDIA),
        problems=(NO_TOPIC,),
    ),
    Route(
        "GET",
        "/topics/{topic_name}/partitions",
        list_partitions,
        "describePartitions",
        "The partitions of a topic.",
        "v2 metadata",
        Answer(list[PartitionForm], [_PARTITION], media=_MEDIA),
        problems=(NO_TOPIC,),
    ),
    Route(
        "GET",
        "/topics/{topic_name}/partitions/{partition_id}",
        get_partition,
        "describePartition",
        "One partition.",
        "v2 metadata",
        Answer(PartitionForm, _PARTITION, media=_MEDIA),
        problems=(NO_TOPIC, NO_PARTITION),
    ),
    Route(
        "GET",
        "/topics/{topic_name}/partitions/{partition_id}/offsets",
        get_offsets,
        "getOffsets",
        "The first offset that can be read and the next one to be given; linearizable.",
        "v2 metadata",
        Answer(Offsets, Offsets(0, 42), media=_MEDIA),
        problems=(NO_TOPIC, NO_PARTITION),
    ),
    Route(
        "GET",
        "/brokers",
        list_brokers,
        "listBrokerIds",
        "The ids of the cluster's brokers.",
        "v2 metadata",
        Answer(Brokers, Brokers([1, 2, 3]), media=_MEDIA),
    ),
)
