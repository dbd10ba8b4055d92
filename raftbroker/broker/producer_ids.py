"""Producer ids for idempotent producers: each is given at most once, in the whole cluster and for ever.

The control group gives them to nodes in blocks. A node keeps its block in memory only, so what is left of it when the
node stops is never used; nor is a block whose allocation was repeated because its outcome was unknown.
"""

import asyncio

from consensus.errors import Unknown
from raftbroker.broker.context import CONTROL, Context
from raftbroker.broker.errors import Unavailable
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.wire import Calls
from raftbroker.broker.wire_producers import ALLOCATE_PRODUCER_IDS, AllocateRequest
from raftbroker.state.commands import encode_command
from raftbroker.state.control_commands import AllocateProducerIds

BLOCK = 1000


class ProducerIds:
    def __init__(self, context: Context, router: Router) -> None:
        self._context = context
        self._router = router
        self._lock = asyncio.Lock()
        self._next = self._end = 0

    def serve(self, calls: Calls) -> None:
        calls.serve(ALLOCATE_PRODUCER_IDS, self._allocate_here)

    async def take(self, timeout: float) -> int:
        """A producer id that nobody has been given. Raises Unavailable or UnknownOutcome, and then none is given."""
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(deadline), self._lock:
                if self._next == self._end:
                    first = await self._allocate(deadline)
                    self._next, self._end = first, first + BLOCK
                self._next += 1
                return self._next - 1
        except TimeoutError:
            raise Unavailable("no producer ids could be had from the control group in time: try again") from None

    async def _allocate(self, deadline: float) -> int:
        """The first of a block. A block that nobody hears of is lost, which does no harm: so it may be repeated."""
        return await self._router.at_leader(
            CONTROL,
            ALLOCATE_PRODUCER_IDS,
            lambda left: AllocateRequest(self._context.me, BLOCK, left),
            self._allocate_here,
            deadline,
            Mode.READ,
        )

    async def _allocate_here(self, request: AllocateRequest) -> int:
        group = self._context.leading(CONTROL)
        command = AllocateProducerIds(request.node, request.count)
        index = await group.propose(encode_command(command), timeout=request.timeout, frees_space=True)
        outcome = self._context.control.outcome(index)
        if outcome is None or not outcome.ok:
            raise Unknown(f"what became of the producer ids of entry {index} is not known")
        return outcome.value
