"""Whole nodes whose clocks are wrong: what retention makes of it. Leaders stamp the records, an hour they are kept."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from random import Random
from typing import Any

import pytest

from .brokers import RETENTION_MS, TOPIC, BrokerCluster
from .lives import Plan, SimNode
from .runner import _judged, quiet

Script = Callable[[BrokerCluster], Coroutine[Any, Any, None]]


def play(seed: int, script: Script) -> None:
    quiet()
    result = _judged(seed, lambda loop: BrokerCluster(loop, str(seed), Plan()), script)
    if result.error is not None:
        raise AssertionError(f"seed {seed}: {result.error}") from result.error


async def begin(cluster: BrokerCluster) -> None:
    for node in cluster.nodes.values():
        cluster.start(node)
    await cluster.make_topic(Random(cluster.seed))
    await cluster.settle()


async def write(cluster: BrokerCluster, records: int = 20) -> None:
    random = Random(f"{cluster.seed}/{len(cluster.sent)}")
    for _ in range(records):
        await cluster.produce(random)


async def bounds(cluster: BrokerCluster) -> list[tuple[int, int]]:
    """Start and end of each partition."""
    node = cluster.nodes[1]
    views = [
        await cluster.ask(node, partial(cluster.broker(node).offsets, TOPIC, partition, timeout=5.0), 5.0)
        for partition in range(cluster.partitions)
    ]
    return [(view.start, view.end) for view in views]


async def hand_over(cluster: BrokerCluster, target: SimNode) -> None:
    """Of every data group there is."""
    for group in sorted({group for core in cluster.cores.values() for group in core.host.groups if group}):
        leader = cluster.leaders(group)[0]
        if leader is not target:
            call = partial(cluster.broker(leader).transfer_leadership, group, target.id, timeout=5.0)
            await cluster.ask(leader, call, 5.0)
        for _ in range(200):
            if cluster.leaders(group) == [target]:
                break
            await asyncio.sleep(0.01)
        assert cluster.leaders(group) == [target]


@pytest.mark.parametrize("wrong_ms", [8 * RETENTION_MS, -8 * RETENTION_MS], ids=["ahead", "behind"])
@pytest.mark.parametrize("old", [False, True], ids=["from-the-start", "after-a-while"])
def test_one_wrong_clock_of_three_trims_nothing(wrong_ms: int, old: bool) -> None:
    async def script(cluster: BrokerCluster) -> None:
        wrong, right = cluster.nodes[2], cluster.nodes[3]
        wrong.wall_offset_ms = 0 if old else wrong_ms
        await begin(cluster)
        if old:
            await write(cluster)
            await asyncio.sleep(5)
            wrong.wall_offset_ms = wrong_ms
        for leader in (wrong, right, wrong, right):
            await hand_over(cluster, leader)
            await write(cluster)
            await asyncio.sleep(5)
            assert [start for start, _ in await bounds(cluster)] == [0, 0]
        await cluster.settle()
        await cluster.verify()

    for seed in range(2):
        play(seed, script)


def test_after_a_long_time_off_what_is_old_goes() -> None:
    async def script(cluster: BrokerCluster) -> None:
        await begin(cluster)
        await write(cluster)
        await asyncio.sleep(10)
        before = await bounds(cluster)
        assert all(start == 0 < end for start, end in before)
        for node in cluster.nodes.values():
            cluster.crash(node)
            node.wall_offset_ms = 2 * RETENTION_MS
        for node in cluster.nodes.values():
            cluster.start(node)
        await cluster.settle()
        for _ in range(30):
            await asyncio.sleep(1)
            if await bounds(cluster) == [(end, end) for _, end in before]:
                return
        raise AssertionError(f"{before} has become {await bounds(cluster)}")

    for seed in range(2):
        play(seed, script)
