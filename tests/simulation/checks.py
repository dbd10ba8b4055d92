"""What must hold, checked after every step of every node, and the end of a run.

The checker is fed by the cluster: every message that leaves, every step of a node, every state, every operation of a
client. It knows the truth of each disk from the shadows, so a promise is checked at the moment it is made: a vote or an
acknowledgement that leaves before what it promises is durable is a violation even where no fault makes it matter (C1).
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.messages import (
    Append,
    AppendReply,
    GroupMessage,
    Heartbeat,
    Message,
    RequestVote,
    SnapshotOffer,
    Vote,
)
from consensus.model import Configuration, Member

from .shadow import Shadow, ShadowGroup


class Violation(AssertionError):
    """A rule does not hold. The message names the rule first."""


@dataclass
class Operation:
    """One value a client wanted in the log. `outcome`: open, acknowledged, refused, unknown."""

    group: int
    value: int
    offset: int
    outcome: str = "open"
    index: int = 0


@dataclass
class GroupTruth:
    """What is known of one group for good."""

    leaders: dict[int, int] = field(default_factory=dict)
    """term -> node"""
    committed: dict[int, tuple[int, int]] = field(default_factory=dict)
    """index -> (term, CRC)"""
    digests: dict[int, int] = field(default_factory=dict)
    """index -> digest of the machine's rows after the entry at it"""
    digest_indexes: list[int] = field(default_factory=list)
    operations: dict[int, Operation] = field(default_factory=dict)
    """value -> operation"""
    acknowledged_next: int = 0
    """One above the highest offset acknowledged so far: what a linearizable read that begins now must see."""


