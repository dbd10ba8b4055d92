"""The consumers that live on this node, and the way to those that live on others.

An instance has a name within its group. It lives on the node where it was made; any node finds it by asking the others,
and remembers where. Nothing of it is replicated but what its group knows, its offsets: when its node dies it is gone,
and whoever makes it again by its name, on any node, takes its place in the group and goes on from what was committed.

Bounded: so many consumers on a node, those of streams counted; an instance that nobody asks anything of is closed.
"""

import asyncio
import logging
from collections.abc import Mapping

import msgspec

from consensus.errors import ConsensusError, NotLeader, Refused, Unknown
from raftbroker.broker.consumer import Consumer, ConsumerSettings
from raftbroker.broker.consumer_groups import ConsumerGroups, refused
from raftbroker.broker.consumer_reader import Name, Reader, Reset, Sources
from raftbroker.broker.context import Context
from raftbroker.broker.errors import (
    BrokerError,
    FormatMismatch,
    InstanceExists,
    Throttled,
    Unavailable,
    UnknownInstance,
    UnknownOutcome,
)
from raftbroker.broker.group_access import check_names
from raftbroker.broker.offsets import Offsets
from raftbroker.broker.wire import Calls
from raftbroker.broker.wire_consumers import (
    FIND_INSTANCE,
    INSTANCE,
    AnyOp,
    Assign,
    Close,
    Commit,
    FindRequest,
    InstanceRequest,
    Look,
    Poll,
    Seek,
    SeekTo,
    Shown,
    Subscribe,
    Unsubscribe,
)

log = logging.getLogger(__name__)

CONSUMERS_MAX = 1_000
PLACES_MAX = 10_000
"""Instances on other nodes whose place is remembered."""
POLL_BYTES_MAX = 4 << 20
"""Of one poll, so that its answer fits into a frame between nodes."""
FIND_SECONDS = 2.0
SWEEP_SECONDS = 1.0
STOP_SECONDS = 3.0


