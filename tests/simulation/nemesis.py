"""Everything that goes wrong, drawn from the seed: one fault after another while clients write and read.

Faults that lose data for good (a wiped disk, a flipped bit) are kept to a minority of the voters, one after the other:
more is outside what any replication promises. Everything else may hit any number of nodes at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol

from .disk import ROOMY, STAGES, Pace
from .lives import SimNode
from .loop import VirtualLoop
from .network import Network


class Target(Protocol):
    """What faults are done to."""

    loop: VirtualLoop
    network: Network
    nodes: dict[int, SimNode]

    def note(self, text: str) -> None: ...
    def start(self, node: SimNode) -> None: ...
    def crash(self, node: SimNode, keep: int | None = None) -> None: ...
    def later(self, seconds: float, action: Callable[..., object], *arguments: object) -> None: ...
    def wipe_some(self, random: Random) -> None: ...
    def rot_some(self, random: Random) -> None: ...
    def transfer_some(self, random: Random) -> None: ...
    def change_members(self, random: Random) -> None: ...


Fault = Callable[[], Awaitable[None]]


class Nemesis:
    """Runs faults for some virtual seconds. `losses` allows wiped disks and flipped bits."""

    def __init__(self, cluster: Target, random: Random) -> None:
        self.cluster = cluster
        self.random = random
        faults: list[tuple[float, Fault]] = [
            (5, self.crash),
            (4, self.crash_in_a_flush),
            (1, self.power_cut),
            (3, self.isolate),
            (2, self.cut_one_way),
            (1, self.split),
            (2, self.break_connection),
            (2, self.duplicate_connection),
            (2, self.slow_disk),
            (1, self.stuck_disk),
            (1, self.full_disk),
            (1, self.failing_disk),
            (2, self.transfer),
            (1, self.clock_jump),
            (2, self.change_members),
            (0.7, self.wipe),
            (0.7, self.rot),
        ]
        chosen = [fault for fault in faults if random.random() < 0.7] or faults
        self._weights = [weight for weight, _ in chosen]
        self._faults = [fault for _, fault in chosen]
        self._pause_most = random.choice((0.2, 0.6, 1.5))

    async def run(self, seconds: float) -> None:
        loop = self.cluster.loop
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(self.random.uniform(0.01, self._pause_most))
            fault = self.random.choices(self._faults, self._weights)[0]
            self.cluster.note(f"fault {fault.__name__}")  # type: ignore[attr-defined]
            await fault()

    # --- helpers --------------------------------------------------------------------------------------

    def _some(self, up: bool = True) -> SimNode | None:
        nodes = [node for node in self.cluster.nodes.values() if node.up == up]
        return self.random.choice(nodes) if nodes else None

    def _crash(self, node: SimNode, keep: int | None = None) -> None:
        self.cluster.crash(node, keep)
        self.cluster.later(self.random.uniform(0.02, 2.5), self.cluster.start, node)

    # --- nodes ----------------------------------------------------------------------------------------

    async def crash(self) -> None:
        node = self._some()
        if node is not None:
            self._crash(node, self.random.choice((None, None, 0, 10**9)))

    async def crash_in_a_flush(self) -> None:
        """At a stage of one of the next flushes: before the write, between write and sync, or just after."""
        node = self._some()
        if node is None or node.disk is None:
            return
        stage = self.random.choice(STAGES)
        left = self.random.randint(1, 6)

        def reached(at: str) -> None:
            nonlocal left
            left -= at == stage
            if left <= 0 and node.up:
                self._crash(node, None)

        node.disk.on_stage = reached

    async def power_cut(self) -> None:
        for node in self.cluster.nodes.values():
            if node.up:
                self._crash(node)

    async def transfer(self) -> None:
        self.cluster.transfer_some(self.random)

    async def clock_jump(self) -> None:
        node = self._some()
        if node is not None:
            node.wall_offset_ms += self.random.choice((-1, 1)) * self.random.randint(1, 10**8)

    async def change_members(self) -> None:
        self.cluster.change_members(self.random)

    # --- network --------------------------------------------------------------------------------------

    def _heal_later(self) -> None:
        self.cluster.later(self.random.choice((0.2, 1.0, 3.0, 6.0)), self.cluster.network.heal)

    async def isolate(self) -> None:
        node = self._some()
        if node is not None:
            self.cluster.network.isolate(node.id, list(self.cluster.nodes))
            self._heal_later()

    async def cut_one_way(self) -> None:
        ids = list(self.cluster.nodes)
        if len(ids) > 1:
            self.cluster.network.block(*self.random.sample(ids, 2))
            self._heal_later()

    async def split(self) -> None:
        ids = list(self.cluster.nodes)
        side = set(self.random.sample(ids, self.random.randint(0, len(ids))))
        for one in ids:
            for other in ids:
                if (one in side) != (other in side):
                    self.cluster.network.block(one, other)
        self._heal_later()

    async def break_connection(self) -> None:
        self.cluster.network.break_some()

    async def duplicate_connection(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            self.cluster.network.duplicate_some()

    # --- disks ----------------------------------------------------------------------------------------

    async def slow_disk(self) -> None:
        node = self._some()
        if node is not None:
            node.platter.pace = Pace(0.01, self.random.choice((0.05, 0.5)), 0.1, 1.0)
            self.cluster.later(self.random.uniform(0.5, 4), setattr, node.platter, "pace", Pace())

    async def stuck_disk(self) -> None:
        node = self._some()
        if node is not None:
            node.platter.stuck = True
            self.cluster.later(self.random.uniform(0.2, 4), setattr, node.platter, "stuck", False)

    async def full_disk(self) -> None:
        node = self._some()
        if node is not None:
            node.platter.capacity = node.platter.current.size + self.random.randint(0, 2000)
            self.cluster.later(self.random.uniform(0.5, 4), setattr, node.platter, "capacity", ROOMY)

    async def failing_disk(self) -> None:
        """Its next sync fails: the node can promise nothing any more and stops."""
        node = self._some()
        if node is not None:
            node.platter.failing = True

    async def wipe(self) -> None:
        self.cluster.wipe_some(self.random)

    async def rot(self) -> None:
        self.cluster.rot_some(self.random)
