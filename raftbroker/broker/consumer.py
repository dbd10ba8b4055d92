"""A consumer that lives on this node: a member of a group, or a reader of partitions that it was told.

One engine for all that push and pull on behalf of somebody: instances of the v2 consumer API, streams that share the
work of a group, webhooks. It joins the same groups as Kafka's clients do, through the same coordinator; its offsets are
theirs.

What `poll` hands out counts as processed when the next poll comes (or `close`, which says that all is done): only that
is committed by itself. So whoever dies between two polls gets the records again. When the group rebalances, whoever has
records in hand is given `GRACE_SECONDS` to say so, by a poll or a commit, before the partitions go.

One poll at a time; everything else may be called while it waits.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

import msgspec

from raftbroker.broker.consumer_groups import ConsumerGroups, OffsetToCommit, refused
from raftbroker.broker.consumer_member import Member, MemberSettings
from raftbroker.broker.consumer_reader import Name, Reader, Reset, Sources, Taken, size_of
from raftbroker.broker.errors import BadRecords, BrokerError, GroupRefused, InvalidRequest, Rejected, Throttled
from raftbroker.broker.group_patterns import topic_pattern
from raftbroker.broker.offsets import Offsets
from raftbroker.state.groups.ops import PartitionName
from raftbroker.state.groups.protocol import Partitions
from raftbroker.state.groups.terms import GroupError

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
COMMIT_SECONDS = 5.0
PAUSE_SECONDS = 0.2
TOPICS_MAX = 1_000
PARTITIONS_MAX = 10_000
_REBALANCES = (GroupError.REBALANCE_IN_PROGRESS, GroupError.ILLEGAL_GENERATION, GroupError.UNKNOWN_MEMBER_ID)


class ConsumerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times are ms."""

    member: MemberSettings
    format: str = "binary"
    """How its user wants keys and values written; nothing to the engine."""
    reset: Reset = Reset.LATEST
    """Where to begin where the group has committed nothing."""
    auto_commit: bool = True
    commit_every_ms: int = 5_000
    commit_behind: bool = False
    """Commit by itself only what was processed one interval ago: for those who cannot say that it has arrived."""
    tells_gaps: bool = False
    """Whoever polls is told of what cannot be read, and it is passed over; else it is refused, or left to `reset`."""
    bytes_min: int = 1
    """A poll waits until there is as much, or its time is up."""
    poll_ms: int = 1_000
    """How long a poll waits unless it says so."""
    committed: bool = True
    """Nothing of transactions that are open or were aborted."""
    idle_ms: int = 300_000
    """It is closed when nothing is asked of it for so long; 0 for never."""


