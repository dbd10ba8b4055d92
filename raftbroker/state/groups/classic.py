"""The classic protocol of one group: who its members are, generation after generation.

    EMPTY -> PREPARING -> COMPLETING -> STABLE, and from each of the last two back to PREPARING

A rebalance (a `round`) begins when a member joins, leaves or changes what it offers. It is complete, and a generation
formed, once all known members have joined it, or at its deadline without those that have not; one that began in an
empty group waits a little for more members first. The generation's leader then brings everyone's assignment.

A member that has joined is in the rows before it is answered, and so are a generation and its assignments; so a new
leader of the shard goes on where the old one was, and a member whose answer was lost asks again and gets the same.

Static members (KIP-345) are known by their instance id: one that comes back without its member id takes its own
place, with a new id and without a rebalance; the old id is fenced.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from raftbroker.state.groups import rows
from raftbroker.state.groups.ops import Joined, JoinGroup, Lapsed, Leaving, SyncGroup
from raftbroker.state.groups.rows import ClassicMember, ClassicRow, Writer
from raftbroker.state.groups.terms import MEMBER_BYTES_MAX, MEMBERS_MAX, GroupError, Phase

_replace = msgspec.structs.replace


class ClassicGroup:
    __slots__ = ("_supported", "joined", "members", "pending", "row", "static")

    def __init__(self, row: ClassicRow | None = None) -> None:
        self.row = row or ClassicRow()
        self.members: dict[str, ClassicMember] = {}
        """In the order of their `seq`."""
        self.pending: dict[str, int] = {}
        """Session time-outs in ms of those who were given an id and have not joined with it."""
        self.static: dict[str, str] = {}
        """Member ids by instance id."""
        self.joined = 0
        """How many members have joined the rebalance under way."""
        self._supported: Counter[str] = Counter()
        """How many members offer a protocol."""

    def restore(self, members: Sequence[ClassicMember], pending: dict[str, int]) -> None:
        for member in sorted(members, key=lambda member: member.seq):
            self._index(member)
        self.pending = pending

    # --- reads --------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self.row.phase

    @property
    def empty(self) -> bool:
        return self.row.phase is Phase.EMPTY

    @property
    def deadline_ms(self) -> int | None:
        return self.row.deadline_ms if self.row.phase is Phase.PREPARING else None

    def has_joined(self, member: ClassicMember) -> bool:
        """Whether the member is part of the rebalance under way."""
        return self.row.phase is Phase.PREPARING and member.round == self.row.round

    def check_member(self, member_id: str, instance_id: str | None) -> GroupError | None:
        if instance_id is not None:
            current = self.static.get(instance_id)
            if current is None:
                return GroupError.UNKNOWN_MEMBER_ID
            if current != member_id:
                return GroupError.FENCED_INSTANCE_ID
        return None if member_id in self.members else GroupError.UNKNOWN_MEMBER_ID

    def check_generation(self, member_id: str, instance_id: str | None, generation: int) -> GroupError | None:
        error = self.check_member(member_id, instance_id)
        if error is None and generation != self.row.generation:
            return GroupError.ILLEGAL_GENERATION
        return error

    def check_sync(
        self,
        member_id: str,
        instance_id: str | None,
        generation: int,
        protocol_type: str | None,
        protocol: str | None,
    ) -> GroupError | None:
        error = self.check_generation(member_id, instance_id, generation)
        if error is not None:
            return error
        if protocol_type is not None and protocol_type != self.row.protocol_type:
            return GroupError.INCONSISTENT_GROUP_PROTOCOL
        if self.phase is Phase.PREPARING:
            return GroupError.REBALANCE_IN_PROGRESS
        if protocol is not None and protocol != self.row.protocol:
            return GroupError.INCONSISTENT_GROUP_PROTOCOL
        return None

    def check_commit(
        self, member_id: str, instance_id: str | None, generation: int, transactional: bool
    ) -> GroupError | None:
        """Who is not a member may commit while the group is empty, and in a transaction always."""
        if generation < 0 and self.empty:
            return None
        if generation >= 0 or member_id or instance_id is not None:
            error = self.check_generation(member_id, instance_id, generation)
            if error is not None:
                return error
        elif not transactional:
            return GroupError.UNKNOWN_MEMBER_ID
        if not transactional and self.phase is Phase.COMPLETING:
            return GroupError.REBALANCE_IN_PROGRESS
        return None

    def metadata(self, member: ClassicMember) -> bytes:
        """The member's, for the group's protocol."""
        return next((offer.metadata for offer in member.protocols if offer.name == self.row.protocol), b"")

    def stored(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """(kind, rest of the key, value)"""
        for member in self.members.values():
            yield rows.CLASSIC_MEMBER, member.id.encode(), rows.encode(member)
        for member_id, session_ms in self.pending.items():
            yield rows.PENDING_MEMBER, member_id.encode(), rows.encode(session_ms)

    # --- joining ------------------------------------------------------------------------------------------

    def join(self, op: JoinGroup, writer: Writer) -> Joined:
        member_id = op.member_id
        if not member_id and op.new_member_id in self.members:
            member_id = op.new_member_id
        error = self._check_join(op, member_id, writer)
        if error is not None:
            return Joined(error, op.member_id)
        if not member_id:
            return self._join_anew(op, writer)
        if member_id in self.pending:
            if op.instance_id is not None:
                return Joined(GroupError.UNKNOWN_MEMBER_ID, member_id)
            return self._add(op, member_id, writer)
        error = self.check_member(member_id, op.instance_id)
        if error is not None:
            return Joined(error, member_id)
        return self._join_again(op, self.members[member_id], writer)

    def _check_join(self, op: JoinGroup, member_id: str, writer: Writer) -> GroupError | None:
        if sum(len(offer.name) + len(offer.metadata) for offer in op.protocols) > MEMBER_BYTES_MAX:
            return GroupError.INVALID_REQUEST
        if not self._accepts(op, member_id):
            if member_id in self.members:
                self._remove(member_id, writer)
                self._complete_if_all_joined(writer)
            return GroupError.GROUP_MAX_SIZE_REACHED
        if not op.protocol_type or not op.protocols:
            return GroupError.INCONSISTENT_GROUP_PROTOCOL
        if not self.empty:
            count = len(self.members)
            fits = any(self._supported[offer.name] == count for offer in op.protocols)
            if op.protocol_type != self.row.protocol_type or not fits:
                return GroupError.INCONSISTENT_GROUP_PROTOCOL
        return None

    def _accepts(self, op: JoinGroup, member_id: str) -> bool:
        size_max = min(op.size_max, MEMBERS_MAX)
        member = self.members.get(member_id)
        if member is None and not {member_id, op.new_member_id} & self.pending.keys() and len(self.pending) >= size_max:
            return False
        if self.phase is Phase.PREPARING:  # of those who were there, the last to join again are left out
            return self.joined < size_max or (member is not None and self.has_joined(member))
        return member is not None or len(self.members) < size_max

    def _join_anew(self, op: JoinGroup, writer: Writer) -> Joined:
        member_id = op.new_member_id
        if op.instance_id is not None:
            current = self.static.get(op.instance_id)
            return self._add(op, member_id, writer) if current is None else self._take_place(op, current, writer)
        if op.id_required:
            self.pending[member_id] = op.session_ms
            writer.put(rows.PENDING_MEMBER, member_id.encode(), op.session_ms)
            return Joined(GroupError.MEMBER_ID_REQUIRED, member_id)
        return self._add(op, member_id, writer)

    def _add(self, op: JoinGroup, member_id: str, writer: Writer) -> Joined:
        if self.pending.pop(member_id, None) is not None:
            writer.delete(rows.PENDING_MEMBER, member_id.encode())
        member = ClassicMember(
            id=member_id,
            seq=self.row.next_seq,
            instance_id=op.instance_id,
            client_id=op.client_id,
            client_host=op.client_host,
            session_ms=op.session_ms,
            rebalance_ms=op.rebalance_ms,
            protocols=op.protocols,
        )
        if self.empty:
            self.row = _replace(self.row, protocol_type=op.protocol_type)
        self.row = _replace(self.row, next_seq=member.seq + 1, leader=self.row.leader or member_id)
        self._index(member)
        if self.row.delay_ms and self.phase is Phase.PREPARING:
            deadline_ms = min(writer.time_ms + self.row.delay_ms, self.row.limit_ms)
            self.row = _replace(self.row, deadline_ms=max(self.row.deadline_ms, deadline_ms))
        return self._joins(member, writer, op.delay_ms)

    def _joins(self, member: ClassicMember, writer: Writer, delay_ms: int = 0) -> Joined:
        """The member is part of the rebalance under way, which begins with it if there is none."""
        if self.phase is not Phase.PREPARING:
            self._prepare(writer, delay_ms)
        self._put(_replace(member, round=self.row.round), writer)
        answer = Joined(member_id=member.id, round=self.row.round, wait=True)
        self._complete_if_all_joined(writer)
        return answer

    def _join_again(self, op: JoinGroup, member: ClassicMember, writer: Writer) -> Joined:
        same = member.protocols == op.protocols
        calm = self.phase is Phase.COMPLETING or (self.phase is Phase.STABLE and member.id != self.row.leader)
        if same and calm:  # its answer may have been lost; a leader of a stable group asks for a rebalance
            return Joined(member_id=member.id)
        return self._joins(self._updated(member, op), writer)

    def _updated(self, member: ClassicMember, op: JoinGroup) -> ClassicMember:
        return _replace(member, protocols=op.protocols, session_ms=op.session_ms, rebalance_ms=op.rebalance_ms)

    def _take_place(self, op: JoinGroup, old_id: str, writer: Writer) -> Joined:
        """A static member has started anew: its place and assignment are its own, the old member id is fenced."""
        old = self.members[old_id]
        was_leader = self.row.leader == old_id
        self._remove(old_id, writer)
        new = _replace(self._updated(old, op), id=op.new_member_id, seq=self.row.next_seq)
        self.row = _replace(self.row, next_seq=new.seq + 1, leader=new.id if was_leader else self.row.leader)
        self._put(new, writer)
        if self.phase is Phase.STABLE and self._select() == self.row.protocol:
            return Joined(member_id=new.id, replaced=old_id)
        return self._joins(new, writer)

    # --- the rounds ---------------------------------------------------------------------------------------

    def _prepare(self, writer: Writer, delay_ms: int = 0) -> None:
        first = self.empty
        if self.phase is Phase.COMPLETING:
            for member in list(self.members.values()):
                if member.assignment:
                    self._put(_replace(member, assignment=b""), writer)
        limit_ms = writer.time_ms + self._rebalance_ms()
        delay_ms = delay_ms if first else 0
        self.joined = 0
        self.row = _replace(
            self.row,
            phase=Phase.PREPARING,
            round=self.row.round + 1,
            deadline_ms=min(writer.time_ms + delay_ms, limit_ms) if delay_ms else limit_ms,
            delay_ms=delay_ms,
            limit_ms=limit_ms,
        )

    def _rebalance_ms(self) -> int:
        return max((member.rebalance_ms for member in self.members.values()), default=0)

    def resume(self, writer: Writer) -> None:
        """Gives the rebalance under way its full time again."""
        if self.phase is Phase.PREPARING:
            limit_ms = writer.time_ms + self._rebalance_ms()
            deadline_ms = min(writer.time_ms + self.row.delay_ms, limit_ms) if self.row.delay_ms else limit_ms
            self.row = _replace(self.row, deadline_ms=deadline_ms, limit_ms=limit_ms)

    def advance(self, writer: Writer) -> None:
        """The deadline has come."""
        if self.phase is Phase.PREPARING and self.row.deadline_ms <= writer.time_ms:
            self._complete(writer)

    def _complete_if_all_joined(self, writer: Writer) -> None:
        if self.phase is not Phase.PREPARING or self.pending or self.joined < len(self.members):
            return
        if not self.row.delay_ms or not self.members:
            self._complete(writer)

    def _complete(self, writer: Writer) -> None:
        """Forms the generation of those who have joined; static members stay if anybody is there."""
        for member in list(self.members.values()):
            if member.instance_id is None and not self.has_joined(member):
                self._remove(member.id, writer)
        if not self.members:
            self.row = _replace(
                self.row,
                phase=Phase.EMPTY,
                generation=self.row.generation + 1,
                protocol="",
                leader="",
                deadline_ms=0,
                delay_ms=0,
            )
            return
        leader = self.members.get(self.row.leader)
        if leader is None or not self.has_joined(leader):
            leader = next((member for member in self.members.values() if self.has_joined(member)), None)
        if leader is None:
            self.row = _replace(self.row, deadline_ms=writer.time_ms + max(1, self._rebalance_ms()), delay_ms=0)
            return
        self.row = _replace(
            self.row,
            phase=Phase.COMPLETING,
            generation=self.row.generation + 1,
            protocol=self._select(),
            leader=leader.id,
            deadline_ms=0,
            delay_ms=0,
        )
        self.joined = 0

    def _select(self) -> str:
        """Of the protocols that all offer, the one that most prefer; among equals the one the oldest prefers."""
        count = len(self.members)
        votes: Counter[str] = Counter()
        for member in self.members.values():
            vote = next((offer.name for offer in member.protocols if self._supported[offer.name] == count), None)
            if vote is not None:
                votes[vote] += 1
        return votes.most_common(1)[0][0] if votes else ""

    def sync(self, op: SyncGroup, writer: Writer) -> GroupError | None:
        error = self.check_sync(op.member_id, op.instance_id, op.generation, op.protocol_type, op.protocol)
        if error is not None or self.phase is not Phase.COMPLETING or op.member_id != self.row.leader:
            return error
        if any(len(assignment) > MEMBER_BYTES_MAX for assignment in op.assignments.values()):
            return GroupError.INVALID_REQUEST
        for member in list(self.members.values()):
            assignment = op.assignments.get(member.id, b"")
            if assignment != member.assignment:
                self._put(_replace(member, assignment=assignment), writer)
        self.row = _replace(self.row, phase=Phase.STABLE)
        return None

    # --- leaving ------------------------------------------------------------------------------------------

    def leave(self, leaving: Sequence[Leaving], writer: Writer) -> tuple[GroupError | None, ...]:
        errors: list[GroupError | None] = []
        before = len(self.members)
        for who in leaving:
            member_id = who.member_id or self.static.get(who.instance_id or "", "")
            error = None
            if member_id not in self.pending:
                error = self.check_member(member_id, who.instance_id)
            if error is None:
                self._remove(member_id, writer)
            errors.append(error)
        self._removed(before, writer)
        return tuple(errors)

    def expire(self, lapsed: Sequence[Lapsed], writer: Writer) -> None:
        before = len(self.members)
        for who in lapsed:
            member = self.members.get(who.member_id)
            if who.member_id in self.pending or (member is not None and member.round == who.mark):
                self._remove(who.member_id, writer)
        self._removed(before, writer)

    def _removed(self, before: int, writer: Writer) -> None:
        """There were so many members before; of those that had not joined yet nobody depends."""
        if len(self.members) < before and self.phase in (Phase.COMPLETING, Phase.STABLE):
            self._prepare(writer)
        self._complete_if_all_joined(writer)

    # --- members ------------------------------------------------------------------------------------------

    def _put(self, member: ClassicMember, writer: Writer) -> None:
        known = self.members.get(member.id)
        if known is not None:
            self._unindex(known)
        self._index(member)
        writer.put(rows.CLASSIC_MEMBER, member.id.encode(), member)

    def _remove(self, member_id: str, writer: Writer) -> None:
        if self.pending.pop(member_id, None) is not None:
            writer.delete(rows.PENDING_MEMBER, member_id.encode())
            return
        member = self.members.pop(member_id)
        self._unindex(member)
        writer.delete(rows.CLASSIC_MEMBER, member_id.encode())
        if self.row.leader == member_id:
            self.row = _replace(self.row, leader=next(iter(self.members), ""))

    def _index(self, member: ClassicMember) -> None:
        self.members[member.id] = member
        self._supported.update(offer.name for offer in member.protocols)
        if member.instance_id is not None:
            self.static[member.instance_id] = member.id
        if self.has_joined(member):
            self.joined += 1

    def _unindex(self, member: ClassicMember) -> None:
        self._supported.subtract(offer.name for offer in member.protocols)
        if member.instance_id is not None and self.static.get(member.instance_id) == member.id:
            del self.static[member.instance_id]
        if self.has_joined(member):
            self.joined -= 1
