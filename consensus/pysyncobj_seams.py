"""The only file that reaches into pysyncobj: its election, and nothing else of it.

pysyncobj decides terms, votes, roles and who leads; what it does to a log loses acknowledged writes, so it never sees
one. Three public seams carry most of that: a `Journal` that shows the shape of our log (the index and term of its last
entry, every command looking like a no-op) and hands its term and vote on to be persisted; a `Transport` that lets
through requests for votes and votes only; `doTick` and `onStateChanged`. What has no public seam is reached by
name-mangled members, all of them in this file, each with a test in `tests/unit/consensus/test_election_seams.py`:

- `__raftLog`, `__raftCurrentTerm`, `__votedForNodeId`: put in place once the constructor has run, as the constructor
  builds its journal from a file name and would make it with a factory of its own;
- `__generateRaftTimeout`, `__raftElectionDeadline`: its randomised deadline stays the election timer, but is drawn from
  our random numbers and counted on our clock (it reads a global one), so that a run can be replayed, and so that
  PreVote can stand between a deadline that has passed and the campaign;
- `__lastResponseTime`: CheckQuorum, on our clock for the same reason: the times are restated just before it looks;
- `__raftCommitIndex`, `__raftLastApplied`: set to the log's end before each tick, so that it finds nothing to commit
  or apply and does not walk the log;
- `__otherNodes`, `__raftNextIndex`, `__raftMatchIndex`: the voters, changed by our configuration entries, not by its;
- `__raftLeader`, `__setState`: forgetting a leader whose connection broke; stepping down.

Such members may change their meaning with any release, hence the check of the exact version at import. No thread,
file descriptor or socket is made: ticks are ours, batching leaves its pipe notifier out, `poll` objects hold no
descriptor. It believes itself connected to one node, itself: it may always campaign, and never tries to send entries.
"""

import _socket
import importlib.metadata
import math
import socket
from collections.abc import Callable, Collection
from typing import Protocol

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from consensus.errors import InvariantBroken
from consensus.model import HardState, Member

PINNED = "0.3.17"
FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
"""pysyncobj's own numbers for its states."""

_NO_OP = b"\x01"
_ALWAYS = math.inf
_NEVER = -math.inf


def check_version(found: str) -> None:
    """Raises ImportError for any pysyncobj but the one whose inner members this file was written against."""
    if found != PINNED:
        raise ImportError(
            f"pysyncobj {found} is installed, but raftbroker reaches into members of {PINNED} exactly: "
            f"run `pip install pysyncobj=={PINNED}`"
        )


check_version(importlib.metadata.version("pysyncobj"))
socket.inet_ntop = _socket.inet_ntop
"""Importing pysyncobj replaces it, for the whole process and on every system, by one that works on Windows only."""


class LogShape(Protocol):
    """What the election may know of the log, and the one thing it may ask of it."""

    @property
    def last_index(self) -> int: ...

    @property
    def last_term(self) -> int: ...

    def lead(self, term: int) -> None:
        """This replica has won `term`: appends the no-op of that term at last_index + 1, in this very call."""


class _Absolute(float):
    """A moment that stays itself when pysyncobj adds its own clock's reading to it."""

    def __radd__(self, other: float) -> float:
        return float(self)


class _ShapeJournal(Journal):  # type: ignore[misc] # pysyncobj has no types
    """The log as positions 0..last_index, of which only the first and the last can be looked at."""

    def __init__(self, shape: LogShape, hard_state: HardState, persist: Callable[[HardState], None]) -> None:
        self._shape = shape
        self._persist = persist
        self.hard_state = hard_state

    def __len__(self) -> int:
        return self._shape.last_index + 1

    def __getitem__(self, position: int | slice) -> tuple[bytes, int, int] | list[tuple[bytes, int, int]]:
        last = (_NO_OP, self._shape.last_index, self._shape.last_term)
        if isinstance(position, slice):
            start, stop, _ = position.indices(len(self))
            return [last] if start <= last[1] < stop else []
        if position in (-1, last[1]):
            return last
        if position == 0:
            return (_NO_OP, 0, 0)
        raise InvariantBroken(f"pysyncobj looked at entry {position}; the log ends at {last[1]}")

    def add(self, command: bytes, index: int, term: int) -> None:
        if command != _NO_OP or index != self._shape.last_index + 1:
            raise InvariantBroken(f"pysyncobj appended at {index} of a log that ends at {self._shape.last_index}")
        self._shape.lead(term)
        if (self._shape.last_index, self._shape.last_term) != (index, term):
            raise InvariantBroken(f"the no-op of term {term} was not appended at {index}")

    def setCurrentTerm(self, term: int, vote: Member | None) -> None:  # noqa: N802
        held = self.hard_state
        if term < held.term or (term == held.term and held.vote is not None and vote != held.vote):
            raise InvariantBroken(f"term {term} with a vote for {vote} after term {held.term}, vote {held.vote}")
        if (term, vote) != (held.term, held.vote):
            self.hard_state = HardState(term, vote)
            self._persist(self.hard_state)

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self.hard_state.term

    def getVotedForNodeId(self) -> Member | None:  # noqa: N802
        return self.hard_state.vote

    def setRaftCommitIndex(self, index: int) -> None:  # noqa: N802
        """Commit is ours."""

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        return self._shape.last_index

    def _destroy(self) -> None:
        """Nothing is held."""

    def _refuse(self, *_: object) -> None:
        raise InvariantBroken("pysyncobj tried to shorten the log")

    clear = deleteEntriesFrom = deleteEntriesTo = _refuse  # noqa: N815


