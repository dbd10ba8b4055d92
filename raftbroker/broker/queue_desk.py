"""The queues on the node that leads their shard: receives that wait, messages looked at, fates waited for.

Whatever changes a queue is decided in its shard, when it is applied. What is answered from applied state is asked for
behind a read barrier, so that a leader that is none any more says nothing of the kind.

Every call raises NotLeader where this node does not lead the shard, and when it loses it meanwhile.
"""

import asyncio

from consensus.errors import ConsensusError, NotLeader
from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError, UnknownMessage, UnknownQueue
from raftbroker.broker.queue_driver import Driver
from raftbroker.broker.queue_fates import Times, fate_of_gone, fate_of_message, info_of
from raftbroker.broker.queue_line import Line
from raftbroker.broker.queue_receipts import Notifier
from raftbroker.broker.queue_rules import error_of
from raftbroker.broker.queue_views import MessageFate, QueueInfo
from raftbroker.broker.shards import Shards
from raftbroker.broker.wire import Calls
from raftbroker.broker.wire_queues import (
    QUEUE_FATE,
    QUEUE_GET,
    QUEUE_LIST,
    QUEUE_PEEK,
    QUEUE_RECEIVE,
    FateRequest,
    LentMessage,
    LentMessages,
    PeekRequest,
    QueueInfos,
    QueueRequest,
    ReceiveRequest,
)
from raftbroker.state.queues.intake import no_queue
from raftbroker.state.queues.messages import UNIT, WAITING
from raftbroker.state.queues.ops import ReceiveMessages, Refusal
from raftbroker.state.queues.part import QueuesPart
from raftbroker.state.queues.queue import Queue, topic_of, watch_of
from raftbroker.state.queues.views import peek, view_message, view_queue

LOOK_SECONDS = 30.0
"""How often a line looks again though nothing was heard."""
BARRIER_SECONDS = 5.0


class _Led:
    """A shard that this node leads."""

    def __init__(self, shard: int, part: QueuesPart, driver: Driver) -> None:
        self.shard = shard
        self.part = part
        self.driver = driver
        self.lines: dict[str, Line] = {}
        self.pumps: dict[str, asyncio.Task[None]] = {}

    def queue(self, name: str) -> Queue | None:
        return self.part.book.queues.get(name)

    def stop(self) -> list["asyncio.Task[None]"]:
        for line in self.lines.values():
            line.fail(NotLeader(self.shard, None, "leadership was lost"))
        pumps = list(self.pumps.values())
        for task in pumps:
            task.cancel()
        return [*pumps, *self.driver.stop()]


