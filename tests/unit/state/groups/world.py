"""One shard with nothing but groups, as several replicas see it: one applies entry by entry, one is made anew from the
rows on disk now and then. After every op they must be equal, and the rows must be what the state would store."""

from typing import Any, TypeVar

import msgspec

from raftbroker.state.groups import ops as asked
from raftbroker.state.groups import views
from raftbroker.state.groups.classic import ClassicGroup
from raftbroker.state.groups.consumer import ConsumerGroup
from raftbroker.state.groups.group import Group
from raftbroker.state.groups.part import Groups
from raftbroker.state.groups.rows import Assignment, Protocol
from raftbroker.state.shard import Op, Query, ShardEntry, ShardMachine
from tests.unit.state.strategies import entry

O = TypeVar("O")  # noqa: E741
NAME = "readers"
RETAIN_MS = 7 * 24 * 3600 * 1000
_encode = msgspec.msgpack.Encoder().encode


class _Outcomes:
    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self.names: set[str] = set()

    def led(self, term: int) -> None: ...

    def unled(self) -> None: ...

    def applied(self, index: int, outcomes: list[Any], names: set[str]) -> None:
        self.outcomes = outcomes
        self.names = names


class World:
    def __init__(self, delay_ms: int = 0) -> None:
        self.delay_ms = delay_ms
        self.now_ms = 1_000
        self.index = 0
        self.machine = ShardMachine(1, lambda: [Groups()])
        self.disk = dict(self.machine.rows())
        self.other = ShardMachine(1, lambda: [Groups()])
        self.heard = _Outcomes()
        self.machine.attach(self.heard)

    @property
    def part(self) -> Groups:
        return self.machine.part(Groups)

    def apply(self, *ops: Op[Any]) -> list[Any]:
        """Their outcomes, after the wire and back, as another node would see them."""
        self.index += 1
        raws = tuple(msgspec.Raw(_encode(op)) for op in ops)
        made = entry(self.index, ShardEntry(self.now_ms, raws))
        applied = self.machine.apply([made])
        for key, value in applied.rows.items():
            if value is None:
                self.disk.pop(key, None)
            else:
                self.disk[key] = value
        self.other.apply([made])
        self.check()
        return [
            msgspec.msgpack.decode(_encode(outcome), type=op.outcome)
            for op, outcome in zip(ops, self.heard.outcomes, strict=True)
        ]

    def do(self, op: Op[O]) -> O:
        outcome: O = self.apply(op)[0]
        return outcome

    def ask(self, query: Query[O]) -> O:
        answer: O = msgspec.msgpack.decode(_encode(self.machine.query(query)), type=query.answer)
        return answer

    def check(self) -> None:
        rows = dict(self.machine.rows())
        assert rows == self.disk, "the rows on disk are not what the state would store"
        assert dict(self.other.rows()) == rows, "two replicas differ at the same index"

    def restart_other(self) -> None:
        """The other replica is made anew from what is on disk."""
        self.other = ShardMachine(1, lambda: [Groups()])
        self.other.restore(dict(self.disk), self.index)
        assert self.other.next_deadline() == self.machine.next_deadline()
        self.check()

    def swap(self) -> None:
        """The replica that was restored decides from now on: outcomes must not depend on which it is."""
        self.machine, self.other = self.other, self.machine
        self.machine.attach(self.heard)
        self.other._watcher = None

    def pass_ms(self, ms: int) -> None:
        """Time goes on, and is written down."""
        self.now_ms += ms
        self.apply()

    # --- the group ----------------------------------------------------------------------------------------

    @property
    def group(self) -> Group:
        return self.part.groups[NAME]

    @property
    def classic(self) -> ClassicGroup:
        assert self.group.classic is not None
        return self.group.classic

    @property
    def consumer(self) -> ConsumerGroup:
        assert self.group.consumer is not None
        return self.group.consumer

    # --- ops ----------------------------------------------------------------------------------------------

    def join_op(
        self,
        member_id: str = "",
        new_id: str = "m1",
        *,
        instance: str | None = None,
        protocols: tuple[tuple[str, bytes], ...] = (("range", b"meta"),),
        kind: str = "consumer",
        id_required: bool = False,
        size_max: int = 100,
        rebalance_ms: int = 60_000,
        session_ms: int = 10_000,
    ) -> asked.JoinGroup:
        return asked.JoinGroup(
            NAME,
            member_id=member_id,
            new_member_id=new_id,
            instance_id=instance,
            client_id="client",
            client_host="/127.0.0.1",
            session_ms=session_ms,
            rebalance_ms=rebalance_ms,
            protocol_type=kind,
            protocols=tuple(Protocol(*protocol) for protocol in protocols),
            id_required=id_required,
            size_max=size_max,
            delay_ms=self.delay_ms,
            retain_ms=RETAIN_MS,
        )

    def join(self, *args: Any, **kwargs: Any) -> asked.Joined:
        return self.do(self.join_op(*args, **kwargs))

    def sync_op(
        self, member_id: str, generation: int, assignments: dict[str, bytes] | None = None, instance: str | None = None
    ) -> asked.SyncGroup:
        return asked.SyncGroup(
            NAME,
            member_id=member_id,
            instance_id=instance,
            generation=generation,
            protocol_type=None,
            protocol=None,
            assignments=assignments or {},
        )

    def stable(self, *member_ids: str) -> int:
        """A group of these members, all with their assignments; its generation."""
        for member_id in member_ids:
            self.join(new_id=member_id)
        if len(member_ids) > 1:
            for member_id in member_ids[:-1]:
                self.join(member_id)
        classic = self.classic
        assert classic.phase.name == "COMPLETING"
        assignments = {member_id: member_id.encode() for member_id in member_ids}
        assert self.do(self.sync_op(classic.row.leader, classic.row.generation, assignments)).error is None
        return classic.row.generation

    def commit_op(
        self,
        offset: int = 1,
        *,
        member_id: str = "",
        generation: int = -1,
        instance: str | None = None,
        topic: str = "t",
        topic_id: str = "id-t",
        partition: int = 0,
        metadata: str = "",
        modern: bool = True,
    ) -> asked.CommitOffsets:
        return asked.CommitOffsets(
            NAME,
            member_id=member_id,
            instance_id=instance,
            generation=generation,
            modern=modern,
            items=(asked.CommitItem(topic, topic_id, partition, offset, -1, metadata),),
            retain_ms=RETAIN_MS,
        )

    def subscribe_op(
        self,
        member_id: str = "c1",
        epoch: int = 0,
        *,
        names: tuple[str, ...] | None = ("t",),
        instance: str | None = None,
        regex: str | None = None,
        owned: Assignment | None = None,
        assignor: str | None = None,
        size_max: int = 100,
    ) -> asked.Subscribe:
        return asked.Subscribe(
            NAME,
            member_id=member_id,
            epoch=epoch,
            instance_id=instance,
            rack_id=None,
            client_id="client",
            client_host="/127.0.0.1",
            rebalance_ms=60_000,
            names=names,
            regex=regex,
            assignor=assignor,
            owned={} if epoch == 0 and owned is None else owned,
            size_max=size_max,
            retain_ms=RETAIN_MS,
        )

    def reconcile_op(
        self, member_id: str, epoch: int, owned: Assignment | None = None, instance: str | None = None
    ) -> asked.Reconcile:
        return asked.Reconcile(NAME, member_id=member_id, epoch=epoch, instance_id=instance, owned=owned)

    def offset(self, topic: str = "t", partition: int = 0, *, stable: bool = False) -> views.CommittedOffset:
        names = (asked.PartitionName(topic, partition),)
        return self.ask(views.FetchOffsets(NAME, partitions=names, stable=stable)).offsets[0]
