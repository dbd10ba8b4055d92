"""One member of a classic consumer group, kept by this node: joins, syncs, lets itself be heard of, joins again.

It speaks to the group's coordinator as Kafka's clients do, through the same face, so it shares groups with them. Where
it becomes a group's leader it deals out the partitions and watches for topics that grow, come or go.

Its owner is told what the member has: `revoke` before a rebalance, while what was read may still be committed;
`assigned` after it; `lost` where others may have the partitions already.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from raftbroker.broker.consumer_assign import ASSIGNORS, Reading, assign
from raftbroker.broker.consumer_groups import ConsumerGroups, refused
from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.wire_groups import JoinAnswer, JoinedMember
from raftbroker.state.groups.ops import Leaving
from raftbroker.state.groups.protocol import (
    BadProtocol,
    Partitions,
    Subscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from raftbroker.state.groups.terms import GroupError

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.2
"""Before a refused join is tried again; what will not pass soon is tried every `REFUSED_SECONDS`."""
REFUSED_SECONDS = 2.0
LEAVE_SECONDS = 2.0
_LOST = (GroupError.UNKNOWN_MEMBER_ID, GroupError.FENCED_INSTANCE_ID, GroupError.ILLEGAL_GENERATION)
"""Others may have what this member had."""
_PASSING = (
    *(GroupError.COORDINATOR_NOT_AVAILABLE, GroupError.REBALANCE_IN_PROGRESS),
    *(GroupError.ILLEGAL_GENERATION, GroupError.UNKNOWN_MEMBER_ID),
)


class MemberSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times are ms."""

    client_id: str
    client_host: str
    instance_id: str | None = None
    """A static member: whoever joins with it later takes this one's place, without a rebalance."""
    session_ms: int = 10_000
    heartbeat_ms: int = 2_000
    rebalance_ms: int = 60_000


class Owner(Protocol):
    async def revoke(self) -> None: ...

    def assigned(self, partitions: Partitions, *, continues: bool) -> None:
        """`continues`: nobody else had them since this member's last generation."""
        ...

    def lost(self) -> None: ...


