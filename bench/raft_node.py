"""One of the processes that are nothing but consensus and storage: the Raft group alone.

`python -m bench.raft_node ID NODES FOLDER PORT` runs a replica of one group with a state machine that does nothing;
node i listens on PORT+i. Node 1 says when it leads, then reads cases from standard input, one JSON object a line,
drives each and answers one JSON line. The others only follow. All end when standard input ends, so with the benchmark.
"""

import asyncio
import contextlib
import random
import resource
import secrets
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import uvloop

from bench.results import RaftCase, RaftResult, quantile
from consensus.election import ElectionTiming
from consensus.formation import Formation
from consensus.group import Group
from consensus.host import Host
from consensus.identity import take_identity
from consensus.machine import Applied
from consensus.model import Entry, Payload
from consensus.rpc import Rpc
from consensus.status import GroupLimits
from consensus.store import KeyRange, Store
from consensus.tcp import TcpTransport
from consensus.transport import Peer
from raftbroker.config import load
from raftbroker.storage import StorageOptions, open_store, payload_key
from raftbroker.storage.disk import ThreadDisk

KEPT_BYTES = 256 << 20
"""Payload bytes kept, so that a long run does not fill the disk: like retention.bytes."""
LEAD_SECONDS = 30.0
PROPOSE_SECONDS = 30.0


class NullMachine:
    """Keeps up to KEPT_BYTES of payloads, then forgets them, deterministically."""

    def __init__(self) -> None:
        self._kept = 0
        self._start = 0

    def restore(self, rows: dict[bytes, bytes], applied: int) -> None:
        self._start = applied + 1

    def apply(self, entries: Sequence[Entry]) -> Applied:
        applied = Applied()
        for entry in entries:
            self._kept += int.from_bytes(entry.command, "big")
            if self._kept > KEPT_BYTES:
                applied.delete_payloads.append((payload_key(1, self._start), payload_key(1, entry.index)))
                self._start, self._kept = entry.index, 0
        return applied

    def payload_ranges(self) -> list[KeyRange]:
        return []

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        return []

    def led(self, term: int) -> None:
        pass

    def unled(self) -> None:
        pass


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def cpu_of_all(rpc: Rpc, nodes: Sequence[int]) -> list[float]:
    """This node first."""
    answers = await asyncio.gather(*(rpc.call(node, "bench.cpu", b"", 5.0) for node in nodes))
    return [float(answer) for answer in answers]


async def propose_all(group: Group, case: RaftCase, seconds: float) -> list[float]:
    """Keeps `in_flight` entries under way for so long; the milliseconds each took."""
    data = secrets.token_bytes(case.size)
    command = case.size.to_bytes(8, "big")
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        while (began := time.perf_counter()) < end:
            payload = Payload.of(payload_key(1, group.last_index + 1), data)
            await group.propose(command, (payload,), timeout=PROPOSE_SECONDS)
            times.append(1000 * (time.perf_counter() - began))

    await asyncio.gather(*(one_after_the_other() for _ in range(case.in_flight)))
    return times


async def drive(host: Host, group: Group, case: RaftCase, nodes: Sequence[int]) -> RaftResult:
    await propose_all(group, case, case.warm_up)
    before, syncs, began = await cpu_of_all(host.rpc, nodes), host.committer.batches, time.perf_counter()
    times = await propose_all(group, case, case.seconds)
    took, syncs = time.perf_counter() - began, host.committer.batches - syncs
    used = tuple(a - b for a, b in zip(await cpu_of_all(host.rpc, nodes), before, strict=True))
    return RaftResult(
        case.size, case.in_flight, took, len(times), quantile(times, 0.5), quantile(times, 0.99), used, syncs
    )


def election_timing() -> ElectionTiming:
    """As a node has it that is not told otherwise."""
    raft = load(None, [], {}).raft
    return ElectionTiming(raft.heartbeat_ms / 1000, raft.election_min_ms / 1000, raft.election_max_ms / 1000)


def storage_options() -> StorageOptions:
    """As a node has them that is not told otherwise."""
    storage = load(None, [], {}).storage
    return StorageOptions(
        reserve_bytes=storage.reserve_bytes,
        ballast_bytes=storage.ballast_bytes,
        memtable_bytes=storage.memtable_bytes,
        cache_bytes=storage.cache_bytes,
    )


def make_host(
    node: int, nodes: Sequence[int], port: int, store: Store, disk: ThreadDisk, stopping: asyncio.Event
) -> tuple[Host, Formation]:
    """The node's consensus, put together as `raftbroker.node` does, with the defaults of every limit."""
    nonce = secrets.token_hex(8)
    identity = take_identity(store, node, lambda: uuid.uuid4().hex, nonce)
    addresses = {number: f"127.0.0.1:{port + number}" for number in nodes}
    me = Peer(node, identity.member.uuid, identity.boot, nonce, "", addresses[node])
    rng = random.Random()
    transport = TcpTransport(
        me, addresses[node], secret=b"the benchmark's own", random=rng, random_bytes=secrets.token_bytes
    )
    host = Host(
        identity,
        store,
        disk,
        transport,
        clock=time.monotonic,
        random=rng,
        timing=election_timing(),
        limits=GroupLimits(),
        on_fatal=lambda error: stopping.set(),
    )

    async def answer_cpu(peer: Peer, body: bytes) -> bytes:
        return repr(cpu_seconds()).encode()

    host.rpc.register("bench.cpu", answer_cpu)
    transport.set_addresses({number: address for number, address in addresses.items() if number != node})
    return host, Formation(host, set(nodes), lambda: uuid.uuid4().hex)


async def serve(host: Host, group: Group, nodes: Sequence[int]) -> None:
    """Carries out the cases of standard input until it ends."""
    leads = asyncio.Event()
    host.on_role(lambda changed: leads.set() if changed.leading else leads.clear())
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    if host.me.node == 1:
        async with asyncio.timeout(LEAD_SECONDS):
            await leads.wait()
        say(b"leading")
    while line := await reader.readline():
        say(msgspec.json.encode(await drive(host, group, msgspec.json.decode(line, type=RaftCase), nodes)))


def say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


async def run(node: int, count: int, folder: Path, port: int) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    store, _ = open_store(folder / f"raft-{node}", storage_options())
    executor = ThreadPoolExecutor(1)
    nodes = range(1, count + 1)
    disk = ThreadDisk(store, executor)
    host, formation = make_host(node, nodes, port, store, disk, stopping)
    await host.start()
    await formation.belong()
    group = host.open_group(0, NullMachine(), formation.configuration, prefer=node == 1)
    serving = asyncio.create_task(serve(host, group, nodes))
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    failed = serving.exception() if serving.done() else host.broken
    for task in (serving, waiting):
        task.cancel()
    await host.stop()
    disk.close()
    executor.shutdown()
    store.close()
    if failed is not None:
        sys.stderr.write(f"node {node} of the Raft case failed: {type(failed).__name__}: {failed}\n")
    return 1 if failed is not None else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(uvloop.run(run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))))
