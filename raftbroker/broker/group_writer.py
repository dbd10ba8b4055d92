"""The one way into a data group's log on the node that leads it, from decision to log in one call.

Batches that arrive in one turn of the loop are decided, placed and proposed together at its end, as one Raft entry. A
single batch in an idle system waits for nothing but that turn's end. Offsets are given and the entry appended in one
synchronous call (C10); a proposal that is refused takes its decisions back.

Batches go into the log in the order of the calls of `add`. What is in flight is bounded: beyond the bound a batch is
refused (`Throttled`), or, where its asker is `patient`, held until there is room; those behind it wait as well. Who
holds batches back bounds how many there can be: front doors bound the bytes of their requests.

What comes back is certain or says that it is not: a batch is acknowledged once its entry is committed and applied
here; a duplicate of one in flight shares its fate; one that was never given a place when its time was over was
certainly not appended.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from consensus.errors import NotLeader, Refused, Unknown
from consensus.group import Group
from consensus.model import Payload
from raftbroker.broker.context import Context
from raftbroker.broker.errors import (
    FencedProducer,
    IdempotencyConflict,
    InvalidTransaction,
    OutOfOrderSequence,
    Throttled,
    Unavailable,
    UnknownTopic,
)
from raftbroker.broker.gaps import Gaps
from raftbroker.broker.tail import TailCache, TailKeeper
from raftbroker.broker.views import Produced
from raftbroker.state import errors
from raftbroker.state import leader as decisions
from raftbroker.state.batch import BatchHeader, parse_header, place_batch
from raftbroker.state.clock import GroupClock
from raftbroker.state.errors import AppendRefused
from raftbroker.state.keys import payload_key
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_commands import AppendBatches, AppendHeader, PartitionCommand, encode_partition

RETRY_AFTER_MS = 100


class Waiting:
    """One batch on its way: held for lack of room, waiting for the end of this turn, then for its entry."""

    __slots__ = (
        "append_time",
        "batch",
        "deadline",
        "future",
        "header",
        "idempotency",
        "partition",
        "patient",
        "placed",
        "taken",
        "timer",
        "transaction",
    )

    def __init__(
        self,
        partition: int,
        batch: bytes | memoryview,
        header: BatchHeader,
        *,
        append_time: bool,
        deadline: float,
        idempotency: decisions.Idempotency | None = None,
        transaction: int | None = None,
        patient: bool = False,
    ) -> None:
        """`deadline` is on the loop's clock; `transaction` as `PartitionLeader.decide` wants it."""
        self.partition = partition
        self.batch = batch
        self.header = header
        self.idempotency = idempotency
        self.append_time = append_time
        self.deadline = deadline
        self.transaction = transaction
        self.patient = patient
        self.taken = False
        """Counts as bytes in flight."""
        self.placed = False
        """Has been given an offset and may be in the log."""
        self.timer: asyncio.TimerHandle | None = None
        self.future: asyncio.Future[Produced] = asyncio.get_running_loop().create_future()


