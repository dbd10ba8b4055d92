"""Electors on a virtual clock, with disks that lag and a network that does what it likes.

Replication around the electors is the simplest that is right: a leader sends its whole log, a follower takes it
unless it has that and more, an acknowledgement waits for the disk. So logs differ, votes depend on them, and voters
change through the log; who is being removed is not sent the entry that removes it before that is committed.
Everything is drawn from one seeded generator; nothing iterates a set.

Checked at every step: one leader per term, each leader's log begins with all that was ever committed, terms and votes
of one node never go back across a restart once anything left that promised them.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

import msgspec

from consensus.election import ElectionTiming, Elector, Role
from consensus.messages import GroupMessage, PreVote, PreVoteReply
from consensus.model import HardState, Member

TICK_S = 0.02


class LogEntry(msgspec.Struct, frozen=True):
    term: int
    voters: tuple[Member, ...] | None = None


class Saved(msgspec.Struct, frozen=True):
    hard_state: HardState = HardState()
    log: tuple[LogEntry, ...] = ()


class Append(msgspec.Struct, frozen=True):
    term: int
    log: tuple[LogEntry, ...]
    commit: int


class HeartbeatReply(msgspec.Struct, frozen=True):
    term: int


class Acknowledgement(msgspec.Struct, frozen=True):
    term: int
    match: int


Said = GroupMessage | Append | HeartbeatReply | Acknowledgement


def member(number: int) -> Member:
    return Member(number, f"{number:032x}")


class World:
    """Members, a clock, disks, wires and faults."""

    def __init__(self, seed: int, voters: int, learners: int = 0, *, lag_s: float = 0.004) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.lag_s = lag_s
        self.delay_s = (0.0005, 0.003)
        self.duplicates = 0.0
        self.members = [member(number) for number in range(1, voters + learners + 1)]
        self.initial = tuple(self.members[:voters])
        self.saved = {m: Saved() for m in self.members}
        self.replicas: dict[Member, Replica] = {}
        self.cut: set[tuple[Member, Member]] = set()
        self.leaders: dict[int, Member] = {}
        self.committed: tuple[LogEntry, ...] = ()
        self.promised = {m: HardState() for m in self.members}
        self.sent: list[tuple[Member, Member, Said]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for m in self.members:
            self.start(m)

    def at(self, delay: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), event))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Lets time pass; whether `until` came true within it."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
            if until is not None and until():
                return True
        self.now = end
        return until is None

    def start(self, m: Member) -> None:
        if m not in self.replicas:
            self.replicas[m] = Replica(self, m)

    def crash(self, m: Member, *, noticed: bool = True) -> None:
        """The process dies: what was not durable is gone; its peers' connections break, if they are told."""
        if self.replicas.pop(m, None) is not None and noticed:
            for replica in list(self.replicas.values()):
                self.at(self.random.uniform(0.001, 0.01), lambda replica=replica: replica.connection_broke(m))

    def isolate(self, *group: Member) -> None:
        """Cuts the group off from all others, both ways."""
        inside = set(group)
        pairs = itertools.permutations(self.members, 2)
        self.cut |= {(a, b) for a, b in pairs if (a in inside) != (b in inside)}

    def send(self, src: Member, dst: Member, said: Said) -> None:
        self.sent.append((src, dst, said))
        if (src, dst) in self.cut:
            return
        self.at(self.random.uniform(*self.delay_s), lambda: self._deliver(src, dst, said))
        if self.random.random() < self.duplicates:
            late = self.random.choice([self.delay_s[1], 0.5])
            self.at(self.random.uniform(0.0005, late), lambda: self._deliver(src, dst, said))

    def _deliver(self, src: Member, dst: Member, said: Said) -> None:
        if (src, dst) not in self.cut and dst in self.replicas:
            self.replicas[dst].receive(src, said)

    # --- what to look at ------------------------------------------------------------------------------------

    def leading(self) -> list[Member]:
        return [m for m, replica in self.replicas.items() if replica.elector.role is Role.LEADER]

    def settled(self) -> bool:
        """One leader that everyone alive follows, in one term, having committed its no-op."""
        leading = self.leading()
        electors = [replica.elector for replica in self.replicas.values()]
        return (
            len(leading) == 1
            and all(e.leader == leading[0] and e.term == electors[0].term for e in electors)
            and self.replicas[leading[0]].committed_own_term
        )

    def settle(self, seconds: float = 20.0) -> Member:
        assert self.run(seconds, self.settled), f"no leader {seconds} s after the last fault"
        return self.leading()[0]

    def elector(self, m: Member) -> Elector:
        return self.replicas[m].elector

    # --- what must hold -------------------------------------------------------------------------------------

    def elected(self, m: Member, term: int, log: list[LogEntry]) -> None:
        other = self.leaders.setdefault(term, m)
        assert other == m, f"two leaders in term {term}: {other} and {m}"
        assert tuple(log[: len(self.committed)]) == self.committed, f"{m} leads term {term} without what was committed"

    def commit(self, log: tuple[LogEntry, ...]) -> None:
        shorter = min(len(log), len(self.committed))
        assert log[:shorter] == self.committed[:shorter], "two different entries were committed at one index"
        if len(log) > shorter:
            self.committed = log


