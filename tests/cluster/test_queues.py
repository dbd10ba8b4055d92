"""Queues on real processes: consumers that crash, give back, refuse and forget, and leaders killed in the middle.

Each message is acknowledged exactly once or stands in the dead-letter queue, receipts and fates say the same, and no
two consumers ever hold one lock. The suite runs a few thousand messages; the whole number is run by

    RAFTBROKER_QUEUE_MESSAGES=50000 .venv/bin/python -m pytest tests/cluster/test_queues.py
"""

import asyncio
import os
import random
import re
import time
from pathlib import Path

import aiohttp
import pytest

from tests.cluster.dev import DevCluster, dev_cluster
from tests.cluster.queue_history import History, problems_of
from tests.cluster.queue_workload import (
    DEAD,
    QUEUE,
    REPLIES,
    Run,
    Webhook,
    consume_all,
    drain,
    look_at_fates,
    make_queues,
    send_all,
    told_by,
)

pytestmark = pytest.mark.cluster

MESSAGES = int(os.environ.get("RAFTBROKER_QUEUE_MESSAGES", "5000"))
CONSUMERS = 20
FATES_LOOKED_AT = 500
DEPTH = re.compile(rf'^raftbroker_queue_depth{{queue="{QUEUE}"}} (\S+)$', re.MULTILINE)


async def _leader(cluster: DevCluster, run: Run) -> int | None:
    """The node that leads the queue's shard: its metrics show the queue."""
    for node in range(1, cluster.nodes + 1):
        try:
            async with run.session.get(f"{cluster.url(node)}/metrics") as answer:
                if DEPTH.search(await answer.text()):
                    return node
        except aiohttp.ClientError:
            continue
    return None


async def _kill_while(cluster: DevCluster, run: Run, work: "asyncio.Task[None]") -> tuple[int, int]:
    """Once a tenth is consumed, kills the queue's leader, waits until it is back, and so with any node by turns, as
    long as there is work. How many kills, and how many of them were of the queue's leader."""
    loop = asyncio.get_running_loop()
    kills = led = 0
    while len(run.history.acknowledged) < MESSAGES / 10 and not work.done():
        await asyncio.wait({work}, timeout=0.02)
    while not work.done():
        leader = await _leader(cluster, run)
        victim = leader if leader is not None and kills % 3 != 2 else kills % cluster.nodes + 1
        cluster.kill(victim)
        kills += 1
        led += victim == leader
        await asyncio.sleep(0.7)
        await loop.run_in_executor(None, cluster.wait_ready, victim)
        await asyncio.sleep(2.0)
    return kills, led


async def _run(cluster: DevCluster, history: History) -> tuple[int, int]:
    timeout = aiohttp.ClientTimeout(total=40)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
        Webhook(history, random.Random(8)).listening() as webhook,
    ):
        run = Run(cluster.urls, history, random.Random(7), session, webhook)
        await make_queues(run)
        work = asyncio.create_task(_work(run))
        kills = await _kill_while(cluster, run, work)
        await work
        history.dead += [message["dead_letter"]["id"] for message in await drain(run, DEAD)]
        await look_at_fates(run, FATES_LOOKED_AT)
        history.receipts += [told_by(message["body"]) for message in await drain(run, REPLIES)]
        return kills


async def _work(run: Run) -> None:
    await asyncio.gather(send_all(run, MESSAGES), consume_all(run, CONSUMERS))


def test_every_message_is_consumed_once_or_dead_through_kills(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFTBROKER_WEBHOOKS__ALLOWED_NETWORKS", "127.0.0.0/8")
    history = History(DEAD)
    with dev_cluster(tmp_path, 3) as cluster:
        began = time.monotonic()
        try:
            kills, led = asyncio.run(_run(cluster, history))
        except BaseException:
            with capsys.disabled():
                print(cluster.output())
            raise
        seconds = time.monotonic() - began
    problems = problems_of(history)
    with capsys.disabled():
        done = ", ".join(f"{what} {count}" for what, count in sorted(history.done.items()))
        print(
            f"\n{len(history.sent)} messages, {CONSUMERS} consumers, {kills} kills, {led} of the queue's leader, in "
            f"{seconds:.0f} s: {len(history.holds)} deliveries, {len(history.acknowledged)} acknowledged and answered, "
            f"{len(history.dead)} dead, {len(history.receipts)} receipts in a queue and {len(history.posted)} posted "
            f"for {len({told.id for told in history.posted})} messages ({done}); {len(problems)} problems"
        )
    assert problems[:20] == []
    assert len(history.sent) == MESSAGES
    assert led >= 1
    assert history.done["crashed"] > 0
    assert history.done["crashed while it acknowledged"] > 0
    assert history.done["kept too long"] > 0
    assert history.dead
