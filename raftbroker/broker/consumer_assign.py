"""Who reads what in a classic consumer group, where one of our members is its leader. Pure and deterministic.

The two assignors that every Kafka client knows, by Kafka's names and with its outcome: `range` and `roundrobin`. So
members of ours and Kafka's clients can be in one group, whoever leads it.
"""

from collections.abc import Mapping, Sequence

import msgspec

from raftbroker.state.groups.assignors import Subscriber, assign_range

ASSIGNORS = ("range", "roundrobin")
"""In the order in which they are preferred."""


class Reading(msgspec.Struct, frozen=True):
    """A member and the topics it subscribes to."""

    member_id: str
    instance_id: str | None
    topics: frozenset[str]

    @property
    def rank(self) -> tuple[bool, str]:
        """Static members first, by instance id: their order outlives their member ids."""
        return (self.instance_id is None, self.instance_id or self.member_id)


def assign(
    protocol: str, members: Sequence[Reading], counts: Mapping[str, int]
) -> dict[str, dict[str, tuple[int, ...]]]:
    """By member id and topic: partition numbers. `counts` has the partitions of every topic that there is."""
    if protocol == "range":
        subscribers = [Subscriber(one.member_id, one.instance_id, one.topics, {}) for one in members]
        return assign_range(subscribers, {topic: (topic, count) for topic, count in counts.items()})
    return _by_turns(members, counts)


def _by_turns(members: Sequence[Reading], counts: Mapping[str, int]) -> dict[str, dict[str, tuple[int, ...]]]:
    given: dict[str, dict[str, tuple[int, ...]]] = {one.member_id: {} for one in members}
    ordered = sorted(members, key=lambda one: one.rank)
    wanted = frozenset[str]().union(*(one.topics for one in members))
    turn = 0
    for topic in sorted(wanted & counts.keys()):
        for number in range(counts[topic]):
            while topic not in ordered[turn % len(ordered)].topics:
                turn += 1
            mine = given[ordered[turn % len(ordered)].member_id]
            mine[topic] = (*mine.get(topic, ()), number)
            turn += 1
    return given
