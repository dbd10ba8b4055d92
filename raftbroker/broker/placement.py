"""Where new partitions go: a pure function of the groups and nodes there are.

Partitions go onto data groups of their replication factor, groups onto nodes. A group's first node is its preferred
leader, so leaders are balanced by spreading first nodes. Groups are made as they are needed, up to `GROUPS_PER_NODE`
for each node and replication factor; until then each partition of a new topic gets a group that carries none.

The same inputs give the same placement on every node: ties go to the lower id.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

GROUPS_PER_NODE = 2


class GroupLoad(msgspec.Struct, frozen=True):
    """A data group as placement sees it. `carries` counts its partitions."""

    id: int
    replication_factor: int
    nodes: tuple[int, ...]
    """The preferred leader first."""
    carries: int
    data: bool = True
    """It takes partitions; otherwise it only counts as load on its nodes."""


class NewGroup(msgspec.Struct, frozen=True):
    id: int
    nodes: tuple[int, ...]
    """As many as the replication factor, distinct, the preferred leader first."""


class Placement(msgspec.Struct, frozen=True):
    groups: tuple[int, ...]
    """One group id for each new partition, in order."""
    new: tuple[NewGroup, ...]
    """Groups to be made, in the order of their ids."""


def place(
    count: int,
    replication_factor: int,
    groups: Sequence[GroupLoad],
    nodes: Sequence[int],
    next_group: int,
    beside: Sequence[int] = (),
) -> Placement:
    """Groups for `count` new partitions of one topic.

    `nodes` are the live ones; where they are fewer than the replication factor, new groups have fewer replicas for
    now. `next_group` is the first free group id; `beside` lists the group of each partition the topic has already.
    """
    if replication_factor < 1 or not nodes:
        raise ValueError(f"replication factor {replication_factor} on {len(nodes)} nodes")
    live = frozenset(nodes)
    usable = [g for g in groups if g.data and g.replication_factor == replication_factor and live.issuperset(g.nodes)]
    idle = sum(1 for g in usable if not g.carries and g.id not in beside)
    wanted = len(nodes) * GROUPS_PER_NODE
    missing = max(0, min(wanted - len(usable), count - idle))
    new = _new_groups(missing, replication_factor, groups, sorted(nodes), next_group)
    candidates = usable + [GroupLoad(g.id, replication_factor, g.nodes, 0) for g in new]
    return Placement(_spread(count, candidates, beside), tuple(new))


def place_group(replication_factor: int, groups: Sequence[GroupLoad], nodes: Sequence[int], group: int) -> NewGroup:
    """Nodes for one more group: its leader where fewest of its kind, then fewest of all, are preferred to lead; the
    rest where fewest replicas are."""
    alike = Counter(g.nodes[0] for g in groups if g.nodes and g.replication_factor == replication_factor)
    leads = Counter(g.nodes[0] for g in groups if g.nodes)
    holds = Counter(node for g in groups for node in g.nodes)
    order = sorted(nodes)
    first = min(order, key=lambda node: (alike[node], leads[node], holds[node], node))
    start = order.index(first)
    turn = {node: (position - start) % len(order) for position, node in enumerate(order)}
    rest = sorted((node for node in order if node != first), key=lambda node: (holds[node], turn[node]))
    return NewGroup(group, (first, *rest[: replication_factor - 1]))


def _new_groups(
    count: int, replication_factor: int, groups: Sequence[GroupLoad], nodes: Sequence[int], next_group: int
) -> list[NewGroup]:
    there = list(groups)
    new = []
    for group in range(next_group, next_group + count):
        made = place_group(replication_factor, there, nodes, group)
        new.append(made)
        there.append(GroupLoad(made.id, replication_factor, made.nodes, 0))
    return new


def _spread(count: int, candidates: Sequence[GroupLoad], beside: Sequence[int]) -> tuple[int, ...]:
    """Each partition to the group that holds fewest of this topic, then to the leader that has fewest of it, then to
    the group that carries least."""
    leader = {g.id: g.nodes[0] for g in candidates}
    of_topic = Counter(beside)
    led = Counter(leader[group] for group in beside if group in leader)
    carries = {g.id: g.carries for g in candidates}
    load = Counter[int]()
    for g in candidates:
        load[g.nodes[0]] += g.carries
    chosen = []
    for _ in range(count):
        best = min(carries, key=lambda g: (of_topic[g], led[leader[g]], load[leader[g]], carries[g], g))
        chosen.append(best)
        of_topic[best] += 1
        led[leader[best]] += 1
        load[leader[best]] += 1
        carries[best] += 1
    return tuple(chosen)


def joiners(
    group: int, placed: Sequence[int], replication_factor: int, groups: Sequence[GroupLoad], nodes: Sequence[int]
) -> tuple[int, ...]:
    """The nodes of a group once it has gained what it lacks of its replication factor, as far as there are nodes: the
    ones it has, then those that hold fewest replicas. The first, which is preferred to lead, is the one of them that
    is preferred by fewest other groups, so that a cluster that has grown shares the work."""
    holds = Counter(node for g in groups for node in g.nodes)
    leads = Counter(g.nodes[0] for g in groups if g.nodes and g.id != group)
    free = sorted((node for node in nodes if node not in placed), key=lambda node: (holds[node], node))
    chosen = [*placed, *free[: max(0, replication_factor - len(placed))]]
    first = min(chosen, key=lambda node: (leads[node], chosen.index(node)))
    return (first, *(node for node in chosen if node != first))
