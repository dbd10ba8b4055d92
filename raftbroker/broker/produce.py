"""Appends: on any node to the leader; on the leader from decision to log in one call.

The leader's side: batches that arrive in one turn of the loop are decided, placed and proposed together at its end, as
one Raft entry for each group. A single batch in an idle system waits for nothing but that turn's end. Offsets are given
and the entry appended in one synchronous call (C10); a proposal that is refused takes its decisions back.

What comes back is certain or says that it is not: a batch is acknowledged once its entry is committed and applied
here; a duplicate of one in flight shares its fate.
"""

import asyncio
from collections.abc import Sequence

from consensus.errors import NotLeader, Refused, Unknown
from consensus.group import Group
from consensus.model import Payload
from raftbroker.broker.context import Context
from raftbroker.broker.errors import (
    BadRecords,
    FencedProducer,
    IdempotencyConflict,
    InvalidRequest,
    OutOfOrderSequence,
    RecordTooLarge,
    Throttled,
    Unavailable,
    UnknownTopic,
)
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.topics import Topics
from raftbroker.broker.views import Idempotency, Produced
from raftbroker.broker.wire import PRODUCE, ProduceRequest
from raftbroker.state import errors
from raftbroker.state import leader as decisions
from raftbroker.state.batch import BatchHeader, check_batch, parse_header, place_batch
from raftbroker.state.clock import GroupClock
from raftbroker.state.configs import TopicConfig
from raftbroker.state.control_commands import TopicState
from raftbroker.state.errors import AppendRefused, BadBatch
from raftbroker.state.keys import payload_key
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_commands import AppendBatches, AppendHeader, PartitionCommand, encode_partition

RETRY_AFTER_MS = 100


class _Waiting:
    """One batch that waits for the end of this turn, then for its entry."""

    __slots__ = ("append_time", "batch", "deadline", "future", "header", "idempotency", "partition")

    def __init__(
        self,
        partition: int,
        batch: bytes,
        header: BatchHeader,
        idempotency: decisions.Idempotency | None,
        append_time: bool,
        deadline: float,
    ) -> None:
        self.partition = partition
        self.batch = batch
        self.header = header
        self.idempotency = idempotency
        self.append_time = append_time
        self.deadline = deadline
        self.future: asyncio.Future[Produced] = asyncio.get_running_loop().create_future()


