"""Takes what lies in a shard's outbox to where it goes, on the node that leads the shard.

Each destination is served by itself, in order, with pauses that grow while it cannot be reached. A queue, in whatever
shard, is given parcels by an op that it takes once; only then are they confirmed here. A webhook is posted to through
the notifier, at least once; while there is none, what is for webhooks stays.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from consensus.errors import ConsensusError
from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.queue_content import FORMAT, Content, decode_content, encode_content, key_hash
from raftbroker.broker.queue_fates import Times, fate_of_gone, history_of
from raftbroker.broker.queue_views import DeadLetter
from raftbroker.broker.routing import Mode
from raftbroker.broker.shards import Shards
from raftbroker.state.queues.messages import PRIORITY_DEFAULT
from raftbroker.state.queues.ops import Arrival, Shipped, TakeMessages
from raftbroker.state.queues.outbox import MOVE, QUEUE_PREFIX, RECEIPT, Parcel
from raftbroker.state.queues.part import QueuesPart
from raftbroker.state.queues.queue import OUTBOX_TOPIC

log = logging.getLogger(__name__)

PARCELS_AT_ONCE = 100
BYTES_AT_ONCE = 1 << 20
DESTINATIONS_AT_ONCE = 16
POSTS_AT_ONCE = 8
"""To one URL."""
OP_SECONDS = 10.0
POST_SECONDS = 30.0
PAUSE_MIN, PAUSE_MAX = 0.2, 30.0
TOLD_FROM = 1.0
"""Leaders change: it is worth a line only when a destination keeps failing."""
LOOK_SECONDS = 5.0


class Notifier(Protocol):
    """Delivers receipts to webhooks: whoever composes the node may hand one in."""

    async def post(self, url: str, body: bytes) -> None:
        """Returns once the receiver has taken the JSON. Raises OSError or TimeoutError otherwise: tried again later."""


class _Refused(Exception):
    """The destination does not take it now."""


class _Pause:
    """After a failure."""

    def __init__(self, seconds: float, until: float) -> None:
        self.seconds = seconds
        self.until = until


class Driver:
    """One shard's, while this node leads it."""

    def __init__(
        self,
        context: Context,
        shards: Shards,
        shard: int,
        part: QueuesPart,
        notifier: Callable[[], Notifier | None],
    ) -> None:
        self._context = context
        self._shards = shards
        self._shard = shard
        self._outbox = part.book.outbox
        self._book = part.book
        self._notifier = notifier
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, _Pause] = {}
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"outbox of shard {shard}")

    def stop(self) -> list["asyncio.Task[None]"]:
        tasks = [self._task, *self._under_way.values()]
        for task in tasks:
            task.cancel()
        return tasks

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _run(self) -> None:
        while True:
            wake_at = self._start()
            try:
                await self._shards.changed(OUTBOX_TOPIC, wake_at, shard=self._shard)
            except (ConsensusError, BrokerError):  # about to be stopped, or too many wait
                await asyncio.sleep(LOOK_SECONDS)

    def _start(self) -> float:
        """Sets out for every destination that may be tried; when to look again."""
        now = self._now()
        wake_at = now + LOOK_SECONDS
        destinations = self._outbox.destinations()
        for to in list(self._pauses):
            if to not in destinations:
                del self._pauses[to]
        for to in destinations:
            pause = self._pauses.get(to)
            if to in self._under_way or (self._notifier() is None and not to.startswith(QUEUE_PREFIX)):
                continue
            if pause is not None and pause.until > now:
                wake_at = min(wake_at, pause.until)
            elif len(self._under_way) < DESTINATIONS_AT_ONCE:
                task = asyncio.get_running_loop().create_task(self._serve(to), name=f"outbox of {self._shard} to {to}")
                self._under_way[to] = task
        return wake_at

    async def _serve(self, to: str) -> None:
        """Until nothing waits for this destination, or it fails."""
        try:
            while parcels := self._outbox.waiting(to, PARCELS_AT_ONCE):
                await (self._to_queue(to, parcels) if to.startswith(QUEUE_PREFIX) else self._to_url(to, parcels))
                self._pauses.pop(to, None)
        except (ConsensusError, BrokerError, _Refused, OSError, TimeoutError) as error:
            self._failed(to, error)
        finally:
            del self._under_way[to]
            if not self._task.done():
                asyncio.get_running_loop().call_soon(self._start_more)

    def _start_more(self) -> None:
        """Others may have waited for a place."""
        if not self._task.done():
            self._start()

    def _failed(self, to: str, error: Exception) -> None:
        before = self._pauses.get(to)
        seconds = min(PAUSE_MAX, 2 * before.seconds) if before is not None else PAUSE_MIN
        self._pauses[to] = _Pause(seconds, self._now() + seconds * (1 + self._context.random.random()) / 2)
        if TOLD_FROM <= seconds < PAUSE_MAX:
            log.warning("what is for %s from shard %d cannot be delivered now: %s", to, self._shard, error)

    def _times(self) -> Times:
        return Times(self._context.wall() - self._shards.now_ms(self._shard))

    async def _confirm(self, parcels: Sequence[Parcel], numbers: Sequence[int]) -> None:
        done = tuple((parcel.sequence, number) for parcel, number in zip(parcels, numbers, strict=False))
        if done:
            await self._shards.submit_here(Shipped("", done), OP_SECONDS, shard=self._shard)

    # --- to a queue -----------------------------------------------------------------------------------------

    async def _to_queue(self, to: str, parcels: Sequence[Parcel]) -> None:
        times = self._times()
        arrivals: list[Arrival] = []
        contents: list[bytes] = []
        size = 0
        for parcel in parcels:
            arrival, content = self._pack(parcel, times)
            size += len(content)
            if contents and size > BYTES_AT_ONCE:
                break
            arrivals.append(arrival)
            contents.append(content)
        op = TakeMessages(to.removeprefix(QUEUE_PREFIX), self._shard, tuple(arrivals))
        taken = await self._shards.submit(op, OP_SECONDS, mode=Mode.REPEATABLE, payloads=contents)
        await self._confirm(parcels[: len(taken.numbers)], taken.numbers)
        if taken.refusal is not None:
            raise _Refused(taken.refusal.message)

    def _pack(self, parcel: Parcel, times: Times) -> tuple[Arrival, bytes]:
        """The parcel's message as it goes into its destination."""
        if parcel.kind == RECEIPT:
            content = Content(FORMAT, self._receipt(parcel, times), True, None, (), self._context.wall())
            data = encode_content(content)
            return Arrival(parcel.sequence, len(data), PRIORITY_DEFAULT), data
        message = self._book.segments.get(parcel.number)
        assert message is not None
        more = message.extra
        content = decode_content(self._shards.payload(self._shard, parcel.number))
        receipt, origin = content.receipt, ""
        if parcel.kind == MOVE:
            history = history_of(more.history, times)
            died_at = times.wall(parcel.at_ms)
            dead = DeadLetter(parcel.queue, str(parcel.number), more.reason, died_at, message.deliveries, history)
            content = msgspec.structs.replace(content, receipt=more.receipt, dead_letter=dead)
            receipt, origin = "", parcel.queue
        else:
            content = msgspec.structs.replace(content, receipt="", dead_letter=None)
        data = encode_content(content)
        key = key_hash(content.key)
        return Arrival(parcel.sequence, len(data), message.priority, key, receipt, origin), data

    def _receipt(self, parcel: Parcel, times: Times) -> bytes:
        assert parcel.fate is not None
        return msgspec.json.encode(fate_of_gone(parcel.queue, parcel.fate, parcel.history, times))

    # --- to a webhook ---------------------------------------------------------------------------------------

    async def _to_url(self, to: str, parcels: Sequence[Parcel]) -> None:
        notifier, times = self._notifier(), self._times()
        if notifier is None:
            raise _Refused("this node delivers nothing to webhooks")
        batch = parcels[:POSTS_AT_ONCE]
        posts = [self._post(notifier, to, self._receipt(parcel, times)) for parcel in batch]
        outcomes = await asyncio.gather(*posts, return_exceptions=True)
        arrived = [parcel for parcel, failure in zip(batch, outcomes, strict=True) if failure is None]
        await self._confirm(arrived, [0] * len(arrived))
        for failure in outcomes:
            if failure is not None:
                raise failure

    async def _post(self, notifier: Notifier, to: str, body: bytes) -> None:
        async with asyncio.timeout(POST_SECONDS):
            await notifier.post(to, body)
