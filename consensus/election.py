"""Who leads a group: one `Elector` per replica, around pysyncobj's election engine.

pysyncobj keeps terms, votes, roles and the election timer (`pysyncobj_seams` says how it is held to that). Added here
is what it lacks:

- PreVote (Raft dissertation, 9.6): when the timer runs out the voters are asked first, and pysyncobj campaigns only
  once a majority would vote for it. A node that is cut off asks in vain and its term stays as it is (C5).
- Stickiness (4.2.3): who heard a leader within the minimum election timeout, or leads with a majority in contact,
  refuses to elect another, but for a transfer, which the leader asked for itself.
- Votes count once per term and voter, from voters, in the term they were given in (C2).
- A leader that stepped down waits a full election timeout before it asks for votes again.
- Transfer (3.10): `TimeoutNow`, from the leader it follows only, skips PreVote.
- Fast failover: a broken connection to the leader ends the wait for it. If it lives, the others refuse.

Assumes: `persist` makes the hard states it is handed durable in order, and what `send` is handed after a `persist`
leaves only once that is durable (C1). A single voter has won in the very call that hands its new term to `persist`: it
must say nothing as a leader before that is durable. `heard_leader` comes before any entry of that leader is taken.
Nothing is called from within `send`, `persist` or `on_role` but `set_voters` and what only reads. Time is the clock's
alone.

Promises: at most one leader per term; `on_role` is called, after the fact and after `LogShape.lead`, whenever role,
term or leader have changed; a tick with nothing due costs one reading of the clock.
"""

import enum
import logging
import math
import random
from collections.abc import Callable, Collection

import msgspec

from consensus import pysyncobj_seams as seams
from consensus.errors import InvariantBroken
from consensus.messages import GroupMessage, PreVote, PreVoteReply, RequestVote, TimeoutNow, Vote
from consensus.model import HardState, Member
from consensus.pysyncobj_seams import LogShape

__all__ = ["ElectionMessage", "ElectionTiming", "Elector", "LogShape", "Role"]

logger = logging.getLogger(__name__)

ElectionMessage = PreVote | PreVoteReply | RequestVote | Vote | TimeoutNow