class Consumers:
    def __init__(self, sources: Sources, groups: ConsumerGroups, offsets: Offsets) -> None:
        self._sources = sources
        self._context: Context = sources.context
        self._groups = groups
        self._offsets = offsets
        self._instances: dict[tuple[str, str], Consumer] = {}
        self._streams: set[Consumer] = set()
        self._places: dict[tuple[str, str], int] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def serve(self, calls: Calls) -> None:
        calls.serve(FIND_INSTANCE, self._find_here)
        calls.serve(INSTANCE, self._serve)

    async def stop(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        consumers = [*self._instances.values(), *self._streams]
        self._instances.clear()
        self._streams.clear()
        tasks = [asyncio.ensure_future(one.close("its node stops")) for one in consumers]
        tasks += self._closing
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- for streams on this node -----------------------------------------------------------------------------

    def reader(self, *, committed: bool = True, reset: Reset = Reset.EARLIEST) -> Reader:
        """Reads partitions without any group."""
        return Reader(self._sources, committed=committed, reset=reset)

    def open(self, group: str, settings: ConsumerSettings, begin: Mapping[Name, int] | None = None) -> Consumer:
        """A consumer for whoever closes it again with `release`. Raises Throttled, InvalidRequest."""
        consumer = self._make(group, settings, begin)
        self._streams.add(consumer)
        return consumer

    async def release(self, consumer: Consumer, reason: str) -> None:
        self._streams.discard(consumer)
        await consumer.close(reason)

    def _make(self, group: str, settings: ConsumerSettings, begin: Mapping[Name, int] | None = None) -> Consumer:
        error = check_names(group, "", settings.member.instance_id)
        if error is not None:
            raise refused(error, group)
        if self.count >= CONSUMERS_MAX:
            raise Throttled(
                f"{CONSUMERS_MAX} consumers live on this node already: use another one", retry_after_ms=1000
            )
        return Consumer(self._sources, self._groups, self._offsets, group, settings, begin=begin)

    @property
    def count(self) -> int:
        return len(self._instances) + len(self._streams)

    # --- instances, by name, on any node ----------------------------------------------------------------------

    async def create(self, group: str, name: str, settings: ConsumerSettings) -> None:
        """On this node. Raises InstanceExists where it lives, here or elsewhere."""
        self._places.pop((group, name), None)  # where it was says nothing of whether it is
        if self._here(group, name) is None and not await self._locate(group, name):
            consumer = self._make(group, settings)
            if self._here(group, name) is None:
                self._instances[group, name] = consumer
                if self._sweeping is None or self._sweeping.done():
                    self._sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="consumer sweep")
                return
        raise InstanceExists(
            f"consumer {name[:100]} of group {group[:100]} exists already: delete it, or use it through any node",
            field="name",
        )

    async def ask(self, group: str, name: str, op: AnyOp, timeout: float) -> Shown:
        """What the instance answers, wherever it lives. Raises UnknownInstance where no node has it, UnknownOutcome
        where its node did not answer."""
        if self._here(group, name) is None:
            for _ in range(2):
                node = await self._locate(group, name)
                if not node:
                    break
                request = InstanceRequest(self._context.control_index, group, name, op, timeout)
                try:
                    return await self._context.calls.call(node, INSTANCE, request, timeout)
                except UnknownInstance:
                    self._places.pop((group, name), None)
                except (NotLeader, Refused):
                    self._places.pop((group, name), None)
                except Unknown as error:
                    raise UnknownOutcome(f"node {node}, where the consumer lives, did not answer: {error}") from error
                except ConsensusError as error:
                    raise Unavailable(f"node {node}, where the consumer lives, takes no requests: {error}") from error
        return await self._run(group, name, op)

    async def _locate(self, group: str, name: str) -> int:
        """The node that has it, of the others; 0 for none."""
        known = self._places.get((group, name))
        if known is not None:
            return known
        me = self._context.me
        nodes = [node.id for node in self._context.control.nodes() if node.id != me]
        asked = [
            self._context.calls.call(node, FIND_INSTANCE, FindRequest(group, name), FIND_SECONDS) for node in nodes
        ]
        for node, answer in zip(nodes, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, (ConsensusError, BrokerError)):
                raise answer
            if answer is True:
                if len(self._places) >= PLACES_MAX:
                    self._places.clear()
                self._places[group, name] = node
                return node
        return 0

    async def _find_here(self, request: FindRequest) -> bool:
        return self._here(request.group, request.name) is not None

    def _here(self, group: str, name: str) -> Consumer | None:
        consumer = self._instances.get((group, name))
        if consumer is not None and consumer.closed:
            self._drop(group, name, consumer.closed)
            return None
        return consumer

    # --- on the node that has it ------------------------------------------------------------------------------

    async def _serve(self, request: InstanceRequest) -> Shown:
        await self._context.as_far_as(request)
        return await self._run(request.group, request.name, request.op)

    async def _run(self, group: str, name: str, op: AnyOp) -> Shown:
        consumer = self._here(group, name)
        if consumer is None:
            raise UnknownInstance(
                f"no node has a consumer {name[:100]} of group {group[:100]}: it was never made, was idle for too long,"
                " or its node died. Make it again by its name: it goes on from what was committed",
                field="name",
            )
        consumer.touch()
        try:
            return await self._carry_out(group, name, consumer, op)
        finally:
            consumer.touch()

    async def _carry_out(self, group: str, name: str, consumer: Consumer, op: AnyOp) -> Shown:
        match op:
            case Look():
                pass
            case Close():
                del self._instances[group, name]
                await consumer.close("it was deleted", all_processed=True)
            case Subscribe():
                consumer.subscribe(op.topics, op.pattern)
            case Unsubscribe():
                await consumer.unsubscribe()
            case Assign():
                await consumer.assign(op.partitions)
            case Poll():
                return await self._poll(consumer, op)
            case Seek():
                positions = {(topic, number): offset for topic, number, offset in op.positions}
                if op.times:
                    await consumer.seek_times(positions)
                else:
                    consumer.seek(positions)
            case SeekTo():
                await consumer.seek_to(op.partitions, Reset.LATEST if op.end else Reset.EARLIEST)
            case Commit():
                given = op.offsets
                await consumer.commit(None if given is None else {one[:2]: one[2:] for one in given})
        return _shown(consumer)

    async def _poll(self, consumer: Consumer, op: Poll) -> Shown:
        if op.format and op.format != consumer.settings.format:
            raise FormatMismatch(
                f"this consumer was made with format {consumer.settings.format}, and Accept asks for {op.format}: ask"
                f" for application/vnd.kafka.{consumer.settings.format}.v2+json",
                field="Accept",
            )
        wait = consumer.settings.poll_ms / 1000 if op.wait is None else op.wait
        taken = await consumer.poll(min(op.bytes_max, POLL_BYTES_MAX), wait)
        return msgspec.structs.replace(_shown(consumer), taken=tuple(taken))

    # --- their end --------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while self._instances:
            await asyncio.sleep(SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for (group, name), consumer in list(self._instances.items()):
                idle_ms = consumer.settings.idle_ms
                if consumer.closed:
                    self._drop(group, name, consumer.closed)
                elif idle_ms and now - consumer.used > idle_ms / 1000 and not consumer.busy:
                    log.info("consumer %s of group %s is closed: nobody asked anything of it", name, group)
                    self._drop(group, name, "nobody asked anything of it for too long")

    def _drop(self, group: str, name: str, reason: str) -> None:
        consumer = self._instances.pop((group, name))
        task = asyncio.get_running_loop().create_task(consumer.close(reason), name="consumer close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _shown(consumer: Consumer) -> Shown:
    return Shown(consumer.settings.format, consumer.topics, consumer.pattern, tuple(sorted(consumer.positions)))
