"""One client's connection: frames in, requests begun one after the other, answers out in the order of the requests.

It is not read while it has too many requests in hand, while the listener holds too many bytes, or while its client
does not take its answers. Whatever goes wrong with it ends it, with one line in the log, and nothing else.

**Who runs.** At most one task at a time has the turn: it takes the next frame, runs its handler, and goes on with the
next one. When a handler passes the turn on, another task goes on from there, and the first ends with its answer.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from raftbroker.kafka.api import Api, Connection, Parts, Request
from raftbroker.kafka.budget import AnswerBudget, RequestBudget
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import BrokenFrame
from raftbroker.kafka.frames import SIZE_BYTES, answer_head, frame_size, read_header
from raftbroker.kafka.handlers.api_versions import unsupported
from raftbroker.kafka.metrics import KafkaMetrics

log = logging.getLogger(__name__)

TURN_SECONDS = 0.005
"""A client with many requests in hand lets others have the loop this often."""
HIGH_WATER_BYTES = 512 * 1024
"""Of answers that the client has not taken: beyond it no more of its requests are begun."""


class Shared:
    """What all connections of a listener share."""

    def __init__(self, context: KafkaContext, apis: Mapping[int, Api[Any, Any]]) -> None:
        options = context.options
        self.context = context
        self.apis = apis
        self.requests = RequestBudget(options.request_bytes_max)
        self.answers = AnswerBudget(options.answer_bytes_max)
        self.connections: set[KafkaConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        """Those that serve requests, also of connections that have gone."""
        self.empty = asyncio.Event()
        """Set when the last connection has gone."""
        self.metrics = KafkaMetrics()


class _Slot:
    """The place of one request's answer in the order."""

    __slots__ = ("bytes", "done", "parts", "passed")

    def __init__(self, size: int) -> None:
        self.bytes = size
        self.done = False
        self.parts: Parts | None = None
        """None: no answer."""
        self.passed = False
        """The turn has been passed on."""


