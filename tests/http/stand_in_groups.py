"""One consumer group, "billing", with one member and one partition; it answers the same whatever is asked of it."""

from collections.abc import Mapping, Sequence

from raftbroker.broker.consumer_groups import ConsumerGroups
from raftbroker.broker.errors import UnknownConsumerGroup
from raftbroker.broker.group_positions import GroupPositions, LocalLag, Moved, PartitionLag, ResetTo
from raftbroker.state.groups.ops import PartitionName
from raftbroker.state.groups.terms import GroupError, GroupState, GroupType
from raftbroker.state.groups.views import CommittedOffset, GroupView, ListedGroup, MemberView, OffsetsAnswer

MEMBER = MemberView("app-1", None, "app", "/127.0.0.1")
LISTED = ListedGroup("billing", GroupType.CLASSIC, GroupState.STABLE, "consumer", "range", 1)
VIEW = GroupView(
    "billing", GroupType.CLASSIC, GroupState.STABLE, "consumer", "range", 3, 3, MEMBER.member_id, (MEMBER,)
)


class StandInGroups(ConsumerGroups):
    def __init__(self) -> None:
        pass

    async def coordinator(self, name: str, *, timeout: float = 5.0) -> int | None:
        return 1

    async def list_all(self, *, timeout: float = 10.0) -> list[ListedGroup]:
        return [LISTED]

    async def describe(self, group: str, *, timeout: float = 10.0, here_only: bool = False) -> GroupView | None:
        return VIEW if group == VIEW.name else None

    async def offsets(
        self,
        group: str,
        partitions: Sequence[PartitionName] | None = None,
        *,
        stable: bool = False,
        member_id: str | None = None,
        epoch: int = -1,
        timeout: float = 10.0,
        here_only: bool = False,
    ) -> OffsetsAnswer:
        found = tuple(CommittedOffset(name.topic, name.partition, offset=42) for name in partitions or ())
        return OffsetsAnswer(None, found)

    async def delete(self, group: str, *, timeout: float = 10.0, here_only: bool = False) -> GroupError | None:
        return GroupError.NON_EMPTY_GROUP if group == VIEW.name else GroupError.GROUP_ID_NOT_FOUND


class StandInPositions(GroupPositions):
    def __init__(self) -> None:
        pass

    async def lag(self, group: str, *, timeout: float = 10.0) -> list[PartitionLag]:
        if group != VIEW.name:
            raise UnknownConsumerGroup(f"consumer group {group}: there is no such group")
        return [PartitionLag("orders", 0, 40, "", 0, 42, 2, MEMBER)]

    def partitions_of(self, view: GroupView, member: MemberView) -> Mapping[str, tuple[int, ...]]:
        return {"orders": (0,)}

    def local_groups(self) -> list[ListedGroup]:
        return [LISTED]

    def local_lags(self, most: int) -> list[LocalLag]:
        return [LocalLag("billing", "orders", 0, 40, 2)]

    async def reset(
        self,
        group: str,
        to: ResetTo,
        value: int = 0,
        *,
        topics: Sequence[str] | None = None,
        partitions: Sequence[PartitionName] | None = None,
        dry_run: bool = False,
        timeout: float = 30.0,
    ) -> list[Moved]:
        return [Moved("orders", 0, 40, value)]