class _VoteTransport(Transport):  # type: ignore[misc] # pysyncobj has no types
    """Lets requests for votes and votes out; everything else that pysyncobj would say is ours to say."""

    def __init__(self, send: Callable[[Member, dict[str, int | str]], None]) -> None:
        super().__init__(None, None, [])
        self._send = send

    def send(self, node: Node, message: dict[str, int | str]) -> bool:
        if message["type"] in ("request_vote", "response_vote"):
            self._send(node.id, message)
        return True


class Engine:
    """One group's pysyncobj, with names for what is done to it. Nothing in here decides anything."""

    def __init__(
        self,
        me: Member,
        others: Collection[Member],
        shape: LogShape,
        hard_state: HardState,
        *,
        draw_deadline: Callable[[], float],
        persist: Callable[[HardState], None],
        send: Callable[[Member, dict[str, int | str]], None],
    ) -> None:
        """`draw_deadline` gives the moment, on the caller's clock, when a node that hears nothing should campaign."""
        self._shape = shape
        self._journal = _ShapeJournal(shape, hard_state, persist)
        self._transport = _VoteTransport(send)
        self.state = FOLLOWER
        self._sync = SyncObj(
            Node(me),
            [Node(other) for other in others],
            _configuration(self._state_changed),
            transport=self._transport,
            nodeClass=Node,
        )
        self._sync._SyncObj__raftLog = self._journal
        self._sync._SyncObj__raftCurrentTerm = hard_state.term
        self._sync._SyncObj__votedForNodeId = hard_state.vote
        self._sync._SyncObj__generateRaftTimeout = lambda: _Absolute(draw_deadline())
        self.deadline = draw_deadline()
        self._nothing_to_commit()
        self._transport._onNodeConnected(Node(me))

    def _state_changed(self, _old: int, new: int) -> None:
        self.state = new

    @property
    def hard_state(self) -> HardState:
        return self._journal.hard_state

    @property
    def leader(self) -> Member | None:
        node = self._sync._getLeader()
        return None if node is None else node.id

    @property
    def deadline(self) -> float:
        return float(self._sync._SyncObj__raftElectionDeadline)

    @deadline.setter
    def deadline(self, moment: float) -> None:
        self._sync._SyncObj__raftElectionDeadline = moment

    def campaign(self) -> None:
        """The deadline has passed: takes the next term, votes for itself, asks the others."""
        self.deadline = _NEVER
        self._tick()

    def check_quorum(self, heard: Collection[Member]) -> None:
        """A leader's look at whom it has heard lately; it steps down when, with itself, they are no majority."""
        self._sync._SyncObj__lastResponseTime = {
            node: _ALWAYS if node.id in heard else _NEVER for node in self._sync._SyncObj__otherNodes
        }
        self._tick()

    def heard_leader(self, src: Member, term: int) -> None:
        """A bare append_entries: who leads `term`, and that it is alive; nothing about the log."""
        self._receive(src, {"type": "append_entries", "term": term, "commit_index": 0})

    def heard_term(self, src: Member, term: int) -> None:
        """A request for a vote that no log can grant: all that it does is to raise the term."""
        self.vote_requested(src, term, 0, -1)

    def vote_requested(self, src: Member, term: int, last_index: int, last_term: int) -> None:
        log: dict[str, int | str] = {"last_log_index": last_index, "last_log_term": last_term}
        self._receive(src, {"type": "request_vote", "term": term, **log})

    def voted(self, src: Member, term: int) -> None:
        self._receive(src, {"type": "response_vote", "term": term})

    def told_to_campaign(self, src: Member, term: int) -> bool:
        """The leader's timeout_now; whether it takes it (it does from the leader it follows, only)."""
        self._receive(src, {"type": "timeout_now", "term": term})
        return self.deadline == 0

    def set_others(self, others: Collection[Member]) -> None:
        """The voters without this node, in force at once."""
        nodes = {Node(other) for other in others}
        self._sync._SyncObj__otherNodes = nodes
        self._sync._SyncObj__raftNextIndex = dict.fromkeys(nodes, self._shape.last_index + 1)
        self._sync._SyncObj__raftMatchIndex = dict.fromkeys(nodes, 0)
        self._sync._SyncObj__lastResponseTime = dict.fromkeys(nodes, _ALWAYS)

    def forget_leader(self) -> None:
        self._sync._SyncObj__raftLeader = None

    def step_down(self) -> None:
        self._sync._SyncObj__setState(FOLLOWER)
        self.forget_leader()

    def close(self) -> None:
        self._sync.destroy()

    def _receive(self, src: Member, message: dict[str, int | str]) -> None:
        self._transport._onMessageReceived(Node(src), message)

    def _tick(self) -> None:
        self._nothing_to_commit()
        self._sync.doTick(0)

    def _nothing_to_commit(self) -> None:
        self._sync._SyncObj__raftCommitIndex = self._sync._SyncObj__raftLastApplied = self._shape.last_index


def _configuration(state_changed: Callable[[int, int], None]) -> SyncObjConf:
    """All of its periods are out of reach: deadlines are drawn by us, responses are always or never."""
    far_s = 1e12
    return SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=far_s,
        raftMinTimeout=4 * far_s,
        raftMaxTimeout=5 * far_s,
        connectionTimeout=6 * far_s,
        leaderFallbackTimeout=2 * far_s,
        logCompactionMinEntries=2**63,
        logCompactionMinTime=far_s,
        useFork=False,
        onStateChanged=state_changed,
    )
