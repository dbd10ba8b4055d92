"""Appends: on any node to the leader, or on the leader alone for clients that are told who leads.

What makes an entry of batches, and when, is in `group_writer`. Here they are checked first: a batch is one sound v2
batch with a right CRC, no larger and with no more records than allowed, whose header adds up and whose timestamps the
topic takes. The records inside are not looked at (docs/decisions, 3), but for their keys where the topic is compacted.
"""

import asyncio

from consensus.errors import NotLeader
from consensus.group import Group
from raftbroker.broker.context import Context
from raftbroker.broker.errors import (
    BadRecords,
    DamagedRecords,
    InvalidTimestamp,
    LedElsewhere,
    MissingKey,
    OldRecords,
    RecordTooLarge,
    TooFewReplicas,
    UnknownTopic,
)
from raftbroker.broker.gaps import Gaps
from raftbroker.broker.group_writer import RETRY_AFTER_MS, Waiting
from raftbroker.broker.group_writer import GroupWriter as GroupWriter
from raftbroker.broker.leading import Leading
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.tail import TailCache
from raftbroker.broker.topics import Topics
from raftbroker.broker.views import Idempotency, Produced
from raftbroker.broker.wire import PRODUCE, ProduceRequest
from raftbroker.state import leader as decisions
from raftbroker.state.batch import BatchHeader, check_batch, parse_header
from raftbroker.state.configs import TopicConfig
from raftbroker.state.control_commands import TopicState
from raftbroker.state.errors import BadBatch, DamagedBatch, OldBatch
from raftbroker.state.outline import without_key

_KINDS: dict[type, type[BadRecords]] = {DamagedBatch: DamagedRecords, OldBatch: OldRecords, BadBatch: BadRecords}
_INDEXES_MAX = 100
"""How many records without a key are told one by one."""
KEYED_RECORDS_MAX = 20_000
"""Records of a batch for a compacted topic: looking at so many holds up the node for some 0.1 s."""


