"""Queues on three whole nodes in this process: any node takes any request, and leaders die in the middle."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from raftbroker.broker.errors import BrokerError, Retriable, UnknownOutcome
from raftbroker.broker.queue_views import MessageDraft, ReceivedMessage
from raftbroker.broker.queues import Queues
from tests.unit.broker.nodes import TestNode, cluster, until


def run(directory: Path, work: Callable[[list[TestNode]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with cluster(directory, 3) as nodes:
            await until(lambda: ready(nodes), seconds=30)
            await work(nodes)

    asyncio.run(main())


def ready(nodes: list[TestNode]) -> bool:
    """Every shard is led and on all three."""
    shards = nodes[0].broker._context.control.shards
    if not shards or sum(len(node.broker.shards.led()) for node in nodes) != len(shards):
        return False
    groups = [nodes[0].broker._context.control.group(shard) for shard in shards]
    if not all(group is not None and len(group.nodes) == 3 for group in groups):
        return False
    replicas = [node.broker._context.host.groups.get(shard) for node in nodes for shard in shards]
    return all(replica is not None and len(replica.configuration.voters) == 3 for replica in replicas)


def drafts(*bodies: str, receipt: str = "") -> list[MessageDraft]:
    return [MessageDraft(body=body.encode(), is_json=False, dedup_id=body, receipt=receipt) for body in bodies]


def leader_of(nodes: list[TestNode], queue: str) -> TestNode:
    shard = nodes[0].broker.shards.shard_of(queue)
    return next(node for node in nodes if node.core is not None and shard in node.broker.shards.led())


async def insist(nodes: list[TestNode], call: Callable[[Queues], Awaitable[object]]) -> object:
    """Asks one node after the other until it is done; for calls that may be repeated."""
    for turn in itertools.count():
        node = nodes[turn % len(nodes)]
        if node.core is not None:
            try:
                return await call(node.broker.queues)
            except (Retriable, UnknownOutcome):
                pass
        assert turn < 1000
        await asyncio.sleep(0.05)
    raise AssertionError


def test_any_node_takes_any_request(tmp_path: Path) -> None:
    async def work(nodes: list[TestNode]) -> None:
        one, two, three = (node.broker.queues for node in nodes)
        for number, queues in enumerate((one, two, three)):
            name = f"queue-{number}"
            await queues.put(name, {"dead.letter.queue": "dead"})
            waiting = asyncio.create_task(two.receive(name, consumer="c", count=5, wait=20.0))
            sent = await three.send(name, drafts("a", "b"))
            fate = asyncio.create_task(one.fate(name, sent[0].id, wait=20.0, known="waiting"))
            found = await waiting
            while len(found) < 2:
                found += await two.receive(name, consumer="c", count=5, wait=20.0)
            assert [message.id for message in found] == [message.id for message in sent]
            assert (await fate).state == "locked"
            await one.acknowledge(name, [found[0].lock_token])
            await three.reject(name, [found[1].lock_token], reason="no")
            (dead,) = await one.receive("dead", consumer="c", wait=20.0)
            assert dead.dead_letter is not None
            assert (dead.dead_letter.queue, dead.dead_letter.id) == (name, sent[1].id)
            await two.acknowledge("dead", [dead.lock_token])
        for queues in (one, two, three):
            assert [info.name for info in await queues.list_queues()] == ["dead", "queue-0", "queue-1", "queue-2"]
        assert sum(len(queues.infos()) for queues in (one, two, three)) == 4

    run(tmp_path, work)


def test_a_receive_that_waits_survives_its_leader(tmp_path: Path) -> None:
    async def work(nodes: list[TestNode]) -> None:
        await nodes[0].broker.queues.put("q", {})
        leader = leader_of(nodes, "q")
        other = next(node for node in nodes if node is not leader)
        waiting = asyncio.create_task(other.broker.queues.receive("q", consumer="c", wait=30.0))
        await asyncio.sleep(0.2)
        await leader.kill()
        await insist([other], lambda queues: queues.send("q", drafts("late"), timeout=5.0))
        (message,) = await waiting
        assert message.body == b"late"
        await leader.start()

    run(tmp_path, work)


def test_dead_letters_and_receipts_arrive_once_though_leaders_die(tmp_path: Path) -> None:
    async def work(nodes: list[TestNode]) -> None:
        queues = nodes[0].broker.queues
        names = [f"source-{number}" for number in range(4)]
        bodies = {name: [f"{name}/{n}" for n in range(60)] for name in names}
        held: dict[str, list[ReceivedMessage]] = {}
        for name in names:
            await queues.put(name, {"dead.letter.queue": "dead"})
            await queues.send(name, drafts(*bodies[name], receipt="queue:replies"))
            held[name] = await queues.receive(name, consumer="c", count=60)
        rejecting = [
            asyncio.create_task(reject_slowly(nodes, name, [message.lock_token for message in held[name]]))
            for name in names
        ]
        for name in ("dead", "source-0", "replies"):
            victim = leader_of(nodes, name)
            await victim.kill()
            await asyncio.sleep(0.3)
            await victim.start()
            await until(lambda: ready(nodes), seconds=30)
        await asyncio.gather(*rejecting)
        dead = await drain(nodes, "dead", 240)
        assert Counter(message.body.decode() for message in dead) == Counter(itertools.chain(*bodies.values()))
        origins = Counter((m.dead_letter.queue, m.dead_letter.id) for m in dead if m.dead_letter is not None)
        assert set(origins.values()) == {1}
        assert set(origins) == {(name, message.id) for name in names for message in held[name]}
        replies = await drain(nodes, "replies", 240)
        assert len(replies) == 240
        assert len({message.body for message in replies}) == 240
        await asyncio.sleep(0.5)
        for name in ("dead", "replies"):
            assert (await nodes[0].broker.queues.get(name)).depth == 0, "nothing comes twice"

    run(tmp_path, work)


async def reject_slowly(nodes: list[TestNode], name: str, tokens: list[str]) -> None:
    for at in range(0, len(tokens), 5):
        some = tokens[at : at + 5]
        settled = await insist(nodes, lambda queues, some=some: queues.reject(name, some, timeout=5.0))  # type: ignore[misc]
        assert not any(one.lost for one in settled)  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)


async def drain(nodes: list[TestNode], name: str, count: int) -> list[ReceivedMessage]:
    """So many messages, acknowledged one by one request."""
    found: list[ReceivedMessage] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            try:
                some = await nodes[0].broker.queues.receive(name, consumer="c", count=50, wait=2.0)
            except BrokerError:
                await asyncio.sleep(0.1)
                continue
            if some:
                tokens = [message.lock_token for message in some]
                await insist(nodes, lambda queues, tokens=tokens: queues.acknowledge(name, tokens))  # type: ignore[misc]
            found += some
    return found
