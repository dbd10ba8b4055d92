"""Takes what lies in a shard's outbox to where it goes, on the node that leads the shard.

Each destination is served by itself, with pauses that grow while it cannot be reached. A queue, in whatever shard, is
given parcels in order by an op that it takes once; only then are they confirmed here. A webhook is posted to through
the notifier, at least once, several at a time and so in no order; while there is none, what is for webhooks stays.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import msgspec

from consensus.errors import ConsensusError
from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.queue_content import FORMAT, Content, decode_content, encode_content, key_hash
from raftbroker.broker.queue_fates import Times, fate_of_gone, history_of
from raftbroker.broker.queue_receipts import Notifier, Pauses
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
PASSED_MAX = 1_000
"""Of one URL's parcels so many are looked at for those that may be posted: more that fail hold up the rest."""
TOLD_FROM, TOLD_TO = 4, 8
"""Leaders change: it is worth a line only when a destination has failed so often in a row, and not for ever."""
LOOK_SECONDS = 5.0
TURN_SECONDS = 0.002
"""Timers may be early by a rounding."""


class _Refused(Exception):
    """The destination does not take it now."""


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
        self._pauses = Pauses(self._now, context.random)
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

    def _start(self, but: str = "") -> float:
        """Sets out for every destination that may be tried, but for that one; when to look again."""
        now = self._now()
        wake_at = now + LOOK_SECONDS
        for to in self._outbox.destinations():
            until = self._pauses.until(to)
            if to == but or to in self._under_way or (self._notifier() is None and not to.startswith(QUEUE_PREFIX)):
                continue
            if until > now:
                wake_at = min(wake_at, until)
            elif len(self._under_way) < DESTINATIONS_AT_ONCE:
                task = asyncio.get_running_loop().create_task(self._serve(to), name=f"outbox of {self._shard} to {to}")
                self._under_way[to] = task
        return wake_at

    async def _serve(self, to: str) -> None:
        """Until nothing waits for this destination, or it fails."""
        try:
            if to.startswith(QUEUE_PREFIX):
                while parcels := self._outbox.waiting(to, PARCELS_AT_ONCE):
                    await self._to_queue(to, parcels)
                    self._pauses.well(to)
            else:
                await self._to_url(to)
        except (ConsensusError, BrokerError, _Refused, OSError, TimeoutError) as error:
            self._failed(to, error)
        finally:
            del self._under_way[to]
            if not self._task.done():
                asyncio.get_running_loop().call_soon(self._start_more, to)

    def _start_more(self, but: str = "") -> None:
        """Others may have waited for a place; or for the end of a pause."""
        if not self._task.done():
            self._start(but)

    def _failed(self, to: str, error: Exception) -> None:
        self._pauses.failed(to)
        asyncio.get_running_loop().call_at(self._pauses.until(to) + TURN_SECONDS, self._start_more)
        if TOLD_FROM <= self._pauses.failures(to) <= TOLD_TO:
            log.warning("what is for %s from shard %d cannot be delivered now: %s", _shown(to), self._shard, error)

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

    async def _to_url(self, to: str) -> None:
        """Several at a time. Those that failed before wait, and go behind those that did not."""
        while batch := self._due(to):
            fresh = not all(self._pauses.failures(parcel.sequence) for parcel in batch)
            failures = await self._post_all(to, batch)
            if len(failures) < len(batch):
                self._pauses.well(to)
            elif fresh or self._pauses.failures(to):
                raise failures[0]

    def _due(self, to: str) -> list[Parcel]:
        now, pauses = self._now(), self._pauses
        due = [one for one in self._outbox.waiting(to, PASSED_MAX) if pauses.until(one.sequence) <= now]
        due.sort(key=lambda parcel: pauses.failures(parcel.sequence) > 0)
        return due[:POSTS_AT_ONCE]

    async def _post_all(self, to: str, batch: Sequence[Parcel]) -> list[Exception]:
        """What failed."""
        times = self._times()
        posts = [self._post(to, self._receipt(parcel, times)) for parcel in batch]
        outcomes = await asyncio.gather(*posts, return_exceptions=True)
        arrived: list[Parcel] = []
        failures: list[Exception] = []
        for parcel, failure in zip(batch, outcomes, strict=True):
            if failure is None:
                self._pauses.well(parcel.sequence)
                arrived.append(parcel)
            elif isinstance(failure, (OSError, TimeoutError, _Refused)):
                self._pauses.failed(parcel.sequence)
                failures.append(failure)
            else:
                raise failure
        await self._confirm(arrived, [0] * len(arrived))
        return failures

    async def _post(self, to: str, body: bytes) -> None:
        notifier = self._notifier()
        if notifier is None:
            raise _Refused("this node delivers nothing to webhooks")
        async with asyncio.timeout(POST_SECONDS):
            await notifier.send(to, body, timeout=POST_SECONDS)


def _shown(to: str) -> str:
    """For the log: of a URL only the host, for the rest of it may be a secret."""
    return to if to.startswith(QUEUE_PREFIX) else f"the webhook at {urlsplit(to).netloc}"
