"""Who should get which partition, for KIP-848: the targets that a group's leader makes. Pure and deterministic.

Two assignors, by Kafka's names:

- `uniform`: as even as subscriptions allow, and moving as little as that takes.
- `range`: of each topic, a run of partitions to each subscriber in turn, so that topics of the same size are assigned
  alike.

Both give every partition to exactly one of its topic's subscribers, if it has any.
"""

from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush

import msgspec

from raftbroker.state.groups.consumer import assignment_of, pairs
from raftbroker.state.groups.rows import Assignment, Topics


class Subscriber(msgspec.Struct, frozen=True):
    """`names` are all topics it subscribes to, by name or by pattern; `had` is its target before."""

    id: str
    instance_id: str | None
    names: frozenset[str]
    had: Assignment

    @property
    def rank(self) -> tuple[bool, str]:
        """Static members first, by instance id: their order outlives their member ids."""
        return (self.instance_id is None, self.instance_id or self.id)


Assign = Callable[[Sequence[Subscriber], Topics], dict[str, Assignment]]

_Partition = tuple[str, int]


def assign_range(subscribers: Sequence[Subscriber], topics: Topics) -> dict[str, Assignment]:
    given: dict[str, list[_Partition]] = {subscriber.id: [] for subscriber in subscribers}
    ordered = sorted(subscribers, key=lambda subscriber: subscriber.rank)
    for name, (topic_id, count) in sorted(topics.items()):
        takers = [subscriber.id for subscriber in ordered if name in subscriber.names]
        if not takers:
            continue
        each, more = divmod(count, len(takers))
        first = 0
        for position, taker in enumerate(takers):
            stop = first + each + (position < more)
            given[taker] += ((topic_id, number) for number in range(first, stop))
            first = stop
    return {member_id: assignment_of(partitions) for member_id, partitions in given.items()}


def assign_uniform(subscribers: Sequence[Subscriber], topics: Topics) -> dict[str, Assignment]:
    ordered = sorted(subscribers, key=lambda subscriber: subscriber.rank)
    kept = _kept(ordered, topics)
    alike = len({frozenset(subscriber.names & topics.keys()) for subscriber in ordered}) <= 1
    given = _even(ordered, topics, kept) if alike else _balanced(ordered, topics, kept)
    return {member_id: assignment_of(partitions) for member_id, partitions in given.items()}


ASSIGNORS: Mapping[str, Assign] = {"uniform": assign_uniform, "range": assign_range}


def _kept(subscribers: Sequence[Subscriber], topics: Topics) -> dict[str, list[_Partition]]:
    """What each had and may keep: the partition still exists, the member still subscribes, nobody before it has it."""
    seen: set[_Partition] = set()
    kept: dict[str, list[_Partition]] = {}
    for subscriber in subscribers:
        counts = {topics[name][0]: topics[name][1] for name in subscriber.names & topics.keys()}
        mine = [
            partition
            for partition in sorted(pairs(subscriber.had))
            if partition[1] < counts.get(partition[0], 0) and partition not in seen
        ]
        seen.update(mine)
        kept[subscriber.id] = mine
    return kept


def _even(
    subscribers: Sequence[Subscriber], topics: Topics, kept: dict[str, list[_Partition]]
) -> dict[str, list[_Partition]]:
    """All subscribe to the same: everyone has its share, some one more; who has more than that gives the rest away."""
    if not subscribers:
        return {}
    wanted = [topics[name] for name in sorted(subscribers[0].names & topics.keys())]
    every = [(topic_id, number) for topic_id, count in wanted for number in range(count)]
    each, more = divmod(len(every), len(subscribers))
    given: dict[str, list[_Partition]] = {}
    for subscriber in sorted(subscribers, key=lambda subscriber: -len(kept[subscriber.id])):
        share = each + (more > 0 and len(kept[subscriber.id]) > each)
        more -= share > each
        given[subscriber.id] = kept[subscriber.id][:share]
    taken = {partition for partitions in given.values() for partition in partitions}
    free = [partition for partition in every if partition not in taken]
    free.reverse()
    for subscriber in subscribers:
        mine = given[subscriber.id]
        while len(mine) < each:
            mine.append(free.pop())
    for subscriber in subscribers:
        if free and len(given[subscriber.id]) == each:
            given[subscriber.id].append(free.pop())
    return given


def _balanced(
    subscribers: Sequence[Subscriber], topics: Topics, kept: dict[str, list[_Partition]]
) -> dict[str, list[_Partition]]:
    """Subscriptions differ: what is free goes to whoever has least of those who may have it, the partitions with the
    fewest takers first; then partitions move from who has more to who has less, as long as that makes it more even."""
    order = {subscriber.id: position for position, subscriber in enumerate(subscribers)}
    takers = {
        topics[name][0]: [subscriber.id for subscriber in subscribers if name in subscriber.names]
        for name in sorted(topics)
    }
    given = {member_id: set(partitions) for member_id, partitions in kept.items()}
    taken = {partition for partitions in given.values() for partition in partitions}
    by_takers = sorted((len(takers[topic_id]), topic_id, count) for topic_id, count in topics.values())
    for _, topic_id, count in by_takers:
        free = [(topic_id, number) for number in range(count) if (topic_id, number) not in taken]
        if not takers[topic_id] or not free:
            continue
        heap = [(len(given[member_id]), order[member_id], member_id) for member_id in takers[topic_id]]
        heapify(heap)
        for partition in free:
            load, position, member_id = heappop(heap)
            given[member_id].add(partition)
            heappush(heap, (load + 1, position, member_id))
    _level(given, takers, order)
    return {member_id: list(partitions) for member_id, partitions in given.items()}


def _level(given: dict[str, set[_Partition]], takers: Mapping[str, Sequence[str]], order: Mapping[str, int]) -> None:
    """Each move makes the sum of squares of the loads smaller, so there is an end to them."""
    moved = True
    while moved:
        moved = False
        floor = min(map(len, given.values()), default=0)
        for member_id in sorted(given, key=lambda member: (-len(given[member]), order[member])):
            if len(given[member_id]) <= floor + 1:
                break
            for partition in sorted(given[member_id]):
                least = min(takers[partition[0]], key=lambda member: (len(given[member]), order[member]))
                if len(given[member_id]) > len(given[least]) + 1:
                    given[member_id].remove(partition)
                    given[least].add(partition)
                    moved = True
