"""Schedules played on purpose: what random faults meet once in thousands of runs.

Each is harmless to correct code, and is run on it, too. They wait for what they need and go on without it when it does
not come, because the seed still draws delays and timers.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random

from consensus.election import Role
from consensus.errors import ConsensusError
from consensus.group import Group

from .cluster import Cluster, Pending, SimNode
from .disk import Pace

GROUP = 0


def after(seconds: float, action: Callable[[], object]) -> None:
    """In the midst of whatever runs now, which must live that long."""
    asyncio.get_running_loop().call_later(seconds, action)


def group_of(node: SimNode) -> Group:
    assert node.host is not None
    return node.host.groups[GROUP]


async def until(condition: Callable[[], object], seconds: float, step: float = 0.01) -> bool:
    """Waits for the condition; whether it came."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(step)
    return True


async def any_leader(cluster: Cluster, among: list[SimNode] | None = None, seconds: float = 15.0) -> SimNode | None:
    def found() -> list[SimNode]:
        return [n for n in cluster.leaders(GROUP) if among is None or n in among]

    await until(found, seconds)
    return found()[0] if found() else None


async def lead(cluster: Cluster, node: SimNode) -> bool:
    """Brings this node to lead."""
    for _ in range(20):
        leader = await any_leader(cluster)
        if leader is node:
            return True
        if leader is not None and leader.process is not None:
            task = leader.process.spawn(_transfer(group_of(leader), node.id))
            await asyncio.wait({task, leader.process.died}, timeout=3.0, return_when=asyncio.FIRST_COMPLETED)
            await until(lambda: group_of(node).leading, 1.0)
    return False


async def _transfer(group: Group, node: int) -> None:
    try:
        await group.transfer(node, 2.0)
    except ConsensusError:
        return


async def writes(cluster: Cluster, node: SimNode, count: int, timeout: float = 1.0) -> None:
    """That many values at once, outcomes recorded."""
    for pending in propose(cluster, node, count, timeout):
        await cluster.finish(pending)


def propose(cluster: Cluster, node: SimNode, count: int, timeout: float) -> list[Pending]:
    if not node.up or not group_of(node).leading:
        return []
    proposed = [cluster.propose(node, GROUP, timeout) for _ in range(count)]
    return [pending for pending in proposed if pending is not None]


def part(cluster: Cluster, one: list[SimNode], other: list[SimNode]) -> None:
    for a in one:
        for b in other:
            cluster.network.block(a.id, b.id)
            cluster.network.block(b.id, a.id)


def join(cluster: Cluster, one: list[SimNode], other: list[SimNode]) -> None:
    for a in one:
        for b in other:
            cluster.network.unblock(a.id, b.id)
            cluster.network.unblock(b.id, a.id)


# --- the schedules ---------------------------------------------------------------------------------------


