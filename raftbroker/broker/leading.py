"""Partitions on the node that leads them: for clients that are told who leads, and are never passed on.

Nothing here waits: what this node knows is what it says. A topic that it does not know yet counts as unknown, which
such clients ask for again.
"""

from typing import NamedTuple

from consensus.group import Group
from raftbroker.broker.context import Context
from raftbroker.broker.errors import (
    FencedLeaderEpoch,
    LedElsewhere,
    UnknownLeaderEpoch,
    UnknownPartition,
    UnknownTopic,
)
from raftbroker.broker.routing import Router
from raftbroker.state.control_commands import PartitionPlace, TopicState
from raftbroker.state.partition import PartitionMachine

EPOCH_MASK = 2**31 - 1
"""A leader epoch is a Raft term in Kafka's 31 bits."""


class Led(NamedTuple):
    topic: TopicState
    place: PartitionPlace
    group: Group
    machine: PartitionMachine

    @property
    def epoch(self) -> int:
        return self.group.term & EPOCH_MASK


class Leading:
    def __init__(self, context: Context, router: Router) -> None:
        self._context = context
        self._router = router

    def find(self, topic: str, number: int, epoch: int = -1) -> Led:
        """The partition, which this node leads in the term `epoch` (-1: whichever it is).

        Raises UnknownTopic, UnknownPartition, LedElsewhere, FencedLeaderEpoch or UnknownLeaderEpoch."""
        state = self._context.control.topic(topic)
        if state is None:
            raise UnknownTopic(f"there is no topic {topic[:260]}", field="topic_name")
        if not 0 <= number < len(state.partitions):
            last = len(state.partitions) - 1
            raise UnknownPartition(f"topic {topic} has partitions 0 to {last}, not {number}", field="partition_id")
        place = state.partitions[number]
        replica = self._context.host.groups.get(place.group)
        machine = replica.machine if replica is not None else None
        if replica is None or not replica.leading or not isinstance(machine, PartitionMachine):
            raise self._elsewhere(place.group, replica)
        led = Led(state, place, replica, machine)
        if epoch >= 0 and epoch != led.epoch:
            raise self._wrong_epoch(epoch, led.epoch)
        return led

    def kafka_address(self, node: int) -> str:
        state = self._context.control.node(node)
        return state.kafka if state is not None else ""

    def _elsewhere(self, group: int, replica: Group | None) -> LedElsewhere:
        leader = self._router.leader_of(group)
        epoch = replica.term & EPOCH_MASK if replica is not None and leader is not None else -1
        if leader == self._context.me:
            leader = None
            message = "this node has just been elected leader of the partition and cannot serve it yet"
        else:
            message = "this node does not lead the partition"
        return LedElsewhere(
            f"{message}, nothing was done: ask for metadata again", leader=-1 if leader is None else leader, epoch=epoch
        )

    def _wrong_epoch(self, asked: int, epoch: int) -> LedElsewhere:
        me = self._context.me
        if asked < epoch:
            return FencedLeaderEpoch(
                f"the partition's leader epoch is {epoch}, the request is from {asked}", leader=me, epoch=epoch
            )
        return UnknownLeaderEpoch(
            f"this node knows of leader epoch {epoch}, the request is from {asked}", leader=me, epoch=epoch
        )