class Role(enum.Enum):
    """A member that is no voter is a FOLLOWER here: whether it learns is for the group to say."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


_ROLES = {seams.FOLLOWER: Role.FOLLOWER, seams.CANDIDATE: Role.CANDIDATE, seams.LEADER: Role.LEADER}


class ElectionTiming(msgspec.Struct, frozen=True):
    """Seconds. A follower that hears nothing asks for votes after election_min to election_max; a leader that no
    majority has answered for election_max steps down."""

    heartbeat: float = 0.1
    election_min: float = 0.5
    election_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < 2 * self.heartbeat <= self.election_min < self.election_max < math.inf:
            raise ValueError(
                f"election timing: 0 < 2 * heartbeat <= election_min < election_max must hold, not heartbeat "
                f"{self.heartbeat}, election_min {self.election_min}, election_max {self.election_max} (seconds)"
            )


class Elector:
    """One replica's part in its group's elections."""

    def __init__(
        self,
        group: int,
        me: Member,
        voters: Collection[Member],
        shape: LogShape,
        hard_state: HardState,
        timing: ElectionTiming,
        clock: Callable[[], float],
        random: random.Random,
        send: Callable[[Member, GroupMessage], None],
        persist: Callable[[HardState], None],
        on_role: Callable[[], None],
    ) -> None:
        """Raises InvariantBroken where the log is ahead of the term: a hard state was lost."""
        if hard_state.term < shape.last_term:
            raise InvariantBroken(
                f"group {group}: the log ends in term {shape.last_term}, but the term on disk is {hard_state.term}"
            )
        self.group = group
        self.me = me
        self._voters = frozenset(voters)
        self._campaigns = me in self._voters
        self._shape = shape
        self._timing = timing
        self._clock = clock
        self._random = random
        self._send = send
        self._on_role = on_role
        self._stopped = False
        self._outbox: list[tuple[Member, GroupMessage]] = []
        self._transfer = False
        """Whether the campaign under way was asked for by the leader."""
        self._asking: set[Member] | None = None
        """Who would vote for this node, while it asks (PreVote)."""
        self._votes: set[Member] = set()
        """Who has voted for it in this term."""
        self._leader_heard = -math.inf
        self._heard: dict[Member, float] = {}
        """When each voter last answered the leader that this node is."""
        self._quorum_due = math.inf
        self._engine = seams.Engine(
            me,
            self._voters - {me},
            shape,
            hard_state,
            draw_deadline=self._draw_deadline,
            persist=persist,
            send=self._engine_sends,
        )
        self._told = (self.role, self.term, self.leader)

    # --- what it says ---------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self._engine.hard_state.term

    @property
    def vote(self) -> Member | None:
        return self._engine.hard_state.vote

    @property
    def role(self) -> Role:
        return _ROLES[self._engine.state]

    @property
    def leader(self) -> Member | None:
        """The leader of this term as far as this node knows, itself included."""
        return self._engine.leader

    @property
    def voters(self) -> frozenset[Member]:
        return self._voters

    @property
    def next_due(self) -> float:
        """When `tick` will next have something to do, on the clock; infinity where it never will by itself."""
        if self._stopped:
            return math.inf
        if self._engine.state == seams.LEADER:
            return self._quorum_due
        return self._engine.deadline if self._campaigns else math.inf

    # --- what it is told ------------------------------------------------------------------------------------

    def tick(self) -> None:
        now = self._clock()
        if now < self.next_due:
            return
        if self._engine.state == seams.LEADER:
            self._quorum_due = now + self._timing.heartbeat
            heard = self._heard_since(now - self._timing.election_max)
            if self._majority(heard | {self.me}):
                return
            if self.me not in self._voters:
                heard = set()  # It is being removed, and must not count itself, as pysyncobj does.
            self._engine.check_quorum(heard)
            self._settle()
        else:
            self._ask()

    def receive(self, src: Member, message: ElectionMessage) -> None:
        if self._stopped or src == self.me:
            return
        match message:
            case PreVote():
                self._asked(src, message)
            case PreVoteReply():
                self._answered(src, message)
            case RequestVote():
                if message.transfer or not self._sticky():
                    self._engine.vote_requested(src, message.term, message.last_index, message.last_term)
                    self._settle()
            case Vote():
                self._voted(src, message)
            case TimeoutNow():
                follows = message.term == self.term and self._campaigns
                if follows and self._engine.told_to_campaign(src, message.term):
                    self._campaign(transfer=True)

    def heard_leader(self, src: Member, term: int) -> None:
        """A heartbeat or an append of `src`, which leads `term`, has arrived. Of an older term it is nothing."""
        if self._stopped or src == self.me or term < self.term:
            return
        now = self._clock()
        known = self._engine.leader
        if term == self.term and known == src:
            # All that the engine would do is to draw its deadline anew; under load not even that need follow each.
            if now - self._leader_heard >= self._timing.heartbeat / 4:
                self._leader_heard = now
                self._engine.deadline = self._draw_deadline()
            return
        if term == self.term and known is not None:
            raise InvariantBroken(f"group {self.group}: both {known} and {src} lead term {term}")
        self._leader_heard = now
        self._asking = None
        self._engine.heard_leader(src, term)
        self._settle()

    def heard_reply(self, src: Member) -> None:
        """A voter has answered, in this term, the leader that this node is (CheckQuorum)."""
        if src in self._heard:
            self._heard[src] = self._clock()

    def heard_term(self, src: Member, term: int) -> None:
        """A reply of `src` bore this term; if it is higher, this node is behind and follows."""
        if not self._stopped and term > self.term:
            self._engine.heard_term(src, term)
            self._settle()

    def leader_lost(self) -> None:
        """The connection to the leader broke, as when its process dies: the wait for it ends soon."""
        if self._stopped or self._engine.state == seams.LEADER or self._engine.leader is None:
            return
        self._engine.forget_leader()
        self._engine.deadline = min(self._engine.deadline, self._clock() + self._random.uniform(0.02, 0.15))
        self._settle()

    def campaign_now(self) -> None:
        """Asks for votes without waiting for the timer, unless there is a leader or votes are being counted."""
        idle = self._engine.leader is None and self._engine.state == seams.FOLLOWER
        if not self._stopped and idle and self._campaigns:
            self._ask()

    def set_voters(self, voters: Collection[Member], *, being_removed: bool = False) -> None:
        """In force at once. Votes and answers under the old ones are void.

        Only a voter campaigns, and one that is `being_removed`: no voter now, but a voter in a configuration of its
        log at or above the last one known to be committed. It may be the only one with the entry that removes it,
        and none can win without its vote; it does not count itself, and steps down once that entry is committed
        (dissertation, 4.2.2)."""
        changed = frozenset(voters)
        if self._stopped:
            return
        self._campaigns = being_removed or self.me in changed
        if changed == self._voters:
            return
        self._voters = changed
        self._engine.set_others(changed - {self.me})
        self._asking = None
        if self._engine.state == seams.CANDIDATE:
            self._engine.step_down()
        elif self._engine.state == seams.LEADER:
            now = self._clock()
            self._heard = {voter: self._heard.get(voter, now) for voter in changed - {self.me}}
        self._settle()

    def step_down(self) -> None:
        """Leads and campaigns no more, until a full election timeout has passed."""
        if not self._stopped and self._engine.state != seams.FOLLOWER:
            self._engine.step_down()
            self._engine.deadline = self._draw_deadline()
            self._settle()

    def stop(self) -> None:
        """For good: from now on nothing is answered, sent or asked for, and `next_due` is never."""
        if not self._stopped:
            self._stopped = True
            self._asking = None
            self._engine.step_down()
            self._engine.close()

    # --- PreVote, votes, stickiness -------------------------------------------------------------------------

    def _ask(self) -> None:
        """The timer has run out: asks the voters whether they would vote for this node in the next term."""
        self._engine.forget_leader()
        self._engine.deadline = self._draw_deadline()
        self._asking = {self.me}
        if self._majority(self._asking):
            self._campaign(transfer=False)
            return
        question = PreVote(self.group, self.term + 1, self._shape.last_index, self._shape.last_term)
        self._outbox.extend((voter, question) for voter in self._voters - {self.me})
        self._settle()

    def _asked(self, src: Member, question: PreVote) -> None:
        """Would this node vote for `src`? Two that ask at one moment would split the vote: the one whose log, or else
        whose name, is higher goes first, and who has said yes waits a while before asking itself."""
        theirs = (question.term, question.last_term, question.last_index, src)
        log = (self._shape.last_term, self._shape.last_index)
        granted = question.term > self.term and theirs[1:3] >= log and not self._sticky()
        if granted and self._asking is not None:
            granted = theirs > (self.term + 1, *log, self.me)
        if granted:
            self._asking = None
            patience = self._timing.election_min * self._random.uniform(0.3, 0.6)
            self._engine.deadline = max(self._engine.deadline, self._clock() + patience)
        self._outbox.append((src, PreVoteReply(self.group, self.term, question.term, granted)))
        self._settle()

    def _answered(self, src: Member, reply: PreVoteReply) -> None:
        if self._asking is None or src not in self._voters:
            return
        if reply.term > self.term:
            self.heard_term(src, reply.term)
        elif reply.granted and reply.asked == self.term + 1:
            self._asking.add(src)
            if self._majority(self._asking):
                self._campaign(transfer=False)

    def _campaign(self, *, transfer: bool) -> None:
        self._asking = None
        self._transfer = transfer
        self._engine.campaign()
        self._settle()

    def _voted(self, src: Member, vote: Vote) -> None:
        counts = vote.term == self.term and self._engine.state == seams.CANDIDATE
        if not counts or src not in self._voters or src in self._votes:
            return
        self._votes.add(src)
        if self.me in self._voters:
            self._engine.voted(src, vote.term)
        elif self._majority(self._votes):  # pysyncobj counts this node too: until it cannot matter, tell it nothing.
            for voter in sorted(self._votes):
                self._engine.voted(voter, vote.term)
        self._settle()

    def _sticky(self) -> bool:
        """Whether there is a leader that this node should not help to depose."""
        since = self._clock() - self._timing.election_min
        if self._engine.state == seams.LEADER:
            return self._majority(self._heard_since(since) | {self.me})
        return self._engine.leader is not None and self._leader_heard > since

    def _heard_since(self, moment: float) -> set[Member]:
        return {voter for voter, when in self._heard.items() if when > moment}

    def _majority(self, members: set[Member]) -> bool:
        return 2 * len(members & self._voters) > len(self._voters)

    # --- around the engine ----------------------------------------------------------------------------------

    def _draw_deadline(self) -> float:
        return self._clock() + self._random.uniform(self._timing.election_min, self._timing.election_max)

    def _engine_sends(self, dst: Member, message: dict[str, int | str]) -> None:
        term = int(message["term"])
        if message["type"] == "response_vote":
            self._outbox.append((dst, Vote(self.group, term)))
        else:
            index, last_term = int(message["last_log_index"]), int(message["last_log_term"])
            self._outbox.append((dst, RequestVote(self.group, term, index, last_term, self._transfer)))

    def _settle(self) -> None:
        """After anything that may have changed role, term or leader: what follows from it, once, in order."""
        now_is = (self.role, self.term, self.leader)
        before, self._told = self._told, now_is
        if now_is[1] != before[1]:
            self._asking = None
            self._votes.clear()
        if now_is[0] is Role.LEADER and before[0] is not Role.LEADER:
            now = self._clock()
            self._asking = None
            self._heard = dict.fromkeys(self._voters - {self.me}, now)
            self._quorum_due = now + self._timing.heartbeat
        elif before[0] is Role.LEADER and now_is[0] is not Role.LEADER:
            self._heard = {}
            self._engine.deadline = self._draw_deadline()  # Its own is from before it led, and long past.
        outbox, self._outbox = sorted(self._outbox, key=lambda item: item[0]), []
        for dst, message in outbox:
            self._send(dst, message)
        if now_is != before:
            logger.debug("group %d: %s in term %d, leader %s", self.group, now_is[0].value, now_is[1], now_is[2])
            self._on_role()
