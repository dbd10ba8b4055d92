"""Whole nodes without front doors, in this process: real RocksDB, real sockets on loopback, real clocks."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from consensus.election import ElectionTiming
from consensus.identity import take_identity
from consensus.status import GroupLimits
from consensus.tcp import TcpTransport
from consensus.transport import Peer
from raftbroker.broker.broker import Broker
from raftbroker.broker.context import BrokerOptions
from raftbroker.node import Core, Outside, Settings
from raftbroker.state.batch import RecordDraft, encode_batch
from raftbroker.storage import StorageOptions, open_store
from raftbroker.storage.disk import ThreadDisk
from tests.ports import free_port

TIMING = ElectionTiming(0.05, 0.3, 0.6)


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


@dataclass
class TestNode:
    __test__ = False

    id: int
    directory: Path
    initial: dict[int, str]
    address: str
    join: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    core: Core | None = None
    fatal: BaseException | None = None
    wall_ahead_ms: int = 0

    @property
    def broker(self) -> Broker:
        assert self.core is not None
        return self.core.broker

    async def start(self) -> None:
        self.store, records = open_store(self.directory, StorageOptions(reserve_bytes=0, ballast_bytes=0))
        rng = random.Random(self.id)
        nonce = f"{rng.getrandbits(64):x}{uuid.uuid4().hex}"
        identity = take_identity(self.store, self.id, lambda: uuid.uuid4().hex, nonce)
        self.executor = ThreadPoolExecutor(1)
        me = Peer(self.id, identity.member.uuid, identity.boot, nonce, "", self.address)
        transport = TcpTransport(
            me, self.address, secret=b"a secret for tests only, long enough", random=rng, random_bytes=random.randbytes
        )
        loop = asyncio.get_running_loop()
        outside = Outside(loop.time, self._wall, rng, lambda: uuid.uuid4().hex)
        given: dict[str, object] = {"reconcile_every": 0.05, "retention_check": 3600.0, "transfer_quiet": 1.0}
        settings = Settings(
            TIMING,
            GroupLimits(),
            BrokerOptions(peer=self.address, http="", **(given | self.options)),  # type: ignore[arg-type]
            self.initial,
            self.join,
        )
        disk = ThreadDisk(self.store, self.executor)
        self.core = Core(identity, self.store, records, disk, transport, outside, settings, self._failed)
        await self.core.start()

    def _wall(self) -> int:
        import time

        return time.time_ns() // 1_000_000 + self.wall_ahead_ms

    def _failed(self, error: BaseException) -> None:
        self.fatal = error

    async def kill(self) -> None:
        """As a crash: nothing more is written or sent."""
        assert self.core is not None
        core, self.core = self.core, None
        core.abandon()
        await core.host.transport.stop()
        await core.broker.stop()
        await core.host.rpc.stop()
        self.executor.shutdown(wait=True)
        self.store.close()

    async def stop(self) -> None:
        if self.core is not None:
            core, self.core = self.core, None
            await core.stop()
            self.executor.shutdown(wait=True)
            self.store.close()


@asynccontextmanager
async def cluster(directory: Path, count: int, **options: object) -> AsyncIterator[list[TestNode]]:
    """`count` nodes that form a cluster, ready to serve."""
    initial = {number: free_address() for number in range(1, count + 1)}
    nodes = [TestNode(n, directory / f"node-{n}", initial, initial[n], options=options) for n in initial]
    try:
        for node in nodes:
            await node.start()
        for node in nodes:
            await until(lambda node=node: node.broker.readiness().ready)  # type: ignore[misc]
        await until(lambda: len(nodes[0].broker._context.control.nodes()) == count)
        yield nodes
        assert [node.fatal for node in nodes if node.fatal is not None] == []
    finally:
        for node in nodes:
            await node.stop()


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = 10.0, every: float = 0.01
) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        met = condition()
        if not isinstance(met, bool):
            met = await met
        if met:
            return
        assert asyncio.get_running_loop().time() < deadline, "it did not come about in time"
        await asyncio.sleep(every)


def batch_of(*values: bytes, timestamp: int | None = None, producer: tuple[int, int, int] | None = None) -> bytes:
    import time

    now = time.time_ns() // 1_000_000 if timestamp is None else timestamp
    producer_id, epoch, sequence = producer or (-1, -1, -1)
    return encode_batch(
        [RecordDraft(value=value) for value in values],
        base_timestamp=now,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
    )
