"""The groups of a shard: finds the group an op is about, has it decide, writes what has changed.

Time decides two things, when an entry's time has passed them: a rebalance goes on without the members that have not
joined, and a group without members is removed with its offsets, `retain_ms` after its last member left or it was last
committed to (offsets.retention.minutes; Kafka's rule for empty groups, for the group as a whole). A group with a
transaction open stays.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

from raftbroker.state.groups import ops as asked
from raftbroker.state.groups import rows, views
from raftbroker.state.groups.consumer import ConsumerGroup
from raftbroker.state.groups.group import CONSUMER_PROTOCOL, Group
from raftbroker.state.groups.rows import ClassicMember, ConsumerMember, GroupRow, Writer
from raftbroker.state.groups.terms import EXPIRIES_MAX, GROUPS_MAX, IDLE_MS, GroupError, GroupType
from raftbroker.state.groups.views import CommittedOffset
from raftbroker.state.shard import Change, Op, Query

CHANGED = "\0consumer groups"
"""This name is touched when members of any group have changed."""


class _Deadlines:
    """Names by their deadlines; the earliest first, among equals by name."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def set(self, name: str, due_ms: int | None) -> None:
        if self._of.get(name) == due_ms:
            return
        if due_ms is None:
            del self._of[name]
            return
        self._of[name] = due_ms
        heappush(self._heap, (due_ms, name))
        if len(self._heap) > 2 * len(self._of) + 64:
            self._heap = [(due, known) for known, due in self._of.items()]
            heapify(self._heap)

    def first(self) -> tuple[int, str] | None:
        while self._heap:
            due_ms, name = self._heap[0]
            if self._of.get(name) == due_ms:
                return due_ms, name
            heappop(self._heap)
        return None


