"""Classic groups under clients that are killed, repeat, come late and lie; and shard leaders that come and go.

Requests are taken from a pool in any order, and repeated: what was sent long ago may be decided now. Checked against
what was observed, not against the machine's own state: what a generation was given, and to whom; which generation the
newest is; and that replicas agree (in `World`).
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftbroker.state.groups import ops as asked
from raftbroker.state.groups.terms import GroupError, Phase
from raftbroker.state.shard import Op
from tests.unit.state.groups.world import NAME, World

clients = st.integers(0, 3)
PARTITIONS = 5


class Client:
    """Client `number`; even ones are static members."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.instance = f"i{number}" if number % 2 == 0 else None
        self.member_id = ""
        self.generation = -1


class ClassicGroups(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(delay_ms=100)
        self.clients = [Client(number) for number in range(4)]
        self.ids = 0
        self.sent: list[Op[object]] = []
        self.handed: dict[int, dict[str, bytes]] = {}
        """By generation, what members were seen to be assigned."""
        self.newest = 0
        self.offset = 0
        self.taken: int = -1

    # --- clients ------------------------------------------------------------------------------------------

    def send(self, op: Op[object]) -> object:
        self.sent = [*self.sent[-12:], op]
        return self.decide(op)

    def decide(self, op: Op[object]) -> object:
        before = self.newest
        outcome = self.world.do(op)
        if isinstance(op, asked.CommitOffsets):
            self.check_commit(op, outcome, before)  # type: ignore[arg-type]
        self.observe()
        return outcome

    def check_commit(self, op: asked.CommitOffsets, outcome: asked.Committed, newest: int) -> None:
        taken = outcome.error is None
        if op.generation >= 0:
            assert not (taken and op.generation != newest), "a zombie committed after the generation had moved on"
            holder = next((c for c in self.clients if c.instance is not None and c.instance == op.instance_id), None)
            if holder is not None and taken:
                current = self.world.classic.static[op.instance_id or ""]
                assert current == op.member_id, "a static member that was replaced committed"
        if taken:
            self.taken = op.items[0].offset
        assert self.world.offset().offset == self.taken

    @rule(who=clients, other=st.booleans())
    def join(self, who: int, other: bool) -> None:
        client = self.clients[who]
        self.ids += 1
        protocols = (("range", b"other"),) if other else (("range", b"meta"),)
        outcome = self.send(
            self.world.join_op(
                client.member_id,
                f"{self.ids * 7 % 10}-{self.ids}",
                instance=client.instance,
                protocols=protocols,
                id_required=client.number == 1,
                size_max=3,
            )
        )
        assert isinstance(outcome, asked.Joined)
        if outcome.error in (None, GroupError.MEMBER_ID_REQUIRED):
            client.member_id = outcome.member_id
        elif outcome.error in (GroupError.UNKNOWN_MEMBER_ID, GroupError.FENCED_INSTANCE_ID):
            client.member_id = ""

    @rule(who=clients)
    def learn(self, who: int) -> None:
        """The client's join is answered, if there is an answer."""
        client = self.clients[who]
        group = self.world.part.groups.get(NAME)
        if group is None or group.classic is None or client.member_id not in group.classic.members:
            client.generation = -1
        elif group.classic.phase is not Phase.PREPARING:
            client.generation = group.classic.row.generation

    @rule(who=clients, first=st.integers(0, PARTITIONS - 1))
    def sync(self, who: int, first: int) -> None:
        """Whoever believes to lead deals out all partitions to the members it may know of."""
        client = self.clients[who]
        group = self.world.part.groups.get(NAME)
        members = list(group.classic.members) if group is not None and group.classic is not None else []
        hands: dict[str, bytearray] = {member: bytearray() for member in members}
        for number in range(PARTITIONS if members else 0):
            hands[members[(first + number) % len(members)]].append(number)
        assignments = {member: bytes(hand) for member, hand in hands.items()}
        self.send(self.world.sync_op(client.member_id, client.generation, assignments, client.instance))

    @rule(who=clients)
    def commit(self, who: int) -> None:
        client = self.clients[who]
        self.offset += 1
        if client.member_id:
            self.send(
                self.world.commit_op(
                    self.offset, member_id=client.member_id, generation=client.generation, instance=client.instance
                )
            )

    @rule(who=clients)
    def leave(self, who: int) -> None:
        client = self.clients[who]
        self.send(asked.LeaveGroup(NAME, (asked.Leaving(client.member_id, client.instance),)))

    @rule(who=clients)
    def restart_client(self, who: int) -> None:
        """Killed and started again: it knows nothing, and its member may still be there."""
        self.clients[who].member_id = ""
        self.clients[who].generation = -1

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def come_late(self, data: st.DataObject) -> None:
        """Something that was sent before arrives, again or only now."""
        self.decide(data.draw(st.sampled_from(self.sent)))

    # --- the shard ----------------------------------------------------------------------------------------

    @rule(ms=st.sampled_from((50, 100, 60_000)))
    def time_goes_on(self, ms: int) -> None:
        self.world.pass_ms(ms)
        self.observe()

    @rule(who=clients)
    def session_ends(self, who: int) -> None:
        member_id = self.clients[who].member_id
        group = self.world.part.groups.get(NAME)
        if group is not None and group.classic is not None:
            member = group.classic.members.get(member_id)
            self.send(asked.ExpireMembers(NAME, (asked.Lapsed(member_id, member.round if member else 0),)))

    @rule()
    def leader_changes(self) -> None:
        self.world.restart_other()
        self.world.swap()
        self.send(asked.ResumeRebalance(NAME))

    # --- what must hold -----------------------------------------------------------------------------------

    def observe(self) -> None:
        group = self.world.part.groups.get(NAME)
        if group is None or group.classic is None:
            self.newest = -1
            self.handed.clear()
            return
        row = group.classic.row
        assert row.generation >= self.newest, "generations go up"
        self.newest = row.generation
        if row.phase is not Phase.STABLE:
            return
        handed = self.handed.setdefault(row.generation, {})
        for member in group.classic.members.values():
            place = member.instance_id or member.id
            assert handed.setdefault(place, member.assignment) == member.assignment, "an assignment changed"
        seen = b"".join(handed.values())
        assert len(seen) == len(set(seen)), "two members of one generation were given one partition"

    @invariant()
    def a_group_is_sound(self) -> None:
        group = self.world.part.groups.get(NAME)
        if group is None or group.classic is None:
            return
        classic = group.classic
        assert not (classic.members and classic.phase is Phase.EMPTY)
        assert classic.members or classic.phase is Phase.EMPTY or (classic.phase is Phase.PREPARING and classic.pending)
        if classic.phase in (Phase.COMPLETING, Phase.STABLE):
            assert classic.row.leader in classic.members
            assert classic.row.protocol == "range"
        if classic.phase is Phase.PREPARING:
            assert classic.deadline_ms is not None, "a rebalance has its end"
            assert self.world.machine.next_deadline() is not None
        assert len(classic.pending) <= 3
        assert sorted(classic.static.values()) == sorted(m.id for m in classic.members.values() if m.instance_id)


TestClassicGroups = ClassicGroups.TestCase
TestClassicGroups.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
