"""KIP-848: the group's members, what each should own (its target) and what each owns now.

Every change of members or subscriptions raises the group's epoch. The shard's leader then makes targets for it
(`assignors`, with what it knows of topics) and proposes them; each member is brought towards its target by its own
heartbeats: first it gives up what is not its own any more, and only once it says that it has (or is removed) may
another be given it. So a partition is in at most one member's hands, whatever the targets say.

A member's epoch is that of the target it was last brought to. One that names another epoch is fenced, but for its
previous one, if it claims no more than it has: its answer was lost. Epoch 0 means that it begins anew and owns nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from raftbroker.state.groups import rows
from raftbroker.state.groups.ops import Lapsed, LeaveConsumer, Reconcile, Reconciled, SetTargets, Subscribe, Subscribed
from raftbroker.state.groups.rows import Assignment, ConsumerMember, ConsumerRow, Topics, Writer
from raftbroker.state.groups.terms import DEFAULT_ASSIGNOR, MEMBERS_MAX, SUBSCRIPTIONS_MAX, GroupError, GroupState

AWAY = -2
"""The epoch of a static member that has left for a while."""

_replace = msgspec.structs.replace
_Pairs = set[tuple[str, int]]


def pairs(assignment: Mapping[str, Iterable[int]]) -> _Pairs:
    return {(topic_id, number) for topic_id, numbers in assignment.items() for number in numbers}


def assignment_of(partitions: Iterable[tuple[str, int]]) -> Assignment:
    found: dict[str, list[int]] = {}
    for topic_id, number in sorted(partitions):
        found.setdefault(topic_id, []).append(number)
    return {topic_id: tuple(numbers) for topic_id, numbers in found.items()}


class ConsumerGroup:
    __slots__ = ("members", "owners", "row", "static", "targets", "topics")

    def __init__(self, row: ConsumerRow | None = None) -> None:
        self.row = row or ConsumerRow()
        self.members: dict[str, ConsumerMember] = {}
        self.targets: dict[str, Assignment] = {}
        """By member id; a member without one has none."""
        self.topics: Topics = {}
        """What the targets were made of."""
        self.static: dict[str, str] = {}
        self.owners: dict[tuple[str, int], str] = {}
        """Who has a partition, or may still have it."""

    def restore(self, members: Sequence[ConsumerMember], targets: dict[str, Assignment], topics: Topics) -> None:
        for member in members:
            self._index(member)
        self.targets = targets
        self.topics = topics

    # --- reads --------------------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        return not self.members

    @property
    def state(self) -> GroupState:
        if not self.members:
            return GroupState.EMPTY
        if self.row.epoch > self.row.target_epoch:
            return GroupState.ASSIGNING
        if all(self.is_reconciled(member) for member in self.members.values()):
            return GroupState.STABLE
        return GroupState.RECONCILING

    @property
    def assignor(self) -> str:
        """The one most members ask for."""
        votes = Counter(member.assignor for member in self.members.values() if member.assignor)
        return min(votes, key=lambda name: (-votes[name], name), default=DEFAULT_ASSIGNOR)

    def is_reconciled(self, member: ConsumerMember) -> bool:
        return not member.revoking and not member.unreleased and member.epoch == self.row.target_epoch

    def check_member(self, member_id: str, instance_id: str | None) -> GroupError | None:
        if instance_id is not None:
            current = self.static.get(instance_id)
            if current is None:
                return GroupError.UNKNOWN_MEMBER_ID
            if current != member_id:
                return GroupError.FENCED_INSTANCE_ID
        return None if member_id in self.members else GroupError.UNKNOWN_MEMBER_ID

    def check_epoch(self, member: ConsumerMember, epoch: int, owned: Assignment | None) -> GroupError | None:
        if epoch == member.epoch:
            return None
        lost = epoch == member.previous_epoch and member.epoch > epoch
        if lost and owned is not None and pairs(owned) <= pairs(member.assigned):
            return None
        return GroupError.FENCED_MEMBER_EPOCH

    def check_commit(self, member_id: str, epoch: int, modern: bool, transactional: bool) -> GroupError | None:
        if epoch < 0 and not self.members:
            return None
        member = self.members.get(member_id)
        if member is None:
            return GroupError.UNKNOWN_MEMBER_ID
        if not transactional and not modern:
            return GroupError.UNSUPPORTED_VERSION
        if epoch != member.epoch:
            return GroupError.ILLEGAL_GENERATION if transactional else GroupError.STALE_MEMBER_EPOCH
        return None

    def says_nothing_new(self, op: Subscribe) -> bool:
        """Whether the member is there and as the op would have it."""
        member = self.members.get(op.member_id)
        return member is not None and op.epoch == member.epoch > 0 and self._updated(member, op) == member

    def settled(self, op: Reconcile) -> bool:
        """Whether the op would find the member where it should be, and change nothing."""
        member = self.members.get(op.member_id)
        if member is None or op.epoch != member.epoch or member.epoch <= 0:
            return False
        return self.check_member(op.member_id, op.instance_id) is None and self._next(member, op.owned) == member

    def stored(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """(kind, rest of the key, value)"""
        for member in self.members.values():
            yield rows.CONSUMER_MEMBER, member.id.encode(), rows.encode(member)
        for member_id, target in self.targets.items():
            yield rows.TARGET, member_id.encode(), rows.encode(target)
        if self.topics:
            yield rows.TOPICS, b"", rows.encode(self.topics)

    # --- joining and subscribing --------------------------------------------------------------------------

    def subscribe(self, op: Subscribe, writer: Writer) -> Subscribed:
        if len(op.names or ()) > SUBSCRIPTIONS_MAX:
            return Subscribed(GroupError.INVALID_REQUEST)
        found = self._joining(op, writer) if op.epoch == 0 else self._known(op)
        if isinstance(found, GroupError):
            return Subscribed(found)
        member = self._updated(found, op)
        known = self.members.get(member.id)
        if known is None or (known.names, known.regex) != (member.names, member.regex):
            self._bump()
        if member != known:
            self._put(member, writer)
        return Subscribed(epoch=self.row.epoch)

    def _known(self, op: Subscribe) -> ConsumerMember | GroupError:
        error = self.check_member(op.member_id, op.instance_id)
        if error is not None:
            return error
        member = self.members[op.member_id]
        return self.check_epoch(member, op.epoch, op.owned) or member

    def _joining(self, op: Subscribe, writer: Writer) -> ConsumerMember | GroupError:
        current_id = self.static.get(op.instance_id) if op.instance_id is not None else None
        if current_id is not None and current_id != op.member_id:
            current = self.members[current_id]
            if current.epoch != AWAY:
                return GroupError.UNRELEASED_INSTANCE_ID
            return self._take_place(current, op.member_id, writer)
        known = self.members.get(op.member_id)
        if known is not None:
            if known.epoch == 0 or (known.previous_epoch == 0 and known.epoch > 0):
                return known  # its answer may have been lost
            if known.epoch == AWAY:
                return _replace(known, epoch=0, previous_epoch=0)
            return _replace(known, epoch=0, previous_epoch=0, assigned={}, revoking={}, unreleased=False)
        if len(self.members) >= min(op.size_max, MEMBERS_MAX):
            return GroupError.GROUP_MAX_SIZE_REACHED
        return ConsumerMember(
            id=op.member_id,
            instance_id=op.instance_id,
            rack_id=None,
            client_id="",
            client_host="",
            rebalance_ms=0,
            names=(),
            regex="",
            assignor=None,
        )

    def _take_place(self, old: ConsumerMember, new_id: str, writer: Writer) -> ConsumerMember:
        """A static member is back with another member id: place, target and partitions are its own."""
        target = self.targets.get(old.id)
        self._remove(old.id, writer)
        if target:
            self.targets[new_id] = target
            writer.put(rows.TARGET, new_id.encode(), target)
        member = _replace(old, id=new_id, epoch=0, previous_epoch=0)
        self._put(member, writer)
        return member

    def _updated(self, member: ConsumerMember, op: Subscribe) -> ConsumerMember:
        return _replace(
            member,
            instance_id=member.instance_id if op.instance_id is None else op.instance_id,
            rack_id=member.rack_id if op.rack_id is None else op.rack_id,
            client_id=op.client_id,
            client_host=op.client_host,
            rebalance_ms=member.rebalance_ms if op.rebalance_ms < 0 else op.rebalance_ms,
            names=member.names if op.names is None else tuple(sorted(set(op.names))),
            regex=member.regex if op.regex is None else op.regex,
            assignor=member.assignor if op.assignor is None else op.assignor,
        )

    def _bump(self) -> None:
        self.row = _replace(self.row, epoch=self.row.epoch + 1)

    # --- targets and reconciliation -----------------------------------------------------------------------

    def set_targets(self, op: SetTargets, writer: Writer) -> None:
        if op.epoch != self.row.epoch:
            return
        epoch = self.row.epoch + op.bump
        self.row = ConsumerRow(epoch, epoch)
        if op.topics != self.topics:
            self.topics = dict(op.topics)
            writer.put(rows.TOPICS, b"", self.topics)
        for member_id, target in op.targets.items():
            if member_id not in self.members:
                continue
            if target:
                self.targets[member_id] = target
                writer.put(rows.TARGET, member_id.encode(), target)
            elif self.targets.pop(member_id, None) is not None:
                writer.delete(rows.TARGET, member_id.encode())

    def reconcile(self, op: Reconcile, writer: Writer) -> Reconciled:
        error = self.check_member(op.member_id, op.instance_id)
        if error is not None:
            return Reconciled(error)
        member = self.members[op.member_id]
        error = self.check_epoch(member, op.epoch, op.owned)
        if error is not None:
            return Reconciled(error)
        if self.row.target_epoch == 0:
            return Reconciled(GroupError.COORDINATOR_NOT_AVAILABLE)
        after = self._next(member, op.owned)
        if after != member:
            self._put(after, writer)
        return Reconciled(None, after.epoch, after.assigned != member.assigned, after.assigned)

    def _next(self, member: ConsumerMember, owned: Assignment | None) -> ConsumerMember:
        """The member as it may be now, on its way to its target."""
        if member.revoking:
            if _may_own(owned, pairs(member.revoking)):
                return member
            return self._towards(member, member.epoch + 1, owned)
        if not member.unreleased and member.epoch == self.row.target_epoch:
            return member
        return self._towards(member, member.epoch, owned)

    def _towards(self, member: ConsumerMember, epoch: int, owned: Assignment | None) -> ConsumerMember:
        target = pairs(self.targets.get(member.id, {}))
        assigned = pairs(member.assigned)
        kept, revoking, wanted = assigned & target, assigned - target, target - assigned
        if revoking and _may_own(owned, revoking):
            return _with_epoch(
                member, epoch, assigned=assignment_of(kept), revoking=assignment_of(revoking), unreleased=False
            )
        free = {partition for partition in wanted if self.owners.get(partition, member.id) == member.id}
        return _with_epoch(
            member,
            self.row.target_epoch,
            assigned=assignment_of(kept | free),
            revoking={},
            unreleased=len(free) < len(wanted),
        )

    # --- leaving ------------------------------------------------------------------------------------------

    def leave(self, op: LeaveConsumer, writer: Writer) -> GroupError | None:
        error = self.check_member(op.member_id, op.instance_id)
        if error is None and op.away and op.instance_id is not None:
            member = self.members[op.member_id]
            self._put(_replace(member, epoch=AWAY, revoking={}, unreleased=False), writer)
        elif error is None:
            self.remove([op.member_id], writer)
        return error

    def expire(self, lapsed: Sequence[Lapsed], writer: Writer) -> None:
        gone = [
            who.member_id
            for who in lapsed
            if (member := self.members.get(who.member_id)) is not None and member.epoch == who.mark
        ]
        self.remove(gone, writer)

    def remove(self, member_ids: Sequence[str], writer: Writer) -> None:
        for member_id in member_ids:
            self._remove(member_id, writer)
        if member_ids:
            self._bump()

    # --- members ------------------------------------------------------------------------------------------

    def _put(self, member: ConsumerMember, writer: Writer) -> None:
        known = self.members.get(member.id)
        if known is not None:
            self._unindex(known)
        self._index(member)
        writer.put(rows.CONSUMER_MEMBER, member.id.encode(), member)

    def _remove(self, member_id: str, writer: Writer) -> None:
        self._unindex(self.members.pop(member_id))
        writer.delete(rows.CONSUMER_MEMBER, member_id.encode())
        if self.targets.pop(member_id, None) is not None:
            writer.delete(rows.TARGET, member_id.encode())

    def _index(self, member: ConsumerMember) -> None:
        self.members[member.id] = member
        if member.instance_id is not None:
            self.static[member.instance_id] = member.id
        for partition in pairs(member.assigned) | pairs(member.revoking):
            assert partition not in self.owners, f"{partition} of member {member.id} is {self.owners[partition]}'s"
            self.owners[partition] = member.id

    def _unindex(self, member: ConsumerMember) -> None:
        if member.instance_id is not None and self.static.get(member.instance_id) == member.id:
            del self.static[member.instance_id]
        for partition in pairs(member.assigned) | pairs(member.revoking):
            del self.owners[partition]


def _may_own(owned: Assignment | None, partitions: _Pairs) -> bool:
    """Whether a member that says it owns `owned` may still own any of these."""
    return owned is None or not partitions.isdisjoint(pairs(owned))


def _with_epoch(
    member: ConsumerMember, epoch: int, *, assigned: Assignment, revoking: Assignment, unreleased: bool
) -> ConsumerMember:
    previous = member.previous_epoch if epoch == member.epoch else member.epoch
    return _replace(
        member, epoch=epoch, previous_epoch=previous, assigned=assigned, revoking=revoking, unreleased=unreleased
    )