class Desk:
    def __init__(self, context: Context, shards: Shards) -> None:
        self._context = context
        self._shards = shards
        self._led: dict[int, _Led] = {}
        self.notifier: Notifier | None = None
        shards.on_led(self._take_over)
        shards.on_unled(self._hand_over)

    def serve(self, calls: Calls) -> None:
        calls.serve(QUEUE_RECEIVE, self.receive)
        calls.serve(QUEUE_PEEK, self.peek)
        calls.serve(QUEUE_FATE, self.fate)
        calls.serve(QUEUE_GET, self.get)
        calls.serve(QUEUE_LIST, self.list_queues)

    def _take_over(self, shard: int) -> None:
        self._hand_over(shard)
        try:
            part = self._shards.part(shard, QueuesPart)
        except ConsensusError:  # lost again since
            return
        driver = Driver(self._context, self._shards, shard, part, lambda: self.notifier)
        self._led[shard] = _Led(shard, part, driver)

    def _hand_over(self, shard: int) -> None:
        led = self._led.pop(shard, None)
        if led is not None:
            led.stop()

    async def stop(self) -> None:
        led, self._led = list(self._led.values()), {}
        await asyncio.gather(*(task for one in led for task in one.stop()), return_exceptions=True)

    async def _shard(self, request: QueueRequest) -> _Led:
        """Raises NotLeader."""
        await self._context.as_far_as(request)
        led = self._led.get(request.group)
        if led is None or request.group not in self._shards.led():
            self._context.leading(request.group)
            raise NotLeader(request.group, None, "elected, but not yet ready to serve queues")
        return led

    async def _barrier(self, shard: int, timeout: float) -> None:
        await self._shards.barrier(shard, min(timeout, BARRIER_SECONDS))

    def _times(self, shard: int) -> Times:
        return Times(self._context.wall() - self._shards.now_ms(shard))

    # --- receive --------------------------------------------------------------------------------------------

    async def receive(self, request: ReceiveRequest) -> LentMessages:
        led = await self._shard(request)
        now = asyncio.get_running_loop().time
        deadline, ends = now() + request.wait, now() + request.timeout
        waited = False
        while True:
            line = self._line(led, request.queue)
            count = line.take(request.messages_max) if not waited else 0
            if not count and now() < deadline and led.queue(request.queue) is not None:
                self._pump(led, request.queue)
                count = await line.wait(request.messages_max, deadline, first=waited)
            if not count:  # nothing is there: but does this node still lead, and know all that was acknowledged?
                await self._barrier(led.shard, request.timeout)
                self._queue(led, request.queue)
                line = self._line(led, request.queue)
                count = line.take(request.messages_max)
            found = await self._lock(led, line, request, count, max(0.001, ends - now())) if count else LentMessages(())
            self._leave(led, request.queue)
            if found.messages or now() >= deadline:
                return found
            waited = True

    def _leave(self, led: _Led, name: str) -> None:
        line = led.lines.get(name)
        if line is not None and line.idle:
            del led.lines[name]

    def _line(self, led: _Led, name: str) -> Line:
        line = led.lines.get(name)
        if line is None:

            def available() -> int | None:
                queue = led.queue(name)
                return queue.counts[WAITING] if queue is not None else None

            line = led.lines[name] = Line(available)
        return line

    async def _lock(self, led: _Led, line: Line, request: ReceiveRequest, count: int, timeout: float) -> LentMessages:
        op = ReceiveMessages(request.queue, request.consumer, count, request.bytes_max, request.lock_ms, request.nonce)
        try:
            outcome = await self._shards.submit_here(op, timeout, shard=led.shard)
        finally:
            line.give_back(count)
        if isinstance(outcome, Refusal):
            raise error_of(outcome)
        contents = self._shards.payloads(led.shard, [held.number for held in outcome.messages])
        until = self._times(led.shard).wall(outcome.until_ms)
        return LentMessages(
            tuple(
                LentMessage(held.number, held.deliveries, request.nonce, until, content)
                for held, content in zip(outcome.messages, contents, strict=True)
            )
        )

    def _pump(self, led: _Led, name: str) -> None:
        """Lets the queue's line look whenever messages become available, as long as somebody waits."""
        if name not in led.pumps:
            led.pumps[name] = asyncio.get_running_loop().create_task(
                self._look(led, name), name=f"line of queue {name}"
            )

    async def _look(self, led: _Led, name: str) -> None:
        await asyncio.sleep(0)  # whoever started this joins the line first
        try:
            while (line := led.lines.get(name)) is not None and line.waits:
                until = asyncio.get_running_loop().time() + LOOK_SECONDS
                await self._shards.changed(topic_of(name), until, shard=led.shard)
                line = led.lines.get(name)
                if line is not None:
                    line.look()
        except (ConsensusError, BrokerError) as error:
            line = led.lines.get(name)
            if line is not None:
                line.fail(error)
        finally:
            del led.pumps[name]

    # --- looking --------------------------------------------------------------------------------------------

    async def peek(self, request: PeekRequest) -> LentMessages:
        led = await self._shard(request)
        await self._barrier(led.shard, request.timeout)
        views = peek(led.part.book, self._queue(led, request.queue), request.messages_max, dead=request.dead)
        numbers: list[int] = []
        size = 0
        for view in views:
            message = led.part.book.segments.get(view.number)
            size += message.units * UNIT if message is not None else 0
            if numbers and size > request.bytes_max:
                break
            numbers.append(view.number)
        contents = self._shards.payloads(led.shard, numbers)
        return LentMessages(
            tuple(
                LentMessage(view.number, view.deliveries, 0, 0, content)
                for view, content in zip(views, contents, strict=False)
            )
        )

    def _queue(self, led: _Led, name: str) -> Queue:
        queue = led.queue(name)
        if queue is None:
            raise error_of(no_queue(name))
        return queue

    async def get(self, request: QueueRequest) -> QueueInfo:
        led = await self._shard(request)
        await self._barrier(led.shard, request.timeout)
        return self._info(led, self._queue(led, request.queue))

    async def list_queues(self, request: QueueRequest) -> QueueInfos:
        led = await self._shard(request)
        await self._barrier(led.shard, request.timeout)
        return QueueInfos(tuple(self._info(led, queue) for queue in led.part.book.queues.values()))

    def _info(self, led: _Led, queue: Queue) -> QueueInfo:
        view = view_queue(led.part.book, queue, self._shards.now_ms(led.shard))
        return info_of(view, self._times(led.shard))

    def infos(self) -> list[QueueInfo]:
        """Of the queues whose shards this node leads, as far as it knows."""
        return [
            self._info(led, queue)
            for shard, led in sorted(self._led.items())
            if shard in self._shards.led()
            for queue in led.part.book.queues.values()
        ]

    # --- fates ----------------------------------------------------------------------------------------------

    async def fate(self, request: FateRequest) -> MessageFate:
        """Returns at once where the message's state is not the one that is known, or where it has come to its end."""
        led = await self._shard(request)
        deadline = asyncio.get_running_loop().time() + request.wait
        await self._barrier(led.shard, request.timeout)
        known = request.known
        watched = led.part.book.watched
        while True:
            found = self._fate(led, request)
            known = known or found.state
            if found.at is not None or found.state != known or asyncio.get_running_loop().time() >= deadline:
                return found
            watched[request.number] += 1
            try:
                await self._shards.changed(watch_of(request.number), deadline, shard=led.shard)
            finally:
                watched[request.number] -= 1
                if not watched[request.number]:
                    del watched[request.number]

    def _fate(self, led: _Led, request: FateRequest) -> MessageFate:
        book, times = led.part.book, self._times(led.shard)
        queue = book.queues.get(request.queue)
        if queue is None:
            raise UnknownQueue(no_queue(request.queue).message, field="queue")
        message = book.find(queue, request.number)
        if message is not None:
            return fate_of_message(queue.name, view_message(message), times)
        gone = book.fate(queue, request.number)
        if gone is None:
            raise UnknownMessage(
                f"queue {queue.name} knows of no message {request.number}: it was never sent, or what became of it "
                "is too long ago (an hour at most is remembered)",
                field="id",
            )
        return fate_of_gone(queue.name, gone, (), times)
