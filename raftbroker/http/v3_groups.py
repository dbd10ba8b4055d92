"""`/v3/clusters/{id}/consumer-groups`: groups of Kafka clients and HTTP consumers alike, their members, their lag."""

from collections.abc import Sequence
from urllib.parse import quote

import msgspec
from aiohttp import web

from raftbroker.broker.group_access import refused
from raftbroker.broker.group_positions import PartitionLag
from raftbroker.http.call import Call
from raftbroker.http.problems import NO_GROUP, Problem
from raftbroker.http.route import Answer, Route
from raftbroker.http.v3_clusters import BASE, CLUSTER, check_cluster
from raftbroker.http.v3_forms import Link, ListMetadata, Metadata, Resource, ResourceList
from raftbroker.state.groups.terms import GroupError
from raftbroker.state.groups.views import GroupView, ListedGroup, MemberView


class ConsumerGroup(Resource, frozen=True, kw_only=True):
    cluster_id: str
    consumer_group_id: str
    is_simple: bool
    """It has offsets only: none of its consumers was ever a member."""
    partition_assignor: str
    state: str
    type: str
    """CLASSIC, or CONSUMER for the newer protocol (KIP-848)."""
    coordinator: Link | None
    consumers: Link
    lag_summary: Link


class Consumer(Resource, frozen=True, kw_only=True):
    cluster_id: str
    consumer_group_id: str
    consumer_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    assignments: list["Assigned"]


class Assigned(msgspec.Struct, frozen=True):
    topic_name: str
    partition_id: int


class ConsumerLag(Resource, frozen=True, kw_only=True):
    """`current_offset` and `lag` are null where nothing has been committed; the consumer, where nobody has the
    partition."""

    cluster_id: str
    consumer_group_id: str
    topic_name: str
    partition_id: int
    current_offset: int | None
    log_end_offset: int
    lag: int | None
    consumer_id: str | None
    instance_id: str | None
    client_id: str | None


class LagSummary(Resource, frozen=True, kw_only=True):
    """The partition that is furthest behind, if any is known to be behind or not, and the sum of all lags."""

    cluster_id: str
    consumer_group_id: str
    max_lag_consumer_id: str | None
    max_lag_instance_id: str | None
    max_lag_client_id: str | None
    max_lag_topic_name: str | None
    max_lag_partition_id: int | None
    max_lag: int
    total_lag: int


def _here(call: Call, cluster: str, group: str, *more: str) -> str:
    return call.link("v3/clusters", cluster, "consumer-groups", quote(group, safe=""), *more)


def _metadata(call: Call, cluster: str, group: str, path: Sequence[str] = (), name: str = "") -> Metadata:
    return Metadata(_here(call, cluster, group, *path), f"crn:///kafka={cluster}/consumer-group={group}{name}")


async def _group(call: Call, cluster: str, group: ListedGroup) -> ConsumerGroup:
    here = _here(call, cluster, group.name)
    node = await call.broker.consumer_groups.coordinator(group.name)
    return ConsumerGroup(
        kind="KafkaConsumerGroup",
        metadata=_metadata(call, cluster, group.name),
        cluster_id=cluster,
        consumer_group_id=group.name,
        is_simple=not group.protocol_type,
        partition_assignor=group.protocol,
        state=group.state.name,
        type=group.type.value.upper(),
        coordinator=None if node is None else Link(call.link("v3/clusters", cluster, "brokers", node)),
        consumers=Link(f"{here}/consumers"),
        lag_summary=Link(f"{here}/lag-summary"),
    )