class Checks:
    """One run's judge. `shadow_of` finds the disk of a member, wiped ones included."""

    def __init__(self, shadow_of: Callable[[Member], Shadow | None], black_box: bool = False) -> None:
        self.black_box = black_box
        self.groups: dict[int, GroupTruth] = {}
        self.promises: dict[tuple[Member, int], tuple[int, int]] = {}
        """(term, index) of the last acknowledgement that left each replica."""
        self._shadow_of = shadow_of
        self.counts: dict[str, int] = {}

    def truth(self, group: int) -> GroupTruth:
        found = self.groups.get(group)
        if found is None:
            found = self.groups[group] = GroupTruth()
        return found

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def durable(self, member: Member, group: int) -> ShadowGroup | None:
        shadow = self._shadow_of(member)
        return shadow.durable.get(group) if shadow is not None else None

    # --- promises on the wire -------------------------------------------------------------------------

    def sends(self, sender: Member, receiver: int, message: Message) -> None:
        """A message leaves `sender`: it says only what is durable there now, and one node leads a term."""
        if isinstance(message, Append | Heartbeat | SnapshotOffer):
            self._leads(sender, message)
        elif self.black_box:
            return
        elif isinstance(message, AppendReply):
            self._acknowledges(sender, message)
        elif isinstance(message, Vote | RequestVote):
            self._votes(sender, receiver, message)

    def _leads(self, sender: Member, message: GroupMessage) -> None:
        leader = self.truth(message.group).leaders.setdefault(message.term, sender.node)
        if leader != sender.node:
            raise Violation(
                f"one leader per term: {leader} and {sender.node} lead group {message.group} in term {message.term}"
            )

    def _acknowledges(self, sender: Member, message: AppendReply) -> None:
        disk = self.durable(sender, message.group)
        if disk is None or disk.hard_state.term < message.term:
            raise Violation(f"persist, then send: node {sender.node} acknowledges in term {message.term}, not durable")
        if message.match > disk.last:
            raise Violation(
                f"persist, then send: node {sender.node} acknowledges {message.match} of group {message.group}, "
                f"durable is {disk.last}"
            )
        self.promises[sender, message.group] = (message.term, message.match)

    def _votes(self, sender: Member, receiver: int, message: Vote | RequestVote) -> None:
        disk = self.durable(sender, message.group)
        candidate = sender.node if isinstance(message, RequestVote) else receiver
        state = disk.hard_state if disk is not None else None
        if state is None or (state.term, state.vote and state.vote.node) != (message.term, candidate):
            if state is not None and state.term > message.term:
                return  # an older vote, durable before the newer term was; it counts for nothing any more
            raise Violation(
                f"persist, then send: node {sender.node} votes for {candidate} in term {message.term} of group "
                f"{message.group}, durable is {state}"
            )

    # --- commit ---------------------------------------------------------------------------------------

    def commits(self, node: int, group: int, index: int, term: int, crc: int, configuration: Configuration) -> None:
        """A node holds the entry at `index` to be committed; the first to do so must have a majority's disks."""
        truth = self.truth(group)
        known = truth.committed.get(index)
        if known is None:
            if not self.black_box:
                self._durable_on_majority(node, group, index, term, configuration)
            truth.committed[index] = (term, crc)
        elif known != (term, crc):
            raise Violation(
                f"committed entries never change: entry {index} of group {group} was committed as (term, crc) "
                f"{known}, node {node} commits ({term}, {crc})"
            )

    def _durable_on_majority(self, node: int, group: int, index: int, term: int, configuration: Configuration) -> None:
        holders = []
        for member in configuration.voters:
            disk = self.durable(member, group)
            if disk is not None and disk.holds(index, term):
                holders.append(member.node)
        if len(holders) < configuration.majority:
            raise Violation(
                f"a majority's disks: node {node} commits entry {index} of term {term} in group {group}, durable on "
                f"{holders} of {[m.node for m in configuration.voters]}"
            )

    def base(self, node: int, group: int, index: int, term: int) -> None:
        """A node holds everything up to `index` to be in its applied state."""
        known = self.truth(group).committed.get(index)
        if known is None:
            raise Violation(f"snapshots are of committed entries: node {node}, group {group}, {index} is not")
        if known[0] != term:
            raise Violation(f"committed entries never change: node {node}, group {group}, base {index}, term {term}")

    def truncates(self, member: Member, group: int, dropped: dict[int, tuple[int, int]]) -> None:
        """A replica is about to drop these entries for good: index -> (term, CRC)."""
        committed = self.truth(group).committed
        for index, entry in dropped.items():
            if committed.get(index) == entry:
                raise Violation(f"committed entries are never dropped: {member} drops {index} of group {group}")
        term, match = self.promises.get((member, group), (0, 0))
        shadow = self._shadow_of(member)
        if shadow is not None and min(dropped) <= match and shadow.written[group].hard_state.term == term:
            raise Violation(
                f"what matches is never dropped: {member} drops {min(dropped)} of group {group}, but acknowledged "
                f"{match} to the leader of the same term {term}"
            )

    # --- states ---------------------------------------------------------------------------------------

    def applied(self, node: int, group: int, index: int, digest: int) -> None:
        """A node applied the command at `index`."""
        truth = self.truth(group)
        known = truth.digests.get(index)
        if known is None:
            truth.digests[index] = digest
            if truth.digest_indexes and truth.digest_indexes[-1] > index:
                truth.digest_indexes.insert(bisect_right(truth.digest_indexes, index), index)
            else:
                truth.digest_indexes.append(index)
        elif known != digest:
            raise Violation(f"states equal at equal index: node {node} differs at {index} of group {group}")

    def restored(self, node: int, group: int, applied: int, digest: int, single: bool) -> None:
        """A node took rows as the state at `applied`: from its disk, or from a snapshot."""
        truth = self.truth(group)
        position = bisect_right(truth.digest_indexes, applied) - 1
        index = truth.digest_indexes[position] if position >= 0 else 0
        known = truth.digests.get(index, 0)
        between = any(i in truth.committed for i in range(index + 1, applied + 1))
        if known != digest and (single or not between):
            raise Violation(
                f"states equal at equal index: node {node} restores group {group} at {applied} with another state "
                f"than the one after {index}"
            )

    # --- clients --------------------------------------------------------------------------------------

    def invoked(self, group: int, value: int, offset: int) -> Operation:
        operation = Operation(group, value, offset)
        self.truth(group).operations[value] = operation
        return operation

    def ended(self, operation: Operation, outcome: str, index: int = 0) -> None:
        self.count(outcome)
        operation.outcome = outcome
        operation.index = index
        if outcome == "acknowledged":
            truth = self.truth(operation.group)
            truth.acknowledged_next = max(truth.acknowledged_next, operation.offset + 1)
            if index not in truth.committed:
                raise Violation(f"acknowledged is committed: entry {index} of group {operation.group} is not")

    def read(self, node: int, group: int, wanted_next: int, seen_next: int) -> None:
        self.count("reads")
        if seen_next < wanted_next:
            raise Violation(
                f"linearizable reads: node {node} read group {group} up to {seen_next}, {wanted_next} had been "
                f"acknowledged before the read began"
            )

    # --- the end --------------------------------------------------------------------------------------

    def finished(self, node: int, group: int, start: int, values: dict[int, tuple[int, int]]) -> None:
        """The whole log of one node after everything has settled: offset -> (value, payload CRC)."""
        truth = self.truth(group)
        if sorted(values) != list(range(start, start + len(values))):
            raise Violation(f"offsets without gaps or repeats: node {node}, group {group}: {sorted(values)}")
        places: dict[int, int] = {}
        for offset, (value, _) in values.items():
            if value in places:
                raise Violation(f"each value once: node {node} has {value} at {places[value]} and {offset}")
            places[value] = offset
        for operation in truth.operations.values():
            place = places.get(operation.value)
            where = f"value {operation.value} of group {group} (offset {operation.offset}, index {operation.index})"
            if operation.outcome == "acknowledged" and operation.offset >= start and place != operation.offset:
                raise Violation(f"every acknowledged write: node {node} has {where} at {place}")
            if operation.outcome == "refused" and place is not None:
                raise Violation(f"refused writes never appear: node {node} has {where} at {place}")
            if place is not None and place != operation.offset:
                raise Violation(f"offsets are the leader's: node {node} has {where} at {place}")
        for value in places:
            if value not in truth.operations:
                raise Violation(f"nothing is invented: node {node}, group {group} has {value}, which nobody wrote")
