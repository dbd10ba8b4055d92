"""One shard's replica on this node: while it leads, the way into its log, and what is waited for.

Ops that arrive in one turn of the loop share an entry, and while a few entries are in flight the next ones collect, so
that many ops share one fsync. An op's outcome is that of its entry being applied here.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from consensus.errors import ConsensusError, NotLeader, Refused, Unknown
from consensus.group import Group
from consensus.model import Payload
from raftbroker.broker.context import Context
from raftbroker.broker.errors import Throttled
from raftbroker.state.commands import encode_command
from raftbroker.state.keys import payload_key
from raftbroker.state.shard import ShardEntry, ShardMachine, payload_space

ENTRIES_IN_FLIGHT_MAX = 4
"""While so many are, further ops collect."""
ENTRY_OPS_MAX = 1024
ENTRY_BYTES_MAX = 1 << 20
OPS_WAITING_MAX = 20_000
BYTES_WAITING_MAX = 64 << 20
WAITERS_MAX = 20_000
OUTCOMES_MAX = 4096
TICK_SECONDS = 1.0
"""How often time is written down while something is due later: what a change of leader may hold it up by."""
TICK_TIMEOUT = 10.0
RETRY_AFTER_MS = 100
PAYLOAD_BYTES_MAX = 1 << 30
"""Of one read: who asks has bounded it."""

Listener = Callable[[int], None]


class _Waiting:
    """An op that waits for its entry, then for its outcome."""

    __slots__ = ("deadline", "future", "op", "payloads", "size")

    def __init__(self, op: bytes, payloads: Sequence[bytes], deadline: float) -> None:
        self.op = op
        self.payloads = payloads
        self.size = len(op) + sum(map(len, payloads))
        self.deadline = deadline
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class ShardLeader:
    """A `shard.Watcher`. Callbacks `on_led` and `on_unled` are given the Raft group's id, in a turn of their own."""

    def __init__(self, context: Context, machine: ShardMachine, on_led: Listener, on_unled: Listener) -> None:
        self.machine = machine
        self._context = context
        self._on_led, self._on_unled = on_led, on_unled
        self._leading = False
        self._anchor_ms = 0
        self._anchor = 0.0
        self._next_payload = 0
        self._in_flight = 0
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._ops = 0
        self._flush_due = False
        self._outcomes: OrderedDict[int, list[Any]] = OrderedDict()
        self._waiters: dict[str, dict[asyncio.Future[None], None]] = {}
        """In the order in which they came: sets of futures have another one in every run."""
        self._waiters_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        machine.attach(self)

    @property
    def id(self) -> int:
        return self.machine.group

    def group(self) -> Group:
        """Raises NotLeader where this node does not lead the shard."""
        group = self._context.leading(self.id)
        if not self._leading:
            raise NotLeader(self.id, None, "elected, but not yet ready to serve")
        return group

    @property
    def leading(self) -> bool:
        group = self._context.host.groups.get(self.id)
        return self._leading and group is not None and group.leading

    def now_ms(self) -> int:
        """The shard's time now; this node leads."""
        return max(self.machine.time_ms, self._anchor_ms + int((self._context.clock() - self._anchor) * 1000))

    # --- shard.Watcher ------------------------------------------------------------------------------------

    def led(self, term: int) -> None:
        self._leading = True
        self._anchor_ms = self.machine.time_ms or self._context.wall()
        self._anchor = self._context.clock()
        self._next_payload = self.machine.next_payload
        self._in_flight = 0
        self._outcomes.clear()
        loop = asyncio.get_running_loop()
        loop.call_soon(self._on_led, self.id)
        loop.call_soon(self._schedule)

    def unled(self) -> None:
        if not self._leading:
            return
        self._leading = False
        self._outcomes.clear()
        lost = NotLeader(self.id, None, "leadership was lost before the op was proposed")
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            _fail(one, lost)
        for futures in self._waiters.values():
            for future in futures:
                if not future.done():
                    future.set_exception(NotLeader(self.id, None, "leadership was lost"))
        asyncio.get_running_loop().call_soon(self._on_unled, self.id)

    def applied(self, index: int, outcomes: list[Any], names: set[str]) -> None:
        if not self._leading:
            return
        self._outcomes[index] = outcomes
        if len(self._outcomes) > OUTCOMES_MAX:
            self._outcomes.popitem(last=False)
        for name in names:
            for future in self._waiters.get(name, ()):
                if not future.done():
                    future.set_result(None)
        self._schedule()

    # --- ops ----------------------------------------------------------------------------------------------

    async def submit(self, op: bytes, payloads: Sequence[bytes], timeout: float) -> Any:
        """The op's outcome. Raises NotLeader and other Refused (certainly not decided), Unknown, Throttled."""
        self.group()
        loop = asyncio.get_running_loop()
        one = _Waiting(op, payloads, loop.time() + timeout)
        if self._ops >= OPS_WAITING_MAX or self._bytes + one.size > max(BYTES_WAITING_MAX, one.size):
            raise Throttled(
                f"{self._ops} ops wait to be decided in coordinator shard {self.id}, nothing was done: try again in "
                f"{RETRY_AFTER_MS} ms",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self._ops += 1
        self._bytes += one.size
        self._waiting.append(one)
        self._flush_soon()
        timer = loop.call_at(one.deadline, _expire, one)
        try:
            return await one.future
        finally:
            timer.cancel()
            self._ops -= 1
            self._bytes -= one.size

    def _flush_soon(self) -> None:
        if self._waiting and not self._flush_due and self._in_flight < ENTRIES_IN_FLIGHT_MAX:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """The end of the turn: what waits becomes one entry; what is too much for it, the next."""
        self._flush_due = False
        taken: list[_Waiting] = []
        size = 0
        for one in self._waiting:
            if len(taken) >= ENTRY_OPS_MAX or (taken and size + one.size > ENTRY_BYTES_MAX):
                break
            taken.append(one)
            size += one.size
        del self._waiting[: len(taken)]
        taken = [one for one in taken if not one.future.done()]
        if taken:
            self._propose(taken)
        self._flush_soon()

    def _propose(self, taken: list[_Waiting]) -> None:
        """Raises nothing: each op ends as its proposal does."""
        base = self._next_payload
        counts = tuple(len(one.payloads) for one in taken) if any(one.payloads for one in taken) else ()
        entry = ShardEntry(self.now_ms(), tuple(msgspec.Raw(one.op) for one in taken), base, counts)
        space = payload_space(self.id)
        bodies = [body for one in taken for body in one.payloads]
        payloads = [Payload.of(payload_key(space, base + number), body) for number, body in enumerate(bodies)]
        longest = max(one.deadline for one in taken) - asyncio.get_running_loop().time()
        try:
            done = self.group().propose(encode_command(entry), payloads, timeout=max(0.001, longest))
        except Refused as error:
            for one in taken:
                _fail(one, error)
            return
        self._next_payload += len(bodies)
        self._in_flight += 1
        term = self._context.host.groups[self.id].term
        done.add_done_callback(lambda future: self._decided(taken, future, term))

    def _decided(self, taken: list[_Waiting], done: "asyncio.Future[int]", term: int) -> None:
        group = self._context.host.groups.get(self.id)
        if self._leading and group is not None and group.term == term:
            self._in_flight -= 1
        error = None if done.cancelled() else done.exception()
        outcomes = self._outcomes.pop(done.result(), None) if error is None and not done.cancelled() else None
        for position, one in enumerate(taken):
            if error is not None:
                _fail(one, error)
            elif outcomes is None:
                _fail(one, Unknown("the op was decided, but leadership was lost before its outcome was known"))
            elif not one.future.done():
                one.future.set_result(outcomes[position])
        self._flush_soon()

    def payloads(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Payloads that the applied state refers to, by number; one that is not on this disk is damage."""
        found: dict[int, bytes] = {}
        for first, stop in _runs(numbers):
            found.update(self._context.records.read(payload_space(self.id), first, stop, PAYLOAD_BYTES_MAX))
        return found

    # --- time ---------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """The next entry that time asks for: when something is due, or in a while as long as something will be."""
        due = self.machine.next_deadline() if self._leading else None
        if due is None:
            self._stop_timer()
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + min(TICK_SECONDS, max(0.001, (due - self.now_ms()) / 1000))
        if self._timer is None or at < self._timer_at:
            self._stop_timer()
            self._timer, self._timer_at = loop.call_at(at, self._tick), at

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if not self.leading:
            return
        due = self.machine.next_deadline()
        now_ms = self.now_ms()
        if due is not None and (due <= now_ms or now_ms - self.machine.time_ms >= TICK_SECONDS * 1000):
            try:
                done = self.group().propose(
                    encode_command(ShardEntry(now_ms, ())), timeout=TICK_TIMEOUT, frees_space=True
                )
            except ConsensusError:  # leadership or room is missing: the next tick, or the next leader, makes up for it
                self._schedule_later()
                return
            done.add_done_callback(self._ticked)
            return
        self._schedule()

    def _ticked(self, done: "asyncio.Future[int]") -> None:
        if not done.cancelled() and done.exception() is None:
            self._outcomes.pop(done.result(), None)
        if self._leading:
            self._schedule()

    def _schedule_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer_at = loop.time() + TICK_SECONDS
        self._timer = loop.call_at(self._timer_at, self._tick)

    # --- waiting ------------------------------------------------------------------------------------------

    async def changed(self, name: str, deadline: float) -> bool:
        """Whether an op that touched `name` was applied by the deadline (on the loop's clock). Raises NotLeader when
        leadership goes, Throttled where too many wait."""
        self.group()
        if self._waiters_count >= WAITERS_MAX:
            raise Throttled(f"{WAITERS_MAX} requests wait on this node already", retry_after_ms=1000)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiters.setdefault(name, {})[future] = None
        self._waiters_count += 1
        timer = loop.call_at(deadline, _give_up, future)
        try:
            await future
        except TimeoutError:
            return False
        else:
            return True
        finally:
            timer.cancel()
            self._waiters_count -= 1
            self._waiters[name].pop(future, None)
            if not self._waiters[name]:
                del self._waiters[name]

    def close(self) -> None:
        """The node stops."""
        self._leading = False
        self._stop_timer()


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The ranges, each from its first to behind its last, of numbers side by side."""
    first = stop = -1
    for number in sorted(numbers):
        if number != stop:
            if first >= 0:
                yield first, stop
            first = number
        stop = number + 1
    if first >= 0:
        yield first, stop


def _fail(one: _Waiting, error: BaseException) -> None:
    if not one.future.done():
        one.future.set_exception(error)


def _expire(one: _Waiting) -> None:
    _fail(one, Unknown("the op was not decided in time"))


def _give_up(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())
