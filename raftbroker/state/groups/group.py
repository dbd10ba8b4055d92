"""One group: its offsets, and the members of the protocol that it follows at present."""

from collections.abc import Iterator

import msgspec

from raftbroker.state.groups import rows
from raftbroker.state.groups.classic import ClassicGroup
from raftbroker.state.groups.consumer import ConsumerGroup
from raftbroker.state.groups.offsets import Offsets
from raftbroker.state.groups.protocol import BadProtocol, decode_subscription
from raftbroker.state.groups.rows import ClassicRow, ConsumerRow, GroupRow, Writer
from raftbroker.state.groups.terms import IDLE_MS, GroupError, GroupState, GroupType, Phase
from raftbroker.state.groups.views import GroupView, ListedGroup, MemberView

CONSUMER_PROTOCOL = "consumer"
"""The protocol type of groups that read topics."""


class Group:
    """`classic` and `consumer`: exactly one is there. A group without members may become one of the other kind."""

    __slots__ = ("_was_empty", "classic", "consumer", "name", "offsets", "row")

    def __init__(self, name: str, row: GroupRow) -> None:
        self.name = name
        self.row = row
        """As stored."""
        self.offsets = Offsets()
        self.classic = ClassicGroup(row.classic) if row.classic is not None else None
        self.consumer = ConsumerGroup(row.consumer) if row.consumer is not None else None
        self._was_empty = True

    @classmethod
    def new(cls, name: str, kind: GroupType, time_ms: int, retain_ms: int) -> "Group":
        if kind is GroupType.CLASSIC:
            return cls(name, GroupRow(kind, time_ms, retain_ms, classic=ClassicRow()))
        return cls(name, GroupRow(kind, time_ms, retain_ms, consumer=ConsumerRow()))

    def restored(self) -> None:
        """Its members and offsets are there again."""
        self._was_empty = self.empty

    # --- reads --------------------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether it has no members."""
        return self.classic.empty if self.classic is not None else self.consumer is None or self.consumer.empty

    @property
    def state(self) -> GroupState:
        if self.classic is not None:
            return self.classic.phase.state
        return self.consumer.state if self.consumer is not None else GroupState.DEAD

    @property
    def protocol_type(self) -> str:
        return CONSUMER_PROTOCOL if self.classic is None else self.classic.row.protocol_type

    @property
    def due_ms(self) -> int | None:
        """When something is to happen by itself: a rebalance is given up, or an empty group expires."""
        if self.classic is not None and self.classic.deadline_ms is not None:
            return self.classic.deadline_ms
        if not self.empty or self.offsets.open:
            return None
        return self.row.active_ms + (self.row.retain_ms if self.offsets.committed else IDLE_MS)

    def check_commit(
        self, member_id: str, instance_id: str | None, generation: int, *, modern: bool, transactional: bool
    ) -> GroupError | None:
        if self.classic is not None:
            return self.classic.check_commit(member_id, instance_id, generation, transactional)
        if self.consumer is not None:
            return self.consumer.check_commit(member_id, generation, modern, transactional)
        return GroupError.GROUP_ID_NOT_FOUND

    def subscribed(self, topic: str) -> bool:
        """Whether some member reads the topic; where that cannot be told, it may be."""
        if self.consumer is not None:
            named = any(topic in member.names for member in self.consumer.members.values())
            return named or (not self.consumer.empty and topic in self.consumer.topics)
        if self.classic is None or self.classic.empty:
            return False
        try:
            return any(
                topic in decode_subscription(self.classic.metadata(member)).topics
                for member in self.classic.members.values()
            )
        except BadProtocol:
            return True

    def listed(self) -> ListedGroup:
        members = (self.classic or self.consumer or ClassicGroup()).members
        return ListedGroup(self.name, self.row.type, self.state, self.protocol_type, self.protocol, len(members))

    @property
    def protocol(self) -> str:
        """The assignor: what a classic generation has chosen, or the one on the server."""
        if self.classic is not None:
            return self.classic.row.protocol if self.classic.phase in (Phase.COMPLETING, Phase.STABLE) else ""
        return self.consumer.assignor if self.consumer is not None else ""

    def view(self) -> GroupView:
        classic, consumer = self.classic, self.consumer
        if classic is not None:
            return GroupView(
                self.name,
                self.row.type,
                self.state,
                classic.row.protocol_type,
                self.protocol,
                classic.row.generation,
                classic.row.generation,
                classic.row.leader,
                tuple(
                    MemberView(
                        member.id,
                        member.instance_id,
                        member.client_id,
                        member.client_host,
                        classic.metadata(member),
                        member.assignment if classic.phase is Phase.STABLE else b"",
                    )
                    for member in classic.members.values()
                ),
            )
        assert consumer is not None
        return GroupView(
            self.name,
            self.row.type,
            self.state,
            CONSUMER_PROTOCOL,
            self.protocol,
            consumer.row.epoch,
            consumer.row.target_epoch,
            "",
            tuple(
                MemberView(
                    member.id,
                    member.instance_id,
                    member.client_id,
                    member.client_host,
                    rack_id=member.rack_id,
                    epoch=member.epoch,
                    names=member.names,
                    regex=member.regex,
                    assigned=member.assigned,
                    target=consumer.targets.get(member.id, {}),
                )
                for member in consumer.members.values()
            ),
        )

    # --- writes -------------------------------------------------------------------------------------------

    def become(self, kind: GroupType, writer: Writer) -> None:
        """An empty group follows the other protocol from now on; its offsets stay."""
        if kind is self.row.type:
            return
        for row, rest, _ in self._members():
            writer.delete(row, rest)
        self.classic = ClassicGroup() if kind is GroupType.CLASSIC else None
        self.consumer = ConsumerGroup() if kind is GroupType.CONSUMER else None
        self.row = msgspec.structs.replace(self.row, type=kind)

    def committed(self, time_ms: int, retain_ms: int) -> None:
        """Something was committed: from now on its offsets are kept this long."""
        self.row = msgspec.structs.replace(self.row, active_ms=time_ms, retain_ms=retain_ms)

    def next_seq(self) -> int:
        self.row = msgspec.structs.replace(self.row, next_seq=self.row.next_seq + 1)
        return self.row.next_seq

    def settle(self, stored: GroupRow | None, writer: Writer) -> None:
        """Writes its own row if it is another one than `stored`."""
        if self.empty and not self._was_empty:
            self.row = msgspec.structs.replace(self.row, active_ms=writer.time_ms)
        self._was_empty = self.empty
        classic = self.classic.row if self.classic is not None else None
        consumer = self.consumer.row if self.consumer is not None else None
        self.row = msgspec.structs.replace(self.row, classic=classic, consumer=consumer)
        if self.row != stored:
            writer.put(rows.GROUP, b"", self.row)

    def _members(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        if self.classic is not None:
            yield from self.classic.stored()
        if self.consumer is not None:
            yield from self.consumer.stored()

    def stored(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """(kind, rest of the key, value) of all its rows."""
        yield rows.GROUP, b"", rows.encode(self.row)
        yield from self._members()
        yield from self.offsets.rows()
