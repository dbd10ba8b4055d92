"""`/v1`: the cluster's own routes: health, brokers, Raft groups, transfers of leadership, deleting records."""

import msgspec
from aiohttp import web

from raftbroker.broker.errors import UnknownNode
from raftbroker.broker.views import BrokerView, GroupView, HealthView, ReplicaView
from raftbroker.http.call import Call
from raftbroker.http.problems import BAD_REQUEST, ILLEGAL_STATE, NO_PARTITION, NO_TOPIC, OUT_OF_RANGE, UNAVAILABLE
from raftbroker.http.route import Answer, Parameter, Route, json_body


class Health(msgspec.Struct, frozen=True):
    is_healthy: bool
    controller_id: int
    """The leader of the control group; -1 while there is none."""
    all_nodes: list[int]
    nodes_down: list[int]
    leaderless_partitions: list[str]
    """As topic/partition."""
    under_replicated_partitions: list[str]


class Node(msgspec.Struct, frozen=True):
    """A node. `node_id`, `is_alive` and `membership_status` are the names that Redpanda's tools look for."""

    id: int
    node_id: int
    alive: bool
    is_alive: bool
    membership_status: str
    is_controller: bool
    http: str
    kafka: str
    """host:port; empty where that door is closed."""
    peer: str
    uuid: str
    """Of the data directory."""
    feature: int
    """The highest cluster feature version this node supports."""


class GroupReplica(msgspec.Struct, frozen=True):
    """A node's own word on its replica of a group."""

    node: int
    uuid: str
    role: str
    voter: bool
    term: int
    commit: int
    applied: int
    first_index: int
    last_index: int
    caught_up: bool | None
    damaged: str | None


class Group(msgspec.Struct, frozen=True):
    """A Raft group; 0 is the control group."""

    group: int
    leader: int | None
    term: int
    replication_factor: int
    commit: int
    applied: int
    partitions: int
    replicas: list[GroupReplica]


class DeleteRecords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records below this offset are deleted; -1 means all there are."""

    before_offset: int


class DeletedRecords(msgspec.Struct, frozen=True):
    log_start_offset: int


def _node(view: BrokerView) -> Node:
    return Node(
        id=view.id,
        node_id=view.id,
        alive=view.alive,
        is_alive=view.alive,
        membership_status="active",
        is_controller=view.is_controller,
        http=view.http,
        kafka=view.kafka,
        peer=view.peer,
        uuid=view.uuid,
        feature=view.feature,
    )


def _health(view: HealthView) -> Health:
    return Health(
        view.is_healthy,
        view.controller_id,
        list(view.all_nodes),
        list(view.nodes_down),
        list(view.leaderless_partitions),
        list(view.under_replicated_partitions),
    )


def _replica(view: ReplicaView) -> GroupReplica:
    return GroupReplica(
        view.node,
        view.uuid,
        view.role,
        view.voter,
        view.term,
        view.commit,
        view.applied,
        view.first_index,
        view.last_index,
        view.caught_up,
        view.damaged,
    )


def _group(view: GroupView) -> Group:
    return Group(
        view.group,
        view.leader,
        view.term,
        view.replication_factor,
        view.commit,
        view.applied,
        view.partitions,
        [_replica(replica) for replica in view.replicas],
    )


async def health_overview(call: Call) -> web.StreamResponse:
    return call.reply(_health(await call.broker.health()))


async def list_nodes(call: Call) -> web.StreamResponse:
    return call.reply([_node(view) for view in await call.broker.brokers()])


async def get_node(call: Call) -> web.StreamResponse:
    wanted = call.path_number("broker_id")
    for view in await call.broker.brokers():
        if view.id == wanted:
            return call.reply(_node(view))
    raise UnknownNode(f"There is no node {wanted} in this cluster; GET /v1/brokers lists those there are.")


async def list_groups(call: Call) -> web.StreamResponse:
    return call.reply([_group(view) for view in await call.broker.raft_status()])


async def transfer_leadership(call: Call) -> web.StreamResponse:
    group = call.path_number("group")
    target = call.query_number("target", None, least=0, most=2**31 - 1)
    await call.broker.transfer_leadership(group, target)
    return call.nothing()


_delete_records = msgspec.json.Decoder(DeleteRecords)


async def delete_records(call: Call) -> web.StreamResponse:
    partition = call.path_partition()
    asked = await call.json(_delete_records)
    start = await call.broker.delete_records(
        call.path("topic_name"), partition, asked.before_offset, timeout=call.options.request_timeout
    )
    return call.reply(DeletedRecords(start))


_NODE = Node(
    id=1,
    node_id=1,
    alive=True,
    is_alive=True,
    membership_status="active",
    is_controller=True,
    http="127.0.0.1:8082",
    kafka="127.0.0.1:9092",
    peer="127.0.0.1:7082",
    uuid="5a1d2a9e6f0d4a1f8c3f6a7b8c9d0e1f",
    feature=1,
)
_REPLICA = GroupReplica(1, _NODE.uuid, "leader", True, 4, 1200, 1200, 1, 1200, True, None)
_GROUP = Group(1, 1, 4, 3, 1200, 1200, 6, [_REPLICA])

ROUTES = (
    Route(
        "GET",
        "/v1/cluster/health_overview",
        health_overview,
        "healthOverview",
        "Whether every node is up and every partition has a leader and all its replicas.",
        "v1 cluster",
        Answer(Health, Health(True, 1, [1, 2, 3], [], [], [])),
    ),
    Route(
        "GET",
        "/v1/brokers",
        list_nodes,
        "listNodes",
        "The cluster's nodes, their addresses, and whether they answer.",
        "v1 cluster",
        Answer(list[Node], [_NODE]),
    ),
    Route(
        "GET",
        "/v1/brokers/{broker_id}",
        get_node,
        "getNode",
        "One node.",
        "v1 cluster",
        Answer(Node, _NODE),
        problems=(404,),
    ),
    Route(
        "GET",
        "/v1/raft",
        list_groups,
        "listRaftGroups",
        "Every Raft group: its leader, term, and what each member says of its replica.",
        "v1 cluster",
        Answer(list[Group], [_GROUP]),
    ),
    Route(
        "POST",
        "/v1/raft/{group}/transfer_leadership",
        transfer_leadership,
        "transferLeadership",
        "Hands a group's leadership to the node `target`, or to the replica that is most up to date.",
        "v1 cluster",
        Answer(status=204),
        parameters=(Parameter("target", int, "The node that shall lead.", example=2),),
        problems=(404, BAD_REQUEST, ILLEGAL_STATE, UNAVAILABLE),
    ),
    Route(
        "POST",
        "/v1/topics/{topic_name}/partitions/{partition_id}/delete_records",
        delete_records,
        "deleteRecords",
        "Deletes the records of a partition below an offset.",
        "v1 topics",
        Answer(DeletedRecords, DeletedRecords(42)),
        json_body(DeleteRecords(42)),
        problems=(NO_TOPIC, NO_PARTITION, OUT_OF_RANGE),
    ),
)
