"""Whether a majority's wall clocks agree with this node's: what trimming by age waits for.

Nodes ask each other for the time once a minute; half of the call's time is taken off. A node that does not answer
agrees with nobody.
"""

import asyncio
import logging

from consensus.errors import ConsensusError
from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.wire import CLOCK, ReportRequest

log = logging.getLogger(__name__)

AGREE_MS = 60_000
ASK_EVERY_SECONDS = 60.0
ASK_TIMEOUT_SECONDS = 2.0


class Clocks:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._offsets: dict[int, tuple[float, int]] = {}
        """node -> (when asked, on the loop's clock; how far its wall clock is ahead of this node's, ms)"""
        self._asked = -1e9
        self._monotonic = 0.0
        self._wall = 0
        self._warned = False

    async def serve(self, request: ReportRequest) -> int:
        return self._context.wall()

    async def agree(self, nodes: frozenset[int]) -> bool:
        """Whether this node's wall clock agrees with those of a majority of `nodes`, this one counted."""
        now = asyncio.get_running_loop().time()
        others = [node.id for node in self._context.control.nodes() if node.id != self._context.me]
        missing = any(node not in self._offsets for node in nodes if node != self._context.me)
        due = self._jumped() or missing or now - self._asked > ASK_EVERY_SECONDS
        if due and now - self._asked > ASK_TIMEOUT_SECONDS:
            self._asked = now
            await asyncio.gather(*(self._ask(node) for node in others))
        agreeing = 1 + sum(1 for node in nodes if node != self._context.me and self._agrees(node))
        good = agreeing > len(nodes | {self._context.me}) // 2
        if not good and not self._warned:
            log.warning(
                "trimming by age waits: the clocks of %d of %d replicas agree within %d s with this node's; set them",
                agreeing,
                len(nodes),
                AGREE_MS // 1000,
            )
        self._warned = not good
        return good

    def _jumped(self) -> bool:
        """Whether this node's own wall clock has parted from its monotonic one since the last look."""
        monotonic, wall = self._context.clock(), self._context.wall()
        jump_ms = abs((wall - self._wall) - (monotonic - self._monotonic) * 1000)
        self._monotonic, self._wall = monotonic, wall
        if jump_ms > AGREE_MS / 2:
            self._offsets.clear()
            return True
        return False

    def _agrees(self, node: int) -> bool:
        known = self._offsets.get(node)
        return known is not None and abs(known[1]) <= AGREE_MS

    async def _ask(self, node: int) -> None:
        started, wall = self._context.clock(), self._context.wall()
        self._offsets.pop(node, None)
        try:
            theirs = await self._context.calls.call(node, CLOCK, ReportRequest(), ASK_TIMEOUT_SECONDS)
        except (ConsensusError, BrokerError):
            return
        spent = self._context.clock() - started
        self._offsets[node] = (started, theirs - wall - int(spent * 500))
