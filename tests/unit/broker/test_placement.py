"""Placement: spread, balance, determinism, for any cluster it may meet."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftbroker.broker.placement import GROUPS_PER_NODE, GroupLoad, joiners, place


class Cluster:
    """Groups and nodes as they grow by placements."""

    def __init__(self, nodes: list[int]) -> None:
        self.nodes = nodes
        self.groups: list[GroupLoad] = []

    def create(self, count: int, factor: int, beside: tuple[int, ...] = ()) -> tuple[int, ...]:
        placement = place(count, factor, self.groups, self.nodes, len(self.groups) + 1, beside)
        again = place(count, factor, list(reversed(self.groups)), self.nodes[::-1], len(self.groups) + 1, beside)
        assert again == placement, "the order in which groups and nodes are listed must not matter"
        assert [g.id for g in placement.new] == list(
            range(len(self.groups) + 1, len(self.groups) + 1 + len(placement.new))
        )
        for new in placement.new:
            assert len(new.nodes) == len(set(new.nodes)) == factor
            assert set(new.nodes) <= set(self.nodes)
        there = self.groups + [GroupLoad(g.id, factor, g.nodes, 0) for g in placement.new]
        added = Counter(placement.groups)
        self.groups = [GroupLoad(g.id, g.replication_factor, g.nodes, g.carries + added[g.id]) for g in there]
        assert all(self.group(g).replication_factor == factor for g in placement.groups)
        return placement.groups

    def group(self, number: int) -> GroupLoad:
        return self.groups[number - 1]

    def leaders(self, groups: tuple[int, ...]) -> Counter[int]:
        return Counter(dict.fromkeys(self.nodes, 0)) + Counter(self.group(g).nodes[0] for g in groups)


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 7),
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=12),
)
def test_groups_stay_few_and_replicas_balanced(count: int, topics: list[tuple[int, int]]) -> None:
    cluster = Cluster(list(range(1, count + 1)))
    for partitions, factor in topics:
        if factor <= count:
            cluster.create(partitions, factor)
    for factor in range(1, 6):
        alike = [g for g in cluster.groups if g.replication_factor == factor]
        assert len(alike) <= count * GROUPS_PER_NODE
        led = [sum(1 for g in alike if g.nodes[0] == node) for node in cluster.nodes]
        assert max(led) - min(led) <= 1
    held = [sum(1 for g in cluster.groups if node in g.nodes) for node in cluster.nodes]
    assert max(held) - min(held) <= 5


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 7), st.integers(1, 40), st.integers(1, 40))
def test_a_topics_leaders_are_spread(count: int, first: int, more: int) -> None:
    cluster = Cluster(list(range(1, count + 1)))
    factor = min(3, count)
    groups = cluster.create(first, factor)
    led = [cluster.leaders(groups)[node] for node in cluster.nodes]
    assert max(led) - min(led) <= 1
    groups += cluster.create(more, factor, groups)
    led = [cluster.leaders(groups)[node] for node in cluster.nodes]
    assert max(led) - min(led) <= 1
    on_group = Counter(groups)
    assert max(on_group.values()) - min(on_group.values()) <= 1


def test_six_partitions_on_three_nodes() -> None:
    cluster = Cluster([1, 2, 3])
    groups = cluster.create(6, 3)
    assert len(set(groups)) == 6
    assert sorted(cluster.leaders(groups).items()) == [(1, 2), (2, 2), (3, 2)]


def test_single_partition_topics_spread_too() -> None:
    cluster = Cluster([1, 2, 3])
    groups = tuple(g for _ in range(6) for g in cluster.create(1, 3))
    assert sorted(cluster.leaders(groups).items()) == [(1, 2), (2, 2), (3, 2)]


def test_groups_on_a_dead_node_are_not_used() -> None:
    groups = [GroupLoad(1, 2, (1, 2), 0), GroupLoad(2, 2, (2, 3), 5)]
    placement = place(1, 2, groups, [2, 3], 3)
    assert all(1 not in new.nodes for new in placement.new)
    assert placement.groups != (1,)


def test_a_group_is_made_with_fewer_replicas_while_there_are_fewer_nodes() -> None:
    placement = place(2, 3, [], [1, 2], 1)
    assert [new.nodes for new in placement.new] == [(1, 2), (2, 1)]
    with pytest.raises(ValueError, match="on 0 nodes"):
        place(1, 3, [], [], 1)


def test_groups_gain_the_nodes_they_lack() -> None:
    groups = [GroupLoad(1, 3, (1,), 0), GroupLoad(2, 1, (2,), 0)]
    assert joiners(1, (1,), 3, groups, [1, 2, 3]) == (1, 3, 2)
    assert joiners(1, (1,), 3, groups, [1]) == (1,)
    assert joiners(1, (1, 2, 3), 3, groups, [1, 2, 3, 4]) == (1, 2, 3)


def test_a_cluster_that_has_grown_shares_the_leading() -> None:
    groups = [GroupLoad(1, 3, (1,), 0), GroupLoad(2, 3, (1,), 0)]
    grown = joiners(1, (1,), 3, groups, [1, 2, 3])
    assert grown == (2, 1, 3)
    groups = [GroupLoad(1, 3, grown, 0), GroupLoad(2, 3, (1,), 0)]
    assert joiners(2, (1,), 3, groups, [1, 2, 3]) == (1, 2, 3)