async def list_groups(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    found = await call.broker.consumer_groups.list_all(timeout=call.options.request_timeout)
    data = [await _group(call, cluster, group) for group in found]
    here = call.link("v3/clusters", cluster, "consumer-groups")
    return call.reply(ResourceList("KafkaConsumerGroupList", ListMetadata(here), data))


async def _find(call: Call) -> GroupView:
    """The group of the path. Raises UnknownConsumerGroup."""
    name = call.path("consumer_group_id")
    view = await call.broker.consumer_groups.describe(name, timeout=call.options.request_timeout)
    if view is None:
        raise refused(GroupError.GROUP_ID_NOT_FOUND, name)
    return view


async def get_group(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    view = await _find(call)
    listed = ListedGroup(view.name, view.type, view.state, view.protocol_type, view.protocol, len(view.members))
    return call.reply(await _group(call, cluster, listed))


def _consumer(call: Call, cluster: str, view: GroupView, member: MemberView) -> Consumer:
    assigned = call.broker.group_positions.partitions_of(view, member)
    return Consumer(
        kind="KafkaConsumer",
        metadata=_metadata(call, cluster, view.name, ("consumers", member.member_id), f"/consumer={member.member_id}"),
        cluster_id=cluster,
        consumer_group_id=view.name,
        consumer_id=member.member_id,
        instance_id=member.instance_id,
        client_id=member.client_id,
        client_host=member.client_host,
        assignments=[Assigned(topic, number) for topic, numbers in sorted(assigned.items()) for number in numbers],
    )


async def list_consumers(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    view = await _find(call)
    data = [_consumer(call, cluster, view, member) for member in view.members]
    here = _here(call, cluster, view.name, "consumers")
    return call.reply(ResourceList("KafkaConsumerList", ListMetadata(here), data))


async def get_consumer(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    view = await _find(call)
    wanted = call.path("consumer_id")
    for member in view.members:
        if member.member_id == wanted:
            return call.reply(_consumer(call, cluster, view, member))
    raise Problem(404, f"Consumer group {view.name!r} has no consumer {wanted[:100]!r}; see .../consumers.")


# --- lag --------------------------------------------------------------------------------------------------


async def _lags(call: Call) -> tuple[str, list[PartitionLag]]:
    """The group of the path, and its partitions. Raises UnknownConsumerGroup."""
    name = call.path("consumer_group_id")
    return name, await call.broker.group_positions.lag(name, timeout=call.options.request_timeout)


def _lag(call: Call, cluster: str, group: str, item: PartitionLag) -> ConsumerLag:
    member = item.member
    path = ("lags", item.topic, "partitions", str(item.partition))
    return ConsumerLag(
        kind="KafkaConsumerLag",
        metadata=_metadata(call, cluster, group, path, f"/lag={item.topic}/partition={item.partition}"),
        cluster_id=cluster,
        consumer_group_id=group,
        topic_name=item.topic,
        partition_id=item.partition,
        current_offset=item.committed,
        log_end_offset=item.end,
        lag=item.lag,
        consumer_id=member.member_id if member is not None else None,
        instance_id=member.instance_id if member is not None else None,
        client_id=member.client_id if member is not None else None,
    )


async def list_lags(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    name, lags = await _lags(call)
    data = [_lag(call, cluster, name, item) for item in lags]
    return call.reply(ResourceList("KafkaConsumerLagList", ListMetadata(_here(call, cluster, name, "lags")), data))


async def get_lag(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    number = call.path_partition()
    name, lags = await _lags(call)
    topic = call.path("topic_name")
    for item in lags:
        if (item.topic, item.partition) == (topic, number):
            return call.reply(_lag(call, cluster, name, item))
    raise Problem(
        404,
        f"Consumer group {name!r} has nothing to do with partition {number} of topic {topic[:100]!r}; see .../lags.",
    )


async def get_lag_summary(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    name, lags = await _lags(call)
    known = [(item.lag, item) for item in lags if item.lag is not None]
    most = max(known, key=lambda pair: pair[0], default=None)
    worst = most[1] if most is not None else None
    member = worst.member if worst is not None else None
    return call.reply(
        LagSummary(
            kind="KafkaConsumerGroupLagSummary",
            metadata=_metadata(call, cluster, name, ("lag-summary",), "/lag-summary"),
            cluster_id=cluster,
            consumer_group_id=name,
            max_lag_consumer_id=member.member_id if member is not None else None,
            max_lag_instance_id=member.instance_id if member is not None else None,
            max_lag_client_id=member.client_id if member is not None else None,
            max_lag_topic_name=worst.topic if worst is not None else None,
            max_lag_partition_id=worst.partition if worst is not None else None,
            max_lag=most[0] if most is not None else 0,
            total_lag=sum(lag for lag, _ in known),
        )
    )


# --- examples and routes ----------------------------------------------------------------------------------

_GROUPS = f"{BASE}/consumer-groups"
_ONE = f"{_GROUPS}/{{consumer_group_id}}"
_HERE = f"http://127.0.0.1:8082/v3/clusters/{CLUSTER}/consumer-groups"
_NAME = f"crn:///kafka={CLUSTER}/consumer-group=billing"
_GROUP = ConsumerGroup(
    kind="KafkaConsumerGroup",
    metadata=Metadata(f"{_HERE}/billing", _NAME),
    cluster_id=CLUSTER,
    consumer_group_id="billing",
    is_simple=False,
    partition_assignor="cooperative-sticky",
    state="STABLE",
    type="CLASSIC",
    coordinator=Link(f"http://127.0.0.1:8082/v3/clusters/{CLUSTER}/brokers/1"),
    consumers=Link(f"{_HERE}/billing/consumers"),
    lag_summary=Link(f"{_HERE}/billing/lag-summary"),
)
_CONSUMER = Consumer(
    kind="KafkaConsumer",
    metadata=Metadata(f"{_HERE}/billing/consumers/app-1", f"{_NAME}/consumer=app-1"),
    cluster_id=CLUSTER,
    consumer_group_id="billing",
    consumer_id="app-1",
    instance_id=None,
    client_id="app",
    client_host="/127.0.0.1",
    assignments=[Assigned("orders", 0)],
)
_LAG = ConsumerLag(
    kind="KafkaConsumerLag",
    metadata=Metadata(f"{_HERE}/billing/lags/orders/partitions/0", f"{_NAME}/lag=orders/partition=0"),
    cluster_id=CLUSTER,
    consumer_group_id="billing",
    topic_name="orders",
    partition_id=0,
    current_offset=40,
    log_end_offset=42,
    lag=2,
    consumer_id="app-1",
    instance_id=None,
    client_id="app",
)
_SUMMARY = LagSummary(
    kind="KafkaConsumerGroupLagSummary",
    metadata=Metadata(f"{_HERE}/billing/lag-summary", f"{_NAME}/lag-summary"),
    cluster_id=CLUSTER,
    consumer_group_id="billing",
    max_lag_consumer_id="app-1",
    max_lag_instance_id=None,
    max_lag_client_id="app",
    max_lag_topic_name="orders",
    max_lag_partition_id=0,
    max_lag=2,
    total_lag=2,
)
_TAG = "v3 consumer groups"

ROUTES = (
    Route(
        "GET",
        _GROUPS,
        list_groups,
        "listConsumerGroups",
        "All consumer groups.",
        _TAG,
        Answer(ResourceList[ConsumerGroup], ResourceList("KafkaConsumerGroupList", ListMetadata(_HERE), [_GROUP])),
    ),
    Route(
        "GET",
        _ONE,
        get_group,
        "getConsumerGroup",
        "One consumer group.",
        _TAG,
        Answer(ConsumerGroup, _GROUP),
        problems=(NO_GROUP,),
    ),
    Route(
        "GET",
        f"{_ONE}/consumers",
        list_consumers,
        "listConsumers",
        "The members of a group, and the partitions they have.",
        _TAG,
        Answer(
            ResourceList[Consumer],
            ResourceList("KafkaConsumerList", ListMetadata(f"{_HERE}/billing/consumers"), [_CONSUMER]),
        ),
        problems=(NO_GROUP,),
    ),
    Route(
        "GET",
        f"{_ONE}/consumers/{{consumer_id}}",
        get_consumer,
        "getConsumer",
        "One member of a group.",
        _TAG,
        Answer(Consumer, _CONSUMER),
        problems=(NO_GROUP, 404),
    ),
    Route(
        "GET",
        f"{_ONE}/lags",
        list_lags,
        "listConsumerLags",
        "How far behind a group is in each partition.",
        _TAG,
        Answer(
            ResourceList[ConsumerLag],
            ResourceList("KafkaConsumerLagList", ListMetadata(f"{_HERE}/billing/lags"), [_LAG]),
        ),
        problems=(NO_GROUP,),
    ),
    Route(
        "GET",
        f"{_ONE}/lags/{{topic_name}}/partitions/{{partition_id}}",
        get_lag,
        "getConsumerLag",
        "How far behind a group is in one partition.",
        _TAG,
        Answer(ConsumerLag, _LAG),
        problems=(NO_GROUP, 404),
    ),
    Route(
        "GET",
        f"{_ONE}/lag-summary",
        get_lag_summary,
        "getConsumerGroupLagSummary",
        "How far behind a group is in all.",
        _TAG,
        Answer(LagSummary, _SUMMARY),
        problems=(NO_GROUP,),
    ),
)