class Groups:
    """A `Part`."""

    ops: tuple[type[Op[Any]], ...] = asked.ALL
    queries: tuple[type[Query[Any]], ...] = views.ALL
    kinds = rows.KIND

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.changed: dict[str, None] | None = None
        """Names of groups whose members have changed, for whoever puts a dict here and takes them out again."""
        self._deadlines = _Deadlines()
        self._handlers: dict[type[Op[Any]], Callable[[Any, Writer], Any]] = {
            asked.JoinGroup: self._join,
            asked.SyncGroup: self._sync,
            asked.LeaveGroup: self._leave,
            asked.ExpireMembers: self._expire,
            asked.ResumeRebalance: self._resume,
            asked.DeleteGroup: self._delete,
            asked.CommitOffsets: self._commit,
            asked.DeleteOffsets: self._delete_offsets,
            asked.ForgetTopics: self._forget_topics,
            asked.TxnOffsetCommit: self._txn_commit,
            asked.TxnOffsetsEnd: self._txn_end,
            asked.Subscribe: self._subscribe,
            asked.Reconcile: self._reconcile,
            asked.LeaveConsumer: self._leave_consumer,
            asked.SetTargets: self._set_targets,
        }
        self._answers: dict[type[Query[Any]], Callable[[Any], Any]] = {
            views.FetchOffsets: self._fetch_offsets,
            views.DescribeGroup: self._describe,
            views.ListGroups: self._list,
        }

    # --- Part ---------------------------------------------------------------------------------------------

    def restore(self, rows_now: dict[bytes, bytes]) -> None:
        self.groups = {}
        self._deadlines = _Deadlines()
        found: dict[str, dict[bytes, dict[bytes, bytes]]] = {}
        for key, value in rows_now.items():
            kind, name, rest = rows.split_key(key)
            found.setdefault(name, {}).setdefault(kind, {})[rest] = value
        for name, kinds in found.items():
            group = _restored(name, kinds)
            self.groups[name] = group
            self._deadlines.set(name, group.due_ms)

    def apply(self, op: Op[Any], change: Change) -> Any:
        writer = Writer(change, op.name)
        group = self.groups.get(op.name)
        stored = group.row if group is not None else None
        outcome = self._handlers[type(op)](op, writer)
        self._settle(op.name, stored, writer, change)
        return outcome

    def _settle(self, name: str, stored: GroupRow | None, writer: Writer, change: Change) -> None:
        group = self.groups.get(name)
        if group is not None:
            group.settle(stored, writer)
        self._deadlines.set(name, group.due_ms if group is not None else None)
        if writer.touched:
            change.touched(name)
            change.touched(CHANGED)
            if self.changed is not None:
                self.changed[name] = None

    def query(self, query: Query[Any]) -> Any:
        return self._answers[type(query)](query)

    def rows(self) -> dict[bytes, bytes]:
        return {
            rows.key(kind, name, rest): value
            for name, group in self.groups.items()
            for kind, rest, value in group.stored()
        }

    def next_deadline(self) -> int | None:
        first = self._deadlines.first()
        return first[0] if first is not None else None

    def advance(self, change: Change) -> None:
        for _ in range(EXPIRIES_MAX):
            first = self._deadlines.first()
            if first is None or first[0] > change.time_ms:
                return
            group = self.groups[first[1]]
            writer = Writer(change, group.name)
            stored = group.row
            if group.empty:
                self._drop(group, writer)
            elif group.classic is not None:
                group.classic.advance(writer)
            self._settle(group.name, stored, writer, change)

    def payload_ranges(self) -> list[tuple[int, int]]:
        return []

    # --- groups -------------------------------------------------------------------------------------------

    def _for(self, name: str, kind: GroupType, retain_ms: int, writer: Writer) -> Group | None:
        """The group, as one of this kind, made if it is not there. None where it has members of the other kind, or
        where there are too many groups."""
        group = self.groups.get(name)
        if group is None:
            if len(self.groups) >= GROUPS_MAX:
                return None
            group = self.groups[name] = Group.new(name, kind, writer.time_ms, retain_ms)
        elif group.row.type is not kind:
            if not group.empty:
                return None
            group.become(kind, writer)
        return group

    def _drop(self, group: Group, writer: Writer) -> None:
        for kind, rest, _ in list(group.stored()):
            writer.delete(kind, rest)
        del self.groups[group.name]

    def _refused(self, name: str, other: GroupError) -> GroupError:
        return other if name in self.groups else GroupError.GROUP_MAX_SIZE_REACHED

    def _join(self, op: asked.JoinGroup, writer: Writer) -> asked.Joined:
        if op.member_id and op.name not in self.groups:
            return asked.Joined(GroupError.UNKNOWN_MEMBER_ID, op.member_id)
        group = self._for(op.name, GroupType.CLASSIC, op.retain_ms, writer)
        if group is None or group.classic is None:
            return asked.Joined(self._refused(op.name, GroupError.INCONSISTENT_GROUP_PROTOCOL), op.member_id)
        return group.classic.join(op, writer)

    def _sync(self, op: asked.SyncGroup, writer: Writer) -> asked.Done:
        group = self.groups.get(op.name)
        if group is None or group.classic is None or group.empty:
            return asked.Done(GroupError.UNKNOWN_MEMBER_ID)
        return asked.Done(group.classic.sync(op, writer))

    def _leave(self, op: asked.LeaveGroup, writer: Writer) -> asked.Left:
        group = self.groups.get(op.name)
        if group is None:
            return asked.Left(GroupError.UNKNOWN_MEMBER_ID)
        if group.classic is not None:
            return asked.Left(None, group.classic.leave(op.members, writer))
        assert group.consumer is not None
        return asked.Left(None, _leave_by_administrator(group.consumer, op.members, writer))

    def _expire(self, op: asked.ExpireMembers, writer: Writer) -> asked.Done:
        group = self.groups.get(op.name)
        if group is not None and group.classic is not None:
            group.classic.expire(op.members, writer)
        elif group is not None and group.consumer is not None:
            group.consumer.expire(op.members, writer)
        return asked.Done()

    def _resume(self, op: asked.ResumeRebalance, writer: Writer) -> asked.Done:
        group = self.groups.get(op.name)
        if group is not None and group.classic is not None:
            group.classic.resume(writer)
        return asked.Done()

    def _delete(self, op: asked.DeleteGroup, writer: Writer) -> asked.Done:
        group = self.groups.get(op.name)
        if group is None:
            return asked.Done(GroupError.GROUP_ID_NOT_FOUND)
        if not group.empty:
            return asked.Done(GroupError.NON_EMPTY_GROUP)
        self._drop(group, writer)
        return asked.Done()

    # --- offsets ------------------------------------------------------------------------------------------

    def _committing(
        self, op: asked.CommitOffsets | asked.TxnOffsetCommit, modern: bool, transactional: bool, writer: Writer
    ) -> Group | GroupError:
        group = self.groups.get(op.name)
        if group is None:
            if op.generation >= 0:
                return GroupError.GROUP_ID_NOT_FOUND if modern else GroupError.ILLEGAL_GENERATION
            group = self._for(op.name, GroupType.CLASSIC, op.retain_ms, writer)
            if group is None:
                return GroupError.INVALID_COMMIT_OFFSET_SIZE
        error = group.check_commit(
            op.member_id, op.instance_id, op.generation, modern=modern, transactional=transactional
        )
        return error or group

    def _commit(self, op: asked.CommitOffsets, writer: Writer) -> asked.Committed:
        group = self._committing(op, op.modern, False, writer)
        if isinstance(group, GroupError):
            return asked.Committed(group)
        group.committed(writer.time_ms, op.retain_ms)
        return asked.Committed(None, group.offsets.commit(op.items, writer))

    def _txn_commit(self, op: asked.TxnOffsetCommit, writer: Writer) -> asked.Committed:
        group = self._committing(op, False, True, writer)
        if isinstance(group, GroupError):
            return asked.Committed(group)
        errors = group.offsets.pend(op.producer_id, op.producer_epoch, op.items, group.next_seq(), writer)
        if isinstance(errors, GroupError):
            return asked.Committed(errors)
        group.committed(writer.time_ms, op.retain_ms)
        return asked.Committed(None, errors)

    def _txn_end(self, op: asked.TxnOffsetsEnd, writer: Writer) -> asked.Done:
        group = self.groups.get(op.name)
        if group is None:  # one is made to remember the end: an offset of the transaction may yet come
            group = self._for(op.name, GroupType.CLASSIC, IDLE_MS, writer)
        if group is not None:
            group.offsets.end(op.producer_id, op.producer_epoch, op.commit, group.next_seq(), writer)
            group.committed(writer.time_ms, group.row.retain_ms)
        return asked.Done()

    def _delete_offsets(self, op: asked.DeleteOffsets, writer: Writer) -> asked.Committed:
        group = self.groups.get(op.name)
        if group is None:
            return asked.Committed(GroupError.GROUP_ID_NOT_FOUND)
        if not group.empty and group.protocol_type != CONSUMER_PROTOCOL:
            return asked.Committed(GroupError.NON_EMPTY_GROUP)
        read = {topic for topic in {name.topic for name in op.partitions} if group.subscribed(topic)}
        group.offsets.delete([name for name in op.partitions if name.topic not in read], writer)
        errors = (GroupError.GROUP_SUBSCRIBED_TO_TOPIC if name.topic in read else None for name in op.partitions)
        return asked.Committed(None, tuple(errors) if read else ())

    def _forget_topics(self, op: asked.ForgetTopics, writer: Writer) -> asked.Done:
        group = self.groups.get(op.name)
        if group is not None:
            group.offsets.forget_topics(frozenset(op.topic_ids), writer)
        return asked.Done()

    # --- KIP-848 ------------------------------------------------------------------------------------------

    def _consumer(self, name: str) -> ConsumerGroup | None:
        group = self.groups.get(name)
        return group.consumer if group is not None else None

    def _subscribe(self, op: asked.Subscribe, writer: Writer) -> asked.Subscribed:
        if op.epoch == 0:
            group = self._for(op.name, GroupType.CONSUMER, op.retain_ms, writer)
            if group is None:
                return asked.Subscribed(self._refused(op.name, GroupError.GROUP_ID_NOT_FOUND))
        consumer = self._consumer(op.name)
        if consumer is None:
            return asked.Subscribed(GroupError.GROUP_ID_NOT_FOUND)
        return consumer.subscribe(op, writer)

    def _reconcile(self, op: asked.Reconcile, writer: Writer) -> asked.Reconciled:
        consumer = self._consumer(op.name)
        return asked.Reconciled(GroupError.GROUP_ID_NOT_FOUND) if consumer is None else consumer.reconcile(op, writer)

    def _leave_consumer(self, op: asked.LeaveConsumer, writer: Writer) -> asked.Done:
        consumer = self._consumer(op.name)
        return asked.Done(GroupError.GROUP_ID_NOT_FOUND if consumer is None else consumer.leave(op, writer))

    def _set_targets(self, op: asked.SetTargets, writer: Writer) -> asked.Done:
        consumer = self._consumer(op.name)
        if consumer is not None:
            consumer.set_targets(op, writer)
        return asked.Done()

    # --- queries ------------------------------------------------------------------------------------------

    def _fetch_offsets(self, query: views.FetchOffsets) -> views.OffsetsAnswer:
        group = self.groups.get(query.name)
        if group is None:
            return views.OffsetsAnswer(None, tuple(CommittedOffset(*_pair(name)) for name in query.partitions or ()))
        if group.consumer is not None and (query.member_id or query.epoch >= 0):
            member = group.consumer.members.get(query.member_id or "")
            if member is None:
                return views.OffsetsAnswer(GroupError.UNKNOWN_MEMBER_ID)
            if member.epoch != query.epoch:
                return views.OffsetsAnswer(GroupError.STALE_MEMBER_EPOCH)
        names = sorted(group.offsets.committed) if query.partitions is None else map(_pair, query.partitions)
        return views.OffsetsAnswer(None, tuple(_committed(group, *name, query.stable) for name in names))

    def _describe(self, query: views.DescribeGroup) -> views.DescribeAnswer:
        group = self.groups.get(query.name)
        return views.DescribeAnswer(group.view() if group is not None else None)

    def _list(self, query: views.ListGroups) -> views.ListAnswer:
        return views.ListAnswer(tuple(group.listed() for group in self.groups.values()))