class Replica:
    """One elector with its log, its disk and the least of replication around it."""

    def __init__(self, world: World, me: Member) -> None:
        self.world, self.me = world, me
        saved = world.saved[me]
        promised = world.promised[me]
        assert (saved.hard_state.term, bool(saved.hard_state.vote)) >= (promised.term, bool(promised.vote))
        self.hard_state = saved.hard_state
        self.log = list(saved.log)
        self.durable = len(self.log)
        self.commit = 0
        self.match: dict[Member, int] = {}
        self.committed_own_term = False
        self.role_changes = 0
        self.aloud = False
        self._pending: deque[Saved | tuple[Member, Said]] = deque()
        self._durable_at = 0.0
        self._heartbeat_due = 0.0
        self.elector = Elector(
            group=7,
            me=me,
            voters=self.voters(),
            shape=self,
            hard_state=saved.hard_state,
            timing=ElectionTiming(),
            clock=lambda: world.now,
            random=world.random,
            send=self.say,
            persist=self._persist,
            on_role=self._on_role,
        )
        self._follow_configuration()
        world.at(world.random.uniform(0, TICK_S), self._tick)

    # --- the log's shape ------------------------------------------------------------------------------------

    @property
    def last_index(self) -> int:
        return len(self.log)

    @property
    def last_term(self) -> int:
        return self.log[-1].term if self.log else 0

    def lead(self, term: int) -> None:
        self.committed_own_term = False
        self.match = {}
        self.append(LogEntry(term))
        self.aloud = False
        self._lead_aloud()

    def _lead_aloud(self) -> None:
        """A single voter has won before its term is durable; it says and commits nothing until then."""
        before, leads = self.aloud, self.elector.role is Role.LEADER
        self.aloud = leads and self.world.saved[self.me].hard_state == self.hard_state
        if self.aloud and not before:
            self.world.elected(self.me, self.elector.term, self.log)

    def voters(self, up_to: int | None = None) -> tuple[Member, ...]:
        return next((e.voters for e in reversed(self.log[:up_to]) if e.voters is not None), self.world.initial)

    def _changing(self) -> int | None:
        """Where a configuration stands that is not known to be committed."""
        return next((i for i in range(self.commit, len(self.log)) if self.log[i].voters is not None), None)

    def _being_removed(self, m: Member) -> bool:
        """Whether it is no voter, but was one in any configuration since what is known to be committed."""
        since = [self.voters(self.commit), *(e.voters or () for e in self.log[self.commit :])]
        return m not in self.voters() and any(m in voters for voters in since)

    def _follow_configuration(self) -> None:
        self.elector.set_voters(self.voters(), being_removed=self._being_removed(self.me))

    def append(self, entry: LogEntry) -> None:
        self.log.append(entry)
        self._write()
        self._heartbeat_due = 0.0

    def change_voters(self) -> None:
        """Adds or removes one voter, as a leader may once its no-op and the last change are committed."""
        if self.elector.role is not Role.LEADER or not self.committed_own_term or self._changing() is not None:
            return
        voters, draw = self.voters(), self.world.random
        chosen = draw.choice(self.world.members)
        changed = tuple(v for v in voters if v != chosen) if chosen in voters else (*voters, chosen)
        if changed:
            self.append(LogEntry(self.elector.term, changed))
            self._follow_configuration()

    # --- disk -----------------------------------------------------------------------------------------------

    def _persist(self, hard_state: HardState) -> None:
        self.hard_state = hard_state
        self._write()

    def _write(self) -> None:
        world = self.world
        saved = Saved(self.hard_state, tuple(self.log))
        self._pending.append(saved)
        self._durable_at = max(self._durable_at, world.now + world.random.uniform(0, 2) * world.lag_s)
        world.at(self._durable_at - world.now, lambda: self._now_durable(saved))

    def _now_durable(self, saved: Saved) -> None:
        if self.world.replicas.get(self.me) is not self:
            return
        self.world.saved[self.me] = saved
        while self._pending:
            first = self._pending.popleft()
            if isinstance(first, Saved):
                assert first is saved
                break
        while self._pending and not isinstance(self._pending[0], Saved):
            self._leave(*self._pending.popleft())
        self.durable = len(saved.log) if tuple(self.log[: len(saved.log)]) == saved.log else 0
        self._lead_aloud()
        self._count()

    def say(self, dst: Member, said: Said) -> None:
        """Leaves once all that was written before it is durable."""
        if self._pending:
            self._pending.append((dst, said))
        else:
            self._leave(dst, said)

    def _leave(self, dst: Member, said: Said) -> None:
        self.world.promised[self.me] = self.world.saved[self.me].hard_state
        self.world.send(self.me, dst, said)

    # --- replication, as little as will do ------------------------------------------------------------------

    def _tick(self) -> None:
        world = self.world
        if world.replicas.get(self.me) is not self:
            return
        world.at(TICK_S, self._tick)
        self.elector.tick()
        if self.elector.role is Role.LEADER and self.aloud and world.now >= self._heartbeat_due:
            self._heartbeat_due = world.now + ElectionTiming().heartbeat
            for m in world.members:
                if m != self.me:
                    log = self.log[: self._changing()] if self._being_removed(m) else self.log
                    world.send(self.me, m, Append(self.elector.term, tuple(log), self.commit))

    def receive(self, src: Member, said: Said) -> None:
        elector = self.elector
        match said:
            case Append():
                self._take(src, said)
            case HeartbeatReply() | Acknowledgement() if said.term > elector.term:
                elector.heard_term(src, said.term)
            case HeartbeatReply() if said.term == elector.term:
                elector.heard_reply(src)
            case Acknowledgement() if said.term == elector.term and elector.role is Role.LEADER:
                self.match[src] = max(self.match.get(src, 0), said.match)
                self._count()
            case GroupMessage():
                elector.receive(src, said)

    def _take(self, src: Member, append: Append) -> None:
        self.world.send(self.me, src, HeartbeatReply(max(append.term, self.elector.term)))
        if append.term < self.elector.term:
            return
        self.elector.heard_leader(src, append.term)
        if tuple(self.log[: len(append.log)]) != append.log:
            self.log = list(append.log)
            self._write()
        self.commit = max(self.commit, min(append.commit, len(append.log)))
        self._follow_configuration()
        self.say(src, Acknowledgement(append.term, len(append.log)))

    def _count(self) -> None:
        if self.elector.role is not Role.LEADER:
            return
        voters = self.voters()
        matches = sorted((self.durable if v == self.me else self.match.get(v, 0) for v in voters), reverse=True)
        agreed = matches[len(voters) // 2]
        if agreed and self.log[agreed - 1].term == self.elector.term:
            self.world.commit(tuple(self.log[:agreed]))
            self.commit = agreed
            self.committed_own_term = True
            self._follow_configuration()
            if self.me not in voters and self._changing() is None:
                self.elector.step_down()

    def connection_broke(self, m: Member) -> None:
        if self.world.replicas.get(self.me) is self and self.elector.leader == m:
            self.elector.leader_lost()

    def _on_role(self) -> None:
        self.role_changes += 1


# --- one member, for which the test speaks the others' part -------------------------------------------------

ME, FIRST, SECOND, THIRD, FOURTH = (member(number) for number in range(1, 6))


def said(world: World, kind: type[Said], src: Member | None = None) -> list[tuple[Member, Member, Said]]:
    return [item for item in world.sent if isinstance(item[2], kind) and src in (None, item[0])]


def cut_one_way(world: World, src: Member, dst: Member) -> None:
    world.cut.add((src, dst))


def lone(voters: int, *, log: tuple[LogEntry, ...] = (), hard_state: HardState | None = None) -> tuple[World, Replica]:
    """Member 1 of a group whose other members are not there: the test speaks for them."""
    world = World(1, voters)
    world.replicas.clear()
    world.lag_s = 0.0
    world.saved[ME] = Saved(hard_state or HardState(log[-1].term if log else 0), log)
    world.start(ME)
    world.run(0.0)
    return world, world.replicas[ME]


def flush(world: World) -> list[Said]:
    """Lets the disk catch up; what has been sent since the last look."""
    world.run(0.001)
    sent, world.sent = [message for _, _, message in world.sent], []
    return sent


def candidate(voters: int = 5) -> tuple[World, Replica]:
    """Member 1 has won the pre-vote and asks for votes in term 1."""
    world, replica = lone(voters)
    elector = replica.elector
    world.run(2 * ElectionTiming().election_max, lambda: bool(said(world, PreVote)))
    for voter in world.members[1 : voters // 2 + 1]:
        elector.receive(voter, PreVoteReply(7, 0, 1, True))
    assert (elector.role, elector.term, elector.vote) == (Role.CANDIDATE, 1, ME)
    return world, replica