async def power_cuts(cluster: Cluster) -> None:
    """All nodes lose power, often with the first acknowledgement, and keep only what was synced; the old leader is the
    last to come back."""
    random = Random(f"{cluster.seed}/script")
    for _ in range(6):
        leader = await any_leader(cluster)
        if leader is None:
            return
        for node in cluster.nodes.values():
            node.platter.pace = Pace() if node is leader else Pace(0.03, 0.1)
        pending = propose(cluster, leader, 20, 1.0)
        tasks = [asyncio.create_task(cluster.finish(p)) for p in pending]
        if random.random() < 0.5:
            await asyncio.sleep(random.uniform(0.002, 0.05))
        elif tasks:
            await asyncio.wait(tasks, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
        for node in cluster.nodes.values():
            cluster.crash(node, keep=0)
            cluster.later(3.0 if node is leader else 0.1, cluster.start, node)
        await asyncio.gather(*tasks)
        await until(lambda: all(n.up for n in cluster.nodes.values()), 5.0)
    for node in cluster.nodes.values():
        node.platter.pace = Pace()


async def late_acknowledgement(cluster: Cluster) -> None:
    """B acknowledges A's entries in term 1 over a link that is cut one way; a leader of term 2 replaces those entries;
    A leads again in term 3, with other entries, when the acknowledgement arrives. Needs five voters."""
    a, b, *rest = cluster.nodes.values()
    cluster.plan.weather.silence_min = cluster.plan.weather.silence_max = 600.0
    if not await lead(cluster, a):
        return
    await writes(cluster, a, 3)
    part(cluster, [a], rest)
    part(cluster, [b], rest)
    cluster.network.block(b.id, a.id)
    lost = propose(cluster, a, 30, 1.0)
    await asyncio.sleep(0.1)
    other = await any_leader(cluster, rest)
    if other is None:
        return
    await writes(cluster, other, 3)
    join(cluster, [b], rest)
    await until(lambda: group_of(b).commit >= group_of(other).commit, 5.0)
    join(cluster, [a], rest)
    for pending in lost:
        await cluster.finish(pending)
    cluster.network.block(a.id, b.id)
    if not await lead(cluster, a):
        return
    part(cluster, [a], rest[1:])
    new = propose(cluster, a, 30, 1.0)
    await asyncio.sleep(0.1)
    cluster.network.unblock(b.id, a.id)
    for pending in new:
        await cluster.finish(pending)


async def figure_eight(cluster: Cluster) -> None:
    """Figure 8 of the Raft paper: an entry of an old term stands on a majority and is replaced nevertheless.

    Needs five voters and one entry a message."""
    first, second, *rest = cluster.nodes.values()
    if not await lead(cluster, first):
        return
    await writes(cluster, first, 2)
    await asyncio.sleep(0.3)
    part(cluster, [first, second], rest)
    lost = propose(cluster, first, 1, 1.0)
    await until(lambda: group_of(second).replication.durable_index == group_of(first).last_index, 1.0, 0.002)
    old = group_of(first).last_index
    cluster.crash(first)
    for pending in lost:
        await cluster.finish(pending)
    await until(lambda: any(n.up and group_of(n).role is Role.LEADER for n in rest), 5.0, 0.0001)
    brief = next((n for n in rest if n.up and group_of(n).role is Role.LEADER), None)
    if brief is None:
        return
    part(cluster, [brief], [n for n in cluster.nodes.values() if n is not brief])
    await until(lambda: group_of(brief).replication.durable_index == group_of(brief).last_index, 1.0, 0.001)
    cluster.crash(brief)
    cluster.network.heal()
    cluster.start(first)
    pair = [first, second]
    await until(lambda: any(group_of(n).commit >= old for n in pair), 10.0, 0.0001)
    for node in pair:
        if group_of(node).role is Role.LEADER:
            cluster.crash(node)
    part(cluster, pair, rest)
    cluster.start(brief)
    await asyncio.sleep(6.0)


async def vote_twice(cluster: Cluster) -> None:
    """C votes for A and dies; B, whose disk was stuck, asks it for a vote in the same term when it is back."""
    a, b, c = cluster.nodes.values()
    if not await lead(cluster, c):
        return
    await asyncio.sleep(0.3)
    b.platter.stuck = True
    cluster.crash(c)
    part(cluster, [a], [b, c])
    cluster.start(c)
    await until(lambda: group_of(b).role is Role.CANDIDATE, 5.0, 0.001)
    join(cluster, [a], [c])
    await until(lambda: connected(a, c), 1.0, 0.005)
    assert a.process is not None
    a.process.run(group_of(a).elector.campaign_now)
    if not await until(lambda: group_of(a).role is Role.LEADER, 0.3, 0.002):
        return
    part(cluster, [a], [c])
    cluster.crash(c, keep=10**9)
    cluster.start(c)
    await until(lambda: connected(b, c), 0.4, 0.002)
    b.platter.stuck = False
    await asyncio.sleep(1.0)


def connected(one: SimNode, other: SimNode) -> bool:
    assert one.host is not None
    peer = one.host.transport.connected(other.id)
    return peer is not None and peer.boot == other.life


async def stale_reader(cluster: Cluster) -> None:
    """A leader that is cut off is asked for a read while its successor takes writes."""
    for _ in range(4):
        old = await any_leader(cluster)
        if old is None:
            return
        await writes(cluster, old, 3)
        cluster.network.isolate(old.id, list(cluster.nodes))
        reads = []
        for _ in range(150):
            await asyncio.sleep(0.01)
            for node in cluster.leaders(GROUP):
                if node is old:
                    reads.append(asyncio.create_task(cluster.read(node, GROUP, 0.5)))
                else:
                    await writes(cluster, node, 1)
        await asyncio.gather(*reads)
        cluster.network.heal()
        await asyncio.sleep(1.0)


async def flipped_bits(cluster: Cluster) -> None:
    """A bit flips in one of the leader's entries that a follower, down until now, is about to be sent."""
    leader = await any_leader(cluster)
    if leader is None:
        return
    await writes(cluster, leader, 5)
    follower = next(n for n in cluster.nodes.values() if n is not leader)
    cluster.crash(follower)
    for _ in range(4):
        await writes(cluster, leader, 10)
    await asyncio.sleep(0.5)
    leader.rotten = True
    leader.platter.flip("raft", leader.platter.random.choice(leader.platter.current["raft"].keys[-35:-5]))
    cluster.start(follower)
    await asyncio.sleep(3.0)


async def long_absence(cluster: Cluster) -> None:
    """A node is down while the others write more than they keep: it comes back to a snapshot, twice."""
    for _ in range(2):
        leader = await any_leader(cluster)
        if leader is None:
            return
        absent = next(n for n in cluster.nodes.values() if n is not leader)
        await writes(cluster, leader, 5)
        cluster.crash(absent)
        for _ in range(5):
            await writes(cluster, leader, 12)
        cluster.start(absent)
        for _ in range(20):
            await writes(cluster, leader, 1)
            await asyncio.sleep(0.05)


async def broken_links(cluster: Cluster) -> None:
    """Under load, connections break or are replaced all the time: entries are sent again, and arrive late.

    One follower's disk is fast, the others' are slow: what it acknowledges is not committed for a while."""
    random = Random(f"{cluster.seed}/script")
    for _ in range(12):
        leader = await any_leader(cluster)
        if leader is None:
            return
        fast = random.choice([node for node in cluster.nodes.values() if node is not leader])
        for node in cluster.nodes.values():
            node.platter.pace = Pace() if node is fast else Pace(0.05, 0.2)
        pending = propose(cluster, leader, 20, 2.0)
        for _ in range(4):
            await asyncio.sleep(random.uniform(0.001, 0.02))
            if random.random() < 0.5:
                cluster.network.break_some()
            else:
                cluster.network.duplicate_some()
        for one in pending:
            await cluster.finish(one)
    for node in cluster.nodes.values():
        node.platter.pace = Pace()


async def divergent_tail(cluster: Cluster) -> None:
    """A leader that was cut off comes back with a tail nobody else has, over new connections."""
    for _ in range(2):
        old = await any_leader(cluster)
        if old is None:
            return
        await writes(cluster, old, 3)
        others = [n for n in cluster.nodes.values() if n is not old]
        part(cluster, [old], others)
        lost = propose(cluster, old, 15, 0.5)
        new = await any_leader(cluster, others)
        for pending in lost:
            await cluster.finish(pending)
        if new is not None:
            await writes(cluster, new, 4)
        for connection in list(cluster.network.connections):
            connection.break_off()
        cluster.network.heal()
        await asyncio.sleep(1.5)


async def learner_load(cluster: Cluster) -> None:
    """Only learners hear the leader while it takes writes."""
    leader = await any_leader(cluster)
    if leader is None or leader.process is None:
        return
    learners = [n for n in cluster.nodes.values() if n.member not in cluster.initial.voters]
    for learner in learners:
        change = leader.process.run(partial(group_of(leader).add_learner, learner.member, 2.0))
        await asyncio.wait({change}, timeout=3.0)
    await asyncio.sleep(0.5)
    voters = [n for n in cluster.nodes.values() if n is not leader and n not in learners]
    part(cluster, [leader], voters)
    await writes(cluster, leader, 10)
    await asyncio.sleep(1.0)
