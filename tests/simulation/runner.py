"""One seed, one run: a cluster, clients, faults, then calm and the final judgement."""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from .brokers import BrokerCluster
from .cluster import Cluster, Plan
from .compacted import (
    CompactedCluster,
    CompactedTransactions,
    compacted_script,
    draw_compaction,
    small_segments,
)
from .hooks import HookCluster, Receiver
from .lives import Lives
from .loop import VirtualLoop, run_simulation
from .members import MemberCluster, members_script
from .nemesis import Nemesis
from .pipelines import PipelineCluster, pipelines_script
from .transactions import TransactionCluster, transactions_script

Script = Callable[[Cluster], Coroutine[Any, Any, None]]


@dataclass
class Result:
    """What a run came to. `digest` is the same whenever the same seed runs the same code."""

    seed: int
    digest: str = ""
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    error: BaseException | None = None
    trace: list[str] | None = None


async def client(cluster: Cluster, random: Random, until: float) -> None:
    """Writes, reads and trims through whoever takes itself for the leader, several writes in flight now and then."""
    pause = random.choice((0.02, 0.06, 0.15))
    while cluster.loop.time() < until:
        await asyncio.sleep(random.expovariate(1 / pause))
        number = random.choice(cluster.group_ids)
        leaders = cluster.leaders(number)
        if not leaders:
            continue
        node = random.choice(leaders)
        action = random.random()
        if action < 0.15:
            await cluster.read(node, number, random.choice((0.3, 2.0)))
        elif action < 0.19:
            cluster.trim(node, number, random)
        else:
            timeout = random.choice((0.2, 1.0, 3.0))
            proposed = [cluster.propose(node, number, timeout) for _ in range(random.choice((1, 1, 1, 4, 12)))]
            for pending in proposed:
                if pending is not None:
                    await cluster.finish(pending)


async def random_script(cluster: Cluster) -> None:
    """The usual run: 2 to 6 s of faults under load."""
    random = Random(f"{cluster.seed}/script")
    until = cluster.loop.time() + random.uniform(2, 6)
    tasks = [
        asyncio.create_task(client(cluster, Random(f"{cluster.seed}/client{n}"), until))
        for n in range(random.randint(1, 3))
    ]
    await asyncio.sleep(random.choice((0.0, 0.3, 1.0)))
    await Nemesis(cluster, Random(f"{cluster.seed}/nemesis")).run(until - cluster.loop.time())
    await asyncio.gather(*tasks)


def run(seed: int, plan: Plan, script: Script, *, keep_trace: bool = False) -> Result:
    """Runs `script` on a fresh cluster, lets it settle, and judges. Never raises for what the run finds."""

    async def whole(cluster: Cluster) -> None:
        for node in cluster.nodes.values():
            cluster.start(node)
        await script(cluster)
        await cluster.settle()
        for number in cluster.group_ids:
            await cluster.write(cluster.leaders(number)[0], number)
            await cluster.settle()
        cluster.verify()

    return _judged(seed, lambda loop: Cluster(loop, str(seed), plan, keep_trace), whole)


C = TypeVar("C", bound=Lives)


def _judged(seed: int, make: Callable[[VirtualLoop], C], script: Callable[[C], Coroutine[Any, Any, None]]) -> Result:
    result = Result(seed)
    made: list[C] = []

    async def main(loop: VirtualLoop) -> None:
        made.append(make(loop))
        await script(made[0])

    gc.disable()  # Cycles are collected between runs: a finaliser in the midst of one would not be the seed's doing.
    try:
        run_simulation(main)
    except Exception as error:  # noqa: BLE001  whatever it is, it is the result
        result.error = error
    finally:
        gc.enable()
    cluster = made[0]
    result.digest = cluster.digest
    result.counts = cluster.checks.counts
    result.seconds = cluster.loop.time() - 1000.0
    result.trace = cluster.trace
    return result


async def broker_client(cluster: BrokerCluster, random: Random, until: float) -> None:
    pause = random.choice((0.05, 0.15))
    while cluster.loop.time() < until:
        await asyncio.sleep(random.expovariate(1 / pause))
        if random.random() < 0.3:
            await cluster.fetch(random)
        else:
            await cluster.produce(random)


def run_brokers(seed: int, voters: int = 3, *, keep_trace: bool = False) -> Result:
    """Whole nodes under the same faults: topics, offsets, reads and repairs through the broker."""
    quiet()
    plan = Plan.draw(Random(f"{seed}/plan"), voters)

    async def script(cluster: BrokerCluster) -> None:
        random = Random(f"{seed}/script")
        for node in cluster.nodes.values():
            cluster.start(node)
        await cluster.make_topic(random)
        until = cluster.loop.time() + random.uniform(4, 10)
        clients = [broker_client(cluster, Random(f"{seed}/client{n}"), until) for n in range(random.randint(2, 5))]
        tasks = [asyncio.create_task(one) for one in clients]
        await Nemesis(cluster, Random(f"{seed}/nemesis")).run(until - cluster.loop.time())
        await asyncio.gather(*tasks)
        await cluster.settle()
        await cluster.verify()

    return _judged(seed, lambda loop: BrokerCluster(loop, str(seed), plan, keep_trace), script)