class Producer:
    def __init__(self, context: Context, router: Router, topics: Topics, leading: Leading, tail: TailCache) -> None:
        self._context = context
        self._router = router
        self._topics = topics
        self._leading = leading
        self._tail = tail
        self._gaps = Gaps(context.clock)
        self._writers: dict[int, GroupWriter] = {}

    def writer(self, number: int) -> GroupWriter:
        """The writer of a group that this node leads. Raises NotLeader."""
        group = self._context.leading(number)
        writer = self._writers.get(number)
        if writer is None or writer.group is not group:
            machine = self._context.machine(number)
            if machine is None:
                raise NotLeader(number, None, "this is not a data group")
            writer = self._writers[number] = GroupWriter(self._context, group, machine, self._tail, self._gaps)
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
        return await writer.add(
            Waiting(
                request.partition,
                request.batch,
                header,
                append_time=config.log_append_time,
                deadline=deadline,
                idempotency=idempotency,
            )
        )

    # --- for Kafka's clients, on this node alone --------------------------------------------------------------

    def append(
        self, topic: str, number: int, batch: memoryview, timeout: float, transaction: int | None
    ) -> "asyncio.Future[Produced]":
        """Takes the batch's place behind those of earlier calls, in this very call. Raises what is wrong at once;
        the future ends as `GroupWriter.add` says."""
        self._context.counters.produce_requests += 1
        try:
            led = self._leading.find(topic, number)
        except LedElsewhere as error:
            self._refused(topic, number, batch, error)
            raise
        header = self._checked(batch, led.topic, transactional=transaction is not None)
        config = self._context.config(led.topic)
        try:
            self._check_in_sync(led.group, config)
        except TooFewReplicas as error:
            self._gaps.refused(led.place.id, header, error)
            raise
        writer = self._writers.get(led.group.id)
        if writer is None or writer.group is not led.group:
            writer = self.writer(led.group.id)
        deadline = asyncio.get_running_loop().time() + timeout
        append_time = config.log_append_time
        return writer.add(
            Waiting(
                led.place.id,
                batch,
                header,
                append_time=append_time,
                deadline=deadline,
                transaction=transaction,
                patient=True,
            )
        )

    def _refused(self, topic: str, number: int, batch: memoryview, error: LedElsewhere) -> None:
        """This node may lead a moment later: what follows the batch must not be taken before it."""
        state = self._context.control.topic(topic)
        try:
            header = parse_header(batch)
        except BadBatch:
            return
        if state is not None:
            self._gaps.refused(state.partitions[number].id, header, error)

    def missed(self, partition: int, header: BatchHeader, error: Exception) -> None:
        """The batch came, and was certainly not appended: what its producer has sent behind it must not be either.
        `partition` is an id."""
        self._gaps.refused(partition, header, error)

    def throttle_ms(self) -> int:
        """How long producers had better stay away, because batches are held back; 0 for not at all."""
        return RETRY_AFTER_MS if any(writer.holding_back for writer in self._writers.values()) else 0

    # --- checks -----------------------------------------------------------------------------------------------

    def _checked(self, batch: bytes | memoryview, topic: TopicState, *, transactional: bool = False) -> BatchHeader:
        options, config = self._context.options, self._context.config(topic)
        bytes_max = min(config.max_message_bytes, options.batch_bytes_max)
        if len(batch) > bytes_max:
            raise RecordTooLarge(
                f"the batch has {len(batch)} bytes, topic {topic.name} takes {bytes_max}: send fewer records at a "
                "time, or raise the topic's max.message.bytes",
                field="records",
            )
        try:
            header = check_batch(batch, transactional=transactional)
        except BadBatch as error:
            kind = next((_KINDS[kind] for kind in type(error).__mro__ if kind in _KINDS), BadRecords)
            raise kind(str(error), field="records") from error
        if not 1 <= header.record_count <= options.batch_records_max:
            raise BadRecords(
                f"the batch has {header.record_count} records, 1 to {options.batch_records_max} are taken",
                field="records",
            )
        if not config.log_append_time:
            self._check_timestamps(header, config)
        if config.compacted:
            _check_keys(batch, header, topic.name)
        return header

    def _check_timestamps(self, header: BatchHeader, config: TopicConfig) -> None:
        now = self._context.wall()
        if header.max_timestamp - now > config.message_timestamp_after_max_ms:
            raise InvalidTimestamp(
                f"timestamp {header.max_timestamp} is {header.max_timestamp - now} ms ahead of this node's clock; the "
                f"topic's message.timestamp.after.max.ms takes {config.message_timestamp_after_max_ms}",
                field="timestamp",
            )
        if header.base_timestamp >= 0 and now - header.base_timestamp > config.message_timestamp_before_max_ms:
            raise InvalidTimestamp(
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
            raise TooFewReplicas(
                f"{in_sync} replicas are in sync, the topic's min.insync.replicas asks for {wanted}, nothing was done: "
                "try again when the other nodes are back"
            )


def _check_keys(batch: bytes | memoryview, header: BatchHeader, topic: str) -> None:
    """Raises MissingKey, RecordTooLarge, or BadRecords where the records cannot be read."""
    if header.record_count > KEYED_RECORDS_MAX:
        raise RecordTooLarge(
            f"the batch has {header.record_count} records, topic {topic} is compacted and takes {KEYED_RECORDS_MAX} at "
            "a time, since each is looked at: send fewer",
            field="records",
        )
    try:
        missing = without_key(header, batch)
    except BadBatch as error:
        raise BadRecords(f"topic {topic} is compacted, so records are looked at: {error}", field="records") from error
    if missing:
        raise MissingKey(
            f"record {missing[0]} of the batch has no key"
            + (f", nor have {len(missing) - 1} others" if len(missing) > 1 else "")
            + f", but topic {topic} is compacted and keeps the newest record of each key; nothing of the batch was "
            "appended: give every record a key",
            indexes=tuple(missing[:_INDEXES_MAX]),
        )