class GroupWriter:
    def __init__(self, context: Context, group: Group, machine: PartitionMachine, tail: TailCache, gaps: Gaps) -> None:
        self.group = group
        self.machine = machine
        self.decisions = decisions.PartitionLeader(machine)
        self._context = context
        self._tail = tail
        self._keeper = TailKeeper(tail, machine)
        self._gaps = gaps
        self._clock: GroupClock | None = None
        self._clock_term = -1
        self._waiting: list[Waiting] = []
        self._held: deque[Waiting] = deque()
        self._flush_due = False
        self.bytes_in_flight = 0

    def time_ms(self) -> int:
        """Group time now; this node leads."""
        monotonic = self._context.clock()
        if self._clock is None or self._clock_term != self.group.term:
            self._clock = GroupClock(self.machine.time_ms, self._context.wall(), monotonic)
            self._clock_term = self.group.term
        return self._clock.now(monotonic)

    @property
    def holding_back(self) -> bool:
        """Whether batches are held for lack of room."""
        return bool(self._held)

    def add(self, one: Waiting) -> "asyncio.Future[Produced]":
        """Raises Throttled. The future ends with NotLeader and other Refused or Unavailable (certainly not appended),
        Unknown, or what the decision says."""
        size = one.header.size
        room = self._has_room(size) and not self._held
        if not room and not one.patient:
            self._context.counters.produce_throttled += 1
            raise Throttled(
                f"{self.bytes_in_flight} bytes wait to be committed in Raft group {self.group.id}, nothing was done: "
                f"try again in {RETRY_AFTER_MS} ms",
                retry_after_ms=RETRY_AFTER_MS,
            )
        if room:
            self._take(one)
        else:
            self._context.counters.produce_throttled += 1
            self._held.append(one)
        one.timer = asyncio.get_running_loop().call_at(one.deadline, self._expire, one)
        one.future.add_done_callback(lambda _: self._ended(one))
        return one.future

    def propose(self, command: PartitionCommand, timeout: float) -> "asyncio.Future[int]":
        """For commands without records: trims and drops."""
        return self.group.propose(encode_partition(command), timeout=timeout, frees_space=True)

    def keep(self, append: AppendHeader, payload: Payload) -> None:
        """A batch that has just been proposed: readers at the end will ask for it."""
        next_offset = append.base_offset + append.count
        self._tail.add(self.machine, append.partition, append.base_offset, next_offset, payload.data)

    # --- room -----------------------------------------------------------------------------------------------

    def _has_room(self, size: int) -> bool:
        return not self.bytes_in_flight or self.bytes_in_flight + size <= self._context.options.inflight_bytes_max

    def _take(self, one: Waiting) -> None:
        one.taken = True
        self.bytes_in_flight += one.header.size
        self._waiting.append(one)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _ended(self, one: Waiting) -> None:
        """The batch's fate is known, or its asker has gone."""
        if one.timer is not None:
            one.timer.cancel()
        if one.taken:
            self.bytes_in_flight -= one.header.size
            while self._held and self._has_room(self._held[0].header.size):
                held = self._held.popleft()
                if not held.future.done():
                    self._take(held)

    def _expire(self, one: Waiting) -> None:
        if one.future.done():
            return
        if one.placed:
            one.future.set_exception(Unknown("the batch was not decided in time"))
        else:
            self._refuse(one, Unavailable("too much waits to be committed, nothing was done in time: try again"))

    def _refuse(self, one: Waiting, error: Exception) -> None:
        """Certainly not appended, for no fault of its own."""
        if not one.future.done():
            self._gaps.refused(one.partition, one.header, error)
            one.future.set_exception(error)

    # --- the end of the turn ----------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Everything that waits becomes entries."""
        self._flush_due = False
        waiting, self._waiting = self._waiting, []
        options = self._context.options
        start = size = 0
        for position, one in enumerate(waiting):
            full = size + one.header.size > options.entry_bytes_max or position - start >= options.entry_batches_max
            if full and position > start:
                self._append_together(waiting[start:position])
                start, size = position, 0
            size += one.header.size
        if start < len(waiting):
            self._append_together(waiting[start:])

    def _append_together(self, batches: Sequence[Waiting]) -> None:
        """Decides, places and proposes, in one call."""
        group = self.group
        if not group.leading or self._context.host.groups.get(group.id) is not group:
            for one in batches:
                self._refuse(one, NotLeader(group.id, None, "leadership was lost before the batch was appended"))
            return
        time_ms = self.time_ms()
        accepted: list[tuple[Waiting, AppendHeader]] = []
        payloads: list[Payload] = []
        for one in batches:
            if one.future.done():
                continue
            try:
                placed = self._decide(one, group.term, time_ms)
            except AppendRefused as error:
                self._decided_against(one, error)
                continue
            if placed is not None:
                accepted.append((one, placed[0]))
                payloads.append(placed[1])
        if accepted:
            self._propose(accepted, payloads, time_ms)

    def _decide(self, one: Waiting, term: int, time_ms: int) -> tuple[AppendHeader, Payload] | None:
        """What to append; None for a duplicate, which then waits for the original or is answered, and for a batch
        that has to wait for one before it."""
        decision = self.decisions.decide(one.partition, one.header, one.idempotency, one.transaction)
        if isinstance(decision, decisions.Duplicate):
            self._context.counters.produce_duplicates += 1
            self._answer_duplicate(one, decision)
            return None
        batch, header = one.batch, one.header
        if header.producer_id >= 0 and self._behind_a_gap(one):
            return None
        if one.append_time:
            batch = place_batch(batch, decision.base_offset, term, time_ms)
            header = parse_header(batch)
        else:
            batch = place_batch(batch, decision.base_offset, term)
        append = self.decisions.accepted(one.partition, header, decision, one.idempotency, one.future, one.transaction)
        return append, Payload.of(payload_key(one.partition, decision.base_offset), batch)

    def _decided_against(self, one: Waiting, error: AppendRefused) -> None:
        if not (isinstance(error, errors.OutOfOrderSequence) and self._behind_a_gap(one)):
            fail(one.future, translated(error))

    def _behind_a_gap(self, one: Waiting) -> bool:
        """Refuses the batch if one that came before it was."""
        error = self._gaps.before(one.partition, one.header)
        if error is None:
            return False
        fail(one.future, error)
        return True

    def _answer_duplicate(self, one: Waiting, duplicate: decisions.Duplicate) -> None:
        start = self.machine.partition(one.partition).start
        timestamp = duplicate.timestamp if one.append_time else -1
        if not duplicate.in_flight:
            one.future.set_result(Produced(duplicate.base_offset, timestamp, start, True))
            return
        original = duplicate.token
        assert isinstance(original, asyncio.Future)
        one.placed = True
        original.add_done_callback(lambda done: _share(one, done))

    def _propose(self, accepted: list[tuple[Waiting, AppendHeader]], payloads: list[Payload], time_ms: int) -> None:
        loop = asyncio.get_running_loop()
        command = AppendBatches(time_ms, tuple(append for _, append in accepted))
        longest = max(one.deadline for one, _ in accepted) - loop.time()
        try:
            entry = self.group.propose(encode_partition(command), payloads, timeout=max(0.001, longest))
        except Refused as error:
            for one, append in reversed(accepted):
                self.decisions.withdraw(append.partition, append.base_offset)
                self._refuse(one, error)
            return
        for (one, append), payload in zip(accepted, payloads, strict=True):
            one.placed = True
            self.keep(append, payload)
        counters = self._context.counters
        counters.produce_entries += 1
        counters.produce_batches += len(accepted)
        entry.add_done_callback(lambda done: self._decided(accepted, done, time_ms))

    def _decided(self, accepted: list[tuple[Waiting, AppendHeader]], done: "asyncio.Future[int]", time_ms: int) -> None:
        error = done.exception()
        counters = self._context.counters
        for one, append in accepted:
            if error is not None:
                fail(one.future, error)
                continue
            counters.produce_records += append.count
            counters.produce_bytes += append.size
            if not one.future.done():
                timestamp = time_ms if one.append_time else -1
                start = self.machine.partition(append.partition).start
                one.future.set_result(Produced(append.base_offset, timestamp, start, False))


def fail(future: "asyncio.Future[Produced]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _share(one: Waiting, original: "asyncio.Future[Produced]") -> None:
    """The duplicate of a batch in flight ends as the original does."""
    if one.future.done():
        return
    error = None if original.cancelled() else original.exception()
    if original.cancelled():
        fail(one.future, Unknown("the original request ended before its outcome was known"))
    elif error is not None:
        fail(one.future, error)
    else:
        first = original.result()
        one.future.set_result(Produced(first.base_offset, first.timestamp, first.log_start, True))


def translated(error: AppendRefused) -> Exception:
    """The state's refusal in this layer's words."""
    if isinstance(error, errors.OutOfOrderSequence):
        return OutOfOrderSequence(str(error), field="records")
    if isinstance(error, errors.FencedEpoch):
        return FencedProducer(str(error), field="records")
    if isinstance(error, errors.IdempotencyConflict):
        return IdempotencyConflict(str(error), field="Idempotency-Key")
    if isinstance(error, errors.InvalidTransaction | errors.NotVerified):
        return InvalidTransaction(str(error), field="records")
    if isinstance(error, errors.TooManyTransactions):
        return Unavailable(str(error))
    return UnknownTopic(str(error), field="topic_name")