class GroupWriter:
    """The one way into a data group's log on this node."""

    def __init__(self, context: Context, group: Group, machine: PartitionMachine) -> None:
        self.group = group
        self.machine = machine
        self.decisions = decisions.PartitionLeader(machine)
        self._context = context
        self._clock: GroupClock | None = None
        self._clock_term = -1
        self._waiting: list[_Waiting] = []
        self._flush_due = False
        self.bytes_in_flight = 0

    def time_ms(self) -> int:
        """Group time now; this node leads."""
        monotonic = self._context.clock()
        if self._clock is None or self._clock_term != self.group.term:
            self._clock = GroupClock(self.machine.time_ms, self._context.wall(), monotonic)
            self._clock_term = self.group.term
        return self._clock.now(monotonic)

    async def append(self, waiting: _Waiting) -> Produced:
        """Raises NotLeader and other Refused (certainly not appended), Unknown, and what the decision says."""
        size = waiting.header.size
        if self.bytes_in_flight and self.bytes_in_flight + size > self._context.options.inflight_bytes_max:
            self._context.counters.produce_throttled += 1
            raise Throttled(
                f"{self.bytes_in_flight} bytes wait to be committed in Raft group {self.group.id}, nothing was done: "
                f"try again in {RETRY_AFTER_MS} ms",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self.bytes_in_flight += size
        self._waiting.append(waiting)
        loop = asyncio.get_running_loop()
        if not self._flush_due:
            self._flush_due = True
            loop.call_soon(self._flush)
        timer = loop.call_at(waiting.deadline, _expire, waiting.future)
        try:
            return await waiting.future
        finally:
            timer.cancel()
            self.bytes_in_flight -= size

    def propose(self, command: PartitionCommand, timeout: float) -> "asyncio.Future[int]":
        """For commands without records: trims and drops."""
        return self.group.propose(encode_partition(command), timeout=timeout, frees_space=True)

    def _flush(self) -> None:
        """The end of the turn: everything that waits becomes entries."""
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

    def _append_together(self, batches: Sequence[_Waiting]) -> None:
        """Decides, places and proposes, in one call."""
        group = self.group
        if not group.leading or self._context.host.groups.get(group.id) is not group:
            for one in batches:
                _fail(one, NotLeader(group.id, None, "leadership was lost before the batch was appended"))
            return
        time_ms = self.time_ms()
        accepted: list[tuple[_Waiting, AppendHeader]] = []
        payloads: list[Payload] = []
        for one in batches:
            if one.future.done():
                continue
            try:
                placed = self._decide(one, group.term, time_ms)
            except AppendRefused as error:
                _fail(one, _translated(error))
                continue
            if placed is not None:
                accepted.append((one, placed[0]))
                payloads.append(placed[1])
        if accepted:
            self._propose(accepted, payloads, time_ms)

    def _decide(self, one: _Waiting, term: int, time_ms: int) -> tuple[AppendHeader, Payload] | None:
        """What to append; None for a duplicate, which then waits for the original or is answered."""
        decision = self.decisions.decide(one.partition, one.header, one.idempotency)
        if isinstance(decision, decisions.Duplicate):
            self._context.counters.produce_duplicates += 1
            self._answer_duplicate(one, decision)
            return None
        batch, header = one.batch, one.header
        if one.append_time:
            batch = place_batch(batch, decision.base_offset, term, time_ms)
            header = parse_header(batch)
        else:
            batch = place_batch(batch, decision.base_offset, term)
        append = self.decisions.accepted(one.partition, header, decision, one.idempotency, one.future)
        return append, Payload.of(payload_key(one.partition, decision.base_offset), batch)

    def _answer_duplicate(self, one: _Waiting, duplicate: decisions.Duplicate) -> None:
        start = self.machine.partition(one.partition).start
        timestamp = duplicate.timestamp if one.append_time else -1
        if not duplicate.in_flight:
            one.future.set_result(Produced(duplicate.base_offset, timestamp, start, True))
            return
        original = duplicate.token
        assert isinstance(original, asyncio.Future)
        original.add_done_callback(lambda done: _share(one, done))

    def _propose(self, accepted: list[tuple[_Waiting, AppendHeader]], payloads: list[Payload], time_ms: int) -> None:
        loop = asyncio.get_running_loop()
        command = AppendBatches(time_ms, tuple(append for _, append in accepted))
        longest = max(one.deadline for one, _ in accepted) - loop.time()
        try:
            entry = self.group.propose(encode_partition(command), payloads, timeout=max(0.001, longest))
        except Refused as error:
            for one, append in reversed(accepted):
                self.decisions.withdraw(append.partition, append.base_offset)
                _fail(one, error)
            return
        counters = self._context.counters
        counters.produce_entries += 1
        counters.produce_batches += len(accepted)
        entry.add_done_callback(lambda done: self._decided(accepted, done, time_ms))

    def _decided(
        self, accepted: list[tuple[_Waiting, AppendHeader]], done: "asyncio.Future[int]", time_ms: int
    ) -> None:
        error = done.exception()
        counters = self._context.counters
        for one, append in accepted:
            if error is not None:
                _fail(one, error)
                continue
            counters.produce_records += append.count
            counters.produce_bytes += append.size
            if not one.future.done():
                timestamp = time_ms if one.append_time else -1
                start = self.machine.partition(append.partition).start
                one.future.set_result(Produced(append.base_offset, timestamp, start, False))


class Producer:
    def __init__(self, context: Context, router: Router, topics: Topics) -> None:
        self._context = context
        self._router = router
        self._topics = topics
        self._writers: dict[int, GroupWriter] = {}

    def writer(self, number: int) -> GroupWriter:
        """The writer of a group that this node leads. Raises NotLeader."""
        group = self._context.leading(number)
        writer = self._writers.get(number)
        if writer is None or writer.group is not group:
            machine = self._context.machine(number)
            if machine is None:
                raise NotLeader(number, None, "this is not a data group")
            writer = self._writers[number] = GroupWriter(self._context, group, machine)
        return writer

    async def produce(
        self, topic: str, number: int, batch: bytes, timeout: float, idempotency: Idempotency | None
    ) -> Produced:
        deadline = asyncio.get_running_loop().time() + timeout
        self._context.counters.produce_requests += 1
        state, place = await self._topics.place(topic, number, timeout)
        header = self._checked(batch, state)
        repeatable = idempotency is not None or header.producer_id >= 0
        key, fingerprint = (idempotency.key, idempotency.fingerprint) if idempotency is not None else (b"", 0)

        async def here(request: ProduceRequest) -> Produced:
            return await self._append(request, header)

        return await self._router.at_leader(
            place.group,
            PRODUCE,
            lambda left: ProduceRequest(
                self._context.control_index, place.group, place.id, left, batch, key, fingerprint
            ),
            here,
            deadline,
            Mode.REPEATABLE if repeatable else Mode.ONCE,
        )

    async def serve(self, request: ProduceRequest) -> Produced:
        """A batch that another node passes on; the bytes came over a network, so they are checked again."""
        await self._context.as_far_as(request)
        self._context.leading(request.group)
        state = self._topic_of(request.partition)
        return await self._append(request, self._checked(request.batch, state))

    def _topic_of(self, partition: int) -> TopicState:
        location = self._context.control.partition(partition)
        if location is None:
            raise UnknownTopic("the topic has been deleted", field="topic_name")
        return location.topic

    async def _append(self, request: ProduceRequest, header: BatchHeader) -> Produced:
        writer = self.writer(request.group)
        config = self._context.config(self._topic_of(request.partition))
        self._check_in_sync(writer.group, config)
        idempotency = decisions.Idempotency(request.key, request.fingerprint) if request.key else None
        deadline = asyncio.get_running_loop().time() + request.timeout
        return await writer.append(
            _Waiting(request.partition, request.batch, header, idempotency, config.log_append_time, deadline)
        )

    def _checked(self, batch: bytes, topic: TopicState) -> BatchHeader:
        options, config = self._context.options, self._context.config(topic)
        bytes_max = min(config.max_message_bytes, options.batch_bytes_max)
        if len(batch) > bytes_max:
            raise RecordTooLarge(
                f"the batch has {len(batch)} bytes, topic {topic.name} takes {bytes_max}: send fewer records at a "
                "time, or raise the topic's max.message.bytes",
                field="records",
            )
        try:
            header = check_batch(batch)
        except BadBatch as error:
            raise BadRecords(str(error), field="records") from error
        if not 1 <= header.record_count <= options.batch_records_max:
            raise BadRecords(
                f"the batch has {header.record_count} records, 1 to {options.batch_records_max} are taken",
                field="records",
            )
        if not config.log_append_time:
            self._check_timestamps(header, config)
        return header

    def _check_timestamps(self, header: BatchHeader, config: TopicConfig) -> None:
        now = self._context.wall()
        if header.max_timestamp - now > config.message_timestamp_after_max_ms:
            raise InvalidRequest(
                f"timestamp {header.max_timestamp} is {header.max_timestamp - now} ms ahead of this node's clock; the "
                f"topic's message.timestamp.after.max.ms takes {config.message_timestamp_after_max_ms}",
                field="timestamp",
            )
        if header.base_timestamp >= 0 and now - header.base_timestamp > config.message_timestamp_before_max_ms:
            raise InvalidRequest(
                f"timestamp {header.base_timestamp} is {now - header.base_timestamp} ms behind this node's clock; the "
                f"topic's message.timestamp.before.max.ms takes {config.message_timestamp_before_max_ms}",
                field="timestamp",
            )

    def _check_in_sync(self, group: Group, config: TopicConfig) -> None:
        """A majority always has a write before it is acknowledged; only more than that needs a look."""
        wanted = config.min_insync_replicas
        configuration = group.configuration
        if wanted <= configuration.majority:
            return
        me = self._context.host.me
        in_sync = sum(1 for member in configuration.voters if member == me or group.caught_up(member))
        if in_sync < wanted:
            raise Unavailable(
                f"{in_sync} replicas are in sync, the topic's min.insync.replicas asks for {wanted}, nothing was done: "
                "try again when the other nodes are back"
            )


def _fail(one: _Waiting, error: BaseException) -> None:
    if not one.future.done():
        one.future.set_exception(error)


def _share(one: _Waiting, original: "asyncio.Future[Produced]") -> None:
    """The duplicate of a batch in flight ends as the original does."""
    if one.future.done():
        return
    error = None if original.cancelled() else original.exception()
    if original.cancelled():
        _fail(one, Unknown("the original request ended before its outcome was known"))
    elif error is not None:
        _fail(one, error)
    else:
        first = original.result()
        one.future.set_result(Produced(first.base_offset, first.timestamp, first.log_start, True))


def _expire(future: "asyncio.Future[Produced]") -> None:
    if not future.done():
        future.set_exception(Unknown("the batch was not decided in time"))


def _translated(error: AppendRefused) -> Exception:
    """The state's refusal in this layer's words."""
    if isinstance(error, errors.OutOfOrderSequence):
        return OutOfOrderSequence(str(error), field="records")
    if isinstance(error, errors.FencedEpoch):
        return FencedProducer(str(error), field="records")
    if isinstance(error, errors.IdempotencyConflict):
        return IdempotencyConflict(str(error), field="Idempotency-Key")
    return UnknownTopic(str(error), field="topic_name")