def _pair(name: asked.PartitionName) -> tuple[str, int]:
    return name.topic, name.partition


def _committed(group: Group, topic: str, partition: int, stable: bool) -> CommittedOffset:
    if stable and group.offsets.unstable(topic, partition):
        return CommittedOffset(topic, partition, error=GroupError.UNSTABLE_OFFSET_COMMIT)
    found = group.offsets.committed.get((topic, partition))
    if found is None:
        return CommittedOffset(topic, partition)
    return CommittedOffset(topic, partition, found.topic_id, found.offset, found.leader_epoch, found.metadata)


def _leave_by_administrator(
    consumer: ConsumerGroup, leaving: tuple[asked.Leaving, ...], writer: Writer
) -> tuple[GroupError | None, ...]:
    errors: list[GroupError | None] = []
    for who in leaving:
        member_id = who.member_id or consumer.static.get(who.instance_id or "", "")
        error = consumer.check_member(member_id, who.instance_id)
        if error is None:
            consumer.remove([member_id], writer)
        errors.append(error)
    return tuple(errors)


def _restored(name: str, kinds: dict[bytes, dict[bytes, bytes]]) -> Group:
    group = Group(name, rows.decode_group(kinds[rows.GROUP][b""]))
    classic: list[ClassicMember] = list(map(rows.decode_classic_member, kinds.get(rows.CLASSIC_MEMBER, {}).values()))
    consumer: list[ConsumerMember] = list(
        map(rows.decode_consumer_member, kinds.get(rows.CONSUMER_MEMBER, {}).values())
    )
    if group.classic is not None:
        pending = {rest.decode(): rows.decode_int(value) for rest, value in kinds.get(rows.PENDING_MEMBER, {}).items()}
        group.classic.restore(classic, pending)
    if group.consumer is not None:
        targets = {rest.decode(): rows.decode_assignment(value) for rest, value in kinds.get(rows.TARGET, {}).items()}
        topics = kinds.get(rows.TOPICS, {}).get(b"")
        group.consumer.restore(consumer, targets, rows.decode_topics(topics) if topics is not None else {})
    group.offsets.restore(
        {rows.split_offset_rest(rest): rows.decode_offset(value) for rest, value in kinds.get(rows.OFFSET, {}).items()},
        {
            rows.split_producer_rest(rest): rows.decode_transaction(value)
            for rest, value in kinds.get(rows.TRANSACTION, {}).items()
        },
    )
    group.restored()
    return group
