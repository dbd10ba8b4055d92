"""The broker's promise, on real processes: kill -9 any minority, again and again, and nothing acknowledged is lost."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.cluster.dev import DevCluster, dev_cluster
from tests.cluster.workload import Account, create_topic, produce_while, verify

pytestmark = pytest.mark.cluster

RECORDS_MIN = 100_000


async def _kill_in_turn(cluster: DevCluster, kills: int, at_once: int) -> None:
    """Kills `at_once` nodes at a time, each in its turn, and waits until they are back before the next."""
    loop = asyncio.get_running_loop()
    turn = 0
    for _ in range(kills // at_once):
        victims = [(turn + n) % cluster.nodes + 1 for n in range(at_once)]
        turn += at_once
        for victim in victims:
            cluster.kill(victim)
        await asyncio.sleep(0.7)
        await loop.run_in_executor(None, cluster.wait_ready, *victims)
        await asyncio.sleep(0.5)


async def _run(cluster: DevCluster, replication_factor: int, kills: int, at_once: int) -> tuple[Account, int]:
    await create_topic(cluster.urls, 6, replication_factor)
    account = Account()
    killing = asyncio.create_task(_kill_in_turn(cluster, kills, at_once))
    await produce_while(cluster.urls, 6, RECORDS_MIN, lambda: not killing.done(), account)
    await killing
    return account, await verify(cluster.urls, account)


@pytest.mark.parametrize(
    ("nodes", "replication_factor", "at_once"), [(3, 3, 1), (5, 5, 2)], ids=["three-nodes", "five-nodes-two-at-once"]
)
def test_every_acknowledged_record_survives_twenty_kills(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nodes: int, replication_factor: int, at_once: int
) -> None:
    with dev_cluster(tmp_path, nodes) as cluster:
        began = time.monotonic()
        try:
            account, read = asyncio.run(_run(cluster, replication_factor, kills=20, at_once=at_once))
        except BaseException:
            with capsys.disabled():
                print(cluster.output())
            raise
        seconds = time.monotonic() - began
    with capsys.disabled():
        print(
            f"\n{nodes} nodes, 20 kills, {at_once} at once: {account.records} records acknowledged "
            f"({account.repeats} requests repeated), {read} read back from each of {nodes} nodes, in {seconds:.0f} s"
        )
    assert account.records >= RECORDS_MIN
    assert read == account.records
