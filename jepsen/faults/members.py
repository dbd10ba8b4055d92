"""Faults that the cluster itself carries out: nodes that join, and leadership that is handed around without rest."""

import asyncio

from jepsen.cluster import Node
from jepsen.faults.base import Fault, Skipped

NODES_MAX = 5
STORM_PAUSE_SECONDS = 0.15


class Join(Fault):
    """A node joins that was not there before; groups that wait for replicas gain one.

    Up to five nodes, and one at least: a sixth that no group needs must disturb nothing."""

    name = "membership"
    settles = True

    async def begin(self) -> str:
        most = max(NODES_MAX, self.field.nodes + 1)
        if len(self.field.numbers) >= most:
            raise Skipped(f"the cluster has {most} nodes: no more join")
        number = await self.field.cluster.add(self.prepare_joining)
        self.field.view.know(self.field.cluster.urls)
        return f"node {number} joins"

    def prepare_joining(self, node: Node) -> None:
        for kind in self.field.preparing:
            kind.prepare(node)

    async def end(self) -> None:
        """A node that has joined stays."""


class Storm(Fault):
    """Every moment some group is told to be led by somebody else."""

    name = "transfer"

    async def begin(self) -> str:
        self._task = asyncio.create_task(self._storm())
        return f"every {STORM_PAUSE_SECONDS} s"

    async def _storm(self) -> None:
        field = self.field
        groups = [group.number for group in await field.view.groups()] or [0]
        while True:
            group, target = field.random.choice(groups), field.random.choice(field.numbers)
            await field.view.transfer(group, target, field.random.randrange(len(field.numbers)))
            await asyncio.sleep(STORM_PAUSE_SECONDS)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
