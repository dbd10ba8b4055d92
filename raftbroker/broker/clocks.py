"""Whether a majority's wall clocks have agreed with this node's for a while: what believing its time waits for.

Nodes ask each other for the time once a minute; half of the call's time is taken off. A node that does not answer
agrees with nobody. A node's own clock that parts from its monotonic one has jumped: everything begins anew. So does it
with each start of the process, for a clock that was wrong then is mostly set right within minutes.
"""

import asyncio
import logging

from consensus.errors import ConsensusError
from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.wire import CLOCK, ReportRequest

log = logging.getLogger(__name__)

AGREE_MS = 60_000
SETTLE_SECONDS = 600.0
ASK_EVERY_SECONDS = 60.0
ASK_TIMEOUT_SECONDS = 2.0


class Clocks:
    def __init__(self, context: Context) -> None:
        self._context = context
        self.settle_seconds = SETTLE_SECONDS
        """For how long clocks must have agreed."""
        self._agreeing: dict[int, float] = {}
        """node -> since when its clock has agreed with this node's, on the monotonic clock"""
        self._asked = -1e9
        self._monotonic = self._steady = context.clock()
        """When this node's clock was last looked at; since when it has not jumped."""
        self._wall = context.wall()
        self._warned = False

    async def serve(self, request: ReportRequest) -> int:
        return self._context.wall()

    async def agree(self, nodes: frozenset[int]) -> bool:
        """Whether this node's wall clock and those of a majority of `nodes`, this one counted, have long agreed."""
        me = self._context.me
        jumped = self._jumped()
        started = self._context.clock()
        others = [node.id for node in self._context.control.nodes() if node.id != me]
        missing = any(node not in self._agreeing for node in nodes if node != me)
        due = jumped or missing or started - self._asked > ASK_EVERY_SECONDS
        if due and started - self._asked > ASK_TIMEOUT_SECONDS:
            self._asked = started
            await asyncio.gather(*(self._ask(node) for node in others))
            self._jumped()
        agreeing = [self._agreeing[node] for node in nodes if node != me and node in self._agreeing]
        majority = len(nodes | {me}) // 2 + 1
        self._warn(1 + len(agreeing), majority, len(nodes))
        settled = self._context.clock() - self.settle_seconds
        return self._steady <= settled and 1 + sum(1 for since in agreeing if since <= settled) >= majority

    def _warn(self, agreeing: int, majority: int, nodes: int) -> None:
        wrong = agreeing < majority
        if wrong and not self._warned:
            log.warning(
                "trimming by age is late: the clocks of %d of %d replicas agree within %d s with this node's; set them",
                agreeing,
                nodes,
                AGREE_MS // 1000,
            )
        self._warned = wrong

    def _jumped(self) -> bool:
        """Whether this node's own wall clock has parted from its monotonic one since the last look."""
        monotonic, wall = self._context.clock(), self._context.wall()
        jump_ms = abs((wall - self._wall) - (monotonic - self._monotonic) * 1000)
        self._monotonic, self._wall = monotonic, wall
        if jump_ms > AGREE_MS / 2:
            self._agreeing.clear()
            self._steady = monotonic
            return True
        return False

    async def _ask(self, node: int) -> None:
        started, wall = self._context.clock(), self._context.wall()
        try:
            theirs = await self._context.calls.call(node, CLOCK, ReportRequest(), ASK_TIMEOUT_SECONDS)
        except (ConsensusError, BrokerError):
            self._agreeing.pop(node, None)
            return
        spent = self._context.clock() - started
        if abs(theirs - wall - int(spent * 500)) <= AGREE_MS:
            self._agreeing.setdefault(node, started)
        else:
            self._agreeing.pop(node, None)
