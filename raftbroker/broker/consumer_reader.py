"""Reads several partitions by turns, from positions that it keeps: what consumers and pushed streams stand on.

Records come from this node's copy where it has one, without asking anybody; where it has none, or not that far, from
the partition's leader. Nothing is read ahead but the rest of one batch and what other nodes answered to the last wait,
so a reader holds a bounded number of bytes whatever it reads.

Positions move when records are handed out. A change of positions from outside while a read is under way wins: what was
read for the old ones is dropped.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError, OffsetOutOfRange, Rejected
from raftbroker.broker.fetch import Fetcher
from raftbroker.broker.replica_read import ReplicaReads
from raftbroker.broker.topics import Topics
from raftbroker.broker.views import Fetched
from raftbroker.broker.waiting import EndWaiters
from raftbroker.state import isolation
from raftbroker.state.batch import Record, decode_batch, parse_header
from raftbroker.state.control_commands import PartitionPlace
from raftbroker.state.errors import BadBatch
from raftbroker.state.partition import PartitionMachine

Name = tuple[str, int]
"""A topic's name and a partition's number."""

ELSEWHERE_MAX = 16
"""Partitions without a copy here that are waited for at once; more than that are waited for by turns."""
ELSEWHERE_SECONDS = 1.0
"""How long a turn is where there are more."""
ELSEWHERE_BYTES = 256 << 10
AGAIN_SECONDS = 0.2
"""How long after a failure another node is asked again."""
RECORD_OVERHEAD_BYTES = 64
"""What a record counts beside its key, value and headers."""


class Reset(StrEnum):
    """Where to read on where there is no position, or none that the log still has."""

    EARLIEST = "earliest"
    LATEST = "latest"
    NONE = "none"
    """Nowhere: whoever reads is told."""


class Taken(msgspec.Struct, frozen=True, array_like=True):
    """Records of one partition, in order. With a `reason` there are none: the offsets from `offset` up to
    `next_offset` cannot be read, and it is said why."""

    topic: str
    partition: int
    offset: int
    records: tuple[Record, ...]
    next_offset: int
    reason: str = ""
    broken: bool = False
    """They are there, and cannot be decompressed or read; else the log does not have them (any more)."""


class Sources(msgspec.Struct, frozen=True):
    """What a reader reads from."""

    context: Context
    topics: Topics
    fetcher: Fetcher
    reads: ReplicaReads
    waiters: EndWaiters


class Reader:
    def __init__(self, sources: Sources, *, committed: bool = True, reset: Reset = Reset.EARLIEST) -> None:
        """`committed`: nothing of transactions that are open or were aborted."""
        self._sources = sources
        self._committed = committed
        self._reset = reset
        self.positions: dict[Name, int] = {}
        self._version = 0
        self._first: Name | None = None
        """Whose turn it is to be read first."""
        self._rest: dict[Name, list[Record]] = {}
        """Of a batch that did not fit into the last answer."""
        self._answered: dict[Name, Fetched] = {}
        """What other nodes had at the present positions."""
        self._refused: dict[Name, OffsetOutOfRange] = {}
        """Where other nodes do not have the present position."""
        self._elsewhere: set[Name] = set()
        """Partitions that this node cannot read itself at the present position."""
        self._wake: asyncio.Future[None] | None = None

    def assign(self, positions: Mapping[Name, int]) -> None:
        """From now on these partitions, from these offsets on."""
        self.positions = dict(positions)
        self._moved()

    def seek(self, name: Name, offset: int) -> None:
        self.positions[name] = offset
        self._moved()

    def _moved(self) -> None:
        self._version += 1
        self._rest.clear()
        self._answered.clear()
        self._refused.clear()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def read(self, bytes_max: int, records_max: int, deadline: float) -> list[Taken]:
        """About `bytes_max` bytes of records, at least one where there is any, waiting for it until `deadline` (on the
        loop's clock). Raises what a partition's topic or leader refuses, where nothing was read from others."""
        loop = asyncio.get_running_loop()
        while True:
            taken = await self._look(bytes_max, records_max)
            if taken or loop.time() >= deadline:
                return taken or []
            if taken is not None:
                await self._wait(deadline)

    # --- what is here ---------------------------------------------------------------------------------------

    async def _look(self, bytes_max: int, records_max: int) -> list[Taken] | None:
        """None where positions were changed meanwhile."""
        version = self._version
        look = _Look(bytes_max, records_max)
        self._elsewhere.clear()
        for name in self._in_turn():
            if look.full:
                break
            offset = self.positions[name]
            try:
                self._take(look, name, offset)
            except OffsetOutOfRange as error:
                self._lost(look, name, offset, error)
            except Rejected:
                if look.taken:
                    break
                raise
            if look.expensive():
                await asyncio.sleep(0)
                if version != self._version:
                    return None
        self.positions.update(look.positions)
        self._rest = look.rest
        for name in look.positions:
            self._answered.pop(name, None)
            self._refused.pop(name, None)
        return look.taken

    def _in_turn(self) -> list[Name]:
        names = list(self.positions)
        if not names:
            return names
        first = names.index(self._first) if self._first in self.positions and self._first is not None else 0
        self._first = names[(first + 1) % len(names)]
        with_rest = [name for name in self._rest if name in self.positions]
        order = names[first:] + names[:first]
        return with_rest + [name for name in order if name not in self._rest]

    def _take(self, look: "_Look", name: Name, offset: int) -> None:
        rest = self._rest.get(name)
        if rest is not None:
            look.add(name, offset, rest)
            return
        if name in self._refused:
            raise self._refused[name]
        place = self._place(name)
        fetched = self._answered.get(name)
        if fetched is None and place is not None:
            fetched = self._sources.reads.from_copy(place.group, place.id, offset, look.left, committed=self._committed)
        if fetched is None or not fetched.batches:
            if place is None or self._end(place) != offset:
                self._elsewhere.add(name)
            return
        self._open(look, name, offset, fetched)

    def _open(self, look: "_Look", name: Name, offset: int, fetched: Fetched) -> None:
        shown: Iterable[tuple[bytes, bool]] = ((batch, True) for batch in fetched.batches)
        if self._committed:
            shown = isolation.committed(fetched.batches, fetched.aborted)
        for batch, counts in shown:
            after = parse_header(batch).next_offset
            if counts:
                try:
                    records = decode_batch(batch)
                except BadBatch as error:
                    if not look.has(name):
                        reason = f"the records cannot be decompressed or read: {error}"
                        look.skip(name, Taken(*name, offset, (), after, reason, broken=True))
                        look.full = True
                    return
                if not look.add(name, offset, [record for record in records if record.offset >= offset]):
                    return
            look.reached(name, after)

    def _lost(self, look: "_Look", name: Name, offset: int, error: OffsetOutOfRange) -> None:
        """The log does not have the position (any more)."""
        if self._reset is Reset.NONE:
            if not look.taken:
                raise error
            look.full = True
            return
        after = error.start if self._reset is Reset.EARLIEST else error.high_watermark
        look.skip(name, Taken(*name, offset, (), after, error.message))

    def _place(self, name: Name) -> PartitionPlace | None:
        """As this node knows it; None where it does not."""
        topic = self._sources.context.control.topic(name[0])
        return topic.partitions[name[1]] if topic is not None and name[1] < len(topic.partitions) else None

    def _end(self, place: PartitionPlace) -> int | None:
        """Of the copy here; None without one."""
        context = self._sources.context
        machine = context.machine(place.group)
        if machine is None or context.host.groups[place.group].damaged is not None:
            return None
        return machine.last_stable(place.id) if self._committed else machine.end(place.id)

    # --- what is to come --------------------------------------------------------------------------------------

    async def _wait(self, deadline: float) -> None:
        """Until something may have come, by `deadline`. Raises what other nodes refuse."""
        loop = asyncio.get_running_loop()
        elsewhere = [name for name in self._in_turn() if name in self._elsewhere]
        if len(elsewhere) > ELSEWHERE_MAX:
            elsewhere = elsewhere[:ELSEWHERE_MAX]
            deadline = min(deadline, loop.time() + ELSEWHERE_SECONDS)
        self._wake = loop.create_future()
        version = self._version
        tasks = [loop.create_task(self._ask(name, self.positions[name], version, deadline)) for name in elsewhere]
        if len(self._elsewhere) < len(self.positions):
            tasks.append(loop.create_task(self._moved_here(deadline)))
        try:
            await asyncio.wait(
                {self._wake, *tasks}, timeout=max(0.0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome

    async def _moved_here(self, deadline: float) -> None:
        """Between this look and the wait there must be no await."""
        places: list[tuple[int, PartitionMachine, int]] = []
        for name, offset in self.positions.items():
            if name in self._elsewhere:
                continue
            place = self._place(name)
            machine = self._sources.context.machine(place.group) if place is not None else None
            if place is None or machine is None or self._end(place) != offset:
                return
            places.append((place.group, machine, place.id))
        await self._sources.waiters.moved(places, deadline)

    async def _ask(self, name: Name, offset: int, version: int, deadline: float) -> None:
        """What the leader has, or what comes there by `deadline`; a failure that may pass is waited out."""
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        try:
            fetched = await self._sources.fetcher.fetch(
                *name,
                offset,
                bytes_max=ELSEWHERE_BYTES,
                wait=left,
                bytes_min=1,
                committed=self._committed,
                timeout=max(1.0, left),
            )
        except OffsetOutOfRange as error:
            if version == self._version:
                self._refused[name] = error
        except Rejected:
            raise
        except BrokerError:
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            if version == self._version and fetched.batches:
                self._answered[name] = fetched


class _Look:
    """One answer while it is put together; positions move only once it is complete."""

    def __init__(self, bytes_max: int, records_max: int) -> None:
        self.left = bytes_max
        self._records_left = records_max
        self._cost = 0
        self.taken: list[Taken] = []
        self.positions: dict[Name, int] = {}
        self.rest: dict[Name, list[Record]] = {}
        self.full = False

    def expensive(self) -> bool:
        """Whether others should have a turn on the loop."""
        self._cost += 1
        return bool(self.taken) or self._cost % 64 == 0

    def has(self, name: Name) -> bool:
        return bool(self.taken) and (self.taken[-1].topic, self.taken[-1].partition) == name

    def reached(self, name: Name, offset: int) -> None:
        self.positions[name] = max(offset, self.positions.get(name, 0))
        if self.has(name):
            self.taken[-1] = msgspec.structs.replace(self.taken[-1], next_offset=self.positions[name])

    def skip(self, name: Name, taken: Taken) -> None:
        self.taken.append(taken)
        self.positions[name] = taken.next_offset

    def add(self, name: Name, offset: int, records: Sequence[Record]) -> bool:
        """Whether all of them fitted in."""
        count = 0
        for record in records:
            size = size_of(record)
            if (self.taken or count) and (size > self.left or self._records_left <= 0):
                self.full = True
                break
            self.left -= size
            self._records_left -= 1
            count += 1
        if count:
            chosen = tuple(records[:count])
            if self.has(name):
                before = self.taken.pop()
                chosen = before.records + chosen
                offset = before.offset
            self.taken.append(Taken(*name, offset, chosen, chosen[-1].offset + 1))
            self.positions[name] = chosen[-1].offset + 1
        if count < len(records):
            self.rest = {name: list(records[count:])}
            return False
        if self.left <= 0 or self._records_left <= 0:
            self.full = True
        return True


def size_of(record: Record) -> int:
    """About how many bytes a record takes."""
    size = RECORD_OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += len(name) + len(value or b"") + 16
    return size