class Member:
    def __init__(
        self,
        context: Context,
        groups: ConsumerGroups,
        group: str,
        settings: MemberSettings,
        topics: Callable[[], tuple[str, ...]],
        owner: Owner,
    ) -> None:
        """`topics` are those it subscribes to now: it joins again when they change."""
        self._context = context
        self._groups = groups
        self._group = group
        self._settings = settings
        self._topics = topics
        self._owner = owner
        self.id = ""
        self.generation = -1
        """-1 while it is in none."""
        self._last = -1
        """The last one it was in, while nobody else can have had its partitions since."""
        self._offered: tuple[str, ...] = ()
        self._named: frozenset[str] = frozenset()
        """Where it leads: the topics that the group reads; and the partitions there were of each."""
        self._watched: Mapping[str, int] = {}
        self.fenced = False
        """Another member has taken its place for good."""
        self.trouble: BrokerError | None = None
        """Why it is in no generation, where that is not just a matter of a moment."""
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """The subscription has changed."""
        self._hurry.set()

    async def run(self) -> None:
        """Until it is cancelled or fenced."""
        while not self.fenced:
            try:
                if await self._join():
                    await self._stay()
            except BrokerError as error:
                self.trouble = error
                await asyncio.sleep(PAUSE_SECONDS)

    async def leave(self) -> None:
        """Best effort: a member that cannot say so is left out when its session ends."""
        if self.id and not self.fenced:
            leaving = Leaving(self.id, self._settings.instance_id)
            try:
                await self._groups.leave(self._group, [leaving], timeout=LEAVE_SECONDS)
            except BrokerError as error:
                log.info("a consumer of group %s could not leave it: %s", self._group, error)
        self.generation = -1

    # --- joining ------------------------------------------------------------------------------------------

    async def _join(self) -> bool:
        """Whether it is in a generation."""
        settings = self._settings
        self._hurry.clear()
        self._offered = self._topics()
        offered = encode_subscription(Subscription(self._offered))
        joined = await self._groups.join(
            self._group,
            member_id=self.id,
            instance_id=settings.instance_id,
            client_id=settings.client_id,
            client_host=settings.client_host,
            session_ms=settings.session_ms,
            rebalance_ms=settings.rebalance_ms,
            protocol_type="consumer",
            protocols=[(name, offered) for name in ASSIGNORS],
            id_required=settings.instance_id is None,
            skips_assignment=True,
        )
        if joined.error is GroupError.MEMBER_ID_REQUIRED:
            self.id = joined.member_id
            return False
        if joined.error is not None:
            return await self._refused(joined.error)
        self.id = joined.member_id
        leads = joined.leader == self.id
        self._named = frozenset[str]().union(*map(_topics_of, joined.members)) if leads else frozenset()
        self._watched = self._counts(self._named)
        synced = await self._groups.sync(
            self._group,
            member_id=self.id,
            instance_id=settings.instance_id,
            generation=joined.generation,
            protocol_type="consumer",
            protocol=joined.protocol,
            assignments=self._deal(joined) if leads and not joined.skip_assignment else {},
            timeout=settings.rebalance_ms / 1000 + settings.session_ms / 1000,
        )
        if synced.error is not None:
            return await self._refused(synced.error)
        self.generation = joined.generation
        self.trouble = None
        try:
            partitions = decode_assignment(synced.assignment)
        except BadProtocol as error:
            log.warning("the leader of group %s assigned what cannot be read: %s", self._group, error)
            partitions = {}
        continues = self._last in (joined.generation - 1, joined.generation)
        self._last = joined.generation
        self._owner.assigned(partitions, continues=continues)
        return True

    def _deal(self, joined: JoinAnswer) -> dict[str, bytes]:
        members = [Reading(one.member_id, one.instance_id, _topics_of(one)) for one in joined.members]
        dealt = assign(joined.protocol, members, self._watched)
        return {member_id: encode_assignment(partitions) for member_id, partitions in dealt.items()}

    def _counts(self, names: frozenset[str]) -> dict[str, int]:
        """How many partitions they have, of those topics there are."""
        topics = {name: self._context.control.topic(name) for name in sorted(names)}
        return {name: len(topic.partitions) for name, topic in topics.items() if topic is not None}

    async def _refused(self, error: GroupError) -> bool:
        self._gone(error)
        if error in _PASSING:
            await asyncio.sleep(PAUSE_SECONDS)
        elif not self.fenced:
            self.trouble = refused(error, self._group)
            await asyncio.sleep(REFUSED_SECONDS)
        return False

    def _gone(self, error: GroupError) -> None:
        """It is in no generation any more."""
        self.generation = -1
        if error is GroupError.FENCED_INSTANCE_ID:
            self.fenced = True
        if error in (GroupError.UNKNOWN_MEMBER_ID, GroupError.FENCED_INSTANCE_ID):
            self.id = ""
        if error in _LOST:
            self._lost()

    def _lost(self) -> None:
        self.generation = self._last = -1
        self._owner.lost()

    # --- staying ------------------------------------------------------------------------------------------

    async def _stay(self) -> None:
        """Returns when it is to join again."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            try:
                async with asyncio.timeout(self._settings.heartbeat_ms / 1000):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            if self._is_outdated():
                await self._owner.revoke()
                self.generation = -1
                return
            try:
                beat = await self._groups.heartbeat(
                    self._group,
                    member_id=self.id,
                    instance_id=self._settings.instance_id,
                    generation=self.generation,
                    timeout=max(1.0, self._settings.session_ms / 2000),
                )
            except BrokerError as error:
                if loop.time() - heard > self._settings.session_ms / 1000:
                    self.trouble = error
                    self._lost()
                    return
                continue
            heard = loop.time()
            if beat.error is GroupError.REBALANCE_IN_PROGRESS:
                await self._owner.revoke()
                self.generation = -1
                return
            if beat.error is not None:
                self._gone(beat.error)
                return

    def _is_outdated(self) -> bool:
        """Whether what it said when it joined, or dealt out, would be otherwise by now."""
        return self._hurry.is_set() or self._topics() != self._offered or self._counts(self._named) != self._watched


def _topics_of(member: JoinedMember) -> frozenset[str]:
    try:
        return frozenset(decode_subscription(member.metadata).topics)
    except BadProtocol:
        return frozenset()
