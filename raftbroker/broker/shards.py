"""Reaching the coordinator shard of a name, from any node.

`submit` has an op decided by the shard and answers with its outcome; `query` reads what is applied, linearizably.
Services that run beside a shard on the node that leads it (long polls, sessions, drivers) hear of leadership by
`on_led` and `on_unled`, and wait for changes of a name by `changed`.
"""

import asyncio
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from consensus.errors import Damaged, NotLeader, Refused, UnknownCommand
from raftbroker.broker.context import Context
from raftbroker.broker.errors import Unavailable
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.shard_leader import Listener, ShardLeader
from raftbroker.broker.wire import Calls
from raftbroker.broker.wire_shards import SHARD_OP, SHARD_QUERY, ShardOpRequest, ShardQueryRequest
from raftbroker.state.parts import shard_machine
from raftbroker.state.shard import Op, Part, Query, ShardMachine

O = TypeVar("O")  # noqa: E741  an outcome
P = TypeVar("P", bound=Part)

_encode = msgspec.msgpack.Encoder().encode


def shard_number(name: str, count: int) -> int:
    """Which of `count` shards a name belongs to: for ever the same."""
    return zlib.crc32(name.encode()) % count


class Shards:
    def __init__(self, context: Context, router: Router) -> None:
        self._context = context
        self._router = router
        self._leaders: dict[int, ShardLeader] = {}
        self._led: list[Listener] = []
        self._unled: list[Listener] = []

    def serve(self, calls: Calls) -> None:
        calls.serve(SHARD_OP, self._op_here)
        calls.serve(SHARD_QUERY, self._query_here)

    def machine(self, group: int) -> ShardMachine:
        """A machine for a replica that is about to be opened here."""
        previous = self._leaders.get(group)
        if previous is not None:
            previous.close()
        machine = shard_machine(group)
        self._leaders[group] = ShardLeader(self._context, machine, self._on_led, self._on_unled)
        return machine

    def stop(self) -> None:
        for leader in self._leaders.values():
            leader.close()

    # --- where --------------------------------------------------------------------------------------------

    def all(self) -> tuple[int, ...]:
        """The Raft groups that are shards. Raises Unavailable while they are not made."""
        shards = self._context.control.shards
        if not shards:
            raise Unavailable("the cluster has not made its coordinator shards yet: try again in a moment")
        return shards

    def shard_of(self, name: str) -> int:
        """The Raft group that coordinates a consumer group, transactional id or queue. Raises Unavailable."""
        shards = self.all()
        return shards[shard_number(name, len(shards))]

    def leader_of(self, name: str) -> int | None:
        """The node that leads the name's shard, as known here."""
        return self._router.leader_of(self.shard_of(name))

    def leads(self, name: str) -> bool:
        """Whether this node leads the name's shard, and is ready to decide."""
        leader = self._leaders.get(self.shard_of(name))
        return leader is not None and leader.leading

    def led(self) -> list[int]:
        """The shards that this node leads."""
        return [group for group, leader in self._leaders.items() if leader.leading]

    def on_led(self, callback: Listener) -> None:
        """`callback(shard)` once this node leads the shard, all earlier ops applied."""
        self._led.append(callback)

    def on_unled(self, callback: Listener) -> None:
        self._unled.append(callback)

    def _on_led(self, shard: int) -> None:
        for callback in self._led:
            callback(shard)

    def _on_unled(self, shard: int) -> None:
        for callback in self._unled:
            callback(shard)

    # --- on any node --------------------------------------------------------------------------------------

    async def submit(
        self, op: Op[O], timeout: float, *, mode: Mode = Mode.ONCE, payloads: Sequence[bytes] = (), shard: int = 0
    ) -> O:
        """What became of the op. `mode` REPEATABLE for an op that may be decided twice and means the same.
        `shard` where it is not that of the op's name."""
        raw = _encode(op)
        await self.made(timeout)
        group = shard or self.shard_of(op.name)

        async def here(request: ShardOpRequest) -> Any:
            return await self._leader(group).submit(raw, payloads, request.timeout)

        outcome: Any = await self._router.at_leader(
            group,
            SHARD_OP,
            lambda left: ShardOpRequest(self._context.control_index, group, left, raw, tuple(payloads)),
            here,
            asyncio.get_running_loop().time() + timeout,
            mode,
        )
        typed: O = self._typed(outcome, op.outcome)
        return typed

    async def query(self, query: Query[O], timeout: float, *, shard: int = 0) -> O:
        """Linearizable. `shard` where it is not that of the query's name."""
        await self.made(timeout)
        group = shard or self.shard_of(query.name)
        raw = _encode(query)

        async def here(request: ShardQueryRequest) -> Any:
            leader = self._leader(group)
            await leader.group().read_barrier(request.timeout)
            return leader.machine.query(query)

        answer: Any = await self._router.at_leader(
            group,
            SHARD_QUERY,
            lambda left: ShardQueryRequest(self._context.control_index, group, left, raw),
            here,
            asyncio.get_running_loop().time() + timeout,
            Mode.READ,
        )
        typed: O = self._typed(answer, query.answer)
        return typed

    async def made(self, timeout: float) -> None:
        """A node that has just started may not know yet that there are shards: asks it of its control state once."""
        if not self._context.control.shards:
            group = self._context.control_group
            await self._context.control_reached(group.commit, min(timeout, 2.0))

    def _typed(self, answer: Any, kind: Any) -> Any:
        """What came from another node is bytes."""
        return msgspec.msgpack.decode(answer, type=kind) if isinstance(answer, bytes) else answer

    # --- on the shard's leader ----------------------------------------------------------------------------

    def _leader(self, group: int) -> ShardLeader:
        """Raises NotLeader."""
        leader = self._leaders.get(group)
        if leader is None:
            self._context.leading(group)
            raise NotLeader(group, None, "this is not a coordinator shard")
        return leader

    async def submit_here(self, op: Op[O], timeout: float, payloads: Sequence[bytes] = (), *, shard: int = 0) -> O:
        """Where this node leads the op's shard. Raises NotLeader and other Refused, Unknown, Throttled."""
        leader = self._leader(shard or self.shard_of(op.name))
        outcome: O = await leader.submit(_encode(op), payloads, timeout)
        return outcome

    async def _op_here(self, request: ShardOpRequest) -> bytes:
        await self._context.as_far_as(request)
        leader = self._leader(request.group)
        try:
            leader.machine.decode(request.op)
        except UnknownCommand as error:  # another version's: it must not get into the log
            raise Refused(str(error)) from error
        return _encode(await leader.submit(request.op, request.payloads, request.timeout))

    async def _query_here(self, request: ShardQueryRequest) -> bytes:
        await self._context.as_far_as(request)
        leader = self._leader(request.group)
        try:
            query = leader.machine.decode_query(request.query)
        except msgspec.DecodeError as error:
            raise Refused(f"this version does not know the query: {error}") from error
        await leader.group().read_barrier(request.timeout)
        return _encode(leader.machine.query(query))

    def part(self, shard: int, kind: type[P]) -> P:
        """A part's applied state where this node has the shard's replica. Raises NotLeader where it has not."""
        return self._leader(shard).machine.part(kind)

    def now_ms(self, shard: int) -> int:
        """The shard's time; this node leads it."""
        return self._leader(shard).now_ms()

    async def barrier(self, shard: int, timeout: float) -> None:
        """Returns once this node is known to lead the shard and to have applied all that was acknowledged."""
        await self._leader(shard).group().read_barrier(timeout)

    async def changed(self, name: str, deadline: float, *, shard: int = 0) -> bool:
        """Waits on the leader of the name's shard (or of `shard`) for an op that touches the name; False at the
        deadline."""
        return await self._leader(shard or self.shard_of(name)).changed(name, deadline)

    def payload(self, shard: int, number: int) -> bytes:
        """A payload the applied state refers to. A missing one is damage: the replica leaves its group."""
        return self.payloads(shard, (number,))[0]

    def payloads(self, shard: int, numbers: Sequence[int]) -> list[bytes]:
        """Several, in their order; those side by side are read in one go."""
        leader = self._leader(shard)
        found = leader.payloads(numbers)
        if len(found) < len(numbers):
            missing = next(number for number in numbers if number not in found)
            damage = Damaged(f"payload {missing} of coordinator shard {shard} is missing")
            leader.group().damage(damage)
            raise NotLeader(shard, None, str(damage))
        return [found[number] for number in numbers]