def run_transactions(seed: int, voters: int = 3, *, keep_trace: bool = False) -> Result:
    """Whole nodes under the same faults, with transactions over several partitions and consumer groups."""
    quiet()
    plan = Plan.draw(Random(f"{seed}/plan"), voters)

    async def script(cluster: TransactionCluster) -> None:
        await transactions_script(cluster, Nemesis(cluster, Random(f"{seed}/nemesis")).run)

    return _judged(seed, lambda loop: TransactionCluster(loop, str(seed), plan, keep_trace), script)


def run_pipelines(seed: int, voters: int = 3, *, keep_trace: bool = False) -> Result:
    """Whole nodes under the same faults, with clients that speak to leaders and have several batches under way."""
    quiet()
    plan = Plan.draw(Random(f"{seed}/plan"), voters)

    async def script(cluster: PipelineCluster) -> None:
        await pipelines_script(cluster, Nemesis(cluster, Random(f"{seed}/nemesis")).run)

    return _judged(seed, lambda loop: PipelineCluster(loop, str(seed), plan, keep_trace), script)


def run_compacted(seed: int, voters: int = 3, *, keep_trace: bool = False) -> Result:
    """Whole nodes under the same faults, with a topic that is compacted all the time."""
    quiet()
    plan = Plan.draw(Random(f"{seed}/plan"), voters)

    async def script(cluster: CompactedCluster) -> None:
        await compacted_script(cluster, Nemesis(cluster, Random(f"{seed}/nemesis")).run)

    return _judged(seed, lambda loop: CompactedCluster(loop, str(seed), plan, keep_trace), script)


def run_compacted_transactions(seed: int, voters: int = 3, *, keep_trace: bool = False) -> Result:
    """Transactions under the same faults, in a topic that is compacted all the time."""
    quiet()
    plan = Plan.draw(Random(f"{seed}/plan"), voters)

    async def script(cluster: CompactedTransactions) -> None:
        with small_segments():
            draw_compaction(cluster, Random(f"{seed}/compaction"))
            await transactions_script(cluster, Nemesis(cluster, Random(f"{seed}/nemesis")).run)

    return _judged(seed, lambda loop: CompactedTransactions(loop, str(seed), plan, keep_trace), script)


def run_groups(seed: int, voters: int = 3, *, keep_trace: bool = False) -> Result:
    """Whole nodes under the same faults, with members of consumer groups and the ghosts of those who died."""
    quiet()
    plan = Plan.draw(Random(f"{seed}/plan"), voters)

    async def script(cluster: MemberCluster) -> None:
        await members_script(cluster, Nemesis(cluster, Random(f"{seed}/nemesis")).run)

    return _judged(seed, lambda loop: MemberCluster(loop, str(seed), plan, keep_trace), script)


def run_webhooks(seed: int, voters: int = 3, *, keep_trace: bool = False) -> Result:
    """Whole nodes under the same faults, with a webhook on the topic that clients produce to."""
    quiet()
    plan = Plan.draw(Random(f"{seed}/plan"), voters)

    async def script(cluster: HookCluster) -> None:
        random = Random(f"{seed}/script")
        cluster.receiver = Receiver(cluster, random)
        for node in cluster.nodes.values():
            cluster.start(node)
        await cluster.make_topic(random)
        await cluster.make_hook(random)
        until = cluster.loop.time() + random.uniform(4, 10)
        work = [broker_client(cluster, Random(f"{seed}/client{n}"), until) for n in range(random.randint(1, 3))]
        if random.random() < 0.3:
            work.append(cluster.toggle(Random(f"{seed}/toggle"), until))
        tasks = [asyncio.create_task(one) for one in work]
        await Nemesis(cluster, Random(f"{seed}/nemesis")).run(until - cluster.loop.time())
        settled = asyncio.create_task(cluster.settle())
        await asyncio.gather(*tasks, settled)
        await cluster.verify()

    return _judged(seed, lambda loop: HookCluster(loop, str(seed), plan, keep_trace), script)


def quiet() -> None:
    """What nodes log in a simulated disaster is of no use; the trace tells more."""
    for name in ("consensus", "raftbroker"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def run_seed(seed: int, voters: int = 3, *, keep_trace: bool = False) -> Result:
    """The run that this seed stands for."""
    quiet()
    return run(seed, Plan.draw(Random(f"{seed}/plan"), voters), random_script, keep_trace=keep_trace)
