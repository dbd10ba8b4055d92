"""Where clients reach the nodes: their advertised Kafka addresses, for every answer that names one."""

from typing import NamedTuple

from raftbroker.broker.metadata import MetadataView
from raftbroker.kafka.context import KafkaContext


class Endpoint(NamedTuple):
    id: int
    host: str
    port: int


def endpoints(context: KafkaContext, view: MetadataView) -> dict[int, Endpoint]:
    """By node id, in its order: the nodes that answer or did not long ago, and those that are said to lead. This node
    is always among them, also before it is registered: who could ask it can reach it."""
    leading = {group.leader for group in view.groups.values()}
    found = {
        node.id: Endpoint(node.id, *split_host(node.kafka))
        for node in view.nodes
        if node.kafka and (node.id in view.listed or node.id in leading)
    }
    me = context.broker.node_id
    if me not in found:
        found[me] = Endpoint(me, *context.options.advertised)
        found = dict(sorted(found.items()))
    return found


def split_host(address: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[ipv6]:port", which a node has checked before it registered with it."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)