class KafkaConnection(asyncio.Protocol):
    def __init__(self, shared: Shared, number: int) -> None:
        self._shared = shared
        self._options = shared.context.options
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._who = Connection(number, "")
        # Reading.
        self._rest = memoryview(b"")
        """Received, and not yet cut into frames."""
        self._frame: bytearray | None = None
        """A frame of which a part is there yet, and how much of it is."""
        self._filled = 0
        self._admission = 0
        """The size of a frame that waits for room among the requests of all connections."""
        self._reading = True
        self._ended = False
        """The client sends nothing more."""
        self._closed = False
        """It has been closed from here: nothing more is begun or sent."""
        self._closed_at = 0.0
        self._incomplete_since: float | None = self._loop.time()
        """Since when a request is awaited that is not there whole; a new connection's first one counts."""
        self._active_at = self._loop.time()
        # Serving.
        self._frames: deque[memoryview] = deque()
        """Whole requests, not yet begun."""
        self._slots: deque[_Slot] = deque()
        """Requests begun, whose answers have not left, in their order."""
        self._turn_taken = False
        self._waiting: set[asyncio.Task[None]] = set()
        """Those that are of no use once the client has gone."""
        self._stopping = False
        # Writing.
        self._slow_since: float | None = None
        self._written = 0
        """Bytes of bodies that have been made."""
        self._taken_when_slow = 0

    def __repr__(self) -> str:
        return f"connection {self._who.id} of {self._who.peer}"

    @property
    def busy(self) -> bool:
        """Whether requests are under way or answers have not left."""
        return bool(self._frames or self._slots or self._admission or self._slow_since is not None)

    # --- the connection's life ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._who.peer = str(peer[0]) if isinstance(peer, tuple) and peer else "unknown"
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if self._shared.context.stopping.is_set() or len(self._shared.connections) >= self._options.connections_max:
            self._shared.metrics.connections_refused += 1
            self._close()
            return
        self._shared.metrics.connections_made += 1
        self._shared.connections.add(self)
        self._shared.empty.clear()

    def eof_received(self) -> bool:
        """What came before the end is still served, such as a producer's last batches that want no answer."""
        self._ended = True
        for task in self._waiting:
            task.cancel()
        return self.busy

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._ended = self._closed = True
        self._rest = memoryview(b"")
        self._shared.connections.discard(self)
        if not self._shared.connections:
            self._shared.empty.set()
        self._shared.answers.hold(self.cut_off, 0)
        if self._admission:
            self._shared.requests.leave(self._admission, self._admitted)
            self._admission = 0
        if self._frame is not None:
            self._shared.requests.give(len(self._frame))
            self._frame = None
        held = sum(len(frame) for frame in self._frames)
        self._frames.clear()
        self._shared.requests.give(held)
        for task in self._waiting:
            task.cancel()

    def close(self, reason: str) -> None:
        """Ends the connection for what its client did, with one line in the log."""
        if self._transport is not None and not self._closed:
            log.warning("%r is closed: %s", self, reason)
            self._close()

    def _close(self) -> None:
        """What has been sent still leaves, if its client takes it."""
        self._closed, self._closed_at = True, self._loop.time()
        if self._transport is not None:
            self._transport.close()

    def cut_off(self, reason: str) -> None:
        """Ends it without sending what waits for its client."""
        if self._transport is not None and not self._closed:
            self._shared.metrics.connections_cut += 1
            log.warning("%r is cut off: %s", self, reason)
            self.abort()

    def stop(self) -> None:
        """The listener stops: begins no further request, and closes once those under way have been answered."""
        self._stopping = True
        self._close_if_done()

    def abort(self) -> None:
        """Ends it now. Requests under way go on: what they do is not undone by their client going away."""
        self._closed, self._closed_at = True, self._loop.time()
        if self._transport is not None:
            self._transport.abort()

    def check(self, now: float) -> None:
        """Called every second: closes what is idle, too slow to send or too slow to take."""
        options = self._options
        if self._transport is None:
            return
        if self._closed:
            if now - self._closed_at > options.send_timeout:
                self._transport.abort()
        elif self._slow_since is not None:
            taken = self._written - self._transport.get_write_buffer_size()
            if taken > self._taken_when_slow:
                self._slow_since, self._taken_when_slow = now, taken
            elif now - self._slow_since > options.send_timeout:
                self.cut_off(f"it has taken nothing of its answers for {options.send_timeout:g} s")
        elif self._incomplete_since is not None and self._reading:
            if now - self._incomplete_since > options.frame_timeout:
                self.close(f"a request was not there whole after {options.frame_timeout:g} s")
        elif not self.busy and now - self._active_at > options.idle_timeout:
            log.info("%r is closed: it was idle for %g s", self, options.idle_timeout)
            self._close()

    # --- reading --------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._active_at = self._loop.time()
        self._rest = memoryview(bytes(self._rest) + data) if self._rest else memoryview(data)
        self._cut()

    def _cut(self) -> None:
        """Cuts what has been received into frames, as far as they may be taken, and begins."""
        if self._closed:
            return
        try:
            while self._rest and not self._admission and not self._full:
                if self._frame is not None:
                    self._fill(self._frame)
                elif not self._next_frame():
                    break
        except BrokenFrame as error:
            self._broken(error)
            return
        if self._frame is None and not self._rest:
            self._incomplete_since = None
        elif self._incomplete_since is None:
            self._incomplete_since = self._active_at
        self._begin()
        self._read_on()
        self._close_if_done()

    def _next_frame(self) -> bool:
        """Takes the next frame's length, and the frame if it is there. False: more has to come first."""
        if len(self._rest) < SIZE_BYTES:
            return False
        size = frame_size(self._rest, 0, self._options.frame_bytes_max)
        if not self._shared.requests.take(size):
            self._admission = size
            self._shared.requests.wait(size, self._admitted)
            return False
        self._take(size)
        return True

    def _admitted(self) -> None:
        """There is room for the frame that waited; its bytes have been taken."""
        size, self._admission = self._admission, 0
        self._take(size)
        self._active_at = self._loop.time()
        self._cut()

    def _take(self, size: int) -> None:
        whole = SIZE_BYTES + size
        if len(self._rest) >= whole:
            self._frames.append(self._rest[SIZE_BYTES:whole])
            self._rest = self._rest[whole:]
        else:
            self._frame, self._filled = bytearray(size), 0
            self._rest = self._rest[SIZE_BYTES:]

    def _fill(self, frame: bytearray) -> None:
        part = self._rest[: len(frame) - self._filled]
        frame[self._filled : self._filled + len(part)] = part
        self._filled += len(part)
        self._rest = self._rest[len(part) :]
        if self._filled == len(frame):
            self._frames.append(memoryview(frame))
            self._frame = None

    @property
    def _full(self) -> bool:
        return len(self._frames) + len(self._slots) >= self._options.requests_max

    def _read_on(self) -> None:
        """Reads, or does not, as things stand."""
        if self._transport is None or self._closed or self._ended:
            return
        wanted = not (self._full or self._admission or self._slow_since is not None or self._stopping)
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                if self._incomplete_since is not None:
                    self._incomplete_since = self._loop.time()  # it was not the client that made it wait
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _broken(self, error: BrokenFrame) -> None:
        self._shared.metrics.connections_broken += 1
        self.close(f"{error}")

    # --- serving --------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Gives the turn to a task, where there is something to begin."""
        if self._turn_taken or not self._may_begin():
            return
        self._turn_taken = True
        task = self._loop.create_task(self._serve())
        self._shared.tasks.add(task)
        task.add_done_callback(self._task_done)

    def _may_begin(self) -> bool:
        return bool(self._frames) and self._slow_since is None and not self._stopping and not self._closed

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._shared.tasks.discard(task)
        self._waiting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%r is closed: serving it failed", self, exc_info=error)
            self.abort()
        self._begin()  # what was cancelled has left the turn to the next

    async def _serve(self) -> None:
        """Has the turn: serves one request after the other until there is none, or the turn has been passed on."""
        slot: _Slot | None = None
        others_had_the_loop = self._loop.time()
        try:
            while self._may_begin():
                frame = self._frames.popleft()
                slot = _Slot(len(frame))
                self._slots.append(slot)
                try:
                    await self._answer(frame, slot)
                except BrokenFrame as error:
                    self._broken(error)
                finally:
                    del frame
                    slot.done = True
                    self._shared.requests.give(slot.bytes)
                    self._send()
                if slot.passed:
                    return
                if self._loop.time() - others_had_the_loop > TURN_SECONDS:
                    await asyncio.sleep(0)
                    others_had_the_loop = self._loop.time()
        finally:
            if slot is None or not slot.passed:
                self._turn_taken = False

    async def _answer(self, frame: memoryview, slot: _Slot) -> None:
        shared = self._shared
        header = read_header(frame, shared.apis)
        api, began = header.api, self._loop.time()
        if api is None:
            body = unsupported(shared.context.served)
        else:
            request = Request(
                api.key,
                header.version,
                header.correlation_id,
                header.client_id,
                self._who,
                api.decode(frame[header.body_at :], header.version),
                self._pass_turn(slot),
            )
            answer = await self._handle(api, request)
            if answer is None:
                shared.metrics.done(api.name, self._loop.time() - began, slot.bytes, 0)
                return
            body = api.codec.encode(answer, header.version)
        body_bytes = sum(map(len, body))
        slot.parts = (answer_head(header, body_bytes), *body)
        self._written += body_bytes
        if api is not None:
            shared.metrics.done(api.name, self._loop.time() - began, slot.bytes, body_bytes)

    async def _handle(self, api: Api[Any, Any], request: Request[Any]) -> object:
        if not api.abandon:
            return await api.handle(self._shared.context, request)
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            return await api.handle(self._shared.context, request)
        finally:
            self._waiting.discard(task)

    def _pass_turn(self, slot: _Slot) -> Callable[[], None]:
        def pass_turn() -> None:
            if not slot.passed and not slot.done:
                slot.passed = True
                self._turn_taken = False
                self._begin()

        return pass_turn

    # --- writing --------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Sends the answers whose turn it is."""
        transport = self._transport
        while self._slots and self._slots[0].done:
            parts = self._slots.popleft().parts
            if parts is not None and transport is not None and not self._closed:
                transport.writelines(parts)
        self._active_at = self._loop.time()
        self._count_unsent()
        if self._rest and not self._admission:
            self._cut()
        self._read_on()
        self._close_if_done()

    def _close_if_done(self) -> None:
        ending = self._stopping or (self._ended and not self._frames and not self._admission)
        if ending and not self._slots and self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        transport = self._transport
        assert transport is not None
        self._slow_since = self._loop.time()
        self._taken_when_slow = self._written - transport.get_write_buffer_size()
        self._count_unsent()
        self._read_on()

    def resume_writing(self) -> None:
        self._slow_since = None
        self._shared.answers.hold(self.cut_off, 0)
        self._begin()
        self._read_on()

    def _count_unsent(self) -> None:
        if self._slow_since is not None and self._transport is not None:
            self._shared.answers.hold(self.cut_off, self._transport.get_write_buffer_size())