class Consumer:
    def __init__(
        self,
        sources: Sources,
        groups: ConsumerGroups,
        offsets: Offsets,
        group: str,
        settings: ConsumerSettings,
        *,
        begin: Mapping[Name, int] | None = None,
    ) -> None:
        """`begin`: where whoever resumes has come to; counts where the group has committed less."""
        self._sources = sources
        self._groups = groups
        self._offsets = offsets
        self.group = group
        self.settings = settings
        self._begin = dict(begin or {})
        self.topics: tuple[str, ...] = ()
        """Subscribed to by name."""
        self.pattern: str | None = None
        self._matches: Callable[[str], bool] | None = None
        self._matched: tuple[int, tuple[str, ...]] = (-1, ())
        """The topics that match, as of a version of the control state."""
        self._member: Member | None = None
        self._reader = Reader(sources, committed=settings.committed, reset=settings.reset)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processed: dict[Name, int] = {}
        self._safe: dict[Name, int] = {}
        """Where nothing is in its user's hands that is not processed or committed."""
        self._committed: dict[Name, int] = {}
        self._held: dict[Name, int] = {}
        """Positions at the last rebalance."""
        self._behind: dict[Name, int] = {}
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()
        """Wakes whoever waits for positions to be safe."""
        self._revoking = False
        self._manual = False
        self._changed = asyncio.Event()
        self._trouble: BrokerError | None = None
        self.closed = ""
        """Why, once it is."""
        loop = asyncio.get_running_loop()
        self.used = loop.time()
        self._commit_due = loop.time() + settings.commit_every_ms / 1000

    # --- what it reads --------------------------------------------------------------------------------------

    @property
    def positions(self) -> Mapping[Name, int]:
        """What it has, and the offset it reads next of each."""
        return self._reader.positions

    def subscribe(self, topics: Sequence[str], pattern: str | None = None) -> None:
        """Replaces the subscription. Raises InvalidRequest, and GroupRefused where it was told its partitions."""
        if self._manual:
            raise GroupRefused("this consumer was assigned partitions: unsubscribe first", field="topics")
        if bool(topics) == (pattern is not None):
            raise InvalidRequest("give either topics or topic_pattern", field="topics")
        if len(topics) > TOPICS_MAX:
            raise InvalidRequest(f"a subscription names at most {TOPICS_MAX} topics", field="topics")
        self._matches = None if pattern is None else topic_pattern(pattern)
        self._matched = (-1, ())
        self.pattern, self.topics = pattern, tuple(dict.fromkeys(topics))
        if self._member is None:
            self._member = Member(
                self._sources.context, self._groups, self.group, self.settings.member, self.wanted, self
            )
            self._start("member", self._keep(self._member))
        else:
            self._member.hurry()

    def wanted(self) -> tuple[str, ...]:
        """The topics it subscribes to now, of a pattern those that match it."""
        if self._matches is None:
            return self.topics
        control = self._sources.context.control
        if self._matched[0] != control.version:
            names = [topic.name for topic in control.topics()]
            found = tuple(name for name in names if self._matches(name))[:TOPICS_MAX]
            self._matched = (control.version, found)
        return self._matched[1]

    async def unsubscribe(self) -> None:
        """Commits what is processed, leaves the group, and has nothing any more."""
        await self._commit_processed(self._processed)
        await self._end_member()
        self._manual = False
        self.topics, self.pattern, self._matches = (), None, None
        self.lost()

    async def assign(self, partitions: Sequence[Name]) -> None:
        """Reads these from where the group has committed, without being a member. Raises GroupRefused where it
        subscribes, InvalidRequest, UnknownTopic and UnknownPartition."""
        if self._member is not None:
            raise GroupRefused("this consumer subscribes to topics: unsubscribe first", field="partitions")
        if len(partitions) > PARTITIONS_MAX:
            raise InvalidRequest(f"a consumer has at most {PARTITIONS_MAX} partitions", field="partitions")
        for name in partitions:
            await self._sources.topics.place(*name, COMMIT_SECONDS)
        self._manual = bool(partitions)
        self._begin_with(dict.fromkeys(partitions), {})
        if "resolve" in self._tasks:
            await asyncio.wait([self._tasks["resolve"]], timeout=COMMIT_SECONDS)

    # --- as its member's owner --------------------------------------------------------------------------------

    async def revoke(self) -> None:
        """Before a rebalance: who has records in hand may still say that they are done."""
        self._revoking = True
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    while not self._is_settled():
                        self._settled.clear()
                        await self._settled.wait()
            await self._commit_processed(self._processed)
        finally:
            self._revoking = False
        self._stop("resolve")
        self._held = dict(self._reader.positions)
        self._reader.assign({})

    def _is_settled(self) -> bool:
        return all(self._safe.get(name) == offset for name, offset in self._reader.positions.items())

    def assigned(self, partitions: Partitions, *, continues: bool) -> None:
        names = dict.fromkeys((topic, number) for topic, numbers in partitions.items() for number in numbers)
        self._begin_with(names, self._held if continues else {})

    def lost(self) -> None:
        self._stop("resolve")
        self._held = {}
        self._begin_with({}, {})

    def _begin_with(self, names: Mapping[Name, object], held: Mapping[Name, int]) -> None:
        """Has these from now on: those that are `held` from there, the rest from where the group has committed."""
        kept = {name: held[name] for name in names if name in held}
        self._held = {}
        self._behind = {}
        self._processed = {name: self._processed.get(name, offset) for name, offset in kept.items()}
        self._safe = {name: self._safe[name] for name in kept if name in self._safe}
        self._committed = {name: self._committed[name] for name in kept if name in self._committed}
        self._reader.assign(kept)
        missing = [name for name in names if name not in kept]
        if missing:
            self._start("resolve", self._resolve(missing))
        else:
            self._stop("resolve")
            self._tell()

    async def _resolve(self, names: Sequence[Name]) -> None:
        """Finds out where to begin, however long that takes."""
        while True:
            try:
                found = await self._find(names)
                break
            except Rejected as error:
                self._trouble = error
                self._tell()
                return
            except BrokerError as error:
                self._trouble = error
                await asyncio.sleep(PAUSE_SECONDS)
        self._trouble = None
        self._processed |= found
        self._safe |= found
        self._reader.assign({**self._reader.positions, **found})
        self._tell()

    async def _find(self, names: Sequence[Name]) -> dict[Name, int]:
        answer = await self._groups.offsets(
            self.group, [PartitionName(*name) for name in names], stable=True, timeout=COMMIT_SECONDS
        )
        for error in (answer.error, *(item.error for item in answer.offsets)):
            if error is not None:
                raise Throttled(f"the offsets of group {self.group} cannot be told now: {error.value}")
        found: dict[Name, int] = {}
        for item in answer.offsets:
            name = (item.topic, item.partition)
            if item.offset >= 0:
                self._committed[name] = item.offset
                found[name] = item.offset
            if name in self._begin:
                found[name] = max(found.get(name, 0), self._begin[name])
            if name not in found:
                found[name] = await self._initial(name)
        for name in found:
            self._begin.pop(name, None)
        return found

    async def _initial(self, name: Name) -> int:
        ends = await self._offsets.offsets(*name, COMMIT_SECONDS)
        match self.settings.reset:
            case Reset.EARLIEST:
                return ends.start
            case Reset.LATEST:
                return ends.stable if self.settings.committed else ends.end
        raise InvalidRequest(
            f"group {self.group} has committed nothing in partition {name[1]} of topic {name[0]}, and auto.offset.reset"
            " is none: seek, or commit an offset",
            field="auto.offset.reset",
        )

    # --- reading ----------------------------------------------------------------------------------------------

    async def poll(self, bytes_max: int, wait: float, *, records_max: int = 10_000) -> list[Taken]:
        """Records in turn from its partitions; none when `wait` seconds have passed. Raises GroupRefused where it
        reads nothing, what its group refuses, and BadRecords for records that cannot be read: seek beyond them."""
        self._check()
        deadline = asyncio.get_running_loop().time() + wait
        async with self._turn:
            self._acknowledge()
            found: list[Taken] = []
            try:
                await self._gather(found, bytes_max, records_max, deadline)
            except BaseException:
                for one in reversed(found):  # nobody gets them
                    if self._reader.positions.get((one.topic, one.partition)) == one.next_offset:
                        self._reader.seek((one.topic, one.partition), one.offset)
                raise
            return found

    async def _gather(self, found: list[Taken], bytes_max: int, records_max: int, deadline: float) -> None:
        left = bytes_max
        loop = asyncio.get_running_loop()
        while True:
            self._check()
            self._changed.clear()
            if self._revoking or not self._reader.positions:
                trouble = self._trouble or (self._member.trouble if self._member is not None else None)
                if trouble is not None and not found:
                    raise trouble
                if found or not await self._wait_changed(deadline):
                    return
                continue
            taken = await self._reader.read(left, records_max, deadline)
            found += self._sound(taken, found)
            left -= sum(size_of(record) for one in taken for record in one.records)
            enough = bytes_max - left >= self.settings.bytes_min or left <= 0
            if (found and enough) or loop.time() >= deadline:
                return

    def _sound(self, taken: Iterable[Taken], before: Sequence[Taken]) -> list[Taken]:
        """Without what was lost to retention, which `reset` says to pass over."""
        if self.settings.tells_gaps:
            return list(taken)
        found = []
        for one in taken:
            if one.records:
                found.append(one)
                continue
            log.warning(
                "a consumer of group %s cannot read offsets %d to %d of partition %d of topic %s: %s",
                *(self.group, one.offset, one.next_offset - 1, one.partition, one.topic, one.reason),
            )
            if one.broken:
                self._reader.seek((one.topic, one.partition), one.offset)
                if not before and not found:
                    raise BadRecords(
                        f"partition {one.partition} of topic {one.topic} at offset {one.offset}: {one.reason}."
                        f" Seek to offset {one.next_offset} to go on behind them",
                        field="positions",
                    )
        return found

    def _check(self) -> None:
        if self.closed:
            raise GroupRefused(f"this consumer is closed: {self.closed}")
        if self._member is None and not self._manual:
            raise GroupRefused("this consumer reads nothing yet: subscribe, or assign partitions", field="subscription")

    async def _wait_changed(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                await self._changed.wait()
                return True
        except TimeoutError:
            return False

    def _tell(self) -> None:
        self._changed.set()

    def _acknowledge(self) -> None:
        """What was handed out before is processed: its user asks for more."""
        self._processed = dict(self._reader.positions)
        if self.settings.auto_commit:
            self._safe = dict(self._processed)
            self._settled.set()
            loop = asyncio.get_running_loop()
            if loop.time() >= self._commit_due and "commit" not in self._tasks:
                self._commit_due = loop.time() + self.settings.commit_every_ms / 1000
                self._start("commit", self._commit_processed(self._behind_or(self._processed)))

    def _behind_or(self, processed: Mapping[Name, int]) -> Mapping[Name, int]:
        if not self.settings.commit_behind:
            return processed
        before, self._behind = self._behind, dict(processed)
        return before

    # --- positions --------------------------------------------------------------------------------------------

    def seek(self, positions: Mapping[Name, int]) -> None:
        """The next poll reads from there. Raises GroupRefused for partitions it does not have."""
        self._check_owned(positions)
        for name, offset in positions.items():
            self._reader.seek(name, offset)
            self._processed[name] = self._safe[name] = offset

    async def seek_to(self, names: Sequence[Name], to: Reset) -> None:
        """To the beginning or the end of each."""
        self._check_owned(names)
        found: dict[Name, int] = {}
        for name in names:
            ends = await self._offsets.offsets(*name, COMMIT_SECONDS)
            end = ends.stable if self.settings.committed else ends.end
            found[name] = ends.start if to is Reset.EARLIEST else end
        self.seek(found)

    async def seek_times(self, times: Mapping[Name, int]) -> None:
        """To the first record whose timestamp (ms) is at least that; the end where there is none."""
        self._check_owned(times)
        found: dict[Name, int] = {}
        for name, timestamp in times.items():
            placed = await self._offsets.offset_for_timestamp(*name, timestamp, COMMIT_SECONDS)
            found[name] = placed.offset if placed is not None else (await self._offsets.offsets(*name, 5.0)).end
        self.seek(found)

    def _check_owned(self, names: Iterable[Name]) -> None:
        for name in names:
            if name not in self._reader.positions:
                raise GroupRefused(
                    f"partition {name[1]} of topic {name[0][:100]} is not assigned to this consumer (now): look at its"
                    " assignments",
                    field="partition",
                )

    # --- commits ----------------------------------------------------------------------------------------------

    async def commit(self, offsets: Mapping[Name, tuple[int, str]] | None = None) -> None:
        """Offsets of the next records to read, each with its metadata; without any, all that was handed out. Raises
        GroupRefused where the group has given a partition to another member."""
        if self._member is not None and self._member.generation < 0:
            raise refused_for_now(self.group)
        if offsets is None:
            found = {name: (offset, "") for name, offset in self._reader.positions.items()}
        else:
            self._check_owned(offsets)
            found = dict(offsets)
        found = {name: item for name, item in found.items() if offsets or self._committed.get(name) != item[0]}
        if found:
            await self._commit(found)

    async def _commit(self, offsets: Mapping[Name, tuple[int, str]]) -> None:
        member = self._member
        done = await self._groups.commit(
            self.group,
            [OffsetToCommit(*name, offset, metadata=metadata) for name, (offset, metadata) in offsets.items()],
            member_id=member.id if member is not None else "",
            instance_id=self.settings.member.instance_id if member is not None else None,
            generation=member.generation if member is not None else -1,
            timeout=COMMIT_SECONDS,
        )
        if done.error is not None:
            if member is not None and done.error in _REBALANCES:
                raise refused_for_now(self.group)
            raise refused(done.error, self.group)
        for position, (name, (offset, _)) in enumerate(offsets.items()):
            error = done.errors[position] if done.errors else None
            if error is not None:
                raise refused(error, self.group)
            if name in self._reader.positions:
                self._committed[name] = self._safe[name] = offset
        self._settled.set()

    async def _commit_processed(self, processed: Mapping[Name, int]) -> None:
        """By itself, where it is to; never raises."""
        if not self.settings.auto_commit:
            return
        changed = {
            name: (offset, "")
            for name, offset in processed.items()
            if self._committed.get(name) != offset and name in self._reader.positions
        }
        if not changed or (self._member is not None and self._member.generation < 0):
            return
        try:
            await self._commit(changed)
        except BrokerError as error:
            log.info("a consumer of group %s could not commit by itself: %s", self.group, error)

    # --- its life ---------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether somebody polls."""
        return self._turn.locked()

    def touch(self) -> None:
        self.used = asyncio.get_running_loop().time()

    async def _keep(self, member: Member) -> None:
        await member.run()
        self.closed = "another consumer of this name has joined the group"
        self._tell()

    async def close(self, reason: str, *, all_processed: bool = False) -> None:
        """Commits by itself what it is to, and leaves the group. Never raises one of the broker's errors."""
        if not self.closed:
            self.closed = reason
            self._tell()
            await self._commit_processed(self._reader.positions if all_processed else self._processed)
        await self._end_member()
        for name in list(self._tasks):
            self._stop(name)
        self._reader.assign({})

    async def _end_member(self) -> None:
        self._stop("member")
        member, self._member = self._member, None
        if member is not None:
            await member.leave()

    def _start(self, name: str, work: Coroutine[None, None, None]) -> None:
        self._stop(name)
        task = asyncio.get_running_loop().create_task(work, name=f"consumer {name}")
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._ended(name, done))

    def _ended(self, name: str, task: "asyncio.Task[None]") -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled() and task.exception() is not None:
            log.error("a consumer of group %s failed (%s)", self.group, name, exc_info=task.exception())
            self.closed = self.closed or "it failed; the node's log has the cause"
            self._tell()

    def _stop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()


def refused_for_now(group: str) -> GroupRefused:
    return GroupRefused(
        f"consumer group {group[:100]} rebalances, or has given the partitions to others: nothing was committed. Poll,"
        " and go on with what that gives",
        field="offsets",
    )
