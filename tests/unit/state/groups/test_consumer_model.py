"""KIP-848 groups under clients that are killed, repeat, come late, own more than they should, and leaders that change.

Each client keeps what it was told it owns, and gives up only when told so. Checked against the clients' own view: no
two live clients that are not fenced believe to own one partition, and no late commit is taken.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftbroker.state.groups import ops as asked
from raftbroker.state.groups.assignors import ASSIGNORS, Subscriber
from raftbroker.state.groups.consumer import AWAY, ConsumerGroup, assignment_of, pairs
from raftbroker.state.groups.rows import Topics
from raftbroker.state.groups.terms import GroupError
from raftbroker.state.shard import Op
from tests.unit.state.groups.world import NAME, World

clients = st.integers(0, 3)
FATAL = (GroupError.FENCED_MEMBER_EPOCH, GroupError.UNKNOWN_MEMBER_ID, GroupError.FENCED_INSTANCE_ID)


class Client:
    """As the Java client: member id for life, epoch 0 after it was fenced, gives up before it confirms."""

    def __init__(self, number: int, life: int) -> None:
        self.instance = f"i{number}" if number == 0 else None
        self.member_id = f"c{number}-{life}"
        self.epoch = 0
        self.owned: set[tuple[str, int]] = set()


class ConsumerGroups(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.lives = 0
        self.clients = [Client(number, 0) for number in range(4)]
        self.topics: Topics = {"t": ("id-t", 3), "u": ("id-u", 2)}
        self.late: list[Op[object]] = []
        self.offset = 0
        self.taken = -1

    @property
    def group(self) -> ConsumerGroup | None:
        group = self.world.part.groups.get(NAME)
        return group.consumer if group is not None else None

    def send(self, op: Op[object]) -> object:
        self.late = [*self.late[-12:], op]
        return self.decide(op)

    def decide(self, op: Op[object]) -> object:
        epochs = {member.id: member.epoch for member in self.group.members.values()} if self.group is not None else {}
        outcome = self.world.do(op)
        if isinstance(op, asked.CommitOffsets):
            assert isinstance(outcome, asked.Committed)
            if outcome.error is None:
                assert epochs.get(op.member_id) == op.generation, "a zombie committed"
                self.taken = op.items[0].offset
            assert self.world.offset().offset == self.taken
        return outcome

    # --- clients ------------------------------------------------------------------------------------------

    @rule(who=clients, names=st.sampled_from((("t",), ("u",), ("t", "u"))), lost=st.booleans(), quiet=st.booleans())
    def beat(self, who: int, names: tuple[str, ...], lost: bool, quiet: bool = False) -> None:
        """`quiet`: it does not say what it owns, as clients do whose assignment has not changed."""
        client = self.clients[who]
        owned = assignment_of(client.owned)
        if client.epoch == 0 or (who == 1 and self.group is not None):
            outcome = self.send(
                self.world.subscribe_op(
                    client.member_id, client.epoch, names=names, instance=client.instance, owned=owned
                )
            )
            assert isinstance(outcome, asked.Subscribed)
            if outcome.error is not None:
                self.failed(client, outcome.error)
                return
            self.make_targets()
        says = None if quiet and client.epoch > 0 else owned
        reconciled = self.send(self.world.reconcile_op(client.member_id, client.epoch, says, client.instance))
        assert isinstance(reconciled, asked.Reconciled)
        if lost:
            return
        if reconciled.error is not None:
            self.failed(client, reconciled.error)
            return
        client.epoch = reconciled.epoch
        if quiet and client.owned - pairs(reconciled.assigned):
            return  # it is still giving up what it must
        client.owned = pairs(reconciled.assigned)

    def failed(self, client: Client, error: GroupError) -> None:
        if error in FATAL:
            client.epoch = 0
            client.owned = set()

    @rule(who=clients)
    def commit(self, who: int) -> None:
        client = self.clients[who]
        self.offset += 1
        if client.epoch > 0:
            self.send(self.world.commit_op(self.offset, member_id=client.member_id, generation=client.epoch))

    @rule(who=clients, away=st.booleans())
    def leave(self, who: int, away: bool) -> None:
        client = self.clients[who]
        away = away and client.instance is not None
        self.world.do(asked.LeaveConsumer(NAME, client.member_id, client.instance, away))
        self.renew(who)

    @rule(who=clients)
    def kill(self, who: int) -> None:
        """The client is gone; its session ends some time later."""
        member_id = self.clients[who].member_id
        member = self.group.members.get(member_id) if self.group is not None else None
        if member is not None:
            self.late.append(asked.ExpireMembers(NAME, (asked.Lapsed(member_id, member.epoch),)))
        self.renew(who)

    def renew(self, who: int) -> None:
        self.lives += 1
        self.clients[who] = Client(who, self.lives)

    @rule(who=clients)
    def session_ends(self, who: int) -> None:
        """Of a client that is alive, but not heard: by its own clock it has given up what it owned."""
        client = self.clients[who]
        if self.group is not None and client.member_id in self.group.members:
            member = self.group.members[client.member_id]
            self.world.do(asked.ExpireMembers(NAME, (asked.Lapsed(member.id, member.epoch),)))
            client.owned, client.epoch = set(), 0

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def come_late(self, data: st.DataObject) -> None:
        """Commits, targets and expiries of long ago; late heartbeats are another's, so that clients do not get lost."""
        op = data.draw(st.sampled_from(self.late))
        if not isinstance(op, (asked.Subscribe, asked.Reconcile)):
            alive = {client.member_id for client in self.clients if client.epoch > 0}
            if isinstance(op, asked.ExpireMembers) and alive & {lapsed.member_id for lapsed in op.members}:
                return
            self.decide(op)

    # --- the shard's leader -------------------------------------------------------------------------------

    @rule()
    def make_targets(self) -> None:
        group = self.group
        bump = group is not None and group.row.epoch == group.row.target_epoch
        if group is None or not group.members or (bump and group.topics == self.topics):
            return
        subscribers = [
            Subscriber(member.id, member.instance_id, frozenset(member.names), group.targets.get(member.id, {}))
            for member in group.members.values()
        ]
        targets = ASSIGNORS[group.assignor](subscribers, self.topics)
        self.send(asked.SetTargets(NAME, group.row.epoch, bump, self.topics, targets))

    @rule(count=st.integers(1, 4), made_again=st.booleans())
    def topics_change(self, count: int, made_again: bool) -> None:
        topic_id = "id-u2" if made_again else "id-u"
        self.topics = {"t": ("id-t", 3), "u": (topic_id, count)}

    @rule()
    def leader_changes(self) -> None:
        self.world.restart_other()
        self.world.swap()

    # --- what must hold -----------------------------------------------------------------------------------

    @invariant()
    def nobody_owns_what_another_owns(self) -> None:
        seen: dict[tuple[str, int], str] = {}
        for client in self.clients:
            for partition in client.owned:
                assert partition not in seen, f"{client.member_id} and {seen[partition]} both own {partition}"
                seen[partition] = client.member_id

    @invariant()
    def a_group_is_sound(self) -> None:
        group = self.group
        if group is None:
            return
        assert group.row.target_epoch <= group.row.epoch
        for member in group.members.values():
            assert member.epoch <= group.row.target_epoch
            assert member.epoch == AWAY or 0 <= member.previous_epoch <= max(member.epoch, 0)
            assert not pairs(member.assigned) & pairs(member.revoking)
        owners = {
            partition: member.id
            for member in group.members.values()
            for partition in pairs(member.assigned) | pairs(member.revoking)
        }
        assert owners == group.owners


TestConsumerGroups = ConsumerGroups.TestCase
TestConsumerGroups.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_group_settles_whatever_happened_before() -> None:
    """Once nothing changes any more, a few heartbeats bring everyone to the target."""
    machine = ConsumerGroups()
    for names in (("t",), ("t", "u"), ("u",)):
        for who in range(4):
            machine.beat(who, names, False)
    machine.topics_change(4, True)
    machine.make_targets()
    machine.kill(2)
    for op in machine.late:
        if isinstance(op, asked.ExpireMembers):
            machine.decide(op)
    for _ in range(6):
        for who in range(4):
            machine.beat(who, ("t", "u"), False)
            machine.nobody_owns_what_another_owns()
    group = machine.group
    assert group is not None
    assert {partition for client in machine.clients for partition in client.owned} == {
        (topic_id, number) for topic_id, count in machine.topics.values() for number in range(count)
    }
    assert all(group.is_reconciled(member) for member in group.members.values())
